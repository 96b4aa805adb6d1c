"""What is accepted and what is refused by default, field by field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from stackd.kube.manifests import service_manifest
from stackd.kube.provision import ManifestOptions, documents
from stackd.podspec import Policy
from stackd.podspec.fields import MODELS, WHY
from stackd.podspec.policy import is_reserved
from tests.kube.test_manifests import STACK
from tests.unit.podspec.specs import (
    POD,
    REFUSALS,
    ModelField,
    admit,
    changed,
    container,
    fields_of,
    manifest,
    metadata,
    reasons,
    seed,
    spec,
    with_volume,
)

SECRET = "flag{not-to-be-shown}"


def model_fields(*path: str) -> dict[str, ModelField]:
    fields = dict(fields_of(POD))
    for name in path:
        model = fields[name].model
        assert model is not None
        fields = dict(fields_of(model))
    return fields


def sample(field: ModelField) -> Any:
    """A value of the field's type."""
    return {
        "string": "a",
        "integer": 1,
        "boolean": False,
        "integer or string": 1,
        "strings": ["a"],
        "map": {"a": "b"},
        "object": {},
        "objects": [{}],
        "other": "a",
    }[field.kind]


NEVER = [
    (path, name)
    for model, path in (("PodSpec", "spec"), ("Container", "spec.containers"), ("ObjectMeta", "metadata"))
    for name in model_fields(*path.split("."))
    if MODELS[model][name].use == ""
]


@pytest.mark.parametrize(("path", "name"), NEVER)
def test_a_field_that_is_not_listed_is_refused_whatever_its_value(path: str, name: str) -> None:
    put = {"spec": spec, "spec.containers": container, "metadata": metadata}[path]
    (reason,) = reasons(put(**{name: sample(model_fields(*path.split("."))[name])}))
    assert reason.startswith(f"{path}{'[0]' if put is container else ''}.{name}: ")


@pytest.mark.parametrize("kind", sorted(set(model_fields("spec", "volumes")) - {"name", "emptyDir", "downwardAPI"}))
def test_only_empty_dirs_and_the_downward_api_are_volumes_by_default(kind: str) -> None:
    sources: dict[str, Any] = {"projected": {"sources": [{"secret": {"name": "s"}}, {"serviceAccountToken": {}}]}}
    refused = reasons(with_volume({kind: sources.get(kind, {})}))
    assert refused
    assert all(reason.startswith(f"spec.volumes[0].{kind}") for reason in refused)
    accepted = MODELS["Volume"][kind].use != "" or f"Volume.{kind}" in WHY
    assert accepted or "not accepted" in refused[0]


@pytest.mark.parametrize("case", REFUSALS["pods"], ids=lambda case: case["reasons"][0][:60])
def test_a_pod_is_refused_with_these_reasons(case: dict[str, Any]) -> None:
    assert reasons(changed(case), Policy(**case.get("policy", {}))) == case["reasons"]


def test_all_reasons_are_given_at_once() -> None:
    pod = container(image=1, tty="x", ports=[{"containerPort": 80, "hostPort": 80}])
    pod["spec"].update(hostPID=True, hostname="A", volumes=[{"name": "v", "hostPath": {"path": "/"}}])
    pod["kind"] = "Job"
    assert {reason.partition(":")[0] for reason in reasons(pod)} == {
        "kind",
        "spec.hostname",
        "spec.containers[0].image",
        "spec.containers[0].tty",
        "spec.containers[0].ports[0].hostPort",
        "spec.hostPID",
        "spec.volumes[0].hostPath",
    }


def test_thousands_of_mistakes_end_after_a_hundred_reasons() -> None:
    refused = reasons(container(**{f"k{index}": 1 for index in range(3000)}))
    assert len(refused) == 101
    assert refused[-1].startswith("(root): there may be more")


