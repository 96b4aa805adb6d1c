"""What a terminal shows: coloured tables, and no tenant's text that could control it."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from stackd.cli.output import addresses, cells, duration, line, print_table, summary, table

STACK: dict[str, Any] = {
    "stack_id": "stack-1",
    "status": "failed",
    "status_reason": "CrashLoopBackOff",
    "node_id": "worker-1",
    "node_public_ip": "203.0.113.7",
    "ports": [
        {"container_port": 80, "protocol": "TCP", "node_port": 31001},
        {"container_port": 53, "protocol": "UDP", "node_port": 31002},
    ],
    "created_at": "2026-01-01T00:00:00Z",
    "ttl_expires_at": "2026-01-01T02:00:00Z",
    "labels": {"team": "7"},
}


def drawn(stacks: list[dict[str, Any]]) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=160, color_system="truecolor")
    print_table(console, table(stacks, 160))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_table_has_a_column_for_each_thing_and_a_colour_for_the_status() -> None:
    now = datetime.now(UTC)
    times = {
        "created_at": (now - timedelta(minutes=5, seconds=1)).isoformat(),
        "ttl_expires_at": (now + timedelta(hours=2, minutes=1)).isoformat(),
    }
    text = drawn([STACK | times])
    for part in ("STACK", "ADDRESS", "stack-1", "203.0.113.7:31001 203.0.113.7:31002/udp", "5m", "2h00m", "team=7"):
        assert part in text
    assert "\x1b[1;31mfailed (CrashLoopBackOff)" in text


@pytest.mark.parametrize("hostile", ["\x1b]0;taken\x07", "\x1b[2J", "a\rb", "\x9b31m", "\u202etxt", "[red]x[/red]"])
def test_text_of_a_tenant_does_nothing_to_a_terminal(hostile: str) -> None:
    stack = {**STACK, "status_reason": hostile, "labels": {"x": hostile}, "node_id": hostile}
    text = drawn([stack])
    for obeyed in ("\x1b]", "\x1b[2J", "\r", "\x9b", "\u202e"):
        assert obeyed not in text
    assert line(cells(stack)).count("\t") == len(cells(stack)) - 1
    if hostile.startswith("[red]"):
        assert "[red]x[/red]" in text


def test_addresses_are_ready_to_be_used() -> None:
    assert addresses({**STACK, "node_public_ip": "2001:db8::1"})[0] == "[2001:db8::1]:31001"
    assert addresses({**STACK, "node_public_ip": None})[0] == ":31001"
    assert addresses({**STACK, "ended": True}) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0s"), (0, "0s"), (59, "59s"), (61, "1m01s"), (3600, "1h00m"), (90061, "1d01h")]
)
def test_lengths_of_time_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_summary_counts_statuses() -> None:
    assert summary([STACK]) == "1 stack, 1 failed"
    assert summary([]) == "0 stacks"
