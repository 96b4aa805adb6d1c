"""Output formats: JSON, JSON lines, ids, and tables that show addresses in full on any terminal.

What tenants write cannot affect the terminal of whoever looks at it.
"""

from __future__ import annotations

import asyncio
import io
import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stackd.cli import output as render
from stackd.cli.output import line
from stackd.client import Client, Plan
from stackd.client.operations import _added
from stackd.contract import STACK_FIELDS, decode
from tests.brakes import MANY, running, until_held, unverify, vanish
from tests.harness import eventually, request_for, seed
from tests.unit.cli.conftest import Shell

NOW = datetime.now(UTC)
STACK: dict[str, Any] = {
    "stack_id": "stack-0123456789abcdef",
    "status": "running",
    "node_id": "worker-1.example.org",
    "addresses": [{"port": 80, "protocol": "TCP", "text": "203.0.113.107:31001"}],
    "created_at": (NOW - timedelta(hours=2, seconds=30)).isoformat(),
    "ttl_expires_at": (NOW + timedelta(hours=2, seconds=30)).isoformat(),
    "labels": {"team": "seven", "challenge": "a-rather-long-name", "player": "somebody"},
}


def drawn(stacks: list[dict[str, Any]], width: int, **options: Any) -> tuple[str, list[str]]:
    console = Console(file=io.StringIO(), width=width, **options)
    made, hidden = render.table(render.stack_columns(stacks), stacks, width)
    render.print_unwrapped(console, made)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), hidden


def test_an_address_says_where_it_is_not_of_tcp() -> None:
    udp = {"port": 53, "protocol": "UDP", "text": "[2001:db8::1]:31002"}
    named = {"port": 80, "protocol": "TCP", "text": "https://web.example.org"}
    shown = ["[2001:db8::1]:31002/udp", "https://web.example.org"]
    assert render.addresses({**STACK, "addresses": [udp, named]}) == shown


def test_markup_of_a_tenant_is_text() -> None:
    stack = {**STACK, "status": "failed", "status_reason": "[red]x[/red]"}
    text, _ = drawn([stack], 200, force_terminal=True, color_system="truecolor")
    assert "\x1b[1;38;5;196mfailed ([red]x[/red])" in text
    evil = {**STACK, "status_reason": "a\tb\rc", "labels": {"x": "d\te"}, "node_id": "f\tg"}
    assert line(render.cells(evil)).count("\t") == len(render.cells(evil)) - 1


EVIL = "\x1b]0;taken\x07\x1b[2J\x9b31m\u202egnp"
OBEYED = set("\x1b\x07\x9b\u202e")


