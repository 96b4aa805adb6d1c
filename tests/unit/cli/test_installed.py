"""On a machine with an installed stackd, each command finds its configuration, and requires only what it uses."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from stackd.cli import main, options, stackd
from stackd.clock import SystemClock
from stackd.keys import new_key
from stackd.model import PortRange
from stackd.store import Store
from tests.api.test_templates import PLAIN, WEB, folder_with
from tests.harness import KEY as KEY_OF_HARNESS
from tests.unit.cli.conftest import Shell

KEY = new_key()[0]
SCRIPT = Path(__file__).parents[3] / "stackd.py"
UNWANTED = ("STACKD_URL", "STACKD_API_KEY", "STACKD_AUTH__KEY", "KUBECONFIG", "KUBERNETES_SERVICE_HOST")


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/etc/stackd as the README's installation leaves it: only with the configuration."""
    for name in UNWANTED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "etc"
    folder.mkdir()
    monkeypatch.setattr(options, "INSTALLED", folder / "config.toml")
    configure(folder)
    return folder


def configure(folder: Path, more: str = "") -> None:
    text = f'[stacks]\nnamespace = "arena"\n[state]\npath = "{folder}/stackd.db"\n{more}'
    (folder / "config.toml").write_text(text)


def run(*words: str) -> Result:
    return CliRunner().invoke(stackd, list(words))


def namespaces(printed: str) -> list[str]:
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(printed))
    return [one["metadata"]["name"] for one in documents if one["kind"] == "Namespace"]


@pytest.mark.parametrize("named", [True, False])
def test_manifests_need_neither_a_key_nor_a_cluster(etc: Path, named: bool) -> None:
    more = '[auth]\nkey_file = "/nowhere"\n[server]\ntls_cert = "/nowhere"\ntls_key = "/nowhere"\n'
    for cluster in ("", '[cluster]\nmode = "kubeconfig"\n', '[cluster]\nkubeconfig = "/nowhere"\n'):
        configure(etc, more + cluster)
        result = run("manifests", *(["--config", str(etc / "config.toml")] if named else []))
        assert (result.exit_code, result.stderr) == (0, "")
        assert namespaces(result.stdout) == ["arena", "stackd"]
    configure(etc, "[stack]\nttl = 1\n")
    assert "[stack]" in str(run("manifests").exception), "mistakes are told by a command that needs little, too"


async def test_a_backup_needs_neither_a_key_nor_a_cluster(etc: Path) -> None:
    configure(etc, '[cluster]\nkubeconfig = "/nowhere"\n')
    store = await Store.open(etc / "stackd.db", clock=SystemClock(), node_ports=PortRange(31001, 31002))
    await store.close()
    result = run("backup", str(etc / "copy.db"))
    assert result.exit_code == 0, result.output
    with contextlib.closing(sqlite3.connect(etc / "copy.db")) as copy:
        assert copy.execute("SELECT count(*) FROM stacks").fetchone() == (0,)


def test_a_check_looks_at_the_installed_configuration_and_what_lies_beside_it(etc: Path) -> None:
    result = run("check")
    assert "no API key is configured" in str(result.exception)
    (etc / "api-key").write_text(KEY + "\n")
    (etc / "kubeconfig").write_text("{}")
    result = run("check", "--effective")
    assert result.exit_code == 0
    assert 'stacks.namespace = "arena"' in result.stdout


def test_a_check_warns_of_a_tenant_whose_templates_there_are_none_of(etc: Path) -> None:
    configure(
        etc,
        f'[[auth.keys]]\nname = "ctfd"\nsha256 = "{new_key()[1]}"\nscope = "tenant"\nlabels = {{ event = "a" }}\n'
        'templates = ["web_*"]\n',
    )
    (etc / "kubeconfig").write_text("{}")
    result = run("check", "--effective")
    assert (
        'warning: the templates of the API key "ctfd" match none that there is (templates.directory)' in result.stderr
    )
    assert 'scope = "tenant", labels = { event = "a" }, templates = ["web_*"] }]' in result.stdout


