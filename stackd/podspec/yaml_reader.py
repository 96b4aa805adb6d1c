"""Reads a tenant's YAML (or JSON) into plain data, strictly and within bounds.

Owns: one document, no duplicate keys, core types only, and limits on nesting, nodes and alias expansion, so that no
text can cost much time or memory. Works on parser events with its own stack: nothing recurses. Knows nothing of pods.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import yaml

from stackd.errors import InvalidPodSpec
from stackd.podspec.reasons import Enough, Reasons, below, shown
from stackd.podspec.scalars import MERGE_KEY, resolve

MAX_DEPTH = 64
MAX_NODES = 20_000
MAX_REPEATED = 2**20
ROOT = "(root)"

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE = "tag:yaml.org,2002:"
_DIRECTIVE = re.compile(r"(?:\A|[\r\n\x85\u2028\u2029])\ufeff?%")
_ESCAPE = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL)
_NO_KEY: Any = object()
_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "null": (type(None),),
}


class _Refused(Exception):
    """Reading cannot go on; ``path`` and ``text`` say why."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(text)
        self.path = path
        self.text = text


class _Frame:
    """A collection that is being read."""

    __slots__ = ("anchor", "before", "height", "items", "key", "lines", "value")

    def __init__(self, value: Any, anchor: str | None, before: tuple[int, int]) -> None:
        self.value = value
        self.items = value if isinstance(value, list) else None
        self.anchor = anchor
        self.before = before
        self.height = 1
        self.key: Any = _NO_KEY
        self.lines: dict[str, int] = {}


def read(text: str) -> dict[str, Any]:
    """The document's mapping: dicts with string keys, lists, strings, ints, finite floats, bools and None.

    Raises ``InvalidPodSpec``, within milliseconds, for anything else. What an alias repeats is shared.
    """
    reasons = Reasons()
    document: dict[str, Any] = {}
    try:
        document = _Reader(_prepared(text), reasons).document()
    except _Refused as refused:
        reasons.add(refused.path, refused.text)
    except Enough:
        pass
    if reasons:
        raise InvalidPodSpec(reasons.as_list())
    return document


def _prepared(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise _Refused(ROOT, "the text holds half of a surrogate pair, which is not a character") from exc
    if _DIRECTIVE.search(text):
        raise _Refused(ROOT, "YAML directives (lines that begin with %) are not accepted")
    if "\\ud" in text.lower() and text.lstrip()[:1] == "{":
        # JSON writes characters beyond U+FFFF as two escapes, which YAML does not know.
        return _ESCAPE.sub(_joined, text)
    return text


def _joined(match: re.Match[str]) -> str:
    high, low = match.groups()
    if high is None:
        return match.group()
    return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + (int(low, 16) - 0xDC00))


