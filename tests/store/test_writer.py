from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from stackd.errors import Conflict, StoreError, StoreUnavailable
from stackd.model import DeleteReason, Stack, StackStatus
from stackd.store import Store
from stackd.store.transaction import Transaction
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


# ---- what the cluster would show again is committed without a disk sync; any other write syncs, and syncs it too


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


# ---- a writing process is killed with kill -9: what it acknowledged is in the file, and nothing is there by halves


ROOT = Path(__file__).parents[2]

WRITER = """
import asyncio, pathlib, sys
from stackd.clock import SystemClock
from stackd.model import DeleteReason, PortRange
from stackd.store import Store
from tests.store.building import new_stack, stack_id

async def one(store, number):
    while True:
        await store.stacks.reserve(new_stack(number, ports=2))
        print("+", number, flush=True)
        if number % 3 == 0:
            await store.stacks.mark_deleting([stack_id(number)], DeleteReason.REQUEST)
            print("?", number, flush=True)
            await store.stacks.remove([stack_id(number)])
            print("-", number, flush=True)
        number += 8

async def main():
    store = await Store.open(pathlib.Path(sys.argv[1]), clock=SystemClock(), node_ports=PortRange(20000, 32767))
    await asyncio.gather(*(one(store, number) for number in range(8)))

asyncio.run(main())
"""


def run_and_kill(path: Path, lines: int) -> list[str]:
    """Run the writer until it has acknowledged ``lines`` writes, kill it, and return all acknowledgements."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        said += process.stdout.readlines()
    return [line for line in said if line.endswith("\n")]


@pytest.mark.parametrize("lines", [1, 7, 40, 133, 400])
async def test_what_was_acknowledged_before_a_kill_is_there_after_it(path: Path, lines: int) -> None:
    said = await asyncio.to_thread(run_and_kill, path, lines)
    assert len(said) >= lines
    reserved = {int(line.split()[1]) for line in said if line.startswith("+")}
    begun = {int(line.split()[1]) for line in said if line.startswith("?")}
    removed = {int(line.split()[1]) for line in said if line.startswith("-")}
    store = await open_store(path, ports=(20000, 32767))
    there = {int(stack.stack_id.removeprefix("stack-"), 16): stack for stack in store.stacks}
    expected = reserved - {number for number in reserved if number % 3 == 0}
    assert expected <= there.keys()
    assert not removed & there.keys()
    assert all(there[number].deleting_since is not None for number in begun & there.keys())
    ports = [port.node_port for stack in there.values() for port in stack.ports]
    assert len(ports) == len(set(ports)) == 2 * len(there) == store.ports.used
    await store.close()


async def test_every_other_write_waits_for_it(store: Store) -> None:
    await accepted(store)
    await store.stacks.observe([seen(0, StackStatus.RUNNING)])
    waits = store.counters.disk_waits
    await store.stacks.mark_deleting([stack_id(0)], DeleteReason.REQUEST)
    await store.stacks.remove([stack_id(0)])
    assert store.counters.disk_waits == waits + 2


async def test_an_observation_that_shares_a_commit_waits_with_it(store: Store) -> None:
    await accepted(store)
    waits = store.counters.disk_waits
    async with asyncio.TaskGroup() as group:
        for number in range(1, 20):
            group.create_task(store.stacks.reserve(new_stack(number)))
            group.create_task(store.stacks.observe([seen(0, StackStatus.RUNNING)]))
    assert store.stacks.get(stack_id(0)) is not None
    assert store.counters.disk_waits > waits


async def test_operations_that_wait_together_share_a_commit(store: Store) -> None:
    before = store.counters.commits
    await asyncio.gather(*(store.stacks.reserve(new_stack(number)) for number in range(100)))
    assert store.counters.commits - before <= 4
    assert store.counters.operations == 100


async def test_a_watcher_that_is_cancelled_leaves_the_store_as_it_is(store: Store) -> None:
    watcher = asyncio.ensure_future(_wait(store))
    await asyncio.sleep(0)
    watcher.cancel()
    await asyncio.gather(watcher, return_exceptions=True)
    await store.probe()
