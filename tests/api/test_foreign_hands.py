"""What the cluster's other users, its admission policies and replayed responses do to stacks, and how stackd reacts."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import pytest

from stackd.embedded.request import read_target
from stackd.embedded.resources import PODS
from stackd.kube.client import Cluster
from stackd.workqueue import RetryPolicy
from tests.harness import Harness, Machine, eventually, path_of, seed, until
from tests.routes import GATEWAY, asking
from tests.routes import SETTINGS as ROUTES

OURS = ("app.kubernetes.io/managed-by", "stackd.io/instance", "stackd.io/stack")
NOTES = ("stackd.io/record", "stackd.io/expires-at", "stackd.io/generation")
NO_LABELS = {"metadata": {"labels": dict.fromkeys(OURS)}}
NO_ANNOTATIONS = {"metadata": {"annotations": dict.fromkeys(NOTES)}}
MOVED = {"spec": {"ports": [{"name": "p-80-tcp", "protocol": "TCP", "port": 80, "targetPort": 80, "nodePort": 32011}]}}
V4, V6 = "203.0.113.7", "2001:db8::7"


def admit(at: Harness, verb: str, resource: str, change: object) -> None:
    """An admission policy changes such objects from now on."""
    at.faults.add_fault(action="admit", verb=verb, resource=resource, body=json.dumps(change))


def labelled(seen: dict[str, Any]) -> bool:
    return all(map(seen["metadata"].get("labels", {}).get, OURS))


async def port_of(at: Harness, stack_id: str) -> int:
    return int((await at.stack(stack_id))["ports"][0]["node_port"])


async def serves(at: Harness, stack_id: str, port: int) -> bool:
    """Whether the stack's Service is as stackd created it."""
    service = (await at.objects("services")).get(f"svc-{stack_id}")
    if service is None or "deletionTimestamp" in service["metadata"]:
        return False
    spec = service["spec"]
    as_made = spec["type"] == "NodePort" and spec["selector"] == {"stackd.io/stack": stack_id}
    return as_made and labelled(service) and [one["nodePort"] for one in spec["ports"]] == [port]


async def test_no_stack_is_ended_for_want_of_a_pod_unless_kubernetes_says_that_it_is_gone(at: Harness) -> None:
    stack_id = await at.running()
    pod = (await at.objects("pods"))[stack_id] | {"kind": "Pod", "apiVersion": "v1"}
    pod["metadata"]["resourceVersion"] = str(int(pod["metadata"]["resourceVersion"]) + 1000)
    at.faults.reset_counts()
    at.faults.replay("pods", "DELETED", pod)
    await eventually(lambda: at.counts.total("get", "pods") >= 1)
    assert (await at.stack(stack_id))["status"] == "running"
    assert (await at.pods_and_services()).keys() == {stack_id, f"svc-{stack_id}"}
    at.faults.add_fault(action="status", verb="get", resource="pods", code=503)
    await at.delete_object("pods", stack_id)
    await eventually(lambda: at.counts.requests["get", "pods", 503] >= 1)
    assert (await at.stack(stack_id))["status"] == "running"
    at.faults.clear()
    assert (await at.until_status(stack_id, "stopped"))["status_reason"] == "PodDeleted"


NAMED = [pytest.mark.stackd(settings=ROUTES), pytest.mark.kubernetes(gateway=GATEWAY, gateway_port=0)]


