"""The pages and their blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOP = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "monitoring" / "README.md"]
PAGES = sorted([*TOP, *(ROOT / "docs").glob("*.md"), *(ROOT / "integrations").rglob("*.md")])
RUN = "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block; ``marks`` are the words after its language."""

    page: Path
    language: str
    marks: tuple[str, ...]
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of the page, also those in lists."""
    for indent, info, text in re.findall(r"^( *)```([^\n]*)\n(.*?)^\1```$", page.read_text(), re.MULTILINE | re.DOTALL):
        language, *marks = info.split() or [""]
        lines = [line.removeprefix(indent) for line in text.splitlines()]
        yield Block(page=page, language=language, marks=tuple(marks), text="\n".join(lines) + "\n")


def script(page: Path) -> str:
    """All blocks of the page that are marked to be run, in the order in which a reader would run them."""
    return "".join(one.text for one in blocks(page) if RUN in one.marks)
