"""TAB, ``--version`` and ``--help`` load nothing that is slow to import; each command has a line of help that fits."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from stackd.cli import COMMANDS, stackd
from stackd.cli.stacks import VERBS
from tests.harness import KEY
from tests.unit.cli.conftest import ROOT, Shell

HEAVY = (
    "asyncio", "aiohttp", "kubernetes", "pydantic", "apscheduler", "prometheus_client", "rich", "yaml", "orjson",
    "sqlite3",
)  # fmt: skip
PROGRAM = f"""
import atexit, sys
atexit.register(lambda: print(*sorted({{*{HEAVY!r}}} & sys.modules.keys()), file=sys.stderr))
import os, pathlib
from stackd.cli import main, options
options.INSTALLED = pathlib.Path(os.environ.get("TEST_INSTALLED", "/nowhere"))
main(sys.argv[1:])
"""


ALL = """
from stackd.cli import COMMANDS, stackd
from stackd.cli.stacks import VERBS, stacks
found = [group.get_command(None, name) for group, table in ((stackd, COMMANDS), (stacks, VERBS)) for name in table]
print(len([command.params for command in found]))
"""


async def loaded(*words: str, program: str = PROGRAM, **environment: str) -> tuple[str, str]:
    """What the command prints, and which of the slow modules it has loaded."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ | environment, cwd=ROOT,
    )  # fmt: skip
    out, err = await process.communicate()
    return out.decode(), err.decode().strip()


async def completed(line: str, **environment: str) -> tuple[str, str]:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - (not line.endswith(" ")))}
    return await loaded(_STACKD_COMPLETE="bash_complete", **words, **environment)


async def test_a_check_of_the_configuration_loads_nothing_that_talks_to_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[auth]\nenabled = false\n[cluster]\nmode = 'embedded'\n")
    out, heavy = await loaded("check", "--config", str(tmp_path / "config.toml"))
    assert out == "the configuration is valid\n"
    assert not {"aiohttp", "kubernetes", "apscheduler"} & {*heavy.split()}
    _, heavy = await loaded("reload", PATH="/nowhere")  # a request to systemd, which runs here or not
    assert not {"asyncio", "pydantic"} & {*heavy.split()}


def test_no_help_is_wider_than_a_terminal() -> None:
    for table, before in ((COMMANDS, ()), (VERBS, ("stacks",))):
        for name in table:
            text = CliRunner().invoke(stackd, [*before, name, "--help"], terminal_width=80).output
            assert max(map(len, text.splitlines())) <= 80, name


async def test_no_command_has_options_that_are_heavy_to_complete() -> None:
    count, heavy = await loaded(program=PROGRAM.replace("main(sys.argv[1:])", ALL))
    assert int(count) > 20
    assert heavy == ""


@pytest.mark.parametrize("line", ["stackd ", "stackd stacks create --", "--version", "stacks --help"])
async def test_no_completion_version_or_help_loads_anything_heavy(line: str) -> None:
    out, heavy = await (completed(line) if line.startswith("stackd") else loaded(*line.split()))
    assert heavy == ""
    assert ("plain," in out) is line.startswith("stackd")


@pytest.mark.parametrize("installed", [False, True])
async def test_ids_are_completed_with_nothing_heavy_also_for_this_machines_daemon(
    shell: Shell, installed: bool
) -> None:
    stack_id = (await shell.at.create())["stack_id"]
    given = {"HOME": str(shell.home), "STACKD_URL": shell.at.url, "STACKD_API_KEY": KEY}
    if installed:
        given |= {"STACKD_URL": "", "STACKD_API_KEY": ""}
        config = shell.home / "config.toml"
        config.write_text(f'[server]\nhost = "0.0.0.0"\nport = {shell.at.daemon.port}\n')
        (shell.home / "api-key").write_text(f"# of the platform\n{KEY}\n")
        given["TEST_INSTALLED"] = str(config)
    out, heavy = await completed("stackd stacks show stack-", **given)
    assert heavy == ""
    assert stack_id in out
