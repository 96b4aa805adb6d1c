"""``stackd templates``, and a create by template."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stackd.client import AsyncClient
from tests.api.test_templates import PLAIN, WEB, folder_with
from tests.harness import KEY, eventually, harness
from tests.unit.cli.conftest import Shell
from tests.unit.cli.test_watch import following


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    bad = PLAIN.replace("nginx:stable", "registry.invalid/none:1") + "prepull: true\npool: 0\n"
    async with harness(tmp_path, folder_with(tmp_path, web_1=WEB, bad=bad)) as at:
        yield Shell(at=at, home=tmp_path)


async def test_templates_are_listed_with_their_stacks(shell: Shell) -> None:
    made = await shell.at.create({"template": "web-1"})
    await shell.at.until_status(made["stack_id"], "running")
    result = await shell.any_command("templates")
    assert result.exit_code == 0, result.output
    bad, web = [line.split("\t") for line in result.stdout.splitlines()]
    assert web == ["web-1", "80/tcp", "1h", "1 running", "-", "-", "-"]
    assert bad[:5] == ["bad", "80/tcp", "1h", "-", "-"]
    names = await shell.any_command("templates", "-o", "name")
    assert names.stdout.split() == ["bad", "web-1"]
    answer = await shell.any_command("templates", "--json")
    assert [one["name"] for one in json.loads(answer.stdout)["templates"]] == ["bad", "web-1"]


async def test_create_takes_a_template_and_keeps_its_values_while_it_waits(shell: Shell) -> None:
    words = ("create", "--template", "web-1", "--label", "team=7", "--ttl", "2h", "--wait", "--json")
    stack = json.loads(await shell.good(*words))
    assert (stack["status"], stack["template"]) == ("running", "web-1")
    assert stack["values"]["FLAG"].startswith("flag{")
    assert stack["labels"] == {"challenge": "web-1", "kind": "web", "team": "7"}
    assert "values" not in json.loads(await shell.good("show", stack["stack_id"], "--json"))


async def test_a_pipe_gets_the_values_too_because_nobody_can_ask_for_them_again(shell: Shell) -> None:
    fields = (await shell.good("create", "--template", "web-1", "--label", "team=7", "--wait")).rstrip("\n").split("\t")
    assert fields[1] == "running"
    assert any(field.startswith("FLAG=flag{") for field in fields[3:])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "say what to create: either --file or --template"),
        (("--template", "web-1", "--file", "pod.yaml"), "either --file or --template"),
        (("--template", "web-1", "--port", "80"), "--port goes with --file"),
    ],
)
async def test_create_wants_one_thing_to_make(shell: Shell, words: tuple[str, ...], sentence: str) -> None:
    assert sentence in await shell.failing(2, "create", *words)


async def test_a_template_that_is_not_there_is_said_with_the_nearest(shell: Shell) -> None:
    assert 'there is no "web1" (did you mean "web-1"?)' in await shell.failing(1, "create", "--template", "web1")


async def test_stacks_are_chosen_by_their_template(shell: Shell) -> None:
    mine, other = [(await shell.at.create({"template": name}))["stack_id"] for name in ("web-1", "bad")]
    assert (await shell.good("list", "--template", "web-1", "-o", "name")).split() == [mine]
    async with following(shell.at, template="web-1") as (picture, _):
        await eventually(lambda: set(picture.stacks) == {mine})
        second = (await shell.at.create({"template": "web-1"}))["stack_id"]
        await shell.at.call("DELETE", f"/stacks/{other}")
        await shell.at.create()
        await eventually(lambda: set(picture.stacks) == {mine, second})


async def test_names_of_templates_are_completed_from_the_daemon(shell: Shell) -> None:
    for command in ("create", "list"):
        result = await shell.run(
            COMP_WORDS=f"stackd stacks {command} --url {shell.at.url} --template w",
            COMP_CWORD="6",
            STACKD_API_KEY=KEY,
            _STACKD_COMPLETE="bash_complete",
        )
        assert "web-1" in result.output
        assert "bad" not in result.output


async def test_the_client_chooses_by_template_too(shell: Shell) -> None:
    made = await shell.at.create({"template": "web-1"})
    await shell.at.create()
    async with AsyncClient(shell.at.url, KEY) as client:
        assert [stack.stack_id for stack in await client.stacks(template="web-1")] == [made["stack_id"]]
