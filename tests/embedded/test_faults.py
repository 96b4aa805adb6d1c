"""The faults without which the tests that use them would pass: each does what it says."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.embedded.wire import Wire, condition, fast, pod, running, until

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


async def test_a_server_that_refuses_connections_comes_back_on_the_same_port(wire: Wire) -> None:
    url = wire.cluster.url
    with pytest.raises(aiohttp.ClientError):
        await wire.post("/__faults__", {"do": "refuse", "seconds": 0.3})
    with pytest.raises(aiohttp.ClientConnectorError):
        await wire.get(PODS)

    async def answers() -> bool:
        try:
            return (await wire.get(PODS)).status == 200
        except aiohttp.ClientError:
            return False

    await until(answers)
    assert wire.cluster.url == url


async def test_faults_and_counts_can_be_reached_over_http(wire: Wire) -> None:
    async def order(do: str, **arguments: Any) -> int:
        return (await wire.post("/__faults__", {"do": do, **arguments})).status

    assert await order("add_fault", action="status", code=500, resource="pods", count=1) == 200
    assert (await wire.get(PODS)).status == 500
    assert await order("add_node", name="more") == 200
    assert (await wire.get("/api/v1/nodes/more")).status == 200
    assert [await order("remove_node", name="none"), await order("explode")] == [404, 400]
    assert wire.cluster.counts.requests["list", "pods", 500] == 1
    assert await order("hold_starts") == 200
    await wire.make_pod("held")
    await wire.until_pod("held", lambda body: condition(body, "PodReadyToStartContainers").get("status") == "True")
    await asyncio.sleep(0.05)
    assert "podIP" not in (await wire.pod("held"))["status"]
    assert await order("let_start") == 200
    await wire.until_pod("held", lambda body: "podIP" in body["status"])
    await wire.make_service("svc-one")
    path, patch = "/api/v1/namespaces/rec/services/svc-one", {"spec": {"selector": {"stack": "nobody"}}}
    assert await order("add_fault", action="status", resource="services", count=1) == 200
    assert await order("change", path=path, patch=patch) == 200, "past all faults"
    assert (await wire.get(path)).status == 503
    assert (await wire.get(path)).body["spec"]["selector"]["stack"] == "nobody"
