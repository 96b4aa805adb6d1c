"""The main features on a real cluster: STACKD_TEST_KUBECONFIG=… pytest tests/cluster"""

from __future__ import annotations

from tests.cluster.real import Real
from tests.harness import until


async def test_a_delete_leaves_nothing_of_pod_service_and_record(real: Real) -> None:
    stack = await real.create()
    pod = (await real.objects("pods"))[stack["pod_id"]]
    service = (await real.objects("services"))[stack["service_name"]]
    assert pod["spec"]["nodeName"] == stack["node_id"]
    assert pod["spec"]["nodeSelector"] == {"role": "stack"}
    assert pod["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "stackd"
    assert service["metadata"]["annotations"]["stackd.io/record"]
    assert service["spec"]["type"] == "NodePort"
    assert service["spec"]["ports"][0]["nodePort"] == stack["ports"][0]["node_port"]
    await real.outside.delete("pods", stack["pod_id"])
    await real.until_status(stack["stack_id"], "stopped")
    await until(real.used_ports, lambda used: not used)
    assert (await real.objects("services"))[stack["service_name"]]["spec"]["type"] == "ClusterIP"
    await real.delete(stack["stack_id"])
    assert not await real.uids()


async def test_twenty_at_once_and_a_batch_delete(real: Real) -> None:
    stacks = await real.create_many(20)
    assert len({stack["ports"][0]["node_port"] for stack in stacks}) == 20
    job = await real.finished_job(await real.batch_delete(*(one["stack_id"] for one in stacks), "stack-none"))
    assert (job["total"], job["deleted"], job["not_found"], job["failed"]) == (21, 20, 1, 0)
    assert not await real.uids()
