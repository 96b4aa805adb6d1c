from __future__ import annotations

import asyncio
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from stackd.errors import Conflict, NoNodePort, StackNotFound
from stackd.model import DeleteReason, EventKind, NewStack, PortRange, Route, RoutedPort
from stackd.store import Start, Store
from tests.store.building import TestClock, accepted, new_stack, open_store, seen, stack_id


def ports_of(store: Store) -> list[int]:
    return [port.node_port for stack in store.stacks for port in stack.ports]


async def test_no_two_stacks_hold_the_same_port_until_the_range_is_exhausted(store: Store) -> None:
    await asyncio.gather(*(store.stacks.reserve(new_stack(number)) for number in range(100)))
    assert sorted(ports_of(store)) == list(range(31001, 31101))
    assert (store.ports.used, store.ports.free) == (100, 0)
    said = r"all 100 node ports in 31001-31100 are in use; delete stacks or widen stacks\.node_port_min/max"
    with pytest.raises(NoNodePort, match=said):
        await store.stacks.reserve(new_stack(200))


async def test_a_port_that_somebody_else_has_comes_back_after_its_quarantine(path: Path, clock: TestClock) -> None:
    store = await open_store(path, clock, ports=(31001, 31002))
    stack = await accepted(store, 1)
    taken = stack.ports[0].node_port
    moved = await store.ports.replace(stack_id(1), taken)
    other = moved.ports[0].node_port
    assert {taken, other} == {31001, 31002}
    assert (store.ports.used, store.ports.free, store.ports.quarantined) == (1, 0, 1)
    with pytest.raises(NoNodePort):
        await store.stacks.reserve(new_stack(2))
    clock.advance(601)
    assert (store.ports.free, store.ports.quarantined) == (1, 0)
    assert (await store.stacks.reserve(new_stack(2))).ports[0].node_port == taken
    await store.close()


async def test_a_stack_keeps_its_port_when_there_is_no_other_and_the_port_is_set_aside_later(
    path: Path, clock: TestClock
) -> None:
    store = await open_store(path, clock, ports=(31001, 31001))
    await accepted(store, 1)
    with pytest.raises(NoNodePort):
        await store.ports.replace(stack_id(1), 31001)
    assert ports_of(store) == [31001]
    assert (store.ports.used, store.ports.quarantined) == (1, 0)
    await store.stacks.remove([stack_id(1)])
    assert (store.ports.used, store.ports.free, store.ports.quarantined) == (0, 0, 1)
    await store.close()


async def test_replacing_a_port_twice_changes_nothing_the_second_time(store: Store) -> None:
    stack = await accepted(store, 1, ports=2)
    taken = stack.ports[1].node_port
    moved = await store.ports.replace(stack_id(1), taken)
    assert moved.ports[0] == stack.ports[0]
    assert moved.ports[1].container_port == stack.ports[1].container_port
    assert await store.ports.replace(stack_id(1), taken) == moved
    assert store.ports.used == 2


async def test_ports_outside_of_a_range_that_shrank_stay_held_and_do_not_come_back(path: Path) -> None:
    store = await open_store(path, ports=(31001, 31100))
    await asyncio.gather(*(store.stacks.reserve(new_stack(number)) for number in range(100)))
    await store.close()
    store = await open_store(path, ports=(31001, 31010))
    assert (store.ports.used, store.ports.free) == (100, 0)
    await store.stacks.remove([stack_id(number) for number in range(100)])
    assert (store.ports.used, store.ports.free) == (0, 10)
    await store.close()


async def test_the_table_says_which_ports_are_free(path: Path) -> None:
    store = await open_store(path, ports=(31001, 31003))
    await store.stacks.reserve(new_stack(1))
    behind = sqlite3.connect(path, isolation_level=None)
    free = {31001, 31002, 31003} - set(ports_of(store))
    behind.execute("INSERT INTO node_ports VALUES (?, ?)", (min(free), stack_id(1)))
    behind.close()
    stack = await store.stacks.reserve(new_stack(2))
    assert stack.ports[0].node_port == max(free)
    with pytest.raises(NoNodePort):
        await store.stacks.reserve(new_stack(3))
    await store.close()


async def test_a_rolled_back_operation_and_a_check_lose_no_port(path: Path) -> None:
    store = await open_store(path, ports=(31001, 31003))
    for _ in range(3):
        with pytest.raises(NoNodePort):
            await store.stacks.reserve(new_stack(1, ports=4))
        await store.stacks.check({}, ports=3)
    await store.stacks.reserve(new_stack(1, ports=3))
    await store.stacks.remove([stack_id(1)])
    assert sorted(port.node_port for port in (await store.stacks.reserve(new_stack(2, ports=3))).ports) == [
        31001,
        31002,
        31003,
    ]
    await store.close()


