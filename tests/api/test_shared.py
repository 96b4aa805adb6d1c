"""Shared stacks: one of each template with ``shared: true``, the same for everybody, which stackd keeps."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from stackd.embedded.nodeports import ready_pod
from stackd.embedded.resources import PODS, SERVICES
from stackd.keys import digest
from stackd.lifecycle import decide, owned
from tests.harness import Client, Harness, Machine, eventually, seed, until
from tests.streams import follow
from tests.templates import folder_with, start, take_away

SHARED = """\
target_port: [{{container_port: 80, protocol: TCP{place}}}]
labels: {{challenge: notes}}
shared: true
{more}pod:
  apiVersion: v1
  kind: Pod
  metadata: {{name: notes}}
  spec:
    containers:
    - name: app
      image: {image}
      ports: [{{containerPort: 80, protocol: TCP}}]
      resources: {{limits: {{cpu: {cpu}, memory: 64Mi}}}}
"""
FLAG = 'values: {FLAG: "flag{<hex:32>}"}\n'
FIXED = ", node_port: 31234"


def template(more: str = FLAG, image: str = "nginx:stable", cpu: str = "100m", place: str = "") -> str:
    return SHARED.format(more=more, image=image, cpu=cpu, place=place)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new pod takes the place of the earlier one at once."""
    for name in ("PROVEN", "LINGER", "ROOM"):
        monkeypatch.setattr(decide, f"{name}_NANOSECONDS", 0)


async def shared_stack(at: Harness, name: str = "notes") -> str:
    entry = await until(lambda: _entry(at, name), lambda seen: seen["shared_stack"])
    return str(entry["shared_stack"])


async def _entry(at: Harness, name: str = "notes") -> dict[str, Any]:
    shown: dict[str, Any] = {one["name"]: one for one in (await at.get("/templates"))["templates"]}[name]
    return shown


async def running(at: Harness, stack_id: str, pod: str = "") -> dict[str, Any]:
    """The stack once it runs, in this pod if one is named, and in no other."""

    async def settled() -> dict[str, Any]:
        pods = await pods_of(at, stack_id)
        return await at.stack(stack_id) | {"pods": pods}

    return await until(
        settled,
        lambda seen: seen["status"] == "running" and seen["pods"] == [seen["pod_id"]] and pod in ("", seen["pod_id"]),
    )


async def pods_of(at: Harness, stack_id: str) -> list[str]:
    pods = await at.objects("pods")
    return sorted(name for name, pod in pods.items() if pod["metadata"]["labels"].get("stackd.io/stack") == stack_id)


def service_of(at: Harness, stack_id: str) -> dict[str, Any]:
    service: dict[str, Any] = at.cluster.store.of(SERVICES).get("stacks", f"svc-{stack_id}").obj
    return service


def has_endpoint(at: Harness, stack_id: str, pod: str) -> bool:
    ready = ready_pod(at.cluster.store, at.cluster.store.of(SERVICES).get("stacks", f"svc-{stack_id}"))
    return ready is not None and ready.key[1] == pod


async def test_there_is_one_stack_of_a_shared_template(vm: Machine) -> None:
    at = await start(vm, notes=template())
    stack_id = await shared_stack(at)
    stack = await running(at, stack_id)
    assert (stack["shared"], stack["template"], stack["pod_id"]) == (True, "notes", stack_id)
    assert stack["labels"] == {"challenge": "notes", "shared": "notes"}
    await at.passes(2)
    assert await at.listed() == [stack_id]


async def test_its_port_may_be_fixed_and_is_no_others(vm: Machine) -> None:
    vm.options |= {"stacks__node_port_min": "31234", "stacks__node_port_max": "31235"}
    at = await start(vm, notes=template(place=FIXED))
    stack = await running(at, await shared_stack(at))
    assert [port["node_port"] for port in stack["ports"]] == [31234]
    await at.create()
    await at.refused(503, "node ports", "/stacks", seed())
    await at.delete(stack["stack_id"])
    other = await until(lambda: _entry(at), lambda seen: seen["shared_stack"] not in (None, stack["stack_id"]))
    again = await running(at, other["shared_stack"])
    assert [port["node_port"] for port in again["ports"]] == [31234]


