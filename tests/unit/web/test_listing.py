"""The list: read in place where it is not in memory, shared by its readers, and blocking nobody."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from msgspec import json

from stackd.lifecycle.context import Context
from stackd.model import Stack
from stackd.store import Store
from stackd.web.api import Api
from stackd.web.auth import ANONYMOUS
from stackd.web.bodies import BodyCache, read_entries, rendered_entries
from stackd.web.change_feed import FeedChange
from stackd.web.events import _frames, _Subscriber
from tests.harness import harness
from tests.store.building import new_stack, open_store, stack_id


async def test_nothing_is_kept_of_a_stack_deleted_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turn = asyncio.Event()

    async def in_turns(stacks: Iterable[Stack]) -> AsyncIterator[Stack]:
        for stack in stacks:
            await turn.wait()
            yield stack

    monkeypatch.setattr("stackd.web.bodies.in_turns", in_turns)
    async with harness(tmp_path) as at:
        cache, deleted, stays = at.daemon.api.bodies, await at.running(), await at.running()
        reading = asyncio.create_task(cache.entries(at.daemon.context.store.assigned.ordered()))
        await asyncio.sleep(0)
        await at.call("DELETE", f"/stacks/{deleted}")
        turn.set()
        assert (len(await reading), {*cache._ready}) == (2, {stays})


LONG = "kind: Pod # " + "x" * 10_000
SHORT = "kind: Pod # short"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(tmp_path / "stackd.db")
    yield opened
    await opened.close()


def with_text(one: Stack) -> bytes:
    return json.encode({"stack_id": one.stack_id, "pod_spec": one.pod_spec})


async def fill(store: Store, long: Callable[[int], bool], count: int = 70) -> list[tuple[str, str]]:
    """Create stacks with long and short pod specs; return their ids and pod specs."""
    texts = [(LONG if long(number) else SHORT) + str(number) for number in range(count)]
    for number, text in enumerate(texts):
        await store.stacks.reserve(new_stack(number, created_at=number, pod_spec=text))
    return [(stack_id(number), text) for number, text in enumerate(texts)]


@pytest.mark.parametrize("gone", [range(0), range(70), range(16, 70), range(0, 70, 2)])
@pytest.mark.parametrize("long", [lambda number: number != 40, lambda number: number % 3])
async def test_long_texts_are_read_in_place_if_they_are_there(
    store: Store, long: Callable[[int], bool], gone: range
) -> None:
    wanted = await fill(store, long)
    stacks = store.stacks.ordered()
    await store.stacks.remove([stack_id(number) for number in gone])
    body = b"[" + b"".join([piece async for piece in read_entries(stacks, store, with_text)]) + b"]"
    expected = [one for number, one in enumerate(wanted) if number not in gone or not long(number)]
    assert [(one["stack_id"], one["pod_spec"]) for one in json.decode(body)] == expected


@pytest.mark.parametrize("long", [True, False])
async def test_a_reader_who_waits_holds_one_piece(store: Store, long: bool) -> None:
    """A key may have thousands of connections, and read nothing of the answers."""
    await fill(store, lambda _: long, count=40)
    stacks = store.stacks.ordered()
    readers = [
        read_entries(stacks, store, with_text) if long else rendered_entries(stacks, lambda _: LONG.encode())
        for _ in range(20)
    ]
    tracemalloc.start()
    try:
        pieces = [await anext(reader) for reader in readers]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.3 * sum(map(len, pieces))
    assert max(map(len, pieces)) < (5 if long else 17) * len(LONG)
    for reader in readers:
        await reader.aclose()


async def test_others_get_a_turn_during_filters_and_rendering(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream may resume after thousands of changes of which its filters select none."""
    await fill(store, lambda _: False)
    stacks = store.assigned.ordered()
    clock = itertools.count()
    monkeypatch.setattr("stackd.web.bodies.perf_counter", lambda: next(clock))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    changes = [FeedChange(number, "stack-1", None) for number in range(100)]
    nothing = _Subscriber(ANONYMOUS, (), only=stacks[0])
    assert [piece async for piece in _frames(cast(Api, None), changes, nothing)] == []
    assert turns >= len(changes)
    turns = 0
    cache = BodyCache(cast(Context, SimpleNamespace(store=store, spares=None, mirror=None)))
    entries = await cache.entries(stacks)
    task.cancel()
    assert turns >= len(entries) == 70
    assert await cache.entries(stacks) is entries, "readers share them"


async def test_a_client_that_sends_many_requests_at_once_gets_one_answer_in_a_turn_of_the_loop(tmp_path: Path) -> None:
    """From Python 3.12 on, aiohttp's tasks are eager: without a pause, all are answered before anybody else."""
    async with harness(tmp_path) as at:
        requests, answered = at.daemon.context.metrics.route("GET", "/healthz"), [0]
        _, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 30)
        async with asyncio.timeout(30):
            while answered[-1] < 30:
                answered.append(requests.codes.total())
                await asyncio.sleep(0)
        writer.transport.abort()
        assert max(after - before for before, after in pairwise(answered)) == 1
