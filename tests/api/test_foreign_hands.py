"""What the cluster's other users, its admission policies and replayed responses do to stacks, and how stackd reacts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from stackd.embedded import EmbeddedCluster
from stackd.lifecycle.reconcile import AGAIN_PASSES
from tests.api.test_lost_file import uids
from tests.api.test_pools import filled, folder_with, plain
from tests.harness import Harness, eventually, fast_cluster, harness, lose_file, seed, until

PODS = "/api/v1/namespaces/stacks/pods"
SERVICES = "/api/v1/namespaces/stacks/services"
OURS = ("app.kubernetes.io/managed-by", "stackd.io/instance", "stackd.io/stack")
NO_LABELS = {"metadata": {"labels": dict.fromkeys(OURS)}}


async def patch(at: Harness, path: str, change: object) -> dict[str, Any]:
    """A merge patch that does not come from stackd."""
    headers = {"Content-Type": "application/merge-patch+json"}
    async with at.session.patch(at.cluster.url + path, data=json.dumps(change), headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        result: dict[str, Any] = await answer.json()
        return result


def labelled(found: dict[str, Any]) -> bool:
    """Whether the object has stackd's labels."""
    return all(map(found["metadata"].get("labels", {}).get, OURS))


async def objects_left(at: Harness) -> dict[str, Any]:
    return await at.objects("pods") | await at.objects("services")


# ---- replayed responses


async def test_a_replayed_older_list_ends_no_stack(at: Harness) -> None:
    """Before, a replayed LIST that was older than the stacks stopped 4 of 12 live stacks."""
    before = await at.kubectl("GET", PODS + "?labelSelector=app.kubernetes.io/managed-by%3Dstackd")
    stacks = [await at.running() for _ in range(4)]
    at.cluster.faults.add_fault(
        action="reply", verb="list", resource="pods", code=200, body=json.dumps(before), count=2
    )
    at.cluster.faults.add_fault(action="status", verb="watch", resource="pods", code=410, count=1)
    at.cluster.faults.drop_watches()

    await until(lambda: at.call("GET", "/readyz"), lambda seen: not at.cluster.faults.any and seen.status == 200)
    last = await at.running()
    for stack_id in (*stacks, last):
        assert (await at.stack(stack_id))["status"] == "running"
    assert set(await at.objects("pods")) == {*stacks, last}


async def test_no_stack_is_ended_for_want_of_a_pod_that_kubernetes_has(at: Harness) -> None:
    """The event looks new, but an irreversible step needs a GET of the pod."""
    stack_id = await at.running()
    pod = (await at.objects("pods"))[stack_id] | {"kind": "Pod", "apiVersion": "v1"}
    pod["metadata"]["resourceVersion"] = str(int(pod["metadata"]["resourceVersion"]) + 1000)
    at.cluster.faults.reset_counts()
    at.cluster.faults.replay("pods", "DELETED", pod)
    await eventually(lambda: at.cluster.counts.total("get", "pods") >= 1)
    assert (await at.stack(stack_id))["status"] == "running"
    assert stack_id in await at.objects("pods")
    assert f"svc-{stack_id}" in await at.objects("services")


async def test_no_stack_is_ended_while_the_question_for_its_pod_is_not_answered(at: Harness) -> None:
    stack_id = await at.running()
    at.cluster.faults.add_fault(action="status", verb="get", resource="pods", code=503)
    await at.delete_object("pods", stack_id)
    await eventually(lambda: at.cluster.counts.requests["get", "pods", 503] >= 1)
    assert (await at.stack(stack_id))["status"] == "running"
    at.cluster.faults.clear()
    assert (await at.until_status(stack_id, "stopped"))["status_reason"] == "PodDeleted"


# ---- removed labels


