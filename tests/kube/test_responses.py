from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stackd.errors import (
    ClusterOverloaded,
    ClusterRefused,
    ClusterUnavailable,
    InvalidPodSpec,
    LimitRangeViolation,
    NodePortOutOfRange,
    NodePortTaken,
    PreconditionFailed,
    StackdError,
    VersionExpired,
)
from stackd.kube.responses import MESSAGE_LIMIT, error_of, is_other_uid, may_repeat, names_missing_namespace
from stackd.kube.wire import KubeRequest, KubeResponse
from tests.kube.wire import all_recordings, answered, asked, recording, status

REFUSALS: dict[str, dict[str, str]] = yaml.safe_load(Path(__file__).with_name("refusals.yaml").read_text())


def refusal(code: int, reason: str, message: str, **details: Any) -> KubeResponse:
    return KubeResponse(status=code, body=json.dumps(status(code, reason, message, **details)).encode())


CREATE_POD = KubeRequest(verb="create", resource="pods", namespace="rec")
CREATE_SERVICE = KubeRequest(verb="create", resource="services", namespace="rec")
DELETE_POD = KubeRequest(verb="delete", resource="pods", namespace="rec")


@pytest.mark.parametrize("name", sorted(REFUSALS))
def test_a_recorded_refusal_is_the_right_error(name: str) -> None:
    document = recording(name)
    error = error_of(asked(document), answered(document))
    assert {"error": type(error).__name__, "says": str(error)} == REFUSALS[name]
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
