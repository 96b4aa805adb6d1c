"""Why a stack died: timelines and logs, also of stacks that are deleted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stackd.clock import to_nanoseconds
from stackd.embedded import EmbeddedCluster
from stackd.embedded.faults import Fault
from stackd.lifecycle import diagnostics
from tests.harness import Harness, Reply, eventually, fast_cluster, harness, request_for, seed


async def timeline(at: Harness, stack_id: str) -> list[dict[str, Any]]:
    reply = await at.call("GET", f"/stacks/{stack_id}/timeline")
    assert reply.status == 200, reply.text
    assert list(reply.json) == ["stack_id", "events"]
    events: list[dict[str, Any]] = reply.json["events"]
    return events


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["kind"] for event in events]


async def has(at: Harness, stack_id: str, kind: str) -> bool:
    return kind in kinds(await timeline(at, stack_id))


async def logs(at: Harness, stack_id: str, query: str = "") -> Reply:
    return await at.call("GET", f"/stacks/{stack_id}/logs{query}")


async def test_a_stack_tells_its_story_from_its_create_to_its_delete_and_who_asked_for_what(at: Harness) -> None:
    stack_id = await at.running()
    await at.call("POST", f"/stacks/{stack_id}/extend", {"ttl": "1m"})
    await at.call("POST", f"/stacks/{stack_id}/restart")
    await at.until_status(stack_id, "running")
    await at.call("POST", f"/stacks/{stack_id}/stop")
    await at.call("DELETE", f"/stacks/{stack_id}")
    events = await timeline(at, stack_id)
    assert kinds(events) == [
        "accepted", "scheduled", "started", "ready", "extended", "restart_requested", "started", "ready",
        "stop_requested", "stopped", "delete_requested", "deleted",
    ]  # fmt: skip
    times = [to_nanoseconds(event["at"]) for event in events]
    assert times == sorted(times)
    by = {event["kind"]: event["by"] for event in events}
    asked = {by[kind] for kind in ("accepted", "extended", "restart_requested", "stop_requested", "delete_requested")}
    assert len(asked) == 1
    assert asked.isdisjoint({"stackd", "cluster", ""})
    assert by["ready"] == "cluster"
    assert [list(event) for event in events] == [["at", "kind", "reason", "message", "by"]] * len(events)


async def test_a_pod_that_runs_before_the_stack_is_written_down_has_started(at: Harness) -> None:
    lost = {"action": "lost_reply", "verb": "create", "resource": "pods", "count": 1}
    at.cluster.faults.add_fault(**lost)
    created = await at.create()
    assert created["status"] == "running", "its pod ran when the answer to the second try came"
    stack_id = created["stack_id"]
    assert kinds(await timeline(at, stack_id)) == ["accepted", "scheduled", "started", "ready"]
    at.cluster.faults.add_fault(**lost)
    restarted = await at.call("POST", f"/stacks/{stack_id}/restart")
    assert restarted.json["status"] == "running"
    await at.run_now("reconcile")
    assert kinds(await timeline(at, stack_id))[4:] == ["restart_requested", "started", "ready"]


async def test_expiry_and_batch_jobs_say_who_it_was(at: Harness) -> None:
    short = (await at.create(seed() | {"ttl": "500ms"}))["stack_id"]
    job = (await at.create())["stack_id"]
    await at.finished_job((await at.call("POST", "/stacks/batch-delete", {"stack_ids": [job]})).json["job_id"])
    await eventually(lambda: has(at, short, "deleted"))
    asked = {stack_id: (await timeline(at, stack_id))[-2] for stack_id in (short, job)}
    assert {event["kind"] for event in asked.values()} == {"delete_requested"}
    assert (asked[short]["reason"], asked[short]["by"]) == ("expired", "stackd")
    assert asked[job]["reason"] == "batch"
    assert asked[job]["by"] not in ("stackd", "cluster")


async def test_a_failure_is_told_with_its_reason_and_the_cluster_s_own_warnings(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_STACKS__IMAGE_PULL_GRACE": "0s"}) as at:
        stack_id = (await at.create(request_for("registry.example/nopull")))["stack_id"]
        failed = await at.until_status(stack_id, "failed")
        await eventually(lambda: has(at, stack_id, "warning"))
        events = await timeline(at, stack_id)
        told = next(event for event in events if event["kind"] == "failed")
        assert told["reason"] in ("ErrImagePull", "ImagePullBackOff")
        assert told["message"].startswith("image registry.example/nopull cannot be pulled")
        assert failed["status_message"].startswith("image registry.example/nopull cannot be pulled")
        assert "pulling" in kinds(events)
        warnings = [event for event in events if event["kind"] == "warning"]
        assert {warning["by"] for warning in warnings} == {"cluster"}
        assert any("registry.example/nopull" in warning["message"] for warning in warnings)
        assert len({(w["reason"], w["message"]) for w in warnings}) == len(warnings)


@pytest.mark.parametrize("code", [400, 404, 500])
async def test_whatever_the_cluster_answers_to_a_question_about_one_stack_the_next_one_is_still_told_of(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostics, "RETRIES", replace(diagnostics.RETRIES, first=0.01, longest=0.01))
    tries = diagnostics.RETRIES.most
    assert tries is not None
    async with harness(tmp_path, {"STACKD_STACKS__IMAGE_PULL_GRACE": "0s"}) as at:
        at.cluster.faults.add(Fault(action="status", verb="list", resource="events", code=code))
        for _ in range(diagnostics.WORKERS + 1):
            stack_id = (await at.create(request_for("registry.example/nopull")))["stack_id"]
            await at.until_status(stack_id, "failed")
        await eventually(lambda: at.cluster.counts.total("list", "events") >= (diagnostics.WORKERS + 1) * tries)
        at.cluster.faults.clear()
        stack_id = (await at.create(request_for("registry.example/nopull")))["stack_id"]
        await eventually(lambda: has(at, stack_id, "warning"))


async def test_restarts_of_a_container_are_told_with_its_exit_code(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_STACKS__RESTART_POLICY": "Always"}) as at:
        stack_id = (await at.create(request_for("registry.example/crashloop")))["stack_id"]
        await eventually(lambda: has(at, stack_id, "restarted"))
        event = next(event for event in await timeline(at, stack_id) if event["kind"] == "restarted")
        assert event["message"].startswith("container app ended with exit code 1 and was started again")


async def test_readiness_that_is_lost_and_comes_back_is_told(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(run_time=2.0)) as cluster, harness(tmp_path, cluster=cluster) as at:
        stack_id = (await at.create(request_for("registry.example/unready")))["stack_id"]
        await eventually(lambda: has(at, stack_id, "not_ready"))
        events = kinds(await timeline(at, stack_id))
        assert events.index("ready") < events.index("not_ready")


async def test_a_timeline_outlives_its_stack_for_as_long_as_it_is_to_be_kept(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, cluster=cluster) as at:
            stack_id = (await at.create())["stack_id"]
            await at.call("DELETE", f"/stacks/{stack_id}")
        async with harness(tmp_path, cluster=cluster) as later:
            assert kinds(await timeline(later, stack_id))[-1] == "deleted"
            await later.run_now("purge")
            assert kinds(await timeline(later, stack_id))[-1] == "deleted"
        async with harness(tmp_path, {"STACKD_STACKS__KEEP_HISTORY": "0s"}, cluster=cluster) as last:
            await last.run_now("purge")
            assert (await last.call("GET", f"/stacks/{stack_id}/timeline")).status == 404


async def test_a_create_that_failed_leaves_no_story(at: Harness) -> None:
    assert (await at.call("POST", "/stacks", request_for("nginx", cpu="100000"))).status == 503
    assert (at.rows("SELECT * FROM timeline"), await at.objects("pods")) == ([], {})


async def test_logs_come_from_the_cluster_while_the_pod_is_there(at: Harness) -> None:
    stack_id = await at.running()
    reply = await logs(at, stack_id)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.text == "starting\nready\n"
    assert (await logs(at, stack_id, "?tail=1")).text == "ready\n"
    assert (await logs(at, stack_id, "?tail=1&container=app")).text == "ready\n"
    for query in ("?tail=0", "?tail=10001", "?tail=all", "?lines=3"):
        assert (await logs(at, stack_id, query)).status == 400
    assert (await logs(at, stack_id, "?container=other")).status == 409


async def test_the_last_words_of_what_failed_are_kept_when_its_pod_is_gone(at: Harness) -> None:
    stack_id = (await at.create(request_for("registry.example/fail")))["stack_id"]
    await at.until_status(stack_id, "failed")

    await eventually(lambda: bool(at.rows("SELECT 1 FROM kept_logs")))
    await at.delete_object("pods", stack_id)
    await at.until_metric("stackd_mirror_objects", 0, kind="pods")
    assert (await logs(at, stack_id)).text == "starting\nboom\n"
    assert (await logs(at, stack_id, "?tail=1")).text == "boom\n"
    await at.call("DELETE", f"/stacks/{stack_id}")
    assert (await logs(at, stack_id)).text == "starting\nboom\n"


@pytest.mark.parametrize("hangs", [False, True])
async def test_the_last_words_of_a_stack_whose_time_is_up_are_kept_and_not_waited_for(
    tmp_path: Path, hangs: bool
) -> None:
    async with harness(tmp_path, {"STACKD_STACKS__TTL": "1s"}) as at:
        if hangs:
            at.cluster.faults.add_fault(action="hang", resource="pods/log")
        stack_id = await at.running()
        await at.until_listed(0)
        if hangs:
            assert at.cluster.counts.total("get", "pods/log") == 0
        else:
            assert (await logs(at, stack_id)).text == "starting\nready\n"


async def test_a_delete_does_not_wait_for_the_last_words(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "CAPTURE_SECONDS", 0.5)
    stack_id = await at.running()
    at.cluster.faults.add_fault(action="hang", resource="pods/log")
    assert (await at.call("DELETE", f"/stacks/{stack_id}")).status == 200
    assert at.cluster.counts.in_flight > 0, "it is still being asked for, and will be given up"
    await eventually(lambda: at.cluster.counts.in_flight == 0)
    reply = await logs(at, stack_id)
    assert (reply.status, "no log was kept" in reply.error) == (404, True)


async def test_a_container_that_has_not_started_has_no_log_yet_and_that_is_said(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(start_delay=30.0)) as cluster, harness(tmp_path, cluster=cluster) as at:
        stack_id = (await at.create())["stack_id"]
        reply = await logs(at, stack_id)
        assert reply.status == 409
        assert "waiting to start" in reply.error


async def test_a_stopped_stack_has_no_logs_but_still_its_story(at: Harness) -> None:
    stack_id = await at.running()
    await at.call("POST", f"/stacks/{stack_id}/stop")
    reply = await logs(at, stack_id)
    assert (reply.status, "no log" in reply.error) == (404, True)
    assert await has(at, stack_id, "stopped")


async def test_the_old_pod_of_a_restart_speaks_no_more(at: Harness) -> None:
    stack_id = await at.running()
    at.cluster.faults.add_fault(action="hang", verb="delete", resource="pods")
    restarting = asyncio.create_task(at.call("POST", f"/stacks/{stack_id}/restart"))
    await at.until_status(stack_id, "creating")
    reply = await logs(at, stack_id)
    assert (reply.status, reply.error) == (409, f"{stack_id} has no pod at present")
    restarting.cancel()
    await asyncio.gather(restarting, return_exceptions=True)
