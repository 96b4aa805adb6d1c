"""The API's tests look at a stackd from outside: what has to be known of a running daemon's parts is the harness' to know."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

API = Path(__file__).parents[1] / "api"
INSIDE = {"daemon", "context"}
"""Attributes of the harness and of the daemon by which one gets at its parts."""


@pytest.mark.parametrize("file", sorted(API.rglob("*.py")), ids=lambda file: file.stem)
def test_the_apis_tests_reach_into_no_daemon(file: Path) -> None:
    found = [
        f"{file.name}:{node.lineno}: .{node.attr}"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in INSIDE
    ]
    assert not found, "use HTTP, Harness.rows, the cluster, or a method of tests/harness.py"
