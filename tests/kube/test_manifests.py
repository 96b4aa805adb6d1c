from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stackd.errors import ClusterUnavailable
from stackd.kube.manifests import pod_manifest, prepull_name, prepull_pod, prepull_spec, service_manifest
from stackd.kube.objects import pod_state
from stackd.kube.records import service_annotations
from stackd.lifecycle.prepull import is_pulled
from tests.kube.samples import STACK
from tests.kube.wire import recording

CONTAINERS = [{"name": "app", "image": "nginx:stable"}]
OURS = {
    "label.stackd.io/team": "7",
    "app.kubernetes.io/managed-by": "stackd",
    "stackd.io/instance": "blue",
    "stackd.io/stack": "stack-716b6384dd477b0b",
}


def test_the_pod_carries_names_labels_generation_and_placement() -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "challenge",
            "labels": {"app": "web", "stackd.io/stack": "stack-0", "team": "x", "label.stackd.io/seat": "1"},
            "annotations": {"example.org/note": "hello", "stackd.io/record": "{}", "stackd.io/generation": "9"},
        },
        "spec": {"containers": CONTAINERS, "nodeSelector": {"disk": "ssd", "role": "control-plane"}},
        "status": {},
    }
    before = json.dumps(manifest)
    assert pod_manifest(STACK, manifest, instance="blue", node_selector={"role": "stack"}) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "stack-716b6384dd477b0b",
            "namespace": "stacks",
            "labels": {"app": "web", "team": "x", **OURS},
            "annotations": {"example.org/note": "hello", "stackd.io/generation": "0"},
        },
        "spec": {"containers": CONTAINERS, "nodeSelector": {"disk": "ssd", "role": "stack"}},
    }
    assert json.dumps(manifest) == before, "the tenant's manifest was changed"
    bare = pod_manifest(STACK, {"spec": {"containers": CONTAINERS}}, instance="blue", node_selector={})
    assert bare["spec"] == {"containers": CONTAINERS}


def test_the_service_publishes_the_ports_and_carries_the_record() -> None:
    assert service_manifest(STACK, "blue") == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "svc-stack-716b6384dd477b0b",
            "namespace": "stacks",
            "labels": OURS,
            "annotations": service_annotations(STACK),
        },
        "spec": {
            "type": "NodePort",
            "selector": {"stackd.io/stack": "stack-716b6384dd477b0b"},
            "ports": [
                {"name": "p-80-tcp", "protocol": "TCP", "port": 80, "targetPort": 80, "nodePort": 31538},
                {"name": "p-53-udp", "protocol": "UDP", "port": 53, "targetPort": 53, "nodePort": 31001},
            ],
        },
    }
    ended = service_manifest(replace(STACK, ended=True, ports_held=False), "blue")["spec"]
    assert (ended["type"], [port for port in ended["ports"] if "nodePort" in port]) == ("ClusterIP", [])


@pytest.mark.parametrize(
    ("name", "done", "reason"),
    [
        ("pod-get-nocmd", True, ""),
        ("pod-get-ok", True, ""),
        ("pod-get-exit0", True, ""),
        ("pod-get-badimage", False, "ImagePullBackOff: "),
        ("pod-get-invalidimage", False, "InvalidImageName: "),
        ("pod-get-toobig", False, "not scheduled: 0/"),
        ("pod-get-nosecret", True, ""),
    ],
)
def test_an_image_is_pulled_once_the_kubelet_has_it(name: str, done: bool, reason: str) -> None:
    pod = pod_state(recording(name)["response"]["body"])
    if done:
        assert is_pulled(pod)
    else:
        with pytest.raises(ClusterUnavailable, match=reason):
            is_pulled(pod)


def test_a_pull_that_the_kubelet_gave_up_has_failed() -> None:
    metadata = {"name": "prepull-1", "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    waiting = {"containerStatuses": [{"name": "prepull", "state": {"waiting": {"reason": "ContainerCreating"}}}]}
    for status in ({}, waiting):
        assert is_pulled(pod_state({"metadata": metadata, "status": status})) is None
    failed = {"phase": "Failed", "reason": "DeadlineExceeded", "message": "too long"}
    with pytest.raises(ClusterUnavailable, match="DeadlineExceeded: too long"):
        is_pulled(pod_state({"metadata": metadata, "status": failed}))


def test_the_pod_has_nothing_of_the_tenants() -> None:
    tenant = {"spec": {"containers": [{"name": "a", "env": [{"name": "FLAG", "value": "x"}]}], "volumes": [{}]}}
    pod = prepull_pod(prepull_spec("nginx:stable", tenant), "stacks", "default", "worker-1")
    spec = pod["spec"]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["worker-1"]}]}]
    assert not {"nodeName", "volumes"} & spec.keys()
    assert (spec["restartPolicy"], spec["activeDeadlineSeconds"]) == ("Never", 1800)
    assert pod["metadata"]["name"] == prepull_name("default", "worker-1", "nginx:stable")
    assert len({prepull_name(*names) for names in (("a", "b", "c"), ("a", "c", "b"), ("ab", "", "c"))}) == 3
