from __future__ import annotations

import asyncio

from tests.embedded.wire import Wire, fast, running

MAPS = "/api/v1/namespaces/rec/configmaps"


async def add(wire: Wire, name: str, **labels: str) -> str:
    answer = await wire.post(MAPS, {"metadata": {"name": name, "labels": labels}})
    version: str = answer.body["metadata"]["resourceVersion"]
    return version


async def relabel(wire: Wire, name: str, **labels: str | None) -> None:
    answer = await wire.patch(f"{MAPS}/{name}", {"metadata": {"labels": labels}})
    assert answer.status == 200


async def test_a_watch_without_a_version_begins_with_what_is_there(wire: Wire) -> None:
    await add(wire, "a")
    for start in ("", "&resourceVersion=0"):
        async with wire.watching(f"{MAPS}?watch=true{start}") as watched:
            event = await watched.next()
            assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "a")
            assert event["object"]["kind"] == "ConfigMap"


async def test_a_watch_from_a_version_shows_what_came_after(wire: Wire) -> None:
    version = await add(wire, "a")
    await add(wire, "b")
    await wire.delete(f"{MAPS}/a")
    async with wire.watching(f"{MAPS}?watch=1&resourceVersion={version}") as watched:
        events = [await watched.next(), await watched.next()]
    assert [(e["type"], e["object"]["metadata"]["name"]) for e in events] == [("ADDED", "b"), ("DELETED", "a")]
    assert int(events[1]["object"]["metadata"]["resourceVersion"]) > int(version) + 1


async def test_an_object_that_leaves_the_selector_is_deleted_and_one_that_enters_is_added(wire: Wire) -> None:
    version = await add(wire, "a", team="red")
    async with wire.watching(f"{MAPS}?watch=1&resourceVersion={version}&labelSelector=team%3Dred") as watched:
        await relabel(wire, "a", team="blue")
        left = await watched.next()
        await relabel(wire, "a", team="green")
        await relabel(wire, "a", team="red")
        entered = await watched.next()
    assert left["type"] == "DELETED"
    assert left["object"]["metadata"]["labels"] == {"team": "red"}
    assert int(left["object"]["metadata"]["resourceVersion"]) == int(version) + 1
    assert (entered["type"], entered["object"]["metadata"]["labels"]) == ("ADDED", {"team": "red"})


async def test_a_watch_sees_only_its_namespace(wire: Wire) -> None:
    async with wire.watching("/api/v1/namespaces/default/configmaps?watch=1") as watched:
        await add(wire, "elsewhere")
        await wire.post("/api/v1/namespaces/default/configmaps", {"metadata": {"name": "here"}})
        assert (await watched.next())["object"]["metadata"]["name"] == "here"


async def test_bookmarks_come_only_when_asked_for_and_carry_the_version() -> None:
    async with running(fast(bookmark_interval=0.02)) as wire:
        version = await add(wire, "a")
        async with wire.watching(f"{MAPS}?watch=1&resourceVersion={version}&allowWatchBookmarks=true") as watched:
            bookmark = await watched.next()
        assert bookmark["type"] == "BOOKMARK"
        assert bookmark["object"]["metadata"] == {"resourceVersion": version}
        async with wire.watching(f"{MAPS}?watch=1&resourceVersion={version}") as watched:
            await asyncio.sleep(0.06)
            await add(wire, "b")
            assert (await watched.next())["type"] == "ADDED"


async def test_a_watch_ends_at_its_timeout(wire: Wire) -> None:
    version = await add(wire, "a")
    assert await wire.watch_all(f"{MAPS}?watch=1&resourceVersion={version}&timeoutSeconds=1") == []


async def test_a_version_older_than_the_cache_is_gone() -> None:
    async with running(fast(watch_cache_size=3)) as wire:
        version = await add(wire, "a")
        for name in "bcd":
            await add(wire, name)
        assert len(await wire.watch_all(f"{MAPS}?watch=1&resourceVersion={version}&timeoutSeconds=1")) == 3
        await add(wire, "e")
        events = await wire.watch_all(f"{MAPS}?watch=1&resourceVersion={version}")
        assert [(event["type"], event["object"]["code"]) for event in events] == [("ERROR", 410)]


async def test_a_version_that_is_no_number_is_refused(wire: Wire) -> None:
    assert (await wire.get(f"{MAPS}?watch=1&resourceVersion=x")).status == 400


async def test_many_watchers_see_the_same_events(wire: Wire) -> None:
    async with asyncio.TaskGroup() as group:
        path = f"{MAPS}?watch=1&timeoutSeconds=1"
        watches = [group.create_task(wire.watch_all(path)) for _ in range(20)]
        while len(wire.cluster.server.watches) < 20:
            await asyncio.sleep(0.005)
        for number in range(10):
            await add(wire, f"m{number}")
    seen = [[event["object"]["metadata"]["name"] for event in watch.result()] for watch in watches]
    assert seen == [[f"m{number}" for number in range(10)]] * 20
    assert wire.cluster.server.watches == set()


async def test_a_client_that_leaves_ends_its_watch(wire: Wire) -> None:
    async with wire.watching(f"{MAPS}?watch=1") as watched:
        await add(wire, "a")
        await watched.next()
        assert len(wire.cluster.server.watches) == 1
    while wire.cluster.server.watches:
        await asyncio.sleep(0.005)
