"""Whatever is sent, what is admitted is safe: pods generated from the client's typed models, most of them nearly valid."""

from __future__ import annotations

import copy
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from kubernetes.aio.client.models.v1_pod import V1Pod

from stackd.embedded.validation import security_violation
from stackd.errors import InvalidPodSpec, InvalidRequest
from stackd.model import SanitizedSpec, TargetPort
from stackd.podspec import Policy, harden, parse_target_ports, sanitize
from stackd.podspec.fields import MODELS, Field
from tests.unit.podspec.specs import DEFAULT_POLICY, HTTP, container, seed, with_volume

RESTRICTED = Policy(profile="restricted")
GENEROUS = Policy(
    secrets=("**",),
    config_maps=("**",),
    volume_claims=("**",),
    csi_drivers=("**",),
    extended_resources=("**",),
    pull_secrets=("**",),
    add_capabilities=("CHOWN", "NET_BIND_SERVICE"),
    run_as_user=True,
    empty_dir_memory=True,
)
GENEROUS_RESTRICTED = Policy(
    profile="restricted", run_as_user=True, add_capabilities=("NET_BIND_SERVICE",), secrets=("**",)
)

NAMES = st.sampled_from(["a", "b", "app", "side-car", "v", "w"])
WORDS = st.sampled_from(
    ["", "a", "Always", "RuntimeDefault", "/x", "TCP", "10.0.0.1", "kube-system", "1", "yes", "x: y"]
)
CPU = st.sampled_from(["100m", "1", 0.5, 2, "1500m", "0.0005", "1e1"])
MEMORY = st.sampled_from(["1Mi", "128Mi", "1.5Gi", 1e6, 4096, "100k", "0.5Ki"])
AMOUNTS: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {"cpu": CPU, "memory": MEMORY}, optional={"ephemeral-storage": MEMORY}
)
PORTS: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {"containerPort": st.integers(1, 90)}, optional={"protocol": st.sampled_from(["TCP", "UDP"])}
)
DOWNWARD = st.sampled_from(["metadata.name", "metadata.namespace", "status.hostIP", "metadata.labels['a']"]).map(
    lambda path: {"fieldRef": {"fieldPath": path}}
)
ENV: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries({"name": NAMES, "value": WORDS}),
    st.fixed_dictionaries({"name": NAMES, "valueFrom": DOWNWARD}),
)
ACTIONS: st.SearchStrategy[Any] = st.sampled_from(
    [{"exec": {"command": ["true"]}}, {"httpGet": {"port": 80, "path": "/"}}, {"tcpSocket": {"port": "web"}}]
)
CONTAINERS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "name": NAMES,
        "image": st.sampled_from(["nginx:stable", "b:1"]),
        "resources": st.fixed_dictionaries({"limits": AMOUNTS}),
    },
    optional={
        "ports": st.lists(PORTS, max_size=2, unique_by=lambda port: port["containerPort"]),
        "env": st.lists(ENV, max_size=2),
        "args": st.lists(st.text("ab\n: #'\"é🚩\x1b", max_size=5), max_size=3),
        "readinessProbe": ACTIONS,
        "tty": st.booleans(),
        "workingDir": WORDS,
        "volumeMounts": st.just([{"name": "v", "mountPath": "/v"}]),
    },
)
SOURCES: list[dict[str, Any]] = [
    {"emptyDir": {}}, {"emptyDir": {"sizeLimit": "0.5Gi"}},
    {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    {"secret": {"secretName": "s"}}, {"configMap": {"name": "s"}},
]  # fmt: skip
VOLUMES = st.sampled_from(SOURCES).map(lambda source: {"name": "v", **source})
SPECS: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {
        "containers": st.lists(CONTAINERS, min_size=1, max_size=3, unique_by=lambda one: one["name"]),
        "volumes": st.lists(VOLUMES, min_size=1, max_size=1),
    },
    optional={
        "initContainers": st.lists(
            st.tuples(CONTAINERS, st.booleans()).map(
                lambda pair: {
                    **pair[0],
                    "name": "i-" + pair[0]["name"],
                    **({"restartPolicy": "Always"} if pair[1] else {}),
                }
            ),
            max_size=3,
            unique_by=lambda one: one["name"],
        ),
        "nodeSelector": st.dictionaries(NAMES, NAMES, max_size=2),
        "hostname": NAMES,
        "terminationGracePeriodSeconds": st.integers(0, 60),
    },
)


