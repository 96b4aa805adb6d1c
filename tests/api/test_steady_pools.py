"""Creates at a steady rate are served from the pool as long as the cluster makes stacks faster than they come.

This holds also from an empty pool: each stack that comes to run goes to the create that has waited longest, and deletes
yield to creates. The tests count; they measure no times.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stackd.embedded import EmbeddedCluster
from stackd.lifecycle import assign, delete
from stackd.lifecycle.pace import DELETES_AT_ONCE_IN_NEED
from tests.api.test_pools import entry, filled, folder_with, template, waiting
from tests.harness import Harness, eventually, fast_cluster, harness, seed

SIZE = 6
IN_LINE = SIZE // 2
"""How many creates wait for the next stack while six stacks are on their way."""

BODY = {"template": "web-1"}


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    async with harness(tmp_path, folder_with(tmp_path, web_1=template(pool=SIZE))) as ready:
        await filled(ready, size=SIZE)
        yield ready


def in_line(at: Harness) -> int:
    return at.creates_in_line("web-1")


async def emptied(at: Harness) -> set[str]:
    """Take all stacks of the pool while no pod starts; return the ids of those that are on their way into it."""
    given = await asyncio.gather(*(at.create(BODY) for _ in range(SIZE)))
    assert {one["status"] for one in given} == {"running"}
    await eventually(lambda: at.on_their_way("web-1") == (0, SIZE))
    return {row.stack_id for row in waiting(at)}


async def wait_in_line(at: Harness, count: int) -> list[asyncio.Task[dict[str, Any]]]:
    """Creates that wait, in this order."""
    creates = []
    for number in range(1, count + 1):
        creates.append(asyncio.create_task(at.create(BODY)))
        await eventually(lambda number=number: in_line(at) == number)  # type: ignore[misc]
    return creates


async def test_creates_that_find_the_pool_empty_get_the_next_that_come_to_run_and_more_are_made_for_others(
    at: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assign, "NEXT_SECONDS", 60.0)
    with at.no_pod_starting():
        coming = await emptied(at)
        creates = await wait_in_line(at, IN_LINE)
        beyond = await at.create(BODY)  # the waiting creates already claim half of the stacks that are on their way
        assert (beyond["status"], beyond["stack_id"] in coming, in_line(at)) == ("creating", False, IN_LINE)
    given = await asyncio.gather(*creates)
    assert {one["status"] for one in given} == {"running"}
    assert len(coming & {one["stack_id"] for one in given}) == IN_LINE
    assert (await entry(at))["hits"] == SIZE + IN_LINE
    await filled(at, size=SIZE)


async def test_a_client_that_leaves_the_line_leaves_its_stack_to_the_next(
    at: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assign, "NEXT_SECONDS", 60.0)
    with at.no_pod_starting():
        coming = await emptied(at)
        first, second = await wait_in_line(at, 2)
        first.cancel()
        await eventually(lambda: in_line(at) == 1)
    assert (await second)["stack_id"] in coming
    assert len(await at.until_listed(SIZE + 1)) == SIZE + 1
    await filled(at, size=SIZE)
    assert len(await at.objects("pods")) == len(await at.listed()) + SIZE


async def test_those_for_whom_no_room_is_left_wait_in_the_same_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assign, "NEXT_SECONDS", 60.0)
    monkeypatch.setattr(assign, "PREEMPTION_SECONDS", 60.0)
    ports = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31003"}
    async with EmbeddedCluster(fast_cluster()) as cluster:
        cluster.faults.hold_starts()
        async with harness(tmp_path, folder_with(tmp_path, web_1=template(pool=3)) | ports, cluster=cluster) as at:
            await eventually(lambda: at.on_their_way("web-1") == (0, 3))
            creates = await wait_in_line(at, 3)  # the first waits for its turn, the others for a port
            cluster.faults.let_start()
            given = await asyncio.gather(*creates)
            assert {one["status"] for one in given} == {"running"}
            assert len({one["stack_id"] for one in given}) == 3


async def test_where_none_comes_in_time_one_is_made_and_the_next_create_does_not_wait(
    at: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assign, "NEXT_SECONDS", 0.1)
    with at.no_pod_starting():
        coming = await emptied(at)
        made = await at.create(BODY)
        assert (made["status"], made["stack_id"] in coming) == ("creating", False)
        monkeypatch.setattr(assign, "NEXT_SECONDS", 60.0)
        again = await at.create(BODY)
        assert (again["status"], again["stack_id"] in coming) == ("creating", False)


async def test_what_a_limit_keeps_from_one_who_waits_is_for_the_next(
    at: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assign, "NEXT_SECONDS", 60.0)
    at.reload("limits", stacks_per_label={"team": 1})
    with at.no_pod_starting():
        await emptied(at)
        body = BODY | {"labels": {"team": "7"}}
        one, other = (asyncio.create_task(at.call("POST", "/stacks", body)) for _ in range(2))
        await eventually(lambda: in_line(at) == 2)
        third = asyncio.create_task(at.create(BODY))
        await eventually(lambda: in_line(at) == 3)
    assert sorted([(await one).status, (await other).status]) == [201, 409]
    assert (await third)["status"] == "running"
    await filled(at, size=SIZE)


@pytest.mark.parametrize("size", [8, 24])
async def test_a_load_below_what_the_cluster_makes_is_served_from_the_pool_from_the_time_that_it_is_empty(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the pool is taken at once; then four stacks are requested for each five that the cluster has made."""
    monkeypatch.setattr(assign, "NEXT_SECONDS", 60.0)  # on a busy machine one second passes quickly
    slow = EmbeddedCluster(fast_cluster(start_delay=0.02))
    settings = folder_with(tmp_path, web_1=template(pool=size))
    async with slow as cluster, harness(tmp_path, settings, cluster=cluster) as at:
        await filled(at, size=size)
        cluster.faults.add_fault(action="turns", verb="create|delete", resource="pods|services", seconds=0.005)
        before, creates = cluster.counts.total("create", "pods"), []
        for number in range(4 * size):

            def due(number: int = number) -> bool:
                return size + 0.8 * (cluster.counts.total("create", "pods") - before) > number

            await eventually(due)
            creates.append(asyncio.create_task(at.create(BODY)))
        made = await asyncio.gather(*creates)
        assert len({one["stack_id"] for one in made}) == 4 * size
        assert (await entry(at))["hits"] >= 0.8 * 4 * size
        await filled(at, size=size)


