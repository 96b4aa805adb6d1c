"""Address and key: an option wins over the environment, the environment over the user's file."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from stackd.cli.target import client_for
from tests.certificates import HAVE_OPENSSL, authority, issued
from tests.harness import KEY, harness
from tests.unit.cli.conftest import Shell


def write(shell: Shell, text: str) -> Path:
    """Write client.toml."""
    file = shell.home / ".config" / "stackd" / "client.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o600)
    return file


async def test_the_file_gives_address_and_key_and_what_is_missing_is_named(shell: Shell) -> None:
    for command in ("list", "watch"):
        result = await shell.run(command, "--url", "http://127.0.0.1:1")
        assert (result.exit_code, "http://127.0.0.1:1 cannot be reached" in result.stderr) == (1, True)
    result = await shell.run("list", STACKD_API_KEY="")
    assert (result.exit_code, "no API key was given; set STACKD_API_KEY" in result.stderr) == (1, True)
    nothing = {"STACKD_URL": "", "STACKD_API_KEY": ""}
    file = write(shell, f'url = "{shell.at.url}"\nkey = "{KEY}"\n')
    result = await shell.run("list", **nothing)
    assert (result.exit_code, result.stderr) == (0, "")
    file.chmod(0o644)
    assert "chmod 600" in (await shell.run("list", **nothing)).stderr
    wrong = await shell.run("list", STACKD_URL="", STACKD_API_KEY="wrong")
    assert (wrong.exit_code, wrong.stderr) == (1, "Error: the API key is not valid (401)\n")
    key = shell.home / "key"
    key.write_text(f"\n# of the platform\n{KEY}\nsk-second-0123456789\n")
    assert (await shell.run("list", "--key-file", str(key), STACKD_API_KEY="wrong")).exit_code == 0
    write(shell, f'key_file = "{key}"\n')
    elsewhere = str(shell.home / ".config")
    assert (await shell.run("list", STACKD_API_KEY="", HOME="/nowhere", XDG_CONFIG_HOME=elsewhere)).exit_code == 0
    assert (await shell.run("list", STACKD_API_KEY=f"{KEY}\n")).exit_code == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("address = 'http://x'", "unknown key address; known are url, key, key_file, ca_file"),
        ("url = 1", "url must be a string"), ("url =", "cannot be read"),
        ("key_file = '/nowhere/at/all'", "cannot be read"), ('key = "sk-ключ-ключ"', "no header can carry"),
    ],
)  # fmt: skip
async def test_a_file_that_is_wrong_is_a_usage_error(shell: Shell, text: str, complaint: str) -> None:
    write(shell, text)
    result = await shell.run("list", STACKD_API_KEY="")
    assert (result.exit_code, complaint in result.stderr, "ключ" in result.stderr) == (2, True, False)


def test_a_key_file_without_a_key_and_an_address_without_a_scheme_are_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("# none yet\n")
    with pytest.raises(click.UsageError, match="holds no key"):
        client_for("http://127.0.0.1:8081", tmp_path / "key")
    (tmp_path / "key").write_text("secret")
    with pytest.raises(click.UsageError, match="http://"):
        client_for("127.0.0.1:8081", tmp_path / "key")
    assert "secret" not in repr(client_for("http://127.0.0.1:8081", tmp_path / "key"))


@pytest.mark.parametrize("url", ['url = "http://127.0.0.1:1"', ""])
async def test_the_key_of_the_file_goes_to_no_other_address(shell: Shell, url: str) -> None:
    """``--url http://staging`` sent the key of production to staging."""
    write(shell, f'{url}\nkey = "{KEY}"\n')
    address = shell.at.url if url else shell.at.url.replace("127.0.0.1", "0.0.0.0")  # not a name of this machine
    result = await shell.run("list", "--url", address, STACKD_API_KEY="")
    assert result.exit_code == 1
    assert f"is for {'http://127.0.0.1:1' if url else 'this machine'}, and was not sent to {address}" in result.stderr


@pytest.mark.skipif(not HAVE_OPENSSL, reason="certificates are made with openssl")
async def test_a_ca_file_names_the_authority_of_a_daemon_elsewhere(tmp_path: Path) -> None:
    ca, other = authority(tmp_path), authority(tmp_path, "other")
    pair = issued(tmp_path, ca)
    tls = {"STACKD_SERVER__TLS_CERT": str(pair.cert), "STACKD_SERVER__TLS_KEY": str(pair.key)}
    async with harness(tmp_path, tls) as at:
        shell = Shell(at=at, home=tmp_path)
        url = at.url.replace("http:", "https:")
        assert (await shell.run("list", "--ca-file", str(ca.cert), STACKD_URL=url)).exit_code == 0
        wrong = await shell.run("list", STACKD_URL=url, STACKD_CA_FILE=str(other.cert))
        assert "certificate verify failed" in wrong.stderr
        none = await shell.run("list", "--ca-file", str(pair.key), STACKD_URL=url)
        assert (none.exit_code, "cannot be used as --ca-file" in none.stderr) == (2, True)
