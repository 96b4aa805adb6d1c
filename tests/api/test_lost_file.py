"""No lost, second or foreign file deletes a stack: stackd adopts what only the cluster has, or leaves it alone."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

from stackd.clock import NANOSECONDS, SystemClock, to_nanoseconds
from stackd.embedded import EmbeddedCluster
from stackd.embedded.resources import LEASES
from stackd.model import PortRange
from stackd.store import Store, backup_file
from tests.api.test_reconcile import NAMESPACE, confirm, leave_behind, plan, running
from tests.api.test_templates import PLAIN, folder_with
from tests.harness import Harness, eventually, fast_cluster, harness, lose_file, request_for, seed, until
from tests.store.building import new_stack

MANY = 8
AT_ONCE = {"STACKD_RECONCILE__ORPHAN_GRACE": "0s", "STACKD_CLUSTER__LEASE_DURATION": "2s"}


async def answers(at: Harness) -> dict[str, Any]:
    """All stacks as the API shows them, without the time of their last change."""
    listed = (await at.call("GET", "/stacks")).json["stacks"]
    whole = [(await at.stack(stack["stack_id"])) | {"updated_at": ""} for stack in listed]
    return {stack["stack_id"]: stack for stack in whole}


async def uids(at: Harness) -> dict[str, str]:
    """The uid of each pod and Service."""
    found = {**await at.objects("pods"), **await at.objects("services")}
    return {name: one["metadata"]["uid"] for name, one in found.items()}


async def test_a_lost_file_loses_no_stack(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, AT_ONCE, cluster=cluster) as at:
            ids = await running(at, MANY)
            before, objects = await answers(at), await uids(at)
        assert set(before) == set(ids)
        lose_file(tmp_path)
        async with harness(tmp_path, AT_ONCE, cluster=cluster) as at:
            assert (await at.call("GET", "/readyz")).status == 200
            assert await answers(at) == before
            await at.passes(3)
            assert (await answers(at), await uids(at)) == (before, objects)
            assert (await plan(at))["actions"] == []
            assert await at.metric("stackd_adoptions_total") == MANY
            assert "stackd_adoptions_total 8.0" in (await at.call("GET", "/metrics")).text
            assert (await at.call("DELETE", f"/stacks/{ids[0]}")).status == 200
            await at.passes(3)
            assert set(await answers(at)) == set(ids[1:])


async def test_nothing_is_said_of_the_stacks_before_a_lost_file_has_them_again(tmp_path: Path) -> None:
    """A client would believe a list without stacks, or a 404."""
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, AT_ONCE, cluster=cluster) as at:
            (stack_id,) = await running(at, 1)
            before = await answers(at)
        lose_file(tmp_path)
        cluster.faults.add_fault(action="status", verb="list", resource="pods", code=503)
        async with harness(tmp_path, AT_ONCE, cluster=cluster, wait=False) as at:
            await until(at.role, lambda seen: seen == "owner")
            asked: list[tuple[str, str, object]] = [
                ("GET", "/stacks", None),
                ("GET", f"/stacks/{stack_id}", None),
                ("GET", f"/stacks/{stack_id}/status", None),
                ("GET", "/stats", None),
                ("GET", "/events", None),
                ("POST", f"/stacks/{stack_id}/stop", None),
                ("DELETE", f"/stacks/{stack_id}", None),
                ("DELETE", "/stacks?label=team=7", None),
                ("POST", "/stacks/batch-delete", {"stack_ids": [stack_id]}),
            ]
            for reply in await asyncio.gather(*(at.call(*one) for one in asked)):
                assert (reply.status, "does not know the stacks yet" in reply.error) == (503, True), reply
                assert int(reply.headers["Retry-After"]) > 0
            assert (await at.call("GET", "/reconcile")).status == 200
            cluster.faults.clear()
            await at.until_ready()
            assert await answers(at) == before


async def test_what_no_stack_can_be_made_of_is_left_alone_until_the_operator_agrees(tmp_path: Path) -> None:
    name = "stack-00000000000000aa"
    async with harness(tmp_path, AT_ONCE) as at:
        (stack_id,) = await running(at, 1)
        await leave_behind(at, name)

        await until(lambda: plan(at), lambda seen: [one["name"] for one in seen["unknown"]] == [name])
        await at.passes(3)
        (unknown,) = (await plan(at))["unknown"]
        assert (unknown["kind"], "stackd.io/record" in unknown["why"]) == ("pods", True)
        assert set(await at.objects("pods")) == {stack_id, name}
        assert (await at.call("GET", "/readyz")).status == 200
        assert "stackd_unknown_objects 1.0" in (await at.call("GET", "/metrics")).text
        assert (await confirm(at)).json == {"released": 0, "removed": [f"pods {name}"]}

        await until(lambda: at.objects("pods"), lambda seen: set(seen) == {stack_id})
        await at.until_metric("stackd_mirror_objects", 1, kind="pods")
        await at.passes(1)
        assert (await plan(at))["unknown"] == []
        assert await at.metric("stackd_reconcile_actions_total", action="remove-pod") == 0


class Later(SystemClock):
    """A clock that is half an hour ahead."""

    def now(self) -> int:
        return super().now() + 1800 * NANOSECONDS


def restore(folder: Path, copy: Path) -> None:
    """Put the copy in the place of the file, as an operator does; nothing else remains beside it."""
    for suffix in ("-wal", "-shm"):
        (folder / f"stackd.db{suffix}").unlink(missing_ok=True)
    shutil.copy(copy, folder / "stackd.db")


async def test_a_restored_backup_learns_what_has_happened_to_the_stacks_since(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, AT_ONCE, cluster=cluster) as at:
            restarted, stopped_since, deleted = await running(at, 3)
            started, at_rest, deleted_at_rest = await stopped(at), await stopped(at), await stopped(at)
            extended = await at.running(seed() | {"ttl": "10m"})
            await asyncio.to_thread(backup_file, tmp_path / "stackd.db", copy)
            assert (await at.call("POST", f"/stacks/{extended}/extend", {"ttl": "2h"})).status == 200
            for stack_id, verb in ((restarted, "restart"), (started, "start"), (stopped_since, "stop")):
                reply = await at.call("POST", f"/stacks/{stack_id}/{verb}")
                assert reply.status == 200, reply.text
                await at.until_status(stack_id, "stopped" if verb == "stop" else "running")
            for stack_id in (deleted, deleted_at_rest):
                assert (await at.call("DELETE", f"/stacks/{stack_id}")).status == 200
            created = await at.running()
            before, objects = await answers(at), await uids(at)
        assert set(before) == {restarted, started, extended, created, stopped_since, at_rest}
        restore(tmp_path, copy)
        async with harness(tmp_path, AT_ONCE, cluster=cluster, clock=Later()) as at:
            await at.passes(3)
            assert (await answers(at), await uids(at)) == (before, objects)
            assert (await plan(at))["actions"] == []
            assert (await at.call("GET", "/stats")).json["used_node_ports"] == 6


async def records(at: Harness) -> dict[str, Any]:
    """The records of stacks without a pod."""
    every = {name: one["metadata"]["annotations"] for name, one in (await at.objects("services")).items()}
    return {
        name.removeprefix("svc-"): notes for name, notes in every.items() if notes["stackd.io/desired"] != "running"
    }


async def stopped(at: Harness, body: dict[str, Any] | None = None) -> str:
    stack_id: str = (await at.create(body))["stack_id"]
    await at.until_status(stack_id, "running")
    reply = await at.call("POST", f"/stacks/{stack_id}/stop")
    assert (reply.status, reply.json["status"]) == (200, "stopped"), reply
    return stack_id


async def only_at_rest(at: Harness, *stack_ids: str) -> bool:
    return set(await records(at)) == set(stack_ids)


async def test_a_stopped_stack_survives_a_lost_file_with_its_ports_and_its_end(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, AT_ONCE, cluster=cluster) as at:
            stack_id, started, deleted = await stopped(at), await stopped(at), await stopped(at)
            assert set(await records(at)) == {stack_id, started, deleted}
            assert (await at.call("POST", f"/stacks/{stack_id}/extend", {"ttl": "1h"})).status == 200
            assert (await at.call("POST", f"/stacks/{started}/start")).status == 200
            await at.until_status(started, "running")
            assert (await at.call("DELETE", f"/stacks/{deleted}")).status == 200
            await eventually(lambda: only_at_rest(at, stack_id))
            before = await answers(at)
        assert set(before) == {stack_id, started}
        lose_file(tmp_path)
        async with harness(tmp_path, AT_ONCE, cluster=cluster) as at:
            assert (await at.call("GET", "/readyz")).status == 200
            assert await answers(at) == before
            await at.passes(3)
            assert (await plan(at))["actions"] == []
            assert (await at.call("GET", "/stats")).json["used_node_ports"] == 2
            assert (await at.call("POST", f"/stacks/{stack_id}/start")).status == 200
            again = await at.until_status(stack_id, "running")
            assert (again["ports"], again["ttl_expires_at"]) == tuple(
                before[stack_id][k] for k in ("ports", "ttl_expires_at")
            )
            await eventually(lambda: only_at_rest(at))


async def test_a_restart_that_is_cut_short_by_the_loss_of_the_file_goes_on(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, AT_ONCE | {"STACKD_SERVER__SHUTDOWN_TIMEOUT": "200ms"}, cluster=cluster) as at:
            (stack_id,) = await running(at, 1)
            before = await at.stack(stack_id)
            cluster.faults.add_fault(action="status", verb="create", resource="pods", code=503)
            restart = asyncio.create_task(at.call("POST", f"/stacks/{stack_id}/restart"))

            await until(lambda: at.objects("pods"), lambda seen: not seen)
            assert set(await records(at)) == {stack_id}
        await asyncio.gather(restart, return_exceptions=True)
        cluster.faults.clear()
        lose_file(tmp_path)
        async with harness(tmp_path, AT_ONCE, cluster=cluster) as at:
            again = await at.until_status(stack_id, "running")
            assert (again["ports"], again["ttl_expires_at"]) == (before["ports"], before["ttl_expires_at"])
            await eventually(lambda: only_at_rest(at))


async def test_a_port_that_was_given_back_since_the_backup_is_its_next_stacks(tmp_path: Path) -> None:
    """If an older row went on holding the port, the next stack would lose its row, and its client the stack."""
    copy = tmp_path / "copy.db"
    few = AT_ONCE | {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31002"}
    async with EmbeddedCluster(fast_cluster(run_time=0.8)) as cluster:
        async with harness(tmp_path, few, cluster=cluster) as at:
            ending = (await at.create(request_for("app/exit0")))["stack_id"]
            deleted = (await at.create())["stack_id"]
            await asyncio.to_thread(backup_file, tmp_path / "stackd.db", copy)
            await at.until_status(ending, "stopped")
            assert (await at.call("DELETE", f"/stacks/{deleted}")).status == 200
            await at.until_metric("stackd_node_ports", 0, state="used")
            ids = await running(at, 2)
            before, objects = await answers(at), await uids(at)
        lose_file(tmp_path)
        restore(tmp_path, copy)
        async with harness(tmp_path, few, cluster=cluster) as at:
            assert await answers(at) == before
            assert set(before) == {ending, *ids}
            await at.passes(2)
            assert await uids(at) == objects


async def test_a_stack_whose_port_another_row_has_is_taken_over_once_that_is_free(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, AT_ONCE, cluster=cluster) as at:
            (stack_id,) = await running(at, 1)
            before = await answers(at)
            (port,) = [port["node_port"] for port in before[stack_id]["ports"]]
        lose_file(tmp_path)
        cluster.store.remove(cluster.store.of(LEASES).get(NAMESPACE, "stackd-default"))
        store = await Store.open(tmp_path / "stackd.db", clock=SystemClock(), node_ports=PortRange(port, port))
        await store.begin(NAMESPACE, "default")
        await store.stacks.reserve(new_stack())  # an interrupted create
        await store.close()
        async with harness(tmp_path, AT_ONCE, cluster=cluster, wait=False) as at:
            await at.until_ready()
            await until(lambda: answers(at), lambda seen: seen == before)
            assert await at.metric("stackd_unknown_objects") == 0


NEEDS_MORE = PLAIN.replace("image: nginx:stable", "image: nginx:stable\n      securityContext: {runAsUser: 1000}")
FORGED = "stack-00000000000000f0"


async def test_a_forged_record_gets_no_longer_life_and_no_other_policy_than_a_create(tmp_path: Path) -> None:
    """Before, whoever may create objects with our labels had his pod run until 2035, within a template's policy."""
    settings = AT_ONCE | folder_with(tmp_path, more=NEEDS_MORE + "policy: {run_as_user: true}\n")
    async with harness(tmp_path, settings) as at:
        stack_id = (await at.create({"template": "more"}))["stack_id"]
        own = (await at.objects("services"))[f"svc-{stack_id}"]
        metadata = own["metadata"]
        record = json.loads(metadata["annotations"]["stackd.io/record"])
        for name, spec in (
            (FORGED, record["pod_spec"].replace("nginx", "miner")),
            (f"{FORGED[:-1]}1", seed()["pod_spec"]),
        ):
            port = 31900 + int(name[-1])
            forged = record | {"pod_spec": spec, "ports": [[80, "TCP", port]]}
            edited = {"stackd.io/record": json.dumps(forged), "stackd.io/expires-at": "2035-01-01T00:00:00Z"}
            edited |= {"stackd.io/desired": "starting", "stackd.io/generation": "7"}
            labels = metadata["labels"] | {"stackd.io/stack": name}
            body = {
                "metadata": {"name": f"svc-{name}", "labels": labels, "annotations": metadata["annotations"] | edited},
                "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": port}], "selector": {"a": "b"}},
            }
            await at.kubectl("POST", f"/api/v1/namespaces/{NAMESPACE}/services", body)
        await at.until_listed(3)

        await until(lambda: at.stack(FORGED), lambda seen: "securityContext" in seen["status_message"])
        assert FORGED not in await at.objects("pods")
        plain = await at.until_status(f"{FORGED[:-1]}1", "running")
        for stack in (plain, await at.stack(FORGED)):
            assert to_nanoseconds(stack["ttl_expires_at"]) <= time.time_ns() + 24 * 3600 * NANOSECONDS
            assert "template" not in stack or stack["template"] is None


async def test_the_template_of_a_lost_file_is_that_of_its_pod_spec(tmp_path: Path) -> None:
    settings = AT_ONCE | folder_with(tmp_path, more=NEEDS_MORE + "policy: {run_as_user: true}\n")
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, settings, cluster=cluster) as at:
            stack_id = (await at.create({"template": "more"}))["stack_id"]
            assert (await at.call("POST", f"/stacks/{stack_id}/stop")).status == 200
        lose_file(tmp_path)
        async with harness(tmp_path, settings, cluster=cluster) as at:
            assert (await at.call("POST", f"/stacks/{stack_id}/start")).status == 200
            await at.until_status(stack_id, "running")