async def test_no_view_of_a_stack_lets_its_text_through(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    body = request_for("registry.example/nostart")
    body["pod_spec"] += f"\n      command: [{json.dumps(f'/gone{EVIL}')}]"
    stack_id = (await shell.at.create(body))["stack_id"]
    await shell.at.until_status(stack_id, "failed")
    for shown, *words in (
        ("taken", "show", stack_id),
        ("taken", "show", stack_id, "--spec"),
        ("taken", "show", stack_id, "--json"),
        (stack_id, "list"),
        ("StartError", "timeline", stack_id),
        ("taken", "timeline", stack_id, "--json"),
    ):
        out = await shell.on_terminal("stacks", *words)
        assert (shown in out, OBEYED & set(out)) == (True, set()), words
    document = json.loads(await shell.good("show", stack_id, "--json"))
    assert document == await shell.at.stack(stack_id), "for another program, it is the same document"
    assert EVIL in document["status_message"]
    wrong = request_for("nginx")["pod_spec"] + f"\n      {json.dumps(f'evil{EVIL}')}: 1"
    errors = await shell.failing(1, "create", "-f", "-", stdin=wrong)
    assert ("Error: " in errors, "evil" in errors, OBEYED & set(errors)) == (True, True, set())
    plan = {"blocked": "", "held": [], "actions": [{"action": "end", "name": "stack-1", "why": f"end: {EVIL}"}]}
    monkeypatch.setattr(Client, "reconcile", lambda *_: decode(Plan, plan))
    output = (await shell.any_command("reconcile")).output
    assert ("stack-1" in output, OBEYED & set(output)) == (True, set())


async def test_a_log_is_escaped_in_a_pipe_too_because_that_often_ends_at_a_terminal(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"one{EVIL}\ttwo\n"
    monkeypatch.setattr(Client, "logs", lambda *_, **__: text)
    out = await shell.good("logs", "stack-1")
    assert ("taken" in out, out.endswith("\ttwo\n"), OBEYED & set(out)) == (True, True, set())
    assert await shell.good("logs", "stack-1", "--raw") == text, "for another program, if it asks for that"


async def test_stacks_come_in_each_form(shell: Shell) -> None:
    stack = await shell.at.create(seed() | {"labels": {"team": "7"}})
    stack_id = stack["stack_id"]
    await shell.at.until_status(stack_id, "running")
    everything = (await shell.at.call("GET", f"/stacks?fields={','.join(STACK_FIELDS)}")).json
    assert everything["stacks"][0].keys() >= {"labels", "status_reason", "ended"}
    assert json.loads(await shell.good("list", "-o", "json")) == everything
    assert [json.loads(line) for line in (await shell.good("list", "-o", "jsonl")).splitlines()] == everything["stacks"]
    assert await shell.good("list", "-o", "name") == f"{stack_id}\n"
    assert {"80/tcp", "100m", "128Mi"} <= set((await shell.good("list", "-o", "wide")).rstrip("\n").split("\t"))
    assert json.loads(await shell.good("extend", stack_id, "5m", "-o", "jsonl"))["stack_id"] == stack_id
    assert await shell.good("stop", stack_id, "-o", "name") == f"{stack_id}\n"
    assert json.loads(await shell.good("delete", stack_id, "--json")) == {"deleted": True, "stack_id": stack_id}


async def test_stats_and_capacity(shell: Shell) -> None:
    await shell.at.running()
    facts = dict(line.split("\t") for line in (await shell.any_command("stats")).stdout.splitlines())
    assert (facts["stacks"], facts["cpu"], facts["memory"]) == ("1: 1 running", "100m", "128Mi")
    stats = json.loads((await shell.any_command("stats", "--json")).stdout)
    assert stats == (await shell.at.call("GET", "/stats")).json
    result = await shell.any_command("capacity", "--cpu", "2", "--memory", "4Gi")
    facts = dict(line.split("\t") for line in result.stdout.splitlines())
    assert facts["fits"].endswith("more stacks of 2 CPU and 4Gi")
    assert facts["on embedded-worker"].isdecimal()
    assert facts["quota"].startswith("not read yet; ask again in ")
    wrong = await shell.any_command("capacity", "--cpu", "much")
    assert (wrong.exit_code, "cpu" in wrong.stderr) == (1, True)


@pytest.mark.parametrize("form", [[], ["--json"]])
async def test_events_are_printed_as_they_come(shell: Shell, form: list[str]) -> None:
    process = await shell.process("events", "--label", "team=7", *form)
    assert process.stdout is not None
    await eventually(lambda: shell.at.daemon.api.feed.followers == 1, deadline=20)
    await shell.at.create()
    mine = await shell.at.create(seed() | {"labels": {"team": "7"}})
    await shell.at.call("DELETE", f"/stacks/{mine['stack_id']}")
    kinds, fields = [], set[str]()
    async with asyncio.timeout(60):
        while "deleted" not in kinds:
            text = (await process.stdout.readline()).decode()
            event = json.loads(text) if form else dict(zip(("at", "kind", "id"), text.split("\t")[:3], strict=True))
            kinds.append(event["kind"])
            if kinds[-1] == "stack":
                fields = set(event["data"]) if form else {event["id"]}
    assert "stack" in kinds
    assert fields == (mine.keys() - {"pod_spec", "values"} if form else {mine["stack_id"]})
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("before", "now", "more"),
    [
        ("", "a\n", "a\n"), ("a\n", "a\nb\n", "b\n"), ("a\nb\n", "b\nc\n", "c\n"), ("a\n", "a\n", ""),
        ("a\nb\n", "x\ny\n", "x\ny\n"), ("ab\n", "cab\nd\n", "cab\nd\n"),
    ],
)  # fmt: skip
def test_what_is_new_in_a_log_is_found_also_where_its_beginning_is_cut_off(before: str, now: str, more: str) -> None:
    assert _added(before, now) == more


async def test_following_a_log_waits_for_the_container_and_outlasts_a_cluster_that_is_away(shell: Shell) -> None:
    counts = shell.at.cluster.counts.requests
    with shell.at.no_pod_starting():
        stack_id = (await shell.at.create())["stack_id"]
        assert "409" in await shell.failing(1, "logs", stack_id)
        seen = counts["get", "pods/log", 400]
        following = asyncio.create_task(shell.run("logs", "-f", stack_id))
        await eventually(lambda: counts["get", "pods/log", 400] >= seen + 2)
    await shell.at.until_status(stack_id, "running")
    await eventually(lambda: counts["get", "pods/log", 200] >= 1)
    shell.at.cluster.faults.add_fault(action="status", code=503, resource="pods/log")
    await eventually(lambda: counts["get", "pods/log", 503] >= 1)
    shell.at.cluster.faults.clear()
    seen = counts["get", "pods/log", 200]
    await eventually(lambda: counts["get", "pods/log", 200] > seen)
    await shell.at.call("DELETE", f"/stacks/{stack_id}")
    result = await following
    assert (result.exit_code, result.stdout) == (0, "starting\nready\n")


async def test_jobs_are_listed_shown_and_waited_for(shell: Shell) -> None:
    stack_id = (await shell.at.create())["stack_id"]
    job_id = await shell.at.batch_delete(stack_id, "stack-none")
    waited = await shell.any_command("jobs", "wait", job_id)
    assert (waited.exit_code, waited.stdout) == (0, f"{job_id}\t1 deleted\t1 not found\t0 failed\n")
    assert (await shell.any_command("jobs", "list", "-o", "name")).stdout == f"{job_id}\n"
    shown = json.loads((await shell.any_command("jobs", "show", job_id, "--results", "-o", "json")).stdout)
    assert (shown["status"], len(shown["results"])) == ("completed", 1)
    facts = dict(line.split("\t") for line in (await shell.any_command("jobs", "show", job_id)).stdout.splitlines())
    assert facts["stacks"] == "2: 1 deleted, 1 not found, 0 failed"
    assert (await shell.any_command("jobs", "show", "job-none")).exit_code == 1


async def test_reconcile_shows_what_is_held_and_fails_with_the_reason_while_it_cannot_be_released(shell: Shell) -> None:
    async def reconcile(*words: str) -> tuple[int, str]:
        result = await shell.any_command("reconcile", *words)
        return result.exit_code, result.output

    assert await reconcile() == (0, "nothing to do: rows and cluster agree\n")
    assert await reconcile("--confirm") == (0, "released: 0 stacks\n")
    await vanish(shell.at, await running(shell.at, MANY))
    await until_held(shell.at, MANY)
    assert (await reconcile("--plan"))[1].count("(held)") == MANY
    await unverify(shell.at)
    _, plan = await reconcile()
    assert plan.startswith("reconciliation is stopped: stackd is still checking that this is its own cluster")
    assert f"{MANY} held back" in plan
    code, refused = await reconcile("--confirm")
    assert (code, f"the {MANY} stacks held back cannot be released now: stackd is still" in refused) == (1, True)


# ---- ``stacks watch`` follows the event stream; and an interrupted command says what continues without it


async def test_only_what_was_chosen_is_reported(shell: Shell) -> None:
    first = await shell.at.running(seed() | {"labels": {"team": "7"}})
    process = await shell.process("stacks", "watch", "--label", "team=7", "--status", "running", "--json")
    lines = process.stdout
    assert lines is not None
    changes: list[tuple[str, str, str]] = []

    async def until(events: tuple[str, ...], stack_id: str) -> str:
        """The status with which one of these is reported."""
        while not changes or changes[-1][0] not in events or changes[-1][1] != stack_id:
            change = json.loads(await lines.readline())
            changes.append((change["event"], change["stack"]["stack_id"], change["stack"]["status"]))
        return changes[-1][2]

    async with asyncio.timeout(60):
        await until(("stack",), first)
        other = await shell.at.create(seed() | {"labels": {"team": "8"}})
        mine = (await shell.at.create(seed() | {"labels": {"team": "7"}}))["stack_id"]
        assert await until(("stack",), mine) == "running"
        await shell.at.call("POST", f"/stacks/{mine}/stop")
        assert await until(("left",), mine) == "stopped"
        await shell.at.call("DELETE", f"/stacks/{first}")
        await until(("left", "deleted"), first)
    assert other["stack_id"] not in {stack_id for _, stack_id, _ in changes}
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("words", "continues", "answered"),
    [
        ("create -f POD", "the stack may have been created; see: stackd stacks list", ()),
        (
            "delete {} stack-none",
            "continues to delete 2 stacks",
            ("stackd_http_requests_total", "/stacks/batch-delete/{job_id}"),
        ),
        (
            "create -f SLOW --wait",
            "still exists; delete it with: stackd stacks delete stack-",
            ("stackd_waiting_requests", ""),
        ),
    ],
)
async def test_ctrl_c_shows_what_goes_on(
    shell: Shell, tmp_path: Path, words: str, continues: str, answered: Any
) -> None:
    stack_id = await shell.at.running()
    (tmp_path / "POD").write_text(seed()["pod_spec"])
    (tmp_path / "SLOW").write_text(request_for("registry.example/slowpull")["pod_spec"])
    if "--wait" not in words:  # while the daemon waits for the cluster
        shell.at.cluster.faults.pause()
    named = words.replace("POD", f"{tmp_path}/POD").replace("SLOW", f"{tmp_path}/SLOW").format(stack_id)
    process = await shell.process("stacks", *named.split())
    if answered:
        metric, route = answered
        await shell.at.until_at_least(metric, 1, **({"route": route, "code": "200"} if route else {}))
    else:
        await eventually(lambda: shell.at.cluster.counts.in_flight > 0, lambda: "nothing was asked for", deadline=20)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    shell.at.cluster.faults.resume()
    assert (process.returncode, "Traceback" in err.decode()) == (130, False), err.decode()
    assert continues.format(stack_id) in err.decode()
