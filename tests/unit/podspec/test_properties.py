"""Whatever is sent, what is admitted is safe: pods generated from the client's typed models, most of them nearly valid."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from kubernetes.aio.client.models.v1_pod import V1Pod

from stackd.embedded.admission import security_violation
from stackd.errors import InvalidPodSpec, InvalidRequest
from stackd.model import SanitizedSpec
from stackd.podspec import Policy, harden, parse_target_ports, sanitize
from stackd.podspec.fields import MODELS, Field
from tests.unit.podspec.specs import DEFAULT_POLICY, HTTP, container, exact, seed, with_volume

RESTRICTED = Policy(profile="restricted")
GRANTED: dict[str, Any] = dict.fromkeys(
    ("secrets", "config_maps", "volume_claims", "csi_drivers", "extended_resources", "pull_secrets"), ("**",)
)
ADDED = ("CHOWN", "NET_BIND_SERVICE")
GENEROUS = Policy(**GRANTED, add_capabilities=ADDED, run_as_user=True, empty_dir_memory=True)
GENEROUS_RESTRICTED = Policy(
    profile="restricted", run_as_user=True, add_capabilities=("NET_BIND_SERVICE",), secrets=("**",)
)

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("cases.json").read_text())
ACCEPTED = [case for case in CASES if case["expect"] == "accept"]
TEXTS = [*(case["pod_spec"] for case in ACCEPTED), Path(__file__).with_name("everything.yaml").read_text()]
REJECTED = [case for case in CASES if case["expect"] == "reject"]

WORDS = st.sampled_from([
    "", "a", "v", "Always", "RuntimeDefault", "/x", "TCP", "10.0.0.1", "kube-system", "1", "yes", "x: y", "0.5", "1.5Gi",
])  # fmt: skip


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
    """The accepted pods of the cases, in which up to two fields, anywhere, got a random value of their type."""
    pod: dict[str, Any] = yaml.safe_load(draw(st.sampled_from(TEXTS)))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        owner, model = draw(st.sampled_from(places(pod, "Pod")))
        name = draw(st.sampled_from(sorted(MODELS[model])))
        owner[name] = draw(values(MODELS[model][name], 3))
    return pod


def admit(pod: dict[str, Any], policy: Policy) -> SanitizedSpec | None:
    try:
        spec = sanitize(json.dumps(pod), (), policy)
    except InvalidPodSpec as refused:
        event(f"refused: {len(refused.reasons)}")
        return None
    event("admitted")
    assert sanitize(spec.text, (), policy) == spec, "sanitizing twice changes something"
    return spec


def effective(spec: dict[str, Any], resource: str) -> Fraction:
    """What the scheduler reserves: the highest sum of requests at any moment of the pod's life."""
    moments, beside = [], Fraction(0)
    for one in spec.get("initContainers", []):
        own = exact(one["resources"]["requests"][resource])
        moments.append(beside + own)
        if one.get("restartPolicy") == "Always":
            beside += own
    moments.append(beside + sum(exact(one["resources"]["requests"][resource]) for one in spec["containers"]))
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


@settings(max_examples=120, deadline=None)
@given(pods())
@example(seed())
def test_what_is_admitted_by_default_reaches_nothing_beyond_its_stack(pod: dict[str, Any]) -> None:
    spec = admit(pod, DEFAULT_POLICY)
    if spec is not None:
        check(pod, DEFAULT_POLICY, spec)
        for word in ("secret", "Secret", "configMap", "persistentVolumeClaim", "csi", "envFrom"):
            assert f'"{word}' not in json.dumps(dict(spec.manifest)), "it uses nothing of the namespace"


@settings(max_examples=80, deadline=None)
@given(pods(), st.sampled_from([GENEROUS, RESTRICTED, GENEROUS_RESTRICTED]))
@example(container(securityContext={"capabilities": {"add": ["CHOWN"]}, "runAsUser": 0}), GENEROUS)
@example(with_volume({"secret": {"secretName": "s"}}), GENEROUS_RESTRICTED)
def test_what_is_admitted_by_any_policy_meets_its_standard(pod: dict[str, Any], policy: Policy) -> None:
    spec = admit(pod, policy)
    if spec is not None:
        check(pod, policy, spec)


SEED_TEXT = yaml.safe_dump(seed(), sort_keys=False)
SNIPPETS = st.text(max_size=3) | st.sampled_from(
    ["{", "[", "&a ", "*a", "!!str ", "- ", "? ", ": ", "|", "'", '"', "\t", "---\n"]
)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(SEED_TEXT)), st.integers(0, 6), SNIPPETS)
def test_a_damaged_text_gives_a_spec_or_reasons(at: int, removed: int, inserted: str) -> None:
    damaged = SEED_TEXT[:at] + inserted + SEED_TEXT[at + removed :]
    try:
        spec = sanitize(damaged, HTTP, DEFAULT_POLICY)
    except InvalidPodSpec as refused:
        event(f"refused: {len(refused.reasons)}")
    else:
        assert sanitize(spec.text, HTTP, DEFAULT_POLICY) == spec


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
