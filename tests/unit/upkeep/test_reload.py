"""What a running daemon takes over: the key file whenever it changes, and at a reload all that may change."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stackd.keys import digest
from stackd.upkeep import reload
from stackd.upkeep.systemd import ProcessContext
from tests.harness import KEY, READ_KEY, Harness, eventually, harness

NEW_KEY = "sk-new-0123456789abcdef0123456789"


@asynccontextmanager
async def with_key_file(folder: Path) -> AsyncIterator[tuple[Harness, Path]]:
    """A daemon that accepts the key in a file, and another one."""
    file, config = folder / "keys", folder / "config.toml"
    file.write_text(KEY)
    file.chmod(0o600)
    config.write_text(f'[auth]\nkey_file = "{file}"\n')
    async with harness(folder, {"STACKD_AUTH__KEY": READ_KEY}, config=config, edited={}) as at:
        yield at, file


def valid(at: Harness) -> list[bool]:
    in_force = {key.sha256 for key in at.config.auth.keys}
    return [digest(key) in in_force for key in (KEY, NEW_KEY, READ_KEY)]


async def test_a_key_is_rotated_by_writing_the_key_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reload, "KEY_FILE_SECONDS", 0.02)
    refused = "and is not used"
    async with with_key_file(tmp_path) as (at, file):
        for keys, expected in ((f"{KEY}\n{NEW_KEY}\n", [True, True, True]), (NEW_KEY, [False, True, True])):
            (tmp_path / "next").write_text(keys)
            os.replace(tmp_path / "next", file)
            await eventually(lambda expected=expected: valid(at) == expected)  # type: ignore[misc]
        file.write_text("")
        await eventually(lambda: refused in caplog.text)
        file.unlink()
        await asyncio.sleep(0.1)  # a file that is missing is none that changed
        assert (valid(at), sum(refused in line for line in caplog.messages)) == ([False, True, True], 1)


async def test_a_key_rotated_during_a_reload_is_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "KEY_FILE_SECONDS", 0.02)
    read = asyncio.Event()
    async with with_key_file(tmp_path) as (at, file):

        async def reload_credentials() -> bool:  # the reload has read the old file
            file.write_text(NEW_KEY)
            await asyncio.sleep(0.2)
            read.set()
            return False

        monkeypatch.setattr(at.daemon.context.cluster, "reload_credentials", reload_credentials)
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.wait_for(read.wait(), 30)
        await asyncio.sleep(0.2)
        await eventually(lambda: valid(at) == [False, True, True])


async def test_what_the_kubelet_mounts_anew_is_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It replaces one link, to a folder with all files of the ConfigMap and the Secret."""
    monkeypatch.setattr(reload, "KEY_FILE_SECONDS", 0.02)
    mount = tmp_path / "etc"

    def mount_files(folder: str, ttl: str) -> None:
        (mount / folder).mkdir(parents=True)
        (mount / folder / "config.toml").write_text(f'[stacks]\nttl = "{ttl}"\n')
        (mount / "..data_tmp").symlink_to(folder)
        os.replace(mount / "..data_tmp", mount / "..data")

    mount_files("..1", "10m")
    (config := mount / "config.toml").symlink_to("..data/config.toml")
    async with harness(tmp_path, config=config, edited={}, process=ProcessContext(credentials=mount)) as at:
        assert at.config.stacks.ttl == 600
        for folder, ttl in (("..2", 1200), ("..3", 1800)):
            mount_files(folder, f"{ttl // 60}m")
            await eventually(lambda ttl=ttl: at.config.stacks.ttl == ttl)  # type: ignore[misc]
