"""Reads a tenant's YAML (or JSON) into plain data, strictly and within bounds, and writes it as Kubernetes' own tools do.

Owns: one document, no duplicate keys, core types only, and limits on nesting, nodes and alias expansion, so that no
text can cost much time or memory; what a plain (unquoted) scalar means, as Kubernetes' own tools read it (YAML 1.1 words
for booleans, octal and hexadecimal integers); and the line of each path such as ``spec.containers[0].env["a b"]``.
Knows nothing of pods.

Reading and writing are libyaml's; as Kubernetes' tools use a port of it, texts look as theirs do: block style, sorted
keys, lists in line with their key, no folded lines. Strings have no quotes if they are read back as the same string,
double ones if plain text would mean a word or number, and are literal blocks if they have several lines.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import yaml

from stackd.errors import InvalidPodSpec
from stackd.podspec.reasons import ROOT, Enough, Reasons, below, shown

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_SPECIAL_FLOATS = {
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))\Z")
_BASES = (16, 2, 8, 10)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:\Z|[Tt ])")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?\Z")
_NUMERIC_STARTS = frozenset("+-.0123456789")
_LONGEST_NUMBER = 400

MERGE_KEY = "<<"
_OTHER_WORDS = frozenset({MERGE_KEY, "="})
MAX_DEPTH = 64
MAX_NODES = 20_000
MAX_REPEATED = 2**20

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CDumper", yaml.Dumper)
_CORE = "tag:yaml.org,2002:"
_DIRECTIVE = re.compile(r"(?:\A|[\r\n\x85\u2028\u2029])\ufeff?%")
_SURROGATES = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL)
_STEP = re.compile(r'\.?(?P<name>[A-Za-z_][A-Za-z0-9_]*)|\[(?P<index>[0-9]{1,9})\]|\[(?P<key>".*?"|[^]]+)\](?=[.[]|$)')
_TYPES: dict[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (float, int), "null": (type(None),)}


def resolve(plain: str) -> str | int | float | bool | None:
    """The value of a plain scalar. Timestamps stay strings; numbers that fit no 64-bit type become floats."""
    if plain[:1] not in _NUMERIC_STARTS:
        return _WORDS.get(plain, plain)
    if plain in _SPECIAL_FLOATS:
        return _SPECIAL_FLOATS[plain]
    if len(plain) > _LONGEST_NUMBER:
        return plain
    digits = plain if plain[0] == "." else plain.replace("_", "")
    if match := _INTEGER.match(digits):
        sign, *groups = match.groups()
        value = next(int(group, base) for group, base in zip(groups, _BASES, strict=True) if group is not None)
        value = -value if sign == "-" else value
        return value if -(2**63) <= value < 2**64 else float(value)
    number = float(digits) if _FLOAT.match(digits) else math.inf
    return number if math.isfinite(number) else plain


def is_plain_string(text: str) -> bool:
    """Whether ``text``, written without quotes, would be read as that very string by this and other YAML readers."""
    if text[:1] not in _NUMERIC_STARTS:
        return text not in _WORDS and text not in _OTHER_WORDS
    if not isinstance(resolve(text), str) or _FLOAT.match(text.replace("_", "")):
        return False
    return not (_TIMESTAMP.match(text) or _SEXAGESIMAL.match(text))


class _Refused(Exception):
    """The text cannot be read; ``path``, ``text`` and ``line`` say why."""

    def __init__(self, path: str, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.path = path
        self.text = text
        self.line = line


_Lines = dict[str, tuple[int, "_Lines"]]
"""The line of each field or item of a collection, and the lines below it. Keys are steps of a path: ``a``, ``["a b"]``,
``[0]``."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text that was read: its fields (with string keys, and only strings, ints, finite floats, bools and None in them;
    aliases of one anchor share one value), and its lines."""

    fields: dict[str, Any]
    lines: _Lines

    def line_of(self, path: str) -> int | None:
        """The line of a path or of its nearest ancestor in the text; None if the text has none of them."""
        lines, line, position = self.lines, None, 0
        while (match := _STEP.match(path, position)) is not None:
            key = match["name"] or match["key"]
            step = f"[{match['index']}]" if key is None else f"[{key}]" if key.startswith('"') else below("", key)
            if step not in lines:
                break
            (line, lines), position = lines[step], match.end()
        return line


def parse(text: str) -> Document:
    """The text's only document. Raises ``InvalidPodSpec``, within milliseconds, if it is not one plain mapping."""
    reasons = Reasons()
    document = Document({}, {})
    try:
        document = _Reader(text, reasons).document()
    except _Refused as refused:
        reasons.add(refused.path, refused.text, refused.line)
    except Enough:
        pass
    if reasons:
        raise InvalidPodSpec(reasons.as_list())
    return document