def values(field: Field, depth: int) -> st.SearchStrategy[Any]:
    """Values of a field's type; ``depth`` limits how deeply objects are nested."""
    one = objects(field.model, depth)
    return {
        "string": WORDS,
        "integer": st.sampled_from([0, 1, 80, -1, 2**40]),
        "boolean": st.booleans(),
        "integer or string": st.sampled_from([80, "web", 0]),
        "strings": st.lists(WORDS, max_size=2),
        "map": st.dictionaries(WORDS, WORDS, max_size=2),
        "object": one,
        "objects": st.lists(one, max_size=2),
        "other": WORDS,
    }[field.kind]


@st.composite
def objects(draw: st.DrawFn, model: str, depth: int) -> dict[str, Any]:
    """Objects of a model, with up to three of its fields; an object that is never accepted is empty."""
    fields = MODELS.get(model, {})
    names = draw(st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True)) if depth and fields else []
    return {name: draw(values(fields[name], depth - 1)) for name in names}


def places(value: dict[str, Any], model: str) -> list[tuple[dict[str, Any], str]]:
    """Every object of the pod, with its model."""
    found = [(value, model)]
    for name, inner in value.items():
        if field_model := MODELS[model][name].model:
            for one in inner if isinstance(inner, list) else [inner]:
                found += places(one, field_model)
    return found


