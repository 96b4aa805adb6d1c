from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from stackd.errors import NoNodePort, StackNotFound
from stackd.model import DeleteReason, PortRange
from stackd.store import Store
from stackd.store.port_pool import PortPool
from tests.store.building import TestClock, accepted, new_stack, open_store, stack_id


def ports_of(store: Store) -> list[int]:
    return [port.node_port for stack in store.stacks for port in stack.ports]


async def test_no_two_stacks_hold_the_same_port_until_the_range_is_exhausted(store: Store) -> None:
    await asyncio.gather(*(store.stacks.reserve(new_stack(number)) for number in range(100)))
    assert sorted(ports_of(store)) == list(range(31001, 31101))
    assert (store.ports.used, store.ports.free) == (100, 0)
    said = r"all 100 node ports in 31001-31100 are in use; delete stacks or widen stacks\.node_port_min/max"
    with pytest.raises(NoNodePort, match=said):
        await store.stacks.reserve(new_stack(200))


async def test_a_stack_gets_all_of_its_ports_or_none(path: Path) -> None:
    store = await open_store(path, ports=(31001, 31003))
    await store.stacks.reserve(new_stack(1, ports=2))
    with pytest.raises(NoNodePort):
        await store.stacks.reserve(new_stack(2, ports=2))
    assert (len(store.stacks), store.ports.used, store.ports.free) == (1, 2, 1)
    await store.stacks.reserve(new_stack(3, ports=1))
    await store.close()


async def test_ports_are_spread_over_the_range(path: Path) -> None:
    store = await open_store(path, ports=(30000, 32767))
    await asyncio.gather(*(store.stacks.reserve(new_stack(number)) for number in range(60)))
    ports = ports_of(store)
    assert ports != sorted(ports)
    assert max(ports) - min(ports) > 1000
    await store.close()


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


async def test_the_port_of_a_stack_that_is_being_deleted_is_not_replaced(store: Store) -> None:
    stack = await accepted(store, 1)
    await store.stacks.mark_deleting([stack_id(1)], DeleteReason.REQUEST)
    with pytest.raises(StackNotFound):
        await store.ports.replace(stack_id(1), stack.ports[0].node_port)


async def test_ports_outside_of_a_range_that_shrank_stay_held_and_do_not_come_back(path: Path) -> None:
    store = await open_store(path, ports=(31001, 31100))
    await asyncio.gather(*(store.stacks.reserve(new_stack(number)) for number in range(100)))
    await store.close()
    store = await open_store(path, ports=(31001, 31010))
    assert (store.ports.used, store.ports.free) == (100, 0)
    await store.stacks.remove([stack_id(number) for number in range(100)])
    assert (store.ports.used, store.ports.free) == (0, 10)
    await store.close()


async def test_the_constraint_decides_where_the_pool_is_wrong(path: Path) -> None:
    store = await open_store(path, ports=(31001, 31003))
    await store.stacks.reserve(new_stack(1))
    behind = sqlite3.connect(path, isolation_level=None)
    free = {31001, 31002, 31003} - set(ports_of(store))
    wrong = min(free)
    behind.execute("INSERT INTO node_ports VALUES (?, ?)", (wrong, stack_id(1)))
    behind.close()
    stack = await store.stacks.reserve(new_stack(2))
    assert stack.ports[0].node_port == max(free)
    with pytest.raises(NoNodePort):
        await store.stacks.reserve(new_stack(3))
    await store.close()


def test_taking_a_port_does_not_scan_the_range() -> None:
    now = 0.0
    pool = PortPool(PortRange(1, 60_000), quarantine=10, monotonic=lambda: now)
    pool.load(range(1, 59_990))
    taken = {pool.take() for _ in range(11)}
    assert taken == set(range(59_990, 60_001))
    assert pool.take() is None


def test_what_a_rolled_back_operation_held_is_free_again_and_what_it_freed_is_held() -> None:
    pool = PortPool(PortRange(1, 3), quarantine=10, monotonic=lambda: 0.0)
    pool.load([1])
    mark = pool.mark()
    pool.put(1)
    assert {pool.take(), pool.take(), pool.take()} == {1, 2, 3}
    pool.undo(mark)
    assert (pool.counts().used, pool.counts().free) == (1, 2)
    assert {pool.take(), pool.take()} == {2, 3}


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


async def test_a_port_that_is_set_aside_stays_so_when_the_range_is_learned(path: Path, clock: TestClock) -> None:
    store = await open_store(path, clock, ports=(31001, 31003))
    stack = await store.stacks.reserve(new_stack(1))
    await store.ports.replace(stack.stack_id, stack.ports[0].node_port)
    await store.ports.limit(PortRange(31001, 31003))
    assert (store.ports.used, store.ports.free, store.ports.quarantined) == (1, 1, 1)
    clock.advance(601)
    assert (await store.stacks.reserve(new_stack(2, ports=2))).ports
    await store.close()
