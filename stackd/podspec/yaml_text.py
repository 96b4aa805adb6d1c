"""Reads a tenant's YAML (or JSON) into plain data, strictly and within bounds, and writes it as Kubernetes' own tools do.

Owns: one document, no duplicate keys, core types only, and limits on nesting, nodes and alias expansion, so that no
text can cost much time or memory; what a plain (unquoted) scalar means, as Kubernetes' own tools read it (YAML 1.1 words
for booleans, octal and hexadecimal integers); and the line of each path such as ``spec.containers[0].env["a b"]``.
Works on parser events with its own stack: nothing recurses. Knows nothing of pods.

Writes block style, sorted keys, lists in line with their key, and these quotes: none if that is read back as the same
string, double ones if plain text would mean a word or number, a literal block for several lines. No line is folded.
Aliases are written out each time, with indentation, so the text may be many times as long as the one that was read.
Therefore the writer counts while it writes.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

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
_CORE = "tag:yaml.org,2002:"
_DIRECTIVE = re.compile(r"(?:\A|[\r\n\x85\u2028\u2029])\ufeff?%")
_SURROGATES = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL)
_STEP = re.compile(r'\.?(?P<name>[A-Za-z_][A-Za-z0-9_]*)|\[(?P<index>[0-9]{1,9})\]|\[(?P<key>".*?"|[^]]+)\](?=[.[]|$)')
_NO_KEY: Any = object()
_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "null": (type(None),),
}


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


class _Frame:
    """A collection that is being read; ``lines`` are those of its keys or items."""

    __slots__ = ("anchor", "before", "height", "is_list", "key", "lines", "value")

    def __init__(self, value: Any, anchor: str | None, before: tuple[int, int]) -> None:
        self.value = value
        self.is_list = isinstance(value, list)
        self.anchor = anchor
        self.before = before
        self.height = 1
        self.key: Any = _NO_KEY
        self.lines: Any = [] if self.is_list else {}


def read(text: str) -> dict[str, Any]:
    """The document's mapping: dicts with string keys, lists, strings, ints, finite floats, bools and None.

    Raises ``InvalidPodSpec``, within milliseconds, for anything else. Aliases of one anchor share one value.
    """
    reasons = Reasons()
    document: dict[str, Any] = {}
    try:
        document = _Reader(text, reasons).document()
    except _Refused as refused:
        reasons.add(refused.path, refused.text, refused.line)
    except Enough:
        pass
    if reasons:
        raise InvalidPodSpec(reasons.as_list())
    return document


class Document:
    """The lines of a text; none if ``read`` refuses the text."""

    def __init__(self, text: str) -> None:
        self._root: dict[str, Any] = {}
        reader = _Reader(text, Reasons())
        with contextlib.suppress(_Refused, Enough):
            self._root = reader.document()
        self._lines = reader.lines
        self._quoted: dict[int, dict[str, str]] = {}

    def line_of(self, path: str) -> int | None:
        """The line of a path or of its nearest ancestor in the text; None if the text has none of them."""
        value: Any = self._root
        line, position = None, 0
        while (step := _STEP.match(path, position)) is not None:
            key = self._key(value, step)
            if key is None:
                break
            line, value, position = self._lines[id(value)][key], value[key], step.end()
        return line

    def _key(self, value: Any, step: re.Match[str]) -> Any:
        """The key or index that a step names, or None."""
        if step["index"] is not None:
            index = int(step["index"])
            return index if isinstance(value, list) and index < len(value) else None
        if not isinstance(value, dict):
            return None
        name = step["name"] or step["key"]
        if name in value:
            return name
        if id(value) not in self._quoted:
            self._quoted[id(value)] = {shown(key): key for key in value}
        return self._quoted[id(value)].get(name)


def located(refusal: InvalidPodSpec, text: str) -> InvalidPodSpec:
    """The same refusal; each reason has the line of its path in ``text``, or of the path's nearest ancestor."""
    if all(reason.line is not None for reason in refusal.reasons):
        return refusal
    document = Document(text)
    return InvalidPodSpec(
        [
            reason if reason.line is not None else replace(reason, line=document.line_of(reason.path))
            for reason in refusal.reasons
        ]
    )


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


