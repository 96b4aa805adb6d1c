"""Tests of what users see use a stackd from outside: only the harness knows its parts."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FROM_OUTSIDE = ("api", "client", "doctor", "monitoring", "rehearse", "ui")
"""The folders of tests that see only what a client, a browser, the doctor or Prometheus sees."""

FILES = [file for folder in FROM_OUTSIDE for file in sorted((TESTS / folder).rglob("*.py"))]

INSIDE = {"daemon", "context"}
"""Attributes of the harness and of the daemon that lead to its parts."""

ELSEWHERE = {"page.context": "the browser's own, which holds the tabs"}
"""Attributes with such a name that are no part of a daemon: owner and name → the reason why they are allowed."""


def parts_reached(source: str) -> Iterator[str]:
    """Each place where the source uses a part of a daemon, with its line number."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in INSIDE:
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else ast.unparse(node.value)
            if f"{owner}.{node.attr}" not in ELSEWHERE:
                yield f"{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_what_users_see_is_tested_without_reaching_into_a_daemon(file: Path) -> None:
    found = [f"{file.name}:{place}" for place in parts_reached(file.read_text())]
    assert not found, "use HTTP, Harness.rows, the cluster, or a method of tests/harness.py"


def test_all_that_leads_into_a_daemon_is_found_and_what_is_exempt_is_used() -> None:
    source = (
        "board.at.daemon.port\nat.daemon.context.store\ncontext.brake\ncall.api.context\nboard.page.context.new_page()"
    )
    assert sorted(parts_reached(source)) == [
        "1: board.at.daemon",
        "2: at.daemon",
        "2: at.daemon.context",
        "4: call.api.context",
    ]
    assert [name for name in ELSEWHERE if not any(f".{name}." in file.read_text() for file in FILES)] == []
