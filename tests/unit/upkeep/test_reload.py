"""What a running daemon takes over: the key file whenever it changes, and at a reload all that may change."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stackd.config.credentials import STAMP
from stackd.keys import digest
from stackd.upkeep import reload
from stackd.upkeep.reload import HandOver
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
    async with with_key_file(tmp_path) as (at, file):

        async def valid_after(change: Callable[[], object], *expected: bool) -> None:
            change()
            await asyncio.sleep(0.1)
            await eventually(lambda: valid(at) == list(expected), lambda: f"{valid(at)}", 5.0)

        await valid_after(lambda: None, True, False, True)
        await valid_after(lambda: file.write_text(f"{KEY}\n{NEW_KEY}\n"), True, True, True)
        await valid_after(lambda: file.write_text(""), True, True, True)
        (tmp_path / "next").write_text(NEW_KEY)
        await valid_after(lambda: os.replace(tmp_path / "next", file), False, True, True)
        await valid_after(file.unlink, False, True, True)
    assert sum("and is not used" in line for line in caplog.messages) == 1, (
        "a file that is missing is none that changed"
    )


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
        await asyncio.wait_for(read.wait(), 5.0)
        await asyncio.sleep(0.2)
        await eventually(lambda: valid(at) == [False, True, True], deadline=2.0)


async def test_reloads_and_changed_keys_are_in_the_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "KEY_FILE_SECONDS", 0.02)
    config, audit = tmp_path / "config.toml", tmp_path / "audit.jsonl"
    async with with_key_file(tmp_path) as (at, file):
        right = f'{config.read_text()}[log]\naudit = "{audit}"\n[stacks]\nttl = "3h"\n'

        async def noted(change: Callable[[], object], action: str, status: str, *words: str) -> None:
            change()
            os.kill(os.getpid(), signal.SIGHUP)

            async def check() -> bool:
                shown = (await at.call("GET", f"/activity?action={action}&limit=1", key=READ_KEY)).json["activity"]
                found = [one["status"] == status and all(word in one["message"] for word in words) for one in shown]
                return found == [True]

            await eventually(check)

        await noted(lambda: config.write_text(right), "reload", "completed", 'stacks.ttl: "2h" → "3h"')
        await noted(lambda: config.write_text(right + "ttk = 1\n"), "reload", "failed", "refused: ", "ttk: unknown key")
        config.write_text(right)
        new, gone = [f"(admin, {digest(key).hex()[:8]})" for key in (NEW_KEY, KEY)]
        words = (f"new: ops {new}", f"gone: key-file-{digest(KEY).hex()[:8]} {gone}")
        await noted(lambda: file.write_text(f"ops: {NEW_KEY}\n"), "keys", "completed", *words)
        await noted(lambda: file.write_text(f"stackd: {NEW_KEY}\n"), "keys", "failed", "refused: ", "holds a name that")
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert {("reload", True), ("keys", False), ("keys", True)} <= {(line["kind"], line["failed"]) for line in lines}


# ---- a reload waits for the credentials that are passed with it, but not for ever


async def test_a_reload_goes_on_as_soon_as_they_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def put() -> None:
        (tmp_path / "new").touch()
        (tmp_path / "new").replace(tmp_path / STAMP)

    monkeypatch.setattr(reload, "HAND_OVER_SECONDS", 60.0)
    async with asyncio.timeout(30):
        await HandOver(None).arrived()  # none are passed
        waiting = HandOver(tmp_path)
        for _ in range(2):
            arrival = asyncio.create_task(waiting.arrived())
            await asyncio.sleep(0.1)
            assert not arrival.done()
            put()
            await arrival
        put()
        await waiting.arrived()  # they came before the signal was looked at
        monkeypatch.setattr(reload, "HAND_OVER_SECONDS", 0.1)
        await waiting.arrived()  # none have come
