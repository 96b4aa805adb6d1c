"""The pages, their blocks and their links."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
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


def links(page: Path) -> list[str]:
    """The targets of the page's links, without those in code."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text))


def anchors(page: Path) -> set[str]:
    """The anchors of the page's headings."""
    heads = re.findall(r"^#{1,6} (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


# ---- what the code can print: each of its texts, with `…` in the place of values


SOURCE = Path(__file__).parents[2] / "stackd"
HOLE = "…"


@cache
def texts() -> str:
    """All texts of the package, one per line."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        found += [text for node in ast.walk(ast.parse(path.read_text())) if (text := _text(node))]
    return "\n".join(found)


def is_printed(symptom: str) -> bool:
    """Whether one text of the code contains the symptom's parts in this order; a part may come from a quoted value."""
    parts = [re.escape(part) for part in symptom.split(HOLE) if part]
    return re.search(".*".join(parts), texts()) is not None


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.replace("\n", " ")
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(one) if isinstance(one, ast.Constant) else HOLE for one in node.values).replace("\n", " ")
    return ""
