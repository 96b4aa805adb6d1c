"""``stackd push``: what it says of a folder of templates, what it sends, and when it sends nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from stackd.keys import digest
from tests.harness import harness
from tests.templates import PLAIN, folder_with, shown
from tests.unit.cli.conftest import Shell


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    (tmp_path / "pushed").mkdir()
    async with harness(tmp_path, folder_with(tmp_path, filed=PLAIN)) as at:
        yield Shell(at=at, home=tmp_path)


def write(shell: Shell, **texts: str) -> None:
    for name, text in texts.items():
        (shell.home / "pushed" / f"{name.replace('_', '-')}.yaml").write_text(text)


async def push(shell: Shell, *options: str, code: int = 0) -> Result:
    result = await shell.any_command("push", str(shell.home / "pushed"), *options)
    assert result.exit_code == code, result.output
    return result


async def test_a_folder_is_sent_changed_and_pruned_and_the_same_changes_nothing(shell: Shell) -> None:
    write(shell, web_1=PLAIN, web_2=PLAIN)
    dry = await push(shell, "--dry-run")
    assert dry.stdout.splitlines() == ["new      web-1", "new      web-2"]
    assert dry.stderr == "a dry run: 2 templates would change\n"
    assert list(await shown(shell.at)) == ["filed"]
    assert (await push(shell)).stdout == dry.stdout
    assert (await push(shell)).stdout.splitlines() == ["same     web-1", "same     web-2"]
    changed = PLAIN.replace("ttl: 1h", "ttl: 2h\npool: 1").replace("image: nginx:stable", "image: nginx:mainline")
    write(shell, web_1=changed, web_3=PLAIN + "# new\n")
    (shell.home / "pushed" / "web-2.yaml").unlink()
    asked = await push(shell, "--prune", code=2)
    assert "this would delete 1 template that the folder lacks (web-2); confirm with --yes" in asked.stderr
    assert list(await shown(shell.at)) == ["filed", "web-1", "web-2"]
    lines = (await push(shell, "--prune", "--yes")).stdout.splitlines()
    assert lines == [
        "changed  web-1: ttl, pod.spec.containers[0].image, pool",
        "new      web-3",
        "deleted  web-2",
    ]
    assert list(await shown(shell.at)) == ["filed", "web-1", "web-3"], "the file's template stays"
    write(shell, web_3=PLAIN)
    assert "changed  web-3: comments" in (await push(shell)).stdout


async def test_a_check_has_a_code_for_what_differs_and_for_no_key(shell: Shell) -> None:
    write(shell, web_1=PLAIN)
    assert (await push(shell, "--check", code=3)).stdout == "new      web-1\n"
    assert list(await shown(shell.at)) == ["filed"]
    await push(shell)
    assert (await push(shell, "--check")).stdout == "same     web-1\n"
    alone = await shell.any_command("push", str(shell.home / "pushed"), "--check", STACKD_API_KEY="")
    assert (alone.exit_code, "STACKD_API_KEY" in alone.stderr) == (4, True)
    write(shell, web_1="pod: [")
    wrong = await shell.any_command("push", str(shell.home / "pushed"), "--check", STACKD_API_KEY="")
    assert (wrong.exit_code, "web-1.yaml: a mapping with target_port and pod is expected" in wrong.stderr) == (1, True)


async def test_an_environment_has_values_of_its_own_and_a_program_reads_json(shell: Shell) -> None:
    write(shell, web_1=PLAIN)
    given = ("--set", "web-1.pool=2", "--set", "web-1.ttl=2h", "--set", "web-1.pod.spec.containers.0.image=x:1")
    first = json.loads((await push(shell, "-o", "json", *given)).stdout)
    assert first == {"sent": True, "templates": [{"name": "web-1", "change": "new", "fields": []}], "others": []}
    text = (await shell.at.get("/templates/web-1"))["text"]
    assert yaml.safe_load(text) == yaml.safe_load(
        PLAIN.replace("ttl: 1h", "ttl: 2h").replace("nginx:stable", "x:1")
    ) | {"pool": 2}
    changed = json.loads((await push(shell, "-o", "json", "--check", code=3)).stdout)
    assert (changed["sent"], changed["templates"][0]["fields"]) == (
        False,
        ["pool", "ttl", "pod.spec.containers[0].image"],
    )
    write(shell, web_1=PLAIN + "ttll: 1h\n")
    wrong = json.loads((await push(shell, "-o", "json", code=1)).stdout)
    assert "ttll" in wrong["mistakes"][0]
    for bad in (
        "web-1",
        "web-1.=2",
        "web-9.pool=2",
        "web-1.ttl.x=2",
        "web-1.pool=[",
        "web-1.pod.spec.containers.9.image=x",
    ):
        assert "--set" in (await push(shell, "--set", bad, code=2)).stderr


async def test_a_folder_without_templates_deletes_nothing(shell: Shell) -> None:
    write(shell, web_1=PLAIN)
    await push(shell)
    (shell.home / "pushed" / "web-1.yaml").unlink()
    error = (await push(shell, "--prune", "--yes", code=1)).stderr
    assert error == f"Error: {shell.home / 'pushed'} has no templates: NAME.yaml is expected; nothing was sent\n"
    assert list(await shown(shell.at)) == ["filed", "web-1"]


async def test_what_another_key_has_written_is_not_pruned(shell: Shell) -> None:
    ci = "sk-ci-0123456789abcdef0123"
    entry = f'name = "ci"\nsha256 = "{digest(ci).hex()}"\nscope = "tenant"\nlabels = {{event = "a"}}\ntemplates = ["web-*"]\n'
    async with harness(
        shell.home / "two", {}, config=configured(shell.home, f"[[auth.keys]]\n{entry}templates_write = true\n")
    ) as at:
        shell = Shell(at=at, home=shell.home)
        assert (await at.call("PUT", "/templates/web-7", PLAIN.encode())).status == 201
        write(shell, web_1=PLAIN)
        folder = str(shell.home / "pushed")
        result = await shell.any_command("push", folder, "--prune", "--yes", STACKD_API_KEY=ci)
        assert (result.exit_code, result.stderr) == (0, "written by others, and not deleted: web-7\n"), result.output
        assert list(await shown(at)) == ["web-1", "web-7"]
        assert (await push(shell, "--prune", "--yes")).stderr == ""


def configured(home: Path, text: str) -> Path:
    (home / "two").mkdir()
    (home / "config.toml").write_text(text)
    return home / "config.toml"


async def test_templates_in_folders_of_the_folder_are_sent_and_what_is_none_is_named(shell: Shell) -> None:
    web, crypto = shell.home / "pushed" / "web" / "cookie-jar", shell.home / "pushed" / "crypto"
    web.mkdir(parents=True)
    crypto.mkdir()
    (web / "web-1.yaml").write_text(PLAIN)
    (web / "compose.yml").write_text("services: {web: {image: x}}\n")
    (shell.home / "pushed" / ".git").mkdir()
    (shell.home / "pushed" / ".git" / "web-9.yaml").write_text(PLAIN)
    result = await push(shell)
    assert result.stdout == "new      web-1\n"
    assert result.stderr == f"no templates, and not sent: {web}/compose.yml\n"
    (crypto / "web-1.yaml").write_text(PLAIN)
    (crypto / "Web_2.yaml").write_text(PLAIN)
    (crypto / "web-3.yml").write_text(PLAIN)
    (crypto / "web-4.yaml").write_text(WRONG + "ttll: 1h\n")
    error = (await push(shell, code=1)).stderr
    assert f"{web}/web-1.yaml: {crypto}/web-1.yaml is the template web-1, too; rename one of them\n" in error
    assert f'{crypto}/Web_2.yaml: "Web_2" is not the name of a template' in error
    assert f"{crypto}/web-3.yml: a template's file ends in .yaml; rename it to web-3.yaml" in error
    assert f'{crypto}/web-4.yaml:20: ttll: there is no such field (did you mean "ttl"?)' in error


async def test_nothing_is_sent_while_one_is_wrong(shell: Shell) -> None:
    write(
        shell, web_1=PLAIN, web_2="ttll: 1h\n" + PLAIN.replace("name: app", "name: app\n      imagee: x"), filed=WRONG
    )
    (shell.home / "pushed" / "c.yml").write_text(PLAIN)
    folder = shell.home / "pushed"
    assert (await push(shell, "--prune", code=1)).stderr.splitlines() == [
        f"Error: {folder}/c.yml: a template's file ends in .yaml; rename it to c.yaml",
        f"{folder}/filed.yaml: a file of templates.directory, on stackd's machine, has this template: "
        "change it there, or rename this one",
        f'{folder}/web-2.yaml:1: ttll: there is no such field (did you mean "ttl"?)',
        f'{folder}/web-2.yaml:16: pod.spec.containers[0].imagee: unknown field (did you mean "image"?)',
        "nothing was sent",
    ]
    assert list(await shown(shell.at)) == ["filed"]


WRONG = PLAIN + "pool: 1\n"


async def test_a_template_of_a_file_that_is_the_same_is_no_mistake(shell: Shell) -> None:
    write(shell, filed=PLAIN)
    assert (await push(shell, "--prune")).stdout == "same     filed\n"


async def test_a_folder_that_is_not_there_is_a_usage_error(shell: Shell) -> None:
    assert (await shell.any_command("push", str(shell.home / "nowhere"))).exit_code == 2


async def test_templates_are_deleted_and_listed_also_without_a_command(shell: Shell) -> None:
    write(shell, web_1=PLAIN)
    await push(shell)
    for words in (("templates", "-o", "name"), ("templates", "list", "-o", "name")):
        assert (await shell.any_command(*words)).stdout == "filed\nweb-1\n"
    assert (await shell.any_command("templates", "delete", "web-1")).stdout == "deleted  web-1\n"
    assert list(await shown(shell.at)) == ["filed"]
    assert (await shell.any_command("templates", "delete", "web-1")).exit_code == 1
