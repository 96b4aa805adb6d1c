"""Output formats: JSON, JSON lines, ids, and tables that show addresses whole on any terminal."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from stackd.cli.output import addresses, cells, duration, line, print_table, table
from stackd.cli.stacks.read import added
from tests.harness import KEY, eventually, request_for, seed
from tests.unit.cli.conftest import Shell
from tests.unit.cli.test_hostile import ROOT, on_terminal

NOW = datetime.now(UTC)
ADDRESS = "203.0.113.107:31001 203.0.113.107:31002"
STACK: dict[str, Any] = {
    "stack_id": "stack-0123456789abcdef",
    "status": "running",
    "node_id": "worker-1.example.org",
    "node_public_ip": "203.0.113.107",
    "ports": [
        {"container_port": 80, "protocol": "TCP", "node_port": 31001},
        {"container_port": 443, "protocol": "TCP", "node_port": 31002},
    ],
    "created_at": (NOW - timedelta(minutes=5, seconds=1)).isoformat(),
    "ttl_expires_at": (NOW + timedelta(hours=2, minutes=1)).isoformat(),
    "labels": {"team": "seven", "challenge": "a-rather-long-name", "player": "somebody"},
}


def drawn(width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    print_table(console, table([STACK], width))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 40, 20])
def test_an_address_is_whole_and_a_stack_is_one_line_on_any_terminal(width: int) -> None:
    head, row = drawn(width)
    assert "ADDRESS" in head
    assert ADDRESS in row
    assert len(row) <= max(width, len(ADDRESS))


@pytest.mark.parametrize("hostile", ["\x1b]0;taken\x07", "\x1b[2J", "a\rb", "\x9b31m", "\u202etxt", "[red]x[/red]"])
def test_text_of_a_tenant_does_nothing_to_a_terminal_and_a_status_has_its_colour(hostile: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system="truecolor")
    stack = {**STACK, "status": "failed", "status_reason": hostile, "labels": {"x": hostile}, "node_id": hostile}
    print_table(console, table([stack], 200))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\x1b[1;31mfailed (" in text
    assert not any(obeyed in text for obeyed in ("\x1b]", "\x1b[2J", "\r", "\x9b", "\u202e"))
    assert line(cells(stack)).count("\t") == len(cells(stack)) - 1
    assert ("[red]x[/red]" in text) is hostile.startswith("[red]")


async def test_a_terminal_of_any_kind_shows_whole_addresses(shell: Shell) -> None:
    stack = await shell.at.create(seed() | {"labels": {"team": "7" * 60}})
    address = f"127.0.0.1:{stack['ports'][0]['node_port']}"
    for columns in ("30", "100"):
        for words in (["list"], ["list", "-o", "wide"]):
            said = await on_terminal(shell, "stacks", *words, TERM="xterm-256color", COLUMNS=columns)
            (row,) = [line for line in said.splitlines() if address in line]
            assert (stack["stack_id"] in row) is (columns == "100" or "wide" in words)
            assert ("7" * 60 in row) is ("wide" in words)


async def test_a_list_comes_in_each_form(shell: Shell) -> None:
    stack = await shell.at.create(seed() | {"labels": {"team": "7"}})
    await shell.at.until_status(stack["stack_id"], "running")
    whole = (await shell.at.call("GET", "/stacks")).json
    assert json.loads(await shell.good("list", "-o", "json")) == whole
    assert [json.loads(line) for line in (await shell.good("list", "-o", "jsonl")).splitlines()] == whole["stacks"]
    assert await shell.good("list", "-o", "name") == f"{stack['stack_id']}\n"
    assert {"80/tcp", "100m", "128Mi"} <= set((await shell.good("list", "-o", "wide")).rstrip("\n").split("\t"))


async def test_changes_come_in_each_form(shell: Shell, tmp_path: Any) -> None:
    pod = tmp_path / "pod.yaml"
    pod.write_text(seed()["pod_spec"])
    stack_id = (await shell.good("create", "-f", str(pod), "-o", "name")).strip()
    assert json.loads(await shell.good("extend", stack_id, "5m", "-o", "jsonl"))["stack_id"] == stack_id
    assert await shell.good("stop", stack_id, "-o", "name") == f"{stack_id}\n"
    assert json.loads(await shell.good("delete", stack_id, "--json")) == {"deleted": True, "stack_id": stack_id}
    again = (await shell.at.create())["stack_id"]
    assert await shell.good("delete", again, "-o", "name") == f"{again}\n"


async def test_stats_and_capacity_are_told(shell: Shell) -> None:
    await shell.at.create()
    facts = dict(line.split("\t") for line in (await shell.any_command("stats")).stdout.splitlines())
    assert facts["stacks"] == "1, 1 of them active"
    assert (facts["cpu"], facts["memory"]) == ("100m", "128Mi")
    stats = json.loads((await shell.any_command("stats", "--json")).stdout)
    assert stats == (await shell.at.call("GET", "/stats")).json
    result = await shell.any_command("capacity", "--cpu", "2", "--memory", "4Gi")
    facts = dict(line.split("\t") for line in result.stdout.splitlines())
    assert facts["fits"].endswith("more stacks of 2 CPU and 4Gi")
    assert facts["on embedded-worker"].isdecimal()
    wrong = await shell.any_command("capacity", "--cpu", "much")
    assert (wrong.exit_code, "cpu" in wrong.stderr) == (1, True)


async def test_events_are_printed_as_they_come(shell: Shell) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "stackd.py"), "events", "--label", "team=7", stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"STACKD_URL": shell.at.url, "STACKD_API_KEY": KEY, "HOME": str(shell.home)},
    )  # fmt: skip
    await eventually(lambda: shell.at.daemon.api.feed.followers == 1, deadline=20)
    await shell.at.create()
    mine = (await shell.at.create(seed() | {"labels": {"team": "7"}}))["stack_id"]
    await shell.at.call("DELETE", f"/stacks/{mine}")
    assert process.stdout is not None
    kinds = []
    async with asyncio.timeout(60):
        async for line in process.stdout:
            _, kind, stack_id, *_ = line.decode().rstrip("\n").split("\t")
            assert stack_id == mine
            kinds.append(kind)
            if kind == "deleted":
                break
    assert "stack" in kinds
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0


@pytest.mark.parametrize(
    ("before", "now", "more"),
    [
        ("", "a\n", "a\n"), ("a\n", "a\nb\n", "b\n"), ("a\nb\n", "b\nc\n", "c\n"), ("a\n", "a\n", ""),
        ("a\nb\n", "x\ny\n", "x\ny\n"), ("ab\n", "cab\nd\n", "cab\nd\n"),
    ],
)  # fmt: skip
def test_what_is_new_in_a_log_is_found_also_where_its_beginning_is_cut_off(before: str, now: str, more: str) -> None:
    assert added(before, now) == more


async def test_following_a_log_waits_for_the_container_to_start(shell: Shell) -> None:
    counts = shell.at.cluster.counts.requests
    with shell.at.no_pod_starting():
        stack_id = (await shell.at.create())["stack_id"]
        assert "409" in await shell.failing(1, "logs", stack_id)
        seen = counts["get", "pods/log", 400]
        following = asyncio.create_task(shell.run("logs", "-f", stack_id))
        await eventually(lambda: counts["get", "pods/log", 400] >= seen + 2)
    await shell.at.until_status(stack_id, "running")
    await eventually(lambda: counts["get", "pods/log", 200] >= 1)
    await shell.at.call("DELETE", f"/stacks/{stack_id}")
    result = await following
    assert (result.exit_code, result.stdout) == (0, "starting\nready\n")


async def test_following_a_log_outlasts_a_cluster_that_is_away_and_ends_when_the_stack_is_deleted(shell: Shell) -> None:
    stack_id = (await shell.at.create())["stack_id"]
    await shell.at.until_status(stack_id, "running")
    following = asyncio.create_task(shell.run("logs", "-f", stack_id))
    counts = shell.at.cluster.counts.requests
    await eventually(lambda: counts["get", "pods/log", 200] >= 2)
    shell.at.cluster.faults.add_fault(action="status", code=503, resource="pods/log")
    await eventually(lambda: counts["get", "pods/log", 503] >= 1)
    shell.at.cluster.faults.clear()
    seen = counts["get", "pods/log", 200]
    await eventually(lambda: counts["get", "pods/log", 200] > seen)
    await shell.at.call("DELETE", f"/stacks/{stack_id}")
    result = await following
    assert (result.exit_code, result.stdout) == (0, "starting\nready\n")
    assert f"{stack_id} is gone" in result.stderr


async def test_a_missing_key_is_said_with_the_name_of_its_variable(shell: Shell) -> None:
    result = await shell.run("list", STACKD_API_KEY="")
    assert result.exit_code == 1
    assert "no API key was given; set STACKD_API_KEY" in result.stderr
    wrong = await shell.run("list", STACKD_API_KEY="sk-wrong")
    assert "STACKD_API_KEY" not in wrong.stderr


# ---- What a terminal shows: coloured tables, and no tenant's text that could control it


def test_addresses_are_ready_to_be_used() -> None:
    udp = {"container_port": 53, "protocol": "UDP", "node_port": 31002}
    assert addresses({**STACK, "node_public_ip": "2001:db8::1"})[0] == "[2001:db8::1]:31001"
    assert addresses({**STACK, "node_public_ip": None, "ports": [udp]}) == [":31002/udp"]
    assert addresses({**STACK, "ended": True}) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0s"), (0, "0s"), (59, "59s"), (61, "1m01s"), (3600, "1h00m"), (90061, "1d01h")]
)
def test_lengths_of_time_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


async def test_following_a_log_ends_with_the_pod(shell: Shell) -> None:
    stack_id = (await shell.at.create(request_for("registry.example/fail")))["stack_id"]
    await eventually(lambda: shell.at.daemon.context.store.stacks.get(stack_id).status == "failed")  # type: ignore[union-attr]
    assert await shell.good("logs", "-f", stack_id) == await shell.good("logs", stack_id)


async def test_times_are_read_by_people(shell: Shell) -> None:
    stack = await shell.at.create()
    for words in (("show", stack["stack_id"]), ("timeline", stack["stack_id"])):
        text = await shell.good(*words)
        assert stack["created_at"] not in text
        assert datetime.fromisoformat(stack["created_at"]).astimezone().isoformat(timespec="minutes")[:16] in text
