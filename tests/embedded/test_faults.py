"""The faults without which the tests that use them would pass: each does what it says."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.embedded.wire import Wire, fast, pod, running

PODS = "/api/v1/namespaces/rec/pods"
MAPS = "/api/v1/namespaces/rec/configmaps"


@pytest.mark.parametrize(("action", "there"), [("lost_reply", 200), ("cut", 404), ("late", 404)])
async def test_a_connection_is_cut_before_after_or_long_before_the_work(wire: Wire, action: str, there: int) -> None:
    wire.cluster.faults.add_fault(action=action, verb="create", name="one", count=1, seconds=1.0)
    await wire.make_pod("other")
    with pytest.raises(aiohttp.ClientConnectionError):
        await wire.post(PODS, pod("one"))
    assert (await wire.get(f"{PODS}/one")).status == there
    assert wire.cluster.counts.requests["create", "pods", 0] == 1
    if action == "late":
        await wire.until_pod("one", lambda body: True)


@pytest.mark.parametrize("mute", [True, False], ids=["mute", "frozen"])
async def test_a_half_open_watch_says_nothing_until_the_faults_are_cleared(*, mute: bool) -> None:
    async with running(fast(bookmark_interval=0.01)) as wire:
        if mute:
            wire.cluster.faults.add_fault(action="mute", verb="watch")
        async with wire.watching(f"{MAPS}?watch=true&allowWatchBookmarks=true") as watched:
            if not mute:
                wire.cluster.faults.freeze_watches()
            await wire.post(MAPS, {"metadata": {"name": "m"}})
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    while True:
                        await watched.answer.content.readline()
            wire.cluster.faults.clear()
            assert (await watched.next())["type"] in {"ADDED", "BOOKMARK"}


async def test_a_stale_list_is_that_of_the_moment_that_was_remembered(wire: Wire) -> None:
    await wire.post(MAPS, {"metadata": {"name": "one"}})
    wire.cluster.faults.remember()
    then = (await wire.get(MAPS)).body
    await wire.post(MAPS, {"metadata": {"name": "two"}})
    await wire.delete(f"{MAPS}/one")
    wire.cluster.faults.add_fault(action="stale", resource="configmaps", count=2)
    assert (await wire.get(MAPS)).body == then
    assert (await wire.get(f"{MAPS}/two")).status == 200, "only lists are stale"
    assert [item["metadata"]["name"] for item in (await wire.get(MAPS)).body["items"]] == ["two"]


async def test_it_refuses_whoever_connects_also_if_it_had_just_begun_to_listen_again(wire: Wire) -> None:
    faults = wire.cluster.faults
    await faults.refuse()
    await asyncio.gather(faults.listen(), faults.refuse())
    with pytest.raises(aiohttp.ClientConnectionError):
        await wire.get(MAPS)
    await faults.listen()
    assert (await wire.get(MAPS)).status == 200