async def test_labels_that_were_taken_off_many_pods_at_once_trip_no_brake(
    at: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """Before, 10 of 40 were repaired; the brake held the other 30 as ended, before anybody had asked for their pods."""
    stacks = await asyncio.gather(*(at.running() for _ in range(15)))
    no_instance = {"metadata": {"labels": {"stackd.io/instance": None}}}
    await asyncio.gather(*(patch(at, f"{PODS}/{stack_id}", no_instance) for stack_id in stacks))

    await until(lambda: at.objects("pods"), lambda seen: all(labelled(seen[stack_id]) for stack_id in stacks))
    for stack_id in stacks:
        await at.until_status(stack_id, "running")
        told = [one["kind"] for one in (await at.call("GET", f"/stacks/{stack_id}/timeline")).json["events"]]
        assert "stopped" not in told
    assert "brake" not in caplog.text


async def restart_that_has_left_a_pod_without_labels(at: Harness) -> str:
    """The stack. A policy took the labels off its new pod, and stackd was not allowed to undo the create."""
    stack_id = await at.running()
    at.cluster.faults.add_fault(action="status", verb="create", resource="pods", code=403, count=1)
    assert (await at.call("POST", f"/stacks/{stack_id}/restart")).status >= 400
    at.cluster.faults.add_fault(action="admit", verb="create|patch", resource="pods", body=json.dumps(NO_LABELS))
    at.cluster.faults.add_fault(action="status", verb="delete", resource="pods", code=403)
    await eventually(lambda: at.cluster.counts.requests["delete", "pods", 403])
    return stack_id


async def test_labels_that_were_taken_off_the_pod_of_an_unfinished_restart_are_put_back(at: Harness) -> None:
    """Before, the restart waited for ever for a pod that stackd did not see."""
    stack_id = await restart_that_has_left_a_pod_without_labels(at)

    await until(
        lambda: at.stack(stack_id),
        lambda seen: "removes stackd's labels from its pod" in seen.get("status_message", ""),
    )
    at.cluster.faults.clear()
    await at.until_status(stack_id, "running")
    assert labelled((await at.objects("pods"))[stack_id])


@pytest.mark.parametrize(("method", "path"), [("POST", "/stop"), ("DELETE", "")])
async def test_a_pod_without_labels_that_a_restart_has_left_is_gone_when_its_stack_is(
    at: Harness, method: str, path: str
) -> None:
    stack_id = await restart_that_has_left_a_pod_without_labels(at)
    at.cluster.faults.clear()
    assert (await at.call(method, f"/stacks/{stack_id}{path}")).status == 200
    assert not await at.objects("pods")


async def test_a_pod_off_which_a_policy_takes_labels_is_followed_and_deleted_by_its_uid(at: Harness) -> None:
    stack_id = await at.running()
    at.cluster.faults.add_fault(action="admit", verb="patch", resource="pods", body=json.dumps(NO_LABELS))
    await patch(at, f"{PODS}/{stack_id}", NO_LABELS)

    await until(lambda: at.stack(stack_id), lambda seen: seen.get("status_reason") == "LabelsMissing")
    assert (await at.stack(stack_id))["status"] == "running"
    reply = await at.call("DELETE", f"/stacks/{stack_id}")
    assert (reply.status, reply.json["deleted"]) == (200, True)
    assert not await objects_left(at)


async def without_labels(at: Harness, monkeypatch: pytest.MonkeyPatch) -> str:
    """A running stack whose pod has lost its labels, and gets none until the faults are cleared."""
    monkeypatch.setattr("stackd.lifecycle.observe.UNSEEN_SECONDS", 0.1)
    stack_id = await at.running()
    at.cluster.faults.add_fault(action="admit", verb="patch", resource="pods", body=json.dumps(NO_LABELS))
    await patch(at, f"{PODS}/{stack_id}", NO_LABELS)
    await eventually(lambda: at.cluster.counts.total("patch", "pods") >= 2)
    return stack_id


async def test_the_end_of_a_pod_without_labels_is_noticed(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, the stack stayed ``running`` for ever."""
    stack_id = await without_labels(at, monkeypatch)
    await at.delete_object("pods", stack_id)
    assert (await at.until_status(stack_id, "stopped"))["status_reason"] == "PodDeleted"
    await at.until_metric("stackd_node_ports", 0, state="used")


async def test_a_service_whose_labels_were_taken_off_goes_with_its_stack(at: Harness) -> None:
    """Before, the DELETE returned 200 while the Service existed and held its port."""
    stack_id = await at.running()
    at.cluster.faults.add_fault(action="status", verb="get", resource="services", code=503, count=1)
    await patch(at, f"{SERVICES}/svc-{stack_id}", NO_LABELS)
    assert (await at.call("DELETE", f"/stacks/{stack_id}")).status == 200
    assert not await objects_left(at)


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_service_whose_labels_were_taken_off_gets_them_back(at: Harness, stopped: bool) -> None:
    """Without them the record of a stopped stack is not found after the file was lost."""
    stack_id = await at.running()
    port = (await at.stack(stack_id))["ports"][0]["node_port"]
    if stopped:
        assert (await at.call("POST", f"/stacks/{stack_id}/stop")).status == 200
    await patch(at, f"{SERVICES}/svc-{stack_id}", NO_LABELS)
    await eventually(lambda: serves(at, stack_id, port))


async def serves(at: Harness, stack_id: str, port: int) -> bool:
    """Whether the stack's Service is as stackd created it."""
    service = (await at.objects("services")).get(f"svc-{stack_id}")
    if service is None or "deletionTimestamp" in service["metadata"]:
        return False
    spec = service["spec"]
    as_made = spec["type"] == "NodePort" and spec["selector"] == {"stackd.io/stack": stack_id}
    return as_made and labelled(service) and [one["nodePort"] for one in spec["ports"]] == [port]


MOVED = [{"name": "p-80-tcp", "protocol": "TCP", "port": 80, "targetPort": 80, "nodePort": 32011}]


@pytest.mark.parametrize(
    ("resource", "change", "said"),
    [
        ("pods", NO_LABELS, "removes stackd's labels from pods"),
        ("services", NO_LABELS, "removes stackd's labels from services"),
        ("services", {"spec": {"ports": MOVED}}, "changes the Services that stackd makes"),
    ],
)
async def test_a_create_that_a_policy_changes_is_refused_and_undone(
    at: Harness, resource: str, change: object, said: str
) -> None:
    at.cluster.faults.add_fault(action="admit", verb="create", resource=resource, body=json.dumps(change))
    reply = await at.call("POST", "/stacks", seed())
    assert (reply.status, said in reply.error) == (503, True), reply.text
    assert not await objects_left(at)
    assert not await at.listed()


async def test_a_stop_whose_record_a_policy_takes_the_labels_off_is_not_done(at: Harness) -> None:
    """A record without labels is not found after the file was lost, so a pod must not be deleted in favour of it."""
    stack_id = await at.running()
    at.cluster.faults.add_fault(action="admit", verb="patch", resource="services", body=json.dumps(NO_LABELS))
    reply = await at.call("POST", f"/stacks/{stack_id}/stop")
    assert (reply.status, "removes stackd's labels from services" in reply.error) == (503, True)
    assert stack_id in await at.objects("pods")
    at.cluster.faults.clear()
    await at.until_status(stack_id, "stopped")
    assert not await at.objects("pods")


# ---- removed annotations


NOTES = ("stackd.io/record", "stackd.io/expires-at", "stackd.io/generation")
NO_ANNOTATIONS = {"metadata": {"annotations": dict.fromkeys(NOTES)}}


async def test_annotations_that_were_taken_off_a_service_are_put_back_so_that_a_lost_file_loses_no_stack(
    tmp_path: Path,
) -> None:
    """The annotations also carry the expiry, which was extended after the create."""
    settings = {"STACKD_CLUSTER__LEASE_DURATION": "2s"}
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, settings, cluster=cluster) as at:
            stack_id = await at.running()
            assert (await at.call("POST", f"/stacks/{stack_id}/extend", {"ttl": "5h"})).status == 200
            before = await at.stack(stack_id)
            await patch(at, f"{SERVICES}/svc-{stack_id}", NO_ANNOTATIONS)
            await eventually(lambda: annotated(at, "services", f"svc-{stack_id}"))
        lose_file(tmp_path)
        async with harness(tmp_path, settings, cluster=cluster) as at:
            after = await at.stack(stack_id)
            assert (after["ttl_expires_at"], after["ports"]) == (before["ttl_expires_at"], before["ports"])


async def annotated(at: Harness, kind: str, name: str) -> bool:
    """Whether the object carries the annotations that stackd has made it with."""
    found = (await at.objects(kind))[name]["metadata"].get("annotations", {})
    return all(map(found.get, NOTES if kind == "services" else ("stackd.io/generation",)))


async def test_a_restarted_stack_whose_pod_has_lost_its_generation_lives_on(at: Harness) -> None:
    """Before, stackd took the pod for the one before the restart, and stopped the stack."""
    stack_id = await at.running()
    assert (await at.call("POST", f"/stacks/{stack_id}/restart")).status == 200
    await at.until_status(stack_id, "running")
    at.cluster.counts.clear()
    await patch(at, f"{PODS}/{stack_id}", NO_ANNOTATIONS)
    await eventually(lambda: annotated(at, "pods", stack_id))
    assert at.cluster.counts.total("get", "pods") == 0, "it is no sign of a watch that reports nothing"
    assert await at.metric("stackd_mirror_connected", kind="pods") == 1
    assert (await at.stack(stack_id))["status"] == "running"


async def test_a_service_off_which_a_policy_takes_annotations_is_not_written_again_and_again(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_RECONCILE__INTERVAL": "20ms"}) as at:
        stack_id = await at.running()
        at.cluster.faults.add_fault(action="admit", verb="patch", resource="services", body=json.dumps(NO_ANNOTATIONS))
        await patch(at, f"{SERVICES}/svc-{stack_id}", NO_ANNOTATIONS)
        at.cluster.faults.reset_counts()
        await eventually(lambda: at.cluster.counts.total("patch", "services") == 1)
        await at.passes(5)
        assert at.cluster.counts.total("patch", "services") == 1
        assert (await at.stack(stack_id))["status"] == "running"

        at.cluster.faults.clear()
        await at.passes(AGAIN_PASSES)
        await eventually(lambda: annotated(at, "services", f"svc-{stack_id}"))


async def test_a_stack_of_a_pool_off_which_a_policy_takes_annotations_is_written_once(tmp_path: Path) -> None:
    async with harness(tmp_path, folder_with(tmp_path, plain=plain(pool=1))) as at:
        await filled(at, "plain", size=1)
        at.cluster.faults.add_fault(action="admit", verb="patch", resource="services", body=json.dumps(NO_ANNOTATIONS))
        at.cluster.faults.reset_counts()
        await at.create({"template": "plain"})
        await eventually(lambda: at.cluster.counts.total("patch", "services"))
        await at.passes(5)
        assert at.cluster.counts.total("patch", "services") == 1


# ---- finalizers


@pytest.mark.parametrize("resource", [PODS, SERVICES])
async def test_a_stack_that_a_finalizer_holds_says_so(at: Harness, resource: str) -> None:
    stack_id = await at.running()
    name = stack_id if resource == PODS else f"svc-{stack_id}"
    await patch(at, f"{resource}/{name}", {"metadata": {"finalizers": ["example.com/hold"]}})
    at.give_kubernetes(timeout=0.5)
    reply = await at.call("DELETE", f"/stacks/{stack_id}")
    assert reply.status == 503
    held = await at.stack(stack_id)
    assert held["status_reason"] == "DeletePending"
    assert f"{name} is still being deleted (finalizers example.com/hold)" in held["status_message"]
    await patch(at, f"{resource}/{name}", {"metadata": {"finalizers": None}})
    await at.until_listed(0)
    assert not await objects_left(at)


# ---- changed Services


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"ports": MOVED}},
        {
            "spec": {
                "type": "ClusterIP",
                "ports": [{"name": "p-80-tcp", "protocol": "TCP", "port": 80, "targetPort": 80}],
            }
        },
        {"spec": {"selector": {"stackd.io/stack": "nobody"}}},
    ],
)
async def test_a_service_that_was_changed_by_hand_is_put_right(at: Harness, change: dict[str, Any]) -> None:
    """Before, the API showed the old port and ``running``, but nothing answered on that port."""
    stack_id = await at.running()
    port = (await at.stack(stack_id))["ports"][0]["node_port"]
    await patch(at, f"{SERVICES}/svc-{stack_id}", change)
    await eventually(lambda: serves(at, stack_id, port))
    assert (await at.stack(stack_id))["ports"][0]["node_port"] == port

    await until(lambda: at.stack(stack_id), lambda seen: not seen.get("status_reason"))


