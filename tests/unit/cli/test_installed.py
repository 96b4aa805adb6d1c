"""On a machine with an installed stackd, each command finds its configuration, and requires and loads only what it uses."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tomllib
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stackd.cli import installed, main, stackd
from stackd.config import load
from stackd.keys import digest, new_key
from tests.templates import PLAIN
from tests.unit.cli.conftest import ROOT, Shell


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare_environment: None) -> Path:
    """/etc/stackd as the README's installation leaves it: only with the configuration."""
    folder = tmp_path / "etc"
    folder.mkdir()
    monkeypatch.setattr(installed, "INSTALLED", folder / "config.toml")
    configure(folder)
    return folder


def configure(folder: Path, more: str = "") -> None:
    text = f'[stacks]\nnamespace = "arena"\n[state]\npath = "{folder}/stackd.db"\n{more}'
    (folder / "config.toml").write_text(text)


def run(*words: str) -> Result:
    return CliRunner().invoke(stackd, list(words))


def test_a_check_also_looks_at_what_lies_beside_it(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = f'name = "ctfd"\nsha256 = "{new_key()[1]}"\nscope = "tenant"\nlabels = {{ event = "a" }}\n'
    configure(etc, f'[[auth.keys]]\n{key}templates = ["web_*"]\n')
    (etc / "kubeconfig").write_text("{}")
    main(["check", "--effective"])
    out, err = capsys.readouterr()
    assert 'stacks.namespace = "arena"' in out
    assert 'the templates of the API key "ctfd" match none' in err
    configure(etc)
    (etc / "api-key").write_text("#unset")  # a credential that the unit leaves unset
    with pytest.raises(SystemExit, match="2"):
        main(["check"])
    assert "no API key is configured" in capsys.readouterr().err


# ---- ``stackd key new`` prints lines that can be put into the configuration unchanged


@pytest.mark.parametrize(
    "more", [["read"], ["tenant", "-l", "event=a", "--template", "web-*"], ["admin", "--no-pod-specs"]]
)
def test_the_printed_table_is_accepted_and_belongs_to_the_printed_key(tmp_path: Path, more: list[str]) -> None:
    result = run("key", "new", "--name", "grafana", "--scope", *more)
    (tmp_path / "config.toml").write_text(result.stderr)
    (accepted,) = load(tmp_path / "config.toml", {}).config.auth.keys
    assert (accepted.name, accepted.scope, accepted.sha256) == ("grafana", more[0], digest(result.stdout.strip()))
    assert accepted.tenant == (dict(accepted.labels) == {"event": "a"}) == (accepted.templates == ("web-*",))
    assert accepted.pod_specs != ("--no-pod-specs" in more)
    plain = run("key", "new", "--plain")  # KEY=$(stackd key new --plain)
    assert (plain.stdout[:3], plain.stdout.count("\n"), plain.stderr) == ("sk-", 1, "")


CLIENT_ALONE = """
import sys
sys.modules |= dict.fromkeys({daemon!r})
from stackd.cli import main
for words in sys.argv[1:]:
    code = 0
    try:
        main(words.split())
    except SystemExit as end:
        code = end.code or 0
    print(f"{{words.split()[0]}}: {{code}}")
"""


async def test_a_command_of_the_daemon_says_what_to_install_and_one_of_the_client_needs_nothing_else(
    shell: Shell,
) -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["server"]
    names = [requirement.partition(">")[0].replace("-", "_") for requirement in extra]
    program = CLIENT_ALONE.format(daemon=["markdown_it" if name == "markdown_it_py" else name for name in names])
    of_daemon = ("serve", "demo", "check", "doctor", "rehearse -n 1 --burst --template x")
    (folder := shell.home / "pushed").mkdir()
    (folder / "web-1.yaml").write_text(PLAIN)
    of_client = ("stats", "capacity", "templates", "stacks list", "owner", "activity", f"push {folder}", "key --help")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *of_daemon, *of_client, stdout=PIPE, stderr=PIPE, cwd=ROOT,
        env=os.environ | shell.environment,
    )  # fmt: skip
    out, err = (text.decode() for text in await process.communicate())
    ends = dict(re.findall(r"^(\w+): (.*)$", out, re.MULTILINE))
    assert [ends[words.split()[0]] for words in (*of_daemon, *of_client)] == ["1"] * 5 + ["0"] * 8, err
    assert err.count('pip install "stackd[server]"') == len(of_daemon), err
