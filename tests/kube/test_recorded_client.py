"""The client against recorded exchanges of a real API server: what it sends, and what it makes of the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aioresponses import aioresponses
from yarl import URL

from stackd.errors import ClusterUnavailable, Conflict, StackdError
from stackd.kube.client import Cluster
from stackd.kube.rights import AccessReview
from tests.kube.wire import SERVER, play, recording

PODS = "/api/v1/namespaces/rec/pods"


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


@pytest.mark.parametrize(
    ("name", "uid"),
    [("pod-delete-200-grace0", ""), ("service-delete-200", ""), ("pod-delete-404", "0"), ("pod-delete-409-uid", "0")],
)
async def test_what_was_deleted_or_is_another_one_is_gone_with_the_answer(
    recorded: Cluster, player: aioresponses, name: str, uid: str
) -> None:
    document = recording(name)
    path = document["request"]["path"]
    uid = uid or document["response"]["body"]["metadata"]["uid"]
    play(player, name)
    delete = recorded.delete_pod if "/pods/" in path else recorded.delete_service
    await delete(path.rpartition("/")[2], uid)
    grace = {"gracePeriodSeconds": 0} if "/pods/" in path else {}
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", **grace}
    assert sent(player, "DELETE", path) == options | {"preconditions": {"uid": uid}}
    assert sum(recorded.counts.values()) == 1


async def test_a_namespace_that_somebody_else_made_meanwhile_will_do(recorded: Cluster, player: aioresponses) -> None:
    play(player, "namespace-get-404")
    play(player, "namespace-create-409")
    await recorded.ensure_namespace()


@pytest.mark.parametrize(("name", "allowed"), [("access-review-yes", True), ("access-review-no", False)])
async def test_rights_are_asked_for_as_recorded(
    recorded: Cluster, player: aioresponses, name: str, *, allowed: bool
) -> None:
    play(player, name)
    ask = AccessReview(verb="create", resource="pods", namespace="rec")
    assert await recorded.may(ask) is allowed
    assert sent(player, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews") == asked_body(name)


async def test_a_log_is_read_as_text(recorded: Cluster, player: aioresponses) -> None:
    play(player, "pod-log-200", path=f"{PODS}/exit1/log?tailLines=5&limitBytes=1048576")
    assert await recorded.pod_log("exit1", tail=5) == "starting\nboom\n"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("pod-log-404-kubelet", Conflict),
        ("pod-log-404-node", Conflict),
        ("pod-log-500-kubelet-away", ClusterUnavailable),
    ],
)
async def test_a_node_without_the_log_is_asked_once_and_is_not_taken_for_the_cluster(
    recorded: Cluster, player: aioresponses, name: str, error: type[StackdError]
) -> None:
    pod = recording(name)["request"]["path"].split("/")[6]
    play(player, name, path=f"{PODS}/{pod}/log?tailLines=5&limitBytes=1048576")
    with pytest.raises(error):
        await recorded.pod_log(pod, tail=5)
    assert recorded.connection.contact.failures == 0


async def test_events_come_oldest_first(recorded: Cluster, player: aioresponses) -> None:
    path = "/api/v1/namespaces/rec/events?fieldSelector=involvedObject.name%3Dbadimage&limit=500"
    play(player, "events-list-badimage", path=path)
    events = await recorded.pod_events("badimage")
    assert events[0].reason == "Scheduled"
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert any(event.type == "Warning" for event in events)
