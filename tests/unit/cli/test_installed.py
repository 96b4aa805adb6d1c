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

from stackd.cli import options, stackd
from stackd.clock import SystemClock
from stackd.keys import new_key
from stackd.model import PortRange
from stackd.store import Store
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


def test_mistakes_are_told_to_a_command_that_needs_little_too(etc: Path) -> None:
    configure(etc, "[stack]\nttl = 1\n")
    result = run("manifests")
    assert result.exit_code != 0
    assert "[stack]" in str(result.exception)


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
