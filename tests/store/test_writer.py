from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from stackd.errors import Conflict, StoreError, StoreUnavailable
from stackd.model import DeleteReason, Stack
from stackd.store import Store
from tests.store.building import accepted, claim, new_stack, open_store, seen, stack_id


async def test_an_operation_alone_is_one_commit_of_few_statements(store: Store) -> None:
    async def cost(call: Callable[[], object]) -> tuple[int, int]:
        commits, statements = store.counters.commits, store.counters.statements
        await call()  # type: ignore[misc]
        return store.counters.commits - commits, store.counters.statements - statements

    one = stack_id(1)
    await store.stacks.check({}, ports=1)  # the first search for a free port reads all of them
    assert await cost(lambda: store.stacks.reserve(replace(new_stack(1), labels={}))) == (1, 3)
    assert await cost(lambda: store.stacks.accept(seen(1), pod_uid="p", service_uid="s")) == (1, 3)
    assert await cost(lambda: store.stacks.observe([seen(1, ended=True)])) == (1, 2)
    assert await cost(lambda: store.stacks.mark_deleting([one], DeleteReason.REQUEST)) == (1, 3)
    assert await cost(lambda: store.stacks.remove([one])) == (1, 5)
    assert await cost(lambda: store.claims.find("web", "key")) == (0, 1)


@asynccontextmanager
async def busy(store: Store) -> AsyncIterator[None]:
    """While the writer's thread works on stack 1: what is submitted in the block shares the commit after it."""
    reached, go_on = threading.Event(), threading.Event()
    await store.stacks.reserve(new_stack(1), claim=claim("a"))

    def hold_up(stack: Stack) -> bytes:
        reached.set()
        assert go_on.wait(10)
        return b""

    first = asyncio.ensure_future(store.stacks.accept(seen(1), pod_uid="p", service_uid="s", answer=hold_up))
    await asyncio.to_thread(reached.wait, 10)
    yield
    await asyncio.sleep(0)
    go_on.set()
    await first


async def test_what_fails_after_it_has_written_leaves_nothing_in_the_commit_that_it_shares(
    store: Store, path: Path
) -> None:
    heard: list[str] = []
    async with busy(store):
        store.stacks.subscribe(lambda _, after: heard.append(after.stack_id if after else ""))
        commits = store.counters.commits
        others = asyncio.gather(
            store.stacks.reserve(new_stack(2, ports=5), claim=claim("a")),
            store.stacks.reserve(new_stack(3), claim=claim("b")),
            store.stacks.accept(seen(3), pod_uid="p", service_uid="s", answer=lambda _: bytes(1 // 0)),
            store.stacks.reserve(new_stack(4), claim=claim("c")),
            return_exceptions=True,
        )
    assert [type(result) for result in await others] == [Conflict, Stack, ZeroDivisionError, Stack]
    assert store.counters.commits == commits + 2, "that of the first, and one that all others share"
    assert heard == [stack_id(1), stack_id(3), stack_id(4)]
    with closing(sqlite3.connect(path)) as reader:
        assert sorted(reader.execute("SELECT stack_id, accepted FROM stacks")) == [
            (stack_id(1), 1),
            (stack_id(3), 0),
            (stack_id(4), 0),
        ]
        assert reader.execute("SELECT count(*) FROM node_ports").fetchone() == (3,)
        assert reader.execute("SELECT count(*) FROM timeline WHERE stack_id <> ?", (stack_id(1),)).fetchone() == (0,)
    assert (store.ports.used, store.ports.free) == (3, 97)


async def test_nobody_sees_a_row_before_its_commit(store: Store, path: Path) -> None:
    process = sqlite3.connect(path)
    found: list[bool] = []

    def look(before: Stack | None, after: Stack | None) -> None:
        query = "SELECT count(*) FROM stacks WHERE stack_id = ?"
        found.append(bool(process.execute(query, (stack_id(1),)).fetchone()[0]))

    store.stacks.subscribe(look)
    await store.stacks.reserve(new_stack(1))
    assert found == [True]
    process.close()


async def test_a_call_that_was_given_up_before_its_turn_does_nothing(store: Store) -> None:
    async with busy(store):
        call = asyncio.ensure_future(store.stacks.reserve(new_stack(2)))
        other = asyncio.ensure_future(store.stacks.reserve(new_stack(3)))
        await asyncio.sleep(0)
        assert store.pending == 3
        call.cancel()
    await other
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [stack.stack_id for stack in store.stacks] == [stack_id(1), stack_id(3)]
    assert store.pending == 0


async def test_an_operation_works_with_what_it_was_given_whatever_becomes_of_that_list(store: Store) -> None:
    go_on = threading.Event()
    await store.stacks.reserve(new_stack(1), claim=claim())
    await accepted(store, 2)

    def hold_up(stack: Stack) -> bytes:
        assert go_on.wait(10)
        return b""

    first = asyncio.ensure_future(store.stacks.accept(seen(1), pod_uid="p", service_uid="s", answer=hold_up))
    await asyncio.sleep(0)
    ids = [stack_id(2)]
    marking = asyncio.ensure_future(store.stacks.mark_deleting(ids, DeleteReason.REQUEST))
    await asyncio.sleep(0)
    ids.clear()
    go_on.set()
    await first
    assert [stack.stack_id for stack in await marking] == [stack_id(2)]


async def test_what_was_submitted_before_the_close_is_done_and_nothing_after(path: Path) -> None:
    store = await open_store(path)
    calls = [asyncio.ensure_future(store.stacks.reserve(new_stack(number))) for number in range(10)]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    assert all(call.done() for call in calls)
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.stacks.reserve(new_stack(99))
    assert not path.with_name("stackd.db-wal").exists()
    again = await open_store(path)
    assert len(again.stacks) == 10
    await again.close()


async def test_the_end_of_the_thread_fails_what_waits_and_is_told_to_the_daemon(path: Path) -> None:
    def die(stack: Stack) -> NoReturn:
        raise SystemExit("told to")

    store = await open_store(path)
    await store.stacks.reserve(new_stack(1), claim=claim())
    watcher = asyncio.ensure_future(_wait(store))
    results = await asyncio.gather(
        store.stacks.accept(seen(1), pod_uid="p", service_uid="s", answer=die),
        store.stacks.reserve(new_stack(2)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [StoreUnavailable, StoreUnavailable]
    with pytest.raises(StoreError, match="the state file failed: told to"):
        await asyncio.wait_for(watcher, 30)
    with pytest.raises(StoreUnavailable):
        await store.probe()
    await store.close()
    again = await open_store(path)
    assert [stack.accepted for stack in again.stacks] == [False]
    await again.close()


async def _wait(store: Store) -> None:
    await store.failed


async def test_a_subscriber_that_raises_ends_the_store_since_the_view_may_be_wrong(store: Store) -> None:
    def broken(before: Stack | None, after: Stack | None) -> NoReturn:
        raise RuntimeError("a bug")

    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    store.stacks.subscribe(broken)
    await store.stacks.reserve(new_stack(1))
    with pytest.raises(StoreError, match="a bug"):
        await asyncio.wait_for(_wait(store), 30)
    assert len(told) == 1
