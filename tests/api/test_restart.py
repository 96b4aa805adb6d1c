"""Stop, start and restart: the ports stay, the pod is a new one, and after an interruption nothing is left over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stackd.embedded import EmbeddedCluster
from stackd.embedded.resources import PODS
from stackd.embedded.store import ObjectChange
from tests.harness import Harness, Reply, eventually, fast_cluster, harness, request_for, seed

SHORT = {"STACKD_SERVER__SHUTDOWN_TIMEOUT": "200ms"}


async def do(at: Harness, verb: str, stack_id: str) -> Reply:
    return await at.call("POST", f"/stacks/{stack_id}/{verb}")


async def running(at: Harness, body: dict[str, Any] | None = None) -> dict[str, Any]:
    return await at.until_status((await at.create(body))["stack_id"], "running")


async def uid(at: Harness, stack_id: str) -> str | None:
    pod = (await at.objects("pods")).get(stack_id)
    return None if pod is None else str(pod["metadata"]["uid"])


async def node_port(at: Harness, stack: dict[str, Any]) -> int | None:
    service = (await at.objects("services")).get(stack["service_name"])
    return None if service is None else int(service["spec"]["ports"][0]["nodePort"])


async def used(at: Harness) -> int:
    return int((await at.call("GET", "/stats")).json["used_node_ports"])


def held_ports(stack: dict[str, Any]) -> list[int]:
    return [port["node_port"] for port in stack["ports"]]


async def settled_with_new_pod(at: Harness, stack: dict[str, Any], old: str) -> None:
    """Check that the stack runs behind its own port in a new pod, and that no other object is left."""
    await at.until_status(stack["stack_id"], "running")
    assert await uid(at, stack["stack_id"]) not in (None, old)
    assert await node_port(at, stack) == stack["ports"][0]["node_port"]
    again = await at.stack(stack["stack_id"])
    assert (again["ports"], again["ttl_expires_at"]) == (stack["ports"], stack["ttl_expires_at"])
    assert len(await at.objects("pods")) == len(await at.objects("services")) == 1
    plan = (await at.call("GET", "/reconcile")).json
    assert plan["actions"] == []


async def test_a_restart_gives_a_fresh_pod_behind_the_same_port_with_the_same_end(at: Harness) -> None:
    stack = await running(at)
    old = await uid(at, stack["stack_id"])
    assert old is not None
    with at.no_pod_starting():
        reply = await do(at, "restart", stack["stack_id"])
    assert (reply.status, list(reply.json)) == (200, list(stack))
    assert reply.json["status"] == "creating"
    assert reply.json["ports"] == stack["ports"]
    assert reply.json["node_id"] in await at.objects("nodes")
    assert reply.json["node_public_ip"] == "127.0.0.1"
    await settled_with_new_pod(at, stack, old)


async def others_may_not_have(at: Harness, port: int) -> bool:
    """Whether the cluster refuses a Service of somebody else at this node port."""
    ports = [{"port": 80, "protocol": "TCP", "nodePort": port}]
    service = {"metadata": {"name": "theirs"}, "spec": {"type": "NodePort", "ports": ports, "selector": {}}}
    made = await at.kubectl("POST", "/api/v1/namespaces/default/services", service)
    return "already allocated" in str(made.get("message"))


async def test_a_stop_takes_the_pod_away_and_keeps_the_ports(at: Harness) -> None:
    stack = await running(at)
    reply = await do(at, "stop", stack["stack_id"])
    assert (reply.status, reply.json["status"], reply.json["status_reason"]) == (200, "stopped", "StoppedByUser")
    assert not await at.objects("pods")
    assert await others_may_not_have(at, *held_ports(stack))
    stats = (await at.call("GET", "/stats")).json
    assert (stats["total_stacks"], stats["active_stacks"], stats["used_node_ports"]) == (1, 0, 1)
    assert (stats["reserved_cpu_milli"], stats["node_distribution"]) == (0, {})
    again = await do(at, "stop", stack["stack_id"])
    assert (again.status, again.json) == (200, reply.json)
    at.look_again()
    await at.passes(3)
    assert await at.stack(stack["stack_id"]) == reply.json


async def test_a_start_of_a_running_stack_changes_nothing(at: Harness) -> None:
    stack = await running(at)
    old = await uid(at, stack["stack_id"])
    reply = await do(at, "start", stack["stack_id"])
    assert (reply.status, reply.json) == (200, stack)
    assert await uid(at, stack["stack_id"]) == old


async def test_a_stopped_stack_ends_at_its_time_and_can_be_deleted(at: Harness) -> None:
    stacks = [await running(at, seed() | {"ttl": "1500ms"}), await running(at)]
    for stack in stacks:
        assert (await do(at, "stop", stack["stack_id"])).status == 200
    assert (await at.call("DELETE", f"/stacks/{stacks[1]['stack_id']}")).status == 200

    await at.until_listed(0)
    assert await used(at) == 0


async def test_a_stack_whose_pod_has_ended_takes_its_ports_again(at: Harness) -> None:
    stack = await at.until_status((await at.create(request_for("registry.example/exit0")))["stack_id"], "stopped")
    old = await uid(at, stack["stack_id"])

    await at.until_metric("stackd_node_ports", 0, state="used")
    assert (await do(at, "stop", stack["stack_id"])).status == 409
    with at.no_pod_starting():
        reply = await do(at, "restart", stack["stack_id"])
    assert (reply.status, reply.json["ports"], reply.json["ended"]) == (200, stack["ports"], False)
    await at.until_status(stack["stack_id"], "stopped")
    assert await uid(at, stack["stack_id"]) != old


async def test_a_stack_whose_old_ports_somebody_else_has_cannot_be_restarted(tmp_path: Path) -> None:
    async with harness(
        tmp_path, {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31001"}
    ) as at:
        stack = await at.until_status((await at.create(request_for("registry.example/exit0")))["stack_id"], "stopped")

        await at.until_metric("stackd_node_ports", 0, state="used")
        await at.create()
        reply = await do(at, "restart", stack["stack_id"])
        assert reply.status == 409
        assert "another stack has node port 31001 by now" in reply.error
        assert await at.stack(stack["stack_id"]) == stack


async def test_a_failed_stack_that_waits_for_its_image_can_be_restarted(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_STACKS__IMAGE_PULL_GRACE": "0s"}) as at:
        stack = await at.until_status((await at.create(request_for("registry.example/nopull")))["stack_id"], "failed")
        old = await uid(at, stack["stack_id"])
        assert (await do(at, "restart", stack["stack_id"])).json["status"] in ("creating", "failed")
        assert await uid(at, stack["stack_id"]) not in (None, old)
        await at.until_status(stack["stack_id"], "failed")
        assert await node_port(at, stack) == stack["ports"][0]["node_port"]


async def test_restarts_at_once_come_one_after_the_other_and_leave_one_pod(at: Harness) -> None:
    stack = await running(at)
    old = await uid(at, stack["stack_id"])
    assert old is not None
    verbs = ("restart", "stop", "restart", "start", "restart")
    replies = await asyncio.gather(*(do(at, verb, stack["stack_id"]) for verb in verbs))
    assert {reply.status for reply in replies} == {200}
    assert (await do(at, "start", stack["stack_id"])).status == 200
    await settled_with_new_pod(at, stack, old)


async def test_restarts_that_wait_for_their_turn_keep_no_create_waiting(at: Harness) -> None:
    stack_id = (await running(at))["stack_id"]
    at.cluster.faults.add_fault(action="hang", verb="delete", resource="pods", name=stack_id)
    restarts = [asyncio.create_task(do(at, "restart", stack_id)) for _ in range(60)]

    def under_way() -> int:
        return sum(task.get_name() == f"restart {stack_id}" for task in asyncio.all_tasks())

    await eventually(lambda: under_way() == len(restarts))
    creating = asyncio.create_task(at.call("POST", "/stacks", seed()))
    await asyncio.wait([creating, *restarts], return_when=asyncio.FIRST_COMPLETED)
    for task in restarts:
        task.cancel()
    at.cluster.faults.clear()
    assert creating.done(), "it had to wait for restarts of another stack"
    assert creating.result().status == 201


async def test_a_delete_during_a_restart_leaves_nothing(at: Harness) -> None:
    stack = await running(at)
    at.cluster.faults.pause()
    restarting = asyncio.create_task(do(at, "restart", stack["stack_id"]))
    await eventually(lambda: at.rows("SELECT generation FROM stacks") == [(1,)])
    deleting = asyncio.create_task(at.call("DELETE", f"/stacks/{stack['stack_id']}"))
    await at.until_metric("stackd_deletes_pending", 1)
    at.cluster.faults.resume()
    assert (await deleting).status == 200
    assert not await at.objects("pods")
    assert not await at.objects("services")
    assert (await restarting).status == 404
    assert await used(at) == 0


async def test_what_the_quota_refuses_is_said_and_tried_again_until_there_is_room(at: Harness) -> None:
    stack = await running(at)
    old = await uid(at, stack["stack_id"])
    assert old is not None
    path = "/api/v1/namespaces/stacks/resourcequotas"
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "tight"},
        "spec": {"hard": {"pods": "0"}},
    }
    await do(at, "stop", stack["stack_id"])
    await at.kubectl("POST", path, quota)
    reply = await do(at, "start", stack["stack_id"])
    assert (reply.status, "ResourceQuota tight" in reply.error) == (503, True)
    assert "cannot be started now; stackd keeps trying; it has no pod until then: " in reply.error
    assert reply.headers["Retry-After"] == "30"
    waiting = await at.stack(stack["stack_id"])
    assert (waiting["status"], waiting["status_reason"]) == ("creating", "QuotaExceeded")
    assert await used(at) == 1
    await at.kubectl("DELETE", f"{path}/tight")
    await settled_with_new_pod(at, stack, old)


@pytest.mark.parametrize(("verb", "settled"), [("restart", "running"), ("stop", "stopped")])
async def test_what_the_cluster_refused_is_tried_again_without_waiting_for_a_pass(
    tmp_path: Path, verb: str, settled: str
) -> None:
    async with harness(tmp_path, {"STACKD_RECONCILE__INTERVAL": "1h"}) as at:
        stack_id = (await running(at))["stack_id"]
        at.cluster.faults.add_fault(action="status", verb="delete", resource="pods", code=422, count=2)
        passes = await at.metric("stackd_reconcile_passes_total")
        assert (await do(at, verb, stack_id)).status == 503
        await at.until_status(stack_id, settled)
        assert at.cluster.counts.requests["delete", "pods", 422] == 2, "both refusals were met, and a third try came"
        assert await at.metric("stackd_reconcile_passes_total") == passes


@pytest.mark.parametrize("action", ["status", "hang"])
@pytest.mark.parametrize(("verb", "settled"), [("restart", "running"), ("stop", "stopped")])
async def test_a_pod_that_may_not_be_deleted_can_still_be_reached(
    at: Harness, verb: str, settled: str, action: str
) -> None:
    """Before, its Service was removed, and the answer said that the stack had no pod."""
    stack = await running(at)
    before = {kind: (await at.objects(kind)).values() for kind in ("pods", "services")}
    at.give_kubernetes(timeout=0.5, attempt_timeout=0.2)
    at.cluster.faults.add_fault(action=action, verb="delete", resource="pods", code=403)
    for _ in range(2):
        reply = await do(at, verb, stack["stack_id"])
        assert reply.status == 503
        assert ("its old pod may run on until then" in reply.error) == (verb == "restart")
        assert "no pod" not in reply.error + (await at.stack(stack["stack_id"]))["status_message"]
    after = {kind: (await at.objects(kind)).values() for kind in ("pods", "services")}
    uids = [[one["metadata"]["uid"] for kind in seen.values() for one in kind] for seen in (before, after)]
    assert uids[0] == uids[1]
    at.cluster.faults.clear()
    assert held_ports(await at.until_status(stack["stack_id"], settled)) == held_ports(stack)


async def test_a_pod_spec_that_is_no_longer_allowed_is_not_started_again(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, cluster=cluster) as at:
            stack = await running(at, request_for("registry.example/web"))
        async with harness(
            tmp_path, {"STACKD_POLICY__IMAGES_DENY": '["registry.example/*"]'}, cluster=cluster
        ) as later:
            reply = await do(later, "restart", stack["stack_id"])
            assert reply.status == 409
            assert "not allowed any more" in reply.error
            assert (await later.stack(stack["stack_id"]))["status"] == "running"


@asynccontextmanager
async def cut_short(
    folder: Path, asked: str, fault: dict[str, Any]
) -> AsyncIterator[tuple[Harness, dict[str, Any], str]]:
    """The second of two daemons: the first was stopped during the request, at the first call that ``fault`` matches."""
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(folder, SHORT, cluster=cluster) as at:
            stack = await running(at)
            old = await uid(at, stack["stack_id"])
            assert old is not None
            cluster.faults.add_fault(**fault)
            task = asyncio.create_task(do(at, asked, stack["stack_id"]))
            begun = [("stopped", 0)], [("running", 1)], [("stopped", 1)]
            await eventually(lambda: at.rows("SELECT desired, generation FROM stacks") in begun)
            await asyncio.wait([task], timeout=0.3)
        await asyncio.gather(task, return_exceptions=True)
        cluster.faults.clear()
        async with harness(folder, cluster=cluster) as later:
            yield later, stack, old


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "hang", "verb": "delete", "resource": "pods"},
        {"action": "hang", "verb": "create", "resource": "pods"},
        {"action": "hang", "verb": "create", "resource": "services"},
        {"action": "lost_reply", "verb": "create", "resource": "pods"},
        {"action": "lost_reply", "verb": "create", "resource": "services"},
        {"action": "status", "verb": "get", "resource": "pods"},
    ],
    ids=lambda fault: "-".join(fault.values()),
)
async def test_a_restart_that_was_cut_short_is_completed_by_the_next_start(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    async with cut_short(tmp_path, "restart", fault) as (later, stack, old):
        await settled_with_new_pod(later, stack, old)


async def test_a_stop_that_was_cut_short_is_completed_by_the_next_start(tmp_path: Path) -> None:
    fault = {"action": "hang", "verb": "delete", "resource": "pods"}
    async with cut_short(tmp_path, "stop", fault) as (later, stack, _):
        stopped = await later.until_status(stack["stack_id"], "stopped")
        assert stopped["status_reason"] == "StoppedByUser"
        assert not await later.objects("pods")
        assert await used(later) == 1


async def test_stop_and_start_survive_a_restart_of_stackd(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, cluster=cluster) as at:
            stack = await running(at)
            old = await uid(at, stack["stack_id"])
            stopped = (await do(at, "stop", stack["stack_id"])).json
        async with harness(tmp_path, cluster=cluster) as later:
            assert await later.stack(stack["stack_id"]) == stopped
            assert old is not None
            with later.no_pod_starting():
                reply = await do(later, "start", stack["stack_id"])
            assert (reply.status, reply.json["status"]) == (200, "creating")
            assert (held_ports(reply.json), "NodePortReplaced" in reply.json["status_reason"]) == (
                held_ports(stack),
                False,
            )
            await settled_with_new_pod(later, stack, old)


async def test_a_pod_that_the_watch_has_not_shown_yet_is_not_taken_for_a_lost_one(at: Harness) -> None:
    stack = await running(at)
    old = await uid(at, stack["stack_id"])
    assert old is not None
    at.cluster.faults.freeze_watches()
    assert (await do(at, "restart", stack["stack_id"])).status == 200
    await at.passes(3)
    assert (await at.stack(stack["stack_id"]))["status"] == "creating"
    assert await used(at) == 1
    at.cluster.faults.drop_watches()
    await settled_with_new_pod(at, stack, old)


async def test_a_pod_that_runs_before_its_restart_is_written_down_is_seen_to_run(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        stack = await running(at)
        old = await uid(at, stack["stack_id"])
        assert old is not None
        pods, created = at.cluster.store.of(PODS), at.cluster.counts.total("create", "pods")

        async def has_seen_all() -> bool:
            """Whether the daemon has received every change of a pod."""
            return await at.metric("stackd_mirror_events_total", kind="pods") == len(pods.since(0))

        await at.run_now("expire")  # makes the daemon trust the clock
        await eventually(lambda: not at.is_writing)
        await eventually(has_seen_all)

        async def is_to_be_written() -> bool:
            made = at.cluster.counts.total("create", "pods") > created
            return made and at.is_writing and await has_seen_all()

        async def runs_and_is_seen_to() -> bool:
            status = pods.get("stacks", stack["stack_id"]).obj["status"]
            return status["phase"] == "Running" and await has_seen_all()

        with contextlib.ExitStack() as held:

            def placed(change: ObjectChange) -> None:
                """Block writes to the file from the moment at which the new pod is assigned to a node."""
                one, before = change.after, change.before
                was_on_none = before is not None and "nodeName" not in before.obj["spec"]
                if one.resource is PODS and was_on_none and "nodeName" in one.obj["spec"]:
                    held.enter_context(at.no_writing())

            at.cluster.store.observe(placed)
            with at.no_pod_starting():
                restarting = asyncio.create_task(do(at, "restart", stack["stack_id"]))
                await eventually(is_to_be_written)
            await eventually(runs_and_is_seen_to)
        assert (await restarting).status == 200
        await settled_with_new_pod(at, stack, old)


async def test_a_start_that_gets_another_port_says_so(at: Harness) -> None:
    """Only a stack whose pod has ended by itself has given its ports back."""
    stack = await running(at)
    (kept,) = held_ports(stack)
    await at.delete_object("pods", stack["stack_id"])
    await at.until_metric("stackd_node_ports", 0, state="used")
    assert not await others_may_not_have(at, kept)
    answer = (await do(at, "start", stack["stack_id"])).json
    (port,) = held_ports(answer)
    words = f"node port {kept} is not available any more; {port} replaces it"
    assert port != kept
    assert (answer["status_reason"], answer["status_message"]) == ("NodePortReplaced", words)
    events = (await at.call("GET", f"/stacks/{stack['stack_id']}/timeline")).json["events"]
    assert [event["message"] for event in events if event["reason"] == "NodePortReplaced"] == [words]


async def test_starts_count_as_creates_for_the_limits(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__CREATES_PER_SECOND": "0.01"}) as at:
        stack = await running(at)
        reply = await do(at, "restart", stack["stack_id"])
        assert (reply.status, "limits.creates_per_second" in reply.error) == (429, True)


async def test_between_its_two_pods_the_record_of_a_stack_says_that_it_starts(at: Harness) -> None:
    """Nothing else in the cluster tells of the stack then."""
    stack_id = (await running(at))["stack_id"]
    at.cluster.faults.add_fault(action="status", verb="create", resource="pods", code=403)
    assert (await do(at, "restart", stack_id)).status == 400, "as a policy of the cluster refuses it"
    assert stack_id not in await at.objects("pods")
    notes = (await at.objects("services"))[f"svc-{stack_id}"]["metadata"]["annotations"]
    assert (notes["stackd.io/desired"], notes["stackd.io/generation"]) == ("starting", "1")
