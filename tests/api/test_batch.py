"""Batch jobs: one action for many stacks, by id or by label; each id counts once. And ``GET /activity``."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import pytest

from stackd.store.transaction import Transaction
from tests.api.scenes import life, noted_end, uid
from tests.document import activity, matches
from tests.harness import Harness, Machine, Machines, Reply, eventually, until
from tests.templates import PLAIN, folder_with, start

NOBODY = "stack-0000000000000000"
LABELS = {"challenge": "web-1"}


async def submit(at: Harness, action: str, **body: Any) -> Reply:
    headers = body.pop("headers", {})
    return await at.call("POST", "/stacks/batch", {"action": action, **body}, headers=headers)


async def finished(at: Harness, reply: Reply) -> dict[str, Any]:
    assert reply.status == 202, reply.text
    matches("JobOfMany", reply.json)
    path = f"/stacks/batch/{reply.json['job_id']}"
    job: dict[str, Any] = await until(lambda: at.get(path), lambda seen: seen["status"] in ("completed", "failed"))
    matches("BatchJob", job)
    assert job["total"] == reply.json["total"] == sum(counts(job))
    return job


def counts(job: dict[str, Any]) -> tuple[int, int, int]:
    return job["done"], job["not_found"], job["failed"]


async def done(at: Harness, action: str, **body: Any) -> tuple[int, int, int]:
    """How many of a job are done, not found, and failed."""
    return counts(await finished(at, await submit(at, action, **body)))


async def lines(at: Harness, stack_id: str, kind: str) -> list[tuple[bool, str]]:
    """Of the timeline's lines of this kind: whether a key is named, and the reason."""
    events = [event for event in await at.timeline(stack_id) if event["kind"] == kind]
    return [(event["by"] not in ("stackd", "cluster"), event["reason"]) for event in events]


async def test_labels_choose_the_stacks_that_are_there_when_the_job_is_accepted(at: Harness) -> None:
    mine = [(await at.create(labels={**LABELS, "team": team}))["stack_id"] for team in "78"]
    others = [(await at.create(labels=labels))["stack_id"] for labels in ({"challenge": "Web-1"}, {})]
    reply = await submit(at, "extend", ttl="1h", labels=LABELS)
    later = (await at.create(labels=LABELS))["stack_id"]
    assert counts(await finished(at, reply)) == (2, 0, 0)
    assert [life(await at.stack(one)) for one in (*mine, *others, later)] == [10800, 10800, 7200, 7200, 7200]
    assert await done(at, "stop", labels={**LABELS, "team": "7"}) == (1, 0, 0)
    nobodys = await finished(at, await submit(at, "stop", labels={"challenge": "none"}))
    assert (nobodys["status"], nobodys["total"]) == ("completed", 0)


async def test_many_are_stopped_started_restarted_and_deleted(at: Harness) -> None:
    ids = one, other = [await at.running() for _ in range(2)]
    pods = [await uid(at, one), await uid(at, other)]
    assert await done(at, "start", stack_ids=[one, NOBODY]) == (1, 1, 0)
    assert await uid(at, one) == pods[0], "it runs already"
    assert await done(at, "stop", stack_ids=[one]) == (1, 0, 0)
    assert (await at.stack(one))["status_reason"] == "StoppedByUser"
    assert await done(at, "start", stack_ids=ids) == (2, 0, 0)
    assert (await uid(at, one) not in (None, pods[0]), await uid(at, other)) == (True, pods[1])
    pods[0] = await uid(at, one)
    assert await done(at, "restart", stack_ids=ids) == (2, 0, 0)
    for stack_id, pod in zip(ids, pods, strict=True):
        assert await uid(at, stack_id) not in (None, pod)
        assert await lines(at, stack_id, "restart_requested") == [(True, "batch")]
    job = await finished(at, await submit(at, "delete", stack_ids=[*ids, NOBODY]))
    assert (counts(job), await at.listed(), await at.objects("pods")) == ((2, 1, 0), [], {})
    document = await at.get(f"/stacks/batch-delete/{job['job_id']}")
    matches("Job", document)
    assert document["deleted"] == 2


@pytest.mark.stackd(stacks__max_ttl="3h", stacks__ttl="1h")
async def test_what_cannot_be_done_says_why(at: Harness) -> None:
    good, old = (await at.create())["stack_id"], (await at.create(ttl="2h30m"))["stack_id"]
    job = await finished(at, await submit(at, "extend", ttl="1h", stack_ids=[old, good]))
    assert (job["status"], counts(job)) == ("completed", (1, 0, 1))
    (error,) = job["errors"]
    assert (error["stack_id"], "at most 30m more" in error["error"], error["code"]) == (old, True, "too_long_a_life")
    at.faults.add_fault(action="status", verb="create", resource="pods", code=403)
    refused = await finished(at, await submit(at, "restart", stack_ids=[good, old]))
    assert (refused["status"], counts(refused)) == ("failed", (0, 0, 2))
    assert [error["code"] for error in refused["errors"]] == ["invalid_pod_spec"] * 2