async def test_a_fixed_port_that_others_hold_is_awaited(vm: Machine) -> None:
    vm.cluster.faults.take_port(31234)
    at = await start(vm, notes=template(place=FIXED))
    entry = await until(lambda: _entry(at), lambda seen: seen["reason"])
    assert "31234 is fixed in the template notes" in entry["reason"]
    assert await at.listed() == []


@pytest.mark.parametrize("what", ["pod", "node", "service"])
async def test_it_is_made_whole_again_behind_the_same_port(vm: Machine, what: str) -> None:
    at = await start(vm, notes=template())
    stack_id = await shared_stack(at)
    before = await running(at, stack_id)
    if what == "pod":
        await at.delete_object("pods", stack_id)
    elif what == "node":
        at.faults.remove_node(before["node_id"])
    else:
        await at.delete_object("services", f"svc-{stack_id}")
    pod = stack_id if what == "service" else f"{stack_id}-1"
    after = await running(at, stack_id, pod)
    assert (after["ports"], after["labels"]) == (before["ports"], before["labels"])
    await until(lambda: at.objects("services"), lambda seen: f"svc-{stack_id}" in seen)
    assert await at.listed() == [stack_id]


async def test_one_on_a_node_whose_kubelet_does_not_answer_is_replaced(
    vm: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owned, "UNREADY_SECONDS", 0.0)
    monkeypatch.setattr(decide, "LINGER_NANOSECONDS", 0)
    at = await start(vm, notes=template())
    stack_id = await shared_stack(at)
    lost = (await running(at, stack_id))["node_id"]
    at.faults.lose_kubelet(lost)
    await eventually(lambda: has_endpoint(at, stack_id, f"{stack_id}-1"))
    stack = await at.stack(stack_id)
    assert (stack["status"], stack.get("status_reason"), stack["node_id"] != lost) == ("running", "", True)
    at.faults.lose_kubelet(lost, on=False)
    await running(at, stack_id, f"{stack_id}-1")


async def test_one_that_ends_again_and_again_is_started_less_and_less_often(vm: Machine) -> None:
    at = await start(vm, notes=template(image="registry.example/fail"))
    await until(lambda: _entry(at), lambda seen: "Error" in seen["reason"])
    stack_id = await shared_stack(at)
    ports = (await at.stack(stack_id))["ports"]
    await until(lambda: at.stack(stack_id), lambda seen: seen["pod_id"] not in (stack_id, f"{stack_id}-1"))
    stack = await at.stack(stack_id)
    assert (stack["ports"], at.rows("SELECT count(*) FROM node_ports")) == (ports, [(1,)])
    assert at.daemon.context.pools.of("notes").failures >= 2
    await until(lambda: pods_of(at, stack_id), lambda seen: len(seen) == 1)  # nothing is left of those that have ended
    folder_with(vm.folder, notes=template())
    await at.reload_templates()
    assert (await running(at, stack_id))["ports"] == ports


async def test_a_changed_template_replaces_the_pod_once_the_new_one_is_ready(vm: Machine, quick: None) -> None:
    at = await start(vm, notes=template())
    stack_id = await shared_stack(at)
    before = await running(at, stack_id)
    flag = _flag(at, stack_id)
    with at.no_pod_starting():
        folder_with(vm.folder, notes=template(image="nginx:alpine"))
        await at.reload_templates()
        at.daemon.context.wake_templates()
        await until(lambda: pods_of(at, stack_id), lambda seen: len(seen) == 2)
        await at.passes(2)
        shown = await at.stack(stack_id)
        assert service_of(at, stack_id)["spec"]["selector"]["stackd.io/generation"] == "0"
        assert (shown["status"], shown["node_public_ip"]) == ("creating", before["node_public_ip"])
        assert await pods_of(at, stack_id) == [stack_id, f"{stack_id}-1"]
    await eventually(lambda: service_of(at, stack_id)["spec"]["selector"]["stackd.io/generation"] == "1")
    assert _flag(at, f"{stack_id}-1") == flag
    assert "nginx:alpine" in (await at.stack(stack_id))["pod_spec"]
    after = await running(at, stack_id, f"{stack_id}-1")
    assert after["ports"] == before["ports"]


