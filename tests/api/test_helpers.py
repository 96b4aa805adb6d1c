"""Helpers: a link that an admin makes while stackd runs reads everything, changes nothing, and ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from stackd.keys import ApiKey, digest
from tests.document import activity
from tests.harness import READ_KEY, Harness, harness, until
from tests.players import browser, make_link, settings, token_of
from tests.streams import follow

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
    refused = (
        ("DELETE", f"/stacks/{stack_id}", None),
        ("POST", "/links", HELPER),
        ("DELETE", f"/links/{link_id}", None),
    )
    for method, path, body in refused:
        assert (await at.call(method, path, body, key=key)).code == "permission_denied", path
    (kept,) = (await at.get("/links"))["links"]
    assert (kept["link_id"], kept["name"], kept["scope"], kept["stacks"]) == (link_id, "Alice", "read", 0)
    assert key not in str(kept)


async def test_who_gave_a_link_to_whom_and_took_it_away_is_in_the_activity(at: Harness) -> None:
    _, helper = await make_helper(at)
    player = (await make_link(at, labels={"team": "7"}, name="Seat 7"))["link_id"]
    assert [one["link_id"] for one in (await at.get("/links?scope=read"))["links"]] == [helper]
    assert (await at.call("GET", "/links?scope=admin")).status == 400
    for _ in range(2):
        await at.call("DELETE", f"/links/{helper}")
    entries = await until(lambda: activity(at, "?action=link"), lambda seen: len(seen) == 3)
    words = [f"{helper} revoked: Alice", f"{player} made: Seat 7", f"{helper} made: Alice"]
    assert [one["message"].startswith(text) for one, text in zip(entries, words, strict=True)] == [True] * 3
    assert {one["by"] for one in entries} == {"environment"}


async def test_two_helpers_with_one_name_have_a_budget_each(at: Harness) -> None:
    (one, _), (another, _) = await make_helper(at), await make_helper(at)
    at.reload("limits", event_streams_per_key=1)
    async with follow(at, key=one), follow(at, key=another):
        assert (await at.call("GET", "/events", key=one)).status == 429


async def test_a_helpers_key_and_stream_end_with_its_time_its_revocation_or_the_secret(at: Harness) -> None:
    (key, link_id), (short, _), (other, _) = [await make_helper(at, expires=life) for life in ("1h", "1s", "1h")]
    async with follow(at, key=key) as revoked, follow(at, key=other) as stream:
        await at.call("DELETE", f"/links/{link_id}")
        assert (await at.call("GET", "/stacks", key=key)).code == "link_revoked"
        await until(lambda: at.call("GET", "/stacks", key=short), lambda reply: reply.status == 401)
        assert (await at.call("GET", "/stacks", key=short)).code == "link_expired"
        at.reload("play", secret=SecretStr("another-secret-of-at-least-32-characters"))
        at.daemon.api.feed.wake()
        assert (await at.call("GET", "/stacks", key=other)).code == "unauthenticated"
        for ended in (revoked, stream):
            while await ended.next() is not None:
                pass


async def test_only_an_admin_makes_helpers_and_no_token_passes_for_another(at: Harness) -> None:
    admin = at.config.auth.keys
    tenant = ApiKey(name="ctfd", sha256=digest(TENANT), scope="tenant", labels={"event": "a"})
    at.put_keys_in_force(*admin, tenant)
    await at.refused(403, "", "/links", HELPER, key=TENANT)
    for change in ({"scope": "admin"}, {"labels": {"a": "b"}}, {"templates": ["lab-*"]}, {"stacks": 1}, {"name": ""}):
        (field,) = change
        await at.refused(400, f"{field}: ", "/links", HELPER | change)
    player = token_of(await make_link(at))
    key, _ = await make_helper(at)
    altered = key[:-3] + ("A" if key[-3] != "A" else "B") + key[-2:]
    for wrong in (player, altered, key + ".x", READ_KEY):
        assert (await at.call("GET", "/stacks", key=wrong)).code == "unauthenticated"
    async with browser(at) as seat:
        assert (await seat.call("POST", "/play/session", {"token": key})).status == 401