def read(text: str) -> dict[str, Any]:
    """The fields of the text's only document. Raises ``InvalidPodSpec``."""
    return parse(text).fields


def located(refusal: InvalidPodSpec, text: str) -> InvalidPodSpec:
    """The same refusal; each reason has the line of its path in ``text``, or of the path's nearest ancestor."""
    if all(reason.line is not None for reason in refusal.reasons):
        return refusal
    try:
        document = parse(text)
    except InvalidPodSpec:
        return refusal
    return InvalidPodSpec([replace(one, line=one.line or document.line_of(one.path)) for one in refusal.reasons])


def _prepared(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise _Refused(ROOT, "the text contains half of a surrogate pair, which is not a character") from exc
    if _DIRECTIVE.search(text):
        raise _Refused(ROOT, "YAML directives (lines that begin with %) are not accepted")
    if "\\ud" in text.lower() and text.lstrip()[:1] == "{":
        # JSON writes characters beyond U+FFFF as two escapes, which YAML does not join.
        return _SURROGATES.sub(_joined, text)
    return text


def _joined(match: re.Match[str]) -> str:
    high, low = match.groups()
    if high is None:
        return match.group()
    return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + (int(low, 16) - 0xDC00))


class _Node(NamedTuple):
    """A value that was read, its lines, and how many levels of collections it has."""

    value: Any
    lines: _Lines = {}  # noqa: RUF012 - the lines of all scalars
    height: int = 0


