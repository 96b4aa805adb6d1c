"""Address and key: an option wins over the environment, the environment over the user's file."""

from __future__ import annotations

import socket
from pathlib import Path

import click
import pytest

from stackd.cli.target import client_file, client_for, read
from tests.certificates import HAVE_OPENSSL, authority, issued
from tests.harness import KEY, harness
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
        ("address = 'http://x'", "unknown key address; known are url, key, key_file, ca_file"),
        ("url = 1", "url must be a string"), ("url =", "cannot be read"),
        ("key_file = '/nowhere/at/all'", "cannot be read"),
    ],
)  # fmt: skip
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


@pytest.mark.parametrize("url", ['url = "http://127.0.0.1:1"', ""])
async def test_the_key_of_the_file_goes_to_no_other_address(shell: Shell, url: str) -> None:
    """``--url http://staging`` sent the key of production to staging."""
    file = shell.home / ".config" / "stackd" / "client.toml"
    file.parent.mkdir(parents=True)
    file.write_text(f'{url}\nkey = "{KEY}"\n')
    file.chmod(0o600)
    address = shell.at.url if url else shell.at.url.replace("127.0.0.1", name_of_this_machine())
    result = await shell.run("list", "--url", address, STACKD_API_KEY="")
    assert result.exit_code == 1
    assert f"is for {'http://127.0.0.1:1' if url else 'this machine'}, and was not sent to {address}" in result.stderr


def name_of_this_machine() -> str:
    """A name for 127.0.0.1 that does not look like this machine's own."""
    name = socket.gethostname()
    try:
        if socket.gethostbyname(name) in ("127.0.0.1", "127.0.1.1"):
            return name
    except OSError:
        pass
    pytest.skip("this machine's name has no address")


@pytest.mark.parametrize("text", [f"# of the platform\n{KEY}\n", f"\n  # a\n{KEY}\nsk-second-0123456789\n"])
async def test_a_comment_in_a_key_file_is_not_the_key(shell: Shell, text: str) -> None:
    (shell.home / "key").write_text(text)
    result = await shell.run("list", "--key-file", str(shell.home / "key"), STACKD_API_KEY="")
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"# none yet\n", "holds no key"), (b"\xff\xfe", "is not text"), (b"x" * 70_000, "is larger than 64 KiB")],
)
def test_a_key_file_without_a_key_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(click.UsageError, match=said):
        client_for("http://127.0.0.1:8081", tmp_path / "key")


@pytest.mark.parametrize("place", ["environment", "key", "key_file", "--key-file"])
async def test_a_key_that_no_header_can_carry_is_a_usage_error(shell: Shell, place: str) -> None:
    (shell.home / "key").write_text("sk-ключ-ключ")
    folder = shell.home / ".config" / "stackd"
    folder.mkdir(parents=True)
    in_file = {"key": 'key = "sk-ключ-ключ"', "key_file": f'key_file = "{shell.home / "key"}"'}.get(place, "")
    (folder / "client.toml").write_text(f'url = "{shell.at.url}"\n{in_file}\n')
    words = ("--key-file", str(shell.home / "key")) if place == "--key-file" else ()
    result = await shell.run("list", *words, STACKD_API_KEY="sk-ключ" if place == "environment" else "")
    assert (result.exit_code, "no header can carry" in result.stderr, "ключ" in result.stderr) == (2, True, False)


async def test_a_line_end_behind_the_key_in_the_environment_is_not_part_of_it(shell: Shell) -> None:
    assert (await shell.run("list", STACKD_API_KEY=f"{KEY}\n")).exit_code == 0


@pytest.mark.skipif(not HAVE_OPENSSL, reason="certificates are made with openssl")
async def test_a_ca_file_names_the_authority_of_a_daemon_elsewhere(tmp_path: Path) -> None:
    ca, other = authority(tmp_path), authority(tmp_path, "other")
    pair = issued(tmp_path, ca)
    tls = {"STACKD_SERVER__TLS_CERT": str(pair.cert), "STACKD_SERVER__TLS_KEY": str(pair.key)}
    async with harness(tmp_path, tls) as at:
        shell = Shell(at=at, home=tmp_path)
        url = at.url.replace("http:", "https:")
        assert "certificate verify failed" in (await shell.run("list", STACKD_URL=url)).stderr
        assert (await shell.run("list", "--ca-file", str(ca.cert), STACKD_URL=url)).exit_code == 0
        wrong = await shell.run("list", STACKD_URL=url, STACKD_CA_FILE=str(other.cert))
        assert "certificate verify failed" in wrong.stderr
        none = await shell.run("list", "--ca-file", str(pair.key), STACKD_URL=url)
        assert (none.exit_code, "cannot be used as --ca-file" in none.stderr) == (2, True)