class _Reader:
    """One pass over the parser's events."""

    def __init__(self, text: str, reasons: Reasons) -> None:
        self._text = text
        self._reasons = reasons
        self._stack: list[_Frame] = []
        self._nodes = 0
        self._characters = 0
        self._most_characters = len(text) + MAX_REPEATED
        self._anchors: dict[str, tuple[Any, int, int, int]] = {}
        self._root: Any = None

    def document(self) -> dict[str, Any]:
        """The only document of the text, as a mapping."""
        try:
            loader = _Loader(self._text)
            try:
                self._consume(loader.get_event)
            finally:
                loader.dispose()
        except yaml.YAMLError as exc:
            raise _Refused(*_described(exc)) from exc
        if self._root is None:
            raise _Refused(ROOT, "the text holds no document; a Pod is expected")
        if not isinstance(self._root, dict):
            raise _Refused(ROOT, "a Pod is expected, as a mapping of fields")
        return self._root

    def _consume(self, next_event: Callable[[], Any]) -> None:
        documents = 0
        while True:
            event = next_event()
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self._scalar(event)
            elif kind is yaml.MappingStartEvent:
                self._open({}, "map", event)
            elif kind is yaml.SequenceStartEvent:
                self._open([], "seq", event)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self._close()
            elif kind is yaml.AliasEvent:
                self._alias(event)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    raise _Refused(ROOT, f"more than one YAML document ({_where(event)}); a single Pod is expected")
            elif kind is yaml.StreamEndEvent:
                return

    def _open(self, value: Any, tag: str, event: Any) -> None:
        if event.tag is not None and event.tag not in (_CORE + tag, "!"):
            raise self._refused(f"the tag {shown(event.tag)} is not accepted", event)
        stack = self._stack
        if stack and stack[-1].items is None and stack[-1].key is _NO_KEY:
            raise self._refused("a key must be a string", event)
        if len(stack) >= MAX_DEPTH:
            raise self._refused(f"nested deeper than {MAX_DEPTH} levels", event)
        before = (self._nodes, self._characters)
        self._count(1, 0, event)
        stack.append(_Frame(value, event.anchor, before))

    def _close(self) -> None:
        frame = self._stack.pop()
        if frame.anchor is not None:
            nodes, characters = frame.before
            size = (self._nodes - nodes, self._characters - characters)
            self._anchors[frame.anchor] = (frame.value, *size, frame.height)
        self._place(frame.value, frame.height)

    def _alias(self, event: Any) -> None:
        known = self._anchors.get(event.anchor)
        if known is None:
            raise self._refused(f"the alias {shown(event.anchor)} refers to nothing before it", event)
        value, nodes, characters, height = known
        if len(self._stack) + height > MAX_DEPTH:
            raise self._refused(f"nested deeper than {MAX_DEPTH} levels", event)
        self._count(nodes, characters, event)
        self._add(value, height, event)

    def _scalar(self, event: Any) -> None:
        self._count(1, len(event.value), event)
        tag = event.tag
        value: Any = event.value
        if tag is not None:
            value = self._tagged(tag, event)
        elif event.implicit[0]:
            value = resolve(event.value)
        if type(value) is float and not math.isfinite(value):
            raise self._refused("not a number that can be used", event)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, 1, len(event.value), 0)
        self._add(value, 0, event)

    def _tagged(self, tag: str, event: Any) -> Any:
        if tag in ("!", _CORE + "str"):
            return event.value
        wanted = _TYPES.get(tag.removeprefix(_CORE)) if tag.startswith(_CORE) else None
        if wanted is None:
            raise self._refused(f"the tag {shown(tag)} is not accepted", event)
        value = resolve(event.value)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise self._refused(f"the value does not fit its tag {shown(tag)}", event)
        return value

    def _add(self, value: Any, height: int, event: Any) -> None:
        if self._stack and self._stack[-1].items is None and self._stack[-1].key is _NO_KEY:
            self._set_key(self._stack[-1], value, event)
        else:
            self._place(value, height)

    def _set_key(self, frame: _Frame, key: Any, event: Any) -> None:
        if type(key) is not str:
            raise self._refused("a key must be a string; put it in quotes", event)
        if key == MERGE_KEY and event.implicit[0]:
            raise self._refused("merge keys (<<) are not accepted", event)
        line = event.start_mark.line + 1
        first = frame.lines.setdefault(key, line)
        if key in frame.value:
            self._reasons.add(below(self._path(), key), f"given twice (lines {first} and {line})")
        frame.value[key] = None
        frame.key = key

    def _place(self, value: Any, height: int) -> None:
        if not self._stack:
            self._root = value
            return
        frame = self._stack[-1]
        if height >= frame.height:
            frame.height = height + 1
        if frame.items is not None:
            frame.items.append(value)
        else:
            frame.value[frame.key] = value
            frame.key = _NO_KEY

    def _count(self, nodes: int, characters: int, event: Any) -> None:
        self._nodes += nodes
        self._characters += characters
        if self._characters > self._most_characters:
            raise _Refused(ROOT, f"aliases repeat more than {MAX_REPEATED} characters ({_where(event)})")
        if self._nodes > MAX_NODES:
            raise _Refused(
                ROOT, f"more than {MAX_NODES} values, aliases counted as what they stand for ({_where(event)})"
            )

    def _path(self) -> str:
        path = ""
        for frame in self._stack:
            if frame.items is not None:
                path += f"[{len(frame.items)}]"
            elif frame.key is not _NO_KEY:
                path = below(path, frame.key)
        return path

    def _refused(self, text: str, event: Any) -> _Refused:
        path = self._path() if len(self._stack) < MAX_DEPTH else ROOT
        return _Refused(path or ROOT, f"{text} ({_where(event)})")


def _where(event: Any) -> str:
    return f"line {event.start_mark.line + 1}, column {event.start_mark.column + 1}"


def _described(exc: yaml.YAMLError) -> tuple[str, str]:
    """Where and why the text is not YAML; the text itself is not quoted."""
    if isinstance(exc, yaml.MarkedYAMLError):
        mark = exc.problem_mark or exc.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ROOT
        problem = ", ".join(part for part in (exc.context, exc.problem) if part)
        return place, f"not valid YAML: {problem}"
    reason = getattr(exc, "reason", None) or "unreadable"
    return f"character {getattr(exc, 'position', 0)}", f"not valid YAML: {reason}"
