from __future__ import annotations

import json
from typing import Any

import pytest

from stackd.errors import (
    ClusterOverloaded,
    ClusterRefused,
    ClusterUnavailable,
    Conflict,
    InvalidPodSpec,
    LimitRangeViolation,
    NodePortOutOfRange,
    NodePortTaken,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    QuotaExceeded,
    StackdError,
    VersionExpired,
)
from stackd.kube.responses import MESSAGE_LIMIT, error_of, is_other_uid, may_repeat, names_missing_namespace
from stackd.kube.wire import KubeRequest, KubeResponse
from tests.kube.recorded import all_recordings, answered, asked, recording
from tests.kube.wire import status

# Each recorded refusal: its error class, and a part of its message (all of it where a tenant reads it).
REJECTED = "Kubernetes rejected stackd's credentials or permissions (run `stackd doctor`)"
REFUSALS: dict[str, tuple[type[StackdError], str]] = {
    "namespace-create-409": (ObjectExists, 'namespaces "rec" already exists'),
    "namespace-get-404": (ObjectNotFound, 'namespaces "rec" not found'),
    "node-get-404": (ObjectNotFound, 'nodes "none" not found'),
    "nodes-list-403-rbac": (
        ClusterRefused,
        f"{REJECTED}: it has no right to list nodes (list nodes)",
    ),
    "configmap-create-400-type": (
        ClusterUnavailable,
        "rejected stackd's request (see stackd's log): create configmaps in namespace rec: ConfigMap",
    ),
    "configmap-create-409": (ObjectExists, 'configmaps "stack-0123456789abcdef" already exists'),
    "configmap-create-422-keys": (
        ClusterUnavailable,
        "rejected stackd's request (see stackd's log): create configmaps in namespace rec: ConfigMap",
    ),
    "configmap-delete-404": (ObjectNotFound, 'configmaps "stack-0123456789abcdef" not found'),
    "configmap-delete-409-uid": (PreconditionFailed, "the UID in the precondition"),
    "configmap-get-404": (ObjectNotFound, 'configmaps "nowhere" not found'),
    "configmap-patch-422-immutable": (ClusterUnavailable, "field is immutable when `immutable` is set"),
    "configmap-update-404": (ObjectNotFound, 'configmaps "nowhere" not found'),
    "lease-create-400-time": (
        ClusterUnavailable,
        "rejected stackd's request (see stackd's log): create leases in namespace rec: Lease in version",
    ),
    "lease-create-400-type": (
        ClusterUnavailable,
        "rejected stackd's request (see stackd's log): create leases in namespace rec: Lease in version",
    ),
    "lease-create-403-terminating": (ClusterUnavailable, "namespace rec because it is being terminated"),
    "lease-create-404-namespace": (ClusterUnavailable, "the namespace rec does not exist"),
    "lease-create-409": (ObjectExists, 'leases.coordination.k8s.io "stackd-default" already exists'),
    "lease-create-422-duration": (ClusterUnavailable, "spec.leaseDurationSeconds: Invalid value: 0"),
    "lease-create-500-version": (ClusterUnavailable, "it answered 500 to create leases in namespace rec"),
    "lease-delete-404": (ObjectNotFound, 'leases.coordination.k8s.io "stackd-default" not found'),
    "lease-delete-409-version": (PreconditionFailed, "the ResourceVersion in the precondition"),
    "lease-get-404": (ObjectNotFound, 'leases.coordination.k8s.io "stackd-default" not found'),
    "lease-patch-409": (PreconditionFailed, "the object has been modified"),
    "lease-update-400-name": (ClusterUnavailable, "does not match the name on the URL"),
    "lease-update-409": (PreconditionFailed, "the object has been modified"),
    "lease-update-409-gone": (PreconditionFailed, "UID in precondition"),
    "lease-update-409-uid": (PreconditionFailed, "UID in precondition"),
    "lease-update-422-no-version": (ClusterUnavailable, "must be specified for an update"),
    "pod-create-400-strict": (
        InvalidPodSpec,
        'invalid pod spec: strict decoding error: unknown field "spec.containers[0].imagePulPolicy"',
    ),
    "pod-create-400-type": (InvalidPodSpec, "invalid pod spec: json: cannot unmarshal string into Go struct field"),
    "pod-create-403-limitrange-max": (
        LimitRangeViolation,
        "LimitRange: maximum cpu usage per Container is 500m, but limit is 2",
    ),
    "pod-create-403-limitrange-max-two": (
        LimitRangeViolation,
        "LimitRange: maximum memory usage per Container is 512Mi, but limit is 8Gi, "
        "maximum cpu usage per Container is 500m, but limit is 2",
    ),
    "pod-create-403-limitrange-min": (
        LimitRangeViolation,
        "LimitRange: minimum cpu usage per Container is 10m, but request is 1m, "
        "minimum memory usage per Container is 4Mi, but request is 1Mi",
    ),
    "pod-create-403-podsecurity": (
        InvalidPodSpec,
        'invalid pod spec: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true), '
        'hostPort (container "app" uses hostPort 80)',
    ),
    "pod-create-403-quota": (
        QuotaExceeded,
        "ResourceQuota stacks-resource-quota: requested: limits.cpu=5,requests.cpu=5, "
        "used: limits.cpu=64200m,requests.cpu=64200m, limited: limits.cpu=1,requests.cpu=1",
    ),
    "pod-create-403-quota-must-specify": (
        QuotaExceeded,
        "ResourceQuota stacks-resource-quota: must specify limits.cpu for: app; limits.memory for: app; "
        "requests.cpu for: app; requests.memory for: app",
    ),
    "pod-create-403-rbac": (
        ClusterRefused,
        f"{REJECTED}: it has no right to create pods (create pods in namespace rec)",
    ),
    "pod-create-403-terminating": (
        ClusterUnavailable,
        "cannot process this now (retry): unable to create new content in namespace rec because it is being terminated",
    ),
    "pod-create-404-namespace": (ClusterUnavailable, "the namespace rec does not exist"),
    "pod-create-409": (ObjectExists, 'pods "ok" already exists'),
    "pod-create-422-image": (InvalidPodSpec, "invalid pod spec: spec.containers[0].image: Required value"),
    "pod-create-422-name": (InvalidPodSpec, 'invalid pod spec: metadata.name: Invalid value: "Bad_Name": a lowercase'),
    "pod-delete-404": (ObjectNotFound, 'pods "ok" not found'),
    "pod-delete-409-uid": (PreconditionFailed, "the UID in the precondition"),
    "pod-get-404": (ObjectNotFound, 'pods "none" not found'),
    "pod-log-400-not-started": (Conflict, 'container "app" in pod "badimage" is waiting to start: trying and failing'),
    "pod-log-404-kubelet": (Conflict, "p1: its node has no log of it"),
    "pod-log-404-node": (Conflict, "p3: its node has no log of it"),
    "pod-log-500-kubelet-away": (
        ClusterUnavailable,
        "the log of p2 cannot be read: its node does not answer: dial tcp 127.0.0.9:10250: connect: connection refused",
    ),
    "pod-patch-422-uid": (PreconditionFailed, "metadata.uid: Invalid value"),
    "pods-list-401": (
        ClusterRefused,
        f"{REJECTED}: its credentials are not accepted (401) (list pods in namespace rec)",
    ),
    "pods-list-403-rbac": (
        ClusterRefused,
        f"{REJECTED}: it has no right to list pods",
    ),
    "service-create-403-quota-nodeports": (
        QuotaExceeded,
        "ResourceQuota stacks-resource-quota: requested: services.nodeports=1, used: services.nodeports=2, "
        "limited: services.nodeports=2",
    ),
    "service-create-409": (ObjectExists, 'services "svc-ok" already exists'),
    "service-create-422-port-allocated": (NodePortTaken, "node port 31900: provided port is already allocated"),
    "service-create-422-port-range": (NodePortOutOfRange, "The range of valid ports is 30000-32767"),
    "service-create-udp-same-port": (NodePortTaken, "node port 31900: provided port is already allocated"),
    "service-delete-404": (ObjectNotFound, 'services "svc-ok" not found'),
    "token-request-403-rbac": (
        ClusterRefused,
        f"{REJECTED}: it has no right to create serviceaccounts/token",
    ),
    "token-request-404": (ObjectNotFound, 'serviceaccounts "nobody" not found'),
    "token-request-422": (ClusterUnavailable, "may not specify a duration less than 10 minutes"),
}


