"""Creates at a steady rate are served from the pool as long as the cluster makes stacks faster than they come.

This holds also from an empty pool: a create gets the oldest stack that starts, and deletes yield to creates. The tests
count; they measure no times.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster
from tests.api.test_pools import entry, filled, folder_with, template, waiting
from tests.harness import Harness, eventually, fast_cluster, harness

SIZE = 6
BODY = {"template": "web-1"}


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    async with harness(tmp_path, folder_with(tmp_path, web_1=template(pool=SIZE))) as ready:
        await filled(ready, size=SIZE)
        yield ready


async def emptied(at: Harness) -> set[str]:
    """Take all stacks of the pool while no pod starts; return the ids of those that are on their way into it."""
    given = await asyncio.gather(*(at.create(BODY) for _ in range(SIZE)))
    assert {one["status"] for one in given} == {"running"}
    await eventually(lambda: at.on_their_way("web-1") == (0, SIZE))
    return {row.stack_id for row in waiting(at)}


async def test_creates_that_find_none_running_get_the_oldest_that_starts_and_then_one_of_their_own(at: Harness) -> None:
    with at.no_pod_starting():
        coming = await emptied(at)
        at.reload("templates", refill_per_second=1)  # no others come meanwhile
        first = waiting(at)[0].stack_id
        assert (await at.create(BODY))["stack_id"] == first
        made = await asyncio.gather(*(at.create(BODY) for _ in range(SIZE)))
        assert {one["status"] for one in made} == {"creating"}
        assert coming <= {first} | {one["stack_id"] for one in made}
    for one in made:
        await at.until_status(one["stack_id"], "running")


async def test_what_a_limit_keeps_from_one_stays_for_the_next(at: Harness) -> None:
    at.reload("limits", stacks_per_label={"team": 1})
    with at.no_pod_starting():
        await emptied(at)
        body = BODY | {"labels": {"team": "7"}}
        replies = await asyncio.gather(*(at.call("POST", "/stacks", body) for _ in range(2)))
        assert sorted(reply.status for reply in replies) == [201, 409]
    await filled(at, size=SIZE)


@pytest.mark.parametrize("size", [8, 24])
async def test_a_load_below_what_the_cluster_makes_is_served_from_the_pool_from_the_time_that_it_is_empty(
    tmp_path: Path, size: int
) -> None:
    """All of the pool is taken at once; then four stacks are requested for each five that the cluster has made."""
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
        assert (await entry(at))["hits"] >= 0.6 * 4 * size
        await filled(at, size=size)
