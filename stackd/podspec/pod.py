"""The pod around its containers: identity, settings, labels and annotations, security contexts.

Owns: the checks of apiVersion, kind, name and the pod's own fields; which labels and annotations a tenant may set; the
security contexts that the profile prescribes; and the fields that stackd always sets itself.

Annotations are instructions to runtimes, networks and controllers, so a tenant may use only those that the operator
allows. An annotation needs no prefix to have an effect: ``io.katacontainers.config_path`` and ``cpu-quota.crio.io``
have none. A tenant may choose any label, except those that something in the cluster acts on.

A tenant's security context is refused, even an empty one, unless it asks only for what the policy grants or what only
hardens the pod. The block that stackd itself writes is accepted, so that a client can send a sanitized spec again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackd.names import (
    BARE_KEY_FORM,
    LABEL_FORM,
    SUBDOMAIN_FORM,
    is_bare_key,
    is_key,
    is_label,
    is_label_value,
    is_subdomain,
    matches_any,
)
from stackd.podspec.containers import LARGEST_INT32, check_granted
from stackd.podspec.fields import NO_HOST_NAMESPACES
from stackd.podspec.policy import RESTART_POLICIES, Policy
from stackd.podspec.reasons import Reasons, below, check_choice, check_range

LONGEST_GRACE = 3600
_MOST_ANNOTATION_BYTES = 64 * 1024
_MOST_LABELS = 32
_OURS = "stackd.io"
_MANAGED_BY = "app.kubernetes.io/managed-by"
_CONFINING = (
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
)
_ACTED_ON = frozenset(
    {
        "controller-revision-hash",
        "controller-uid",
        "job-name",
        "pod-template-generation",
        "pod-template-hash",
    }
)
_ACTED_ON_FAMILIES = ("io.kubernetes.", "io.cilium.")
"""Names without a prefix that kubelets use to instruct runtimes, and networks to instruct their agents."""
_OWN = "not accepted; stackd sets the security context"
_USER = "not accepted, unless policy.run_as_user allows it"
_IDS = frozenset({"runAsUser", "runAsGroup", "fsGroup"})
_HARDENING: Mapping[str, object] = {"readOnlyRootFilesystem": True, "appArmorProfile": {"type": "RuntimeDefault"}}
"""Everybody may ask for this."""


def check_head(pod: Mapping[str, Any], policy: Policy, reasons: Reasons) -> None:
    """Report what is wrong with apiVersion, kind and metadata."""
    if pod.get("apiVersion") != "v1":
        reasons.missing("apiVersion", "must be v1")
    if pod.get("kind", "").lower() != "pod":
        reasons.missing("kind", "must be Pod")
    if "spec" not in pod:
        reasons.missing("spec", "is required")
    metadata = pod.get("metadata", {})
    if not is_subdomain(metadata.get("name", "pod")):
        reasons.add("metadata.name", f"must be {SUBDOMAIN_FORM}")
    _check_labels(metadata.get("labels", {}), reasons)
    _check_annotations(metadata.get("annotations", {}), policy, reasons)


def check_settings(spec: Mapping[str, Any], policy: Policy, reasons: Reasons) -> None:
    """Report what is wrong with the pod's own fields."""
    if not is_label(spec.get("hostname", "pod")):
        reasons.add("spec.hostname", f"must be {LABEL_FORM}")
    for field, least, most in (
        ("terminationGracePeriodSeconds", 0, LONGEST_GRACE),
        ("activeDeadlineSeconds", 1, LARGEST_INT32),
    ):
        check_range(spec.get(field), least, most, f"spec.{field}", reasons)
    check_choice(spec.get("restartPolicy"), RESTART_POLICIES, "spec.restartPolicy", reasons)
    if spec.get("hostUsers", False):
        reasons.add("spec.hostUsers", NO_HOST_NAMESPACES)
    for key, value in spec.get("nodeSelector", {}).items():
        if not is_key(key):
            reasons.add(below("spec.nodeSelector", key), "is not a valid label key")
        elif value is not None and not is_label_value(value):
            reasons.add(below("spec.nodeSelector", key), f"must be {BARE_KEY_FORM}")
    for index, reference in enumerate(spec.get("imagePullSecrets", ())):
        path = f"spec.imagePullSecrets[{index}]"
        check_granted(reference.get("name", ""), policy.pull_secrets, path, "pull_secrets", reasons)


def settle_settings(spec: dict[str, Any], policy: Policy) -> None:
    """Set the fields that the tenant does not choose."""
    spec["automountServiceAccountToken"] = False
    spec["enableServiceLinks"] = False
    spec["restartPolicy"] = policy.restart_policy


