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
    write(shell, web_1=PLAIN, web_2=PLAIN, filed=PLAIN)
    dry = await push(shell, "--dry-run")
    assert sorted(dry.stdout.splitlines()) == ["new      web-1", "new      web-2", "same     filed"]
    assert list(await shown(shell.at)) == ["filed"]
    assert (await push(shell)).stdout == dry.stdout
    assert set((await push(shell)).stdout.split()) == {"same", "filed", "web-1", "web-2"}
    changed = PLAIN.replace("ttl: 1h", "ttl: 2h\npool: 1").replace("image: nginx:stable", "image: nginx:mainline")
    write(shell, web_1=changed, web_3=PLAIN + "# new\n")
    for gone in ("web-2", "filed"):
        (shell.home / "pushed" / f"{gone}.yaml").unlink()
    asked = await push(shell, "--prune", code=2)
    assert "this would delete 1 template that the folder lacks (web-2)" in asked.stderr
    assert list(await shown(shell.at)) == ["filed", "web-1", "web-2"]
    assert (await push(shell, "--prune", "--yes")).stdout.splitlines() == [
        "changed  web-1: ttl, pod.spec.containers[0].image, pool", "new      web-3", "deleted  web-2",
    ]  # fmt: skip
    assert list(await shown(shell.at)) == ["filed", "web-1", "web-3"], "the file's template stays"
    write(shell, web_3=PLAIN)
    assert "changed  web-3: comments" in (await push(shell)).stdout
    for name in ("web-1", "web-3"):
        (shell.home / "pushed" / f"{name}.yaml").unlink()
    assert "has no templates" in (await push(shell, "--prune", "--yes", code=1)).stderr
    assert list(await shown(shell.at)) == ["filed", "web-1", "web-3"], "an empty folder deletes nothing"
    assert (await shell.any_command("templates", "-o", "name")).stdout == "filed\nweb-1\nweb-3\n"
    for code in (0, 1):
        assert (await shell.any_command("templates", "delete", "web-1")).exit_code == code
    assert list(await shown(shell.at)) == ["filed", "web-3"]


async def test_a_check_has_a_code_for_what_differs_and_for_no_key(shell: Shell) -> None:
    write(shell, web_1=PLAIN)
    await push(shell, "--check", code=3)
    assert list(await shown(shell.at)) == ["filed"]
    await push(shell)
    await push(shell, "--check")
    folder = str(shell.home / "pushed")
    for text, code, why in (
        (PLAIN, 4, "STACKD_API_KEY"),
        ("pod: [", 1, "web-1.yaml: a mapping with target_port and pod"),
    ):
        write(shell, web_1=text)
        alone = await shell.any_command("push", folder, "--check", STACKD_API_KEY="")
        assert (alone.exit_code, why in alone.stderr) == (code, True)


async def test_an_environment_has_values_of_its_own_and_a_program_reads_json(shell: Shell) -> None:
    write(shell, web_1=PLAIN)
    given = ("--set", "web-1.pool=2", "--set", "web-1.ttl=2h", "--set", "web-1.pod.spec.containers.0.image=x:1")
    first = json.loads((await push(shell, "-o", "json", *given)).stdout)
    assert first == {"sent": True, "templates": [{"name": "web-1", "change": "new", "fields": []}], "others": []}
    wanted = PLAIN.replace("ttl: 1h", "ttl: 2h").replace("nginx:stable", "x:1") + "pool: 2\n"
    assert yaml.safe_load((await shell.at.get("/templates/web-1"))["text"]) == yaml.safe_load(wanted)
    changed = json.loads((await push(shell, "-o", "json", "--check", code=3)).stdout)
    fields = ["pool", "ttl", "pod.spec.containers[0].image"]
    assert (changed["sent"], changed["templates"][0]["fields"]) == (False, fields)
    write(shell, web_1=PLAIN + "ttll: 1h\n")
    assert "ttll" in json.loads((await push(shell, "-o", "json", code=1)).stdout)["mistakes"][0]
    for bad in (
        "web-1",
        "web-1.=2",
        "web-9.pool=2",
        "web-1.ttl.x=2",
        "web-1.pool=[",
        "web-1.pod.spec.containers.9.image=x",
    ):
        assert "--set" in (await push(shell, "--set", bad, code=2)).stderr


async def test_what_another_key_has_written_is_not_pruned(shell: Shell) -> None:
    ci, config = "sk-ci-0123456789abcdef0123", shell.home / "config.toml"
    labels = 'scope = "tenant"\nlabels = {event = "a"}\ntemplates = ["web-*"]\ntemplates_write = true\n'
    config.write_text(f'[[auth.keys]]\nname = "ci"\nsha256 = "{digest(ci).hex()}"\n{labels}')
    (shell.home / "two").mkdir()
    async with harness(shell.home / "two", {}, config=config) as at:
        shell = Shell(at=at, home=shell.home)
        assert (await at.call("PUT", "/templates/web-7", PLAIN.encode())).status == 201
        write(shell, web_1=PLAIN)
        folder = str(shell.home / "pushed")
        result = await shell.any_command("push", folder, "--prune", "--yes", STACKD_API_KEY=ci)
        assert (result.exit_code, "written by others, and not deleted: web-7" in result.stderr) == (0, True)
        assert list(await shown(at)) == ["web-1", "web-7"]
        assert (await push(shell, "--prune", "--yes")).stderr == ""


async def test_templates_in_folders_of_the_folder_are_sent_and_what_is_none_is_named(shell: Shell) -> None:
    pushed = shell.home / "pushed"
    for path, text in (
        ("web/jar/web-1.yaml", PLAIN), ("web/jar/compose.yml", "services: {web: {image: x}}\n"), (".git/web-9.yaml", PLAIN),
    ):  # fmt: skip
        (pushed / path).parent.mkdir(parents=True, exist_ok=True)
        (pushed / path).write_text(text)
    result = await push(shell)
    assert result.stdout == "new      web-1\n"
    assert result.stderr == f"no templates, and not sent: {pushed}/web/jar/compose.yml\n"


async def test_nothing_is_sent_while_one_is_wrong(shell: Shell) -> None:
    (crypto := shell.home / "pushed" / "crypto").mkdir()
    wrong = {"web-1.yaml": PLAIN, "Web_2.yaml": PLAIN, "web-3.yml": PLAIN, "web-4.yaml": PLAIN + "pool: 1\nttll: 1h\n"}
    for name, text in wrong.items():
        (crypto / name).write_text(text)
    unknown = "ttll: 1h\n" + PLAIN.replace("name: app", "name: app\n      imagee: x")
    write(shell, web_1=PLAIN, web_2=unknown, filed=PLAIN + "pool: 1\n")
    error = (await push(shell, "--prune", code=1)).stderr
    for mistake in (
        f"web-1.yaml: {shell.home}/pushed/web-1.yaml is the template web-1, too", f'{crypto}/Web_2.yaml: "Web_2" is not the name',
        f"{crypto}/web-3.yml: a template's file ends in .yaml", f"{crypto}/web-4.yaml:20: ttll: ", "web-2.yaml:1: ttll: ",
        "filed.yaml: a file of templates.directory, on stackd's machine, has this template",
        "web-2.yaml:16: pod.spec.containers[0].imagee: ",
    ):  # fmt: skip
        assert mistake in error
    assert list(await shown(shell.at)) == ["filed"]
