"""Stop, start and restart: the ports stay, the pod is a new one, and after an interruption nothing is left over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.api.scenes import uid
from tests.harness import Harness, Machine, eventually, request_for, until

ENDS = request_for("registry.example/exit0")
one_port = pytest.mark.stackd(stacks__node_port_min="31001", stacks__node_port_max="31001")


async def running(at: Harness, body: dict[str, Any] | None = None) -> tuple[dict[str, Any], str]:
    stack_id = await at.running(body)
    return await at.stack(stack_id), str(await uid(at, stack_id))


def port_of(stack: dict[str, Any]) -> int:
    return int(stack["ports"][0]["node_port"])


async def settled_with_new_pod(at: Harness, stack: dict[str, Any], old: str) -> None:
    """Check that the stack runs behind its own port in a new pod, and that no other object is left."""
    again = await at.until_status(stack["stack_id"], "running")
    assert await uid(at, stack["stack_id"]) not in (None, old)
    service = (await at.objects("services"))[stack["service_name"]]
    assert service["spec"]["ports"][0]["nodePort"] == port_of(stack)
    assert (again["ports"], again["ttl_expires_at"]) == (stack["ports"], stack["ttl_expires_at"])
    assert len(await at.pods_and_services()) == 2
    assert (await at.get("/reconcile"))["actions"] == []


async def others_may_not_have(at: Harness, port: int) -> bool:
    """Whether the cluster refuses a Service of somebody else at this node port."""
    ports = [{"port": 80, "protocol": "TCP", "nodePort": port}]
    service = {"metadata": {"name": "theirs"}, "spec": {"type": "NodePort", "ports": ports, "selector": {}}}
    made = await at.kubectl("POST", "/api/v1/namespaces/default/services", service)
    return "already allocated" in str(made.get("message"))


async def test_a_restart_gives_a_fresh_pod_behind_the_same_port_with_the_same_end(at: Harness) -> None:
    stack, old = await running(at)
    assert await at.do("start", stack["stack_id"]) == stack, "it runs already"
    assert await uid(at, stack["stack_id"]) == old
    with at.no_pod_starting():
        again = await at.do("restart", stack["stack_id"])
    assert (list(again), again["status"], again["ports"]) == (list(stack), "creating", stack["ports"])
    assert (again["node_id"] in await at.objects("nodes"), again["node_public_ip"]) == (True, "127.0.0.1")
    await settled_with_new_pod(at, stack, old)
    at.reload("limits", creates_per_second=0.001)
    await at.create()
    await at.refused(429, "limits.creates_per_second", f"/stacks/{stack['stack_id']}/restart")


async def test_a_stop_keeps_the_ports_until_the_stack_is_deleted_or_ends(at: Harness) -> None:
    stack, _ = await running(at)
    stopped = await at.do("stop", stack["stack_id"])
    assert (stopped["status"], stopped["status_reason"]) == ("stopped", "StoppedByUser")
    assert not await at.objects("pods")
    assert await others_may_not_have(at, port_of(stack))
    stats = await at.get("/stats")
    assert (stats["total_stacks"], stats["active_stacks"], stats["used_node_ports"]) == (1, 0, 1)
    assert (stats["reserved_cpu_milli"], stats["node_distribution"]) == (0, {})
    assert await at.do("stop", stack["stack_id"]) == stopped
    at.observe_all()
    await at.passes(3)
    assert await at.stack(stack["stack_id"]) == stopped
    await at.delete(stack["stack_id"])
    short = (await at.create(ttl="3s"))["stack_id"]
    await at.do("stop", short)
    await at.until_listed(0)
    assert (await at.used_ports(), await at.pods_and_services()) == (0, {})


@one_port
async def test_a_stack_whose_pod_has_ended_takes_its_ports_again_unless_they_are_somebody_elses(at: Harness) -> None:
    stack = await at.until_status((await at.create(ENDS))["stack_id"], "stopped")
    stack_id, old = stack["stack_id"], await uid(at, stack["stack_id"])
    await until(at.used_ports, lambda seen: seen == 0)
    await at.refused(409, "", f"/stacks/{stack_id}/stop")
    with at.no_pod_starting():
        again = await at.do("restart", stack_id)
    assert (again["ports"], again["ended"]) == (stack["ports"], False)
    again = await at.until_status(stack_id, "stopped")
    assert await uid(at, stack_id) != old
    await until(at.used_ports, lambda seen: seen == 0)
    await at.create()
    await at.refused(409, "another stack has node port 31001 by now", f"/stacks/{stack_id}/restart")
    assert await at.stack(stack_id) == again


async def test_a_start_that_gets_another_port_says_so(at: Harness) -> None:
    """Only a stack whose pod has ended by itself has given its ports back."""
    stack, _ = await running(at)
    kept = port_of(stack)
    await at.delete_object("pods", stack["stack_id"])
    await until(at.used_ports, lambda seen: seen == 0)
    assert not await others_may_not_have(at, kept)
    answer = await at.do("start", stack["stack_id"])
    assert (port_of(answer) != kept, answer["status_reason"]) == (True, "NodePortReplaced")
    assert "NodePortReplaced" in [event["reason"] for event in await at.timeline(stack["stack_id"])]


# ---- several at once


async def test_restarts_at_once_come_one_after_the_other_and_leave_one_pod(at: Harness) -> None:
    stack, old = await running(at)
    verbs = ("restart", "stop", "restart", "start", "restart")
    await asyncio.gather(*(at.do(verb, stack["stack_id"]) for verb in verbs))
    await at.do("start", stack["stack_id"])
    await settled_with_new_pod(at, stack, old)


async def test_what_is_being_deleted_cannot_be_started(at: Harness) -> None:
    stack_id = await at.running()
    await at.patch("pods", stack_id, {"metadata": {"finalizers": ["example.com/hold"]}})
    at.give_kubernetes(timeout=0.5)
    assert (await at.call("DELETE", f"/stacks/{stack_id}")).status == 503
    for action in ("start", "restart", "stop"):
        await at.refused(409, "is being deleted", f"/stacks/{stack_id}/{action}")
    labels = {"labels": {"player": "8"}}
    await at.refused(409, "is being deleted", f"/stacks/{stack_id}", labels, method="PATCH")


async def test_a_delete_during_a_restart_leaves_nothing(at: Harness) -> None:
    stack_id = await at.running()
    at.faults.pause()
    restarting = asyncio.create_task(at.refused(404, "", f"/stacks/{stack_id}/restart"))
    await eventually(lambda: at.rows("SELECT generation FROM stacks") == [(1,)])
    deleting = asyncio.create_task(at.delete(stack_id))
    await at.until_metric("stackd_deletes_pending", 1)
    at.faults.resume()
    await asyncio.gather(deleting, restarting)
    assert (await at.pods_and_services(), await at.used_ports()) == ({}, 0)


# ---- what the cluster refuses, or has not shown yet


async def test_what_the_quota_refuses_is_said_and_tried_again_until_there_is_room(at: Harness) -> None:
    stack, old = await running(at)
    stack_id = stack["stack_id"]
    await at.do("stop", stack_id)
    await at.apply("resourcequotas", "tight", spec={"hard": {"pods": "0"}})
    reply = await at.refused(503, "ResourceQuota tight", f"/stacks/{stack_id}/start")
    assert reply.headers["Retry-After"] == "30"
    waiting = await at.stack(stack_id)
    assert (waiting["status"], waiting["status_reason"]) == ("creating", "QuotaExceeded")
    notes = (await at.objects("services"))[f"svc-{stack_id}"]["metadata"]["annotations"]
    assert (notes["stackd.io/desired"], notes["stackd.io/generation"]) == ("starting", "1")
    assert await at.used_ports() == 1
    await at.delete_object("resourcequotas", "tight")
    await settled_with_new_pod(at, stack, old)


@pytest.mark.stackd(reconcile__interval="1h")
async def test_a_pod_that_may_not_be_deleted_is_tried_again_without_a_pass(at: Harness) -> None:
    for verb, settled, action in (("restart", "running", "status"), ("stop", "stopped", "hang")):
        stack, _ = await running(at)
        path, before = f"/stacks/{stack['stack_id']}", await at.pods_and_services()
        at.faults.add_fault(action=action, verb="delete", resource="pods", code=403)
        for _ in range(2):
            with at.hurried(timeout=0.3, attempt_timeout=0.1):
                reply = await at.refused(503, "", f"{path}/{verb}")
            assert ("its old pod may run on until then" in reply.error) == (verb == "restart")
            assert "no pod" not in reply.error + (await at.get(path))["status_message"]
        assert await at.pods_and_services() == before
        at.faults.clear()
        assert port_of(await at.until_status(stack["stack_id"], settled)) == port_of(stack)


async def test_a_pod_that_the_watch_has_not_shown_yet_is_not_taken_for_a_lost_one(at: Harness) -> None:
    stack, old = await running(at)
    at.faults.freeze_watches()
    await at.do("restart", stack["stack_id"])
    await at.passes(3)
    assert ((await at.stack(stack["stack_id"]))["status"], await at.used_ports()) == ("creating", 1)
    at.faults.drop_watches()
    await settled_with_new_pod(at, stack, old)


# ---- restarts of stackd


async def test_stop_and_start_survive_a_restart_of_stackd(vm: Machine) -> None:
    at = await vm.start()
    stack, old = await running(at, request_for("registry.example/web"))
    stopped = await at.do("stop", stack["stack_id"])
    at = await vm.start()
    assert await at.stack(stack["stack_id"]) == stopped
    with at.no_pod_starting():
        started = await at.do("start", stack["stack_id"])
    assert (started["status"], started["ports"], started["status_reason"]) == ("creating", stack["ports"], "")
    await settled_with_new_pod(at, stack, old)
    at = await vm.start(policy__images_deny='["registry.example/*"]')
    await at.refused(409, "not allowed any more", f"/stacks/{stack['stack_id']}/restart")
    assert (await at.stack(stack["stack_id"]))["status"] == "running"
