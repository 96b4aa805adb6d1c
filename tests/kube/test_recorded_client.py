"""The client against recorded exchanges of a real API server: what it sends, and what it makes of the answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import ClientResponse
from aioresponses import aioresponses
from yarl import URL

from stackd.kube.client import Cluster
from stackd.kube.objects import PODS
from stackd.kube.rights import AccessReview
from tests.kube.wire import NAMESPACE, PODS_PATH, recording
from tests.target import target_at

SERVER = "http://kubernetes.test"


class PlayedResponse(ClientResponse):
    """With a writer that has the attribute that aiohttp reads; aioresponses makes none."""

    def __init__(self, method: str, url: URL, **kwargs: Any) -> None:
        super().__init__(method, url, stream_writer=type("Writer", (), {"output_size": 0})(), **kwargs)


def play(player: aioresponses, name: str, *, path: str = "") -> None:
    """Answer the next request that matches the recording with its response."""
    document = recording(name)
    body = document["response"]["body"]
    log = isinstance(body, str)
    player.add(
        SERVER + (path or document["request"]["path"]),
        method=document["request"]["method"],
        status=document["response"]["status"],
        body=body if log else json.dumps(body),
        content_type="text/plain" if log else "application/json",
        response_class=PlayedResponse,
    )


@pytest.fixture
def player() -> Iterator[aioresponses]:
    """Responses come from recordings instead of a network."""
    with aioresponses() as playing:
        yield playing


@pytest.fixture
async def recorded(player: aioresponses) -> AsyncIterator[Cluster]:
    """A cluster that is played from recordings."""
    cluster = await Cluster.connect(target_at(SERVER, namespace=NAMESPACE, timeout=60.0))
    yield cluster
    await cluster.close()


def sent(player: aioresponses, method: str, path: str) -> Any:
    """The JSON body of the last request of this kind."""
    return json.loads(player.requests[method, URL(SERVER + path)][-1].kwargs["data"].decode())


@pytest.mark.parametrize(("name", "dry_run"), [("pod-create-201", False), ("pod-create-dryrun", True)])
async def test_one_request_creates_a_pod(recorded: Cluster, player: aioresponses, name: str, dry_run: bool) -> None:
    play(player, name)
    asked, answer = recording(name)["request"]["body"], recording(name)["response"]["body"]
    pod = await recorded.create(PODS, asked, dry_run=dry_run)
    assert (pod.name, pod.uid, pod.phase) == (asked["metadata"]["name"], answer["metadata"]["uid"], "Pending")
    assert sent(player, "POST", PODS_PATH + ("?dryRun=All" if dry_run else "")) == asked
    assert recorded.counts == {("create", "pods", "201"): 1}


@pytest.mark.parametrize(
    ("name", "uid"),
    [("pod-delete-200-grace0", ""), ("service-delete-200", ""), ("pod-delete-404", "0"), ("pod-delete-409-uid", "0")],
)
async def test_a_delete_is_done_with_the_answer(recorded: Cluster, player: aioresponses, name: str, uid: str) -> None:
    document = recording(name)
    path = document["request"]["path"]
    uid = uid or document["response"]["body"]["metadata"]["uid"]
    play(player, name)
    resource, name = path.split("/")[-2:]
    await recorded.delete(resource, name, uid)
    grace = {"gracePeriodSeconds": 0} if "/pods/" in path else {}
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", **grace}
    assert sent(player, "DELETE", path) == options | {"preconditions": {"uid": uid}}
    assert sum(recorded.counts.values()) == 1


async def test_a_namespace_that_somebody_else_made_meanwhile_will_do(recorded: Cluster, player: aioresponses) -> None:
    play(player, "namespace-get-404")
    play(player, "namespace-create-409")
    await recorded.ensure_namespace()


@pytest.mark.parametrize(("name", "allowed"), [("access-review-yes", True), ("access-review-no", False)])
async def test_rights_are_asked_for(recorded: Cluster, player: aioresponses, name: str, *, allowed: bool) -> None:
    play(player, name)
    assert await recorded.may(AccessReview(verb="create", resource="pods", namespace="rec")) is allowed
    body = sent(player, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
    assert body == recording(name)["request"]["body"]
