"""No lost, second or foreign file deletes a stack: stackd adopts what only the cluster has, or leaves it alone."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from stackd.cli import main
from stackd.clock import NANOSECONDS, SystemClock, to_nanoseconds
from stackd.embedded.resources import LEASES
from stackd.lifecycle import gate
from stackd.model import PortRange
from stackd.store import Store, backup_file
from stackd.store.store import Stacks
from tests.api.scenes import SetBack
from tests.brakes import plan, running
from tests.harness import Machine, harness, seed, until
from tests.store.building import new_stack
from tests.templates import PLAIN, folder_with

pytestmark = pytest.mark.stackd(reconcile__orphan_grace="0s")


async def test_nothing_is_said_before_a_lost_file_has_its_stacks(vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client would believe a list without stacks, or a 404."""
    monkeypatch.setattr(gate, "FIRST_CONTACT_SECONDS", 0.2)
    at = await vm.start()
    (stack_id,) = await running(at, 1)
    before = await at.answers()
    await vm.lose_file()
    vm.cluster.faults.add_fault(action="status", verb="list", resource="pods", code=503)
    at = await vm.start(wait=False)
    await until(at.role, lambda seen: seen == "owner")
    asked: list[tuple[str, str, object]] = [
        *(("GET", path, None) for path in ("/stacks", f"/stacks/{stack_id}/status", "/stats", "/events")),
        *((method, f"/stacks/{stack_id}", None) for method in ("GET", "DELETE")),
        ("DELETE", "/stacks?label=team=7", None),
        ("POST", f"/stacks/{stack_id}/stop", None),
        ("POST", "/stacks/batch-delete", {"stack_ids": [stack_id]}),
    ]
    words = "does not know the stacks yet"
    await asyncio.gather(*(at.refused(503, words, path, body, method=method) for method, path, body in asked))
    await at.get("/reconcile")
    vm.cluster.faults.clear()
    await at.until_ready()
    assert await at.answers() == before