def _flag(at: Harness, pod: str) -> list[dict[str, str]]:
    flag: list[dict[str, str]] = at.cluster.store.of(PODS).get("stacks", pod).obj["spec"]["containers"][0]["env"]
    return flag


async def test_a_template_that_does_not_come_up_leaves_the_earlier_pod_in_service(vm: Machine) -> None:
    at = await start(vm, notes=template())
    stack_id = await shared_stack(at)
    await running(at, stack_id)
    folder_with(vm.folder, notes=template(image="registry.example/fail"))
    await at.reload_templates()
    await until(lambda: at.stack(stack_id), lambda seen: seen["pod_id"] not in (stack_id, f"{stack_id}-1"))
    await at.passes(2)
    assert stack_id in await pods_of(at, stack_id)
    assert service_of(at, stack_id)["spec"]["selector"]["stackd.io/generation"] == "0"
    await at.delete(stack_id)
    assert not await pods_of(at, stack_id)


async def test_with_no_room_for_two_pods_the_earlier_one_makes_way(vm: Machine, quick: None) -> None:
    at = await start(vm, notes=template(cpu="7"))
    stack_id = await shared_stack(at)
    await running(at, stack_id)
    folder_with(vm.folder, notes=template(cpu="6"))
    for node in list(await at.objects("nodes")):
        if node != (await at.stack(stack_id))["node_id"]:
            at.faults.remove_node(node)
    await at.reload_templates()
    await running(at, stack_id, f"{stack_id}-1")


async def test_other_target_ports_need_another_stack(vm: Machine) -> None:
    at = await start(vm, notes=template(place=FIXED))
    stack_id = await shared_stack(at)
    await running(at, stack_id)
    folder_with(vm.folder, notes=template(place=FIXED).replace("ort: 80", "ort: 81"))
    await at.reload_templates()
    entry = await until(lambda: _entry(at), lambda seen: seen["shared_stack"] not in (None, stack_id))
    stack = await running(at, entry["shared_stack"])
    assert [(port["container_port"], port["node_port"]) for port in stack["ports"]] == [(81, 31234)]


async def test_it_goes_with_its_template(vm: Machine) -> None:
    at = await start(vm, notes=template(), other=template())
    await at.until_listed(2)
    take_away(vm.folder, "notes")
    folder_with(vm.folder, other=template().replace("shared: true\n", ""))
    await at.reload_templates()
    await at.until_listed(0)


async def test_it_stays_when_its_folder_is_not_configured_any_more(vm: Machine) -> None:
    settings = folder_with(vm.folder, notes=template())
    at = await vm.start(settings=settings, edited={"STACKD_TEMPLATES__DIRECTORY": ""})
    stack_id = await shared_stack(at)
    os.kill(os.getpid(), signal.SIGHUP)
    assert (await until(lambda: at.get("/templates"), lambda seen: seen.get("missing")))["missing"] == ["notes"]
    await at.passes(3)
    await running(at, stack_id)


@pytest.mark.stackd(limits__max_stacks="2")
async def test_it_takes_no_place_of_the_limit_of_all(vm: Machine) -> None:
    at = await start(vm, notes=template())
    await running(at, await shared_stack(at))
    for left in (2, 1):
        assert (await at.get("/capacity"))["stacks"] == left
        await at.create()
    await at.refused(503, "limits.max_stacks", "/stacks", seed())


async def test_an_operator_may_stop_it_for_a_while(vm: Machine) -> None:
    at = await start(vm, notes=template())
    stack_id = await shared_stack(at)
    before = await running(at, stack_id)
    await at.do("stop", stack_id)
    await at.passes(3)
    assert (await at.stack(stack_id))["status"] == "stopped"
    assert not await pods_of(at, stack_id)
    await at.do("start", stack_id)
    assert (await running(at, stack_id, f"{stack_id}-1"))["ports"] == before["ports"]


