"""What a stack's pod gets on the way to the cluster: the operator's additions, its generated values, a readiness probe.

The pod spec that the API returns does not show them. Each function returns a manifest that shares unchanged parts with
its argument, so neither may be modified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from stackd.model import PortMapping, TargetPort
from stackd.podspec.checks import by_path, keeps_running
from stackd.podspec.policy import Policy

EGRESS_LABEL: Final = "stackd.io/egress"
"""Label on the pods of templates with ``network.egress``: which NetworkPolicy says what they reach."""


def harden(manifest: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """``manifest`` with the operator's additions, which win over what the tenant wrote."""
    pod = dict(manifest)
    spec = pod["spec"] = dict(pod["spec"])
    if policy.runtime_class:
        spec["runtimeClassName"] = policy.runtime_class
    if policy.host_names:
        spec["hostAliases"] = [{"ip": "127.0.0.1", "hostnames": list(policy.host_names)}]
    if policy.tolerations:
        spec["tolerations"] = [toleration.manifest() for toleration in policy.tolerations]
    if policy.add_pull_secrets:
        named = [reference["name"] for reference in spec.get("imagePullSecrets", ())]
        spec["imagePullSecrets"] = [{"name": name} for name in dict.fromkeys((*named, *policy.add_pull_secrets))]
    _label(pod, "labels", {**policy.labels, **({EGRESS_LABEL: policy.egress} if policy.egress else {})})
    _label(pod, "annotations", policy.annotations)
    return _changed(pod, lambda _, container: _dropped(container, policy.drop_capabilities))


def with_values(manifest: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """``manifest`` with these variables before the others in every container, so that the others may refer to them.

    Dollar signs are doubled, because kubelets expand ``$(NAME)`` and shorten ``$$`` in the value of a variable.
    """
    env = [{"name": name, "value": text.replace("$", "$$")} for name, text in values.items()]
    return _changed(manifest, lambda _, container: {**container, "env": [*env, *container.get("env", ())]})


def values_in(pod: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """The values that ``with_values`` has put into a pod under these names. Raises KeyError if a name is missing."""
    container = pod["spec"]["containers"][0]
    values = {variable["name"]: variable.get("value", "") for variable in reversed(container.get("env") or ())}
    return {name: values[name].replace("$$", "$") for name in names}


def with_readiness(manifest: Mapping[str, Any], ports: Iterable[TargetPort | PortMapping]) -> dict[str, Any]:
    """``manifest`` with a TCP probe of the first published port in each container without a readiness probe.

    Containers without a published TCP port, and init containers that end, get none.
    """
    published = [port.container_port for port in ports if port.protocol == "TCP"]

    def probed(path: str, container: Mapping[str, Any]) -> Mapping[str, Any]:
        if "readinessProbe" in container or not keeps_running(path, container):
            return container
        own = {port["containerPort"] for port in container.get("ports", ()) if port.get("protocol", "TCP") == "TCP"}
        port = next((port for port in published if port in own), None)
        if port is None:
            return container
        return {**container, "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1}}

    return _changed(manifest, probed)


def variables(manifest: Mapping[str, Any]) -> set[str]:
    """The names of all variables in the containers' ``env``."""
    containers = by_path(manifest["spec"]).values()
    return {variable["name"] for container in containers for variable in container.get("env", ())}


def _dropped(container: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The container without these capabilities, except those that the policy lets it add."""
    context = container["securityContext"]
    capabilities = context.get("capabilities", {})
    before, added = capabilities.get("drop", []), capabilities.get("add", [])
    more = [name for name in names if name not in (*before, *added)]
    if "ALL" in before or not more:
        return dict(container)
    return {**container, "securityContext": {**context, "capabilities": {**capabilities, "drop": [*before, *more]}}}


def _label(pod: dict[str, Any], field: str, additions: Mapping[str, str]) -> None:
    if additions:
        metadata = pod.get("metadata", {})
        pod["metadata"] = {**metadata, field: {**metadata.get(field, {}), **additions}}


def _changed(
    manifest: Mapping[str, Any], change: Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
) -> dict[str, Any]:
    spec = dict(manifest["spec"])
    for kind in ("containers", "initContainers"):
        if kind in spec:
            spec[kind] = [change(f"spec.{kind}[{index}]", container) for index, container in enumerate(spec[kind])]
    return {**manifest, "spec": spec}
