"""Durations, sizes and frequencies as people write them: ``"1h30m"``, ``"250ms"``, ``"1MiB"``, ``"6/min"``.

In code, durations are seconds (float) and sizes are bytes (int).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_SECONDS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES: Final = {
    "": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)([a-z]*)", re.ASCII)
_FREQUENCY: Final = re.compile(r"(\d{1,9}) ?/ ?(\d{0,9}) ?([a-z]+)", re.ASCII)
_EACH: Final = {
    **dict.fromkeys(("s", "sec", "second"), 1.0),
    **dict.fromkeys(("m", "min", "minute"), 60.0),
    **dict.fromkeys(("h", "hour"), 3600.0),
    **dict.fromkeys(("d", "day"), 86400.0),
}
_MOST_TIMES: Final = 10_000
_LONGEST_EACH: Final = 86400.0
_LONGEST: Final = 64
_SIZE: Final = re.compile(r"(\d+)\s*([A-Za-z]*)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequency:
    """``count`` times in ``seconds``; ``text`` is the original text."""

    count: int
    seconds: float
    text: str

    def __str__(self) -> str:
        return self.text


def parse_frequency(text: str) -> Frequency:
    """The frequency in ``"6/min"``, ``"1/s"`` or ``"20/10min"``; ValueError says what is wrong."""
    match = _FREQUENCY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'"{text}" is not a rate')
    count, many, unit = match.groups()
    if unit not in _EACH:
        raise ValueError(f'"{text}" has the unknown unit "{unit}"')
    seconds = int(many or 1) * _EACH[unit]
    if not 0 < int(count) <= _MOST_TIMES:
        raise ValueError(f'"{text}" is not from 1 to {_MOST_TIMES} times')
    if not 0 < seconds <= _LONGEST_EACH:
        raise ValueError(f'"{text}": the period must be above zero and at most one day')
    return Frequency(count=int(count), seconds=seconds, text=text.strip())


def parse_duration(text: str) -> float:
    """Seconds from ``"2h"``, ``"1h30m"``, ``"10s"``, ``"250ms"`` or ``"0"``; ValueError says what is wrong."""
    text = _short(text)
    if text == "0":
        return 0.0
    total = 0.0
    position = 0
    for match in _PART.finditer(text):
        if match.start() != position:
            break
        number, unit = match.groups()
        if unit not in _SECONDS:
            raise ValueError(f'"{text}" has no unit' if not unit else f'"{text}" has the unknown unit "{unit}"')
        total += float(number) * _SECONDS[unit]
        position = match.end()
    if position != len(text) or not text:
        raise ValueError(f'"{text}" is not a duration')
    return total


def _short(text: str) -> str:
    """The text without surrounding blanks. Raises ValueError if it is too long."""
    text = text.strip()
    if len(text) > _LONGEST:
        raise ValueError(f'"{text[:_LONGEST]}…" is too long')
    return text


def format_duration(seconds: float) -> str:
    """The duration as text for people that ``parse_duration`` reads: ``"1h30m"``, ``"90s"``."""
    if seconds < 120 and seconds == int(seconds):
        return f"{int(seconds)}s"
    remaining = round(seconds * 1000)
    parts = []
    for unit, milliseconds in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, remaining = divmod(remaining, milliseconds)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_size(text: str) -> int:
    """Bytes from ``"1MiB"``, ``"512KiB"``, ``"10kB"`` or ``"4096"``; ValueError says what is wrong."""
    text = _short(text)
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a size')
    number, unit = match.groups()
    if unit.lower() not in _BYTES:
        raise ValueError(f'"{text}" has the unknown unit "{unit}"')
    return int(number) * _BYTES[unit.lower()]


def format_size(count: int) -> str:
    """The shortest text for a size that ``parse_size`` reads: ``"1MiB"``."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor and count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)
