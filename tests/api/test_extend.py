"""Times to live that a client asks for, and extensions."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from stackd.clock import to_nanoseconds
from stackd.embedded import EmbeddedCluster
from tests.api.test_foreign_hands import patch
from tests.harness import Harness, Reply, fast_cluster, harness, seed, until

SECOND = 10**9


def life(stack: dict[str, Any]) -> float:
    """Seconds from the creation to the end."""
    return (to_nanoseconds(stack["ttl_expires_at"]) - to_nanoseconds(stack["created_at"])) / SECOND


async def extend(at: Harness, stack_id: str, ttl: str, **options: Any) -> Reply:
    return await at.call("POST", f"/stacks/{stack_id}/extend", {"ttl": ttl}, **options)


async def test_a_create_can_ask_for_its_own_time_to_live(at: Harness) -> None:
    assert life(await at.create(seed() | {"ttl": "30m"})) == 1800
    assert life(await at.create()) == 7200


REFUSED = [
    ("25h", "at most 24h"),
    ("0s", "above zero"),
    ("0.0000000001s", "above zero"),
    ("soon", "must be a duration"),
    ("30", "must be a duration"),
    (1800, "must be a string"),
    (None, "must be a string"),
]


async def test_a_time_to_live_that_cannot_be_is_refused_and_nothing_is_made(at: Harness) -> None:
    for ttl, words in REFUSED:
        reply = await at.call("POST", "/stacks", seed() | {"ttl": ttl})
        assert (reply.status, reply.error.startswith("invalid request body: ttl")) == (400, True)
        assert words in reply.error
        assert await at.listed() == []


async def test_an_extension_adds_to_the_end_and_shows_everywhere(at: Harness) -> None:
    created = await at.create(seed() | {"ttl": "10m"})
    reply = await extend(at, created["stack_id"], "30m")
    assert reply.status == 200
    assert life(reply.json) == 2400
    assert reply.json["updated_at"] > created["updated_at"]
    assert (await at.stack(created["stack_id"]))["ttl_expires_at"] == reply.json["ttl_expires_at"]
    status = await at.call("GET", f"/stacks/{created['stack_id']}/status")
    assert status.json["ttl"] == reply.json["ttl_expires_at"]


async def test_an_extension_beyond_the_longest_life_is_refused_with_what_is_possible(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_STACKS__MAX_TTL": "3h"}) as at:
        created = await at.create()
        reply = await extend(at, created["stack_id"], "2h")
        assert reply.status == 409
        assert "at most 1h more" in reply.error
        assert "stacks.max_ttl" in reply.error
        assert (await extend(at, created["stack_id"], "1h")).status == 200
        reply = await extend(at, created["stack_id"], "1s")
        assert (reply.status, "so it cannot be extended further" in reply.error) == (409, True)


async def test_an_extension_of_what_is_gone_or_going_is_refused(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        assert (await extend(at, "stack-none", "1m")).status == 404
        created = await at.create()
        at.cluster.faults.pause()
        deleting = asyncio.create_task(at.call("DELETE", f"/stacks/{created['stack_id']}"))
        await at.until_metric("stackd_deletes_pending", 1)
        reply = await extend(at, created["stack_id"], "1m")
        assert (reply.status, "is being deleted" in reply.error) == (409, True)
        at.cluster.faults.resume()
        assert (await deleting).status == 200


async def test_extensions_at_the_last_moment_either_hold_or_are_refused(at: Harness) -> None:
    """Each response is true: after a 200 the stack lives on, after a refusal it is gone."""

    async def race(delay: float) -> None:
        created = await at.create(seed() | {"ttl": "2s"})
        await asyncio.sleep(delay)
        reply = await extend(at, created["stack_id"], "1h")
        assert reply.status in (200, 404, 409), reply.text
        if reply.status == 200:
            await asyncio.sleep(1.2)
            assert (await at.stack(created["stack_id"]))["ttl_expires_at"] == reply.json["ttl_expires_at"]

    await asyncio.gather(*(race(1.9 + 0.1 * number) for number in range(14)))


NO_INSTANCE = {"metadata": {"labels": {"stackd.io/instance": None}}}


async def noted_end(at: Harness, stack_id: str) -> str:
    return str((await at.objects("services"))[f"svc-{stack_id}"]["metadata"]["annotations"]["stackd.io/expires-at"])


async def test_an_end_that_could_not_be_written_on_the_service_is_written_without_waiting_for_a_pass(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path, {"STACKD_RECONCILE__INTERVAL": "1h"}) as at:
        created = await at.create()
        at.cluster.faults.add_fault(action="status", code=422, verb="patch", resource="services")
        assert (await extend(at, created["stack_id"], "1h")).status == 503
        at.cluster.faults.clear()
        extended = str((await at.stack(created["stack_id"]))["ttl_expires_at"])

        await until(lambda: noted_end(at, created["stack_id"]), lambda seen: seen == extended)


async def until_extended(at: Harness, stack_id: str, headers: dict[str, str]) -> Reply:
    """Repeat the extension by 10 minutes until it is acknowledged."""
    return await until(lambda: extend(at, stack_id, "10m", headers=headers), lambda seen: seen.status == 200)


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "status", "code": 503},
        {"action": "status", "code": 500},
        {"action": "status", "code": 403},
        {"action": "hang"},
        {"action": "cut"},
        {"action": "lost_reply"},
    ],
    ids=lambda fault: f"{fault['action']}{fault.get('code', '')}",
)
async def test_an_extension_under_a_key_is_answered_once_the_cluster_has_it_and_not_before(
    at: Harness, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any]
) -> None:
    """Before, the retry of a 503 got a stored 200, although the record still had the old end: a lost file lost it."""
    monkeypatch.setattr("stackd.lifecycle.ttl.RECORD_SECONDS", 0.3)
    created = await at.create()
    headers = {"Idempotency-Key": "once"}
    at.give_kubernetes(timeout=0.5, attempt_timeout=0.2)
    at.cluster.faults.add_fault(verb="patch", resource="services", **fault)
    for _ in range(2):
        reply = await extend(at, created["stack_id"], "10m", headers=headers)
        if fault["action"] != "lost_reply":  # which may have been read back by the second try
            assert (reply.status, "is extended until" in reply.error) == (503, True)
            assert await noted_end(at, created["stack_id"]) == created["ttl_expires_at"]
    at.cluster.faults.clear()
    first = await until_extended(at, created["stack_id"], headers)
    assert life(first.json) == 7800, "it counts once"
    assert await noted_end(at, created["stack_id"]) == first.json["ttl_expires_at"]
    again = await extend(at, created["stack_id"], "10m", headers=headers)
    assert (again.status, again.headers.get("Idempotency-Replayed"), again.json) == (200, "true", first.json)


async def test_the_key_of_an_extension_that_a_crash_has_cut_short_is_taken_up_where_it_was(tmp_path: Path) -> None:
    headers = {"Idempotency-Key": "once"}
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, cluster=cluster) as at:
            created = await at.create()
            cluster.faults.add_fault(action="status", code=403, verb="patch", resource="services")
            assert (await extend(at, created["stack_id"], "10m", headers=headers)).status == 503
        cluster.faults.clear()
        async with harness(tmp_path, cluster=cluster) as later:
            assert life((await until_extended(later, created["stack_id"], headers)).json) == 7800


async def test_the_key_of_an_extension_is_free_again_when_its_stack_is_gone(at: Harness) -> None:
    created, headers = await at.create(), {"Idempotency-Key": "once"}
    at.cluster.faults.add_fault(action="status", code=403, verb="patch", resource="services")
    assert (await extend(at, created["stack_id"], "10m", headers=headers)).status == 503
    assert (await at.call("DELETE", f"/stacks/{created['stack_id']}")).status == 200
    assert (await extend(at, created["stack_id"], "10m", headers=headers)).status == 404


async def test_an_extension_is_written_on_a_service_that_the_watch_does_not_show(at: Harness) -> None:
    """Before, it was answered with 200, and the cluster kept the old end."""
    stack_id = (await at.create())["stack_id"]
    await patch(at, f"/api/v1/namespaces/stacks/services/svc-{stack_id}", NO_INSTANCE)
    extended = await extend(at, stack_id, "1h")
    assert extended.status == 200
    assert await noted_end(at, stack_id) == extended.json["ttl_expires_at"]


async def test_an_extension_of_a_stopped_stack_writes_the_record_that_somebody_has_taken_away(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_RECONCILE__INTERVAL": "1h"}) as at:
        stack_id = (await at.create())["stack_id"]
        assert (await at.call("POST", f"/stacks/{stack_id}/stop")).status == 200
        at.cluster.faults.add_fault(action="status", code=403, verb="create", resource="services")
        await at.delete_object("services", f"svc-{stack_id}")
        assert (await extend(at, stack_id, "1h")).status == 503
        at.cluster.faults.clear()
        extended = await extend(at, stack_id, "1h")
        assert extended.status == 200
        assert await noted_end(at, stack_id) == extended.json["ttl_expires_at"]


async def test_an_extended_stack_outlives_its_first_end_and_no_more_than_its_new_one(at: Harness) -> None:
    created = await at.create(seed() | {"ttl": "2s"})
    extended = await extend(at, created["stack_id"], "3s")
    assert extended.status == 200

    await until(lambda: at.call("GET", f"/stacks/{created['stack_id']}"), lambda seen: seen.status == 404)
    assert time.time_ns() >= to_nanoseconds(extended.json["ttl_expires_at"])