async def test_a_service_that_cannot_be_put_right_is_told_in_the_status(at: Harness) -> None:
    stack_id = await at.running()
    port = (await at.stack(stack_id))["ports"][0]["node_port"]
    edit = {"spec": {"ports": MOVED}}
    at.cluster.faults.add_fault(action="admit", verb="patch", resource="services", body=json.dumps(edit))
    await patch(at, f"{SERVICES}/svc-{stack_id}", edit)

    stack = await until(lambda: at.stack(stack_id), lambda seen: seen["status_reason"] == "ServiceChanged")
    assert f"the node ports of its Service were changed from {port} to 32011" in stack["status_message"]
    at.cluster.faults.clear()
    await eventually(lambda: serves(at, stack_id, port))


@pytest.mark.parametrize("verb", ["", "restart"])
async def test_a_port_that_is_free_a_little_after_its_service_is_gone_is_kept(tmp_path: Path, verb: str) -> None:
    """Before, 5 of 120 Services that were deleted by hand came back with another port, which nobody else had."""
    async with (
        EmbeddedCluster(fast_cluster(port_release_delay=0.2)) as cluster,
        harness(tmp_path, cluster=cluster) as at,
    ):
        stack_id = await at.running()
        port = (await at.stack(stack_id))["ports"][0]["node_port"]
        if verb:
            assert (await at.call("POST", f"/stacks/{stack_id}/{verb}")).status == 200
        else:
            await at.delete_object("services", f"svc-{stack_id}")
            await eventually(lambda: cluster.counts.requests["create", "services", 422])
        await eventually(lambda: serves(at, stack_id, port))
        stack = await at.until_status(stack_id, "running")
        assert stack["ports"][0]["node_port"] == port
        told = (await at.call("GET", f"/stacks/{stack_id}/timeline")).json["events"]
        assert not [event for event in told if event["reason"] == "NodePortReplaced"]