def test_reasons_do_not_show_values_that_may_be_secret() -> None:
    pod = container(
        env=[{"name": "FLAG", "value": [SECRET]}, {"name": "1", "value": SECRET}, {"name": "F", "valeu": SECRET}],
        args=[{"x": SECRET}, SECRET + "\0"],
        command=SECRET,
        workingDir=[SECRET],
        livenessProbe={"exec": {"command": SECRET}},
    )
    refused = reasons(pod)
    assert len(refused) >= 6
    assert SECRET not in "; ".join(refused)


EVERYTHING: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("everything.yaml").read_text())


def test_everything_that_is_allowed_is_kept() -> None:
    admitted = manifest(EVERYTHING, Policy(allow_annotations=("description",)))
    kept = admitted["spec"]
    wanted = EVERYTHING["spec"]
    assert admitted["metadata"] == EVERYTHING["metadata"]
    assert {name: kept[name] for name in wanted if name != "containers"} == {
        name: wanted[name] for name in wanted if name != "containers"
    }
    (app,), (asked,) = kept["containers"], wanted["containers"]
    assert app.pop("securityContext")
    assert app.pop("resources")["requests"] == asked["resources"]["limits"]
    assert app == {name: value for name, value in asked.items() if name != "resources"}


def test_what_is_not_the_tenants_is_set_whatever_was_asked() -> None:
    pod = spec(restartPolicy="Always", enableServiceLinks=True, automountServiceAccountToken=True)
    assert admit(pod) == admit(seed())


def test_empty_fields_are_left_out_as_the_typed_encoder_does() -> None:
    pod = container(
        env=[], args=[], command=None, tty=False, workingDir="", imagePullPolicy="", volumeMounts=[], envFrom=[]
    )
    pod["spec"].update(volumes=[], nodeSelector={}, hostname="", initContainers=[])
    pod["metadata"].update(labels={}, annotations=None, namespace="kube-system", creationTimestamp=None)
    pod["status"] = {}
    assert admit(pod) == admit(seed())
    assert admit(spec(hostNetwork=None, nodeName=None, affinity=None)) == admit(seed())
    del pod["metadata"]
    assert "metadata: {}\n" in admit(pod).text