def test_an_installed_configuration_that_cannot_be_read_is_said_and_does_not_count(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    result = run("manifests")
    assert result.exit_code == 0
    assert f"{etc}/config.toml cannot be read by " in result.stderr
    assert namespaces(result.stdout) == ["stacks", "stackd"]


async def test_the_client_finds_this_machines_daemon_and_its_key(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shell.home / "etc"
    folder.mkdir()
    monkeypatch.setattr(options, "INSTALLED", folder / "config.toml")
    port = shell.at.daemon.port
    (folder / "config.toml").write_text(f'[server]\nhost = "0.0.0.0"\nport = {port}\n')
    (folder / "api-key").write_text(KEY_OF_HARNESS + "\n")
    result = await shell.run("list", STACKD_URL="", STACKD_API_KEY="")
    assert (result.exit_code, result.stderr) == (0, "")
    (folder / "api-key").write_text("sk-wrong-0123456789abcdef\n")
    assert "not valid" in (await shell.run("list", STACKD_URL="", STACKD_API_KEY="")).stderr
    assert (await shell.run("list", STACKD_URL="")).exit_code == 0


@pytest.mark.parametrize("sink", ["true", "head -n 1", "(sleep 0.2; head -c 1)"])
@pytest.mark.parametrize("words", ["manifests", "check --effective", "key new --plain", "--help"])
def test_a_reader_that_leaves_ends_a_command_without_a_word(tmp_path: Path, words: str, sink: str) -> None:
    (tmp_path / "config.toml").write_text('[cluster]\nmode = "embedded"\n')
    environment = {**os.environ, "STACKD_CONFIG": str(tmp_path / "config.toml"), "STACKD_AUTH__KEY": KEY}
    command = f"{sys.executable} {SCRIPT} {words} | {sink} >/dev/null"
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""


# ---- ``stackd check``, as an operator runs it


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = 0
    try:
        main(list(arguments))
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder as ``make install`` leaves it, with its credentials beside the file."""
    for name in ("CREDENTIALS_DIRECTORY", "KUBECONFIG", "STACKD_AUTH__KEY", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text('[stacks]\nttl = "1h"\n')
    (tmp_path / "api-key").write_text(KEY + "\n")
    (tmp_path / "kubeconfig").write_text("{}")
    return tmp_path


def test_for_a_reload_missing_credentials_are_no_mistake_and_others_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("api-key", "kubeconfig"):
        (folder / name).unlink()
    assert checked(capsys, "check", "--config", str(folder / "config.toml"))[0] == 2
    assert checked(capsys, "check", "--for-reload", "--config", str(folder / "config.toml")) == (0, "", "")
    (folder / "config.toml").write_text("[stacks]\nttll = 1\n")
    assert checked(capsys, "check", "--for-reload", "--config", str(folder / "config.toml")) == (2, "", "")


def test_a_credential_that_the_unit_leaves_unset_counts_as_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "api-key").write_text("#unset")
    code, _, err = checked(capsys, "check", "--config", str(folder / "config.toml"))
    assert code == 2
    assert "no API key is configured" in err


def test_check_tells_what_is_wrong_with_a_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kubeconfig").write_text("{}")
    settings = folder_with(tmp_path, web_1=WEB) | {
        "STACKD_AUTH__KEY": KEY,
        "STACKD_CLUSTER__KUBECONFIG": str(tmp_path / "kubeconfig"),
        "STACKD_STATE__PATH": str(tmp_path / "stackd.db"),
    }
    for name, text in settings.items():
        monkeypatch.setenv(name, text)
    config = tmp_path / "config.toml"
    config.write_text("")
    assert checked(capsys, "check", "--config", str(config)) == (0, "the configuration is valid\n", "")
    folder_with(tmp_path, web_1=WEB + "ttll: 1h\n", plain=PLAIN + "pool: 1.5\n")
    told = (
        f"{tmp_path}/templates/plain.yaml:19: pool: a whole number from 0 to 10000 is expected",
        f'{tmp_path}/templates/web-1.yaml:20: ttll: there is no such field (did you mean "ttl"?)',
    )
    code, _, errors = checked(capsys, "check", "--config", str(config))
    assert (code, [line for line in told if line not in errors]) == (2, []), errors
    assert checked(capsys, "check", "--for-reload", "--config", str(config))[0] == 2
    monkeypatch.delenv("STACKD_AUTH__KEY")
    assert checked(capsys, "check", "--for-reload", "--config", str(config))[0] == 2, "systemd gives it no credentials"
