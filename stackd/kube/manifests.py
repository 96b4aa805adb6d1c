"""The Pod and the Service of a stack, as Kubernetes' JSON. Pure functions; nothing is asked, nothing is decided here.

What a tenant may ask for was decided by ``podspec``, what the operator adds to the spec by the caller; this module
puts the names, the labels, the record and the placement on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stackd.kube import labels
from stackd.kube.record import record_annotation
from stackd.model import PortMapping, Stack
from stackd.times import from_nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRequest:
    """What a stack's pod is made of; ``manifest`` is the sanitized Pod with the operator's additions applied."""

    stack: Stack
    manifest: Mapping[str, Any]
    instance: str
    node_selector: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRequest:
    """What a stack's service is made of; the pod named by ``pod_uid`` owns it and takes it along when it goes."""

    stack: Stack
    instance: str
    pod_uid: str


def pod_manifest(request: PodRequest) -> dict[str, Any]:
    """The Pod. Our labels and our record win over the tenant's, the operator's node selector over the pod spec's."""
    metadata = request.manifest.get("metadata") or {}
    stack = request.stack
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": stack.pod_name,
            "namespace": stack.namespace,
            "labels": {**_plain(metadata.get("labels")), **_client_labels(stack), **_ours(stack, request.instance)},
            "annotations": {**_plain(metadata.get("annotations")), **_our_annotations(stack)},
        },
        "spec": _placed(request.manifest["spec"], request.node_selector),
    }


def service_manifest(request: ServiceRequest) -> dict[str, Any]:
    """The NodePort Service with the stack's ports, owned by the stack's pod."""
    stack = request.stack
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": stack.service_name,
            "namespace": stack.namespace,
            "labels": {**_client_labels(stack), **_ours(stack, request.instance)},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": stack.pod_name, "uid": request.pod_uid},
            ],
        },
        "spec": {
            "type": "NodePort",
            "selector": {labels.STACK: stack.stack_id},
            "ports": [_service_port(port) for port in stack.ports],
        },
    }


def _service_port(port: PortMapping) -> dict[str, Any]:
    return {
        "name": f"p-{port.container_port}-{port.protocol.lower()}",
        "protocol": port.protocol,
        "port": port.container_port,
        "targetPort": port.container_port,
        "nodePort": port.node_port,
    }


def _placed(spec: Mapping[str, Any], node_selector: Mapping[str, str]) -> dict[str, Any]:
    placed = dict(spec)
    merged = {**(spec.get("nodeSelector") or {}), **node_selector}
    if merged:
        placed["nodeSelector"] = merged
    return placed


def _ours(stack: Stack, instance: str) -> dict[str, str]:
    return labels.object_labels(instance, stack.stack_id)


def _our_annotations(stack: Stack) -> dict[str, str]:
    ours = {labels.RECORD: record_annotation(stack), labels.EXPIRES: from_nanoseconds(stack.ttl_expires_at)}
    return ours | ({labels.GENERATION: str(stack.generation)} if stack.generation else {})


def _client_labels(stack: Stack) -> dict[str, str]:
    return {labels.CLIENT_LABEL_PREFIX + key: value for key, value in stack.labels.items()}


def _plain(names: Mapping[str, str] | None) -> dict[str, str]:
    # A prefixed name has a meaning to somebody (AppArmor, CNI, us); a tenant has no say in those.
    return {key: value for key, value in (names or {}).items() if "/" not in key}