class _Reader:
    """One pass over the parser's events. It recurses, but at most ``MAX_DEPTH`` times."""

    def __init__(self, text: str, reasons: Reasons) -> None:
        self._text = text
        self._reasons = reasons
        self._path: list[str] = []
        """A step for each open collection."""
        self._nodes = 0
        self._characters = 0
        self._anchors: dict[str, tuple[_Node, int, int]] = {}
        """The node of each anchor, and how many nodes and characters it has."""
        self._next: Callable[[], Any]

    def document(self) -> Document:
        """The only document of the text. Raises ``_Refused``."""
        text = _prepared(self._text)
        try:
            loader = _Loader(text)
            self._next = loader.get_event
            try:
                root = self._only_document()
            finally:
                loader.dispose()
        except yaml.YAMLError as exc:
            raise _described(exc, text) from exc
        if root.value is None:
            raise _Refused(ROOT, "the text contains no document; a Pod is expected")
        if not isinstance(root.value, dict):
            raise _Refused(ROOT, "the text must be a Pod: a mapping of fields")
        return Document(root.value, root.lines)

    def _only_document(self) -> _Node:
        self._next()
        if type(self._next()) is yaml.StreamEndEvent:
            return _Node(None)
        root = self._node(self._next())
        self._next()
        if type(event := self._next()) is not yaml.StreamEndEvent:
            text = f"more than one YAML document ({_where(event)}); a single Pod is expected"
            raise _Refused(ROOT, text, _line(event))
        return root

    def _node(self, event: Any) -> _Node:
        if type(event) is yaml.AliasEvent:
            return self._alias(event)
        before = self._nodes, self._characters
        node = _Node(self._scalar(event)) if type(event) is yaml.ScalarEvent else self._collection(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, self._nodes - before[0], self._characters - before[1])
        return node

    def _alias(self, event: Any) -> _Node:
        if event.anchor not in self._anchors:
            raise self._refused(f"the alias {shown(event.anchor)} refers to nothing before it", event)
        node, nodes, characters = self._anchors[event.anchor]
        self._check_depth(node.height, event)
        self._count(nodes, characters, event)
        return node

    def _collection(self, event: Any) -> _Node:
        is_list = type(event) is yaml.SequenceStartEvent
        if event.tag not in (None, "!", _CORE + ("seq" if is_list else "map")):
            raise self._refused(f"the tag {shown(event.tag)} is not accepted", event)
        self._check_depth(1, event)
        self._count(1, 0, event)
        return self._list() if is_list else self._mapping()

    def _list(self) -> _Node:
        items: list[Any] = []
        lines: _Lines = {}
        height = 0
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            step = f"[{len(items)}]"
            node = self._below(step, event)
            items.append(node.value)
            lines[step] = _line(event), node.lines
            height = max(height, node.height)
        return _Node(items, lines, height + 1)

    def _mapping(self) -> _Node:
        fields: dict[str, Any] = {}
        lines: _Lines = {}
        height = 0
        while type(event := self._next()) is not yaml.MappingEndEvent:
            key, line = self._key(event), _line(event)
            step = below("", key)
            if key in fields:
                path = _joined_path([*self._path, step])
                self._reasons.add(path, f"given twice (lines {lines[step][0]} and {line})", line)
            node = self._below(step, self._next())
            fields[key] = node.value
            lines.setdefault(step, (line, node.lines))
            height = max(height, node.height)
        return _Node(fields, lines, height + 1)

    def _below(self, step: str, event: Any) -> _Node:
        self._path.append(step)
        node = self._node(event)
        self._path.pop()
        return node

    def _key(self, event: Any) -> str:
        if type(event) not in (yaml.ScalarEvent, yaml.AliasEvent):
            raise self._refused("a key must be a string", event)
        key = self._node(event).value
        if type(key) is not str:
            raise self._refused("a key must be a string; put it in quotes", event)
        if key == MERGE_KEY and type(event) is yaml.ScalarEvent and event.implicit[0]:
            raise self._refused("merge keys (<<) are not accepted", event)
        return key

    def _scalar(self, event: Any) -> Any:
        self._count(1, len(event.value), event)
        value: Any = event.value
        if event.tag is not None:
            value = self._tagged(event.tag, event)
        elif event.implicit[0]:
            value = resolve(event.value)
        if type(value) is float and not math.isfinite(value):
            raise self._refused("infinity and NaN are not accepted", event)
        return value

    def _tagged(self, tag: str, event: Any) -> Any:
        if tag in ("!", _CORE + "str"):
            return event.value
        types = _TYPES.get(tag.removeprefix(_CORE)) if tag.startswith(_CORE) else None
        if types is None:
            raise self._refused(f"the tag {shown(tag)} is not accepted", event)
        value = resolve(event.value)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise self._refused(f"the value does not fit its tag {shown(tag)}", event)
        return value

    def _check_depth(self, height: int, event: Any) -> None:
        if len(self._path) + height > MAX_DEPTH:
            text = f"nested deeper than {MAX_DEPTH} levels ({_where(event)})"
            raise _Refused(ROOT, text, _line(event))

    def _count(self, nodes: int, characters: int, event: Any) -> None:
        self._nodes += nodes
        self._characters += characters
        if self._characters > len(self._text) + MAX_REPEATED:
            raise _Refused(ROOT, f"aliases repeat more than {MAX_REPEATED} characters ({_where(event)})", _line(event))
        if self._nodes > MAX_NODES:
            text = f"more than {MAX_NODES} values, each alias counted in full ({_where(event)})"
            raise _Refused(ROOT, text, _line(event))

    def _refused(self, text: str, event: Any) -> _Refused:
        return _Refused(_joined_path(self._path) or ROOT, f"{text} ({_where(event)})", _line(event))


