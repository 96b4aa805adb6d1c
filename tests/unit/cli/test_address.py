"""Address and key: an option wins over the environment, the environment over the user's file."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from stackd.cli.target import client_file, client_for, read
from tests.harness import KEY
from tests.unit.cli.conftest import Shell


async def test_the_file_gives_address_and_key(shell: Shell) -> None:
    file = shell.home / ".config" / "stackd" / "client.toml"
    file.parent.mkdir(parents=True)
    file.write_text(f'url = "{shell.at.url}"\nkey = "{KEY}"\n')
    file.chmod(0o600)
    result = await shell.run("list", STACKD_URL="", STACKD_API_KEY="")
    assert (result.exit_code, result.stderr) == (0, "")
    file.chmod(0o644)
    assert "chmod 600" in (await shell.run("list", STACKD_URL="", STACKD_API_KEY="")).stderr
    wrong = await shell.run("list", STACKD_URL="", STACKD_API_KEY="wrong")
    assert (wrong.exit_code, wrong.stderr) == (1, "Error: the API key is not valid (401)\n")
    named = shell.home / "key"
    named.write_text(f"{KEY}\n")
    assert (await shell.run("list", "--key-file", str(named), STACKD_API_KEY="wrong")).exit_code == 0


async def test_the_key_may_stand_in_a_file_of_its_own(shell: Shell) -> None:
    folder = shell.home / "elsewhere" / "stackd"
    folder.mkdir(parents=True)
    (folder / "key").write_text(f"{KEY}\n")
    (folder / "client.toml").write_text(f'key_file = "{folder / "key"}"\n')
    (folder / "client.toml").chmod(0o600)
    result = await shell.run("list", STACKD_API_KEY="", XDG_CONFIG_HOME=str(shell.home / "elsewhere"))
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("address = 'http://x'", "unknown key address; known are url, key, key_file"),
        ("url = 1", "url must be a string"),
        ("url =", "cannot be read"),
        ("key_file = '/nowhere/at/all'", "cannot be read"),
    ],
)
async def test_a_file_that_is_wrong_is_a_usage_error(shell: Shell, text: str, said: str) -> None:
    file = shell.home / ".config" / "stackd" / "client.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    result = await shell.run("list", STACKD_API_KEY="")
    assert result.exit_code == 2
    assert said in result.stderr


def test_the_file_is_in_the_configuration_folder_of_the_user() -> None:
    assert str(client_file({"HOME": "/home/me"})) == "/home/me/.config/stackd/client.toml"
    assert str(client_file({"HOME": "/home/me", "XDG_CONFIG_HOME": "/c"})) == "/c/stackd/client.toml"
    assert read(client_file({"HOME": "/nowhere"})) == {}


def test_an_address_without_a_scheme_is_refused_and_the_key_is_in_no_text(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    with pytest.raises(click.UsageError, match="http://"):
        client_for("127.0.0.1:8081", tmp_path / "key")
    client = client_for("http://127.0.0.1:8081", tmp_path / "key")
    assert client.has_key
    assert "secret" not in repr(client)


async def test_a_daemon_that_is_not_there_is_said_with_its_address(shell: Shell) -> None:
    result = await shell.run("list", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "http://127.0.0.1:1 cannot be reached" in result.stderr
