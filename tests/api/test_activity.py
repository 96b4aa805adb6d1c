"""``GET /activity``: which key did what, when, to how many stacks, and what came of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stackd.keys import digest
from tests.api.test_batch import finished, submit
from tests.api.test_openapi import matches
from tests.api.test_tenants import A, B, create, tenants
from tests.harness import KEY, READ_KEY, Harness, harness, seed, until

LABELS = {"challenge": "web-1"}


async def activity(at: Harness, query: str = "", key: str = KEY) -> list[dict[str, Any]]:
    reply = await at.call("GET", f"/activity{query}", key=key)
    assert reply.status == 200, reply.text
    matches("ActivityPage", reply.json)
    entries: list[dict[str, Any]] = reply.json["activity"]
    return entries


def actions(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["action"] for entry in entries]


async def test_each_request_is_an_entry_and_a_job_is_one_with_its_counts(at: Harness) -> None:
    one = await at.running(seed() | {"labels": LABELS})
    other = await at.running()
    for verb in ("extend", "stop", "start", "restart"):
        body = {"ttl": "1m"} if verb == "extend" else None
        assert (await at.call("POST", f"/stacks/{one}/{verb}", body)).status == 200
    job = await finished(at, await submit(at, "extend", ttl="30m", stack_ids=[one, other, "stack-none"]))
    assert (await at.call("DELETE", f"/stacks/{one}")).status == 200
    entries = await activity(at)
    assert actions(entries) == ["delete", "extend", "restart", "start", "stop", "extend", "create", "create"]
    bulk = entries.pop(1)
    shown = ("job_id", "ttl", "status", "total", "done", "not_found", "failed")
    assert {name: bulk[name] for name in shown} == {name: job[name] for name in shown}
    (key,) = {entry["by"] for entry in [*entries, bulk]}
    assert key not in ("", "stackd", "cluster")
    assert {(entry["status"], entry["total"], entry["done"]) for entry in entries} == {("completed", 1, 1)}
    assert [entry["stack_id"] for entry in entries] == [one] * 5 + [other, one]
    assert entries[0]["labels"] == LABELS, "also of a deleted stack"
    assert "until " in entries[4]["message"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?label=challenge=web-1", ["stop", "extend", "create"]),
        ("?label=challenge", ["stop", "extend", "create"]),
        ("?label=challenge=web-1&label=challenge=web-2", []),
        ("?label=challenge=Web-1", []),
        ("?action=create", ["create", "create"]),
        ("?action=extend&label=challenge=web-1", ["extend"]),
        ("?stack={other}", ["stop", "create"]),
        ("?stack={one}&label=challenge", ["stop", "extend", "create"]),
        ("?key={key}&limit=2", ["stop", "extend"]),
        ("?key=nobody", []),
        ("?since=1h", ["stop", "extend", "create", "create"]),
        ("?since=2100-01-01T00:00:00Z", []),
    ],
)
async def test_filters_choose_requests_and_jobs(at: Harness, query: str, found: list[str]) -> None:
    one = await at.running(seed() | {"labels": LABELS})
    other = await at.running()
    await finished(at, await submit(at, "extend", ttl="30m", labels=LABELS))
    await finished(at, await submit(at, "stop", stack_ids=[one, other]))
    key = (await activity(at))[0]["by"]
    assert actions(await activity(at, query.format(one=one, other=other, key=key))) == found


async def test_pages_have_each_entry_once_while_others_come(at: Harness) -> None:
    for _ in range(3):
        await at.create()
    await finished(at, await submit(at, "stop", stack_ids=["stack-none"]))
    everything, paged, query = await activity(at), [], "?limit=1"
    while query:
        page = (await at.call("GET", f"/activity{query}")).json
        paged += page["activity"]
        query = f"?limit=1&cursor={page['next_cursor']}" if page["next_cursor"] else ""
        await at.create()
    assert paged == everything


async def test_what_is_not_done_yet_is_running(at: Harness) -> None:
    stack_id = await at.running()
    at.cluster.faults.pause()
    deleting = asyncio.create_task(at.call("DELETE", f"/stacks/{stack_id}"))
    entries = await until(lambda: activity(at, "?action=delete"), lambda seen: seen)
    assert [(entry["status"], entry["done"]) for entry in entries] == [("running", 0)]
    at.cluster.faults.resume()
    assert (await deleting).status == 200
    assert (await activity(at, "?action=delete"))[0]["status"] == "completed"


async def test_what_stackd_does_by_itself_is_no_activity(at: Harness) -> None:
    await at.create(seed() | {"ttl": "1s"})
    await at.until_listed(0)
    assert actions(await activity(at)) == ["create"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?action=expire", "action must be one of create, extend"),
        ("?action=", "action must be one of create, extend"),
        ("?stack=", "stack is empty"),
        ("?since=yesterday", "since must be a duration"),
        ("?label==7", "label must be key=value"),
        ("?cursor=MSB4eA", ""),
        ("?cursor=%2A", "an answer of GET /activity"),
        ("?limit=0", "limit must be a whole number"),
        ("?node=worker", "unknown parameter"),
    ],
)
async def test_wrong_parameters_are_refused(at: Harness, query: str, words: str) -> None:
    reply = await at.call("GET", f"/activity{query}")
    assert (reply.status, words in reply.text) == (400 if words else 200, True)


async def test_a_tenant_sees_its_own_requests_and_a_key_that_reads_sees_all(tmp_path: Path) -> None:
    config = tenants(tmp_path)
    reader = f'[[auth.keys]]\nname = "reader"\nsha256 = "{digest(READ_KEY).hex()}"\nscope = "read"\n'
    config.write_text(reader + config.read_text())
    async with harness(tmp_path, config=config) as at:
        for key in (A, B):
            stack = await create(at, key, labels={"team": "7"})
            body = {"action": "stop", "stack_ids": [stack["stack_id"]]}
            assert (await at.call("POST", "/stacks/batch", body, key)).status == 202
        for key, name in ((A, "ctfd-a"), (B, "ctfd-b")):
            for query in ("", "?label=team=7", f"?key={name}"):
                entries = await activity(at, query, key)
                assert [(entry["by"], entry["action"]) for entry in entries] == [(name, "stop"), (name, "create")]
        assert await activity(at, "?key=ctfd-b", A) == []
        assert len(await activity(at, "", READ_KEY)) == 4
