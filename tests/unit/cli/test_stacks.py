"""``stackd stacks …`` in a pipe: lines of fields, the API's own JSON and error texts, and exit codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from stackd.cli import stackd
from stackd.client import ApiError, Client, Job, Unreachable
from tests.harness import harness, request_for, seed
from tests.unit.cli.conftest import Shell
from tests.unit.cli.test_hostile import on_terminal

POD = seed()["pod_spec"]


@pytest.fixture
def pod(tmp_path: Path) -> str:
    file = tmp_path / "pod.yaml"
    file.write_text(POD)
    return str(file)


async def test_list_prints_a_line_for_each_stack_that_the_filters_leave(shell: Shell) -> None:
    first = await shell.at.create(request_for("nginx:stable") | {"labels": {"team": "7"}})
    second = await shell.at.create()
    await shell.at.until_status(first["stack_id"], "running")
    lines = [line.split("\t") for line in (await shell.good("list")).splitlines()]
    assert [line[0] for line in lines] == [first["stack_id"], second["stack_id"]]
    address = f"{first['node_public_ip']}:{first['ports'][0]['node_port']}"
    stack_id, status, where, node, age, left, labels = lines[0]
    assert (stack_id, status, where, labels) == (first["stack_id"], "running", address, "team=7")
    assert node == first["node_id"]
    assert age.endswith("s")
    assert left.startswith("1h59m")
    assert (await shell.good("list", "--label", "team=7")).count("\n") == 1
    assert await shell.good("list", "--status", "failed") == ""
    assert await shell.good("list", "--node", "nowhere") == ""


async def test_show_tells_all_of_a_stack_and_its_pod_spec_alone(shell: Shell) -> None:
    stack = await shell.at.create()
    facts = dict(line.split("\t") for line in (await shell.good("show", stack["stack_id"])).splitlines())
    assert facts["stack"] == stack["stack_id"]
    assert facts["address"].endswith("→ 80/TCP")
    assert (facts["cpu"], facts["memory"]) == ("100m", "128Mi")
    assert await shell.good("show", stack["stack_id"], "--spec") == stack["pod_spec"]


async def test_create_takes_a_pod_and_publishes_its_ports(shell: Shell, pod: str) -> None:
    text = await shell.good("create", "-f", pod, "--ttl", "30m", "--label", "team=7", "--label", "player=3", "--wait")
    stack_id, status, address = text.rstrip("\n").split("\t")
    stack = await shell.at.stack(stack_id)
    assert status == "running"
    assert address == f"{stack['node_public_ip']}:{stack['ports'][0]['node_port']}"
    assert stack["labels"] == {"team": "7", "player": "3"}
    assert stack["ports"][0]["container_port"] == 80


async def test_create_takes_the_ports_it_is_told_and_a_whole_request(shell: Shell) -> None:
    made = json.loads(await shell.good("create", "-f", "-", "-p", "80/tcp", "--json", stdin=POD))
    assert [port["container_port"] for port in made["ports"]] == [80]
    again = json.loads(await shell.good("create", "-f", "-", "--json", stdin=json.dumps(seed())))
    assert again["pod_spec"] == made["pod_spec"]


async def test_a_dry_run_prints_what_would_run_and_makes_nothing(shell: Shell, pod: str) -> None:
    assert "automountServiceAccountToken: false" in await shell.good("create", "-f", pod, "--dry-run")
    assert (await shell.at.call("GET", "/stacks")).json == {"stacks": []}


async def test_waiting_for_a_stack_that_fails_is_a_failure_with_the_reason(shell: Shell) -> None:
    spec = request_for("registry.example/badname")["pod_spec"]
    said = await shell.failing(1, "create", "-f", "-", "--wait", stdin=spec)
    (stack,) = (await shell.at.call("GET", "/stacks?fields=stack_id,status_reason")).json["stacks"]
    assert f"{stack['stack_id']} is failed: {stack['status_reason']}" in said


async def test_what_the_api_refuses_is_said_in_its_words(shell: Shell, pod: str) -> None:
    said = await shell.failing(1, "create", "-f", pod, "-p", "81/tcp")
    reply = await shell.at.call(
        "POST", "/stacks", seed() | {"target_port": [{"container_port": 81, "protocol": "TCP"}]}
    )
    assert said == f"Error: {reply.error} (400)\n"
    text = POD.replace("containers:", "hostNetwork: true\n  containers:").replace("image:", "imge:")
    lines = (await shell.failing(1, "create", "-f", "-", "-p", "80", stdin=text)).splitlines()
    wrong = [number for number, line in enumerate(text.splitlines(), 1) if "hostNetwork" in line or "imge" in line]
    assert lines[0] == "Error: invalid pod spec (400)"
    assert [line.split(": ")[0] for line in lines[1:]] == [f"  line {at}" for at in (wrong[0], wrong[1] - 1, wrong[1])]
    assert "spec.hostNetwork: a stack may not share" in lines[1]
    assert await shell.failing(1, "show", "stack-none") == "Error: stack not found: stack-none (404)\n"


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        (("create", "-f", "/nowhere/pod.yaml"), None, "cannot be read"),
        (("create", "-f", "-", "-p", "eighty"), POD, "--port must be like 80 or 53/udp"),
        (("create", "-f", "-", "-l", "team"), POD, "--label must be like team=7"),
        (("create", "-f", "-", "--ttl", "soon"), POD, "write it like 30m, 2h or 1h30m"),
        (("show", "../stats"), None, "not a stack's id"),
        (("delete", ".."), None, "not a stack's id"),
        (("list", "--status", "walking"), None, "'walking' is not one of"),
        (("batch-delete",), None, "name stacks, choose them"),
        (("batch-delete", "stack-1", "--all"), None, "name stacks, choose them"),
    ],
)
async def test_usage_errors_have_code_2_and_ask_nothing(
    shell: Shell, words: tuple[str, ...], stdin: str | None, said: str
) -> None:
    assert said in await shell.failing(2, *words, stdin=stdin)
    assert (await shell.at.call("GET", "/stacks")).json == {"stacks": []}


async def test_delete_goes_on_after_one_that_is_not_there(shell: Shell) -> None:
    ids = [(await shell.at.create())["stack_id"] for _ in range(2)]
    result = await shell.run("delete", ids[0], "stack-none", ids[1])
    assert result.exit_code == 1
    assert result.stdout == "".join(f"{stack_id}\tdeleted\n" for stack_id in ids)
    assert "stack not found: stack-none" in result.stderr
    assert "1 of 3 failed" in result.stderr
    assert (await shell.at.call("GET", "/stacks")).json == {"stacks": []}


async def test_extend_stop_start_and_restart(shell: Shell) -> None:
    stack = await shell.at.create(seed() | {"ttl": "10m"})
    stack_id = stack["stack_id"]
    await shell.at.until_status(stack_id, "running")
    assert "in 39m" in await shell.good("extend", stack_id, "30m")
    assert "at most" in await shell.failing(1, "extend", stack_id, "200h")
    assert (await shell.good("stop", stack_id)).split("\t")[:2] == [stack_id, "stopped"]
    with shell.at.no_pod_starting():
        assert (await shell.good("start", stack_id)).split("\t")[:2] == [stack_id, "creating"]
    await shell.at.until_status(stack_id, "running")
    assert json.loads(await shell.good("restart", stack_id, "--json"))["ports"] == stack["ports"]


async def test_timeline_and_logs(shell: Shell) -> None:
    stack_id = (await shell.at.create(request_for("registry.example/fail")))["stack_id"]
    await shell.at.until_status(stack_id, "failed")
    lines = [line.split("\t") for line in (await shell.good("timeline", stack_id)).splitlines()]
    assert {"accepted", "scheduled", "failed"} <= {line[1] for line in lines}
    assert json.loads(await shell.good("timeline", stack_id, "--json"))["stack_id"] == stack_id
    reply = await shell.at.call("GET", f"/stacks/{stack_id}/logs")
    assert await shell.good("logs", stack_id) == reply.text
    assert await shell.good("logs", stack_id, "--tail", "1") == reply.text.splitlines(keepends=True)[-1]
    await shell.at.call("DELETE", f"/stacks/{stack_id}")
    assert "deleted" in await shell.good("timeline", stack_id)


async def test_a_batch_delete_reads_what_list_prints(shell: Shell) -> None:
    for team in ("7", "7", "8"):
        await shell.at.create(seed() | {"labels": {"team": team}})
    listed = await shell.good("list", "--label", "team=7")
    text = await shell.good("batch-delete", "-", stdin=listed)
    job_id, *counts = text.rstrip("\n").split("\t")
    assert job_id.startswith("job-")
    assert counts == ["2 deleted", "0 not found", "0 failed"]
    assert len((await shell.at.call("GET", "/stacks")).json["stacks"]) == 1


async def test_a_batch_delete_by_filter_needs_a_yes_where_nobody_can_be_asked(shell: Shell) -> None:
    for team in ("7", "8"):
        await shell.at.create(seed() | {"labels": {"team": team}})
    assert "this would delete 1 stack; confirm with --yes" in await shell.failing(
        2, "batch-delete", "--label", "team=7"
    )
    assert "1 deleted" in await shell.good("batch-delete", "--label", "team=7", "--yes")
    job_id = (await shell.good("batch-delete", "--all", "--yes", "--no-wait")).strip()
    assert (await shell.at.finished_job(job_id))["deleted"] == 1
    for chosen in (("--all",), ("--label", "team=7")):
        result = await shell.run("batch-delete", *chosen, "--yes")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no stack matches: nothing to delete\n")


@pytest.mark.parametrize(
    ("chosen", "jobs"), [(("--label", "team=7", "--yes"), 1), (("--all", "--yes"), 3), (("-",), 3)]
)
async def test_more_are_deleted_than_one_job_takes(tmp_path: Path, chosen: tuple[str, ...], jobs: int) -> None:
    async with harness(tmp_path, {"STACKD_BATCH_DELETE__MAX_IDS": "2"}) as at:
        shell = Shell(at=at, home=tmp_path)
        for _ in range(5):
            await at.create(seed() | {"labels": {"team": "7"}})
        text = await shell.good("batch-delete", *chosen, stdin=await shell.good("list"))
        assert text.count("job-") == jobs
        assert sum(int(line.split("\t")[1].split()[0]) for line in text.splitlines()) == 5
        assert (await at.call("GET", "/stacks")).json == {"stacks": []}


async def test_jobs_that_were_begun_before_an_error_are_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[Job | Exception] = iter(
        [ApiError(413, "too many", {}), Job(job_id="job-1"), Unreachable("no answer", sent=True)]
    )

    def answer(*_: object) -> Job:
        if isinstance(one := next(answers), Job):
            return one
        raise one

    monkeypatch.setattr(Client, "batch_delete", answer)
    said = await shell.failing(1, "batch-delete", "stack-1", "stack-2", "stack-3")
    assert said == "job-1 continues to delete 1 of 3 stacks\nError: no answer\n"


async def test_a_batch_delete_that_fails_says_which_and_why(shell: Shell) -> None:
    stack_id = (await shell.at.create())["stack_id"]
    await shell.at.cluster.faults.refuse()
    result = await shell.run("batch-delete", stack_id, "stack-none", "--json")
    await shell.at.cluster.faults.listen()
    assert result.exit_code == 1
    job = json.loads(result.stdout)
    assert (job["deleted"], job["not_found"], job["failed"]) == (0, 1, 1)
    assert "1 of 2 could not be deleted" in result.stderr


async def test_get_lists_the_named_stacks_and_wait_returns_when_they_are_there(shell: Shell) -> None:
    ids = [(await shell.at.create())["stack_id"] for _ in range(3)]
    assert (await shell.good("get", *ids[:2], "-o", "name")).split() == ids[:2]
    assert (await shell.good("get", "-o", "name")).split() == ids
    lines = (await shell.good("wait", *ids)).splitlines()
    assert [line.split("\t")[:2] for line in lines] == [[stack_id, "running"] for stack_id in ids]
    waiting = asyncio.create_task(shell.good("wait", ids[0], "--for", "deleted"))
    await shell.at.call("DELETE", f"/stacks/{ids[0]}")
    assert await waiting == f"{ids[0]}\tdeleted\n"
    assert await shell.good("wait", ids[1]) == await shell.good("wait", ids[1], "--timeout", "0s")
    said = await shell.failing(1, "wait", ids[0], ids[1], "--for", "stopped", "--timeout", "0s")
    assert f"stack not found: {ids[0]}" in said
    assert f"{ids[1]} is still running" in said
    assert "2 of 2 failed" in said


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("stacks", "shwo"), "stackd stacks show"), (("list",), "stackd stacks list"), (("stat",), "stackd stats"),
        (("stacks", "doctor"), "stackd doctor"), (("xyzzy",), ""),
    ],
)  # fmt: skip
def test_a_command_that_does_not_exist_is_answered_with_the_nearest(words: tuple[str, ...], hint: str) -> None:
    result = CliRunner().invoke(stackd, list(words))
    assert result.exit_code == 2
    suggestion = f" (did you mean {hint}?)" if hint else ""
    assert result.output.endswith(f'Error: no such command "{words[-1]}"{suggestion}\n')


async def test_labels_and_nodes_are_completed(shell: Shell) -> None:
    stack, _ = [await shell.at.create(seed() | {"labels": {"team": team, "kind": "web"}}) for team in ("7", "8")]
    for begin, offered in (
        ("--label ", ["kind", "team"]), ("--label t", ["team=7", "team=8"]), ("--label team=8", ["team=8"]),
        ("--node ", [stack["node_id"]]),
    ):  # fmt: skip
        words = f"stackd stacks list {begin}"
        result = await shell.run(
            COMP_WORDS=words,
            COMP_CWORD=str(len(words.split()) - (not words.endswith(" "))),
            _STACKD_COMPLETE="zsh_complete",
        )
        found = result.output.splitlines()[1::3]
        assert found == offered if "--label" in begin else stack["node_id"] in found


async def test_many_are_extended_stopped_started_and_restarted_as_one_job(shell: Shell) -> None:
    mine = [
        await shell.at.create(seed() | {"ttl": "10m", "labels": {"challenge": "web-1", "team": team}}) for team in "78"
    ]
    other = await shell.at.create(seed() | {"ttl": "10m"})
    for stack in (*mine, other):
        await shell.at.until_status(stack["stack_id"], "running")
    job_id, *counts = (await shell.good("extend", "--label", "challenge=web-1", "30m")).rstrip("\n").split("\t")
    assert (job_id[:4], counts) == ("job-", ["2 extended", "0 not found", "0 failed"])
    ends = [datetime.fromisoformat((await shell.at.stack(one["stack_id"]))["ttl_expires_at"]) for one in (*mine, other)]
    before = [datetime.fromisoformat(one["ttl_expires_at"]) for one in (*mine, other)]
    assert [(end - at).total_seconds() for end, at in zip(ends, before, strict=True)] == [1800, 1800, 0]
    assert "this would stop 3 stacks; confirm with --yes" in await shell.failing(2, "stop", "--all")
    for words, done in (
        (("stop", "--label", "team", "--yes"), "2 stopped"), (("start", "--status", "stopped"), "2 started"),
        (("restart", "--all", "--yes"), "3 restarted"),
    ):  # fmt: skip
        assert (await shell.good(*words)).split("\t")[1] == done
    listed = await shell.good("list", "--label", "team=8")
    assert json.loads(await shell.good("extend", "-", "5m", "--json", stdin=listed))["done"] == 1
    job_id = (await shell.good("delete", "--label", "challenge=web-1", "--yes", "--no-wait")).strip()
    assert (await shell.at.finished_job(job_id))["deleted"] == 2
    assert await shell.at.listed() == [other["stack_id"]]


async def test_what_a_job_could_not_do_is_said_with_its_reasons_and_the_exit_code(shell: Shell) -> None:
    stack_id = (await shell.at.create(seed() | {"ttl": "23h"}))["stack_id"]
    result = await shell.run("extend", "-", "2h", stdin=f"{stack_id}\nstack-none\n")
    assert result.exit_code == 1
    assert result.stdout.rstrip("\n").split("\t")[1:] == ["0 extended", "1 not found", "1 failed"]
    assert f"{stack_id}: " in result.stderr
    assert "at most" in result.stderr
    assert "2 of 2 could not be extended" in result.stderr
    empty = await shell.run("extend", "--label", "team=none", "5m")
    assert (empty.exit_code, empty.stdout, empty.stderr) == (0, "", "no stack matches: nothing to extend\n")


async def test_activity_says_which_key_asked_for_what_and_what_came_of_it(shell: Shell) -> None:
    stack_id = (await shell.at.create(seed() | {"labels": {"team": "7"}}))["stack_id"]
    job_id = (await shell.good("extend", "--label", "team=7", "5m")).split("\t")[0]
    await shell.run("extend", "-", "48h", stdin="stack-none\n")
    await shell.run("extend", "-", "5m", stdin="stack-none\n")

    async def rows(*words: str) -> list[list[str]]:
        result = await shell.any_command("activity", *words)
        assert result.exit_code == 0, result.output
        return [line.split("\t")[1:7] for line in result.stdout.splitlines()]

    nobody, extended, created = await rows()
    assert extended == ["environment", "extend 5m", job_id, "1", "1 done", "team=7"]
    assert created == ["environment", "create", stack_id, "1", "1 done", "team=7"]
    assert nobody[1] == "extend 5m"
    assert nobody[4] == "1 not found"
    for words in (
        ("--action", "create"),
        ("--stack", stack_id, "--action", "create"),
        ("--limit", "3", "--action", "create"),
    ):
        assert await rows(*words) == [created]
    assert extended in await rows("--label", "team=7", "--since", "1h", "--key", "environment")
    assert await rows("--key", "nobody") == await rows("--label", "team=8") == []
    said = await on_terminal(shell, "activity")
    assert "ABOUT" in said
    assert "MESSAGE" not in said, "no column without any text"
    whole = (await shell.at.call("GET", "/activity")).json["activity"]
    assert json.loads((await shell.any_command("activity", "--json")).stdout) == {"activity": whole}
