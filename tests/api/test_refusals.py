"""Each refusal of the cluster becomes the documented status, says which limit it was, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import Harness, eventually, harness, request_for, seed

NAMESPACE = "/api/v1/namespaces/stacks"


async def nothing_is_left(at: Harness) -> None:
    assert not await at.objects("pods")
    assert not await at.objects("services")
    assert (await at.call("GET", "/stacks")).json == {"stacks": []}
    assert (await at.call("GET", "/stats")).json["used_node_ports"] == 0


async def test_a_limitrange_violation_is_a_400(at: Harness) -> None:
    await at.kubectl(
        "POST",
        f"{NAMESPACE}/limitranges",
        {
            "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "stacks-limit-range"},
            "spec": {"limits": [{"type": "Container", "max": {"cpu": "500m", "memory": "512Mi"}}]},
        },
    )  # fmt: skip
    reply = await at.call("POST", "/stacks", request_for("nginx:stable", cpu="2"))
    assert reply.status == 400
    assert "LimitRange" in reply.error
    assert "maximum cpu usage per Container is 500m, but limit is 2" in reply.error
    await nothing_is_left(at)


@pytest.mark.parametrize("hard", [{"requests.cpu": "50m"}, {"services.nodeports": "0"}, {"pods": "0"}])
async def test_an_exceeded_quota_is_a_503_that_names_it(at: Harness, hard: dict[str, str]) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "stacks-resource-quota"},
        "spec": {"hard": hard},
    }
    await at.kubectl("POST", f"{NAMESPACE}/resourcequotas", quota)
    reply = await at.call("POST", "/stacks", seed())
    assert reply.status == 503
    assert int(reply.headers["Retry-After"]) > 0
    assert "stacks-resource-quota" in reply.error
    assert next(iter(hard)) in reply.error
    await nothing_is_left(at)


async def test_pod_security_of_the_namespace_is_a_400(at: Harness) -> None:
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    async with at.session.patch(
        at.cluster.url + NAMESPACE, json=labels, headers={"Content-Type": "application/merge-patch+json"}
    ) as answer:
        assert answer.status == 200
    reply = await at.call("POST", "/stacks", seed())
    assert reply.status == 400
    assert 'violates PodSecurity "restricted' in reply.error
    await nothing_is_left(at)


async def test_a_port_that_somebody_else_holds_is_set_aside_and_another_is_taken(tmp_path: Path) -> None:
    async with harness(
        tmp_path, {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31003"}
    ) as at:
        at.cluster.faults.take_port(31001)
        at.cluster.faults.take_port(31003)
        stack = await at.create()
        assert stack["ports"][0]["node_port"] == 31002
        services = await at.objects("services")
        assert services[stack["service_name"]]["spec"]["ports"][0]["nodePort"] == 31002
        reply = await at.call("POST", "/stacks", seed())
        assert reply.status == 503
        assert "are in use; delete stacks" in reply.error
        assert int(reply.headers["Retry-After"]) > 0
        assert len(await at.objects("pods")) == 1
        assert (await at.call("GET", "/stats")).json["used_node_ports"] == 1


async def test_every_port_of_the_range_can_be_given_out_and_not_one_more(tmp_path: Path) -> None:
    async with harness(
        tmp_path, {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31006"}
    ) as at:
        ports = sorted([(await at.create())["ports"][0]["node_port"] for _ in range(6)])
        assert ports == list(range(31001, 31007))
        reply = await at.call("POST", "/stacks", seed())
        assert reply.status == 503
        assert "31001" in reply.error
        assert len((await at.call("GET", "/stacks")).json["stacks"]) == 6


async def test_an_unreachable_cluster_is_a_503_with_retry_after_and_reads_go_on(at: Harness) -> None:
    stack = await at.create()
    await at.until_status(stack["stack_id"], "running")
    await at.cluster.faults.refuse()
    try:
        reply = await at.call("POST", "/stacks", seed())
        assert reply.status == 503
        assert "Kubernetes cannot be reached" in reply.error
        assert int(reply.headers["Retry-After"]) > 0
        deleted = await at.call("DELETE", f"/stacks/{stack['stack_id']}")
        assert deleted.status == 503
        assert stack["stack_id"] in deleted.error
        assert (await at.call("GET", "/stacks")).json["stacks"][0]["stack_id"] == stack["stack_id"]
    finally:
        await at.cluster.faults.listen()

    async def empty() -> bool:
        return not (await at.call("GET", "/stacks")).json["stacks"] and not await at.objects("pods")

    await eventually(empty, lambda: "the delete was never carried out")
    await nothing_is_left(at)