@pytest.mark.parametrize("kind", ["services", pytest.param("httproutes.gateway.networking.k8s.io", marks=NAMED)])
async def test_what_the_watch_reports_gone_is_taken_from_the_answer_that_it_exists(
    at: Harness, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Nothing about it has to be changed, so no event follows, and its version is older than what the watch has reported."""
    resource, body = kind.partition(".")[0], seed() if kind == "services" else asking("https")
    stack_id, context = await at.running(body), at.daemon.context
    mirror, name = context.mirror, next(name for name in await at.objects(resource) if stack_id in name)
    for _ in range(2):  # the first time, the record of a Service is brought up to date
        await at.create(body)
        removals = mirror.removals
        at.faults.replay_deletion(kind, name)
        await eventually(lambda: mirror.removals > removals)  # noqa: B023  it is awaited at once
        await eventually(lambda: mirror.find(resource, name) and not context.loop.queue.at_work(stack_id))
    assert "keeps changing" not in caplog.text


async def test_a_pod_without_labels_is_followed_by_its_uid(at: Harness) -> None:
    async def without_labels() -> str:
        stack_id = await at.running()
        at.counts.clear()
        admit(at, "patch", "pods", NO_LABELS)
        await at.patch("pods", stack_id, NO_LABELS)
        await eventually(lambda: at.counts.total("patch", "pods") >= 2)
        return stack_id

    stack_id = await without_labels()
    await until(lambda: at.stack(stack_id), lambda seen: seen["status_reason"] == "LabelsMissing")
    assert (await at.stack(stack_id))["status"] == "running"
    await at.delete(stack_id)
    assert not await at.pods_and_services()

    stack_id = await without_labels()
    await at.delete_object("pods", stack_id)
    assert (await at.until_status(stack_id, "stopped"))["status_reason"] == "PodDeleted", "its end is noticed"
    await until(at.used_ports, lambda seen: seen == 0)

    stack_id = await without_labels()
    await at.kubectl("PATCH", f"/api/v1/namespaces/stacks/pods/{stack_id}/status", {"status": {"phase": "Failed"}})
    await at.until_status(stack_id, "failed")
    await at.delete(stack_id)

    stack_id = await without_labels()
    at.faults.clear()
    await until(lambda: at.objects("pods"), lambda seen: labelled(seen[stack_id]))


async def test_a_pod_without_labels_of_a_restart_is_replaced(vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy took the labels off its new pod, and stackd was not allowed to undo the create. Anybody may have made it."""
    monkeypatch.setattr("stackd.lifecycle.loop.STACK_RETRIES", RetryPolicy(first=0.1, longest=0.1))
    at = await vm.start()
    stack_id = await at.running()
    at.faults.add_fault(action="status", verb="create", resource="pods", code=403, count=3)
    assert (await at.call("POST", f"/stacks/{stack_id}/restart")).status >= 400
    admit(at, "create|patch", "pods", NO_LABELS)
    at.faults.add_fault(action="status", verb="delete", resource="pods", code=403)
    await eventually(lambda: at.counts.requests["delete", "pods", 403] >= 2)
    left = (await at.objects("pods"))[stack_id]
    assert not labelled(left)
    at.faults.clear()
    await at.until_status(stack_id, "running")
    pod = (await at.objects("pods"))[stack_id]
    assert (labelled(pod), pod["metadata"]["uid"] == left["metadata"]["uid"]) == (True, False)


async def test_a_create_or_a_stop_that_a_policy_changes_is_refused(at: Harness) -> None:
    for resource, change, words in (
        ("pods", NO_LABELS, "labels from pods"),
        ("services", NO_LABELS, "labels from services"),
        ("services", MOVED, "changes the Services"),
        ("services", NO_ANNOTATIONS, "lacks the record"),
    ):
        admit(at, "create", resource, change)
        await at.refused(503, words, "/stacks", seed())
        await at.until_listed(0)
        assert not await at.pods_and_services()
        at.faults.clear()
    stack_id = await at.running()
    admit(at, "patch", "services", NO_LABELS)
    await at.refused(503, "labels from services", f"/stacks/{stack_id}/stop")
    assert stack_id in await at.objects("pods"), "it is not deleted in favour of a record that nobody finds"
    at.faults.clear()
    await at.until_status(stack_id, "stopped")
    assert not await at.objects("pods")


EVIL = "evil/pod:latest"
FORGED = {"stackd.io/generation": "999", "stackd.io/record": "{}"}
HELD = {"finalizers": ["example.com/hold"]}


def plant(at: Harness, kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> None:
    """Somebody else, who may not use stackd's labels, makes an object of this name, whatever faults there are."""
    body = json.dumps({"metadata": {"name": name, **metadata}, "spec": spec}).encode()
    at.cluster.api.create(read_target("POST", path_of(kind), {}), {}, body)


def plant_pod(at: Harness, name: str, **metadata: Any) -> None:
    containers = [{"name": "app", "image": EVIL}]
    plant(at, "pods", name, {"containers": containers, "nodeSelector": {"role": "stack"}}, **metadata)


async def runs_its_own_pod(at: Harness, stack_id: str) -> bool:
    pod = (await at.objects("pods"))[stack_id]
    return labelled(pod) and [one["image"] for one in pod["spec"]["containers"]] == ["nginx:stable"]


async def test_a_start_takes_nobody_elses_pod_for_the_stacks(at: Harness) -> None:
    stack_id = await at.running()
    for planted in ({"annotations": FORGED}, {"labels": {"stackd.io/instance": "default"}}):
        await at.do("stop", stack_id)
        plant_pod(at, stack_id, **planted)
        await at.do("start", stack_id)
        await at.until_status(stack_id, "running")
        assert await runs_its_own_pod(at, stack_id)


@pytest.mark.stackd(stacks__unschedulable_grace="20s")
async def test_a_create_takes_nobody_elses_pod_for_the_stacks(at: Harness) -> None:
    """Its own was deleted before a node had it."""
    pods, nodes = at.cluster.store.of(PODS), list(await at.objects("nodes"))
    for node in nodes:
        at.faults.cordon(node)
    words = "deleted from the cluster while it was being created"
    refused = asyncio.create_task(at.refused(503, words, "/stacks", seed()))
    await until(lambda: at.get("/capacity"), lambda _: bool(at.daemon.context.mirror.pods))
    ((namespace, name),) = pods.records
    at.cluster.store.remove(pods.get(namespace, name))
    containers = [{"name": "app", "image": EVIL}]
    plant(at, "pods", name, {"containers": containers, "nodeName": nodes[0]}, annotations=FORGED)
    await refused
    await at.until_listed(0)


async def test_a_start_whose_answer_was_lost_finds_its_own_pod(at: Harness) -> None:
    stack_id = await at.running()
    await at.do("stop", stack_id)
    at.counts.clear()
    at.faults.add_fault(action="lost_reply", verb="create", resource="pods", count=1)
    await at.do("start", stack_id)
    await at.until_status(stack_id, "running")
    assert await runs_its_own_pod(at, stack_id)
    assert at.counts.total("delete", "pods") == 0, "the first one runs"


async def test_a_pod_that_somebody_keeps_at_the_stacks_name_fails_its_start_and_holds_no_port(at: Harness) -> None:
    deleted, started = [await at.running() for _ in range(2)]
    for stack_id in (deleted, started):
        await at.do("stop", stack_id)
        plant_pod(at, stack_id, annotations=FORGED, **HELD)
        at.give_kubernetes(timeout=2.0)
        await at.refused(503, "a pod that is not stackd's has the stack's name", f"/stacks/{stack_id}/start")
        at.give_kubernetes(timeout=10.0)
        assert (await at.until_status(stack_id, "failed"))["status_reason"] == "NameTaken"
    await at.delete(deleted)
    assert await at.used_ports() == 1
    await at.patch("pods", started, {"metadata": {"finalizers": None}})
    await at.until_status(started, "running")
    assert await runs_its_own_pod(at, started)


async def test_a_service_of_somebody_else_at_the_stacks_name_gives_way(at: Harness) -> None:
    """Its other fields, such as ``externalIPs``, would stay, and send the stack's traffic elsewhere."""
    stack_id = await at.running()
    port, name = await port_of(at, stack_id), f"svc-{stack_id}"
    at.faults.add_fault(action="status", verb="create", resource="services", code=500)
    await at.delete_object("services", name)
    await eventually(lambda: at.counts.requests["create", "services", 500])
    spec = {"ports": [{"port": 80}], "externalIPs": ["198.51.100.7"]}
    plant(at, "services", name, spec, annotations=FORGED)
    at.faults.clear()
    await eventually(lambda: serves(at, stack_id, port))
    assert "externalIPs" not in (await at.objects("services"))[name]["spec"]


async def test_a_stack_that_a_finalizer_holds_says_so(at: Harness) -> None:
    for kind, prefix in (("pods", ""), ("services", "svc-")):
        at.give_kubernetes(timeout=10.0)
        stack_id = await at.running()
        name = f"{prefix}{stack_id}"
        await at.patch(kind, name, {"metadata": HELD})
        at.give_kubernetes(timeout=0.5)
        assert (await at.call("DELETE", f"/stacks/{stack_id}")).status == 503
        stack = await until(partial(at.stack, stack_id), lambda seen: seen["status_reason"] == "DeletePending")
        assert f"{name} is still being deleted (finalizers example.com/hold)" in stack["status_message"]
        await until(at.used_ports, (kind == "services").__eq__)  # its port is free once its Service is gone
        await at.patch(kind, name, {"metadata": {"finalizers": None}})
        await at.until_listed(0)
        assert not await at.pods_and_services()


async def test_a_pod_that_was_held_at_a_restart_goes_before_the_service_later(at: Harness) -> None:
    """The Service has the record: whoever loses the file while the pod is there reads in it whose pod that is."""
    stack_id = await at.running()
    await at.patch("pods", stack_id, {"metadata": HELD})
    at.give_kubernetes(timeout=2.0)
    await at.refused(503, "finalizers example.com/hold", f"/stacks/{stack_id}/restart")
    at.give_kubernetes(timeout=10.0)
    await at.patch("pods", stack_id, {"metadata": {"finalizers": None}})
    await at.until_status(stack_id, "running")
    at.faults.add_fault(action="status", verb="delete", resource="pods", code=403)
    await at.refused(503, "", f"/stacks/{stack_id}", method="DELETE")
    assert set(await at.pods_and_services()) == {stack_id, f"svc-{stack_id}"}


async def test_a_service_that_was_changed_by_hand_is_put_right_and_until_then_the_status_says_so(at: Harness) -> None:
    stack_id = await at.running()
    port = await port_of(at, stack_id)
    inside = {"type": "ClusterIP", "ports": [{"name": "p-80-tcp", "protocol": "TCP", "port": 80, "targetPort": 80}]}
    for change in (MOVED, {"spec": inside}, {"spec": {"selector": {"stackd.io/stack": "nobody"}}}):
        await at.patch("services", f"svc-{stack_id}", change)
        await eventually(lambda: serves(at, stack_id, port))
        assert await port_of(at, stack_id) == port
        await until(lambda: at.stack(stack_id), lambda seen: not seen["status_reason"])
    admit(at, "patch", "services", MOVED)
    await at.patch("services", f"svc-{stack_id}", MOVED)
    stack = await until(lambda: at.stack(stack_id), lambda seen: seen["status_reason"] == "ServiceChanged")
    assert f"from {port} to 32011" in stack["status_message"]
    at.faults.clear()
    await eventually(lambda: serves(at, stack_id, port))


@pytest.mark.stackd(reconcile__interval="1h")
@pytest.mark.kubernetes(port_release_delay=0.2)
async def test_a_deleted_service_comes_back_at_its_port(at: Harness) -> None:
    """The cluster frees the port a little after the Service is gone."""
    stack_id = await at.running()
    before, number = await at.stack(stack_id), at.daemon.api.feed.number
    uid = (await at.pods_and_services())[f"svc-{stack_id}"]
    await at.delete_object("services", f"svc-{stack_id}")
    await eventually(lambda: serves(at, stack_id, before["ports"][0]["node_port"]))
    assert at.counts.requests["create", "services", 422]
    query = f"SELECT 1 FROM stacks WHERE service_uid IS NOT NULL AND service_uid <> '{uid}'"
    await eventually(lambda: at.rows(query))
    assert (at.daemon.api.feed.number, await at.stack(stack_id)) == (number, before)


async def test_an_ended_stack_holds_its_port_until_its_service_has_given_it_up(at: Harness) -> None:
    """A port that is given away before would be refused to its next stack, or lead there by the old Service."""
    stack_id = await at.running()
    at.faults.add_fault(action="status", verb="patch", resource="services", code=403)
    await at.delete_object("pods", stack_id)
    await at.until_status(stack_id, "stopped")
    await eventually(lambda: at.counts.requests["patch", "services", 403])
    assert (await at.get("/stats"))["used_node_ports"] == 1
    at.faults.end("status")
    await until(lambda: at.get("/stats"), lambda stats: stats["used_node_ports"] == 0)
    assert (await at.objects("services"))[f"svc-{stack_id}"]["spec"]["type"] == "ClusterIP"


async def test_a_delete_removes_the_service_that_was_put_back_also_before_the_watch_has_told_of_it(at: Harness) -> None:
    stack_id = await at.running()
    before = (await at.pods_and_services())[f"svc-{stack_id}"]
    at.faults.add_fault(action="status", verb="create", resource="services", code=503)
    await at.delete_object("services", f"svc-{stack_id}")
    await eventually(lambda: at.counts.requests["create", "services", 503])  # the watch has reported its end
    at.faults.add_fault(action="mute", verb="watch", resource="services")
    at.faults.drop_watches()
    at.faults.end("status")
    await until(at.pods_and_services, lambda seen: seen.get(f"svc-{stack_id}", before) != before)
    await at.delete(stack_id)
    assert not await at.objects("services")


@pytest.mark.parametrize(
    ("setting", "families", "addresses", "shown"),
    [
        ("auto", ["IPv4"], (V6, V4), V4),
        ("auto", ["IPv6"], (V6, V4), V6),
        ("auto", ["IPv4"], (V6,), None),
        ("ipv6", ["IPv4", "IPv6"], (V4, V6), V6),
        ("ipv6", ["IPv4"], (V6, V4), V4),
        ("ipv6", ["IPv4"], (V6,), None),
    ],
)
async def test_a_stack_is_told_an_address_of_its_services_family(
    vm: Machine, setting: str, families: list[str], addresses: tuple[str, ...], shown: str | None
) -> None:
    """Of the family that is set, if the Service has it: no node port is open at an address of another."""
    at = await vm.start(stacks__address_family=setting)
    listed = [{"type": "ExternalIP", "address": address} for address in addresses]
    nodes, events = await at.objects("nodes"), await at.metric("stackd_mirror_events_total", kind="nodes")
    for name in nodes:
        await at.kubectl("PATCH", f"/api/v1/nodes/{name}/status", {"status": {"addresses": listed}})
    await at.until_at_least("stackd_mirror_events_total", events + len(nodes), kind="nodes")
    admit(at, "create", "services", {"spec": {"ipFamilies": families}})
    stack = await at.create()
    (service,) = [one for name, one in (await at.objects("services")).items() if stack["stack_id"] in name]
    assert service["spec"]["ipFamilyPolicy"] == ("SingleStack" if setting == "auto" else "PreferDualStack")
    assert stack["node_public_ip"] == shown
    port = stack["ports"][0]["node_port"]
    host = f"[{shown}]" if shown == V6 else shown
    assert [each["text"] for each in stack["addresses"]] == ([f"{host}:{port}"] if shown else [])
    await at.delete_object("services", f"svc-{stack['stack_id']}")
    assert (await at.until_status(stack["stack_id"], "running"))["node_public_ip"] == shown


@pytest.mark.parametrize("right_one_is_back", [False, True])
async def test_no_stack_ends_by_the_word_of_another_cluster(
    at: Harness, monkeypatch: pytest.MonkeyPatch, *, right_one_is_back: bool
) -> None:
    """One that has answered for a moment: by the time that it is asked for its identity, the right one may be back."""
    stack_id, find, context = await at.running(), Cluster.find, at.daemon.context
    asked: list[str] = []

    async def elsewhere(cluster: Cluster, resource: str, name: str, *more: Any) -> Any:
        if resource != "pods" or (asked and right_one_is_back):
            return await find(cluster, resource, name, *more)
        asked.append(name)
        if right_one_is_back:
            at.verify_again()
        else:
            context.gate.wrong_cluster = "the file belongs to another cluster"
        return None

    monkeypatch.setattr(Cluster, "find", elsewhere)
    at.faults.replay_deletion("pods", stack_id)
    await eventually(lambda: asked)
    at_work, pods = context.loop.queue.at_work, context.mirror.pods
    await eventually(lambda: stack_id in pods if right_one_is_back else not at_work(stack_id))
    assert (await at.stack(stack_id))["status"] == "running"


async def test_a_delete_removes_the_pod_that_has_the_name_by_now(at: Harness) -> None:
    """It is the stack's by its labels, and the watch has not reported yet that the earlier one is gone."""
    stack_id = await at.running()
    pod = (await at.objects("pods"))[stack_id]
    at.faults.freeze_watches()
    await at.delete_object("pods", stack_id)
    metadata = {key: pod["metadata"][key] for key in ("labels", "annotations")}
    await at.apply("pods", stack_id, **metadata, spec={"containers": [{"name": "app", "image": "nginx"}]})
    await at.delete(stack_id)
    assert not await at.pods_and_services()


@pytest.mark.parametrize("code", [403, 500])
async def test_a_delete_that_is_refused_again_and_again_says_so_whoever_refuses(at: Harness, code: int) -> None:
    stack_id = await at.running()
    at.give_kubernetes(timeout=0.3)
    at.faults.add_fault(action="status", verb="delete", resource="pods", code=code)
    assert (await at.call("DELETE", f"/stacks/{stack_id}")).status == 503
    stack = await until(lambda: at.stack(stack_id), lambda seen: seen["status_reason"] == "DeletePending")
    assert ("a policy of the cluster denies to delete pods" in stack["status_message"]) is (code != 500)
    if code != 500:
        await at.until_unready(f"1 stacks cannot be deleted, such as {stack_id}")
    at.faults.clear()
    await at.until_listed(0)
    await at.until_ready()


async def test_a_stack_whose_pod_is_gone_says_so_although_its_service_is_refused(at: Harness) -> None:
    stack_id = await at.running()
    with at.worked_on(stack_id):
        await at.patch("services", f"svc-{stack_id}", MOVED)
        at.faults.add_fault(action="status", code=403, verb="patch|update", resource="services")
        await at.delete_object("pods", stack_id)
    stack = await at.until_status(stack_id, "stopped")
    assert (stack["status_reason"], stack["ended"]) == ("PodDeleted", True)
