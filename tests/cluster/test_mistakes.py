"""No mistake of an operator deletes a player's stack: second stackd, lost file, edited configuration, old backup."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.real import Process, Real
from tests.cluster.site import STACKS, Site
from tests.harness import seed

REFUSED = 2


async def answers(real: Real) -> dict[str, dict[str, Any]]:
    """Every stack as the API shows it, without the time of its last change."""
    found = {}
    for stack in await real.stacks():
        status, found[stack["stack_id"]] = await real.call("GET", f"/stacks/{stack['stack_id']}")
        assert status == 200
        del found[stack["stack_id"]]["updated_at"]
    return found


async def uids(real: Real) -> dict[str, str]:
    """The uid of each pod and Service."""
    found = {**await real.objects("pods"), **await real.objects("services")}
    return {name: one["metadata"]["uid"] for name, one in found.items()}


async def settled(real: Real) -> bool:
    """Whether every stack is running or stopped."""
    return {stack["status"] for stack in await real.stacks()} <= {"running", "stopped"}


async def asked(real: Real, stack_id: str, verb: str, body: object = None) -> None:
    status, answer = await real.call("POST", f"/stacks/{stack_id}/{verb}", body)
    assert status == 200, answer


async def made(real: Real) -> list[str]:
    """The ids of ``STACKS`` stacks; the second was extended, the third stopped, the fourth stopped and started."""
    ids = [stack["stack_id"] for stack in await real.create(STACKS, labels={"team": "7"})]
    await asked(real, ids[1], "extend", {"ttl": "10m"})
    await real.until(lambda: settled(real), "all of them running")
    for stack_id in ids[2:4]:
        await asked(real, stack_id, "stop")
    await asked(real, ids[3], "start")
    await real.until(lambda: settled(real), "all of them running or stopped")
    return ids


async def passes(real: Real, count: int) -> None:
    """Return after this many more reconciliation passes."""
    until = await real.metric("stackd_reconcile_passes_total") + count

    async def reached() -> bool:
        return await real.metric("stackd_reconcile_passes_total") >= until

    await real.until(reached, f"{count} passes")


async def test_a_second_stackd_with_a_file_of_its_own_ends_nothing(site: Site) -> None:
    await site.owner.start()
    real = site.owner.real
    await made(real)
    before, objects = await answers(real), await uids(real)
    await site.standby.start(standing_by=True)
    await passes(real, 3)
    assert await answers(real) == before
    assert await uids(real) == objects
    status, answer = await site.standby.real.call("GET", "/stacks")
    assert status == 503
    assert "owns the stacks" in answer["error"]


@pytest.mark.parametrize("rebuild", [False, True])
async def test_a_lost_file_ends_nothing_and_forgets_no_stack(process: Process, *, rebuild: bool) -> None:
    await process.start()
    real = process.real
    ids = await made(real)
    assert (await real.call("DELETE", f"/stacks/{ids[0]}"))[0] == 200
    before, objects = await answers(real), await uids(real)
    process.kill()
    process.lose_file()
    if rebuild:
        assert f"recovered {len(before)} stacks" in await process.command("rebuild")
    await process.start()
    assert await answers(real) == before
    await passes(real, 3)
    assert await answers(real) == before
    assert await uids(real) == objects
    await asked(real, ids[2], "start")
    await real.until(lambda: settled(real), "the stopped one running again")
    assert (await real.call("GET", f"/stacks/{ids[2]}"))[1]["ports"] == before[ids[2]]["ports"]


@pytest.mark.parametrize("key", ["STACKD_STACKS__NAMESPACE", "STACKD_CLUSTER__INSTANCE"])
async def test_a_namespace_or_instance_edited_by_mistake_is_refused_and_put_back_nothing_has_changed(
    process: Process, key: str
) -> None:
    await process.start()
    real = process.real
    await made(real)
    before, objects = await answers(real), await uids(real)
    process.kill()
    for name in ("check", "serve"):
        code, said = await process.run(name, **{key: "another"})
        assert code == REFUSED
        assert len(said.strip().splitlines()) == 1, said
        assert "another" in said
    await process.start()
    await passes(real, 3)
    assert await answers(real) == before
    assert await uids(real) == objects


async def test_a_restored_backup_ends_nothing_and_brings_nothing_back(process: Process) -> None:
    await process.start()
    real = process.real
    ids = await made(real)
    await process.command("backup", str(process.folder / "copy.db"))
    new = [stack["stack_id"] for stack in await real.create(4)]
    await real.until(lambda: settled(real), "all of them running")
    await asked(real, ids[5], "extend", {"ttl": "20m"})
    await asked(real, ids[6], "stop")
    await asked(real, ids[2], "start")
    await asked(real, new[1], "stop")
    for stack_id in (ids[0], new[0]):
        assert (await real.call("DELETE", f"/stacks/{stack_id}"))[0] == 200
    await real.until(lambda: settled(real), "all of them running or stopped")
    before, objects = await answers(real), await uids(real)
    process.kill()
    process.restore(process.folder / "copy.db")
    await process.start()
    assert await answers(real) == before
    await passes(real, 3)
    assert await answers(real) == before
    assert await uids(real) == objects


# ---- the main features on a real cluster: STACKD_TEST_KUBECONFIG=… pytest tests/cluster


async def test_a_stack_is_a_pod_and_a_service_with_the_record_and_a_delete_leaves_nothing(real: Real) -> None:
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
    before, path = await real.requests(), f"/stacks/{stack['stack_id']}"
    for read in ("/stacks", path, f"{path}/status", "/stats", "/healthz"):
        assert (await real.call("GET", read))[0] == 200
    assert await real.requests() == before, "reads ask the cluster for nothing"
    await real.outside.delete_pod(stack["pod_id"])

    async def stopped() -> bool:
        (_, now), (_, stats) = await real.call("GET", path), await real.call("GET", "/stats")
        return (now["status"], stats["used_node_ports"]) == ("stopped", 0)

    await real.until(stopped, "the end of a stack whose pod was deleted by hand")
    assert (await real.objects("services"))[stack["service_name"]]["spec"]["type"] == "ClusterIP"
    status, answer = await real.call("DELETE", path)
    assert (status, answer) == (200, {"deleted": True, "stack_id": stack["stack_id"]})
    assert not await uids(real)


async def test_twenty_at_once_and_a_batch_delete(real: Real) -> None:
    stacks = await real.create(20)
    assert len({stack["ports"][0]["node_port"] for stack in stacks}) == 20
    ids = [stack["stack_id"] for stack in stacks]
    _, accepted = await real.call("POST", "/stacks/batch-delete", {"stack_ids": [*ids, "stack-none"]})
    job = await real.finished(accepted["job_id"])
    assert (job["total"], job["deleted"], job["not_found"], job["failed"]) == (21, 20, 1, 0)
    assert not await uids(real)


async def test_stacks_whose_time_is_up_are_gone_from_the_cluster(real: Real) -> None:
    await real.create(10, ttl="2s")

    async def gone() -> bool:
        return not await real.stacks() and not await uids(real)

    await real.until(gone, "the end of all stacks")
    _, stats = await real.call("GET", "/stats")
    assert (stats["total_stacks"], stats["used_node_ports"]) == (0, 0)


async def test_what_no_node_can_take_is_a_503_and_leaves_nothing(roomless: Real) -> None:
    status, answer = await roomless.call("POST", "/stacks", seed())
    assert (status, "no node has room" in answer["error"]) == (503, True)
    assert not await uids(roomless)


async def test_a_node_port_that_somebody_else_holds_is_never_handed_out_and_all_others_are(
    crowded: tuple[Real, int],
) -> None:
    real, held = crowded
    handed_out = {stack["ports"][0]["node_port"] for stack in await real.create(2)}
    assert handed_out == {held + 1, held + 2}
    status, answer = await real.call("POST", "/stacks", seed())
    assert (status, len(await real.objects("services"))) == (503, 2)
    assert "are in use; delete stacks" in answer["error"]