def _joined_path(steps: list[str]) -> str:
    return "".join(step if step.startswith("[") else f".{step}" for step in steps).removeprefix(".")


def _line(event: Any) -> int:
    line: int = event.start_mark.line + 1
    return line


def _where(event: Any) -> str:
    return f"line {_line(event)}, column {event.start_mark.column + 1}"


def _described(exc: yaml.YAMLError, text: str) -> _Refused:
    """Where and why the text is not YAML; the text itself is not quoted."""
    if isinstance(exc, yaml.MarkedYAMLError):
        mark = exc.problem_mark or exc.context_mark
        problem = "not valid YAML: " + ", ".join(part for part in (exc.context, exc.problem) if part)
        if mark is None:
            return _Refused(ROOT, problem)
        return _Refused("", f"line {mark.line + 1}, column {mark.column + 1}: {problem}", mark.line + 1)
    reason, position = getattr(exc, "reason", None) or "unreadable", getattr(exc, "position", 0)
    line = text.encode()[:position].count(b"\n") + 1
    return _Refused("", f"character {position}: not valid YAML: {reason}", line)


# ---- writing


_OTHER_BREAKS = re.compile("[\x85\u2028\u2029]")
_RUNS = re.compile(r"[0-9]+|[^0-9]")


class TooLong(Exception):
    """The text would exceed the allowed length."""


def emit(document: Mapping[str, Any], most: int = sys.maxsize) -> str:
    """``document`` (dicts with string keys, lists, strings, ints, bools; not empty) as YAML text.

    Raises TooLong if the text exceeds ``most`` bytes. Aliases are written out each time, so it may be many times as long
    as the one that was read; not much more than what is allowed is written.
    """
    text: str = yaml.emit(_events(document, most), Dumper=_Dumper, width=2**31 - 1, allow_unicode=True)
    if text.endswith("\n...\n"):  # libyaml ends the document so if any of its strings ends in empty lines
        text = text[:-4]
    if len(text.encode()) > most:
        raise TooLong
    return text


def _events(document: Mapping[str, Any], most: int) -> Iterator[yaml.Event]:
    yield yaml.StreamStartEvent()
    yield yaml.DocumentStartEvent(explicit=False)
    for event in _events_of(document):
        if isinstance(event, yaml.ScalarEvent):
            most -= len(event.value)
            if most < 0:
                raise TooLong
        yield event
    yield yaml.DocumentEndEvent(explicit=False)
    yield yaml.StreamEndEvent()


def _events_of(value: Any) -> Iterator[yaml.Event]:
    if isinstance(value, dict):
        yield yaml.MappingStartEvent(None, None, implicit=True, flow_style=not value)
        for key in _sorted(value):
            yield from _events_of(key)
            yield from _events_of(value[key])
        yield yaml.MappingEndEvent()
    elif isinstance(value, list):
        yield yaml.SequenceStartEvent(None, None, implicit=True, flow_style=not value)
        for item in value:
            yield from _events_of(item)
        yield yaml.SequenceEndEvent()
    elif isinstance(value, str):
        yield yaml.ScalarEvent(None, None, (True, True), value, style=_style(value))
    else:
        yield yaml.ScalarEvent(None, None, (True, False), str(value).lower())


def _style(text: str) -> str | None:
    if not is_plain_string(text) or _OTHER_BREAKS.search(text):
        return '"'
    return "|" if "\n" in text else None


def _sorted(value: Mapping[str, Any]) -> list[str]:
    keys = sorted(value)
    # Names of fields are letters only, so plain order is natural order for them. Other keys have digits and signs.
    return keys if all(key.isalpha() for key in keys) else sorted(keys, key=_natural)


def _natural(key: str) -> list[tuple[bool, int, int, str]]:
    """Sort key: letters after everything else, runs of digits by their value."""
    return [
        (False, int(run[:18]), len(run), "") if run.isdecimal() and run.isascii() else (run.isalpha(), 0, 0, run)
        for run in _RUNS.findall(key)
    ]