async def test_after_the_loss_of_the_file_it_is_the_same(vm: Machine, quick: None) -> None:
    at = await start(vm, notes=template())
    stack_id = await shared_stack(at)
    await running(at, stack_id)
    await at.do("restart", stack_id)
    before = await running(at, stack_id, f"{stack_id}-1")
    flag = _flag(at, f"{stack_id}-1")
    await vm.lose_file()
    at = await vm.start()
    after = await running(at, await shared_stack(at))
    assert (after["stack_id"], after["pod_id"], after["ports"]) == (stack_id, f"{stack_id}-1", before["ports"])
    assert (after["shared"], after["labels"], _flag(at, f"{stack_id}-1")) == (True, before["labels"], flag)
    assert await at.listed() == [stack_id]
    assert await at.metric("stackd_time_to_running_seconds_count") == 0, "its age is none"


async def test_an_outdated_one_is_taken_over_and_replaced_after_the_loss_of_the_file(vm: Machine) -> None:
    at = await start(vm, notes=template())
    stack_id = await shared_stack(at)
    before = await running(at, stack_id)
    await vm.lose_file()
    folder_with(vm.folder, notes=template(image="nginx:alpine"))
    at = await vm.start()
    after = await until(lambda: at.stack(stack_id), lambda seen: "alpine" in seen["pod_spec"])
    assert (after["ports"], await shared_stack(at)) == (before["ports"], stack_id)
    assert await at.listed() == [stack_id]


# ---- what tenants may do

TENANT = "sk-tenant-a-0123456789abcdef"


@pytest.fixture
async def tenant(vm: Machine) -> Client:
    """A tenant's key for templates ``no*``, on a stackd with a shared stack of ``notes`` and one of ``other``."""
    config = vm.folder / "config.toml"
    config.write_text(
        f'[[auth.keys]]\nname = "ctfd-a"\nsha256 = "{digest(TENANT).hex()}"\nscope = "tenant"\n'
        'labels = { event = "a" }\ntemplates = ["no*"]\n'
    )
    at = await vm.start(settings=folder_with(vm.folder, notes=template(), other=template()), config=config)
    for name in ("notes", "other"):
        await running(at, await shared_stack(at, name))
    return Client(session=at.session, url=at.url, key=TENANT)


async def test_a_tenant_sees_the_shared_stacks_of_its_templates(tenant: Client) -> None:
    (stack,) = await tenant.stacks()
    entries = (await tenant.get("/templates"))["templates"]
    assert [(one["name"], one["shared_stack"]) for one in entries] == [("notes", stack["stack_id"])]
    assert (await tenant.stack(stack["stack_id"]))["labels"]["shared"] == "notes"
    assert await tenant.timeline(stack["stack_id"])
    assert (await tenant.get("/stats"))["total_stacks"] == 0
    async with follow(tenant, "/events") as stream:
        await stream.expect("hello")
        await Client(session=tenant.session, url=tenant.url).do("restart", stack["stack_id"])
        await stream.until("stack", stack_id=stack["stack_id"], pod_id=f"{stack['stack_id']}-1")


async def test_a_tenant_changes_and_creates_none(tenant: Client) -> None:
    (stack,) = await tenant.stacks()
    path, ids = f"/stacks/{stack['stack_id']}", {"stack_ids": [stack["stack_id"]]}
    refused = [await tenant.call("DELETE", path), await tenant.call("POST", f"{path}/extend", {"ttl": "1m"})]
    refused += [await tenant.call("POST", f"{path}/{verb}") for verb in ("stop", "start", "restart")]
    for jobs, more in (("/stacks/batch-delete", {}), ("/stacks/batch", {"action": "restart"})):
        refused.append(await tenant.call("POST", jobs, {**ids, **more}))
    assert {reply.code for reply in refused} == {"shared_stack"}
    job = await tenant.post("/stacks/batch", {"action": "delete", "labels": {"shared": "notes"}}, 202)
    assert (job["total"], (await tenant.stack(stack["stack_id"]))["pod_id"]) == (0, stack["stack_id"])
    assert (await tenant.refused(409, "", "/stacks", {"template": "notes"})).code == "shared_template"
