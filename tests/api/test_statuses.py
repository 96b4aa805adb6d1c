"""Statuses, timelines and logs: what happens in the cluster shows, and why a stack died, also after it is deleted."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from stackd.clock import to_nanoseconds
from stackd.lifecycle import diagnostics
from stackd.lifecycle.context import LOG_READS_AT_ONCE
from stackd.workqueue import RetryPolicy
from tests.harness import Harness, Machine, Reply, eventually, request_for, until


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["kind"] for event in events]


async def until_told(at: Harness, stack_id: str, kind: str) -> list[dict[str, Any]]:
    """The timeline's lines of this kind, once there is one."""
    events = await until(lambda: at.timeline(stack_id), lambda seen: kind in kinds(seen))
    return [event for event in events if event["kind"] == kind]


async def logs(at: Harness, stack_id: str, query: str = "") -> Reply:
    return await at.call("GET", f"/stacks/{stack_id}/logs{query}")


async def test_a_stack_whose_pod_has_ended_gives_its_ports_back_at_once(at: Harness) -> None:
    ends = (
        ("fail", "failed", "Error", "crash"),
        ("exit0", "stopped", "Completed", "ended"),
        ("oom", "failed", "OOMKilled", "memory"),
        ("nostart", "failed", "StartError", "config"),
    )
    for image, status, reason, problem in ends:
        created = await at.create(request_for(f"registry.example/{image}"))
        stack = await at.until_status(created["stack_id"], status)
        short = await at.get(f"/stacks/{created['stack_id']}/status")
        assert (short["problem"], short["addresses"]) == (stack["problem"], stack["addresses"])
        assert (stack["status_reason"], stack["problem"]["key"], stack["addresses"]) == (reason, problem, [])
        await until(at.used_ports, lambda seen: seen == 0)
        service = (await at.objects("services"))[created["service_name"]]
        assert (service["spec"]["type"], "nodePort" in service["spec"]["ports"][0]) == ("ClusterIP", False)
        assert "stackd.io/record" in service["metadata"]["annotations"]
        again = await at.stack(created["stack_id"])
        assert (again["ports"], again["updated_at"]) == (created["ports"], stack["updated_at"])
    stats = await at.get("/stats")
    assert (stats["total_stacks"], stats["active_stacks"], stats["reserved_cpu_milli"]) == (len(ends), 0, 0)


@pytest.mark.stackd(stacks__restart_policy="Always")
async def test_a_failed_container_keeps_service_and_ports(at: Harness) -> None:
    starts_not = (
        ("badname", "InvalidImageName"), ("noconfig", "CreateContainerConfigError"), ("crashloop", "CrashLoopBackOff")
    )  # fmt: skip
    for count, (image, reason) in enumerate(starts_not, 1):
        stack_id = (await at.create(request_for(f"registry.example/{image}")))["stack_id"]
        assert (await at.until_status(stack_id, "failed"))["status_reason"] == reason
        assert await at.used_ports() == count == len(await at.objects("services"))
        if image == "crashloop":
            await until_told(at, stack_id, "restarted")


@pytest.mark.stackd(stacks__image_pull_grace="0s")
async def test_a_failed_pull_shows_the_clusters_own_warnings(at: Harness) -> None:
    stack_id = (await at.create(request_for("registry.example/nopull")))["stack_id"]
    (failed, *_) = await until_told(at, stack_id, "failed")
    assert failed["reason"] in ("ErrImagePull", "ImagePullBackOff")
    warnings = await until_told(at, stack_id, "warning")
    assert {warning["by"] for warning in warnings} == {"cluster"}
    assert any("registry.example/nopull" in warning["message"] for warning in warnings)
    assert len({(w["reason"], w["message"]) for w in warnings}) == len(warnings)
    assert "pulling" in kinds(await at.timeline(stack_id))
    await at.running(request_for("registry.example/latepull"))
    assert await at.used_ports() == 2


@pytest.mark.kubernetes(pod_gc_delay=60.0)
async def test_a_node_that_comes_back_brings_its_stacks_back(at: Harness) -> None:
    created = await at.create()
    node = (await at.until_status(created["stack_id"], "running"))["node_id"]
    at.faults.remove_node(node)
    stack = await at.until_status(created["stack_id"], "node_deleted")
    assert (stack["node_id"], stack["node_public_ip"]) == (node, created["node_public_ip"])
    assert await at.used_ports() == 1
    at.faults.add_node(name=node, labels={"role": "stack"})
    await at.until_status(created["stack_id"], "running")


# ---- timelines


async def test_a_stack_tells_its_story_from_its_create_to_its_delete_and_who_asked_for_what(at: Harness) -> None:
    stack_id = await at.running()
    await at.do("extend", stack_id, ttl="1m")
    await at.do("restart", stack_id)
    await at.until_status(stack_id, "running")
    await at.do("stop", stack_id)
    await at.delete(stack_id)
    events = await at.timeline(stack_id)
    assert kinds(events) == [
        "accepted", "scheduled", "started", "ready", "extended", "restart_requested", "started", "ready",
        "stop_requested", "stopped", "delete_requested", "deleted",
    ]  # fmt: skip
    times = [to_nanoseconds(event["at"]) for event in events]
    assert times == sorted(times)
    by = {event["kind"]: event["by"] for event in events}
    (key,) = {by[kind] for kind in ("accepted", "extended", "restart_requested", "stop_requested", "delete_requested")}
    assert key not in ("stackd", "cluster", "")
    assert by["ready"] == "cluster"
    assert [list(event) for event in events] == [["at", "kind", "reason", "message", "by"]] * len(events)

    expires, batch = (await at.create(ttl="1s"))["stack_id"], (await at.create())["stack_id"]
    await at.finished_job(await at.batch_delete(batch))
    await until_told(at, expires, "deleted")
    for stack_id, reason, who in ((expires, "expired", "stackd"), (batch, "batch", key)):
        event = (await at.timeline(stack_id))[-2]
        assert (event["kind"], event["reason"], event["by"]) == ("delete_requested", reason, who)