class _Reader:
    """One pass over the parser's events."""

    def __init__(self, text: str, reasons: Reasons) -> None:
        self._text = text
        self._reasons = reasons
        self._stack: list[_Frame] = []
        self._nodes = 0
        self._characters = 0
        self._anchors: dict[str, tuple[Any, int, int, int]] = {}
        self._root: Any = None
        self.lines: dict[int, Any] = {}
        """For each collection, by its ``id``: the line of each field or item."""

    def document(self) -> dict[str, Any]:
        """The only document of the text, as a mapping."""
        text = _prepared(self._text)
        try:
            loader = _Loader(text)
            try:
                self._consume(loader.get_event)
            finally:
                loader.dispose()
        except yaml.YAMLError as exc:
            raise _described(exc, text) from exc
        if self._root is None:
            raise _Refused(ROOT, "the text contains no document; a Pod is expected")
        if not isinstance(self._root, dict):
            raise _Refused(ROOT, "the text must be a Pod: a mapping of fields")
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
                    text = f"more than one YAML document ({_where(event)}); a single Pod is expected"
                    raise _Refused(ROOT, text, _line(event))
            elif kind is yaml.StreamEndEvent:
                return

    def _open(self, value: Any, tag: str, event: Any) -> None:
        if event.tag is not None and event.tag not in (_CORE + tag, "!"):
            raise self._refused(f"the tag {shown(event.tag)} is not accepted", event)
        if self._expects_key():
            raise self._refused("a key must be a string", event)
        if len(self._stack) >= MAX_DEPTH:
            raise self._refused(f"nested deeper than {MAX_DEPTH} levels", event)
        self._note_line(event)
        frame = _Frame(value, event.anchor, (self._nodes, self._characters))
        self._count(1, 0, event)
        self._stack.append(frame)

    def _close(self) -> None:
        frame = self._stack.pop()
        if frame.anchor is not None:
            nodes, characters = frame.before
            size = (self._nodes - nodes, self._characters - characters)
            self._anchors[frame.anchor] = (frame.value, *size, frame.height)
        self.lines[id(frame.value)] = frame.lines
        self._place(frame.value, frame.height)

    def _alias(self, event: Any) -> None:
        if event.anchor not in self._anchors:
            raise self._refused(f"the alias {shown(event.anchor)} refers to nothing before it", event)
        value, nodes, characters, height = self._anchors[event.anchor]
        if len(self._stack) + height > MAX_DEPTH:
            raise self._refused(f"nested deeper than {MAX_DEPTH} levels", event)
        self._count(nodes, characters, event)
        self._add(value, height, event)

    def _scalar(self, event: Any) -> None:
        self._count(1, len(event.value), event)
        value: Any = event.value
        if event.tag is not None:
            value = self._tagged(event.tag, event)
        elif event.implicit[0]:
            value = resolve(event.value)
        if type(value) is float and not math.isfinite(value):
            raise self._refused("infinity and NaN are not accepted", event)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, 1, len(event.value), 0)
        self._add(value, 0, event)

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

    def _expects_key(self) -> bool:
        return bool(self._stack) and not self._stack[-1].is_list and self._stack[-1].key is _NO_KEY

    def _add(self, value: Any, height: int, event: Any) -> None:
        if self._expects_key():
            self._set_key(self._stack[-1], value, event)
        else:
            self._note_line(event)
            self._place(value, height)

    def _note_line(self, event: Any) -> None:
        """Keep the line of an item; the line of a field is that of its key."""
        if self._stack and self._stack[-1].is_list:
            self._stack[-1].lines.append(_line(event))

    def _set_key(self, frame: _Frame, key: Any, event: Any) -> None:
        if type(key) is not str:
            raise self._refused("a key must be a string; put it in quotes", event)
        if key == MERGE_KEY and event.implicit[0]:
            raise self._refused("merge keys (<<) are not accepted", event)
        line = _line(event)
        first = frame.lines.setdefault(key, line)
        if key in frame.value:
            self._reasons.add(below(self._path(), key), f"given twice (lines {first} and {line})", line)
        frame.value[key] = None
        frame.key = key

    def _place(self, value: Any, height: int) -> None:
        if not self._stack:
            self._root = value
            return
        frame = self._stack[-1]
        frame.height = max(frame.height, height + 1)
        if frame.is_list:
            frame.value.append(value)
        else:
            frame.value[frame.key] = value
            frame.key = _NO_KEY

    def _count(self, nodes: int, characters: int, event: Any) -> None:
        self._nodes += nodes
        self._characters += characters
        if self._characters > len(self._text) + MAX_REPEATED:
            raise _Refused(ROOT, f"aliases repeat more than {MAX_REPEATED} characters ({_where(event)})", _line(event))
        if self._nodes > MAX_NODES:
            text = f"more than {MAX_NODES} values, each alias counted in full ({_where(event)})"
            raise _Refused(ROOT, text, _line(event))

    def _path(self) -> str:
        path = ""
        for frame in self._stack:
            if frame.is_list:
                path += f"[{len(frame.value)}]"
            elif frame.key is not _NO_KEY:
                path = below(path, frame.key)
        return path

    def _refused(self, text: str, event: Any) -> _Refused:
        path = self._path() if len(self._stack) < MAX_DEPTH else ROOT
        return _Refused(path or ROOT, f"{text} ({_where(event)})", _line(event))


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


