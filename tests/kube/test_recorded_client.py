"""The client against recorded exchanges of a real API server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aioresponses import aioresponses
from yarl import URL

from stackd.errors import ClusterUnavailable, Conflict, LimitRangeViolation, NodePortTaken, ObjectExists, QuotaExceeded
from stackd.kube.client import Cluster
from stackd.kube.rights import AccessReview
from tests.kube.recorded import SERVER, play, recording

PODS = "/api/v1/namespaces/rec/pods"
SERVICES = "/api/v1/namespaces/rec/services"


def asked_body(name: str) -> dict[str, Any]:
    body: dict[str, Any] = recording(name)["request"]["body"]
    return body


def sent(player: aioresponses, method: str, path: str) -> Any:
    """The JSON body of the last request of this kind."""
    data = player.requests[method, URL(SERVER + path)][-1].kwargs["data"]
    return json.loads(data.decode())


async def test_a_pod_is_created_with_one_request(recorded: Cluster, player: aioresponses) -> None:
    play(player, "pod-create-201")
    pod = await recorded.create_pod(asked_body("pod-create-201"))
    assert (pod.name, pod.uid, pod.phase) == ("ok", "20c14cd4-f9dd-4a96-830c-491428e37111", "Pending")
    assert sent(player, "POST", PODS) == asked_body("pod-create-201")
    assert recorded.counts == {("create", "pods", "201"): 1}


async def test_a_dry_run_is_asked_for_as_one(recorded: Cluster, player: aioresponses) -> None:
    play(player, "pod-create-dryrun")
    pod = await recorded.create_pod(asked_body("pod-create-dryrun"), dry_run=True)
    assert pod.name == asked_body("pod-create-dryrun")["metadata"]["name"]


async def test_a_service_is_created_and_its_ports_read(recorded: Cluster, player: aioresponses) -> None:
    play(player, "service-create-owned")
    service = await recorded.create_service(asked_body("service-create-owned"))
    assert service.node_ports == (30513,)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("pod-create-403-quota", QuotaExceeded),
        ("pod-create-403-limitrange-max", LimitRangeViolation),
        ("pod-create-403-limitrange-max-two", LimitRangeViolation),
    ],
)
async def test_a_refused_pod_is_asked_for_once(
    recorded: Cluster, player: aioresponses, name: str, error: type[Exception]
) -> None:
    play(player, name)
    with pytest.raises(error):
        await recorded.create_pod(asked_body(name))
    assert sum(recorded.counts.values()) == 1


async def test_a_node_port_that_somebody_else_holds_is_named(recorded: Cluster, player: aioresponses) -> None:
    play(player, "service-create-422-port-allocated")
    play(player, "service-delete-404", method="GET")
    asked = asked_body("service-create-422-port-allocated")
    asked["metadata"]["name"] = "svc-ok"  # the recording says that this Service does not exist
    with pytest.raises(NodePortTaken) as caught:
        await recorded.create_service(asked)
    assert caught.value.node_port == 31900


async def test_a_pod_of_that_name_that_is_not_ours_is_left_alone(recorded: Cluster, player: aioresponses) -> None:
    play(player, "pod-create-409")
    play(player, "pod-get-ok")
    with pytest.raises(ObjectExists):
        await recorded.create_pod(asked_body("pod-create-409"))
    assert recorded.counts == {("create", "pods", "409"): 1, ("get", "pods", "200"): 1}


async def test_a_pod_deleted_without_grace_is_gone_with_the_answer(recorded: Cluster, player: aioresponses) -> None:
    play(player, "pod-delete-200-grace0")
    uid = recording("pod-delete-200-grace0")["response"]["body"]["metadata"]["uid"]
    await recorded.delete_pod("ok", uid)
    assert sent(player, "DELETE", f"{PODS}/ok") == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": uid},
        "propagationPolicy": "Background",
    }
    assert recorded.counts == {("delete", "pods", "200"): 1}


async def test_a_service_is_gone_with_the_answer(recorded: Cluster, player: aioresponses) -> None:
    play(player, "service-delete-200")
    await recorded.delete_service("svc-ok", "dc6888a8-4325-4312-a55c-dec785bd5263")
    assert recorded.counts == {("delete", "services", "200"): 1}


@pytest.mark.parametrize("name", ["pod-delete-404", "pod-delete-409-uid"])
async def test_a_pod_that_is_not_there_or_is_another_one_counts_as_gone(
    recorded: Cluster, player: aioresponses, name: str
) -> None:
    play(player, name)
    await recorded.delete_pod(recording(name)["request"]["path"].rpartition("/")[2], "00000000")
    assert sum(recorded.counts.values()) == 1


async def test_without_a_uid_a_pod_that_is_not_ours_is_not_deleted(recorded: Cluster, player: aioresponses) -> None:
    play(player, "pod-get-ok")
    await recorded.delete_pod("ok")
    assert recorded.counts == {("get", "pods", "200"): 1}


async def test_the_cluster_is_known_by_the_uid_of_kube_system(recorded: Cluster, player: aioresponses) -> None:
    play(player, "namespace-kube-system")
    assert await recorded.cluster_uid() == "8f32f33c-1dc2-4c7d-bcba-678bcb1d5bae"


async def test_a_missing_namespace_is_made(recorded: Cluster, player: aioresponses) -> None:
    play(player, "namespace-get-404")
    play(player, "namespace-create")
    await recorded.ensure_namespace()
    assert sent(player, "POST", "/api/v1/namespaces")["metadata"]["name"] == "rec"


async def test_a_namespace_that_somebody_else_made_meanwhile_will_do(recorded: Cluster, player: aioresponses) -> None:
    play(player, "namespace-get-404")
    play(player, "namespace-create-409")
    await recorded.ensure_namespace()


async def test_the_version_is_read(recorded: Cluster, player: aioresponses) -> None:
    play(player, "version")
    assert await recorded.version() == "v1.36.2"


@pytest.mark.parametrize(("name", "allowed"), [("access-review-yes", True), ("access-review-no", False)])
async def test_rights_are_asked_for_as_recorded(
    recorded: Cluster, player: aioresponses, name: str, *, allowed: bool
) -> None:
    play(player, name)
    assert (
        await recorded.may(
            AccessReview(verb="create", resource="pods", subresource="", group="", namespace="rec", name="", why="")
        )
        is allowed
    )
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    assert sent(player, "POST", path) == asked_body(name)


async def test_a_log_is_read_as_text(recorded: Cluster, player: aioresponses) -> None:
    play(player, "pod-log-200", path=f"{PODS}/exit1/log?tailLines=5&limitBytes=1048576")
    assert await recorded.pod_log("exit1", tail=5) == "starting\nboom\n"


async def test_a_container_that_has_not_started_has_no_log_and_says_why(
    recorded: Cluster, player: aioresponses
) -> None:
    play(player, "pod-log-400-not-started", path=f"{PODS}/badimage/log?tailLines=5&limitBytes=1048576")
    with pytest.raises(Conflict, match="trying and failing to pull image"):
        await recorded.pod_log("badimage", tail=5)


@pytest.mark.parametrize("name", ["pod-log-404-kubelet", "pod-log-404-node"])
async def test_a_node_that_has_no_log_of_a_pod_is_asked_once(
    recorded: Cluster, player: aioresponses, name: str
) -> None:
    path = recording(name)["request"]["path"].split("/")[6]
    play(player, name, path=f"{PODS}/{path}/log?tailLines=5&limitBytes=1048576")
    with pytest.raises(Conflict, match="has no log of it"):
        await recorded.pod_log(path, tail=5)
    assert recorded.connection.contact.failures == 0, "the API server has answered"


async def test_a_node_that_does_not_answer_is_asked_once_and_is_not_taken_for_the_cluster(
    recorded: Cluster, player: aioresponses
) -> None:
    play(player, "pod-log-500-kubelet-away", path=f"{PODS}/p2/log?tailLines=5&limitBytes=1048576")
    with pytest.raises(ClusterUnavailable, match="its node does not answer"):
        await recorded.pod_log("p2", tail=5)
    assert recorded.connection.contact.failures == 0


async def test_events_come_oldest_first(recorded: Cluster, player: aioresponses) -> None:
    path = "/api/v1/namespaces/rec/events?fieldSelector=involvedObject.name%3Dbadimage&limit=500"
    play(player, "events-list-badimage", path=path)
    events = await recorded.pod_events("badimage")
    assert events[0].reason == "Scheduled"
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert any(event.type == "Warning" for event in events)


async def test_network_policies_are_asked_for_in_one_namespace(recorded: Cluster, player: aioresponses) -> None:
    play(player, "networkpolicies-list", path="/apis/networking.k8s.io/v1/namespaces/rec/networkpolicies?limit=500")
    assert await recorded.network_policies() == []
