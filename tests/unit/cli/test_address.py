"""Address and key: an option wins over the environment, the environment over the user's file; and who gets the key."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stackd.cli import installed
from tests.certificates import HAVE_OPENSSL, authority, issued
from tests.harness import KEY, harness
from tests.ports import free_port
from tests.unit.cli.conftest import Shell


def write(shell: Shell, text: str) -> Path:
    """Write client.toml."""
    file = shell.home / ".config" / "stackd" / "client.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o600)
    return file


async def test_the_file_gives_address_and_key(shell: Shell) -> None:
    async def listing(*words: str, **environment: str) -> tuple[int, str]:
        result = await shell.run("list", *words, **environment)
        return result.exit_code, result.stderr

    for command in ("list", "watch"):
        assert "cannot be reached" in (await shell.run(command, "--url", "http://127.0.0.1:1")).stderr
    assert "no API key was given; set STACKD_API_KEY" in (await listing(STACKD_API_KEY=""))[1]
    nothing = {"STACKD_URL": "", "STACKD_API_KEY": ""}
    file = write(shell, f'url = "{shell.at.url}"\nkey = "{KEY}"\n')
    assert await listing(**nothing) == (0, "there are no stacks\n")
    file.chmod(0o644)
    assert "chmod 600" in (await listing(**nothing))[1]
    assert "the API key is not valid" in (await listing(STACKD_URL="", STACKD_API_KEY="wrong"))[1]
    (key := shell.home / "key").write_text(f"\n# of the platform\n{KEY}\nsk-second-0123456789\n")
    assert (await listing("--key-file", str(key), STACKD_API_KEY="wrong"))[0] == 0
    assert "http://" in (await listing("--url", "127.0.0.1:8081"))[1]
    (none := shell.home / "none").write_text("# none yet\n")
    assert "holds no key" in (await listing("--key-file", str(none)))[1]
    write(shell, f'key_file = "{key}"\n')
    elsewhere = {"HOME": "/nowhere", "XDG_CONFIG_HOME": str(shell.home / ".config")}
    assert (await listing(STACKD_API_KEY="", **elsewhere))[0] == (await listing(STACKD_API_KEY=f"{KEY}\n"))[0] == 0


@pytest.mark.parametrize("url", ['url = "http://127.0.0.1:1"', ""])
async def test_the_key_of_the_file_goes_to_no_other_address(shell: Shell, url: str) -> None:
    """``--url http://staging`` sent the key of production to staging."""
    write(shell, f'{url}\nkey = "{KEY}"\n')
    address = shell.at.url if url else shell.at.url.replace("127.0.0.1", "0.0.0.0")  # not a name of this machine
    result = await shell.run("list", "--url", address, STACKD_API_KEY="")
    assert result.exit_code == 1
    assert f"is for {'http://127.0.0.1:1' if url else 'this machine'}, and was not sent to {address}" in result.stderr


# ---- The key of this machine goes to the daemon of this machine, and to nobody else who listens there

NOBODY = 65534
STRANGER = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    print("listening", flush=True)
    while True:
        with server.accept()[0] as client:
            client.settimeout(5)
            try:
                print(client.recv(1000), flush=True)
            except TimeoutError:
                print("timeout", flush=True)
"""


@asynccontextmanager
async def stranger(port: int) -> AsyncIterator[asyncio.StreamReader]:
    """Another user's program that listens on the port; it prints what each client sends to it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", STRANGER, str(port), str(NOBODY), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"listening\n"
    try:
        yield process.stdout
    finally:
        process.kill()
        await process.wait()


def configured(shell: Shell, monkeypatch: pytest.MonkeyPatch, more: str) -> Path:
    config = shell.home / "etc" / "config.toml"
    config.parent.mkdir()
    config.write_text(f'{more}\n[state]\npath = "{shell.home}/stackd.db"\n[cluster]\nmode = "embedded"\n')
    config.with_name("api-key").write_text(f"{KEY}\n")
    config.with_name("api-key").chmod(0o600)
    monkeypatch.setattr(installed, "INSTALLED", config)
    return config


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a program as another user")
@pytest.mark.parametrize(
    "words", ["stats", "events", "doctor", "setup --plan --no-admin", "rehearse --stacks 1 --burst --template x"]
)
async def test_a_stranger_on_its_port_gets_no_key(shell: Shell, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    port = free_port()
    configured(shell, monkeypatch, f"[server]\nport = {port}")
    async with stranger(port) as heard:
        result = await shell.any_command(*words.split(), STACKD_URL="", STACKD_API_KEY="")
        assert result.exit_code == 1
        if "setup" not in words:  # it only asks whether the daemon is ready
            assert "belongs to the user nobody" in f"{result.exception}{result.output}"
        assert await heard.readline() == b"b''\n"


@pytest.mark.skipif(not HAVE_OPENSSL, reason="certificates are made with openssl")
async def test_the_daemon_here_is_reached_by_its_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = issued(tmp_path, authority(tmp_path), host="DNS:stackd.example")
    tls = {"STACKD_SERVER__TLS_CERT": str(pair.cert), "STACKD_SERVER__TLS_KEY": str(pair.key)}
    async with harness(tmp_path, tls) as at:
        shell = Shell(at=at, home=tmp_path)
        configured(shell, monkeypatch, f'[server]\nport = {at.port}\ntls_cert = "{pair.cert}"\ntls_key = "{pair.key}"')
        for words, said in (("owner", "owner"), ("doctor", f"it is ready at https://127.0.0.1:{at.port}")):
            result = await shell.any_command(*words.split(), STACKD_URL="", STACKD_API_KEY="")
            assert result.exit_code == 0, result.output
            assert said in result.output