# ---- nodes with addresses of both families

V4, V6 = "203.0.113.7", "2001:db8::7"


async def readdress(at: Harness, *addresses: str) -> None:
    """Give every node these addresses, and let the daemon see them."""
    listed = [{"type": "ExternalIP", "address": address} for address in addresses]
    nodes, heard = await at.objects("nodes"), await at.metric("stackd_mirror_events_total", kind="nodes")
    for name in nodes:
        await patch(at, f"/api/v1/nodes/{name}/status", {"status": {"addresses": listed}})
    await at.until_at_least("stackd_mirror_events_total", heard + len(nodes), kind="nodes")


@pytest.mark.parametrize(
    ("setting", "families", "told_address"), [("auto", "IPv4", V4), ("auto", "IPv6", V6), ("ipv6", "IPv4", V6)]
)
async def test_a_stack_is_told_an_address_of_its_services_family(
    tmp_path: Path, setting: str, families: str, told_address: str
) -> None:
    """Before, an IPv6 address that came first was shown for Services that have only IPv4."""
    async with harness(tmp_path, {"STACKD_STACKS__ADDRESS_FAMILY": setting}) as at:
        await readdress(at, V6, V4)
        change = json.dumps({"spec": {"ipFamilies": [families]}})
        at.cluster.faults.add_fault(action="admit", verb="create", resource="services", body=change)
        stack = await at.create()
        assert stack["node_public_ip"] == told_address
        await at.delete_object("services", f"svc-{stack['stack_id']}")
        assert (await at.until_status(stack["stack_id"], "running"))["node_public_ip"] == told_address


