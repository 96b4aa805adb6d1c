"""The reasons why a pod spec is refused, collected with their paths.

Owns: how a reason reads and how many are kept. Knows no rule.
"""

from __future__ import annotations

import re

MAX_REASONS = 100
_LONGEST_SHOWN = 80
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


class Enough(Exception):
    """So many reasons were found that looking for more is a waste of time."""


class Reasons:
    """Collects reasons; each reads ``path: text``, and a path has one reason only."""

    def __init__(self) -> None:
        self._by_path: dict[str, str] = {}

    def add(self, path: str, text: str) -> None:
        """Note a reason. Raises ``Enough`` when there are too many to be worth listing."""
        self._by_path.setdefault(path, text)
        if len(self._by_path) >= MAX_REASONS:
            raise Enough

    def missing(self, path: str, text: str, *scopes: str) -> None:
        """Note what is missing, unless a reason at, above or below one of ``scopes`` already explains that."""
        if not any(_related(scope, known) for scope in scopes for known in self._by_path):
            self.add(path, text)

    def as_list(self) -> list[str]:
        """All reasons, in the order in which they were found."""
        lines = [f"{path}: {text}" for path, text in self._by_path.items()]
        if len(lines) >= MAX_REASONS:
            lines.append(f"(root): there may be more, only the first {MAX_REASONS} problems are listed")
        return lines

    def __bool__(self) -> bool:
        return bool(self._by_path)


def below(path: str, key: str) -> str:
    """The path of a field below ``path``; keys that are not plain names are quoted and shortened."""
    if _NAME.match(key) and len(key) <= _LONGEST_SHOWN:
        return f"{path}.{key}" if path else key
    return f"{path}[{shown(key)}]"


def shown(text: str) -> str:
    """``text`` in quotes, fit to be shown in one line: shortened, control and non-ASCII characters replaced."""
    short = text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"
    return '"' + _UNPRINTABLE.sub("?", short.replace("…", "...")) + '"'


def _related(scope: str, known: str) -> bool:
    return _within(known, scope) or _within(scope, known)


def _within(path: str, ancestor: str) -> bool:
    return path == ancestor or (path.startswith(ancestor) and path[len(ancestor)] in ".[")
