"""Writes plain data as YAML in the form of Kubernetes' own tools.

Owns: block style, sorted keys, lists in line with their key, and the choice of quotes: plain if that is read back as
the same string, double quotes if plain text would mean a word or number, a literal block for several lines. No line is
folded. Aliases are written out each time, with indentation, so the text may be many times as long as the one that was
read. Therefore the writer counts while it writes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from stackd.podspec.yaml_reader import is_plain_string

_FAST = re.compile(r"[A-Za-z/_][A-Za-z0-9_./@-]*(?::[A-Za-z0-9_./@-]+)*\Z")
_NOT_PRINTABLE = re.compile("[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd]")
_BLOCKS_PLAIN = re.compile(r"[#,\[\]{}&*!|>'\"%@`]|[?:-](?:[ \t]|\Z)|---|\.\.\.")
_INSIDE_BLOCKS_PLAIN = re.compile(r":(?:[ \t\n]|\Z)|[ \t\n]#")
_ESCAPED = re.compile('[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd]|["\\\\]')
_ESCAPES = {
    "\0": "0",
    "\a": "a",
    "\b": "b",
    "\t": "t",
    "\n": "n",
    "\v": "v",
    "\f": "f",
    "\r": "r",
    "\x1b": "e",
    '"': '"',
    "\\": "\\",
    "\x85": "N",
    "\u2028": "L",
    "\u2029": "P",
}
_RUNS = re.compile(r"[0-9]+|[^0-9]")


class TooLong(Exception):
    """The text would exceed the allowed length."""


class _Length:
    """How many characters may still be written."""

    __slots__ = ("left",)

    def __init__(self, most: int) -> None:
        self.left = most

    def check(self, characters: int) -> None:
        """Raise TooLong if ``characters`` more do not fit."""
        if characters > self.left:
            raise TooLong

    def taken(self, line: str) -> str:
        """Count the line and return it. Raises TooLong if it does not fit."""
        self.left -= len(line) + 1
        if self.left < 0:
            raise TooLong
        return line


def emit(document: Mapping[str, Any], most: int = sys.maxsize) -> str:
    """``document`` (dicts with string keys, lists, strings, ints, bools; not empty) as YAML text.

    Raises TooLong as soon as the text exceeds ``most`` characters.
    """
    return "\n".join(_mapping(document, "", _Length(most))) + "\n"


def _mapping(value: Mapping[str, Any], indent: str, length: _Length) -> list[str]:
    lines = []
    for key in _sorted(value):
        item = value[key]
        label = f"{indent}{_key(key, length)}:"
        if isinstance(item, dict) and item:
            lines.append(length.taken(label))
            lines += _mapping(item, indent + "  ", length)
        elif isinstance(item, list) and item:
            lines.append(length.taken(label))
            lines += _sequence(item, indent, length)
        else:
            lines.append(length.taken(f"{label} {_leaf(item, indent, length)}"))
    return lines


def _sequence(value: list[Any], indent: str, length: _Length) -> list[str]:
    lines = []
    for item in value:
        if isinstance(item, (dict, list)) and item:
            deeper = indent + "  "
            nested = _mapping(item, deeper, length) if isinstance(item, dict) else _sequence(item, deeper, length)
            nested[0] = f"{indent}- {nested[0][len(deeper) :]}"
            lines += nested
        else:
            lines.append(length.taken(f"{indent}- {_leaf(item, indent, length)}"))
    return lines


def _leaf(value: Any, indent: str, length: _Length) -> str:
    if isinstance(value, str):
        length.check(len(value))
        return _string(value, indent, length)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return "{}" if isinstance(value, dict) else "[]"


def _key(key: str, length: _Length) -> str:
    if not key or "\n" in key:
        return _double_quoted(key)
    return _string(key, "", length)


def _string(text: str, indent: str, length: _Length) -> str:
    if _FAST.match(text) and is_plain_string(text):
        return text
    if not text:
        return '""'
    if _NOT_PRINTABLE.search(text):
        return _double_quoted(text)
    if "\n" in text:
        return _double_quoted(text) if text[-1] == " " or " \n" in text else _literal(text, indent, length)
    if not is_plain_string(text):
        return _double_quoted(text)
    if text[0] == " " or text[-1] == " " or _BLOCKS_PLAIN.match(text) or _INSIDE_BLOCKS_PLAIN.search(text):
        return "'" + text.replace("'", "''") + "'"
    return text


def _literal(text: str, indent: str, length: _Length) -> str:
    deeper = indent + "  "
    hint = "2" if text[0] in " \n" else ""
    body = text
    if not text.endswith("\n"):
        chomp = "-"
    elif text == "\n" or text.endswith("\n\n"):
        chomp, body = "+", text[:-1]
    else:
        chomp, body = "", text[:-1]
    lines = body.split("\n")
    length.check(len(body) + len(deeper) * sum(map(bool, lines)))
    return f"|{hint}{chomp}\n" + "\n".join(deeper + line if line else "" for line in lines)


def _double_quoted(text: str) -> str:
    return '"' + _ESCAPED.sub(_escape, text) + '"'


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    short = _ESCAPES.get(char)
    if short is not None:
        return "\\" + short
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
