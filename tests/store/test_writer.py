"""The writer: what shares a commit, what waits for the disk, and what is there after ``kill -9``."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from stackd.errors import Conflict, StoreError, StoreUnavailable
from stackd.model import Stack
from stackd.store import Store, changes
from stackd.store.transaction import Transaction
from tests.store.building import ROOT, busy, claim, new_stack, open_store, query, reopened, seen, stack_id


async def test_what_fails_after_it_has_written_leaves_nothing_in_the_commit_that_it_shares(store: Store) -> None:
    await store.stacks.reserve(new_stack(1), claim=claim("a"))
    changed: list[str] = []
    store.stacks.subscribe(lambda _, after: changed.append(after.stack_id if after else ""))

    def fail(tx: Transaction) -> None:
        changes.accept(tx, seen(3), pod_uid="p", service_uid="s")
        raise ZeroDivisionError

    commits = store.counters.commits
    async with busy(store):
        calls = asyncio.gather(
            store.stacks.reserve(new_stack(2, ports=5), claim=claim("a")),
            store.stacks.reserve(new_stack(3), claim=claim("b")),
            store._writer.submit(fail),
            store.stacks.reserve(new_stack(4), claim=claim("c")),
            return_exceptions=True,
        )
    assert [type(result) for result in await calls] == [Conflict, Stack, ZeroDivisionError, Stack]
    assert (store.counters.commits, changed) == (commits + 1, [stack_id(3), stack_id(4)])
    rows = query(store.path, "SELECT stack_id, accepted FROM stacks ORDER BY stack_id")
    assert rows == [(stack_id(1), 0), (stack_id(3), 0), (stack_id(4), 0)]
    assert query(store.path, "SELECT count(*) FROM node_ports") == [(3,)]
    assert query(store.path, "SELECT count(*) FROM timeline") == [(0,)]
    assert (store.ports.used, store.ports.free) == (3, 97)


async def test_a_call_that_was_cancelled_before_its_turn_does_nothing(store: Store) -> None:
    async with busy(store):
        call = asyncio.ensure_future(store.stacks.reserve(new_stack(2)))
        other = asyncio.ensure_future(store.stacks.reserve(new_stack(3)))
        await asyncio.sleep(0)
        assert store.pending == 3
        call.cancel()
    await other
    with pytest.raises(asyncio.CancelledError):
        await call
    assert store.stacks.ids() == {stack_id(3)}
    assert store.pending == 0


async def test_only_what_was_submitted_before_the_close_is_done(path: Path) -> None:
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


async def _failure(store: Store) -> None:
    await asyncio.wait_for(store.failed(), 30)


async def test_the_end_of_the_thread_fails_what_waits_and_the_daemon(path: Path) -> None:
    def die(tx: Transaction) -> NoReturn:
        raise SystemExit("on purpose")

    store = await open_store(path)
    await store.stacks.reserve(new_stack(1), claim=claim())
    watcher = asyncio.ensure_future(_failure(store))
    await asyncio.sleep(0)
    watcher.cancel()  # which leaves the store as it is
    results = await asyncio.gather(
        store._writer.submit(die),
        store.stacks.reserve(new_stack(2)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [StoreUnavailable, StoreUnavailable]
    with pytest.raises(StoreError, match="the state file failed: on purpose"):
        await _failure(store)
    with pytest.raises(StoreUnavailable):
        await store.probe()
    again = await reopened(store)
    assert [stack.accepted for stack in again.stacks] == [False]
    await again.close()


async def test_a_subscriber_that_raises_ends_the_store_because_the_view_may_be_wrong(store: Store) -> None:
    def broken(before: Stack | None, after: Stack | None) -> NoReturn:
        raise RuntimeError("a bug")

    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    store.stacks.subscribe(broken)
    await store.stacks.reserve(new_stack(1))
    with pytest.raises(StoreError, match="a bug"):
        await _failure(store)
    assert len(reported) == 1


# ---- a writing process is killed with kill -9: what it acknowledged is in the file, and nothing is there by halves

WRITER = """
import asyncio, pathlib, sys
from stackd.clock import SystemClock
from stackd.model import DeleteReason, PortRange
from stackd.store import Store, changes
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
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        answers = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        answers += process.stdout.readlines()
    return [line for line in answers if line.endswith("\n")]


async def test_what_was_acknowledged_before_a_kill_is_there_after_it(path: Path) -> None:
    answers = await asyncio.to_thread(run_and_kill, path, 200)
    reserved, begun, removed = ({int(line[2:]) for line in answers if line.startswith(sign)} for sign in "+?-")
    store = await open_store(path, ports=(20000, 32767))
    there = {int(stack.stack_id.removeprefix("stack-"), 16): stack for stack in store.stacks}
    assert {number for number in reserved if number % 3} <= there.keys()
    assert not removed & there.keys()
    assert all(there[number].deleting_since is not None for number in begun & there.keys())
    ports = [port.node_port for stack in there.values() for port in stack.ports]
    assert len(ports) == len(set(ports)) == 2 * len(there) == store.ports.used
    await store.close()