@st.composite
def pods(draw: st.DrawFn) -> dict[str, Any]:
    """Valid pods in which up to two fields, anywhere, got a random value of their type."""
    pod = copy.deepcopy({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": draw(SPECS)})
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        owner, model = draw(st.sampled_from(places(pod, "Pod")))
        name = draw(st.sampled_from(sorted(MODELS[model])))
        owner[name] = draw(values(MODELS[model][name], 3))
    return pod


def admit(pod: dict[str, Any], policy: Policy) -> SanitizedSpec | None:
    declared = [port for one in pod["spec"].get("containers") or [] for port in one.get("ports") or []]
    ports = tuple(
        TargetPort(container_port=port.get("containerPort", 80), protocol=port.get("protocol", "TCP"))
        for port in declared[:1]
    )
    try:
        spec = sanitize(json.dumps(pod), ports, policy)
    except InvalidPodSpec as refused:
        event(f"refused: {len(refused.reasons)}")
        return None
    event("admitted")
    assert sanitize(spec.text, ports, policy) == spec, "sanitizing twice changes something"
    return spec


def amount(text: str) -> Fraction:
    suffixes = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 10**3, "M": 10**6, "G": 10**9}
    for suffix, factor in suffixes.items():
        if text.endswith(suffix):
            return Fraction(text.removesuffix(suffix)) * factor
    return Fraction(text.removesuffix("m")) / 1000 if text.endswith("m") else Fraction(text)


def effective(spec: dict[str, Any], resource: str) -> Fraction:
    """What the scheduler reserves: the highest sum of requests at any moment of the pod's life."""
    moments, beside = [], Fraction(0)
    for one in spec.get("initContainers", []):
        own = amount(one["resources"]["requests"][resource])
        moments.append(beside + own)
        if one.get("restartPolicy") == "Always":
            beside += own
    moments.append(beside + sum(amount(one["resources"]["requests"][resource]) for one in spec["containers"]))
    return max(moments)


def check_isolation(pod: dict[str, Any]) -> None:
    """Check that the pod has no host access and no other namespace, under any policy."""
    spec, text = pod["spec"], json.dumps(pod)
    assert "namespace" not in pod["metadata"]
    for word in ("hostNetwork", "hostPID", "hostPath", "hostPort", "hostIP", "hostAliases", "nodeName", "nfs", "iscsi",
                 "serviceAccount", "serviceAccountName", "serviceAccountToken", "ephemeralContainers", "affinity",
                 "tolerations", "volumeDevices", "sysctls", "procMount", "seLinuxOptions", "windowsOptions", "host"):  # fmt: skip
        assert f'"{word}": ' not in text
    assert not spec.get("hostUsers")
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
    for volume in spec.get("volumes", []):
        assert volume.get("emptyDir", {"sizeLimit": "1"}).get("sizeLimit")


def check_no_credentials(pod: dict[str, Any]) -> None:
    """Check that the pod uses none of the namespace's Secrets, ConfigMaps or claims, by default."""
    for word in ("secret", "Secret", "configMap", "persistentVolumeClaim", "csi", "envFrom"):
        assert f'"{word}' not in json.dumps(pod)


def check(asked: dict[str, Any], policy: Policy, spec: SanitizedSpec) -> None:
    manifest: dict[str, Any] = dict(spec.manifest)
    V1Pod.model_validate(manifest)
    assert yaml.safe_load(spec.text) == {**manifest, "kind": asked["kind"], "status": {}}
    assert spec.requested_cpu_milli == effective(manifest["spec"], "cpu") * 1000
    assert spec.requested_memory_bytes == effective(manifest["spec"], "memory")
    check_isolation(manifest)
    enforced = {"pod-security.kubernetes.io/enforce": policy.profile}
    for pod in (manifest, harden(manifest, policy)):
        assert security_violation(pod, enforced) is None


@settings(max_examples=250, deadline=None)
@given(pods())
@example(seed())
def test_what_is_admitted_by_default_reaches_nothing_beyond_its_stack(pod: dict[str, Any]) -> None:
    spec = admit(pod, DEFAULT_POLICY)
    if spec is not None:
        check(pod, DEFAULT_POLICY, spec)
        check_no_credentials(dict(spec.manifest))


@settings(max_examples=150, deadline=None)
@given(pods(), st.sampled_from([GENEROUS, RESTRICTED, GENEROUS_RESTRICTED]))
@example(container(securityContext={"capabilities": {"add": ["CHOWN"]}, "runAsUser": 0}), GENEROUS)
@example(with_volume({"secret": {"secretName": "s"}}), GENEROUS_RESTRICTED)
def test_what_is_admitted_by_any_policy_meets_its_standard(pod: dict[str, Any], policy: Policy) -> None:
    spec = admit(pod, policy)
    if spec is not None:
        check(pod, policy, spec)


@settings(max_examples=150, deadline=None)
@given(SPECS)
def test_nearly_all_plain_pods_are_admitted(spec: dict[str, Any]) -> None:
    spec = {**spec, "volumes": [{"name": "v", "emptyDir": {}}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": spec}
    short_lived = [one for one in spec.get("initContainers", []) if one.get("restartPolicy") != "Always"]
    if not any("readinessProbe" in one for one in short_lived):
        sanitize(json.dumps(pod), (), DEFAULT_POLICY)


SEED_TEXT = yaml.safe_dump(seed(), sort_keys=False)
SNIPPETS = st.text(max_size=3) | st.sampled_from(
    ["{", "[", "&a ", "*a", "!!str ", "- ", "? ", ": ", "|", "'", '"', "\t", "---\n"]
)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(SEED_TEXT)), st.integers(0, 6), SNIPPETS)
def test_a_damaged_text_gives_a_spec_or_reasons(at: int, removed: int, inserted: str) -> None:
    damaged = SEED_TEXT[:at] + inserted + SEED_TEXT[at + removed :]
    try:
        spec = sanitize(damaged, HTTP, DEFAULT_POLICY)
    except InvalidPodSpec as refused:
        event(f"refused: {len(refused.reasons)}")
    else:
        assert sanitize(spec.text, HTTP, DEFAULT_POLICY) == spec


# ---- The shared cases of the contract, as data: what a pod spec may request


CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("cases.json").read_text())
ACCEPTED = [case for case in CASES if case["expect"] == "accept"]
REJECTED = [case for case in CASES if case["expect"] == "reject"]


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: str(case["name"]))
def test_an_acceptable_spec_comes_back_sanitized_byte_for_byte(case: dict[str, Any]) -> None:
    ports = parse_target_ports(case["target_port"])
    spec = sanitize(case["pod_spec"], ports, DEFAULT_POLICY)
    assert spec.text == case["sanitized"]
    assert sanitize(spec.text, ports, DEFAULT_POLICY) == spec
    assert spec.requested_cpu_milli == case["requested_cpu_milli"]
    assert spec.requested_memory_bytes == case["requested_memory_bytes"]


@pytest.mark.parametrize("case", REJECTED, ids=lambda case: str(case["name"]))
def test_an_unacceptable_spec_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        sanitize(case["pod_spec"], parse_target_ports(case["target_port"]), DEFAULT_POLICY)
