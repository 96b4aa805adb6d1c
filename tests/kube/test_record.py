from __future__ import annotations

import dataclasses
import json
import random
from typing import Any

import pytest

from stackd.kube.manifests import PodRequest, ServiceRequest, pod_manifest, service_manifest
from stackd.kube.record import Unrecoverable, parse_record, record_annotation
from stackd.model import PortMapping, Stack, StackStatus
from tests.kube.test_manifests import STACK

ANNOTATIONS_LIMIT = 256 * 1024


def objects_of(stack: Stack) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod and the service as the API server would show them."""
    pod = pod_manifest(PodRequest(stack=stack, manifest={"spec": {}}, instance="default", node_selector={}))
    service = service_manifest(ServiceRequest(stack=stack, instance="default", pod_uid="pod-uid"))
    pod["metadata"]["uid"], service["metadata"]["uid"] = "pod-uid", "service-uid"
    pod["spec"]["nodeName"] = "dev-worker2"
    pod["status"] = {"phase": "Running"}
    return pod, service


def rebuilt(stack: Stack) -> Stack:
    return dataclasses.replace(
        stack,
        updated_at=stack.created_at,
        node_id="dev-worker2",
        accepted=True,
        pod_uid="pod-uid",
        service_uid="service-uid",
    )


def test_a_stack_comes_back_from_the_cluster_as_it_was() -> None:
    assert parse_record(*objects_of(STACK)) == rebuilt(STACK)


def test_a_restarted_and_extended_stack_comes_back_with_its_pod_s_number_and_its_new_end() -> None:
    second = dataclasses.replace(STACK, generation=2)
    pod, service = objects_of(second)
    later = dataclasses.replace(second, ttl_expires_at=STACK.ttl_expires_at + 3600 * 10**9)
    pod["metadata"]["annotations"]["stackd.io/expires-at"] = "2026-02-10T05:02:26.535664Z"
    assert parse_record(pod, service) == rebuilt(later)


def test_the_services_node_ports_win_over_the_pods_record() -> None:
    moved = dataclasses.replace(STACK, ports=(PortMapping(container_port=80, protocol="TCP", node_port=30005),))
    single = dataclasses.replace(STACK, ports=(PortMapping(container_port=80, protocol="TCP", node_port=31538),))
    pod, service = objects_of(single)[0], objects_of(moved)[1]
    stack = parse_record(pod, service)
    assert isinstance(stack, Stack)
    assert stack.ports == moved.ports


def test_a_running_pod_without_its_service_still_holds_its_ports() -> None:
    stack = parse_record(objects_of(STACK)[0], None)
    assert isinstance(stack, Stack)
    assert stack.ports == STACK.ports
    assert (stack.ports_held, stack.ended, stack.service_uid) == (True, False, None)


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_a_pod_that_has_ended_and_given_its_service_back_holds_no_ports(phase: str) -> None:
    pod = objects_of(STACK)[0]
    pod["status"]["phase"] = phase
    stack = parse_record(pod, None)
    assert isinstance(stack, Stack)
    assert (stack.ports_held, stack.ended, stack.status) == (False, True, StackStatus.CREATING)
    assert stack.ports == STACK.ports


def test_the_longest_text_that_the_api_accepts_fits_and_comes_back() -> None:
    rng = random.Random(1)
    lines = [f"    - name: VARIABLE_{number}\n      value: '{rng.random():.3f}'\n" for number in range(20_000)]
    long = dataclasses.replace(STACK, pod_spec="".join(lines)[: 1024 * 1024])
    assert len(record_annotation(long)) < ANNOTATIONS_LIMIT
    assert parse_record(*objects_of(long)) == rebuilt(long)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (None, "it carries no stackd.io/record annotation"),
        ("", "it carries no stackd.io/record annotation"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ("{}", "cannot be read: KeyError"),
        ('{"version": 7}', "its record has version 7, not 1"),
        ('{"version": 1, "created_at": "yesterday"}', "cannot be read"),
    ],
)
def test_a_record_that_is_missing_or_broken_is_named_and_never_raises(annotation: str | None, reason: str) -> None:
    pod = objects_of(STACK)[0]
    pod["metadata"]["annotations"] = {} if annotation is None else {"stackd.io/record": annotation}
    answer = parse_record(pod, None)
    assert isinstance(answer, Unrecoverable)
    assert answer.name == STACK.stack_id
    assert reason in answer.reason


@pytest.mark.parametrize(
    "key", ["created_at", "ttl_expires_at", "ports", "cpu_milli", "memory_bytes", "labels", "pod_spec"]
)
@pytest.mark.parametrize("value", [None, [], "x", 7, {"a": []}, [[1]]])
def test_no_edit_of_the_annotation_can_make_the_rebuild_fall_over(key: str, value: object) -> None:
    pod = objects_of(STACK)[0]
    record = json.loads(pod["metadata"]["annotations"]["stackd.io/record"])
    pod["metadata"]["annotations"]["stackd.io/record"] = json.dumps(record | {key: value})
    assert isinstance(parse_record(pod, None), Stack | Unrecoverable)


def test_a_pod_that_is_being_deleted_is_not_brought_back() -> None:
    pod = objects_of(STACK)[0]
    pod["metadata"]["deletionTimestamp"] = "2026-11-24T22:56:24Z"
    assert parse_record(pod, None) == Unrecoverable(name=STACK.stack_id, reason="it is being deleted")
