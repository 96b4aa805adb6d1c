"""The rows of stacks: what changes them, and what readers of the view see; claims on Idempotency-Keys."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest

from stackd.errors import Conflict, MaxStacksReached, NoNodePort, StackNotFound
from stackd.model import DeleteReason, EventKind, PortRange, Route, RoutedPort, Stack, StackStatus
from stackd.store import CreateLimits, Extension, Start, Store
from tests.store.building import (
    ALICE,
    HOUR,
    START,
    TestClock,
    accepted,
    busy,
    new_stack,
    open_store,
    seen,
    stack_id,
)

ONE = stack_id(1)


async def test_the_limit_of_stacks_is_decided_in_the_transaction(store: Store) -> None:
    limits = CreateLimits(max_stacks=2)
    reserving = (store.stacks.reserve(new_stack(number), limits=limits) for number in range(3))
    results = await asyncio.gather(*reserving, return_exceptions=True)
    assert [type(result) for result in results] == [Stack, Stack, MaxStacksReached]
    assert "limit of 2 stacks" in str(results[2])
    assert len(store.stacks) == 2


async def test_an_accepted_stack_shows_updated_at_as_created_at(store: Store, clock: TestClock) -> None:
    await store.stacks.reserve(new_stack(1))
    clock.advance(3)
    stack = await store.stacks.accept(seen(1, StackStatus.CREATING), pod_uid="p", service_uid="s")
    assert (stack.accepted, stack.node_id, stack.node_public_ip) == (True, "worker-1", "192.0.2.7")
    assert stack.updated_at == stack.created_at == START
    assert (stack.pod_uid, stack.service_uid) == ("p", "s")
    await store.stacks.set_service(ONE, "another")
    assert store.stacks.get(ONE) == replace(stack, service_uid="another"), "no client sees a change"


async def test_a_stack_that_is_being_deleted_or_gone_is_not_changed(store: Store, clock: TestClock) -> None:
    await store.stacks.reserve(new_stack(1))
    (marked,) = await store.stacks.mark_deleting([ONE], DeleteReason.EXPIRED)
    clock.advance(60)
    assert await store.stacks.mark_deleting([stack_id(2), ONE], DeleteReason.REQUEST) == [marked]
    assert (marked.delete_reason, marked.deleting_since) == (DeleteReason.EXPIRED, START), "the first ones stay"
    for number in (1, 2):
        with pytest.raises(StackNotFound):
            await store.stacks.accept(seen(number), pod_uid="p", service_uid="s")
        with pytest.raises(StackNotFound):
            await store.stacks.set_service(stack_id(number), "late")
    async with busy(store):  # compared with the rows, not with the view
        observing = asyncio.ensure_future(store.stacks.observe([seen(1), seen(9)]))
        await asyncio.sleep(0)
    assert await observing == await store.stacks.observe([seen(1), seen(9)]) == []
    assert store.stacks.ordered() == (marked,)


async def test_updated_at_moves_with_what_a_client_sees(store: Store, clock: TestClock) -> None:
    await accepted(store, 1)
    clock.advance(1)
    costs = store.counters.commits, store.counters.statements
    assert await store.stacks.observe([seen(1, StackStatus.CREATING), seen(2)]) == []
    assert (store.counters.commits, store.counters.statements) == costs, "without news, it needs no transaction"
    (running,) = await store.stacks.observe([seen(1)])
    assert running.updated_at == clock.now()
    clock.advance(1)
    (ended,) = await store.stacks.observe([seen(1, ended=True)])
    assert ended.ended
    assert ended.updated_at == running.updated_at
    clock.advance(-3600)
    (failed,) = await store.stacks.observe([seen(1, StackStatus.FAILED, ended=True)])
    assert failed.updated_at == running.updated_at


async def test_what_was_seen_of_a_stack_before_its_end_does_not_bring_it_back(store: Store) -> None:
    await store.stacks.reserve(new_stack(1))
    await store.stacks.observe([seen(1, StackStatus.FAILED, ended=True)])
    ended = await store.stacks.accept(seen(1, StackStatus.CREATING), pod_uid="p", service_uid="s")
    assert (ended.status, ended.ended, ended.accepted) == (StackStatus.FAILED, True, True)
    assert await store.stacks.observe([seen(1)]) == []
    assert store.stacks.get(ONE) == ended
    (later,) = await store.stacks.observe([seen(1, StackStatus.NODE_DELETED, ended=True)])
    assert (later.status, later.ended) == (StackStatus.NODE_DELETED, True)


async def test_an_observation_behind_another_one_is_compared_with_it_not_with_the_view(store: Store) -> None:
    await accepted(store, 1)
    async with busy(store):
        together = asyncio.gather(
            store.stacks.observe([seen(1)]),
            store.stacks.observe([seen(1, StackStatus.CREATING)]),  # equal to the view now, but not when it is executed
        )
    await together
    last = store.stacks.get(ONE)
    assert last is not None
    assert last.status is StackStatus.CREATING


async def test_adopted_records_come_back_as_they_were_or_are_skipped_with_the_reason(
    store: Store, tmp_path: Path
) -> None:
    lost = [await accepted(store, number, ports=2) for number in range(3)]
    other = await open_store(tmp_path / "rebuilt.db")
    assert set((await other.stacks.adopt(lost)).values()) == {""}
    assert other.stacks.ordered() == store.stacks.ordered()
    assert other.ports.used == 6
    same_port = replace(lost[0], stack_id=stack_id(7))
    fine = replace(lost[0], stack_id=stack_id(8), ports=())
    assert await other.stacks.adopt([same_port, lost[1], fine]) == {
        stack_id(7): "the node port is held by another stack",
        stack_id(1): "there is a stack of this id already",
        stack_id(8): "",
    }
    assert other.stacks.ids() == {stack_id(number) for number in (0, 1, 2, 8)}
    await other.close()


async def test_a_stack_that_was_extended_a_moment_ago_does_not_expire(store: Store, clock: TestClock) -> None:
    both = [ONE, stack_id(2)]
    for number in (1, 2):
        await accepted(store, number)
    clock.advance(2 * 3600 - 1)
    await store.stacks.extend(ONE, Extension(add=HOUR, longest=24 * HOUR, by=ALICE))
    clock.advance(1)
    assert [stack.stack_id for stack in await store.stacks.mark_expired(both)] == [stack_id(2)]
    clock.advance(3600)
    with pytest.raises(Conflict, match="has expired"):
        await store.stacks.extend(ONE, Extension(add=HOUR, longest=24 * HOUR, by=ALICE))
    assert [stack.stack_id for stack in await store.stacks.mark_expired([ONE])] == [ONE]


async def test_stacks_that_were_made_in_the_future_end_as_if_they_were_made_now(store: Store, clock: TestClock) -> None:
    kept = await accepted(store, 1)
    year = 365 * 24 * HOUR
    clock.wall += year
    for number in (2, 3):
        await store.stacks.reserve(new_stack(number, created_at=clock.wall))
    clock.wall -= year
    changed = await store.stacks.shorten_future(HOUR)
    assert {stack.stack_id: stack.ttl_expires_at for stack in changed} == {
        stack_id(number): clock.wall + HOUR for number in (2, 3)
    }
    clock.advance(600)
    assert await store.stacks.shorten_future(HOUR) == []
    assert store.stacks.get(ONE) == kept


# ---- claims


# ---- node ports and names: one holder each


async def test_a_port_that_somebody_else_has_comes_back_after_its_quarantine(path: Path, clock: TestClock) -> None:
    store = await open_store(path, clock, ports=(31001, 31002))
    stack = await accepted(store, 1)
    taken = stack.ports[0].node_port
    moved = await store.ports.replace(stack_id(1), taken)
    other = moved.ports[0].node_port
    assert {taken, other} == {31001, 31002}
    assert await store.ports.replace(stack_id(1), taken) == moved, "the second time, nothing changes"
    await store.ports.limit(PortRange(31001, 31003))
    assert (store.ports.used, store.ports.free, store.ports.quarantined) == (1, 0, 1)
    with pytest.raises(NoNodePort):
        await store.stacks.reserve(new_stack(2))
    with pytest.raises(NoNodePort):
        await store.ports.replace(stack_id(1), other)
    assert [port.node_port for stack in store.stacks for port in stack.ports] == [other], (
        "it keeps its port where there is no other"
    )
    clock.advance(601)
    assert (store.ports.free, store.ports.quarantined) == (1, 0)
    assert (await store.stacks.reserve(new_stack(2))).ports[0].node_port == taken
    await store.stacks.mark_deleting([stack_id(1)], DeleteReason.REQUEST)
    with pytest.raises(StackNotFound):
        await store.ports.replace(stack_id(1), other)
    await store.close()


def named(number: int, host: str) -> Stack:
    routed = RoutedPort(container_port=80, protocol="TCP", route=Route.HTTPS, host=host)
    return replace(new_stack(number), ports=(routed, *new_stack().ports))


async def test_a_name_is_free_again_once_its_stack_is_gone(store: Store) -> None:
    first = await store.stacks.reserve(named(1, "a.example.org:8443"))
    assert (len(first.routed), len(first.node_ports), store.ports.used) == (1, 1, 1)
    with pytest.raises(Conflict, match="the name is another stack's"):
        await store.stacks.reserve(named(2, "a.example.org"))
    assert store.ports.used == 1
    await store.stacks.remove([stack_id(1)])
    assert (await store.stacks.reserve(named(2, "a.example.org"))).routed[0].hostname == "a.example.org"


async def test_an_ended_stack_gives_its_names_back(store: Store) -> None:
    await store.stacks.reserve(named(1, "web-1-abc.example.org:8443"))
    before = await store.stacks.accept(seen(1), pod_uid="pod-1", service_uid="service-1")
    await store.stacks.observe([seen(1, ended=True)])
    (released,) = await store.ports.release([stack_id(1)])
    assert released.ports == before.ports
    await store.stacks.reserve(named(2, "web-1-abc.example.org"))
    wanted = Start(pod_spec="kind: Pod\n", kind=EventKind.START_REQUESTED, by=ALICE)
    started = await store.stacks.start(stack_id(1), wanted)
    assert started.node_ports == before.node_ports
    assert re.fullmatch(r"web-1-[a-z2-7]{16}\.example\.org:8443", started.routed[0].host)
