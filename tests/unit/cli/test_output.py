"""Output formats: JSON, JSON lines, ids, and tables that show addresses whole on any terminal."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console
from rich.style import Style

from stackd.cli.output import (
    STYLES,
    WARNING,
    addresses,
    by_status,
    cells,
    duration,
    line,
    natural,
    notes,
    print_unwrapped,
    stack_columns,
    table,
)
from stackd.cli.stacks import TIMELINE, added
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


ANOTHER = {**STACK, "node_id": "worker-2.example.org", "labels": {**STACK["labels"], "team": "eight"}}


def drawn(stacks: list[dict[str, Any]], width: int, **options: Any) -> tuple[str, list[str]]:
    console = Console(file=io.StringIO(), width=width, **options)
    made, hidden = table(stack_columns(stacks), stacks, width)
    print_unwrapped(console, made)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), hidden


def words_of(stack: dict[str, Any], stacks: list[dict[str, Any]]) -> set[str]:
    return {word for column in stack_columns(stacks) for word in column.of(stack).split(" ")}


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 40, 20])
def test_an_address_is_whole_and_a_stack_is_one_line_on_any_terminal(width: int) -> None:
    stacks = [STACK, ANOTHER]
    before = [words_of(stack, stacks) for stack in stacks]
    text, hidden = drawn(stacks, width)
    after = [words_of(stack, stacks) for stack in stacks]  # an age may have changed meanwhile
    head, *rows = [line.rstrip() for line in text.splitlines()]
    assert {*head.lower().split(), *hidden} == {"stack", "status", "address", "team", "node", "age", "left"}
    for row, whole in zip(rows, (one | other for one, other in zip(before, after, strict=True)), strict=True):
        assert ADDRESS in row
        assert len(row) <= max(width, len(ADDRESS))
        assert all(word in whole or word.endswith("…") for word in row.split())


def test_a_label_that_all_stacks_share_is_below_the_table_and_no_column_unless_there_is_one_stack() -> None:
    assert [column.head for column in stack_columns([STACK])[3:6]] == ["team", "challenge", "player"]
    without = {**STACK, "labels": {"player": "somebody"}}
    assert [column.head for column in stack_columns([STACK, ANOTHER, without])[3:5]] == ["challenge", "team"]
    assert notes([STACK, ANOTHER]) == ["2 stacks: 2 running", "all have challenge=a-rather-long-name player=somebody"]
    assert notes([]) == ["0 stacks"]
    assert notes([STACK]) == ["1 stack: 1 running"]


def test_the_worst_is_counted_first_and_nodes_are_in_the_order_of_people() -> None:
    assert by_status({"running": 12, "odd": 1, "failed": 3, "stopped": 0}) == "3 failed, 12 running, 1 odd"
    assert sorted(["n-10", "n-2", "10", "n"], key=natural) == ["10", "n", "n-2", "n-10"]


@pytest.mark.parametrize("hostile", ["\x1b]0;taken\x07", "\x1b[2J", "a\rb", "\x9b31m", "\u202etxt", "[red]x[/red]"])
def test_text_of_a_tenant_does_nothing_to_a_terminal_and_a_status_has_its_colour(hostile: str) -> None:
    stack = {**STACK, "status": "failed", "status_reason": hostile, "labels": {"x": hostile}, "node_id": hostile}
    text, _ = drawn([stack], 200, force_terminal=True, color_system="truecolor")
    assert "\x1b[1;38;5;196mfailed (" in text
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
    stack_id = (await shell.at.create())["stack_id"]
    await shell.at.until_status(stack_id, "running")
    facts = dict(line.split("\t") for line in (await shell.any_command("stats")).stdout.splitlines())
    assert facts["stacks"] == "1: 1 running"
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
    named = {"container_port": 80, "protocol": "TCP", "url": "https://web.example.org"}
    assert addresses({**STACK, "node_public_ip": None, "ports": [named]}) == ["https://web.example.org"]


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


async def test_a_timeline_fits_a_narrow_terminal_and_says_what_it_leaves_out(shell: Shell) -> None:
    stack_id = (await shell.at.create(request_for("registry.example/nostart")))["stack_id"]
    await shell.at.until_status(stack_id, "failed")
    for word, first in (("timeline", "WHEN"), ("describe", "stack")):
        said = await on_terminal(shell, "stacks", word, stack_id, TERM="xterm-256color", COLUMNS="80")
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", one).rstrip() for one in said.splitlines()]
        assert max(map(len, lines)) <= 80
        assert lines[0].startswith(first)
        head = next(one for one in lines if one.startswith("WHEN"))
        hidden = re.search(r"too wide for this terminal: (.*)", "\n".join(lines))
        assert {*head.lower().split(), *(hidden[1].split(", ") if hidden else ())} == {
            column.head for column in TIMELINE
        }
        assert "failed to create containerd task" in " ".join(one.strip() for one in lines)


async def test_events_in_json_have_all_fields_but_the_pod_spec(shell: Shell) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "stackd.py"), "events", "--json", stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"STACKD_URL": shell.at.url, "STACKD_API_KEY": KEY, "HOME": str(shell.home)},
    )  # fmt: skip
    try:
        await eventually(lambda: shell.at.daemon.api.feed.followers == 1, deadline=20)
        stack_id = (await shell.at.create())["stack_id"]
        assert process.stdout is not None
        async with asyncio.timeout(60):
            event: dict[str, Any] = {"kind": ""}
            while event["kind"] != "stack":
                event = json.loads(await process.stdout.readline())
        stack = await shell.at.stack(stack_id)
        assert event["data"].keys() == stack.keys() - {"pod_spec"}
    finally:
        process.send_signal(signal.SIGINT)
        await process.wait()


@pytest.mark.parametrize("style", sorted({*STYLES.values(), WARNING} - {"dim"}))
def test_a_colour_can_be_read_on_a_dark_terminal_and_on_a_light_one(style: str) -> None:
    color = Style.parse(style).color
    assert color is not None
    red, green, blue = [part / 255 for part in color.get_truecolor()]
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    assert min(1.05 / (luminance + 0.05), (luminance + 0.05) / 0.05) > 3