async def test_requests_that_a_policy_has_raised_count(at: Harness) -> None:
    plain = await at.create()
    raised = {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"cpu": "250m", "memory": "1Gi"}}
    container = {"name": "app", "image": "nginx:stable", "resources": raised}
    at.cluster.faults.add_fault(
        action="admit", verb="create", resource="pods", body=json.dumps({"spec": {"containers": [container]}})
    )
    created = await at.create()
    assert (created["requested_cpu_milli"], created["requested_memory_bytes"]) == (250, 1 << 30)
    assert created["updated_at"] == created["created_at"], "it was so from the beginning"
    stats = (await at.call("GET", "/stats")).json
    assert stats["reserved_cpu_milli"] == plain["requested_cpu_milli"] + 250
    assert stats["reserved_memory_bytes"] == plain["requested_memory_bytes"] + (1 << 30)
    await at.until_status(created["stack_id"], "running")
    assert (await at.stack(created["stack_id"]))["requested_cpu_milli"] == 250
    at.cluster.faults.clear()
    fresh = (await at.call("POST", f"/stacks/{created['stack_id']}/restart")).json
    assert (fresh["requested_cpu_milli"], fresh["requested_memory_bytes"]) == (100, 128 << 20), "the policy is gone"


async def test_a_delete_removes_the_service_that_was_put_back_also_before_the_watch_has_told_of_it(at: Harness) -> None:
    stack_id = await at.running()
    before = (await at.objects("services"))[f"svc-{stack_id}"]["metadata"]["uid"]
    at.cluster.faults.add_fault(action="status", verb="create", resource="services", code=503)
    await at.delete_object("services", f"svc-{stack_id}")
    await eventually(lambda: at.cluster.counts.requests["create", "services", 503])  # the watch has reported its end
    at.cluster.faults.add_fault(action="mute", verb="watch", resource="services")
    at.cluster.faults.drop_watches()
    at.cluster.faults.end("status")

    await until(lambda: uids(at), lambda seen: seen.get(f"svc-{stack_id}", before) != before)
    assert (await at.call("DELETE", f"/stacks/{stack_id}")).status == 200
    assert not await at.objects("services")


