"""Labels and annotations: a tenant's own are kept; those that something acts on are refused by their path."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackd.kube.manifests import service_manifest
from stackd.kube.provision import ManifestOptions, documents
from stackd.podspec import Policy
from stackd.podspec.pod import is_reserved
from tests.kube.test_manifests import STACK
from tests.unit.podspec.specs import manifest, metadata, reasons

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