def refusal(code: int, reason: str, message: str, **details: Any) -> KubeResponse:
    return KubeResponse(status=code, body=json.dumps(status(code, reason, message, **details)).encode())


CREATE_POD = KubeRequest(verb="create", resource="pods", namespace="rec")
CREATE_SERVICE = KubeRequest(verb="create", resource="services", namespace="rec")
DELETE_POD = KubeRequest(verb="delete", resource="pods", namespace="rec")


@pytest.mark.parametrize("name", sorted(REFUSALS))
def test_a_recorded_refusal_is_the_right_error(name: str) -> None:
    document = recording(name)
    error = error_of(asked(document), answered(document))
    kind, sentence = REFUSALS[name]
    assert type(error) is kind
    assert sentence in str(error)
    assert "system:serviceaccount" not in str(error)


def test_every_recorded_refusal_is_covered() -> None:
    refused = {name for name in all_recordings() if recording(name).get("response", {}).get("status", 200) >= 400}
    assert refused == set(REFUSALS)


@pytest.mark.parametrize(
    ("name", "port", "span"),
    [
        ("service-create-422-port-allocated", 31900, None),
        ("service-create-422-port-range", 8080, (30000, 32767)),
    ],
)
def test_the_refused_port_is_named_and_the_range_is_learned(name: str, port: int, span: object) -> None:
    error = error_of(asked(recording(name)), answered(recording(name)))
    assert isinstance(error, NodePortTaken | NodePortOutOfRange)
    assert (error.node_port, getattr(error, "cluster", None)) == (port, span)


