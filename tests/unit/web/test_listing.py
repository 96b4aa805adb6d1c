"""The list in pieces: right, shared, and not in anybody's way."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import orjson

from stackd.model import Stack, StackStatus
from stackd.web.listing import HOLD_SECONDS, Listing, Piece


def stack(number: int, status: StackStatus = StackStatus.RUNNING) -> Stack:
    return Stack(
        stack_id=f"stack-{number * 2654435761 % (1 << 64):016x}",
        namespace="stacks",
        pod_spec="",
        ports=(),
        status=status,
        created_at=number,
        updated_at=number,
        ttl_expires_at=number,
        requested_cpu_milli=1,
        requested_memory_bytes=1,
    )


def entry(one: Stack) -> bytes:
    return orjson.dumps({"stack_id": one.stack_id, "status": one.status})


def ids(pieces: list[Piece]) -> list[str]:
    return [listed["stack_id"] for listed in orjson.loads(b"".join(pieces))["stacks"]]


async def test_no_stacks_are_an_empty_list() -> None:
    assert b"".join(await Listing(entry).pieces(())) == b'{"stacks":[]}'


async def test_the_list_has_every_stack_once_in_the_order_given() -> None:
    for count in (1, 2, 63, 64, 65, 1000):
        stacks = tuple(stack(number) for number in range(count))
        assert ids(await Listing(entry).pieces(stacks)) == [one.stack_id for one in stacks]


async def test_the_same_stacks_are_the_same_pieces_and_not_rendered_again() -> None:
    rendered: Counter[str] = Counter()

    def counted(one: Stack) -> bytes:
        rendered[one.stack_id] += 1
        return entry(one)

    listing, stacks = Listing(counted), tuple(stack(number) for number in range(500))
    assert await listing.pieces(stacks) is await listing.pieces(stacks)
    assert set(rendered.values()) == {1}


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
    counts = [bytes(piece).count(b"stack_id") for piece in pieces[1:-1]]
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