async def test_a_job_that_extends_waits_for_no_other_job(at: Harness) -> None:
    deleted, extended = [await at.running() for _ in range(2)]
    at.faults.add_fault(action="latency", verb="delete", seconds=60)
    deleting = await submit(at, "delete", stack_ids=[deleted])
    assert await done(at, "extend", ttl="30m", stack_ids=[extended]) == (1, 0, 0)
    assert (await at.get(f"/stacks/batch/{deleting.json['job_id']}"))["done"] == 0


async def test_an_extension_counts_as_done_once_the_cluster_has_it(at: Harness) -> None:
    """An owner with another file reads it there: after a takeover, or the loss of this file."""
    ids = [(await at.create())["stack_id"] for _ in range(6)]
    ends = {stack_id: await noted_end(at, stack_id) for stack_id in ids}
    at.faults.add_fault(action="turns", verb="patch", resource="services", seconds=0.05)
    job = await submit(at, "extend", ttl="30m", stack_ids=ids)
    counted = -1
    while counted < len(ids):
        counted = (await at.get(f"/stacks/batch/{job.json['job_id']}"))["done"]
        recorded = [stack_id for stack_id in ids if await noted_end(at, stack_id) != ends[stack_id]]
        assert counted <= len(recorded)
    assert counts(await finished(at, job)) == (6, 0, 0)


async def test_no_stack_expires_that_a_job_extends_while_kubernetes_is_away(at: Harness) -> None:
    ids = [(await at.create())["stack_id"] for _ in range(3)]
    at.faults.pause()
    await at.until_away()
    job = await submit(at, "extend", ttl="30m", stack_ids=ids)
    for stack_id in ids:
        await until(partial(at.stack, stack_id), lambda seen: life(seen) == 7200 + 1800)
    assert (await at.get(f"/stacks/batch/{job.json['job_id']}"))["done"] == 0
    at.faults.resume()
    assert counts(await finished(at, job)) == (3, 0, 0)
    for stack_id in ids:
        assert await lines(at, stack_id, "extended") == [(True, "batch")]
        assert await noted_end(at, stack_id) == (await at.stack(stack_id))["ttl_expires_at"]


@pytest.mark.parametrize(("action", "outage"), [("stop", "refused"), ("restart", "failing"), ("delete", "silent")])
async def test_a_job_waits_for_kubernetes(at: Harness, action: str, outage: str) -> None:
    ids = await asyncio.gather(*(at.running() for _ in range(8)))
    at.faults.add_fault(action="turns", verb="create|delete", resource="pods", seconds=0.1)
    job = await submit(at, action, stack_ids=ids)
    await eventually(lambda: at.counts.total("delete", "pods") >= 2)
    if outage == "silent":
        at.faults.pause()
    elif outage == "refused":
        await at.faults.refuse()
    else:
        at.faults.add_fault(action="status", code=503)
    await at.until_away()
    assert not (await at.get(f"/stacks/batch/{job.json['job_id']}"))["failed"]
    at.faults.clear()
    if outage == "refused":
        await at.faults.listen()
    assert counts(await finished(at, job)) == (8, 0, 0)
    assert len(await at.objects("pods")) == (8 if action == "restart" else 0)


async def test_a_job_fails_only_what_kubernetes_refuses_or_does_not_do(at: Harness) -> None:
    refused, stuck, good = ids = [await at.running() for _ in range(3)]
    at.give_kubernetes(timeout=2.0)
    at.faults.add_fault(action="status", verb="delete", resource="pods", name=refused, code=403)
    at.faults.add_fault(action="status", verb="delete", resource="pods", name=stuck, code=429)
    job = await finished(at, await submit(at, "stop", stack_ids=ids))
    assert counts(job) == (1, 0, 2)
    assert {each["stack_id"] for each in job["errors"]} == {refused, stuck}
    assert {(await at.stack(one))["status_reason"] for one in (refused, stuck)} == {"StopPending"}
    assert (await at.stack(good))["status"] == "stopped"


async def test_a_delete_fails_once_something_holds_it_up_for_as_long_as_one_call_may_take(at: Harness) -> None:
    stuck = await at.running()
    await at.patch("pods", stuck, {"metadata": {"finalizers": ["example.com/keep"]}})
    at.give_kubernetes(timeout=1.5)
    job = await finished(at, await submit(at, "delete", stack_ids=[stuck]))
    assert (counts(job), await at.listed()) == ((0, 0, 1), [stuck])
    (error,) = job["errors"]
    assert (error["stack_id"], error["code"]) == (stuck, "still_there")
    assert "example.com/keep" in error["error"]
    assert (await at.stack(stuck))["status_reason"] == "DeletePending"
    await at.patch("pods", stuck, {"metadata": {"finalizers": None}})
    await at.until_listed(0)


