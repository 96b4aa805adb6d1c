"""The key file is watched: new content is in force a moment later, and an unusable file changes nothing."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from stackd.config import load
from stackd.config.credentials import STAMP
from stackd.upkeep import reload
from stackd.upkeep.reload import HandOver, KeyFile
from tests.harness import KEY, READ_KEY, harness

NEW_KEY = "sk-new-0123456789abcdef0123456789"


async def test_a_key_is_rotated_by_writing_the_key_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(KEY)
    file.chmod(0o600)
    config = tmp_path / "config.toml"
    config.write_text(f'[auth]\nkey_file = "{file}"\n')
    async with harness(tmp_path, {"STACKD_AUTH__KEY": READ_KEY}, config=config) as at:
        context = at.daemon.context
        environment = {"STACKD_AUTH__KEY": READ_KEY, "STACKD_CLUSTER__MODE": "embedded"}
        follower = KeyFile(context, at.daemon.api.keys, lambda: load(config, environment))

        async def valid(key: str) -> bool:
            return (await at.call("GET", "/healthz", key=key)).status == 200

        file.write_text(f"{KEY}\n{NEW_KEY}\n")
        assert not await valid(NEW_KEY)
        await follower.check()
        assert await valid(KEY)
        assert await valid(NEW_KEY)
        file.write_text("")
        await follower.check()
        assert await valid(NEW_KEY)
        (tmp_path / "next").write_text(NEW_KEY)
        os.replace(tmp_path / "next", file)
        await follower.check()
        assert not await valid(KEY)
        assert await valid(NEW_KEY)
        assert await valid(READ_KEY)
        file.unlink()
        await follower.check()
        assert await valid(NEW_KEY)


# ---- A reload waits for the credentials that are passed with it, but not for ever


def put(folder: Path) -> None:
    fresh = folder / "new"
    fresh.touch()
    fresh.replace(folder / STAMP)


async def test_a_reload_goes_on_as_soon_as_they_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "HAND_OVER_SECONDS", 60.0)
    waiting = HandOver(tmp_path)
    for _ in range(2):
        arrival = asyncio.create_task(waiting.arrived())
        await asyncio.sleep(0.1)
        assert not arrival.done()
        put(tmp_path)
        await asyncio.wait_for(arrival, 30.0)


async def test_those_that_came_before_the_signal_was_looked_at_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "HAND_OVER_SECONDS", 60.0)
    waiting = HandOver(tmp_path)
    put(tmp_path)
    await asyncio.wait_for(waiting.arrived(), 30.0)


async def test_without_any_it_goes_on_after_a_while_and_where_none_come_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "HAND_OVER_SECONDS", 0.1)
    await HandOver(tmp_path).arrived()
    monkeypatch.setattr(reload, "HAND_OVER_SECONDS", 60.0)
    began = time.monotonic()
    await HandOver(None).arrived()
    assert time.monotonic() - began < 30
