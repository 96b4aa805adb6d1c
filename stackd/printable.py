"""Text from outside, before it is shown to somebody: nothing in it moves a cursor, begins a line or turns the text round.

Owns: which characters a terminal, or whoever reads a log line by line, would obey. They are shown as in a string of
Python's: ``\\x1b``, ``\\n``, ``\\u202e``. What containers, pod specs and annotations say is a stranger's text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_CONTROLS: Final = (*range(0x20), *range(0x7F, 0xA0))
_SEPARATORS: Final = (0x2028, 0x2029)
_DIRECTIONS: Final = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SURROGATES: Final = range(0xD800, 0xE000)
_OBEYED: Final = (*_CONTROLS, *_SEPARATORS, *_DIRECTIONS, *_SURROGATES)


def _escape(character: int) -> str:
    return chr(character).encode("unicode_escape").decode()


def _json_escapes(characters: Iterable[int]) -> dict[int, str]:
    return {character: f"\\u{character:04x}" for character in characters}


_ESCAPES: Final = {character: _escape(character) for character in _OBEYED}
_IN_LINES: Final = {c: text for c, text in _ESCAPES.items() if chr(c) not in "\n\t"}
_IN_JSON: Final = _json_escapes(character for character in _OBEYED if character >= 0x7F)


def printable(text: str, *, lines: bool = False) -> str:
    """The text with everything that would be obeyed made visible; ``lines`` keeps line ends and tabs."""
    return text if text.isprintable() else text.translate(_IN_LINES if lines else _ESCAPES)


def printable_json(text: str) -> str:
    """The same for a JSON document, which stays that document; its own escapes take care of what is below 0x20."""
    return text if text.isprintable() else text.translate(_IN_JSON)
