"""The pod around its containers: its identity, its labels, and the few settings that a tenant has.

Owns: the checks of apiVersion, kind, metadata and the pod's own fields, and what is set whatever the tenant wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackd.podspec.grants import check_choice, check_granted
from stackd.podspec.names import is_bare_key, is_key, is_label, is_label_value, is_subdomain
from stackd.podspec.policy import RESTART_POLICIES, Policy
from stackd.podspec.probes import LARGEST_INT32
from stackd.podspec.reasons import Reasons, below

LONGEST_GRACE = 3600
_MOST_ANNOTATION_BYTES = 64 * 1024
_MOST_LABELS = 32


def check_head(pod: Mapping[str, Any], reasons: Reasons) -> None:
    """Note what is wrong with apiVersion, kind and metadata."""
    if pod.get("apiVersion") != "v1":
        reasons.missing("apiVersion", "must be v1", "apiVersion")
    if pod.get("kind", "").lower() != "pod":
        reasons.missing("kind", "must be Pod", "kind")
    if "spec" not in pod:
        reasons.missing("spec", "is required", "spec")
    metadata = pod.get("metadata", {})
    if not is_subdomain(metadata.get("name", "pod")):
        reasons.add("metadata.name", "must be lower-case letters, digits, hyphens and dots, at most 253")
    _check_labels(metadata.get("labels", {}), reasons)
    _check_annotations(metadata.get("annotations", {}), reasons)


def check_settings(spec: Mapping[str, Any], policy: Policy, reasons: Reasons) -> None:
    """Note what is wrong with the pod's own fields."""
    if not is_label(spec.get("hostname", "pod")):
        reasons.add("spec.hostname", "must be at most 63 lower-case letters, digits and inner hyphens")
    grace = spec.get("terminationGracePeriodSeconds", 0)
    if not 0 <= grace <= LONGEST_GRACE:
        reasons.add("spec.terminationGracePeriodSeconds", f"must be from 0 to {LONGEST_GRACE}")
    if not 1 <= spec.get("activeDeadlineSeconds", 1) <= LARGEST_INT32:
        reasons.add("spec.activeDeadlineSeconds", f"must be from 1 to {LARGEST_INT32}")
    check_choice(spec.get("restartPolicy"), RESTART_POLICIES, "spec.restartPolicy", reasons)
    for key, value in spec.get("nodeSelector", {}).items():
        if not is_key(key):
            reasons.add(below("spec.nodeSelector", key), "is not a valid label key")
        elif value is not None and not is_label_value(value):
            reasons.add(
                below("spec.nodeSelector", key),
                "must be at most 63 letters, digits, and inner hyphens, dots, underscores",
            )
    for index, reference in enumerate(spec.get("imagePullSecrets", ())):
        path = f"spec.imagePullSecrets[{index}]"
        check_granted(reference.get("name", ""), policy.pull_secrets, path, "pull_secrets", reasons)


def settle_settings(spec: dict[str, Any], policy: Policy) -> None:
    """Set what is not the tenant's to choose."""
    spec["automountServiceAccountToken"] = False
    spec["enableServiceLinks"] = False
    spec["restartPolicy"] = policy.restart_policy


def _check_labels(labels: Mapping[str, str | None], reasons: Reasons) -> None:
    if len(labels) > _MOST_LABELS:
        reasons.add("metadata.labels", f"at most {_MOST_LABELS} labels are accepted")
    for key, value in labels.items():
        _check_key(key, "metadata.labels", reasons)
        if value is not None and not is_label_value(value):
            reasons.add(
                below("metadata.labels", key),
                "must be at most 63 letters, digits, and inner hyphens, dots, underscores",
            )


def _check_annotations(annotations: Mapping[str, str | None], reasons: Reasons) -> None:
    for key in annotations:
        _check_key(key, "metadata.annotations", reasons)
    if (
        sum(len(key.encode()) + len((value or "").encode()) for key, value in annotations.items())
        > _MOST_ANNOTATION_BYTES
    ):
        reasons.add("metadata.annotations", f"more than {_MOST_ANNOTATION_BYTES} bytes together")


def _check_key(key: str, path: str, reasons: Reasons) -> None:
    if "/" in key:
        reasons.add(below(path, key), "keys with a prefix are the cluster's and the operator's; use one without")
    elif not is_bare_key(key):
        reasons.add(
            below(path, key), "is not a valid key: at most 63 letters, digits, and inner hyphens, dots, underscores"
        )
