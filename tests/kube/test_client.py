"""The client against a scripted server: requests and responses that are lost, delayed or refused."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from stackd import errors
from stackd.kube.client import Cluster
from stackd.kube.objects import PODS, SERVICES
from stackd.kube.wire import KubeRequest, KubeResponse, error_of, is_other_uid, may_repeat
from tests.harness import eventually
from tests.kube.wire import (
    NAMESPACE,
    PODS_PATH,
    SERVICES_PATH,
    Reply,
    Wire,
    answered,
    asked,
    going,
    items,
    loses,
    missing,
    namespace,
    pod,
    recording,
    says,
    status,
    waits,
)
from tests.target import target_at

EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"
PORT = {"field": "spec.ports[0].nodePort", "message": "Invalid value: 31000: provided port is already allocated"}
PORT_REFUSED = says(status(422, "Invalid", "Service is invalid", causes=[PORT]), 422)


def with_meta(obj: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {**obj, "metadata": {**obj["metadata"], **metadata}}


def service(*, node_port: int = 31000) -> dict[str, Any]:
    ports = [{"name": "p-80-tcp", "port": 80, "protocol": "TCP", "nodePort": node_port}]
    return {**pod("s"), "kind": "Service", "spec": {"ports": ports}}


# ---- creates


async def test_retry_after_is_waited_for_within_the_deadline_or_passed_on(cluster: Cluster, wire: Wire) -> None:
    slow = status(429, "TooManyRequests", "slow")
    wire.on("POST", PODS_PATH, says(slow, 429, Retry_After="1"), says(pod("p"), 201), says(slow, 429, Retry_After="61"))
    began = time.monotonic()
    await cluster.create(PODS, pod("p"))
    assert time.monotonic() - began >= 1.0
    with pytest.raises(errors.ClusterOverloaded) as caught:
        await cluster.create(PODS, pod("p"), timeout=60)
    assert caught.value.retry_after == 61
    assert time.monotonic() - began < 30, "it has waited for the deadline"


async def test_a_service_whose_own_port_is_refused_was_made_by_the_try_before(cluster: Cluster, wire: Wire) -> None:
    wire.on("POST", SERVICES_PATH, loses(), PORT_REFUSED, PORT_REFUSED)
    wire.on("GET", f"{SERVICES_PATH}/s", says(service()), missing("services", "s"))
    assert (await cluster.create(SERVICES, service())).name == "s"
    with pytest.raises(errors.NodePortTaken) as caught:  # nothing was made: the port is somebody else's
        await cluster.create(SERVICES, service())
    assert caught.value.node_port == 31000


async def test_the_namespace_is_not_made_while_it_goes(cluster: Cluster, wire: Wire) -> None:
    ends = says(namespace(phase="Terminating"))
    wire.on("GET", "/api/v1/namespaces/rec", missing("namespaces", "rec"), says(namespace()), ends)
    wire.on("POST", "/api/v1/namespaces", says(namespace(), 201))
    await cluster.ensure_namespace()
    await cluster.ensure_namespace()
    with pytest.raises(errors.ClusterUnavailable, match="is being terminated"):
        await cluster.ensure_namespace()
    (asked,) = wire.asked("POST", "/api/v1/namespaces")
    assert asked.body["metadata"]["name"] == "rec"


# ---- deletes and patches


@pytest.mark.parametrize("foreign", [pod("p", instance="green"), with_meta(pod("p"), labels={"app": "theirs"})])
async def test_a_delete_without_a_uid_is_only_of_ours(cluster: Cluster, wire: Wire, foreign: dict[str, Any]) -> None:
    wire.on("GET", f"{PODS_PATH}/p", says(foreign), says(pod("p", uid="u1")))
    wire.on("DELETE", f"{PODS_PATH}/p", says(going(pod("p", uid="u1"))))
    await cluster.delete("pods", "p")
    assert [seen.method for seen in wire.seen] == ["GET"]
    await cluster.delete("pods", "p")
    options = wire.asked("DELETE", f"{PODS_PATH}/p")[0].body
    assert (options["preconditions"], options["gracePeriodSeconds"]) == ({"uid": "u1"}, 0)


async def test_a_put_removes_what_only_the_old_service_has(cluster: Cluster, wire: Wire) -> None:
    wanted = with_meta(service(), annotations={"stackd.io/record": "{}"})
    wanted["spec"]["selector"] = {"stackd.io/stack": "s"}
    old = with_meta(service(), labels=service()["metadata"]["labels"] | {"label.stackd.io/team": "7", "theirs": "x"})
    old["spec"]["selector"] = {"stackd.io/assigned": "true"}
    others = with_meta(service(), labels=service()["metadata"]["labels"] | {"stackd.io/instance": "green"})
    wire.on("GET", f"{SERVICES_PATH}/s", says(old), says(others))
    wire.on("PATCH", f"{SERVICES_PATH}/s", says(wanted))
    await cluster.create_or_update(SERVICES, wanted)
    patch = wire.asked("PATCH", f"{SERVICES_PATH}/s")[0].body
    ours = ("label.stackd.io/team", "stackd.io/pool", "stackd.io/spare", "stackd.io/assigned")
    assert patch["metadata"]["labels"] == wanted["metadata"]["labels"] | dict.fromkeys(ours)
    assert patch["metadata"]["uid"] == "uid-of-s"
    assert patch["spec"]["selector"] == {"stackd.io/assigned": None, "stackd.io/stack": "s"}
    with pytest.raises(errors.ObjectExists, match="is another stackd's"):
        await cluster.create_or_update(SERVICES, wanted)


# ---- reads


async def test_a_list_that_expires_while_it_is_read_is_begun_again_in_one_piece(cluster: Cluster, wire: Wire) -> None:
    expired = says(status(410, "Expired", "The provided continue parameter is too old"), 410)
    wire.on("GET", EVENTS, says(items(kind="Event", more="next")), expired, says(items(kind="Event")))
    assert await cluster.pod_events("p") == []
    queries = [(seen.query.get("limit"), seen.query.get("continue")) for seen in wire.asked("GET", EVENTS)]
    assert queries == [("500", None), ("500", "next"), (None, None)]
    wire.on("GET", EVENTS, expired, expired)
    with pytest.raises(errors.ClusterUnavailable, match="expired"):
        await cluster.pod_events("p")


def packed(size: int, code: int = 200) -> Reply:
    """A list that unpacks to this many bytes."""
    body = gzip.compress(b'{"kind":"PodList"' + b" " * size + b"}")

    async def reply(_: web.Request) -> web.StreamResponse:
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        return web.Response(body=body, status=code, headers=headers)

    return reply


@pytest.mark.parametrize("code", [200, 500])
async def test_of_a_response_that_unpacks_to_a_lot_only_so_much_is_read_and_lists_in_smaller_pages(
    cluster: Cluster, wire: Wire, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Before, 600 MB, packed into one, took 1.9 GB of memory."""
    monkeypatch.setattr("stackd.kube.connection.LIST_BYTES", 4 << 20)
    monkeypatch.setattr("stackd.kube.connection.OBJECT_BYTES", 1 << 20)
    wire.on("GET", f"{PODS_PATH}/p", packed(60 << 20, code))
    pages = says(items(pod("a"), more="next")), says(items(pod("b")))
    wire.on("GET", PODS_PATH, *[packed(8 << 20, code)] * 3, *pages)
    tracemalloc.start()
    with pytest.raises(errors.AnswerTooLarge, match="more than 1 MiB"):
        await cluster.get(PODS, "p")
    assert tracemalloc.get_traced_memory()[1] < 30 << 20
    tracemalloc.stop()
    with pytest.raises(errors.AnswerTooLarge, match="more than 4 MiB"):
        await cluster.list_raw("pods")
    assert [raw["metadata"]["name"] for raw in await cluster.list_raw("pods")] == ["a", "b"]
    limits = [request.query.get("limit") for request in wire.asked("GET", PODS_PATH)]
    assert limits == ["500", "25", "500", "25", "25"]
    assert cluster.connection.contact.failures == 0, "it has answered"


