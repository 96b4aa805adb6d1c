"""Where in a pod spec's text stands what a reason names.

Owns: paths such as ``spec.containers[0].env["a b"]``, read the other way round. Used only once a text is refused, so that
accepting one costs nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from stackd.errors import InvalidPodSpec, Reason
from stackd.podspec.reasons import shown
from stackd.podspec.yaml_reader import Lines, read_lines

_STEP: Final = re.compile(
    r'\.?(?P<name>[A-Za-z_][A-Za-z0-9_]*)|\[(?P<index>[0-9]{1,9})\]|\[(?P<key>".*?"|[^]]+)\](?=[.[]|$)'
)


def located(refusal: InvalidPodSpec, text: str) -> InvalidPodSpec:
    """The same refusal; each reason has the line of its path in ``text``, or of the nearest thing around it."""
    if all(reason.line is not None for reason in refusal.reasons):
        return refusal
    document = Document(*read_lines(text))
    return InvalidPodSpec([_with_line(reason, document) for reason in refusal.reasons])


def by_line(reasons: Sequence[Reason]) -> list[Reason]:
    """In the order of the lines; those without one come last."""
    return sorted(reasons, key=lambda reason: (reason.line is None, reason.line or 0))


def _with_line(reason: Reason, document: Document) -> Reason:
    return reason if reason.line is not None else replace(reason, line=document.line_of(reason.path))


class Document:
    """A text that was read, with its lines."""

    def __init__(self, root: dict[str, Any], lines: Lines) -> None:
        self._root = root
        self._lines = lines
        self._quoted: dict[int, dict[str, str]] = {}

    def line_of(self, path: str) -> int | None:
        """The line of a path or of the nearest thing around it; None where nothing of it is in the text."""
        value: Any = self._root
        line, position = None, 0
        while (step := _STEP.match(path, position)) is not None:
            key = self._key(value, step)
            if key is None:
                break
            line, value, position = self._lines[id(value)][key], value[key], step.end()
        return line

    def _key(self, value: Any, step: re.Match[str]) -> Any:
        """The key or index that a step names; None where there is none."""
        if step["index"] is not None:
            index = int(step["index"])
            return index if isinstance(value, list) and index < len(value) else None
        if not isinstance(value, dict):
            return None
        name = step["name"] or step["key"]
        return name if name in value else self._quoted_keys(value).get(name)

    def _quoted_keys(self, value: dict[str, Any]) -> dict[str, str]:
        known = self._quoted.get(id(value))
        if known is None:
            known = self._quoted[id(value)] = {shown(key): key for key in value}
        return known
