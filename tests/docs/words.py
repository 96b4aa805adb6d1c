"""What the code can print: each of its texts, with `…` in the place of values."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

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