async def test_ends_that_nobody_waits_for_give_way_while_creates_wait_for_their_turn_and_are_all_done(
    at: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out = delete.carry_out
    under_way = peak = begun = 0

    async def counted(*arguments: Any) -> None:
        nonlocal under_way, peak, begun
        begun, under_way = begun + 1, under_way + 1
        peak = max(peak, under_way)
        try:
            await carry_out(*arguments)
        finally:
            under_way -= 1

    async def end(ids: list[str]) -> None:
        nonlocal peak, begun
        peak = begun = 0
        await at.end_in_background(ids)
        await eventually(lambda: begun == len(ids))

    monkeypatch.setattr(delete, "carry_out", counted)
    made = [(await at.create())["stack_id"] for _ in range(6 * DELETES_AT_ONCE_IN_NEED)]
    await end(made[::2])
    assert peak > DELETES_AT_ONCE_IN_NEED
    async with at.no_create_slots():
        await end(made[1::2])
        assert peak == DELETES_AT_ONCE_IN_NEED
    await at.until_listed(0)


async def test_where_room_is_short_ends_do_not_give_way(tmp_path: Path) -> None:
    ports = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31001"}
    async with harness(tmp_path, ports) as at:
        await at.create()
        async with at.no_create_slots():
            assert at.creates_in_need
        assert (await at.call("POST", "/stacks", seed())).status == 503
        async with at.no_create_slots():
            assert not at.creates_in_need