def is_reserved(key: str) -> bool:
    """Whether a label or annotation of this name is stackd's own."""
    prefix = key.rpartition("/")[0]
    return key == _MANAGED_BY or prefix == _OURS or prefix.endswith("." + _OURS)


def _check_labels(labels: Mapping[str, str | None], reasons: Reasons) -> None:
    if len(labels) > _MOST_LABELS:
        reasons.add("metadata.labels", f"at most {_MOST_LABELS} labels are accepted")
    for key, value in labels.items():
        path = below("metadata.labels", key)
        if "/" in key:
            reasons.add(path, "keys with a prefix belong to the cluster and the operator; use a key without one")
        elif not is_bare_key(key):
            reasons.add(path, f"is not a valid key: {BARE_KEY_FORM}")
        elif key in _ACTED_ON or key.startswith(_ACTED_ON_FAMILIES):
            reasons.add(path, "controllers in the cluster act on this label; use another key")
        if value is not None and not is_label_value(value):
            reasons.add(path, f"must be {BARE_KEY_FORM}")


def _check_annotations(annotations: Mapping[str, str | None], policy: Policy, reasons: Reasons) -> None:
    for key in annotations:
        if why := _refusal(key, policy):
            reasons.add(below("metadata.annotations", key), why)
    size = sum(len(key.encode()) + len((value or "").encode()) for key, value in annotations.items())
    if size > _MOST_ANNOTATION_BYTES:
        reasons.add("metadata.annotations", f"must be at most {_MOST_ANNOTATION_BYTES} bytes in all")


def _refusal(key: str, policy: Policy) -> str:
    if not is_key(key):
        return f"is not a valid key: {BARE_KEY_FORM}"
    if is_reserved(key):
        return "is reserved for stackd"
    if key.startswith(_CONFINING):
        return "stackd sets how a pod is confined; leave it out"
    if matches_any(policy.allow_annotations, key):
        return ""
    if policy.allow_annotations:
        return "only what policy.allow_annotations names may be used"
    return "not accepted, unless policy.allow_annotations allows it"


def container_context(policy: Policy) -> dict[str, Any]:
    """The block that every container gets."""
    context: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if policy.restricted:
        context["capabilities"] = {"drop": ["ALL"]}
    if policy.non_root:
        context["runAsNonRoot"] = True
    return context


def pod_context(policy: Policy) -> dict[str, Any]:
    """The block that every pod gets."""
    context: dict[str, Any] = {"seccompProfile": {"type": "RuntimeDefault"}}
    if policy.non_root:
        context["runAsNonRoot"] = True
    return context


def settle_context(owner: dict[str, Any], path: str, profile: dict[str, Any], policy: Policy, reasons: Reasons) -> None:
    """Replace the owner's security context by the profile's block and the tenant's fields that the policy grants."""
    given = owner.get("securityContext")
    owner["securityContext"] = profile
    if given is None:
        return
    here = f"{path}.securityContext"
    _check_whole(given, profile, here, reasons)
    for field, value in given.items():
        if field == "capabilities":
            _settle_capabilities(value, profile, f"{here}.{field}", policy, reasons)
        elif value != profile.get(field):
            _settle_field(field, value, profile, f"{here}.{field}", policy, reasons)


def _check_whole(given: Mapping[str, Any], profile: Mapping[str, Any], path: str, reasons: Reasons) -> None:
    """Refuse a context that asks for nothing, unless it is the profile's whole block."""
    asks = any(value != profile.get(field) for field, value in given.items())
    if not asks and given.keys() != profile.keys():
        reasons.missing(path, _OWN)


def _settle_field(field: str, value: Any, profile: dict[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    if value == _HARDENING.get(field):
        profile[field] = value
    elif field not in _IDS and field != "runAsNonRoot":
        reasons.add(path, _OWN)
    elif not policy.run_as_user:
        reasons.add(path, _USER)
    elif field in _IDS and not 0 <= value <= LARGEST_INT32:
        reasons.add(path, f"must be from 0 to {LARGEST_INT32}")
    elif policy.non_root and (value is False or (field == "runAsUser" and value == 0)):
        reasons.add(path, "containers may not run as root (policy.run_as_root, or the restricted profile)")
    else:
        profile[field] = value


def _settle_capabilities(
    value: Mapping[str, Any], profile: dict[str, Any], path: str, policy: Policy, reasons: Reasons
) -> None:
    if value == profile.get("capabilities"):
        return
    if not policy.add_capabilities:
        reasons.add(path, "not accepted, unless policy.add_capabilities allows it")
        return
    for index, name in enumerate(value.get("add", ())):
        if name not in policy.add_capabilities:
            reasons.add(f"{path}.add[{index}]", "only what policy.add_capabilities names may be added")
    settled = {**value, **profile.get("capabilities", {})}
    if settled:
        profile["capabilities"] = settled