async def test_only_what_the_cluster_has_of_the_range_is_handed_out(path: Path) -> None:
    store = await open_store(path, ports=(31001, 31010))
    held = (await store.stacks.reserve(new_stack(1))).ports[0].node_port
    await store.ports.limit(PortRange(31009, 32000))
    usable = {31009, 31010} - {held}
    assert (store.ports.used, store.ports.free) == (1, len(usable))
    given = {(await store.stacks.reserve(new_stack(2 + number))).ports[0].node_port for number in range(len(usable))}
    assert given == usable
    said = (
        "all 2 node ports in 31009-31010 are in use, and the rest of 31001-31010 is outside the cluster's own range, "
        "31009-32000; delete stacks, or choose"
    )
    with pytest.raises(NoNodePort, match=said):
        await store.stacks.reserve(new_stack(9))
    await store.stacks.remove([stack_id(1)])
    assert store.ports.free == (held >= 31009)
    await store.ports.limit(PortRange(30000, 32767))
    assert store.ports.free == 10 - store.ports.used
    await store.close()


async def test_a_port_that_is_set_aside_stays_so_when_the_range_is_learned(path: Path, clock: TestClock) -> None:
    store = await open_store(path, clock, ports=(31001, 31003))
    stack = await store.stacks.reserve(new_stack(1))
    await store.ports.replace(stack.stack_id, stack.ports[0].node_port)
    await store.ports.limit(PortRange(31001, 31003))
    assert (store.ports.used, store.ports.free, store.ports.quarantined) == (1, 1, 1)
    clock.advance(601)
    assert (await store.stacks.reserve(new_stack(2, ports=2))).ports
    await store.close()


async def test_ports_are_spread_over_the_range(path: Path) -> None:
    store = await open_store(path, ports=(30000, 32767))
    await asyncio.gather(*(store.stacks.reserve(new_stack(number)) for number in range(60)))
    ports = ports_of(store)
    assert ports != sorted(ports)
    assert max(ports) - min(ports) > 1000
    await store.close()


def named(number: int, host: str) -> NewStack:
    port = RoutedPort(container_port=80, protocol="TCP", route=Route.HTTPS, host=host)
    return replace(new_stack(number), target_ports=(port, *new_stack(ports=1).target_ports))


async def test_a_name_has_one_holder_and_is_free_again_once_its_stack_is_gone(store: Store) -> None:
    first = await store.stacks.reserve(named(1, "a.example.org:8443"))
    assert (len(first.routed), len(first.node_ports), store.ports.used) == (1, 1, 1)
    with pytest.raises(Conflict, match="the name is another stack's"):
        await store.stacks.reserve(named(2, "a.example.org"))
    assert store.ports.used == 1
    await store.stacks.remove([stack_id(1)])
    assert (await store.stacks.reserve(named(2, "a.example.org"))).routed[0].hostname == "a.example.org"


async def test_a_stack_that_ended_gives_its_names_back_and_gets_others_at_its_start(store: Store) -> None:
    await store.stacks.reserve(named(1, "web-1-abc.example.org:8443"))
    before = await store.stacks.accept(seen(1), pod_uid="pod-1", service_uid="service-1")
    await store.stacks.observe([seen(1, ended=True)])
    (released,) = await store.ports.release([stack_id(1)])
    assert released.ports == before.ports
    await store.stacks.reserve(named(2, "web-1-abc.example.org"))
    wanted = Start(pod_spec="kind: Pod\n", kind=EventKind.START_REQUESTED, by="x", label_limits={})
    started = await store.stacks.start(stack_id(1), wanted)
    assert started.node_ports == before.node_ports
    assert re.fullmatch(r"web-1-[a-z2-7]{16}\.example\.org:8443", started.routed[0].host)


async def test_the_port_of_a_stack_that_is_being_deleted_is_not_replaced(store: Store) -> None:
    stack = await accepted(store, 1)
    await store.stacks.mark_deleting([stack_id(1)], DeleteReason.REQUEST)
    with pytest.raises(StackNotFound):
        await store.ports.replace(stack_id(1), stack.ports[0].node_port)


async def test_where_the_cluster_has_none_of_the_range_both_ranges_are_named(path: Path) -> None:
    store = await open_store(path, ports=(20000, 20100))
    await store.ports.limit(PortRange(30000, 32767))
    assert store.ports.free == 0
    with pytest.raises(NoNodePort) as caught:
        await store.stacks.reserve(new_stack(1))
    assert str(caught.value) == (
        "no node port is available: 20000-20100 (stacks.node_port_min to node_port_max) is outside of the cluster's own range, "
        "30000-32767; choose stacks.node_port_min and node_port_max within it, or change the API server's "
        "--service-node-port-range"
    )
    assert len(store.stacks) == 0
    await store.close()
