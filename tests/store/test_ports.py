"""Node ports and names: one holder each, from the configured range and the cluster's."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest

from stackd.errors import Conflict, NoNodePort, StackNotFound
from stackd.model import DeleteReason, EventKind, PortRange, Route, RoutedPort, Stack
from stackd.store import Start, Store
from tests.store.building import ALICE, TestClock, accepted, new_stack, open_store, reopened, seen, stack_id


def ports_of(store: Store) -> list[int]:
    return [port.node_port for stack in store.stacks for port in stack.ports]


async def test_no_two_stacks_hold_the_same_port_until_the_range_is_exhausted(store: Store) -> None:
    await asyncio.gather(*(store.stacks.reserve(new_stack(number)) for number in range(100)))
    ports = ports_of(store)
    assert ports != sorted(ports), "they are spread over the range"
    assert sorted(ports) == list(range(31001, 31101))
    assert (store.ports.used, store.ports.free) == (100, 0)
    why = r"all 100 node ports in 31001-31100 are in use; delete stacks or widen stacks\.node_port_min/max"
    with pytest.raises(NoNodePort, match=why):
        await store.stacks.reserve(new_stack(200))
    smaller = await reopened(store, ports=(31001, 31010))
    assert (smaller.ports.used, smaller.ports.free) == (100, 0)
    await smaller.stacks.remove([stack_id(number) for number in range(100)])
    assert (smaller.ports.used, smaller.ports.free) == (0, 10), "what is outside of a smaller range does not come back"
    await smaller.close()


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
    assert ports_of(store) == [other], "it keeps its port where there is no other"
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
