"""The reasons why a pod spec is refused, collected with their paths.

Owns: the form of a reason and how many are kept. Knows none of the rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from stackd.errors import Reason

ROOT = "(root)"
"""The path of the text as a whole."""

MAX_REASONS = 100
MAY_BE_MORE = f"there may be more, only the first {MAX_REASONS} problems are listed"
_LONGEST_SHOWN = 80
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


class Enough(Exception):
    """The list of reasons is full; stop looking for more."""


class Reasons:
    """Collects reasons; each reads ``path: text``, and a path has one reason only."""

    def __init__(self) -> None:
        self._by_path: dict[str, Reason] = {}

    def add(self, path: str, text: str, line: int | None = None) -> None:
        """Add a reason. Raises ``Enough`` when the list is full."""
        self._by_path.setdefault(path, Reason(path=path, text=text, line=line))
        if len(self._by_path) >= MAX_REASONS:
            raise Enough

    def missing(self, path: str, text: str, *scopes: str) -> None:
        """Report what is missing, unless a reason at, above or below one of ``scopes`` (or ``path``) already explains it."""
        for scope in scopes or (path,):
            if any(_within(other, scope) or _within(scope, other) for other in self._by_path):
                return
        self.add(path, text)

    def as_list(self) -> list[Reason]:
        """All reasons, in the order in which they were found."""
        reasons = list(self._by_path.values())
        if len(reasons) >= MAX_REASONS:
            reasons.append(Reason(path=ROOT, text=MAY_BE_MORE))
        return reasons

    def __bool__(self) -> bool:
        return bool(self._by_path)


def by_line(reasons: Iterable[Reason]) -> list[Reason]:
    """The reasons in the order of their lines; those without a line come last."""
    return sorted(reasons, key=lambda reason: (reason.line is None, reason.line or 0))


def below(path: str, key: str) -> str:
    """The path of a field below ``path``; keys that are not plain names are quoted and shortened."""
    if _NAME.match(key) and len(key) <= _LONGEST_SHOWN:
        return f"{path}.{key}" if path else key
    return f"{path}[{shown(key)}]"


def shown(text: str) -> str:
    """``text`` in quotes, fit to be shown in one line: shortened, control and non-ASCII characters replaced."""
    short = text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"
    return '"' + _UNPRINTABLE.sub("?", short.replace("…", "...")) + '"'


def _within(path: str, ancestor: str) -> bool:
    return path == ancestor or (path.startswith(ancestor) and path[len(ancestor)] in ".[")
