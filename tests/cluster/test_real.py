"""The main features on a real cluster: STACKD_TEST_KUBECONFIG=… pytest tests/cluster.

The cluster needs a schedulable node with the label role=stack. Pods only have to be scheduled, not to run: a control
plane whose nodes have no kubelet is enough.
"""

from __future__ import annotations

from tests.cluster.real import Real
from tests.harness import seed


async def test_a_create_makes_a_pod_and_a_service_with_the_record(real: Real) -> None:
    status, stack = await real.call("POST", "/stacks", seed())
    assert status == 201, stack
    pod = (await real.objects("pods"))[stack["pod_id"]]
    service = (await real.objects("services"))[stack["service_name"]]
    assert pod["spec"]["nodeName"] == stack["node_id"]
    assert pod["spec"]["nodeSelector"] == {"role": "stack"}
    assert pod["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "stackd"
    assert service["metadata"]["annotations"]["stackd.io/record"]
    assert service["spec"]["type"] == "NodePort"
    assert service["spec"]["ports"][0]["nodePort"] == stack["ports"][0]["node_port"]


async def test_a_delete_leaves_nothing(real: Real) -> None:
    _, stack = await real.call("POST", "/stacks", seed())
    status, answer = await real.call("DELETE", f"/stacks/{stack['stack_id']}")
    assert (status, answer) == (200, {"deleted": True, "stack_id": stack["stack_id"]})
    assert not await real.objects("pods")
    assert not await real.objects("services")


async def test_twenty_at_once_and_a_batch_delete(real: Real) -> None:
    stacks = await real.create(20)
    assert len({stack["ports"][0]["node_port"] for stack in stacks}) == 20
    ids = [stack["stack_id"] for stack in stacks]
    status, accepted = await real.call("POST", "/stacks/batch-delete", {"stack_ids": [*ids, "stack-none"]})
    assert status == 202
    job = await real.finished(accepted["job_id"])
    assert (job["total"], job["deleted"], job["not_found"], job["failed"]) == (21, 20, 1, 0)
    assert not await real.objects("pods")
    assert not await real.objects("services")


async def test_what_no_node_can_take_is_a_503_and_leaves_nothing(roomless: Real) -> None:
    status, answer = await roomless.call("POST", "/stacks", seed())
    assert status == 503
    assert "no node has room" in answer["error"]
    assert not await roomless.objects("pods")
    assert not await roomless.objects("services")


async def test_a_pod_deleted_by_hand_is_stopped_and_gives_its_port_back(real: Real) -> None:
    _, stack = await real.call("POST", "/stacks", seed())
    await real.outside.delete_pod(stack["pod_id"])

    async def stopped() -> bool:
        _, now = await real.call("GET", f"/stacks/{stack['stack_id']}")
        _, stats = await real.call("GET", "/stats")
        return (now["status"], stats["used_node_ports"]) == ("stopped", 0)

    await real.until(stopped, "the stack's end")
    assert (await real.objects("services"))[stack["service_name"]]["spec"]["type"] == "ClusterIP"