async def test_a_label_that_names_another_stack_is_put_right(at: Harness) -> None:
    """Until then the other stack's Service also selects this pod."""
    one, other = await at.running(), await at.running()
    await patch(at, f"{PODS}/{one}", {"metadata": {"labels": {"stackd.io/stack": other}}})

    await until(lambda: at.objects("pods"), lambda seen: seen[one]["metadata"]["labels"]["stackd.io/stack"] == one)
    assert (await at.stack(other))["status"] == "running"


async def test_a_service_that_is_made_anew_is_no_change_that_a_client_sees(at: Harness) -> None:
    stack_id = await at.running()
    before = (await at.objects("services"))[f"svc-{stack_id}"]["metadata"]["uid"]
    known = (await at.stack(stack_id))["updated_at"]
    number = at.changes_told
    await at.delete_object("services", f"svc-{stack_id}")
    query = "SELECT 1 FROM stacks WHERE service_uid IS NOT NULL AND service_uid <> '{}'"
    await eventually(lambda: at.rows(query.format(before)))
    assert at.changes_told == number
    assert (await at.stack(stack_id))["updated_at"] == known


async def test_labels_that_a_policy_took_off_are_put_back_when_it_does_no_more(
    at: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, stackd tried only once to put them back."""
    stack_id = await without_labels(at, monkeypatch)
    at.cluster.faults.clear()

    await until(lambda: at.objects("pods"), lambda seen: labelled(seen[stack_id]))


async def test_an_address_of_another_family_is_none(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        await readdress(at, V6)
        assert (await at.create())["node_public_ip"] is None


async def test_a_deleted_service_comes_back_within_one_period(tmp_path: Path) -> None:
    """Before, it took two periods of ten seconds each."""
    async with harness(tmp_path, {"STACKD_RECONCILE__INTERVAL": "1h"}) as at:
        stack_id = await at.running()
        port = (await at.stack(stack_id))["ports"][0]["node_port"]
        await at.delete_object("services", f"svc-{stack_id}")
        await eventually(lambda: serves(at, stack_id, port))
