"""What the cluster would show again is committed without a disk sync; any other write syncs, and syncs it too."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stackd.model import Stack, StackStatus
from stackd.store import Store
from stackd.store.transaction import Transaction
from tests.store.building import accepted, new_stack, open_store, seen, stack_id

FULL, NORMAL = 2, 1


def synchronous(tx: Transaction) -> int:
    row: tuple[Any, ...] | None = tx.row("PRAGMA synchronous")
    assert row is not None
    return int(row[0])


async def test_an_observation_alone_does_not_wait_for_the_disk(store: Store) -> None:
    await accepted(store)
    commits, waits = store.counters.commits, store.counters.disk_waits
    assert await store.stacks.observe([seen(0, StackStatus.RUNNING)])
    assert (store.counters.commits, store.counters.disk_waits) == (commits + 1, waits)


async def test_the_file_is_told_to_wait_or_not_to(store: Store) -> None:
    submit = store._writer.submit
    assert await submit(synchronous) == FULL
    assert await submit(synchronous, relaxed=True) == NORMAL
    assert await submit(synchronous) == FULL


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let observations wait for company for a minute, as long as the last commit is not older than that."""
    monkeypatch.setattr("stackd.store.writer._COMPANY_SECONDS", 60.0)
    monkeypatch.setattr("stackd.store.writer._BUSY_SECONDS", 60.0)


async def waiting_observation(store: Store) -> asyncio.Task[list[Stack]]:
    """An observation that waits."""
    observing = asyncio.create_task(store.stacks.observe([seen(0, StackStatus.RUNNING)]))
    done, _ = await asyncio.wait({observing}, timeout=0.2)
    assert not done
    return observing


@pytest.mark.usefixtures("patient")
async def test_an_observation_amid_other_writes_waits_to_share_the_next_commit(store: Store) -> None:
    await accepted(store)
    commits = store.counters.commits
    observing = await waiting_observation(store)
    await store.stacks.reserve(new_stack(1))
    assert await observing
    assert store.counters.commits == commits + 1


@pytest.mark.usefixtures("patient")
async def test_no_read_waits_with_an_observation_and_no_close(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "state.db")
    await accepted(store)
    observing = await waiting_observation(store)
    assert await store.timeline.read(stack_id(0))
    assert await observing
    observing = asyncio.create_task(store.stacks.observe([seen(0, ended=True)]))
    await asyncio.sleep(0)
    await store.close()
    assert await observing


async def test_an_observation_waits_for_nobody_where_nothing_else_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackd.store.writer._COMPANY_SECONDS", 60.0)
    monkeypatch.setattr("stackd.store.writer._BUSY_SECONDS", 0.0)
    store = await open_store(tmp_path / "state.db")
    await accepted(store)
    async with asyncio.timeout(20):
        assert await store.stacks.observe([seen(0, StackStatus.RUNNING)])
    await store.close()
