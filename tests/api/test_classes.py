"""A class starts at once: a batch job creates a stack for each entry, once, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stackd.errors import StoreUnavailable
from stackd.keys import ApiKey, digest
from stackd.model import Job
from tests.api.scenes import SetBack, finished, life, submit
from tests.document import matches
from tests.harness import KEY, Client, Harness, Machine, eventually, until
from tests.streams import follow
from tests.templates import PLAIN, WEB, start, until_pooled, values_of

SIXTEEN = [{"labels": {"player": f"seat-{number}"}} for number in range(16)]


async def players(at: Harness) -> dict[str, str]:
    stacks = await at.get("/stacks?fields=stack_id,labels")
    return {one["stack_id"]: one["labels"]["player"] for one in stacks["stacks"]}


async def test_each_gets_a_stack_of_its_own_and_the_job_says_which(vm: Machine) -> None:
    at = await start(vm, web_1=WEB + "pool: 3\n")
    await until_pooled(at, size=3)
    each = [*SIXTEEN, {"labels": {"player": "late"}, "ttl": "10m"}]
    async with follow(at) as stream:
        job = await finished(at, await submit(at, each, ttl="2h"))
        assert (await stream.until("job", status="completed")).data["done"] == 17
    assert (job["action"], job["template"], job["done"], job["not_found"]) == ("create", "web-1", 17, 0)
    made = {one["stack_id"]: one for one in job["results"]}
    assert {name: one["labels"]["player"] for name, one in made.items()} == await players(at)
    assert all(one["labels"].items() >= {"challenge": "web-1", "kind": "web"}.items() for one in made.values())
    for one, minutes in (job["results"][0], 120), (job["results"][-1], 10):
        assert (await values_of(at, one["stack_id"]))[1]["FLAG"] == one["values"]["FLAG"]
        assert life(await at.stack(one["stack_id"])) == minutes * 60
    assert await at.metric("stackd_pool_hits_total", template="web-1") >= 3, "pools serve it first"
    requests = [one["action"] for one in (await at.get("/activity"))["activity"]]
    assert requests == ["create"], "the job is one entry, and its stacks are none"


async def test_restarts_in_the_middle_make_no_second_stack_and_lose_none(vm: Machine) -> None:
    """Each may name a template of its own."""
    at = await start(vm, web_1=PLAIN, lab_1=PLAIN)
    at.faults.add_fault(action="turns", verb="create", resource="pods", seconds=0.05)
    each = [one | ({"template": "lab-1"} if number % 2 else {}) for number, one in enumerate(SIXTEEN)]
    reply = await submit(at, each)
    for stacks in (0, 3, 6):
        await until(at.listed, lambda ids, stacks=stacks: len(ids) > stacks)  # type: ignore[misc]
        at = await vm.start()
    at.faults.clear()
    job = await finished(at, reply)
    assert (job["done"], "template" in job) == (16, False)
    made = {one["stack_id"]: one["template"] for one in (await at.get("/stacks"))["stacks"]}
    assert [made[one["stack_id"]] for one in job["results"]] == ["web-1", "lab-1"] * 8
    await eventually(lambda: len(at.daemon.context.store.stacks) == 16)
    assert sorted(await at.objects("pods")) == sorted(await at.listed()) == sorted(made)
    assert sorted((await players(at)).values()) == sorted(one["labels"]["player"] for one in SIXTEEN)
    assert not at.rows("SELECT * FROM idempotency"), "a claim goes when its stack is counted"
    own = [one | {"template": "lab-1"} for one in SIXTEEN]
    path, body = "/stacks/batch", {"action": "create", "each": own}
    assert (await at.call("POST", f"{path}?dry_run=true", body)).json["total"] == 16
    await at.refused(400, "each[0].template: is required", path, body | {"each": SIXTEEN})
    wrong = [*own[:3], {"labels": {"player": "a"}, "template": "lab-9"}]
    refused = await at.refused(400, "each[3].template", path, body | {"each": wrong})
    assert refused.code == "template_not_found"


async def test_a_stack_that_was_deleted_is_not_created_again(vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """stackd ends after its creates, before it has counted them; the user has deleted one of the stacks by then."""
    at = await start(vm, web_1=PLAIN)

    async def unwritable(*_: Any) -> Job:
        raise StoreUnavailable("the state file cannot be written now")

    monkeypatch.setattr(at.daemon.context.store.jobs, "finish_items", unwritable)
    reply = await submit(at, SIXTEEN[:2])
    first, second = await at.until_listed(2)
    await eventually(lambda: len(at.rows("SELECT * FROM idempotency WHERE status = 201")) == 2)
    await at.delete(first)
    at = await vm.start()
    job = await finished(at, reply)
    assert (job["done"], await at.listed()) == (2, [second])
    assert {one["stack_id"] for one in job["results"]} == {first, second}


async def test_what_cannot_be_created_says_why_and_the_rest_is_created(vm: Machine) -> None:
    at = await start(vm, web_1=PLAIN)
    at.reload("limits", stacks_per_label={"player": 1})
    has_one = (await at.create({"template": "web-1", "labels": {"player": "seat-1"}}))["stack_id"]
    job = await finished(at, await submit(at, SIXTEEN[:3]))
    assert (job["status"], job["done"], job["failed"]) == ("completed", 2, 1)
    (error,), failed = job["errors"], job["results"][1]
    assert (error["index"], error["labels"]["player"], has_one in error["error"]) == (1, "seat-1", True)
    assert (failed["outcome"], failed["stack_id"], failed["code"]) == ("failed", "", error["code"])
    assert (error["stack_id"], error["code"]) == ("", "label_limit_reached")
    again = await finished(at, await submit(at, SIXTEEN[:3]))
    assert (again["status"], again["failed"]) == ("failed", 3), "everybody has one"


async def test_a_dry_run_says_what_would_be_refused_and_creates_nothing(vm: Machine) -> None:
    at = await start(vm, web_1=PLAIN)
    tried = await submit(at, SIXTEEN, query="?dry_run=true")
    assert (tried.status, tried.json["total"]) == (200, 16)
    at.faults.add_fault(action="status", verb="create", resource="pods", code=403)
    assert (await submit(at, SIXTEEN, query="?dry_run=true")).status == 400
    at.faults.clear()
    at.reload("limits", max_stacks=0, stacks_per_label={"player": 1})
    await at.create({"template": "web-1", "labels": {"player": "seat-9"}})
    assert (await submit(at, SIXTEEN, query="?dry_run=true")).code == "label_limit_reached"
    assert not at.rows("SELECT * FROM jobs")


async def test_of_two_jobs_at_the_same_moment_each_player_has_one_stack(vm: Machine) -> None:
    """Two helpers begin for the same class."""
    at = await start(vm, web_1=PLAIN, web_2=PLAIN)
    at.put_keys_in_force(*(ApiKey(name=key, sha256=digest(key)) for key in (KEY, "sk-another-one")))
    another = Client(session=at.session, url=at.url, key="sk-another-one")
    others = await at.create({"template": "web-2", "labels": SIXTEEN[0]["labels"]})
    replies = await asyncio.gather(*(submit(each, SIXTEEN, if_exists="return") for each in (at, another)))
    first, second = [await finished(each, reply) for each, reply in zip((at, another), replies, strict=True)]
    assert [one["stack_id"] for one in first["results"]] == [one["stack_id"] for one in second["results"]]
    assert (first["done"], second["done"]) == (16, 16)
    assert others["stack_id"] not in {one["stack_id"] for one in first["results"]}
    assert len(await at.listed()) == 17


async def test_a_rate_counts_each_player_of_an_accepted_job(vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    at = await start(vm, web_1=PLAIN)
    at.reload("limits", creates_per_label={"player": "2/1h"})
    async with at.no_create_slots():
        waiting, once = await submit(at, SIXTEEN[:1]), {"Idempotency-Key": "once"}
        monkeypatch.setattr("stackd.store.jobs.ITEMS_PER_KEY", 16)
        assert (await submit(at, SIXTEEN)).code == "too_many_jobs"
        monkeypatch.undo()
    await finished(at, waiting)
    first, again = [await submit(at, SIXTEEN, headers=once) for _ in range(2)]
    assert (again.json, again.headers.get("Idempotency-Replayed")) == (first.json, "true")
    await finished(at, first)
    assert (await submit(at, SIXTEEN[:1])).code == "label_rate_exceeded"
    await finished(at, await submit(at, SIXTEEN[1:2]))


async def outcome(at: Harness, job_id: str) -> dict[str, Any]:
    job = await at.get(f"/stacks/batch/{job_id}")
    matches("BatchJob", job)
    seen: dict[str, Any] = job.get("outcome", {})
    if seen:
        (row,) = [one for one in (await at.get("/activity"))["activity"] if one.get("job_id") == job_id]
        assert row["outcome"]["final"] == seen["final"]
    return seen


async def test_the_outcome_of_a_job_is_what_came_of_its_stacks(vm: Machine) -> None:
    """They were restarted, and have failed again: that is what the job says for two minutes, and then for good."""
    clock = SetBack()
    crashing = PLAIN.replace("nginx:stable", "registry.example/badname")
    vm.options |= {"clock": clock}
    at = await start(vm, web_1=PLAIN, misc_1=crashing.replace("web-1", "misc-1"))
    good = [await at.create({"template": "web-1"}) for _ in range(2)]
    bad = [await at.create({"template": "misc-1", "labels": {"team": team}}) for team in "789"]
    ids = [one["stack_id"] for one in (*good, *bad)]
    for one in bad:
        await at.until_status(one["stack_id"], "failed")
    reply = await at.call("POST", "/stacks/batch", {"action": "restart", "stack_ids": ids})
    job_id = reply.json["job_id"]
    seen = await until(lambda: outcome(at, job_id), lambda got: got.get("statuses") == {"failed": 3, "running": 2})
    (reason,) = seen["reasons"]
    assert (reason["status"], reason["reason"], reason["count"]) == ("failed", "InvalidImageName", 3)
    assert sorted(reason["stack_ids"]) == sorted(one["stack_id"] for one in bad)
    assert (await at.get(f"/stacks/batch/{job_id}"))["common"] == {"kind": "web"}
    await at.delete(good[0]["stack_id"])
    at = await vm.start()
    assert (await outcome(at, job_id))["statuses"] == {"failed": 3, "running": 1, "deleted": 1}
    async with follow(at) as stream:
        clock.by = -60.0
        await at.run_now("outcomes")
        assert not (await outcome(at, job_id))["final"]
        clock.by = -121.0
        await at.run_now("outcomes")
        event = await stream.until("job", job_id=job_id)
    final = await outcome(at, job_id)
    assert (final["final"], event.data["outcome"]) == (True, final)
    assert final["until"] == seen["until"]
    await at.delete(good[1]["stack_id"])
    at = await vm.start()
    assert await outcome(at, job_id) == final


async def test_each_stack_has_the_variables_that_its_entry_or_its_job_sets(vm: Machine) -> None:
    at = await start(vm, web_1=PLAIN + 'env: {TEAM: {pattern: "[0-9]{1,4}"}}\n')
    each = [{"labels": {"player": "a"}}, {"labels": {"player": "b"}, "env": {"TEAM": "8"}}]
    job = await finished(at, await submit(at, each, env={"TEAM": "7"}))
    teams = [(await values_of(at, one["stack_id"]))[1]["TEAM"] for one in job["results"]]
    assert teams == ["7", "8"]
    wrong = {"action": "create", "template": "web-1", "each": [*each, {"env": {"TEAM": "x"}}]}
    await at.refused(400, "each[2].env.TEAM: must be a text that matches", "/stacks/batch", wrong)


async def test_a_stop_fails_no_item_of_a_job(vm: Machine) -> None:
    """Also one that takes long, because a delete is slow: meanwhile the job asks in vain."""
    at = await start(vm, web_1=PLAIN)
    slow = await at.running()
    at.faults.add_fault(action="latency", verb="create", resource="pods", seconds=0.05)
    at.faults.add_fault(action="latency", verb="delete", resource="pods", name=slow, seconds=1.8)
    job = await submit(at, SIXTEEN * 3)
    await until(at.listed, lambda seen: len(seen) > 4)
    deleting = asyncio.create_task(at.call("DELETE", f"/stacks/{slow}"))
    await eventually(lambda: at.rows("SELECT 1 FROM stacks WHERE deleting_since IS NOT NULL"))
    at = await vm.start()
    await asyncio.gather(deleting, return_exceptions=True)
    at.faults.clear()
    assert (await finished(at, job)).get("errors", []) == []
    assert len((await at.get("/stacks?fields=stack_id&label=challenge=web-1"))["stacks"]) == 48
