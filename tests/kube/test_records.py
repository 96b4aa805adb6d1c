"""The record on a stack's Service: what a lost file is rebuilt from."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from typing import Any

import pytest

from stackd.kube.manifests import pod_manifest, service_manifest
from stackd.kube.records import POD_DELETED, Unrecoverable, parse_record
from stackd.model import Desired, Route, RoutedPort, Stack, StackStatus
from stackd.podspec.additions import with_values
from tests.kube.samples import STACK

ANNOTATIONS_LIMIT = 256 * 1024
RUNS = replace(STACK, accepted=True, pod_uid="pod-uid", service_uid="service-uid", node_id="dev-worker2")
STOPPED = replace(
    RUNS, desired=Desired.STOPPED, status=StackStatus.STOPPED, pod_uid=None, generation=3, node_public_ip="192.0.2.7"
)
NAMED = RoutedPort(container_port=81, protocol="TCP", route=Route.TLS, host="web-1.example.org:8443")
VALUES = {"FLAG": "flag{s3cret}", "B": "$x"}
FROM_TEMPLATE = replace(RUNS, template="web-1", digest="d" * 64, values=VALUES)


def service_of(stack: Stack, **metadata: Any) -> dict[str, Any]:
    """The Service as the API server would return it."""
    service = service_manifest(stack, "default")
    service["metadata"] |= {"uid": "service-uid"} | metadata
    return service


def pod_of(stack: Stack) -> dict[str, Any]:
    manifest = {"spec": {"containers": [{"name": "app"}]}}
    if stack.values:
        manifest = with_values(manifest, stack.values)
    pod = pod_manifest(stack, manifest, instance="default", node_selector={})
    pod["metadata"]["uid"], pod["spec"]["nodeName"], pod["status"] = "pod-uid", "dev-worker2", {"phase": "Running"}
    return pod


@pytest.mark.parametrize(
    "stack",
    [
        RUNS,
        replace(RUNS, ports=(*RUNS.ports, NAMED)),
        replace(RUNS, generation=2),
        FROM_TEMPLATE,
        replace(FROM_TEMPLATE, unassigned=True),
        STOPPED,
        replace(STOPPED, template="web-1", values=VALUES),
        replace(RUNS, ended=True, pod_uid=None, ports_held=False, status=StackStatus.FAILED, status_reason="Error"),
    ],
)
def test_a_stack_comes_back_from_the_cluster_as_it_was(stack: Stack) -> None:
    pod = None if stack.pod_uid is None else pod_of(stack)
    assert parse_record(service_of(stack), pod) == replace(stack, updated_at=stack.created_at)


def read(service: dict[str, Any], pod: dict[str, Any] | None) -> Stack:
    stack = parse_record(service, pod)
    assert isinstance(stack, Stack)
    return stack


def test_its_end_and_a_replaced_port_are_those_of_the_service() -> None:
    service = service_of(RUNS)
    service["metadata"]["annotations"]["stackd.io/expires-at"] = "2026-02-10T05:02:26.535664Z"
    service["spec"]["ports"][0]["nodePort"] = 31777
    stack = read(service, pod_of(RUNS))
    assert stack.ttl_expires_at == RUNS.ttl_expires_at + 3600 * 10**9
    assert [port.node_port for port in stack.ports] == [31777, 31001]


def test_a_stack_that_is_to_start_comes_back_without_the_pod_before() -> None:
    starting = replace(RUNS, generation=1, pod_uid=None, values=VALUES, template="web-1")
    for pod in (None, pod_of(RUNS)):
        stack = read(service_of(starting), pod)
        assert (stack.pod_uid, stack.status, stack.ended, stack.values) == (None, StackStatus.CREATING, False, VALUES)


@pytest.mark.parametrize("held", [True, False])
def test_a_stack_whose_pod_is_gone_has_ended(held: bool) -> None:
    stack = read(service_of(replace(RUNS, ports_held=held)), None)
    assert (stack.ended, stack.status, stack.status_reason) == (True, StackStatus.STOPPED, POD_DELETED)
    assert (stack.ports_held, stack.ports) == (held, RUNS.ports)


def test_the_values_of_a_running_stack_are_with_its_pod_only() -> None:
    assert "s3cret" not in json.dumps(service_of(FROM_TEMPLATE))
    assert "s3cret" in json.dumps(service_of(replace(FROM_TEMPLATE, desired=Desired.STOPPED, pod_uid=None)))


def test_a_long_text_takes_little_room_and_comes_back() -> None:
    text = "kind: Pod\n" + "".join(f"# line {number}: the same words again\n" for number in range(10_000))
    service = service_of(replace(RUNS, pod_spec=text))
    assert sum(map(len, service["metadata"]["annotations"].values())) < ANNOTATIONS_LIMIT
    assert read(service, pod_of(RUNS)).pod_spec == text
    record = json.loads(service["metadata"]["annotations"]["stackd.io/record"])
    record["pod_spec_deflated"] = base64.b64encode(zlib.compress(b"#" * (17 * 1024 * 1024))).decode()
    service["metadata"]["annotations"]["stackd.io/record"] = json.dumps(record)
    assert isinstance(parse_record(service, pod_of(RUNS)), Unrecoverable)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (None, "it carries no stackd.io/record annotation"),
        ("[]", "cannot be read"),
        ('{"version": 7}', "its record has version 7, not 2"),
        ('{"version": 2, "created_at": "yesterday"}', "cannot be read"),
        ("[" * 5000 + "]" * 5000, "cannot be read"),
    ],
)
def test_a_missing_or_broken_record_never_raises(annotation: str | None, reason: str) -> None:
    notes = {} if annotation is None else {"stackd.io/record": annotation}
    answer = parse_record(service_of(RUNS, annotations=notes), pod_of(RUNS))
    assert isinstance(answer, Unrecoverable)
    assert (answer.name, reason in answer.reason) == (STACK.service_name, True)


@pytest.mark.parametrize(
    "key",
    ["created_at", "ttl_expires_at", "ports", "cpu_milli", "memory_bytes", "labels", "pod_spec", "values", "ended"],
)
def test_no_edit_of_the_annotation_can_make_the_rebuild_fall_over(key: str) -> None:
    values: tuple[object, ...] = (None, [], "x", 7, {"a": []}, [[1]])
    for value in values:
        service = service_of(RUNS)
        notes = service["metadata"]["annotations"]
        notes["stackd.io/record"] = json.dumps(json.loads(notes["stackd.io/record"]) | {key: value})
        assert isinstance(parse_record(service, pod_of(RUNS)), Stack | Unrecoverable)


def test_a_service_that_is_being_deleted_is_not_brought_back() -> None:
    going = parse_record(service_of(RUNS, deletionTimestamp="2026-11-24T22:56:24Z"), pod_of(RUNS))
    assert going == Unrecoverable(name=STACK.service_name, reason="it is being deleted")
