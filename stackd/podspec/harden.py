"""What the operator adds to every pod, on its way to the cluster.

Owns: runtime class, tolerations, pull secrets, dropped capabilities, labels and annotations of ``[policy]``. The text
that the API returns does not show them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackd.podspec.policy import Policy


def harden(manifest: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """``manifest`` with the operator's additions, which win over what the tenant wrote.

    What is not added to is shared with ``manifest``, which stays as it is; so must the result.
    """
    pod = dict(manifest)
    spec = pod["spec"] = dict(pod["spec"])
    if policy.runtime_class:
        spec["runtimeClassName"] = policy.runtime_class
    if policy.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in policy.tolerations]
    if policy.add_pull_secrets:
        named = [reference["name"] for reference in spec.get("imagePullSecrets", ())]
        spec["imagePullSecrets"] = [{"name": name} for name in dict.fromkeys((*named, *policy.add_pull_secrets))]
    if policy.drop_capabilities:
        for field in ("containers", "initContainers"):
            if field in spec:
                spec[field] = [_dropped(container, policy.drop_capabilities) for container in spec[field]]
    _label(pod, "labels", policy.labels)
    _label(pod, "annotations", policy.annotations)
    return pod


def _dropped(container: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    context = container["securityContext"]
    capabilities = context.get("capabilities", {})
    drop = list(dict.fromkeys((*capabilities.get("drop", ()), *names)))
    return {**container, "securityContext": {**context, "capabilities": {**capabilities, "drop": drop}}}


def _label(pod: dict[str, Any], field: str, additions: Mapping[str, str]) -> None:
    if additions:
        metadata = pod.get("metadata", {})
        pod["metadata"] = {**metadata, field: {**metadata.get(field, {}), **additions}}
