from __future__ import annotations

import base64
import dataclasses
import json
import random
import zlib
from typing import Any

import pytest

from stackd.embedded import EmbeddedCluster
from stackd.errors import ObjectExists
from stackd.kube.client import Cluster
from stackd.kube.manifests import PodRequest, ServiceRequest, pod_manifest, service_manifest
from stackd.kube.records import Unrecoverable, parse_record, parse_stopped, record_annotation, stopped_manifest
from stackd.model import Desired, PortMapping, Stack, StackStatus
from stackd.podspec.additions import with_values
from tests.kube.test_embedded import stack
from tests.kube.test_lease import embedded, real
from tests.kube.test_manifests import STACK

ANNOTATIONS_LIMIT = 256 * 1024


def objects_of(stack: Stack) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod and the Service as the API server would return them."""
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


FROM_TEMPLATE = dataclasses.replace(
    STACK, template="web-1", digest="d" * 64, values={"FLAG": "flag{s3cret}", "B": "$x"}, unassigned=True
)


def from_template() -> tuple[dict[str, Any], dict[str, Any]]:
    manifest = with_values({"spec": {"containers": [{"name": "app"}]}}, FROM_TEMPLATE.values)
    pod, service = objects_of(FROM_TEMPLATE)
    return pod | {"spec": manifest["spec"] | pod["spec"]}, service


def test_a_stack_of_a_template_comes_back_with_the_values_that_its_pod_holds() -> None:
    pod, service = from_template()
    assert parse_record(pod, service) == rebuilt(FROM_TEMPLATE)
    assert "s3cret" not in json.dumps(pod["metadata"])


def test_a_stack_whose_pod_lacks_one_of_its_values_does_not_come_back_without_it() -> None:
    pod, service = from_template()
    del pod["spec"]["containers"][0]["env"][0]
    found = parse_record(pod, service)
    assert isinstance(found, Unrecoverable)
    assert found.reason == "its record cannot be read: KeyError: 'FLAG'"


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


def test_what_a_watcher_reads_of_a_text_that_is_not_short_is_a_part_of_it() -> None:
    lines = "".join(f"    - name: VARIABLE_{number}\n      value: 'number {number}'\n" for number in range(1_500))
    for size in (2_049, 8_192, 64 << 10):
        stack = dataclasses.replace(STACK, pod_spec=lines[:size])
        assert len(record_annotation(stack)) < max(1_024, size // 4)
        assert parse_record(*objects_of(stack)) == rebuilt(stack)


def test_a_text_that_cannot_be_packed_is_carried_as_it_is() -> None:
    rng = random.Random(2)
    noise = "".join(rng.choices([chr(code) for code in range(0x20, 0x7F)], k=64 << 10))
    stack = dataclasses.replace(STACK, pod_spec=noise)
    assert json.loads(record_annotation(stack))["pod_spec"] == noise
    assert parse_record(*objects_of(stack)) == rebuilt(stack)


@pytest.mark.parametrize("packed", [zlib.compress(b"x" * (17 << 20)), zlib.compress(b"x" * 9000)[:-8], b""])
def test_a_packed_text_that_is_cut_or_without_end_is_named(packed: bytes) -> None:
    pod = objects_of(STACK)[0]
    record = json.loads(pod["metadata"]["annotations"]["stackd.io/record"])
    del record["pod_spec"]
    record["pod_spec_deflated"] = base64.b64encode(packed).decode()
    pod["metadata"]["annotations"]["stackd.io/record"] = json.dumps(record)
    answer = parse_record(pod, None)
    assert isinstance(answer, Unrecoverable)
    assert "cut short, or longer than" in answer.reason


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


__all__ = ["embedded", "real"]

STOPPED = dataclasses.replace(
    stack(1), desired=Desired.STOPPED, status=StackStatus.STOPPED, generation=3, labels={"player": "7"}, accepted=True
)


def stored(**metadata: object) -> dict[str, object]:
    manifest = stopped_manifest(STOPPED, "default")
    return manifest | {"metadata": manifest["metadata"] | {"uid": "u", "resourceVersion": "5"} | metadata}


def test_the_stack_comes_back_at_rest_with_its_ports_its_end_and_its_generation() -> None:
    found = parse_stopped(stored())
    assert not isinstance(found, Unrecoverable)
    assert found == dataclasses.replace(STOPPED, updated_at=STOPPED.created_at)
    assert found.at_rest
    assert found.ports_held


def test_its_generated_values_come_back_too() -> None:
    stopped = dataclasses.replace(STOPPED, template="web-1", values={"FLAG": "flag{$x}"})
    manifest = stopped_manifest(stopped, "default")
    found = parse_stopped(manifest | {"metadata": manifest["metadata"] | {"uid": "u"}})
    assert found == dataclasses.replace(stopped, updated_at=STOPPED.created_at)
    assert "data" not in stopped_manifest(STOPPED, "default")
    broken = parse_stopped(manifest | {"data": {"values": "[]"}})
    assert isinstance(broken, Unrecoverable)
    assert broken.reason.startswith("its values cannot be read")


def test_a_later_end_counts() -> None:
    annotations = stopped_manifest(STOPPED, "default")["metadata"]["annotations"]
    found = parse_stopped(stored(annotations=annotations | {"stackd.io/expires-at": "2026-02-11T00:00:00Z"}))
    assert not isinstance(found, Unrecoverable)
    assert found.ttl_expires_at == 1_770_768_000_000_000_000


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"annotations": {}}, "it carries no stackd.io/record annotation"),
        ({"annotations": {"stackd.io/record": "{"}}, "its record cannot be read"),
        ({"deletionTimestamp": "2026-02-11T00:00:00Z"}, "it is being deleted"),
    ],
)
def test_what_cannot_be_read_or_is_going_says_so(change: dict[str, object], reason: str) -> None:
    found = parse_stopped(stored(**change))
    assert isinstance(found, Unrecoverable)
    assert found.reason.startswith(reason)


@pytest.mark.parametrize("action", ["lost_reply", "cut"])
async def test_there_is_one_whatever_happens_to_the_answer(
    embedded: EmbeddedCluster, real: Cluster, action: str
) -> None:
    embedded.faults.add_fault(action=action, verb="create", resource="configmaps", count=1)
    manifest = stopped_manifest(STOPPED, "default")
    made = await real.create_stopped(manifest)
    assert (made.name, made.stack_id, made.instance, made.going) == (
        STOPPED.stack_id,
        STOPPED.stack_id,
        "default",
        False,
    )
    assert await real.create_stopped(manifest) == made
    other = stopped_manifest(dataclasses.replace(STOPPED, generation=4), "default")
    with pytest.raises(ObjectExists):
        await real.create_stopped(other)
    listed = [parse_stopped(raw) for raw in await real.list_raw("configmaps")]
    assert [getattr(one, "stack_id", None) for one in listed] == [STOPPED.stack_id]


async def test_only_that_very_one_is_deleted(real: Cluster) -> None:
    made = await real.create_stopped(stopped_manifest(STOPPED, "default"))
    await real.delete_stopped(made.name, "another")
    assert len(await real.list_raw("configmaps")) == 1
    await real.delete_stopped(made.name)
    assert await real.list_raw("configmaps") == []
    await real.delete_stopped(made.name, made.uid)