@pytest.mark.stackd(cluster__lease_duration="6s")
async def test_a_job_waits_for_its_lease(at: Harness) -> None:
    ids = [await at.running() for _ in range(3)]
    at.faults.add_fault(action="latency", verb="delete", resource="pods", seconds=0.3)
    job = await submit(at, "stop", stack_ids=ids)
    at.lose_lease("the Lease was not renewed in time")
    await until(at.role, lambda role: role == "owner")
    assert counts(await finished(at, job)) == (3, 0, 0)


async def eight(at: Harness, action: str) -> dict[str, Any]:
    """What a job with this action says, about eight stacks that run, or that it creates."""
    each = [{"labels": {"player": f"seat-{number}"}} for number in range(8)]
    if action == "create":
        return {"template": "web-1", "each": each}
    return {"stack_ids": await asyncio.gather(*(at.running({"template": "web-1"} | one) for one in each))}


async def in_the_middle(at: Harness, job: Reply) -> None:
    """Some of the job's stacks are done, and some are under way or wait."""
    assert job.status == 202, job.text
    await eventually(lambda: at.rows("SELECT 1 FROM job_items WHERE state = 'done'"))


async def all_once(at: Harness, action: str, job: dict[str, Any]) -> None:
    """All eight are as the job wants them, and nothing was done twice."""
    assert (job.get("errors", []), counts(job)) == ([], (8, 0, 0))
    stacks = (await at.get("/stacks?fields=stack_id"))["stacks"]
    assert len(stacks) == (0 if action == "delete" else 8)
    pods = await until(lambda: at.objects("pods"), lambda seen: len(seen) == len(stacks))
    assert pods.keys() <= {one["stack_id"] for one in stacks}
    for one in stacks if action == "restart" else ():
        assert await lines(at, one["stack_id"], "restart_requested") == [(True, "batch")]
    assert not at.rows("SELECT * FROM idempotency")


