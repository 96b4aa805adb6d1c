from __future__ import annotations

import asyncio
import json
import time

import aiohttp
import pytest

from stackd.embedded import Fault
from tests.embedded.wire import Wire, fast, pod, running

PODS = "/api/v1/namespaces/rec/pods"
MAPS = "/api/v1/namespaces/rec/configmaps"


async def test_a_refusal_comes_before_any_work_and_as_often_as_asked(wire: Wire) -> None:
    wire.cluster.faults.add(Fault(action="status", code=429, seconds=3, verb="create", resource="pods", count=2))
    for _ in range(2):
        answer = await wire.post(PODS, pod("one"))
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
        assert answer.body["reason"] == "TooManyRequests"
    assert (await wire.get(f"{PODS}/one")).status == 404
    await wire.make_pod("one")


async def test_a_lost_reply_is_work_done_and_a_connection_cut(wire: Wire) -> None:
    wire.cluster.faults.add(Fault(action="lost_reply", verb="create", name="one", count=1))
    await wire.make_pod("other")
    with pytest.raises(aiohttp.ClientConnectionError):
        await wire.post(PODS, pod("one"))
    assert (await wire.get(f"{PODS}/one")).status == 200


async def test_a_cut_is_no_work_and_a_connection_cut(wire: Wire) -> None:
    wire.cluster.faults.add(Fault(action="cut", verb="create", count=1))
    with pytest.raises(aiohttp.ClientConnectionError):
        await wire.post(PODS, pod("one"))
    assert (await wire.get(f"{PODS}/one")).status == 404
    assert wire.cluster.counts.requests["create", "pods", 0] == 1


async def test_latency_is_waited_and_the_work_done(wire: Wire) -> None:
    wire.cluster.faults.add(Fault(action="latency", seconds=0.05, resource="pods", verb="create"))
    begin = time.monotonic()
    await wire.make_pod("one")
    assert time.monotonic() - begin >= 0.05


async def test_requests_take_turns_in_one_queue_each_kind_with_its_own_time(wire: Wire) -> None:
    wire.cluster.faults.add(Fault(action="turns", seconds=0.03, resource="pods", verb="create"))
    wire.cluster.faults.add(Fault(action="turns", seconds=0.01, resource="configmaps", verb="create"))
    begin, ends = time.monotonic(), []

    async def make(number: int) -> None:
        await wire.make_pod(f"p{number}")
        ends.append(time.monotonic() - begin)

    await asyncio.gather(*(make(number) for number in range(3)))
    assert [end >= 0.03 * (place + 1) for place, end in enumerate(ends)] == [True] * 3
    wire.cluster.faults.add(Fault(action="turns", seconds=0.05, resource="configmaps", verb="create"))
    begin = time.monotonic()
    assert (await wire.post(MAPS, {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "one"}})).status == 201
    assert time.monotonic() - begin >= 0.01 + 0.05


