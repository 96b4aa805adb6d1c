"""The list in pieces: correct, shared between requests, and blocking nobody."""

from __future__ import annotations

import asyncio
import itertools
import select
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import cast

import orjson
import pytest

from stackd.cli.options import loop_factory
from stackd.model import PortRange, Stack, StackStatus
from stackd.store import Store
from stackd.web.api import Api
from stackd.web.bodies import HOLD_SECONDS, Listing, Piece, Unread, read_missing
from stackd.web.change_feed import FeedChange
from stackd.web.events import _frames, _render, _Subscriber
from stackd.web.serving import host_and_port
from tests.harness import harness
from tests.store.building import PORTS, TestClock, new_stack, stack_id
from tests.unit.lifecycle.situations import STACK


def stack(number: int, status: StackStatus = StackStatus.RUNNING) -> Stack:
    name = f"stack-{number * 2654435761 % (1 << 64):016x}"
    return replace(STACK, stack_id=name, status=status, created_at=number)


def entry(one: Stack) -> bytes:
    return orjson.dumps({"stack_id": one.stack_id, "status": one.status})


def ready(pieces: list[Piece | Unread]) -> list[Piece]:
    """The pieces; none of them may be late."""
    found = [piece for piece in pieces if not isinstance(piece, tuple)]
    assert len(found) == len(pieces)
    return found


def ids(pieces: list[Piece | Unread]) -> list[str]:
    return listed(b"".join(ready(pieces)))


def listed(body: bytes) -> list[str]:
    return [one["stack_id"] for one in orjson.loads(body)["stacks"]]


async def test_the_list_has_every_stack_once_in_the_order_given() -> None:
    for count in (0, 1, 2, 63, 64, 65, 1000):
        stacks = tuple(stack(number) for number in range(count))
        assert ids(await Listing(entry).pieces(stacks)) == [one.stack_id for one in stacks]


async def test_a_stack_that_changes_comes_or_goes_changes_one_or_two_pieces_and_shares_the_others() -> None:
    listing, stacks = Listing(entry), tuple(stack(number) for number in range(2000))
    before = {id(piece) for piece in (await listing.pieces(stacks))[2:-1]}
    changes = [
        (*stacks[:700], stack(700, StackStatus.FAILED), *stacks[701:]),
        (*stacks[:900], *stacks[901:]),
        (*stacks, stack(2000)),
    ]
    for changed in changes:
        pieces = await Listing.pieces(listing, changed)
        assert ids(pieces) == [one.stack_id for one in changed]
        shared = sum(id(piece) in before for piece in pieces[2:-1])
        assert shared >= len(before) - 2
        await listing.pieces(stacks)
        before = {id(piece) for piece in (await listing.pieces(stacks))[2:-1]}


async def test_pieces_are_neither_tiny_nor_huge() -> None:
    pieces = await Listing(entry).pieces(tuple(stack(number) for number in range(20_000)))
    counts = [bytes(piece).count(b"stack_id") for piece in ready(pieces)[1:-1]]
    assert max(counts) <= 256
    assert 32 <= sum(counts) / len(counts) <= 128


async def test_others_get_their_turn_while_a_long_list_is_rendered() -> None:
    def slow(one: Stack) -> bytes:
        end = time.perf_counter() + 20e-6
        while time.perf_counter() < end:
            pass
        return entry(one)

    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    began = time.perf_counter()
    await Listing(slow).pieces(tuple(stack(number) for number in range(3000)))
    seconds = time.perf_counter() - began
    task.cancel()
    longest_piece = 256 * 40e-6
    assert turns >= seconds / (HOLD_SECONDS + longest_piece) / 3
    assert turns >= 3


