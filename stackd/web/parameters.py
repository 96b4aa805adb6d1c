"""Query parameters: known by name, checked, with a sentence for each thing that can be wrong.

Routes without parameters of their own ignore the query; those that have some refuse what they do not know, so that a
mistyped filter is never an unfiltered answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from aiohttp import web

from stackd.config.units import parse_duration
from stackd.errors import InvalidRequest
from stackd.web.auth import PARAMETER

TRUE = frozenset({"true", "1", ""})
FALSE = frozenset({"false", "0"})


class Parameters:
    """The query of one request; ``once`` may stand in it once each, ``many`` any number of times."""

    def __init__(self, request: web.Request, once: Sequence[str], many: Sequence[str] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        known = (*once, *many)
        for name, value in request.query.items():
            if name == PARAMETER:
                continue
            if name not in known:
                raise InvalidRequest(f"unknown parameter {name!r}{_nearest(name, known)}")
            self._values.setdefault(name, []).append(value)
            if name in once and len(self._values[name]) > 1:
                raise InvalidRequest(f"the parameter {name} stands more than once")

    def __bool__(self) -> bool:
        return bool(self._values)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def all(self, name: str) -> list[str]:
        """Every value, in their order."""
        return self._values.get(name, [])

    def get(self, name: str) -> str | None:
        """The value, None where there is none."""
        values = self._values.get(name)
        return values[0] if values else None

    def flag(self, name: str) -> bool:
        """Whether it is set to true; a bare name counts as true."""
        value = self.get(name)
        if value is None or value.lower() in FALSE:
            return False
        if value.lower() in TRUE:
            return True
        raise InvalidRequest(f"{name} must be true or false, not {value[:64]!r}")

    def number(self, name: str, least: int, most: int) -> int | None:
        """A whole number within bounds, None where there is none."""
        value = self.get(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and len(value) <= len(str(most)) and least <= int(value) <= most):
            raise InvalidRequest(f"{name} must be a whole number from {least} to {most}, not {value[:64]!r}")
        return int(value)

    def seconds(self, name: str, default: float) -> float:
        """A duration such as ``30s``."""
        value = self.get(name)
        return default if value is None else _seconds(name, value)


def duration(name: str, text: str, most: float) -> float:
    """Seconds from ``text``, above zero and at most ``most``. Raises InvalidRequest, naming ``name``."""
    seconds = _seconds(name, text)
    if not 0 < seconds <= most:
        raise InvalidRequest(f"{name} must be above zero and at most {most:g} s, not {text[:64]}")
    return seconds


def _seconds(name: str, text: str) -> float:
    try:
        return parse_duration(text)
    except (ValueError, OverflowError) as exc:
        raise InvalidRequest(f'{name} must be a duration such as "30m", "1h30m" or "90s"') from exc


def _nearest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
