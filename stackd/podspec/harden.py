"""What the operator adds to every pod, on its way to the cluster.

Owns: runtime class, tolerations, pull secrets, dropped capabilities, labels and annotations of ``[policy]``. The text
that the API returns does not show them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from stackd.podspec.policy import Policy


def harden(manifest: Mapping[str, object], policy: Policy) -> dict[str, Any]:
    """A copy of ``manifest`` with the operator's additions, which win over what the tenant wrote."""
    pod: dict[str, Any] = copy.deepcopy(dict(manifest))
    spec = pod["spec"]
    if policy.runtime_class:
        spec["runtimeClassName"] = policy.runtime_class
    if policy.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in policy.tolerations]
    if policy.add_pull_secrets:
        named = [reference["name"] for reference in spec.get("imagePullSecrets", ())]
        spec["imagePullSecrets"] = [{"name": name} for name in dict.fromkeys((*named, *policy.add_pull_secrets))]
    if policy.drop_capabilities:
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            _drop(container["securityContext"].setdefault("capabilities", {}), policy.drop_capabilities)
    _label(pod, "labels", policy.labels)
    _label(pod, "annotations", policy.annotations)
    return pod


def _drop(capabilities: dict[str, Any], names: tuple[str, ...]) -> None:
    capabilities["drop"] = list(dict.fromkeys((*capabilities.get("drop", ()), *names)))


def _label(pod: dict[str, Any], field: str, additions: Mapping[str, str]) -> None:
    if additions:
        metadata = pod.setdefault("metadata", {})
        metadata[field] = {**metadata.get(field, {}), **additions}
