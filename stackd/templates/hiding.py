"""Keep a stack's generated values out of what others say about it.

Owns: how a value is found in text: a webhook may quote the pod that it refuses, a kubelet the command that does not
start, a web server the path that it was asked for. Errors, logs, statuses and timelines of a stack go through here; the
client that created it knows its values.

Text and values are compared without regard to letter case, and folded first: escapes and percent-encoding are decoded,
ends of lines and colours are left out. Then the value is looked for, its random part alone, and both in hex and base64.
"""

from __future__ import annotations

import base64
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final

from stackd.errors import InvalidRequest, StackdError

HIDDEN = "(hidden)"
SHORTEST = 4  # a shorter value is hidden only where it stands alone; hiding it everywhere would tear words apart
SHORTEST_CODED = 6  # the shortest base64 that is looked for
ELLIPSIS = "…"
CUT_OFF = 8  # where the text was cut off within a value, the part is hidden if it has at least this many characters
LONGEST = 16 * 1024
"""How much of a sentence is kept; a cluster's may be megabytes. Longer texts are hidden outside of the event loop."""

_FOLDED: Final = re.compile(
    r"%([0-9A-Fa-f]{2})|\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|[nrt]|[\r\n]\s*|(?=[^\w\s]))"
    r"|\n\s*|\r\s*|\$(?=\$)|\x1b\[[0-9;?]*[A-Za-z]"
)
RANDOM: Final = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?=[a-f]*[0-9])(?![0-9]{0,11}(?![0-9a-f]))[0-9a-f]{6,}"
    r"|(?=[A-Z]*[2-7])[A-Z2-7]{8,}"
)
"""What a template generates, within a value. Words and dates of the pattern beside it are not hidden."""

_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_Segment = tuple[int, int, int]
"""Where a part of a folded text begins, where it begins in the original, and its length there if it was decoded."""


def hide(text: str, values: Mapping[str, str]) -> str:
    """The text without these values. Takes about 0.1 ms for a sentence, 0.2 s for a megabyte, ten times as long for a
    sentence with as many values as a template may have."""
    if not text or not values:
        return text
    folded, segments = _fold(text)
    pieces, after = [], 0
    for start, end in _merged(_found(folded, _needles(frozenset(values.values())))):
        pieces += [text[after : _original(segments, start)[0]], HIDDEN]
        after = _original(segments, end - 1)[1]
    return "".join((*pieces, text[after:])) if pieces else text


def _fold(text: str) -> tuple[str, list[_Segment]]:
    pieces: list[str] = []
    segments: list[_Segment] = []
    size = after = 0
    for match in _FOLDED.finditer(text):
        start, end = match.span()
        if start > after:
            pieces.append(text[after:start])
            segments.append((size, after, 0))
            size += start - after
        after = end
        if match.lastindex:
            pieces.append(chr(int(match[match.lastindex], 16)))
            segments.append((size, start, end - start))
            size += 1
    segments.append((size, after, 0))
    pieces.append(text[after:])
    return "".join(pieces).translate(_LOWER), segments


def _original(segments: list[_Segment], position: int) -> tuple[int, int]:
    """Where the character of the folded text begins and ends in the original."""
    folded, original, length = segments[bisect_right(segments, position, key=lambda segment: segment[0]) - 1]
    if length:
        return original, original + length
    return original + position - folded, original + position - folded + 1


@lru_cache(maxsize=32)  # each up to half a megabyte
def _needles(values: frozenset[str]) -> tuple[str, ...]:
    """What to look for in a folded text."""
    secrets = {part for value in values for part in (value, *RANDOM.findall(value))}
    found = {_fold(part)[0] for part in secrets}
    for data in (part.encode(errors="surrogatepass") for part in secrets if len(part) >= SHORTEST):
        found.add(data.hex())
        for shift in range(3):  # the value may begin at any byte of a group of three
            coded = base64.b64encode(bytes(shift) + data)[(shift * 8 + 5) // 6 : (shift + len(data)) * 8 // 6]
            if len(coded) >= SHORTEST_CODED:
                text = coded.decode().lower()
                found |= {text, text.replace("+", "-").replace("/", "_")}
    return tuple(needle for needle in found if len(needle) > 1)


def _found(folded: str, needles: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Where each needle is, or begins at the end of a text that was cut off."""
    end = len(folded) - folded.endswith(ELLIPSIS)
    for needle in needles:
        size = len(needle)
        at = folded.find(needle)
        while at >= 0:
            if size >= SHORTEST or not (folded[at - 1 : at].isalnum() or folded[at + size : at + size + 1].isalnum()):
                yield at, at + size
            at = folded.find(needle, at + size)
        if size > CUT_OFF:
            at = folded.find(needle[:CUT_OFF], max(0, end - size + 1), end)
            while at >= 0 and not needle.startswith(folded[at:end]):
                at = folded.find(needle[:CUT_OFF], at + 1, end)
            if at >= 0:
                yield at, end


def _merged(spans: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans in order; those that overlap as one."""
    last: tuple[int, int] | None = None
    for start, end in sorted(spans):
        if last is not None and start < last[1]:
            last = last[0], max(last[1], end)
            continue
        if last is not None:
            yield last
        last = start, end
    if last is not None:
        yield last


def hide_in(error: BaseException, values: Mapping[str, str]) -> None:
    """Hide the values in an error and in the errors that caused it."""
    if not values:
        return
    seen: set[int] = set()
    one: BaseException | None = error
    while isinstance(one, StackdError) and id(one) not in seen:
        seen.add(id(one))
        one.args = tuple(_sentence(part, values) if isinstance(part, str) else part for part in one.args)
        one.detail = _sentence(one.detail, values)
        if isinstance(one, InvalidRequest):
            one.reasons = tuple(replace(each, text=_sentence(each.text, values)) for each in one.reasons)
        one = one.__cause__ or one.__context__


def _sentence(text: str, values: Mapping[str, str]) -> str:
    return hide(text if len(text) <= LONGEST else text[:LONGEST] + ELLIPSIS, values)