async def test_others_get_a_turn_while_changes_are_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream may resume after 10,000 changes of which its filters select none."""
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
    nothing = _Subscriber(_render(()), lambda change: None)
    assert [piece async for piece in _frames(cast(Api, None), changes, nothing)] == []
    task.cancel()
    assert turns >= len(changes)


LONG = "kind: Pod # " + "x" * 10_000
SHORT = "kind: Pod # short"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "stackd.db", clock=TestClock(), node_ports=PortRange(*PORTS))
    yield opened
    await opened.close()


def with_text(one: Stack) -> bytes:
    return orjson.dumps({"stack_id": one.stack_id, "pod_spec": one.pod_spec})


async def fill(store: Store, long: Callable[[int], bool], count: int = 70) -> list[tuple[str, str]]:
    """Create stacks with long and short pod specs; return their ids and pod specs."""
    texts = [(LONG if long(number) else SHORT) + str(number) for number in range(count)]
    for number, text in enumerate(texts):
        await store.stacks.reserve(new_stack(number, created_at=number, pod_spec=text))
    return [(stack_id(number), text) for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    "long",
    [
        lambda _: True, lambda _: False, lambda number: number == 0, lambda number: number == 69,
        lambda number: number % 3, lambda number: number > 5, lambda number: number < 64,
    ],
)  # fmt: skip
async def test_long_texts_are_read_in_their_place(store: Store, long: Callable[[int], bool]) -> None:
    wanted = await fill(store, long)
    listing = Listing(with_text)
    for _ in range(2):
        pieces = await listing.pieces(store.stacks.ordered())
        body = b"".join([piece async for piece in read_missing(pieces, store, with_text)])
        assert [(one["stack_id"], one["pod_spec"]) for one in orjson.loads(body)["stacks"]] == wanted


@pytest.mark.parametrize("gone", [range(70), range(1), range(20), range(16, 70), range(0, 70, 2)])
async def test_a_stack_that_has_gone_before_its_text_was_read_is_left_out(store: Store, gone: range) -> None:
    wanted = await fill(store, lambda number: number != 40)
    pieces = await Listing(with_text).pieces(store.stacks.ordered())
    await store.stacks.remove([stack_id(number) for number in gone])
    body = b"".join([piece async for piece in read_missing(pieces, store, with_text)])
    left = [name for number, (name, _) in enumerate(wanted) if number not in gone or number == 40]
    assert listed(body) == left


async def test_few_long_texts_are_read_at_a_time(store: Store) -> None:
    await fill(store, lambda _: True, count=40)
    pieces = await Listing(with_text).pieces(store.stacks.ordered())
    before = store.counters.statements
    reading = read_missing(pieces, store, with_text)
    for _ in range(3):
        await anext(reading)
    assert store.counters.statements <= before + 2, "sixteen, and a piece of the list has its own"
    assert len([piece async for piece in reading]) == 40 - 2 + 1
    assert store.counters.statements <= before + 4


# ---- the address at which stackd says that it listens, and how it accepts clients there


@pytest.mark.parametrize(
    ("host", "text"),
    [("127.0.0.1", "127.0.0.1:8081"), ("::", "[::]:8081"), ("::1", "[::1]:8081"), ("localhost", "localhost:8081")],
)
def test_an_ipv6_address_stands_in_brackets(host: str, text: str) -> None:
    assert host_and_port(host, 8081) == text


def test_clients_that_connect_at_once_are_accepted_in_one_turn_of_the_loop(tmp_path: Path) -> None:
    """A turn is long while many connections are busy."""

    async def turns(clients: int) -> int:
        async with harness(tmp_path) as at:
            with ExitStack() as connected:
                waiting = [
                    connected.enter_context(socket.create_connection(("127.0.0.1", at.port))) for _ in range(clients)
                ]
                for client in waiting:
                    client.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                for turn in itertools.count():
                    if len(select.select(waiting, [], [], 0)[0]) == clients:
                        return turn
                    await asyncio.sleep(0)
        raise AssertionError

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        assert runner.run(turns(100)) < 20


async def test_a_client_that_sends_many_requests_at_once_gets_one_answer_in_a_turn_of_the_loop(tmp_path: Path) -> None:
    """From Python 3.12 on, aiohttp's tasks are eager: without a pause, all are answered before anybody else."""
    async with harness(tmp_path) as at:
        requests, answered = at.daemon.context.metrics.route("GET", "/openapi.json"), [0]
        _, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 30)
        async with asyncio.timeout(30):
            while answered[-1] < 30:
                answered.append(requests.codes.total())
                await asyncio.sleep(0)
        writer.transport.abort()
        assert max(after - before for before, after in pairwise(answered)) == 1


async def test_the_same_stacks_are_the_same_pieces_and_not_rendered_again() -> None:
    rendered: Counter[str] = Counter()

    def counted(one: Stack) -> bytes:
        rendered[one.stack_id] += 1
        return entry(one)

    listing, stacks = Listing(counted), tuple(stack(number) for number in range(500))
    assert await listing.pieces(stacks) is await listing.pieces(stacks)
    assert set(rendered.values()) == {1}
