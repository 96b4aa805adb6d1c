"""The faults without which the tests that use them would pass: each does what it says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from stackd.embedded.faults import Faults
from tests.embedded.wire import Wire, condition, fast, pod, running

PODS = "/api/v1/namespaces/rec/pods"
MAPS = "/api/v1/namespaces/rec/configmaps"


async def text(wire: Wire, path: str) -> tuple[int, str, str]:
    """Status, content type and body of the answer."""
    async with wire.session.get(wire.cluster.url + path) as answer:
        return answer.status, answer.content_type, await answer.text()


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


async def test_requests_take_turns_in_one_queue(wire: Wire) -> None:
    wire.cluster.faults.add_fault(action="latency", seconds=0.05, resource="configmaps")
    wire.cluster.faults.add_fault(action="turns", seconds=0.03, resource="pods", verb="create")
    wire.cluster.counts.clear()
    begin = time.monotonic()
    await asyncio.gather(*(wire.make_pod(f"p{number}") for number in range(3)))
    assert time.monotonic() - begin >= 0.09
    assert (wire.cluster.counts.peak_in_flight, wire.cluster.counts.in_flight) == (3, 0)
    begin = time.monotonic()
    await wire.get(MAPS)
    assert time.monotonic() - begin >= 0.05


@pytest.mark.parametrize(
    "silence",
    [
        lambda faults: faults.add_fault(action="hang", resource="pods", count=1),
        lambda faults: faults.silence(),
        lambda faults: faults.pause(),
    ],
    ids=["hang", "silence", "pause"],
)
async def test_a_request_is_not_answered_until_that_ends(wire: Wire, silence: Callable[[Faults], None]) -> None:
    await wire.get(PODS)
    silence(wire.cluster.faults)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await wire.get(PODS)
    wire.cluster.faults.resume()
    assert (await wire.get(PODS)).status == 200


async def test_an_answer_can_be_emptied_or_made_slow(wire: Wire) -> None:
    await wire.make_pod("one", nodeSelector={"no": "where"})
    await wire.until_pod("one", lambda body: "conditions" in body["status"])
    whole = (await text(wire, f"{PODS}/one"))[2]
    add = wire.cluster.faults.add_fault
    add(action="empty", verb="get", name="none", count=1)
    assert await text(wire, f"{PODS}/none") == (404, "application/json", "")
    add(action="trickle", seconds=0.2, verb="get", resource="pods", count=1)
    begin = time.monotonic()
    assert (await text(wire, f"{PODS}/one"))[2] == whole
    assert time.monotonic() - begin >= 0.2


@pytest.mark.parametrize("action", ["page", "reply", "empty", "truncate"])
async def test_a_spoiled_watch_ends_at_once(wire: Wire, action: str) -> None:
    wire.cluster.faults.add_fault(action=action, code=200, verb="watch", count=1)
    status, _, body = await text(wire, f"{PODS}?watch=1")
    assert (status, body[:6]) == (200, "<html>" if action == "page" else "")
    assert (wire.cluster.counts.in_flight, len(wire.cluster.server.watches)) == (0, 0)


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


async def test_the_events_of_a_watch_can_trickle_be_malformed_and_tell_of_no_deletion(wire: Wire) -> None:
    faults = wire.cluster.faults
    faults.add_fault(action="trickle", seconds=0.1, verb="watch")
    async with wire.watching(f"{MAPS}?watch=true&resourceVersion=1") as watched:
        begin = time.monotonic()
        made = (await wire.post(MAPS, {"metadata": {"name": "one"}})).body
        assert (await watched.next())["type"] == "ADDED"
        assert time.monotonic() - begin >= 0.08
        faults.malformed("}{\n")
        assert await watched.line() == b"}{\n"
        faults.replay_deletion("configmaps", "one")
        event = await watched.next()
        assert (event["type"], event["object"]["metadata"]["uid"]) == ("DELETED", made["metadata"]["uid"])
    assert (await wire.get(f"{MAPS}/one")).body == made


async def test_open_watches_are_cut(wire: Wire) -> None:
    async with wire.watching(f"{MAPS}?watch=1&resourceVersion=1") as watched:
        wire.cluster.faults.drop_watches()
        with pytest.raises(aiohttp.ClientError):
            await watched.line()


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


async def test_chance_is_repeatable_with_a_seed(wire: Wire) -> None:
    async def codes() -> list[int]:
        return [(await wire.get(PODS)).status for _ in range(20)]

    wire.cluster.faults.add_fault(action="status", probability=0.5)
    wire.cluster.faults.seed(7)
    first = await codes()
    wire.cluster.faults.seed(7)
    assert (await codes(), set(first)) == (first, {200, 503})
    wire.cluster.faults.clear()
    assert set(await codes()) == {200}


@pytest.mark.parametrize("over_http", [True, False])
async def test_a_server_that_refuses_connections_comes_back_on_the_same_port(wire: Wire, *, over_http: bool) -> None:
    url = wire.cluster.url
    if over_http:
        with pytest.raises(aiohttp.ClientError):
            await wire.post("/__faults__", {"do": "refuse", "seconds": 0.3})
    else:
        await wire.cluster.faults.refuse()
    with pytest.raises(aiohttp.ClientConnectorError):
        await wire.get(PODS)
    if not over_http:
        await wire.cluster.faults.listen()
    async with asyncio.timeout(30):
        while True:
            try:
                await wire.get(PODS)
                break
            except aiohttp.ClientError:
                await asyncio.sleep(0.01)
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
