"""A reload waits for the credentials that are passed with it, but not for ever."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from stackd.config.credentials import STAMP
from stackd.upkeep import reload
from stackd.upkeep.reload import HandOver


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