@pytest.mark.parametrize(("action", "cluster"), [("restart", "slow"), ("delete", "absent")])
@pytest.mark.stackd(server__shutdown_timeout="500ms")
async def test_a_stop_in_the_middle_of_a_job_loses_and_fails_nothing(
    vm: Machine, action: str, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackd.timing.SHORTEN_SECONDS", 0.3)
    at = await start(vm, web_1=PLAIN)
    body = await eight(at, action)
    at.faults.add_fault(action="turns", verb="create|delete|patch", seconds=0.08)
    job = await submit(at, action, **body)
    await in_the_middle(at, job)
    if cluster == "absent":
        at.faults.pause()
        await at.until_away()
    await vm.stop()
    at.faults.clear()
    at.faults.resume()
    at = await vm.start()
    await all_once(at, action, await finished(at, job))


@pytest.mark.parametrize("action", ["restart", "create"])
async def test_a_takeover_in_the_middle_of_a_job_loses_and_fails_nothing(vms: Machines, action: str) -> None:
    """Its owner has the job, and goes on with it when the stacks are its own again."""
    templates = folder_with(vms.folder, web_1=PLAIN)
    one = await vms.start("vm1", server__shutdown_timeout="20s", settings=templates)
    body = await eight(one, action)
    one.faults.add_fault(action="turns", verb="create|delete|patch", seconds=0.05)
    job = await submit(one, action, **body)
    await in_the_middle(one, job)
    two = await vms.start("vm2", wait=False, settings=templates)
    await vms.stop("vm1")
    await until(two.role, lambda role: role == "owner")
    one.faults.clear()
    await two.until_ready()
    await vms.stop("vm2")
    one = await vms.start("vm1", settings=templates)
    await all_once(one, action, await finished(one, job))


async def test_a_body_that_is_wrong_is_refused_with_what_would_be_right(at: Harness) -> None:
    one, team = {"stack_ids": ["a"]}, {"labels": {"team": "7"}}
    wrong: list[tuple[dict[str, Any], str]] = [
        (one, "action: is required"),
        ({"action": "extend"} | one, "ttl"),
        ({"action": "extend", "ttl": "25h"} | one, "at most 24h"),
        ({"action": "stop", "ttl": "1m"} | one, "only with that"),
        ({"action": "stop"}, "either stack_ids or labels"),
        ({"action": "stop"} | one | team, "either stack_ids or labels"),
        ({"action": "stop", "labels": {}}, "labels: must be at least one label"),
    ]
    for body, words in wrong:
        await at.refused(400, words, "/stacks/batch", body)
    at.reload("batch_delete", max_ids=1)
    await at.refused(413, "", "/stacks/batch", {"action": "stop", "stack_ids": ["a", "b"]})
    assert not at.rows("SELECT * FROM jobs")


async def test_a_key_has_one_job_and_jobs_that_do_not_delete_are_no_batch_deletes(at: Harness) -> None:
    stack_id, once = (await at.create())["stack_id"], {"Idempotency-Key": "once"}
    first, again = [await submit(at, "extend", ttl="1h", stack_ids=[stack_id], headers=once) for _ in range(2)]
    assert (again.json, again.headers.get("Idempotency-Replayed")) == (first.json, "true")
    await finished(at, first)
    assert life(await at.stack(stack_id)) == 10800
    assert (await submit(at, "stop", stack_ids=[stack_id], headers=once)).status == 422
    for path in (f"batch-delete/{first.json['job_id']}", "batch/job-0"):
        assert (await at.call("GET", f"/stacks/{path}")).status == 404


def actions(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["action"] for entry in entries]


async def test_each_request_and_each_job_is_one_entry(at: Harness) -> None:
    one, other = await at.running(labels=LABELS), await at.running()
    await at.do("extend", one, ttl="1m")
    for verb in ("stop", "start", "restart"):
        await at.do(verb, one)
    job = await finished(at, await submit(at, "extend", ttl="30m", stack_ids=[one, other, "stack-none"]))
    at.faults.pause()
    deleting = asyncio.create_task(at.delete(one))
    entries = await until(lambda: activity(at, "?action=delete"), lambda seen: seen)
    assert [(entry["status"], entry["done"]) for entry in entries] == [("running", 0)]
    at.faults.resume()
    await deleting
    await at.create(ttl="1s")
    await at.until_listed(1)
    entries = (await activity(at))[1:]  # what stackd does by itself, such as an expiry, is none
    assert actions(entries) == ["delete", "extend", "restart", "start", "stop", "extend", "create", "create"]
    bulk = entries.pop(1)
    shown = ("job_id", "ttl", "status", "total", "done", "not_found", "failed")
    assert {name: bulk[name] for name in shown} == {name: job[name] for name in shown}
    assert {entry["by"] for entry in [*entries, bulk]} == {"environment"}
    assert {(entry["status"], entry["total"], entry["done"]) for entry in entries} == {("completed", 1, 1)}
    assert [entry["stack_id"] for entry in entries] == [one] * 5 + [other, one]
    assert entries[0]["labels"] == LABELS, "also of a deleted stack"


async def test_filters_and_pages_choose_requests_and_jobs(at: Harness) -> None:
    one, other = await at.running(labels=LABELS), await at.running()
    await done(at, "extend", ttl="30m", labels=LABELS)
    await done(at, "stop", stack_ids=[one, other])
    everything = await activity(at)
    for query, expected in {
        "": ["stop", "extend", "create", "create"],
        "?label=challenge": ["stop", "extend", "create"],
        "?label=challenge=web-1&label=challenge=web-2": [],
        "?label=challenge=Web-1": [],
        "?action=extend&label=challenge=web-1": ["extend"],
        f"?stack={other}": ["stop", "create"],
        f"?stack={one}&label=challenge": ["stop", "extend", "create"],
        f"?key={everything[0]['by']}&limit=2": ["stop", "extend"],
        "?key=nobody": [],
        "?since=1h": ["stop", "extend", "create", "create"],
        "?since=9999-01-01T00:00:00Z": [],
        "?cursor=MSB4eA": [],
    }.items():
        assert actions(await activity(at, query)) == expected, query
    await at.refused(400, "since must be a duration", "/activity?since=yesterday", method="GET")
    await at.refused(400, "an answer of GET /activity", "/activity?cursor=%2A", method="GET")
    paged, query = [], "?limit=1"
    while query:
        page = await at.get(f"/activity{query}")
        assert page["activity"], "a page that is just full names no next one"
        paged += page["activity"]
        query = f"?limit=1&cursor={page['next_cursor']}" if page["next_cursor"] else ""
        await at.create()  # comes while the pages are read, and is in none of them
    assert paged == everything


async def test_no_create_waits_for_a_search_of_the_history(at: Harness) -> None:
    first = (await at.create(labels=LABELS))["stack_id"]
    reached, go_on = threading.Event(), threading.Event()

    def hold(_: Transaction) -> None:
        reached.set()
        assert go_on.wait(30)

    holding = asyncio.create_task(at.daemon.context.store._reader.submit(hold))
    await asyncio.to_thread(reached.wait, 30)
    paths = ("/activity?label=challenge", f"/activity?stack={first}", "/activity")
    searches = [asyncio.create_task(at.get(path)) for path in paths]
    second = (await at.create(labels=LABELS))["stack_id"]
    assert not any(search.done() for search in searches)
    go_on.set()
    await holding
    found = [{one["stack_id"] for one in (await search)["activity"]} for search in searches]
    assert found == [{second, first}, {first}, {second, first}]