async def test_the_first_answer_about_an_adopted_stack_has_its_status_and_address(
    vm: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a slow disk: nobody is told of a stack that runs that it is being created."""
    at = await vm.start()
    await running(at, 2)
    before = await at.answers()
    observe = Stacks.observe

    async def slowly(self: Stacks, seen: Any) -> Any:
        await asyncio.sleep(0.2)
        return await observe(self, seen)

    await vm.lose_file()
    monkeypatch.setattr(Stacks, "observe", slowly)
    at = await vm.start(wait=False)
    await until(lambda: at.call("GET", "/stacks"), lambda seen: seen.status == 200)
    assert await at.answers() == before


async def test_a_restored_backup_learns_what_has_happened_to_the_stacks_since(vm: Machine, tmp_path: Path) -> None:
    copy, at = tmp_path / "copy.db", await vm.start()
    restarted, stopped_since, deleted, *at_rest_too = await running(at, 6)
    for stack_id in at_rest_too:
        await at.do("stop", stack_id)
    started, at_rest, deleted_at_rest = at_rest_too
    extended, relabelled = await at.running(ttl="10m"), await at.running(labels={"player": "7", "seat": "3"})
    await asyncio.to_thread(backup_file, tmp_path / "stackd.db", copy)
    await at.do("extend", extended, ttl="2h")
    await at.call("PATCH", f"/stacks/{relabelled}", {"labels": {"player": "8", "seat": None}})
    for stack_id, verb in ((restarted, "restart"), (started, "start"), (stopped_since, "stop")):
        await at.do(verb, stack_id)
        await at.until_status(stack_id, "stopped" if verb == "stop" else "running")
    for stack_id in (deleted, deleted_at_rest):
        await at.delete(stack_id)
    created = await at.running()
    # somebody else's pod of a deleted stack's name brings the stack back no more than none would
    theirs = {"metadata": {"name": deleted}, "spec": {"containers": [{"name": "theirs", "image": "theirs/runs"}]}}
    await at.kubectl("POST", "/api/v1/namespaces/stacks/pods", theirs)
    before, objects = await at.answers(), await at.pods_and_services()
    assert set(before) == {restarted, started, extended, relabelled, created, stopped_since, at_rest}
    await vm.lose_file()
    shutil.copy(copy, tmp_path / "stackd.db")
    half_an_hour_later = SetBack()
    half_an_hour_later.by = -1800.0
    at = await vm.start(clock=half_an_hour_later)
    await at.passes(3)
    assert await at.answers() == before
    assert await at.pods_and_services() == objects
    assert ((await plan(at))["actions"], await at.used_ports()) == ([], 7)
    assert [stack["stack_id"] for stack in (await at.get("/stacks?label=player=8"))["stacks"]] == [relabelled]


NEEDS_MORE = PLAIN.replace("image: nginx:stable", "image: nginx:stable\n      securityContext: {runAsUser: 1000}")
FORGED = "stack-00000000000000f0"


async def test_a_stack_whose_port_another_row_has_is_adopted_once_that_is_free(vm: Machine, tmp_path: Path) -> None:
    at = await vm.start()
    (stack_id,) = await running(at, 1)
    before = await at.answers()
    (port,) = [port["node_port"] for port in before[stack_id]["ports"]]
    await vm.lose_file()
    vm.cluster.store.remove(vm.cluster.store.of(LEASES).get("stacks", "stackd-default"))
    store = await Store.open(tmp_path / "stackd.db", clock=SystemClock(), node_ports=PortRange(port, port))
    await store.begin("stacks", "default")
    await store.stacks.reserve(new_stack())  # an interrupted create
    await store.close()
    at = await vm.start(wait=False)
    await at.until_ready()
    await until(at.answers, before.__eq__)


async def test_a_forged_record_gets_no_more_than_a_create(vm: Machine, tmp_path: Path) -> None:
    """Whoever may create objects with our labels must not have a pod run until 2035, within a template's policy."""
    settings = folder_with(tmp_path, more=NEEDS_MORE + "policy: {run_as_user: true}\n")
    at = await vm.start(settings=settings)
    stack_id = (await at.create({"template": "more"}))["stack_id"]
    metadata = (await at.objects("services"))[f"svc-{stack_id}"]["metadata"]
    record, plain = json.loads(metadata["annotations"]["stackd.io/record"]), f"{FORGED[:-1]}1"
    for name, text in ((FORGED, record["pod_spec"].replace("nginx", "miner")), (plain, seed()["pod_spec"])):
        port = 31900 + int(name[-1])
        forged: dict[str, Any] = record | {"pod_spec": text, "ports": [[80, "TCP", port]]}
        edited = {"stackd.io/record": json.dumps(forged), "stackd.io/expires-at": "2035-01-01T00:00:00Z"}
        edited |= {"stackd.io/desired": "starting", "stackd.io/generation": "7"}
        own = {
            "labels": metadata["labels"] | {"stackd.io/stack": name},
            "annotations": metadata["annotations"] | edited,
        }
        spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": port}], "selector": {"a": "b"}}
        await at.apply("services", f"svc-{name}", **own, spec=spec)
    await at.until_listed(3)
    await until(lambda: at.stack(FORGED), lambda seen: "securityContext" in seen["status_message"])
    assert FORGED not in await at.objects("pods")
    for stack in (await at.until_status(plain, "running"), await at.stack(FORGED)):
        assert to_nanoseconds(stack["ttl_expires_at"]) <= time.time_ns() + 24 * 3600 * NANOSECONDS
        assert stack.get("template") is None
    await at.do("stop", stack_id)
    await vm.lose_file()
    at = await vm.start(settings=settings)
    await at.do("start", stack_id)
    await at.until_status(stack_id, "running")


async def test_a_lost_file_is_not_rebuilt_from_the_stacks_of_another_instance(vm: Machine, tmp_path: Path) -> None:
    """A proxy drops the query string: a list holds more than was asked for."""
    at = await vm.start()
    await at.running()
    before = await at.answers()
    (tmp_path / "other").mkdir()
    async with harness(tmp_path / "other", cluster=vm.cluster, cluster__instance="other") as other:
        await other.create()
    await vm.lose_file()
    vm.cluster.faults.add_fault(action="no_query", verb="list", resource="pods|services")
    config = tmp_path / "config.toml"
    config.write_text(
        f'[auth]\nenabled = false\n[state]\npath = "{tmp_path / "stackd.db"}"\n'
        f'[cluster]\nmode = "kubeconfig"\nkubeconfig = "{tmp_path / "kubeconfig"}"\n'
    )
    await asyncio.to_thread(main, ["rebuild", "--config", str(config)])
    vm.cluster.faults.clear()
    at = await vm.start()
    assert await at.answers() == before
