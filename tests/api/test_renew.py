"""Renew: a stack gets the newest version of its template; all that its user has of it stays."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from stackd.store import backup_file
from tests.harness import Harness, Machine, until
from tests.templates import WEB, folder_with, start, values_of

pytestmark = pytest.mark.stackd(reconcile__orphan_grace="0s")
CHANGED = (
    WEB.replace("nginx:stable", "nginx:alpine")
    .replace("limits: {cpu: 100m, memory: 64Mi}}\n    containers", "limits: {cpu: 50m, memory: 64Mi}}\n    containers")
    .replace('TEAM_SECRET: "<base32:16>-$$(x)-<uuid>"', 'TOKEN: "<hex:8>"')
)
LATEST = {"template": "latest"}
KEPT = ("ports", "labels", "ttl_expires_at", "created_at", "template")


async def made(at: Harness) -> dict[str, Any]:
    stack = await at.create({"template": "web-1", "labels": {"team": "7"}})
    await at.until_status(stack["stack_id"], "running")
    return stack


async def change(at: Harness, folder: Path) -> None:
    folder_with(folder, web_1=CHANGED)
    await at.reload_templates()


async def image(at: Harness, stack_id: str) -> str:
    pods = await at.objects("pods")
    return str(pods[stack_id]["spec"]["containers"][0]["image"]) if stack_id in pods else ""


async def recorded(at: Harness, stack_id: str) -> dict[str, Any]:
    annotations = (await at.objects("services"))[f"svc-{stack_id}"]["metadata"]["annotations"]
    record: dict[str, Any] = json.loads(annotations["stackd.io/record"])
    return record


async def test_a_renewed_stack_has_the_new_pod_and_keeps_all_else(vm: Machine) -> None:
    at = await start(vm, web_1=WEB)
    before = await made(at)
    stack_id, values = before["stack_id"], before["values"]
    await change(at, vm.folder)
    await at.post(f"/stacks/{stack_id}/restart")
    await at.until_status(stack_id, "running")
    assert await image(at, stack_id) == "nginx:stable", "a restart alone changes no version"
    after = await at.post(f"/stacks/{stack_id}/restart", LATEST)
    assert {name: after[name] for name in KEPT} == {name: before[name] for name in KEPT}
    assert ("nginx:alpine" in after["pod_spec"], "values" in after) == (True, False)
    await at.until_status(stack_id, "running")
    assert await image(at, stack_id) == "nginx:alpine"
    env = (await values_of(at, stack_id))[1]
    assert (env["FLAG"], len(env["TOKEN"]), "TEAM_SECRET" in env) == (values["FLAG"], 8, False)
    event = [one for one in await at.timeline(stack_id) if one["kind"] == "restart_requested"][-1]
    assert (await at.get("/templates"))["templates"][0]["version"] in event["message"]
    assert (await at.post(f"/stacks/{stack_id}/restart", LATEST))["ports"] == before["ports"]
    assert (await values_of(at, stack_id))[1]["FLAG"] == values["FLAG"]


@pytest.mark.stackd(cluster__lease_duration="4s")
async def test_the_cluster_has_the_new_version_before_the_old_pod_is_gone(vm: Machine) -> None:
    at = await start(vm, web_1=WEB)
    stack_id = (await made(at))["stack_id"]
    await change(at, vm.folder)
    at.faults.add_fault(action="latency", verb="delete", resource="pods", seconds=60)
    await at.call("POST", "/stacks/batch", {"action": "renew", "stack_ids": [stack_id]})
    record = await until(lambda: recorded(at, stack_id), lambda seen: "nginx:alpine" in seen["pod_spec"])
    assert await image(at, stack_id) == "nginx:stable"
    assert record["values"].keys() == {"FLAG", "TOKEN"}
    await vm.lose_file()
    at = await vm.start()
    at.faults.clear()
    await until(lambda: image(at, stack_id), lambda seen: seen == "nginx:alpine")
    stack = await at.until_status(stack_id, "running")
    assert "nginx:alpine" in stack["pod_spec"]
    assert (await values_of(at, stack_id))[1].items() >= record["values"].items()


async def test_a_file_from_before_the_renewal_learns_of_it_from_the_cluster(vm: Machine) -> None:
    at = await start(vm, web_1=WEB)
    stack_id = (await made(at))["stack_id"]
    state, copy = vm.folder / "stackd.db", vm.folder / "copy.db"
    await asyncio.to_thread(backup_file, state, copy)
    await change(at, vm.folder)
    await at.post(f"/stacks/{stack_id}/restart", LATEST)
    await at.until_status(stack_id, "running")
    env = await values_of(at, stack_id)
    await vm.lose_file()
    shutil.copy(copy, state)
    at = await vm.start()
    assert "nginx:alpine" in (await at.stack(stack_id))["pod_spec"]
    await at.post(f"/stacks/{stack_id}/restart")
    await at.until_status(stack_id, "running")
    assert (await image(at, stack_id), await values_of(at, stack_id)) == ("nginx:alpine", env)
