"""The statuses show what happens in the cluster, and the reconciliation repairs what does not match."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from stackd.embedded import EmbeddedCluster
from tests.api.test_reconcile import remember_as_removed
from tests.harness import Harness, eventually, fast_cluster, harness, request_for


async def ports_used(at: Harness) -> int:
    used: int = (await at.call("GET", "/stats")).json["used_node_ports"]
    return used


@pytest.mark.parametrize(
    ("image", "status", "reason", "words"),
    [
        ("registry.example/fail", "failed", "Error", "exit code 1"),
        ("registry.example/exit0", "stopped", "Completed", ""),
        ("registry.example/oom", "failed", "OOMKilled", "ran out of memory"),
        ("registry.example/nostart", "failed", "StartError", "could not be started"),
    ],
)
async def test_a_stack_whose_pod_has_ended_gives_its_ports_back_at_once_and_keeps_its_record(
    at: Harness, image: str, status: str, reason: str, words: str
) -> None:
    created = await at.create(request_for(image))
    stack = await at.until_status(created["stack_id"], status)
    assert stack["status_reason"] == reason
    assert words in stack["status_message"]
    await eventually(lambda: ports_are(at, 0))
    service = (await at.objects("services"))[created["service_name"]]
    assert (service["spec"]["type"], "nodePort" in service["spec"]["ports"][0]) == ("ClusterIP", False)
    assert "stackd.io/record" in service["metadata"]["annotations"]
    again = await at.stack(created["stack_id"])
    assert again["ports"] == created["ports"]
    assert again["updated_at"] == stack["updated_at"]
    stats = (await at.call("GET", "/stats")).json
    assert (stats["total_stacks"], stats["active_stacks"], stats["reserved_cpu_milli"]) == (1, 0, 0)


async def ports_are(at: Harness, count: int) -> bool:
    return await ports_used(at) == count


@pytest.mark.parametrize(
    ("image", "reason", "words"),
    [
        ("registry.example/badname", "InvalidImageName", "is not a valid image name"),
        ("registry.example/noconfig", "CreateContainerConfigError", "cannot be started"),
        ("registry.example/crashloop", "CrashLoopBackOff", "again and again"),
    ],
)
async def test_a_container_that_cannot_start_is_failed_and_keeps_service_and_ports(
    tmp_path: Path, image: str, reason: str, words: str
) -> None:
    async with harness(tmp_path, {"STACKD_STACKS__RESTART_POLICY": "Always"}) as at:
        stack = await at.until_status((await at.create(request_for(image)))["stack_id"], "failed")
        assert (stack["status_reason"], words in stack["status_message"]) == (reason, True)
        assert await ports_used(at) == 1
        assert stack["service_name"] in await at.objects("services")


async def test_an_image_that_cannot_be_pulled_is_failed_after_the_grace_and_not_before(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_STACKS__IMAGE_PULL_GRACE": "600ms"}) as at:
        began = time.monotonic()
        created = await at.create(request_for("registry.example/nopull:1"))
        stack = await at.until_status(created["stack_id"], "failed")
        assert time.monotonic() - began >= 0.6
        assert stack["status_reason"] in ("ErrImagePull", "ImagePullBackOff")
        assert stack["status_message"].startswith("image registry.example/nopull:1 cannot be pulled: ")


async def test_an_image_that_could_not_be_pulled_stays_failed_when_stackd_starts_again(tmp_path: Path) -> None:
    """Before, the stack was creating again for the whole grace."""
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, {"STACKD_STACKS__IMAGE_PULL_GRACE": "0s"}, cluster=cluster) as at:
            stack_id = (await at.create(request_for("registry.example/nopull:1")))["stack_id"]
            await at.until_status(stack_id, "failed")
        async with harness(tmp_path, {"STACKD_STACKS__IMAGE_PULL_GRACE": "10m"}, cluster=cluster) as at:
            await at.passes(2)
            assert (await at.stack(stack_id))["status"] == "failed"
            kinds = [event["kind"] for event in (await at.call("GET", f"/stacks/{stack_id}/timeline")).json["events"]]
            assert "waiting" not in kinds


async def test_an_image_that_is_pulled_late_runs_in_the_end(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_STACKS__IMAGE_PULL_GRACE": "0s"}) as at:
        created = await at.create(request_for("registry.example/latepull"))
        await at.until_status(created["stack_id"], "running")
        assert await ports_used(at) == 1


async def test_a_deleted_node_shows_at_once_and_a_node_that_comes_back_brings_its_stacks_back(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(pod_gc_delay=60.0)) as cluster, harness(tmp_path, cluster=cluster) as at:
        created = await at.create()
        node = (await at.until_status(created["stack_id"], "running"))["node_id"]
        at.cluster.faults.remove_node(node)
        stack = await at.until_status(created["stack_id"], "node_deleted")
        assert stack["status_message"] == f"node {node} has been deleted"
        assert (stack["node_id"], stack["node_public_ip"]) == (node, created["node_public_ip"])
        assert await ports_used(at) == 1
        at.cluster.faults.add_node(name=node, labels={"role": "stack"})
        await at.until_status(created["stack_id"], "running")


async def test_a_pod_collected_with_its_node_has_ended_as_node_deleted(at: Harness) -> None:
    created = await at.create()
    node = (await at.until_status(created["stack_id"], "running"))["node_id"]
    at.cluster.faults.remove_node(node)
    await at.until_status(created["stack_id"], "node_deleted")
    await eventually(lambda: ports_are(at, 0))
    assert (await at.stack(created["stack_id"]))["status"] == "node_deleted"


async def test_what_is_left_of_a_removed_stack_is_removed_and_nothing_else(tmp_path: Path) -> None:
    removed, unknown, elsewhere = (f"stack-00000000000000{end}" for end in ("aa", "cc", "bb"))
    async with harness(tmp_path, {"STACKD_RECONCILE__ORPHAN_GRACE": "2s"}) as at:
        await at.create()
        remember_as_removed(tmp_path, [removed])
        ours = {"app.kubernetes.io/managed-by": "stackd", "stackd.io/instance": "default"}
        other = ours | {"stackd.io/instance": "other"}
        for name, labels in ((removed, ours), (unknown, ours), (elsewhere, other), ("plain", {})):
            await by_hand(at, name, labels)
        began = time.monotonic()
        await eventually(lambda: is_gone(at, "pods", removed))
        await eventually(lambda: is_gone(at, "services", f"svc-{removed}"))
        await at.until_metric("stackd_unknown_objects", 2)
        assert time.monotonic() - began > 0.9  # creation times are whole seconds
        plan = (await at.call("GET", "/reconcile")).json
        assert {one["name"] for one in plan["unknown"]} == {unknown, f"svc-{unknown}"}
        assert {unknown, elsewhere, "plain"} < (await at.objects("pods")).keys()
        assert {f"svc-{unknown}", f"svc-{elsewhere}", "svc-plain"} < (await at.objects("services")).keys()


async def is_gone(at: Harness, kind: str, name: str) -> bool:
    return name not in await at.objects(kind)


async def by_hand(at: Harness, name: str, labels: dict[str, str]) -> None:
    path = "/api/v1/namespaces/stacks"
    metadata: dict[str, Any] = {"name": name, "labels": labels}
    container = {"name": "app", "image": "nginx", "ports": [{"containerPort": 80}]}
    await at.kubectl(
        "POST",
        f"{path}/pods",
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}},
    )
    spec = {"type": "NodePort", "selector": {"x": name}, "ports": [{"port": 80, "protocol": "TCP"}]}
    metadata = {"name": f"svc-{name}", "labels": labels}
    await at.kubectl(
        "POST", f"{path}/services", {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    )
