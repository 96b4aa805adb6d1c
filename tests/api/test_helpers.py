"""Helpers: a link that an admin makes while stackd runs reads everything, changes nothing, and ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stackd.keys import ApiKey, digest
from tests.document import activity
from tests.harness import READ_KEY, Harness, Machine, eventually, harness, until
from tests.players import browser, make_link, settings, token_of

TENANT = "sk-tenant-a-0123456789abcdef"
HELPER = {"labels": {}, "scope": "read", "name": "Alice"}


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    async with harness(tmp_path, settings(tmp_path)) as ready:
        yield ready


async def make_helper(at: Harness, **changes: Any) -> tuple[str, str]:
    """The key of a new helper's link, and its id."""
    link = await at.post("/links", HELPER | changes, 201)
    page, _, key = link["url"].partition("#key=")
    assert page == "http://stackd.example/dashboard"
    return key, link["link_id"]


async def test_a_helper_reads_everything_and_changes_nothing(at: Harness) -> None:
    stack_id = await at.running(labels={"team": "7"})
    key, link_id = await make_helper(at)
    seen = await at.get("/key", key=key)
    assert (seen["name"], seen["scope"], seen["templates_write"]) == ("helper Alice", "read", False)
    for path in ("/stacks", f"/stacks/{stack_id}/logs", "/activity", "/capacity", "/readyz"):
        assert (await at.call("GET", path, key=key)).status == 200, path
    for method, path, body in (
        ("DELETE", f"/stacks/{stack_id}", None),
        ("POST", f"/stacks/{stack_id}/restart", {}),
        ("POST", "/links", HELPER),
        ("DELETE", f"/links/{link_id}", None),
    ):
        reply = await at.call(method, path, body, key=key)
        assert (reply.status, reply.code) == (403, "permission_denied"), path
    kept = (await at.get("/links"))["links"]
    assert [(each["link_id"], each["name"], each["scope"], each["stacks"]) for each in kept] == [
        (link_id, "Alice", "read", 0)
    ]
    assert key not in str(kept)


async def test_who_gave_a_link_to_whom_and_took_it_away_is_in_the_activity(at: Harness) -> None:
    _, helper = await make_helper(at)
    player = (await make_link(at, labels={"team": "7"}, name="Seat 7"))["link_id"]
    assert [one["link_id"] for one in (await at.get("/links?scope=read"))["links"]] == [helper]
    assert (await at.call("GET", "/links?scope=admin")).status == 400
    for _ in range(2):
        await at.call("DELETE", f"/links/{helper}")

    async def noted() -> list[tuple[str, str]]:
        return [(one["by"], one["message"]) for one in await activity(at, "?action=link")]

    entries = await until(noted, lambda seen: len(seen) == 3)
    until_when = {one["link_id"]: one["expires_at"] for one in (await at.get("/links"))["links"]}
    name = at.config.auth.keys[0].name
    assert entries == [
        (name, f"{helper} revoked: Alice"),
        (name, f"{player} made: Seat 7, until {until_when[player]}"),
        (name, f"{helper} made: Alice, who reads the dashboard, until {until_when[helper]}"),
    ]


async def test_two_helpers_with_one_name_have_a_budget_each(at: Harness) -> None:
    (one, _), (another, _) = await make_helper(at), await make_helper(at)
    at.reload("limits", event_streams_per_key=1)
    streams = [await at.session.get(f"{at.url}/events", headers={"X-API-KEY": key}) for key in (one, one, another)]
    assert [stream.status for stream in streams] == [200, 429, 200]
    for stream in streams:
        stream.close()


async def test_a_helpers_key_ends_with_its_time_its_revocation_or_the_secret(at: Harness) -> None:
    key, link_id = await make_helper(at)
    short, _ = await make_helper(at, expires="1s")
    stream = await at.session.get(f"{at.url}/events", headers={"X-API-KEY": key})
    assert stream.status == 200
    await at.call("DELETE", f"/links/{link_id}")
    reply = await at.call("GET", "/stacks", key=key)
    assert (reply.status, reply.code) == (401, "link_revoked")
    await eventually(lambda: stream.content.at_eof() or _read(stream))

    async def has_expired() -> bool:
        return (await at.call("GET", "/stacks", key=short)).status == 401

    await eventually(has_expired)
    assert (await at.call("GET", "/stacks", key=short)).code == "link_expired"
    other, _ = await make_helper(at)
    at.reload("play", secret=type(at.config.play.secret)("another-secret-of-at-least-32-characters"))
    assert (await at.call("GET", "/stacks", key=other)).code == "unauthenticated"


async def _read(stream: Any) -> bool:
    await stream.content.readany()
    return False


async def test_a_helper_is_known_after_the_loss_of_the_file(vm: Machine) -> None:
    vm.options |= {"settings": settings(vm.folder)}
    key, _ = await make_helper(await vm.start())
    await vm.lose_file()
    at = await vm.start()
    assert (await at.get("/key", key=key))["scope"] == "read"


async def test_only_an_admin_makes_helpers_and_no_token_passes_for_another(at: Harness) -> None:
    admin = at.config.auth.keys
    tenant = ApiKey(name="ctfd", sha256=digest(TENANT), scope="tenant", labels={"event": "a"})
    at.put_keys_in_force(*admin, tenant)
    await at.refused(403, "only an API key of scope admin makes links for helpers", "/links", HELPER, key=TENANT)
    for change, words in (
        ({"scope": "admin"}, 'scope: must be "read"'),
        ({"labels": {"a": "b"}}, "labels: does not go with scope"),
        ({"templates": ["lab-*"]}, "templates: does not go with scope"),
        ({"stacks": 1}, "stacks: does not go with scope"),
        ({"each": "visitor"}, "each: does not go with scope"),
        ({"name": ""}, "name: must be printable"),
    ):
        await at.refused(400, words, "/links", HELPER | change)
    player = token_of(await make_link(at))
    key, _ = await make_helper(at)
    altered = key[:-3] + ("A" if key[-3] != "A" else "B") + key[-2:]
    for wrong in (player, altered, key + ".x", READ_KEY):
        assert (await at.call("GET", "/stacks", key=wrong)).code == "unauthenticated"
    async with browser(at) as seat:
        assert (await seat.call("POST", "/play/session", {"token": key})).status == 401


async def test_there_are_no_helpers_without_a_secret(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        await at.refused(409, "there are no links here", "/links", HELPER)
        assert (await at.call("GET", "/stacks", key="a.b.c")).status == 401


async def test_a_helpers_stream_ends_with_the_secret(at: Harness) -> None:
    key, _ = await make_helper(at)
    stream = await at.session.get(f"{at.url}/events", headers={"X-API-KEY": key})
    assert stream.status == 200
    at.reload("play", secret=type(at.config.play.secret)("another-secret-of-at-least-32-characters"))
    at.daemon.api.feed.wake()
    await eventually(lambda: stream.content.at_eof() or _read(stream))