_FAST = re.compile(r"[A-Za-z/_][A-Za-z0-9_./@-]*(?::[A-Za-z0-9_./@-]+)*\Z")
_NOT_PRINTABLE = re.compile("[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd]")
_BLOCKS_PLAIN = re.compile(r"[#,\[\]{}&*!|>'\"%@`]|[?:-](?:[ \t]|\Z)|---|\.\.\.")
_INSIDE_BLOCKS_PLAIN = re.compile(r":(?:[ \t\n]|\Z)|[ \t\n]#")
_ESCAPED = re.compile('[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd]|["\\\\]')
_ESCAPES = dict(zip('\0\a\b\t\n\v\f\r\x1b"\\\x85\u2028\u2029', '0abtnvfre"\\NLP', strict=True))
_RUNS = re.compile(r"[0-9]+|[^0-9]")


class TooLong(Exception):
    """The text would exceed the allowed length."""


def emit(document: Mapping[str, Any], most: int = sys.maxsize) -> str:
    """``document`` (dicts with string keys, lists, strings, ints, bools; not empty) as YAML text.

    Raises TooLong as soon as the text exceeds ``most`` characters.
    """
    writer = _Writer(most)
    writer.mapping(document, "", "")
    return "".join(writer.lines)


class _Writer:
    """Collects lines, while they fit into the remaining characters. A list's item starts with ``- `` instead of blanks."""

    def __init__(self, remaining: int) -> None:
        self.lines: list[str] = []
        self._remaining = remaining

    def mapping(self, value: Mapping[str, Any], indent: str, start: str) -> None:
        for key in _sorted(value):
            label = _double_quoted(key) if not key or "\n" in key else _string(key, "")
            self._field(f"{start}{label}:", value[key], indent)
            start = indent

    def _sequence(self, value: list[Any], indent: str, start: str) -> None:
        for item in value:
            if isinstance(item, dict) and item:
                self.mapping(item, indent + "  ", start + "- ")
            elif isinstance(item, list) and item:
                self._sequence(item, indent + "  ", start + "- ")
            else:
                self._add(f"{start}- {self._leaf(item, indent)}")
            start = indent

    def _field(self, label: str, item: Any, indent: str) -> None:
        if isinstance(item, dict) and item:
            self._add(label)
            self.mapping(item, indent + "  ", indent + "  ")
        elif isinstance(item, list) and item:
            self._add(label)
            self._sequence(item, indent, indent)
        else:
            self._add(f"{label} {self._leaf(item, indent)}")

    def _add(self, line: str) -> None:
        self._remaining -= len(line) + 1
        if self._remaining < 0:
            raise TooLong
        self.lines.append(line + "\n")

    def _leaf(self, value: Any, indent: str) -> str:
        if isinstance(value, str):
            if len(value) > self._remaining:
                raise TooLong
            return _string(value, indent)
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            return str(value)
        return "{}" if isinstance(value, dict) else "[]"


def _string(text: str, indent: str) -> str:
    if _FAST.match(text) and is_plain_string(text):
        return text
    if not text:
        return '""'
    if _NOT_PRINTABLE.search(text):
        return _double_quoted(text)
    if "\n" in text:
        return _double_quoted(text) if text[-1] == " " or " \n" in text else _literal(text, indent + "  ")
    if not is_plain_string(text):
        return _double_quoted(text)
    if text[0] == " " or text[-1] == " " or _BLOCKS_PLAIN.match(text) or _INSIDE_BLOCKS_PLAIN.search(text):
        return "'" + text.replace("'", "''") + "'"
    return text


def _literal(text: str, indent: str) -> str:
    hint = "2" if text[0] in " \n" else ""
    chomp, body = "-", text
    if text.endswith("\n"):
        chomp, body = "+" if text == "\n" or text.endswith("\n\n") else "", text[:-1]
    return f"|{hint}{chomp}\n" + "\n".join(indent + line if line else "" for line in body.split("\n"))


def _double_quoted(text: str) -> str:
    return '"' + _ESCAPED.sub(_escape, text) + '"'


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    if char in _ESCAPES:
        return "\\" + _ESCAPES[char]
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


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
