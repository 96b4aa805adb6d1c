"""The client against a scripted server: what is lost, late or refused on the way."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest
from aiohttp import web

from stackd.errors import ClusterUnavailable, NodePortTaken, ObjectExists, PreconditionFailed
from stackd.kube.client import Cluster, ClusterTarget
from tests.kube.wire import NAMESPACE, Reply, Wire, items, loses, pod, says, status, waits

PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"
EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"
EXISTS = status(409, "AlreadyExists", 'pods "p" already exists', kind="pods")
GONE = status(404, "NotFound", 'pods "p" not found', kind="pods")
OTHER_UID = status(409, "Conflict", "Precondition failed: the UID in the precondition (a) does not match")


def with_meta(obj: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {**obj, "metadata": {**obj["metadata"], **metadata}}


def service(*, node_port: int = 31000, owner: str = "pod-uid") -> dict[str, Any]:
    raw = pod("s")
    return {
        **with_meta(raw, ownerReferences=[{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner}]),
        "kind": "Service",
        "spec": {"ports": [{"name": "p-80-tcp", "port": 80, "protocol": "TCP", "nodePort": node_port}]},
    }


async def test_a_lost_answer_to_a_create_makes_exactly_one_pod(cluster: Cluster, wire: Wire) -> None:
    made: dict[str, Any] = {}

    async def makes_it_and_is_cut(request: web.Request) -> web.StreamResponse:
        made.update(pod("p"))
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def has_it(_: web.Request) -> web.StreamResponse:
        assert made
        return web.json_response(made)

    wire.on("POST", PODS, makes_it_and_is_cut, says(EXISTS, 409))
    wire.on("GET", f"{PODS}/p", has_it)
    assert (await cluster.create_pod(pod("p"))).uid == "uid-of-p"
    assert [seen.method for seen in wire.seen] == ["POST", "POST", "GET"]
    assert cluster.counts["create", "pods", "none"] == 1


@pytest.mark.parametrize(
    "refusal",
    [
        says(status(500, "InternalError", "oops"), 500),
        says(status(503, "ServiceUnavailable", "starting"), 503),
        says(status(429, "TooManyRequests", "slow down"), 429),
        says(status(409, "Conflict", 'Operation cannot be fulfilled on resourcequotas "q"'), 409),
        says(status(403, "Forbidden", 'pods "p" is forbidden: error looking up service account rec/default'), 403),
        loses(),
        waits(30),
    ],
)
async def test_a_create_outlasts_a_passing_failure(wire: Wire, refusal: Reply) -> None:
    target = ClusterTarget(mode="embedded", url=wire.url, namespace=NAMESPACE, timeout=5, attempt_timeout=0.5)
    cluster = await Cluster.connect(target)
    wire.on("POST", PODS, refusal, says(pod("p"), 201))
    assert (await cluster.create_pod(pod("p"))).name == "p"
    assert len(wire.asked("POST", PODS)) == 2
    await cluster.close()


async def test_retry_after_is_waited_for(cluster: Cluster, wire: Wire) -> None:
    wire.on("POST", PODS, says(status(429, "TooManyRequests", "slow"), 429, Retry_After="1"), says(pod("p"), 201))
    began = time.monotonic()
    await cluster.create_pod(pod("p"))
    assert time.monotonic() - began >= 1.0


async def test_retry_after_beyond_the_deadline_is_passed_on_at_once(cluster: Cluster, wire: Wire) -> None:
    wire.on("POST", PODS, says(status(429, "TooManyRequests", "slow"), 429, Retry_After="60"))
    began = time.monotonic()
    with pytest.raises(ClusterUnavailable) as caught:
        await cluster.create_pod(pod("p"))
    assert caught.value.retry_after == 60
    assert time.monotonic() - began < 1.0


async def test_a_call_ends_by_its_deadline(cluster: Cluster, wire: Wire) -> None:
    wire.on("POST", PODS, *[says(status(500, "InternalError", "oops"), 500)] * 100)
    began = time.monotonic()
    with pytest.raises(ClusterUnavailable, match="oops"):
        await cluster.create_pod(pod("p"), timeout=0.4)
    assert time.monotonic() - began < 1.0


async def test_a_server_that_is_not_there_is_unavailable(wire: Wire) -> None:
    cluster = await Cluster.connect(ClusterTarget(mode="embedded", url=wire.url, namespace=NAMESPACE, timeout=0.2))
    await wire.stop()
    with pytest.raises(ClusterUnavailable, match=r"cannot be reached: Connect"):
        await cluster.cluster_uid()
    await cluster.close()


@pytest.mark.parametrize(
    "other",
    [
        pod("p", instance="green"),
        with_meta(pod("p"), labels={}),
        with_meta(pod("p"), annotations={"stackd.io/record": '{"version":1,"of":"somebody else"}'}),
    ],
)
async def test_a_pod_of_that_name_that_this_create_did_not_make_is_not_taken_for_it(
    cluster: Cluster, wire: Wire, other: dict[str, Any]
) -> None:
    wire.on("POST", PODS, says(EXISTS, 409))
    wire.on("GET", f"{PODS}/p", says(other))
    with pytest.raises(ObjectExists):
        await cluster.create_pod(pod("p"))
    assert {seen.method for seen in wire.seen} == {"POST", "GET"}


@pytest.mark.parametrize("other", [service(node_port=31001), service(owner="older-pod")])
async def test_a_service_with_other_ports_or_another_owner_is_not_taken_for_ours(
    cluster: Cluster, wire: Wire, other: dict[str, Any]
) -> None:
    wire.on("POST", SERVICES, says(EXISTS, 409))
    wire.on("GET", f"{SERVICES}/s", says(other))
    with pytest.raises(ObjectExists):
        await cluster.create_service(service())


async def test_a_service_whose_first_answer_was_lost_is_found_although_its_own_port_is_refused(
    cluster: Cluster, wire: Wire
) -> None:
    port = {"field": "spec.ports[0].nodePort", "message": "Invalid value: 31000: provided port is already allocated"}
    refusal = {**status(422, "Invalid", "Service is invalid"), "details": {"causes": [port]}}
    wire.on("POST", SERVICES, loses(), says(refusal, 422))
    wire.on("GET", f"{SERVICES}/s", says(service()))
    assert (await cluster.create_service(service())).name == "s"


async def test_a_port_that_is_refused_while_nothing_was_made_is_somebody_elses(cluster: Cluster, wire: Wire) -> None:
    port = {"field": "spec.ports[0].nodePort", "message": "Invalid value: 31000: provided port is already allocated"}
    refusal = {**status(422, "Invalid", "Service is invalid"), "details": {"causes": [port]}}
    wire.on("POST", SERVICES, says(refusal, 422))
    wire.on("GET", f"{SERVICES}/s", says(status(404, "NotFound", "not found"), 404))
    with pytest.raises(NodePortTaken):
        await cluster.create_service(service())


async def test_a_create_waits_for_an_older_pod_of_ours_to_go(cluster: Cluster, wire: Wire) -> None:
    going = with_meta(pod("p"), deletionTimestamp="2026-11-24T22:56:24Z")
    wire.on("POST", PODS, says(EXISTS, 409), says(pod("p", uid="new"), 201))
    wire.on("GET", f"{PODS}/p", says(going))
    assert (await cluster.create_pod(pod("p"))).uid == "new"


async def test_a_missing_namespace_is_made_once_and_the_create_goes_on(cluster: Cluster, wire: Wire) -> None:
    missing = says(status(404, "NotFound", 'namespaces "rec" not found', kind="namespaces"), 404)
    wire.on("POST", PODS, missing, says(pod("p"), 201))
    wire.on("GET", "/api/v1/namespaces/rec", missing)
    wire.on("POST", "/api/v1/namespaces", says({"metadata": {}}, 201))
    assert (await cluster.create_pod(pod("p"))).name == "p"


async def test_a_namespace_that_stays_away_is_an_error(cluster: Cluster, wire: Wire) -> None:
    missing = says(status(404, "NotFound", 'namespaces "rec" not found', kind="namespaces"), 404)
    wire.on("POST", PODS, missing, missing)
    wire.on("GET", "/api/v1/namespaces/rec", says({"metadata": {}, "status": {"phase": "Active"}}))
    with pytest.raises(ClusterUnavailable, match="the namespace rec does not exist"):
        await cluster.create_pod(pod("p"))


async def test_a_namespace_that_is_being_terminated_is_an_error(cluster: Cluster, wire: Wire) -> None:
    wire.on("GET", "/api/v1/namespaces/rec", says({"metadata": {}, "status": {"phase": "Terminating"}}))
    with pytest.raises(ClusterUnavailable, match="is being terminated"):
        await cluster.ensure_namespace()


async def test_a_delete_without_a_uid_names_the_uid_of_what_it_found(cluster: Cluster, wire: Wire) -> None:
    wire.on("GET", f"{PODS}/p", says(pod("p", uid="u1")))
    wire.on("DELETE", f"{PODS}/p", says(pod("p", uid="u1")))
    await cluster.delete_pod("p")
    assert wire.asked("DELETE", f"{PODS}/p")[0].body["preconditions"] == {"uid": "u1"}


@pytest.mark.parametrize("foreign", [pod("p", instance="green"), with_meta(pod("p"), labels={"app": "theirs"})])
async def test_a_delete_never_touches_what_is_not_ours(cluster: Cluster, wire: Wire, foreign: dict[str, Any]) -> None:
    wire.on("GET", f"{PODS}/p", says(foreign))
    await cluster.delete_pod("p")
    assert [seen.method for seen in wire.seen] == ["GET"]


async def test_a_delete_whose_answer_was_lost_is_asked_again(cluster: Cluster, wire: Wire) -> None:
    wire.on("DELETE", f"{PODS}/p", loses(), says(GONE, 404))
    await cluster.delete_pod("p", "u1")
    assert len(wire.asked("DELETE", f"{PODS}/p")) == 2


async def test_a_conflict_that_is_not_about_the_uid_does_not_count_as_gone(cluster: Cluster, wire: Wire) -> None:
    modified = status(409, "Conflict", "the object has been modified")
    wire.on("DELETE", f"{PODS}/p", says(modified, 409), says(pod("p")))
    await cluster.delete_pod("p", "u1")
    assert len(wire.asked("DELETE", f"{PODS}/p")) == 2


async def test_a_delete_that_is_refused_is_not_asked_again(cluster: Cluster, wire: Wire) -> None:
    refused = status(403, "Forbidden", 'pods "p" is forbidden: User "u" cannot delete resource "pods" in API group ""')
    wire.on("DELETE", f"{PODS}/p", *[says(refused, 403)] * 9)
    with pytest.raises(ClusterUnavailable, match="no right to delete pods"):
        await cluster.delete_pod("p", "u1", timeout=0.5)
    assert len(wire.seen) == 1


async def test_a_pod_that_is_held_by_a_finalizer_is_gone_only_when_it_is_gone(cluster: Cluster, wire: Wire) -> None:
    held = with_meta(pod("p", uid="u1"), finalizers=["example.com/hold"], deletionGracePeriodSeconds=0)
    wire.on("DELETE", f"{PODS}/p", says(held))
    wire.on("GET", f"{PODS}/p", says(held), says(held), says(GONE, 404))
    await cluster.delete_pod("p", "u1")
    assert len(wire.asked("GET", f"{PODS}/p")) == 3


async def test_a_new_pod_of_the_same_name_means_that_the_old_one_is_gone(cluster: Cluster, wire: Wire) -> None:
    going = with_meta(pod("p", uid="u1"), deletionGracePeriodSeconds=30)
    wire.on("DELETE", f"{PODS}/p", says(going))
    wire.on("GET", f"{PODS}/p", says(pod("p", uid="u2")))
    await cluster.delete_pod("p", "u1")
    assert len(wire.asked("DELETE", f"{PODS}/p")) == 1


async def test_a_pod_that_does_not_go_is_said_to_be_still_there_and_why(cluster: Cluster, wire: Wire) -> None:
    held = with_meta(pod("p", uid="u1"), finalizers=["example.com/hold"])
    wire.on("DELETE", f"{PODS}/p", says(held))
    wire.on("GET", f"{PODS}/p", *[says(held)] * 50)
    with pytest.raises(ClusterUnavailable, match=r"still being deleted \(finalizers example.com/hold\)"):
        await cluster.delete_pod("p", "u1", timeout=0.3)


async def test_annotations_are_patched_on_that_very_pod(cluster: Cluster, wire: Wire) -> None:
    wire.on("PATCH", f"{PODS}/p", says(pod("p")), says(OTHER_UID, 409))
    await cluster.patch_pod_annotations("p", "u1", {"stackd.io/record": "{}"})
    assert wire.seen[0].body == {"metadata": {"uid": "u1", "annotations": {"stackd.io/record": "{}"}}}
    with pytest.raises(PreconditionFailed):
        await cluster.patch_pod_annotations("p", "u1", {"stackd.io/record": "{}"})


async def test_our_objects_are_listed_in_pages(cluster: Cluster, wire: Wire) -> None:
    wire.on("GET", PODS, says(items(pod("a"), more="next")), says(items(pod("b"))))
    assert [raw["metadata"]["name"] async for raw in cluster.list_raw("pods")] == ["a", "b"]
    first, second = wire.asked("GET", PODS)
    selector = "app.kubernetes.io/managed-by=stackd,stackd.io/instance=default"
    assert first.query == {"labelSelector": selector, "limit": "500"}
    assert second.query == {"labelSelector": selector, "limit": "500", "continue": "next"}


async def test_a_list_that_expires_while_it_is_read_is_begun_again_in_one_piece(cluster: Cluster, wire: Wire) -> None:
    expired = says(status(410, "Expired", "The provided continue parameter is too old"), 410)
    wire.on("GET", EVENTS, expired, says(items()))
    assert await cluster.pod_events("p") == []
    assert [request.query.get("limit") for request in wire.asked("GET", EVENTS)] == ["500", None]
    wire.on("GET", EVENTS, expired, expired)
    with pytest.raises(ClusterUnavailable, match="the list of events expired while it was read"):
        await cluster.pod_events("p")


async def test_requests_in_flight_are_capped(wire: Wire) -> None:
    flying = most = 0

    async def busy(request: web.Request) -> web.StreamResponse:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0.01)
        flying -= 1
        return web.json_response(pod(orjson.loads(await request.read())["metadata"]["name"]), status=201)

    wire.on("POST", PODS, *[busy] * 20)
    target = ClusterTarget(mode="embedded", url=wire.url, namespace=NAMESPACE, max_in_flight=3)
    cluster = await Cluster.connect(target)
    pods = await asyncio.gather(*[cluster.create_pod(pod(f"p{number}")) for number in range(20)])
    assert [state.name for state in pods] == [f"p{number}" for number in range(20)]
    assert most == 3
    await cluster.close()


@pytest.mark.parametrize(
    ("pause", "same"), [(50, True), (70, False)], ids=["the next burst", "a server about to close it"]
)
async def test_a_connection_is_kept_for_a_minute(
    cluster: Cluster, wire: Wire, monkeypatch: pytest.MonkeyPatch, pause: float, same: bool
) -> None:
    wire.on("GET", f"{PODS}/p", says(GONE, 404), says(GONE, 404))
    await cluster.get_pod("p")
    monkeypatch.setattr("aiohttp.connector.monotonic", lambda: time.monotonic() + pause)
    await cluster.get_pod("p")
    first, second = (seen.connection for seen in wire.seen)
    assert (second is first) is same


async def test_each_request_is_reported(wire: Wire) -> None:
    reports: list[tuple[str, str, str, float]] = []
    target = ClusterTarget(mode="embedded", url=wire.url, namespace=NAMESPACE)
    cluster = await Cluster.connect(target, observer=lambda *report: reports.append(report))
    wire.on("GET", f"{PODS}/p", says(GONE, 404))
    assert await cluster.get_pod("p") is None
    assert [report[:3] for report in reports] == [("get", "pods", "404")]
    assert 0 < reports[0][3] < 5
    await cluster.close()


async def test_a_caller_that_leaves_frees_its_place(wire: Wire) -> None:
    wire.on("GET", f"{PODS}/slow", waits(30))
    wire.on("GET", f"{PODS}/p", says(pod("p")))
    cluster = await Cluster.connect(ClusterTarget(mode="embedded", url=wire.url, namespace=NAMESPACE, max_in_flight=1))
    leaving = asyncio.create_task(cluster.get_pod("slow"))
    async with asyncio.timeout(2):
        while not wire.seen:
            await asyncio.sleep(0.001)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert (await cluster.get_pod("p")) is not None
    await cluster.close()