def test_the_recorded_watch_error_says_that_the_version_expired() -> None:
    raw = recording("watch-410")["events"][0]["object"]
    answer = KubeResponse(status=raw["code"], body=json.dumps(raw).encode())
    assert isinstance(error_of(CREATE_POD, answer), VersionExpired)


def test_the_servers_own_retry_after_is_kept() -> None:
    error = error_of(CREATE_POD, KubeResponse(status=429, body=b"slow down", retry_after=17))
    assert isinstance(error, ClusterOverloaded)
    assert error.retry_after == 17


@pytest.mark.parametrize("name", sorted(REFUSALS.keys() - {"lease-create-500-version"}))
def test_no_recorded_refusal_is_asked_again(name: str) -> None:
    document = recording(name)
    assert not may_repeat(asked(document), answered(document))


def test_a_missing_namespace_is_told_from_a_missing_object() -> None:
    missing, other = recording("pod-create-404-namespace"), recording("pod-get-404")
    assert names_missing_namespace(asked(missing), answered(missing))
    assert not names_missing_namespace(asked(other), answered(other))


def test_only_the_uid_conflict_means_that_ours_is_gone() -> None:
    assert is_other_uid(answered(recording("pod-delete-409-uid")))
    assert not is_other_uid(refusal(409, "Conflict", "the object has been modified"))


FORBIDDEN = 'pods "x" is forbidden: '


@pytest.mark.parametrize(
    ("call", "code", "message", "kind", "again"),
    [
        *((CREATE_POD, code, "etcdserver: request timed out", ClusterUnavailable, True) for code in (500, 502, 503, 504)),
        (CREATE_POD, 403, f"{FORBIDDEN}error looking up service account rec/default: not found", ClusterUnavailable, True),
        (CREATE_POD, 403, f"{FORBIDDEN}status unknown for quota: q, resources: limits.cpu", ClusterUnavailable, True),
        (CREATE_POD, 409, 'Operation cannot be fulfilled on resourcequotas "q": modified', ClusterUnavailable, True),
        (DELETE_POD, 409, 'Operation cannot be fulfilled on resourcequotas "q": modified', PreconditionFailed, False),
        (CREATE_POD, 403, f"{FORBIDDEN}cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000",
         LimitRangeViolation, False),
        (CREATE_POD, 403, f"{FORBIDDEN}maximum memory usage per Pod is 1Gi.  No limit is specified", LimitRangeViolation, False),
        (CREATE_POD, 403, f"{FORBIDDEN}minimum cpu usage per Pod is 10m.  No request is specified", LimitRangeViolation, False),
        (CREATE_POD, 403, 'admission webhook "images.example" denied the request: image not signed', InvalidPodSpec, False),
        (CREATE_POD, 403, f'{FORBIDDEN}pod rejected: RuntimeClass "gvisor" not found', ClusterRefused, False),
        (CREATE_SERVICE, 422, 'Service "x" is invalid: spec.ports: Required value', ClusterUnavailable, False),
        (CREATE_POD, 504, "Too large resource version: 900, current: 12", VersionExpired, False),
    ],
)  # fmt: skip
def test_what_another_refusal_means_and_whether_another_try_may_help(
    call: KubeRequest, code: int, message: str, kind: type[StackdError], again: bool
) -> None:
    answer = refusal(code, "Conflict" if code == 409 else "", message)
    error = error_of(call, answer)
    assert type(error) is kind
    assert may_repeat(call, answer) is again


@pytest.mark.parametrize("body", [b"", b"<html>Bad Gateway</html>", b"[1]", b'"x"', b"\xff\xfe", b'{"details": null}'])
@pytest.mark.parametrize("code", [302, 400, 403, 404, 405, 409, 410, 413, 422, 500, 502])
def test_an_answer_that_is_no_status_object_is_still_an_error(code: int, body: bytes) -> None:
    answer = KubeResponse(status=code, body=body)
    for call in (CREATE_POD, CREATE_SERVICE, DELETE_POD):
        assert isinstance(error_of(call, answer), StackdError)
        may_repeat(call, answer)
        is_other_uid(answer)


def test_a_sentence_is_one_line_and_not_too_long() -> None:
    answer = refusal(403, "Forbidden", 'pods "x" is forbidden: exceeded quota: q, requested: ' + "a\n" * 5000)
    sentence = str(error_of(CREATE_POD, answer))
    assert "\n" not in sentence
    assert len(sentence) <= MESSAGE_LIMIT + 50