@pytest.mark.stackd(stacks__image_pull_grace="0s")
async def test_a_failed_question_about_one_stack_stops_no_other(vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 3
    monkeypatch.setattr("stackd.timing.DIAGNOSTICS_RETRIES", RetryPolicy(first=0.05, longest=0.05, most=tries))
    at = await vm.start()
    at.faults.add_fault(action="status", verb="list", resource="events", code=400)
    await asyncio.gather(*(at.create(request_for("registry.example/nopull")) for _ in range(diagnostics.WORKERS + 1)))
    await eventually(lambda: at.counts.total("list", "events") >= (diagnostics.WORKERS + 1) * tries)
    at.faults.clear()
    await until_told(at, (await at.create(request_for("registry.example/nopull")))["stack_id"], "warning")


async def test_a_timeline_outlives_its_stack_for_as_long_as_it_is_to_be_kept(vm: Machine) -> None:
    at = await vm.start()
    stack_id = (await at.create())["stack_id"]
    await at.delete(stack_id)
    await at.refused(503, "", "/stacks", request_for("nginx", cpu="100000"))
    assert {row for (row,) in at.rows("SELECT stack_id FROM timeline")} == {stack_id}, "a failed create leaves none"
    at = await vm.start()
    await at.run_now("purge")
    assert kinds(await at.timeline(stack_id))[-1] == "deleted"
    at = await vm.start(stacks__keep_history="0s")
    await at.run_now("purge")
    assert (await at.call("GET", f"/stacks/{stack_id}/timeline")).status == 404


# ---- logs


async def test_logs_come_from_the_cluster_while_the_pod_is_there(at: Harness) -> None:
    stack_id = await at.running()
    reply = await logs(at, stack_id)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert (reply.headers["X-Content-Type-Options"], reply.text) == ("nosniff", "starting\nready\n")
    assert (await logs(at, stack_id, "?tail=1")).text == "ready\n"
    assert (await logs(at, stack_id, "?tail=1&container=app")).text == "ready\n"
    for query in ("?tail=0", "?tail=10001", "?tail=all", "?lines=3"):
        assert (await logs(at, stack_id, query)).status == 400
    assert (await logs(at, stack_id, "?container=other")).status == 409
    await at.do("stop", stack_id)
    reply = await logs(at, stack_id)
    assert reply.status == 404

    restarted = await at.running()
    at.faults.add_fault(action="latency", verb="delete", resource="pods", seconds=60)
    restarting = asyncio.create_task(at.do("restart", restarted))
    await at.until_status(restarted, "creating")
    reply = await logs(at, restarted)
    assert reply.status == 409, "the old pod's are not its own"
    at.faults.clear()
    await restarting


async def test_logs_that_hang_keep_no_create_waiting(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "READ_WAITS_SECONDS", 0.2)
    stack_id = await at.running()
    at.faults.add_fault(action="hang", resource="pods/log")
    reads = [asyncio.create_task(logs(at, stack_id)) for _ in range(LOG_READS_AT_ONCE)]
    await eventually(lambda: at.counts.in_flight == LOG_READS_AT_ONCE)
    await at.refused(503, "logs are being read", f"/stacks/{stack_id}/logs", method="GET")
    await at.create()
    for read in reads:
        read.cancel()


async def test_the_last_words_of_what_failed_are_kept_when_its_pod_is_gone(at: Harness) -> None:
    stack_id = (await at.create(request_for("registry.example/fail")))["stack_id"]
    await eventually(lambda: bool(at.rows("SELECT 1 FROM kept_logs")))
    await at.delete_object("pods", stack_id)
    await at.until_metric("stackd_mirror_objects", 0, kind="pods")
    assert (await logs(at, stack_id)).text == "starting\nboom\n"
    assert (await logs(at, stack_id, "?tail=1")).text == "boom\n"
    await at.delete(stack_id)
    assert (await logs(at, stack_id)).text == "starting\nboom\n"


async def test_last_words_are_not_waited_for(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    expires = (await at.create(ttl="2s"))["stack_id"]
    await at.until_listed(0)
    assert (await logs(at, expires)).text == "starting\nready\n"
    monkeypatch.setattr(diagnostics, "CAPTURE_SECONDS", 3.0)
    at.faults.add_fault(action="hang", resource="pods/log")
    stack_id = await at.running()
    await at.create(ttl="1s")
    await at.delete(stack_id)
    assert at.counts.in_flight > 0, "it is still being asked for, and will be given up"
    await at.until_listed(0)
    await eventually(lambda: at.counts.in_flight == 0)
    reply = await logs(at, stack_id)
    assert reply.status == 404


async def test_a_pod_that_fails_before_its_create_is_complete_is_told_of_and_leaves_its_last_words(
    at: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    at.faults.add_fault(action="latency", verb="create|patch", resource="services", seconds=0.5)
    stack = await at.create(request_for("registry.example/fail-3"))
    await at.until_status(stack["stack_id"], "failed")
    await eventually(lambda: bool(at.rows("SELECT 1 FROM kept_logs")))
    assert "failed (Error)" in caplog.text