# ---- what is in flight


async def test_a_wait_for_a_turn_is_not_taken_for_silence(wire: Wire) -> None:
    """Before, "Kubernetes did not answer" was said of calls that were not sent yet, and warm connections were closed."""

    async def slow(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(1.1)
        return web.json_response(pod("p"))

    wire.on("GET", f"{PODS_PATH}/p", *[slow] * 4)
    target = target_at(wire.url, namespace=NAMESPACE, max_in_flight=2, timeout=60.0, attempt_timeout=30.0)
    cluster = await Cluster.connect(target)
    assert all(await asyncio.gather(*(cluster.get(PODS, "p", timeout=2.0) for _ in range(4))))
    assert len(wire.seen) == 4, "a request was repeated"
    assert len({seen.connection for seen in wire.seen}) == 2
    assert cluster.connection.contact.failures == 0

    wire.on("GET", f"{PODS_PATH}/p", *[waits(30)] * 2)
    wire.on("GET", f"{PODS_PATH}/q", says(pod("q")))
    hanging = [asyncio.create_task(cluster.get(PODS, "p", timeout=30.0)) for _ in range(2)]
    await eventually(lambda: len(wire.seen) == 6)
    with pytest.raises(errors.NoRequestSlot):
        await cluster.get(PODS, "q", timeout=0.2)
    assert cluster.connection.contact.failures == 0
    hanging[0].cancel()  # a caller that leaves frees its place
    assert await cluster.get(PODS, "q") is not None
    hanging[1].cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    await cluster.close()


async def test_service_writes_that_hang_hold_no_other_service_write(wire: Wire) -> None:
    wire.on("POST", SERVICES_PATH, waits(60), waits(60), says(service(), 201))
    limits: dict[str, Any] = {"services_in_flight": 2, "timeout": 60.0, "attempt_timeout": 60.0}
    cluster = await Cluster.connect(target_at(wire.url, namespace=NAMESPACE, **limits))
    hanging = [asyncio.create_task(cluster.create(SERVICES, service())) for _ in range(2)]
    await eventually(lambda: len(wire.asked("POST", SERVICES_PATH)) == 2)
    async with asyncio.timeout(30):
        await cluster.create(SERVICES, service())
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    await cluster.close()


async def test_a_log_that_hangs_is_its_nodes_silence_and_not_the_api_servers(cluster: Cluster, wire: Wire) -> None:
    wire.on("GET", f"{PODS_PATH}/p/log", *[waits(60)] * 9)
    session = cluster.connection.access.session
    cluster.target = replace(cluster.target, timeout=0.2)
    with pytest.raises(errors.ClusterUnavailable):
        await cluster.pod_log("p", tail=5)
    assert cluster.connection.contact.failures == 0
    assert cluster.connection.access.session is session


# ---- what a refusal means


REFUSALS: dict[type[errors.StackdError], str] = {
    errors.Conflict: "pod-log-400-not-started pod-log-404-kubelet pod-log-404-node",
    errors.ClusterRefused: "nodes-list-403-rbac pod-create-403-rbac pods-list-401 pods-list-403-rbac token-request-403-rbac",
    errors.ClusterUnavailable: "httproute-create-422-hostname lease-create-400-type lease-create-422-duration "
    "lease-create-500-version lease-update-400-name lease-update-422-no-version pod-log-500-kubelet-away token-request-422",
    errors.InvalidPodSpec: "pod-create-400-type pod-create-403-podsecurity pod-create-422-image pod-create-422-name",
    errors.LimitRangeViolation: "pod-create-403-limitrange-max pod-create-403-limitrange-max-two pod-create-403-limitrange-min",
    errors.NamespaceMissing: "lease-create-403-terminating lease-create-404-namespace pod-create-403-terminating "
    "pod-create-404-namespace",
    errors.NodePortOutOfRange: "service-create-422-port-range",
    errors.NodePortTaken: "service-create-422-port-allocated service-dryrun-422-port-allocated service-create-udp-same-port",
    errors.ObjectExists: "configmap-create-409 httproute-create-409 lease-create-409 namespace-create-409 pod-create-409 "
    "service-create-409",
    errors.ObjectNotFound: "configmap-delete-404 configmap-update-404 lease-get-404 namespace-get-404 node-get-404 "
    "pod-delete-404 pod-get-404 service-delete-404 token-request-404",
    errors.PreconditionFailed: "configmap-delete-409-uid lease-delete-409-version lease-patch-409 lease-update-409 "
    "lease-update-409-gone lease-update-409-uid pod-delete-409-uid pod-patch-422-uid",
    errors.QuotaExceeded: "pod-create-403-quota pod-create-403-quota-must-specify service-create-403-quota-nodeports",
}
# What a client needs to know of these.
SAYS = {
    "pod-create-400-type": "invalid pod spec: json: cannot unmarshal string into Go struct field ContainerPort",
    "pod-create-403-limitrange-max-two": "memory usage per Container is 512Mi, but limit is 8Gi, maximum cpu usage",
    "pod-create-403-podsecurity": 'violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true), hostPort',
    "pod-create-403-quota": "ResourceQuota stacks-resource-quota: requested: limits.cpu=5,requests.cpu=5, used: limits.cpu",
    "pod-create-403-rbac": "no right to create pods",
    "pod-create-403-terminating": "the namespace rec is being terminated",
    "pod-create-422-image": "invalid pod spec: spec.containers[0].image: Required value",
    "pod-log-404-kubelet": "p1: its node has no log of it",
    "pod-log-500-kubelet-away": "its node does not answer: dial tcp 127.0.0.9:10250",
    "service-create-udp-same-port": "node port 31900: provided port is already allocated",
}
CREATE_POD = KubeRequest(verb="create", resource="pods", namespace="rec")
CREATE_SERVICE = KubeRequest(verb="create", resource="services", namespace="rec")
DELETE_POD = KubeRequest(verb="delete", resource="pods", namespace="rec")
FORBIDDEN = 'pods "x" is forbidden: '


def refusal(code: int, reason: str, message: str) -> KubeResponse:
    return KubeResponse(status=code, body=json.dumps(status(code, reason, message)).encode())


@pytest.mark.parametrize(("kind", "names"), REFUSALS.items(), ids=[kind.__name__ for kind in REFUSALS])
def test_a_recorded_refusal_is_the_right_error(kind: type[errors.StackdError], names: str) -> None:
    for name in names.split():
        call, answer = asked(recording(name)), answered(recording(name))
        error = error_of(call, answer)
        assert type(error) is kind, name
        assert SAYS.get(name, "") in str(error)
        assert "system:serviceaccount" not in str(error)
        assert may_repeat(call, answer) == (name == "lease-create-500-version"), name
        assert is_other_uid(answer) == name.endswith("-delete-409-uid"), name


@pytest.mark.parametrize(
    ("call", "code", "message", "kind", "again"),
    [
        *((CREATE_POD, code, "etcdserver: request timed out", errors.ClusterUnavailable, True) for code in (500, 504)),
        (CREATE_POD, 403, f"{FORBIDDEN}error looking up service account rec/default: not found", errors.ClusterUnavailable, True),
        (CREATE_POD, 403, f"{FORBIDDEN}status unknown for quota: q, resources: limits.cpu", errors.ClusterUnavailable, True),
        (CREATE_POD, 409, 'Operation cannot be fulfilled on resourcequotas "q": modified', errors.ClusterUnavailable, True),
        (DELETE_POD, 409, 'Operation cannot be fulfilled on resourcequotas "q": modified', errors.PreconditionFailed, False),
        (CREATE_POD, 403, f"{FORBIDDEN}cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000",
         errors.LimitRangeViolation, False),
        (CREATE_POD, 403, f"{FORBIDDEN}maximum memory usage per Pod is 1Gi.  No limit", errors.LimitRangeViolation, False),
        (CREATE_POD, 403, 'admission webhook "images.example" denied the request: not signed', errors.InvalidPodSpec, False),
        (CREATE_POD, 403, f'{FORBIDDEN}pod rejected: RuntimeClass "gvisor" not found', errors.ClusterRefused, False),
        (CREATE_SERVICE, 422, 'Service "x" is invalid: spec.ports: Required value', errors.ClusterUnavailable, False),
        (CREATE_POD, 504, "Too large resource version: 900, current: 12", errors.VersionExpired, False),
    ],
)  # fmt: skip
def test_what_another_refusal_means_and_whether_another_try_may_help(
    call: KubeRequest, code: int, message: str, kind: type[errors.StackdError], again: bool
) -> None:
    answer = refusal(code, "Conflict" if code == 409 else "", message)
    assert type(error_of(call, answer)) is kind
    assert may_repeat(call, answer) is again
    assert not is_other_uid(answer)


@pytest.mark.parametrize("code", [302, 400, 403, 404, 405, 409, 410, 413, 422, 500, 502])
def test_an_answer_that_is_no_status_object_or_an_odd_one_is_still_an_error(code: int) -> None:
    causes: tuple[object, ...] = ([{"field": "spec.x"}], [{"reason": "FieldValueInvalid"}], [None, "x"], {}, "x")
    odd = [json.dumps(status(code, "Invalid", "it is not good", causes=one)).encode() for one in causes]
    for body in (b"", b"<html>Bad Gateway</html>", b"[1]", b'"x"', b"\xff\xfe", b'{"details": null}', *odd):
        answer = KubeResponse(status=code, body=body)
        for call in (CREATE_POD, CREATE_SERVICE, DELETE_POD):
            assert isinstance(error_of(call, answer), errors.StackdError)
            may_repeat(call, answer)
            is_other_uid(answer)
