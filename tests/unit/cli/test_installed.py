"""On a machine with an installed stackd, each command finds its configuration, and requires and loads only what it uses."""

from __future__ import annotations

import asyncio
import os
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stackd.cli import installed, main, stackd
from stackd.config import load
from stackd.keys import digest, new_key
from tests.harness import KEY
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


# ---- ``stackd check``


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = 0
    try:
        main(["check", *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_a_check_also_looks_at_what_lies_beside_it(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sha256 = new_key()[1]
    configure(
        etc,
        f'[[auth.keys]]\nname = "ctfd"\nsha256 = "{sha256}"\nscope = "tenant"\nlabels = {{ event = "a" }}\n'
        'templates = ["web_*"]\n',
    )
    (etc / "kubeconfig").write_text("{}")
    code, out, err = checked(capsys, "--effective")
    assert (code, 'stacks.namespace = "arena"' in out) == (0, True)
    assert 'warning: the templates of the API key "ctfd" match none that there is (templates.directory)' in err
    assert 'scope = "tenant", labels = { event = "a" }, templates = ["web_*"] }]' in out
    configure(etc)
    (etc / "api-key").write_text("#unset")  # a credential that the unit leaves unset
    code, _, err = checked(capsys)
    assert (code, "no API key is configured" in err) == (2, True)


# ---- ``stackd key new`` prints lines that can be put into the configuration unchanged


@pytest.mark.parametrize(
    "more",
    [["admin"], ["read"], ["metrics"], ["tenant", "-l", "event=a", "--template", "web-*"], ["admin", "--no-pod-specs"]],
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


# ---- a command of the client needs nothing of the daemon's


async def loaded(*words: str, program: str, **environment: str) -> tuple[str, str]:
    """What the command prints on both streams."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ | environment, cwd=ROOT,
    )  # fmt: skip
    out, err = await process.communicate()
    return out.decode(), err.decode().strip()


CLIENT_ALONE = """
import sys
sys.modules |= dict.fromkeys({daemon!r})
from stackd.cli import main
main(sys.argv[1:])
"""


async def test_a_command_of_the_daemon_says_what_to_install_and_one_of_the_client_needs_nothing_else(
    shell: Shell,
) -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["server"]
    names = [requirement.partition(">")[0].replace("-", "_") for requirement in extra]
    program = CLIENT_ALONE.format(daemon=["markdown_it" if name == "markdown_it_py" else name for name in names])
    for command in ("serve", "demo", "check", "doctor", "rehearse -n 1 --burst --template x"):
        _, err = await loaded(*command.split(), program=program)
        assert 'pip install "stackd[server]"' in err, command
    folder = shell.home / "pushed"
    folder.mkdir()
    (folder / "web-1.yaml").write_text(PLAIN)
    given = {"HOME": str(shell.home), "STACKD_URL": shell.at.url, "STACKD_API_KEY": KEY}
    for words in ("stats", "capacity", "templates", "stacks list", "owner", "activity", f"push {folder}", "key --help"):
        _, err = await loaded(*words.split(), program=program, **given)
        assert err in ("", "there are no stacks"), words
