"""What stackd writes into the cluster, and what it reads back: pods, routes and templates."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from stackd.clock import to_nanoseconds
from stackd.config import RoutesSection
from stackd.errors import ClusterUnavailable
from stackd.kube.manifests import pod_manifest, prepull_name, prepull_pod, prepull_spec
from stackd.kube.objects import pod_state
from stackd.kube.routes import route_state, wanted_routes
from stackd.kube.template_maps import DIGEST, KEY, OWNER, SCOPE, template_manifest, template_map
from stackd.lifecycle.prepull import is_pulled
from stackd.model import CLUSTER, Principal, Route, RoutedPort, StoredTemplate
from tests.kube.samples import STACK
from tests.kube.wire import pod, recording
from tests.unit.lifecycle.situations import stack

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


@pytest.mark.parametrize(
    ("name", "done", "reason"),
    [
        ("pod-get-nocmd", True, ""),
        ("pod-get-ok", True, ""),
        ("pod-get-badimage", False, "ImagePullBackOff: "),
        ("pod-get-toobig", False, "not scheduled: 0/"),
    ],
)
def test_an_image_is_pulled_once_the_kubelet_has_it(name: str, done: bool, reason: str) -> None:
    pulling = pod_state(recording(name)["response"]["body"])
    if done:
        assert is_pulled(pulling)
    else:
        with pytest.raises(ClusterUnavailable, match=reason):
            is_pulled(pulling)


def test_a_pull_that_the_kubelet_gave_up_has_failed() -> None:
    metadata = {"name": "prepull-1", "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    assert is_pulled(pod_state({"metadata": metadata, "status": {}})) is None
    failed = {"phase": "Failed", "reason": "DeadlineExceeded", "message": "too long"}
    with pytest.raises(ClusterUnavailable, match="DeadlineExceeded: too long"):
        is_pulled(pod_state({"metadata": metadata, "status": failed}))


def test_the_pod_has_nothing_of_the_tenants() -> None:
    tenant = {"spec": {"containers": [{"name": "a", "env": [{"name": "FLAG", "value": "x"}]}], "volumes": [{}]}}
    pulling = prepull_pod(prepull_spec("nginx:stable", tenant), "stacks", "default", "worker-1")
    spec = pulling["spec"]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["worker-1"]}]}]
    assert not {"nodeName", "volumes"} & spec.keys()
    assert pulling["metadata"]["name"] == prepull_name("default", "worker-1", "nginx:stable")
    assert len({prepull_name(*names) for names in (("a", "b", "c"), ("a", "c", "b"), ("ab", "", "c"))}) == 3


def test_a_pods_disk_is_what_the_scheduler_reserves_for_it() -> None:
    def taking(name: str, storage: str, **more: object) -> dict[str, object]:
        return {"name": name, "resources": {"requests": {"ephemeral-storage": storage}}, **more}

    raw = pod("p")
    raw["spec"]["initContainers"] = [taking("side", "1Gi", restartPolicy="Always"), taking("init", "4Gi")]
    raw["spec"]["containers"] = [taking("a", "1Gi"), taking("b", "2Gi"), {"name": "c"}]
    assert pod_state(raw).ephemeral_bytes == 5 << 30
    raw["spec"]["initContainers"].pop()
    assert pod_state(raw).ephemeral_bytes == 4 << 30
    assert pod_state(pod("q")).ephemeral_bytes == 0


# ---- names: what is stored is what was wanted, and what a Gateway says of it

CONFIG = RoutesSection(domain="example.org", gateway="gateways/public", https_listener="https", tls_listener="tls")
PARENT = {"namespace": "gateways", "name": "public", "sectionName": "https"}
GOOD = {"Accepted": "True", "ResolvedRefs": "True"}


@pytest.mark.parametrize(("route", "kind"), [(Route.HTTPS, "httproute"), (Route.TLS, "tlsroute")])
def test_what_an_api_server_stores_is_what_was_wanted(route: Route, kind: str) -> None:
    port = RoutedPort(container_port=80, protocol="TCP", route=route, host="web-1.example.org")
    (wanted,) = wanted_routes(stack(stack_id="ok", ports=(port,)), CONFIG, "default")
    recorded = recording(f"{kind}-create-201")
    assert (wanted.resource, wanted.manifest["spec"]) == (f"{kind}s", recorded["request"]["body"]["spec"])
    assert route_state(f"{kind}s", recorded["response"]["body"]).content == wanted.content


@pytest.mark.parametrize(
    ("entries", "ready", "reason"),
    [
        ([], False, ""),
        ([(PARENT, GOOD, 2)], True, ""),
        ([(PARENT, GOOD, 1)], False, ""),  # it speaks of an earlier version of the route
        ([(PARENT, {"Accepted": "True"}, 2)], False, ""),
        ([(PARENT, GOOD | {"ResolvedRefs": "False"}, 2)], False, "BecauseResolvedRefs"),
        ([(PARENT | {"sectionName": "other"}, GOOD, 2)], False, ""),
        ([(PARENT | {"name": "other"}, {"Accepted": "False"}, 2), (PARENT, GOOD, 2)], True, ""),
        ([(PARENT, GOOD, 2), (PARENT, {"Accepted": "False"}, 2)], False, "BecauseAccepted"),  # another controller
    ],
)
def test_what_the_gateway_says(entries: list[tuple[Any, dict[str, str], int]], ready: bool, reason: str) -> None:
    raw = recording("httproute-create-201")["response"]["body"]
    raw["metadata"]["generation"] = 2
    raw["status"] = {
        "parents": [
            {
                "parentRef": parent,
                "conditions": [
                    {"type": kind, "status": status, "reason": f"Because{kind}", "observedGeneration": generation}
                    for kind, status in said.items()
                ],
            }
            for parent, said, generation in entries
        ]
    }
    state = route_state("httproutes", raw)
    assert (state.ready, state.reason) == (ready, reason)


# ---- the ConfigMaps of templates: what stackd takes for its own

TEXT = "title: Cookie jar\n"
STORED = StoredTemplate(
    name="web-1", text=TEXT, by=Principal(id="key:1f2e", name="ci"), tenant=True, at=1_795_560_959_000_000_123
)
SERVER = {"uid": "u-1", "resourceVersion": "7", "creationTimestamp": "2026-11-25T01:02:03Z"}
BY_OTHERS: dict[str, Any] = {"by": CLUSTER, "source": "cluster", "at": to_nanoseconds("2026-11-25T03:33:20Z")}


def config_map(**metadata: Any) -> dict[str, Any]:
    made = template_manifest(STORED, namespace="stacks", instance="blue")
    return {**made, "metadata": made["metadata"] | SERVER | metadata}


def test_what_stackd_writes_it_reads_back_as_its_own() -> None:
    raw = config_map()
    assert (raw["kind"], raw["metadata"]["name"]) == ("ConfigMap", "stackd-blue-web-1")
    assert raw["metadata"]["labels"] == {"stackd.io/template": "web-1", "stackd.io/instance": "blue"}
    state = template_map(raw)
    assert (state.stored, state.is_ours, state.instance, state.mistake) == (STORED, True, "blue", "")


@pytest.mark.parametrize("gone", [DIGEST, OWNER, SCOPE, "stackd.io/written-at"])
def test_without_all_of_the_annotations_it_is_somebody_elses(gone: str) -> None:
    raw = config_map(managedFields=[{"time": "2026-11-25T02:02:03Z"}, {"time": "2026-11-25T03:33:20Z"}])
    del raw["metadata"]["annotations"][gone]
    state = template_map(raw)
    assert (state.is_ours, state.stored) == (False, replace(STORED, **BY_OTHERS))


def test_with_another_text_than_stackd_wrote_it_is_somebody_elses() -> None:
    raw = config_map() | {"data": {KEY: TEXT + "pool: 9\n"}}
    state = template_map(raw)
    assert state.stored is not None
    assert (state.is_ours, state.stored.tenant, state.stored.source) == (False, True, "cluster")