def test_an_empty_value_of_a_variable_is_left_out_and_a_missing_divisor_is_written() -> None:
    pod = container(
        env=[
            {"name": "A", "value": ""},
            {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
        ]
    )
    assert manifest(pod)["spec"]["containers"][0]["env"] == [
        {"name": "A"},
        {"name": "B", "valueFrom": {"resourceFieldRef": {"divisor": "0", "resource": "requests.cpu"}}},
    ]


def test_the_manifest_is_a_pod_whatever_the_case_of_its_kind() -> None:
    spec_ = admit({**seed(), "kind": "POD"})
    assert spec_.manifest["kind"] == "Pod"
    assert "kind: POD\n" in spec_.text
    assert "status" not in spec_.manifest


APPARMOR = {"appArmorProfile": {"type": "RuntimeDefault"}}


@pytest.mark.parametrize(
    "asked",
    [
        spec(hostUsers=False),
        spec(securityContext=APPARMOR),
        container(securityContext={"readOnlyRootFilesystem": True, **APPARMOR}),
    ],
)
def test_whoever_asks_for_less_gets_it(asked: dict[str, Any]) -> None:
    admitted, default = manifest(asked), manifest(seed())["spec"]
    assert manifest(admitted) == admitted
    pod, app = admitted["spec"], admitted["spec"]["containers"][0]
    assert pod.get("hostUsers") == asked["spec"].get("hostUsers")
    for got, base, wanted in (
        (pod, default, asked["spec"]),
        (app, default["containers"][0], asked["spec"]["containers"][0]),
    ):
        assert got["securityContext"] == base["securityContext"] | wanted.get("securityContext", {})


# ---- The fields that stackd knows are those of the Kubernetes client's models


def reached(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The models below this one, by their names in Kubernetes."""
    found: dict[str, type[BaseModel]] = {}
    left = [model]
    while left:
        one = left.pop()
        name = one.__name__.removeprefix("V1")
        if name not in found:
            found[name] = one
            left += [field.model for field in fields_of(one).values() if field.model is not None]
    return found


THEIRS = reached(POD)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_fields_and_types_of_the_client_library(name: str) -> None:
    def named(model: type[BaseModel] | None) -> str | None:
        known = model.__name__.removeprefix("V1") if model is not None else ""
        return known if known in MODELS else None

    theirs = fields_of(THEIRS[name.removeprefix("Init")])
    ours = {key: (one.kind, one.model.removeprefix("Init") or None) for key, one in MODELS[name].items()}
    assert ours == {key: (one.kind, named(one.model)) for key, one in theirs.items()}


def test_each_reason_is_for_a_field_that_is_never_accepted() -> None:
    for model, _, name in (path.partition(".") for path in WHY):
        assert MODELS[model][name].use == ""


# ---- labels and annotations: a tenant's own are kept; those that something acts on are refused by their path


ANY = Policy(allow_annotations=("**",))


@settings(deadline=None)
@given(st.from_regex(r"\A[a-zA-Z0-9][a-zA-Z0-9_.-]{0,40}[a-zA-Z0-9]\Z"))
def test_no_annotation_is_allowed_by_default(key: str) -> None:
    (only,) = reasons(metadata(annotations={key: "x"}))
    assert only.startswith("metadata.annotations")
    assert only.endswith("not accepted, unless policy.allow_annotations allows it")
    assert not reasons(metadata(annotations={key: "x"}), ANY)


@pytest.mark.parametrize(
    ("patterns", "key", "accepted"),
    [
        (("example.org/*",), "example.org/team", True), (("example.org/*",), "sub.example.org/team", False),
        (("example.org/*",), "example.org.evil/team", False), (("*",), "description", True),
        (("*",), "k8s.v1.cni.cncf.io/networks", False), (("**",), "k8s.v1.cni.cncf.io/networks", True),
        (("note-*", "team"), "team", True), (("note-*", "team"), "Team", False),
        (("kubernetes.io/*-bandwidth",), "kubernetes.io/egress-bandwidth", True),
    ],
)  # fmt: skip
def test_the_operator_allows_annotations_by_pattern(patterns: tuple[str, ...], key: str, accepted: bool) -> None:
    pod, policy = metadata(annotations={key: "x"}), Policy(allow_annotations=patterns)
    if accepted:
        assert manifest(pod, policy)["metadata"]["annotations"] == {key: "x"}
    else:
        assert reasons(pod, policy) == [
            f"{path(key)}: only what policy.allow_annotations names may be used",
        ]


def path(key: str) -> str:
    return f"metadata.annotations.{key}" if key.isalpha() else f'metadata.annotations["{key}"]'


def test_there_is_an_end_to_annotations() -> None:
    generous = Policy(allow_annotations=("**",), max_text=1 << 20)
    (only,) = reasons(metadata(annotations={"a": "x" * 70_000}), generous)
    assert only == "metadata.annotations: must be at most 65536 bytes in all"


def test_other_labels_are_a_tenants_own() -> None:
    labels = {"app": "web", "team": "7", "job": "x", "pod-template": "y", "k8s.io": "z"}
    assert manifest(metadata(labels=labels))["metadata"]["labels"] == labels


def selectors() -> list[dict[str, str]]:
    """The selectors of the stacks' pods: the Service's, and those of all policies that ``stackd manifests`` prints."""
    site = ManifestOptions(
        namespace="stacks", profile="baseline", account="stackd", account_namespace="stackd", stacks=9,
        egress="internet", dns=True, target_ports=((80, 80),),
    )  # fmt: skip
    service = service_manifest(STACK, "default")
    policies: list[dict[str, Any]] = [one for one in documents(site) if one["kind"] == "NetworkPolicy"]
    assert len(policies) == 4
    found = [one["spec"]["podSelector"].get("matchLabels", {}) for one in policies]
    return [service["spec"]["selector"], *(one for one in found if one)]


def test_no_label_of_a_tenant_is_one_that_stackds_own_objects_select_by() -> None:
    keys = {key for selector in selectors() for key in selector}
    assert keys
    for key in keys:
        assert is_reserved(key)
        assert reasons(metadata(labels={key: "stackd"}), ANY)