async def test_a_hanging_request_is_never_answered(wire: Wire) -> None:
    wire.cluster.faults.add(Fault(action="hang", resource="pods"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await wire.get(PODS)
    assert (await wire.get(MAPS)).status == 200


PAGE = "<html>"


async def text(wire: Wire, path: str) -> tuple[int, str, str]:
    async with wire.session.get(wire.cluster.url + path) as answer:
        return answer.status, answer.content_type, await answer.text()


@pytest.mark.parametrize("code", [200, 302, 404, 502])
async def test_a_page_is_answered_in_the_servers_stead(wire: Wire, code: int) -> None:
    await wire.make_pod("one")
    wire.cluster.faults.add_fault(action="page", code=code, verb="get", resource="pods", count=1)
    status, kind, body = await text(wire, f"{PODS}/one")
    assert (status, kind, body[:6]) == (code, "text/html", PAGE)
    assert (await wire.get(f"{PODS}/one")).status == 200


@pytest.mark.parametrize(("done", "there"), [(False, 404), (True, 200)])
async def test_the_work_is_done_behind_a_page_only_if_that_is_asked_for(wire: Wire, *, done: bool, there: int) -> None:
    wire.cluster.faults.add_fault(action="page", code=201, verb="create", name="one", count=1, done=done)
    async with wire.session.post(wire.cluster.url + PODS, json=pod("one")) as answer:
        assert (answer.status, answer.content_type) == (201, "text/html")
    assert (await wire.get(f"{PODS}/one")).status == there


async def test_any_body_can_be_answered_in_the_servers_stead(wire: Wire) -> None:
    wire.cluster.faults.add_fault(action="reply", code=200, body='{"ok":true}', resource="pods", count=1)
    assert await text(wire, PODS) == (200, "application/json", '{"ok":true}')


async def test_an_answer_can_be_cut_or_emptied_and_says_nothing_of_it(wire: Wire) -> None:
    await wire.make_pod("one")
    await wire.until_pod("one", lambda pod: pod["status"]["phase"] == "Running")
    whole = (await text(wire, f"{PODS}/one"))[2]
    wire.cluster.faults.add_fault(action="truncate", verb="get", resource="pods", count=1)
    wire.cluster.faults.add_fault(action="empty", verb="list", resource="pods", count=1)
    wire.cluster.faults.add_fault(action="empty", verb="get", name="none", count=1)
    assert await text(wire, f"{PODS}/one") == (200, "application/json", whole[: len(whole) // 2])
    assert await text(wire, PODS) == (200, "application/json", "")
    assert await text(wire, f"{PODS}/none") == (404, "application/json", "")


async def test_fields_can_be_left_out_of_an_answer(wire: Wire) -> None:
    await wire.make_pod("one")
    wire.cluster.faults.add_fault(action="strip", resource="pods", fields=("items.metadata.uid", "metadata"), count=1)
    document = (await wire.get(PODS)).body
    assert [item["metadata"].get("uid") for item in document["items"]] == [None]
    assert "metadata" not in document
    assert (await wire.get(PODS)).body["metadata"]["resourceVersion"]


@pytest.mark.parametrize("action", ["page", "reply", "empty", "truncate"])
async def test_a_spoiled_watch_ends_at_once_and_is_not_counted_as_open(wire: Wire, action: str) -> None:
    wire.cluster.faults.add_fault(action=action, code=200, verb="watch", count=1)
    status, _, body = await text(wire, f"{PODS}?watch=1")
    assert (status, body[:6]) == (200, PAGE if action == "page" else "")
    assert (wire.cluster.counts.in_flight, len(wire.cluster.server.watches)) == (0, 0)


async def test_chance_is_repeatable_with_a_seed(wire: Wire) -> None:
    async def codes() -> list[int]:
        return [(await wire.get(PODS)).status for _ in range(20)]

    wire.cluster.faults.add(Fault(action="status", probability=0.5))
    wire.cluster.faults.seed(7)
    first = await codes()
    wire.cluster.faults.seed(7)
    assert await codes() == first
    assert set(first) == {200, 503}
    wire.cluster.faults.clear()
    assert set(await codes()) == {200}


async def test_a_pause_holds_requests_until_it_ends(wire: Wire) -> None:
    wire.cluster.faults.pause()
    held = asyncio.create_task(wire.make_pod("one"))
    await asyncio.sleep(0.05)
    assert not held.done()
    wire.cluster.faults.resume()
    await held


async def test_a_server_that_refuses_connections_comes_back_on_the_same_port(wire: Wire) -> None:
    url = wire.cluster.url
    async with wire.watching(f"{MAPS}?watch=1") as watched:
        await wire.cluster.faults.refuse()
        with pytest.raises(aiohttp.ClientError):
            await watched.line()
    with pytest.raises(aiohttp.ClientConnectorError):
        await wire.get(PODS)
    await wire.cluster.faults.listen()
    assert wire.cluster.url == url
    assert (await wire.get(PODS)).status == 200


async def test_a_watch_gap_ends_in_410(wire: Wire) -> None:
    version = (await wire.get(MAPS)).body["metadata"]["resourceVersion"]
    async with wire.watching(f"{MAPS}?watch=1&resourceVersion={version}") as watched:
        wire.cluster.faults.drop_watches()
        with pytest.raises(aiohttp.ClientError):
            await watched.line()
    await wire.post(MAPS, {"metadata": {"name": "missed"}})
    wire.cluster.faults.compact()
    events = await wire.watch_all(f"{MAPS}?watch=1&resourceVersion={version}")
    assert events[0]["object"]["code"] == 410


async def test_a_half_open_watch_says_nothing_not_even_bookmarks() -> None:
    async with running(fast(bookmark_interval=0.02)) as wire:
        async with wire.watching(f"{MAPS}?watch=1&allowWatchBookmarks=1") as watched:
            await watched.next()
            wire.cluster.faults.freeze_watches()
            await wire.post(MAPS, {"metadata": {"name": "m"}})
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    while True:
                        await watched.answer.content.readline()
        async with wire.watching(f"{MAPS}?watch=1") as watched:
            assert (await watched.next())["type"] == "ADDED"


async def test_a_malformed_line_reaches_the_watchers(wire: Wire) -> None:
    async with wire.watching(f"{MAPS}?watch=1") as watched:
        wire.cluster.faults.malformed("}{\n")
        assert await watched.line() == b"}{\n"


async def test_an_expired_token_is_401_until_it_is_renewed(wire: Wire) -> None:
    holder = wire.as_user("t")
    wire.cluster.faults.expire_token("t")
    assert (await holder.get(PODS)).status == 401
    assert (await wire.get(PODS)).status == 200
    wire.cluster.faults.renew_token("t")
    assert (await holder.get(PODS)).status == 200


async def test_requests_are_counted_by_verb_resource_and_code(wire: Wire) -> None:
    wire.cluster.counts.clear()
    await wire.make_pod("one")
    await wire.post(PODS, pod("one"))
    await wire.get(f"{PODS}/one")
    await wire.get(PODS)
    await wire.watch_all(f"{PODS}?watch=1&timeoutSeconds=1")
    assert wire.cluster.counts.requests == {
        ("create", "pods", 201): 1,
        ("create", "pods", 409): 1,
        ("get", "pods", 200): 1,
        ("list", "pods", 200): 1,
        ("watch", "pods", 200): 1,
    }
    assert wire.cluster.counts.total(verb="create") == 2
    assert wire.cluster.counts.in_flight == 0


async def test_the_peak_of_requests_in_flight_is_kept(wire: Wire) -> None:
    wire.cluster.counts.clear()
    wire.cluster.faults.add(Fault(action="latency", seconds=0.05))
    await asyncio.gather(*(wire.get(PODS) for _ in range(5)))
    assert (wire.cluster.counts.peak_in_flight, wire.cluster.counts.in_flight) == (5, 0)


async def test_faults_and_counts_can_be_reached_over_http(wire: Wire) -> None:
    fault = {"do": "add_fault", "action": "status", "code": 500, "resource": "pods", "count": 1}
    assert (await wire.post("/__faults__", fault)).status == 200
    assert (await wire.get(PODS)).status == 500
    await wire.post("/__faults__", {"do": "pause"})
    await wire.post("/__faults__", {"do": "resume"})
    await wire.post("/__faults__", {"do": "take_port", "port": 31000})
    await wire.post("/__faults__", {"do": "add_node", "name": "more"})
    assert (await wire.get("/api/v1/nodes/more")).status == 200
    assert (await wire.post("/__faults__", {"do": "remove_node", "name": "none"})).status == 404
    assert (await wire.post("/__faults__", {"do": "explode"})).status == 400
    stats = (await wire.get("/__stats__")).body
    assert {"verb": "list", "resource": "pods", "code": 500, "count": 1} in stats["requests"]


async def test_a_refusal_asked_for_over_http_ends_by_itself(wire: Wire) -> None:
    with pytest.raises(aiohttp.ClientError):
        await wire.post("/__faults__", {"do": "refuse", "seconds": 0.05})
    async with asyncio.timeout(30):
        while True:
            try:
                await wire.get("/version")
            except aiohttp.ClientError:
                await asyncio.sleep(0.01)
            else:
                break


async def test_an_admission_policy_changes_what_is_stored(wire: Wire) -> None:
    off = '{"metadata": {"labels": {"one": null}}}'
    wire.cluster.faults.add(Fault(action="admit", verb="create|patch", resource="configmaps", body=off))
    made = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a", "labels": {"one": "1", "two": "2"}}}
    assert (await wire.post(MAPS, made)).body["metadata"]["labels"] == {"two": "2"}
    assert (await wire.get(f"{MAPS}/a")).body["metadata"]["labels"] == {"two": "2"}


async def test_connections_that_are_silenced_stay_so_and_new_ones_work(wire: Wire) -> None:
    await wire.make_pod("one")
    wire.cluster.faults.silence()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await wire.get(PODS)
    assert (await wire.get(PODS)).status == 200


async def test_an_answer_that_trickles_is_whole_and_takes_its_time(wire: Wire) -> None:
    made = await wire.make_pod("one")
    wire.cluster.faults.add(Fault(action="trickle", seconds=0.2, verb="get", resource="pods", count=1))
    begin, pieces, whole = time.monotonic(), 0, b""
    async with wire.session.get(f"{wire.cluster.url}{PODS}/one") as answer:
        while piece := await answer.content.readany():
            pieces, whole = pieces + 1, whole + piece
    assert pieces > 10
    assert time.monotonic() - begin >= 0.2
    assert json.loads(whole)["metadata"]["uid"] == made["metadata"]["uid"]


async def test_a_query_string_can_be_dropped(wire: Wire) -> None:
    await wire.make_pod("one")
    wire.cluster.faults.add(Fault(action="no_query", resource="pods"))
    (found,) = (await wire.get(f"{PODS}?labelSelector=none=such")).body["items"]
    assert found["metadata"]["name"] == "one"
    assert (await wire.get(f"{PODS}?watch=true")).body["kind"] == "PodList"


async def test_the_events_of_a_watch_can_trickle(wire: Wire) -> None:
    wire.cluster.faults.add(Fault(action="trickle", seconds=0.1, verb="watch"))
    async with wire.watching(f"{PODS}?watch=true&resourceVersion=1") as watched:
        begin = time.monotonic()
        await wire.make_pod("one")
        assert (await watched.next())["object"]["metadata"]["name"] == "one"
        assert time.monotonic() - begin >= 0.08
        wire.cluster.faults.clear()
        assert not any(watch.slowness for watch in wire.cluster.server.watches)


async def test_a_mute_watch_is_open_and_says_nothing_until_the_faults_are_cleared() -> None:
    async with running(fast(bookmark_interval=0.01)) as wire:
        wire.cluster.faults.add(Fault(action="mute", verb="watch"))
        async with wire.watching(f"{MAPS}?watch=true&allowWatchBookmarks=true") as watched:
            assert len(wire.cluster.server.watches) == 1
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await watched.line()
            wire.cluster.faults.clear()
            assert (await watched.next())["type"] == "BOOKMARK"


async def test_a_stale_list_is_that_of_the_moment_that_was_remembered(wire: Wire) -> None:
    def named(name: str) -> dict[str, object]:
        return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}}

    await wire.post(MAPS, named("one"))
    wire.cluster.faults.remember()
    then = (await wire.get(MAPS)).body
    await wire.post(MAPS, named("two"))
    await wire.delete(f"{MAPS}/one")
    wire.cluster.faults.add(Fault(action="stale", resource="configmaps", count=2))
    assert (await wire.get(MAPS)).body == then
    assert (await wire.get(f"{MAPS}/two")).status == 200, "only lists are"
    assert [item["metadata"]["name"] for item in (await wire.get(MAPS)).body["items"]] == ["two"]


async def test_a_deletion_that_did_not_happen_can_be_told(wire: Wire) -> None:
    made = await wire.make_pod("one")
    since = made["metadata"]["resourceVersion"]
    async with wire.watching(f"{PODS}?watch=true&resourceVersion={since}&fieldSelector=metadata.name%3Done") as watched:
        running_now = await wire.until_pod("one", lambda body: body["status"]["phase"] == "Running")
        while (event := await watched.next())["object"] != running_now:
            assert event["type"] == "MODIFIED"
        wire.cluster.faults.replay_deletion("pods", "one")
        event = await watched.next()
        assert (event["type"], event["object"]["metadata"]["uid"]) == ("DELETED", made["metadata"]["uid"])
        assert int(event["object"]["metadata"]["resourceVersion"]) == wire.cluster.store.revision
    assert await wire.pod() == running_now


async def test_somebody_can_change_an_object_past_all_faults(wire: Wire) -> None:
    await wire.make_service("svc-one")
    wire.cluster.faults.add(Fault(action="status", resource="services"))
    path = "/api/v1/namespaces/rec/services/svc-one"
    order = {"do": "change", "path": path, "patch": {"spec": {"selector": {"stack": "nobody"}}}}
    assert (await wire.post("/__faults__", order)).status == 200
    wire.cluster.faults.clear()
    assert (await wire.get(path)).body["spec"]["selector"]["stack"] == "nobody"
    assert (await wire.post("/__faults__", order | {"path": "/api/v1/namespaces/rec/pods/none"})).status == 404
