"""Makes text from outside safe to show: it cannot move the cursor, begin a new line or change the text direction.

Owns: how a long list is cut; and the characters that a terminal or a line-based log reader would interpret. They are
shown as Python escapes: ``\\x1b``, ``\\n``, ``\\u202e``. Text from containers, pod specs and annotations is not trusted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final, TextIO

_CONTROLS: Final = (*range(0x20), *range(0x7F, 0xA0))
_SEPARATORS: Final = (0x2028, 0x2029)
_DIRECTIONS: Final = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SURROGATES: Final = range(0xD800, 0xE000)
_OBEYED: Final = (*_CONTROLS, *_SEPARATORS, *_DIRECTIONS, *_SURROGATES)
_ESCAPES: Final = {character: chr(character).encode("unicode_escape").decode() for character in _OBEYED}
_IN_LINES: Final = {c: text for c, text in _ESCAPES.items() if chr(c) not in "\n\t"}
_IN_JSON: Final = {character: f"\\u{character:04x}" for character in _OBEYED if character >= 0x7F}


def printable(text: str, *, lines: bool = False) -> str:
    """The text with all characters escaped that would be interpreted; ``lines`` keeps line ends and tabs."""
    return text if text.isprintable() else text.translate(_IN_LINES if lines else _ESCAPES)


def printable_json(text: str) -> str:
    """As ``printable``, for a JSON document; its meaning stays the same. JSON itself escapes all below 0x20."""
    return text if text.isprintable() else text.translate(_IN_JSON)


def some_of(items: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first ``most`` items in one line, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return separator.join(items[:most]) + more


def is_journal(environ: Mapping[str, str], stream: TextIO) -> bool:
    """Whether the stream leads to the journal, as the service manager says in ``JOURNAL_STREAM``."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(stat.st_dev), str(stat.st_ino))


def inert(cell: str) -> str:
    """The cell of a CSV file, which no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t")) else cell
