"""``stackd push``: what it says of a folder of templates, what it sends, and when it sends nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import Result

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
    lines = (await push(shell, "--prune")).stdout.splitlines()
    assert lines == [
        "changed  web-1: ttl, pod.spec.containers[0].image, pool",
        "new      web-3",
        "deleted  web-2",
    ]
    assert list(await shown(shell.at)) == ["filed", "web-1", "web-3"], "the file's template stays"
    write(shell, web_3=PLAIN)
    assert "changed  web-3: comments" in (await push(shell)).stdout


async def test_a_folder_without_templates_is_told(shell: Shell) -> None:
    (shell.home / "pushed" / "deeper").mkdir()
    folder = shell.home / "pushed"
    assert (await push(shell)).stderr == f"{folder} has no templates: NAME.yaml is expected in it, not in its folders\n"


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
