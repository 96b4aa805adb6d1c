"""Batch jobs: one action for many stacks, by id or by label; each id counts once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stackd.embedded import EmbeddedCluster
from stackd.lifecycle import crashpoints
from tests.api.test_events import follow
from tests.api.test_extend import life, noted_end
from tests.api.test_openapi import matches
from tests.api.test_restart import uid
from tests.harness import Harness, Reply, eventually, fast_cluster, harness, seed, until

NOBODY = "stack-0000000000000000"
LABELS = {"challenge": "web-1"}


async def submit(at: Harness, action: str, **body: Any) -> Reply:
    headers = body.pop("headers", {})
    return await at.call("POST", "/stacks/batch", {"action": action, **body}, headers=headers)


async def finished(at: Harness, reply: Reply) -> dict[str, Any]:
    assert reply.status == 202, reply.text
    matches("JobOfMany", reply.json)
    path = f"/stacks/batch/{reply.json['job_id']}"
    done = await until(lambda: at.call("GET", path), lambda seen: seen.json["status"] in ("completed", "failed"))
    matches("BatchJob", done.json)
    assert done.json["total"] == reply.json["total"] == sum(counts(done.json))
    job: dict[str, Any] = done.json
    return job


def counts(job: dict[str, Any]) -> tuple[int, int, int]:
    return job["done"], job["not_found"], job["failed"]


async def recorded_life(at: Harness, stack_id: str) -> float:
    """How long the stack lives, once the cluster has that, too."""
    stack = await at.stack(stack_id)
    await until(lambda: noted_end(at, stack_id), lambda seen: seen == stack["ttl_expires_at"])
    return life(stack)


async def lines(at: Harness, stack_id: str, kind: str) -> list[tuple[str, str]]:
    events = (await at.call("GET", f"/stacks/{stack_id}/timeline")).json["events"]
    return [(event["by"], event["reason"]) for event in events if event["kind"] == kind]


async def test_many_are_extended_once_each_and_the_cluster_has_it(at: Harness) -> None:
    stacks = [await at.create() for _ in range(3)]
    ids = [stack["stack_id"] for stack in stacks]
    async with follow(at) as stream:
        job = await finished(at, await submit(at, "extend", ttl="30m", stack_ids=[*ids, ids[0], NOBODY]))
        assert (job["action"], job["ttl"], counts(job)) == ("extend", "30m", (3, 1, 0))
        assert (await stream.until("job", status="completed")).data == job
    for stack in stacks:
        assert await recorded_life(at, stack["stack_id"]) == 7200 + 1800
        (line,) = await lines(at, stack["stack_id"], "extended")
        assert (line[0] not in ("stackd", "cluster"), line[1]) == (True, "batch")


async def test_labels_choose_the_stacks_that_are_there_when_the_job_is_accepted(at: Harness) -> None:
    mine = [(await at.create(seed() | {"labels": {**LABELS, "team": team}}))["stack_id"] for team in "78"]
    others = [(await at.create(seed() | {"labels": labels}))["stack_id"] for labels in ({"challenge": "Web-1"}, {})]
    reply = await submit(at, "extend", ttl="1h", labels=LABELS)
    later = (await at.create(seed() | {"labels": LABELS}))["stack_id"]
    assert counts(await finished(at, reply)) == (2, 0, 0)
    assert [life(await at.stack(one)) for one in (*mine, *others, later)] == [10800, 10800, 7200, 7200, 7200]
    assert counts(await finished(at, await submit(at, "stop", labels={**LABELS, "team": "7"}))) == (1, 0, 0)
    nobodys = await finished(at, await submit(at, "stop", labels={"challenge": "none"}))
    assert (nobodys["status"], nobodys["total"]) == ("completed", 0)


async def test_many_are_stopped_started_restarted_and_deleted(at: Harness) -> None:
    one, other = [await at.running() for _ in range(2)]
    pods = [await uid(at, one), await uid(at, other)]
    assert counts(await finished(at, await submit(at, "start", stack_ids=[one, NOBODY]))) == (1, 1, 0)
    assert await uid(at, one) == pods[0], "it runs already"
    assert counts(await finished(at, await submit(at, "stop", stack_ids=[one]))) == (1, 0, 0)
    assert (await at.stack(one))["status_reason"] == "StoppedByUser"
    assert counts(await finished(at, await submit(at, "start", stack_ids=[one, other]))) == (2, 0, 0)
    assert (await uid(at, one) not in (None, pods[0]), await uid(at, other)) == (True, pods[1])
    pods[0] = await uid(at, one)
    assert counts(await finished(at, await submit(at, "restart", stack_ids=[one, other]))) == (2, 0, 0)
    for stack_id, pod in zip((one, other), pods, strict=True):
        assert await uid(at, stack_id) not in (None, pod)
        (line,) = await lines(at, stack_id, "restart_requested")
        assert line[1] == "batch"
    job = await finished(at, await submit(at, "delete", stack_ids=[one, other, NOBODY]))
    assert (counts(job), await at.listed(), await at.objects("pods")) == ((2, 1, 0), [], {})
    document = (await at.call("GET", f"/stacks/batch-delete/{job['job_id']}")).json
    matches("Job", document)
    assert document["deleted"] == 2


async def test_what_cannot_be_done_says_why_and_the_rest_is_done(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_STACKS__MAX_TTL": "3h", "STACKD_STACKS__TTL": "1h"}) as at:
        good = (await at.create())["stack_id"]
        old = (await at.create(seed() | {"ttl": "2h30m"}))["stack_id"]
        job = await finished(at, await submit(at, "extend", ttl="1h", stack_ids=[old, good]))
        assert (job["status"], counts(job)) == ("completed", (1, 0, 1))
        (error,) = job["errors"]
        assert (error["stack_id"], "at most 30m more" in error["error"]) == (old, True)
        await at.cluster.faults.refuse()
        refused = await finished(at, await submit(at, "restart", stack_ids=[good, old]))
        assert (refused["status"], counts(refused), len(refused["errors"])) == ("failed", (0, 0, 2), 2)
        await at.cluster.faults.listen()


async def test_a_job_that_extends_waits_for_no_other_job(at: Harness) -> None:
    going, staying = [await at.running() for _ in range(2)]
    at.cluster.faults.pause()
    deleting = await submit(at, "delete", stack_ids=[going])
    assert counts(await finished(at, await submit(at, "extend", ttl="30m", stack_ids=[staying]))) == (1, 0, 0)
    assert (await at.call("GET", f"/stacks/batch/{deleting.json['job_id']}")).json["done"] == 0
    at.cluster.faults.resume()
    assert counts(await finished(at, deleting)) == (1, 0, 0)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"stack_ids": ["a"]}, "action is required"),
        ({"action": "extned", "ttl": "1m", "stack_ids": ["a"]}, 'did you mean "extend"'),
        ({"action": ["stop"], "stack_ids": ["a"]}, "action must be a string"),
        ({"action": "extend", "stack_ids": ["a"]}, "goes with the action extend"),
        ({"action": "extend", "ttl": None, "stack_ids": ["a"]}, "ttl must be a string"),
        ({"action": "extend", "ttl": "25h", "stack_ids": ["a"]}, "at most 24h"),
        ({"action": "stop", "ttl": "1m", "stack_ids": ["a"]}, "only with that"),
        ({"action": "stop"}, "either stack_ids or labels"),
        ({"action": "stop", "stack_ids": ["a"], "labels": {"team": "7"}}, "either stack_ids or labels"),
        ({"action": "stop", "stack_ids": []}, "stack_ids is empty"),
        ({"action": "stop", "stack_ids": "a"}, "stack_ids must be a list"),
        ({"action": "stop", "labels": {}}, "labels is empty"),
        ({"action": "stop", "labels": {"team": 7}}, "labels"),
        ({"action": "stop", "stack_ids": ["a"], "status": "failed"}, "unknown field"),
    ],
)
async def test_a_body_that_is_wrong_is_refused_with_what_would_be_right(
    at: Harness, body: dict[str, Any], words: str
) -> None:
    reply = await at.call("POST", "/stacks/batch", body)
    assert (reply.status, words in reply.error) == (400, True), reply.text
    assert not at.rows("SELECT * FROM jobs")


async def test_more_ids_than_a_job_may_have_are_a_413(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_BATCH_DELETE__MAX_IDS": "1"}) as at:
        assert (await submit(at, "stop", stack_ids=["a", "b"])).status == 413


async def test_a_key_has_one_job_and_jobs_that_do_not_delete_are_no_batch_deletes(at: Harness) -> None:
    stack_id = (await at.create())["stack_id"]
    once = {"Idempotency-Key": "once"}
    first, again = [await submit(at, "extend", ttl="1h", stack_ids=[stack_id], headers=once) for _ in range(2)]
    assert (again.json, again.headers.get("Idempotency-Replayed")) == (first.json, "true")
    await finished(at, first)
    assert life(await at.stack(stack_id)) == 10800
    assert (await submit(at, "stop", stack_ids=[stack_id], headers=once)).status == 422
    assert (await at.call("GET", f"/stacks/batch-delete/{first.json['job_id']}")).status == 404
    assert (await at.call("GET", "/stacks/batch/job-0")).status == 404


@pytest.mark.parametrize("action", ["extend", "restart", "stop"])
async def test_a_job_goes_on_after_a_restart_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """The daemon stops after it has written what one chunk is to become, and before anything is counted or done."""
    ttl = {"ttl": "30m"} if action == "extend" else {}
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, {"STACKD_RECONCILE__INTERVAL": "1h"}, cluster=cluster) as at:
            ids = [await at.running() for _ in range(2)]
            reached = asyncio.Event()

            def stop_here(name: str) -> None:
                if name == "batch.begun":
                    reached.set()
                    raise asyncio.CancelledError

            monkeypatch.setattr(crashpoints, "hook", stop_here)
            reply = await submit(at, action, stack_ids=ids, **ttl)
            await reached.wait()
        monkeypatch.setattr(crashpoints, "hook", None)
        async with harness(tmp_path, cluster=cluster) as at:
            assert counts(await finished(at, reply)) == (2, 0, 0)
            for stack_id in ids:
                assert await recorded_life(at, stack_id) == (9000 if action == "extend" else 7200)
            generations = {generation for (generation,) in at.rows("SELECT generation FROM stacks")}
            assert generations == {1 if action == "restart" else 0}
            await eventually(lambda: at.daemon.context.worker.jobs == set())
