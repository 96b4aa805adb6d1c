"""The manifests of a stack's Pod and Service, and of the pod that pulls an image, as Kubernetes' JSON. Pure.

The pod that pulls an image on one node runs no program of the image: its only container has a command that no image
contains. The kubelet pulls the image first; then the container fails to start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from stackd.kube import labels, records
from stackd.kube.wire import KINDS, JsonObject
from stackd.model import Member, PortMapping, Stack
from stackd.podspec.additions import EGRESS_LABEL
from stackd.podspec.policy import is_reserved

# A single-stack cluster takes it, too.
DUAL_STACK: Final[Mapping[str, str]] = {"ipFamilyPolicy": "PreferDualStack"}
FIRST_PORT, LAST_PORT = 1, 65535
COMMAND: Final = "/stackd-prepull"
DEADLINE_SECONDS: Final = 1800
"""Both stackd and the kubelet give up a pull that takes longer."""


def pod_manifest(
    stack: Stack,
    manifest: Mapping[str, Any],
    *,
    instance: str,
    node_selector: Mapping[str, str],
    member: Member | None = None,
) -> dict[str, Any]:
    """The stack's Pod, or that of a member; ``manifest`` is the sanitized one with the operator's additions. Our labels and
    generation override the tenant's; the operator's node selector the pod spec's.
    """
    metadata, spec = manifest.get("metadata") or {}, dict(manifest["spec"])
    if selector := {**(spec.get("nodeSelector") or {}), **node_selector}:
        spec["nodeSelector"] = selector
    return {
        **KINDS["pods"].type_meta,
        "metadata": {
            "name": stack.pod_name if member is None else stack.member_name(member.name),
            "namespace": stack.namespace,
            "labels": {**_others(metadata.get("labels")), **_labels(stack, instance), **_part(stack, member)},
            "annotations": {
                **_others(metadata.get("annotations")),
                labels.GENERATION: str((member or stack).generation),
            },
        },
        "spec": spec,
    }


def _others(names: Mapping[str, str] | None) -> dict[str, str]:
    # Reserved names that stackd does not set on this pod still have a meaning, such as the generation of a restart.
    return {key: value for key, value in (names or {}).items() if key == EGRESS_LABEL or not is_reserved(key)}


def _labels(stack: Stack, instance: str) -> dict[str, str]:
    clients = {labels.CLIENT_LABEL_PREFIX + key: value for key, value in stack.labels.items()}
    own = {**clients, **labels.object_labels(instance, stack.stack_id)}
    if stack.spare:
        return {**own, labels.SPARE: "true"}
    return {**own, labels.POOL: stack.template or ""} if stack.unassigned else own


def _part(stack: Stack, member: Member | None) -> dict[str, str]:
    if member is not None:
        return {labels.MEMBER: member.name}
    published = {labels.PUBLISHED: "true"} if stack.members else {}
    return {labels.GENERATION: str(stack.generation), **published} if stack.shared else published


def pod_labels(
    stack: Stack, instance: str, clients: Iterable[str], member: Member | None = None
) -> dict[str, str | None]:
    """The labels of stackd on the stack's pod, or that of a member, which has these labels of ``clients``; None: it must not
    have that one."""
    gone = dict.fromkeys(labels.CLIENT_LABEL_PREFIX + name for name in clients)
    return {**gone, labels.POOL: None, **_labels(stack, instance), **_part(stack, member), labels.ASSIGNED: None}


def service_manifest(stack: Stack, instance: str, *, dual_stack: bool = False) -> dict[str, Any]:
    """The stack's Service, with its record, or a spare one. Needs a stack with its pod spec (``Stacks.with_pod_spec``).

    A stack whose ports all have names, or that has given its ports back (it has ended), has a Service of type ClusterIP,
    which holds no node port. A ``dual_stack`` one has addresses and node ports of both families, if the cluster has both.
    """
    holds = stack.ports_held and bool(stack.node_ports)
    own = [port for port in stack.ports if port.node_port] or stack.ports  # ``routes`` has a Service for the others
    return {
        **KINDS["services"].type_meta,
        "metadata": {
            "name": stack.service_name,
            "namespace": stack.namespace,
            "labels": _labels(stack, instance),
            "annotations": {} if stack.spare else records.service_annotations(stack),
        },
        "spec": {
            "type": "NodePort" if holds else "ClusterIP",
            "selector": service_selector(stack),
            "ports": [service_port(port) | ({"nodePort": port.node_port} if holds else {}) for port in own],
            **(DUAL_STACK if dual_stack else {}),
        },
    }


def service_selector(stack: Stack) -> dict[str, str]:
    """What the stack's Service selects: of a stack in a pool and of a spare, no pod until somebody is given it; of a shared one,
    the pod that serves."""
    own = {labels.GENERATION: str(stack.serving)} if stack.shared else {}
    if stack.members:
        own[labels.PUBLISHED] = "true"
    return {labels.STACK: stack.stack_id, **own} | ({labels.ASSIGNED: "true"} if stack.unassigned else {})


def port_question(namespace: str, instance: str, name: str, numbers: Iterable[int]) -> dict[str, Any]:
    """A Service that asks for these node ports, to learn from the refusal."""
    ports = [
        {"name": f"p-{number}", "protocol": "TCP", "port": number, "targetPort": number, "nodePort": number}
        for number in numbers
    ]
    metadata = {"name": name, "namespace": namespace, "labels": labels.object_labels(instance, name)}
    spec = {"type": "NodePort", "selector": {labels.STACK: name}, "ports": ports}
    return {**KINDS["services"].type_meta, "metadata": metadata, "spec": spec}


def service_port(port: PortMapping) -> dict[str, Any]:
    return {
        "name": f"p-{port.container_port}-{port.protocol.lower()}",
        "protocol": port.protocol,
        "port": port.container_port,
        "targetPort": port.container_port,
    }


def prepull_spec(image: str, pod: Mapping[str, Any]) -> JsonObject:
    """The manifest, before the operator's additions; the pull secrets are those of ``pod``, which uses the image."""
    resources, nobody, secrets = {"cpu": "10m", "memory": "16Mi"}, 65534, pod["spec"].get("imagePullSecrets")
    spec: JsonObject = {
        "containers": [
            {
                "name": "prepull",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": [COMMAND],
                "resources": {"requests": dict(resources), "limits": dict(resources)},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "privileged": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "activeDeadlineSeconds": DEADLINE_SECONDS,
        # Every Pod Security level allows this.
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": nobody,
            "runAsGroup": nobody,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {
        **KINDS["pods"].type_meta,
        "metadata": {},
        "spec": spec | ({"imagePullSecrets": secrets} if secrets else {}),
    }


def prepull_pod(manifest: Mapping[str, Any], namespace: str, instance: str, node: str) -> JsonObject:
    """The pod for one node. The scheduler places it, so taints, cordons and a full node are respected."""
    (container,) = manifest["spec"]["containers"]
    metadata = manifest.get("metadata") or {}
    here = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [here]}}
    return {
        **KINDS["pods"].type_meta,
        "metadata": {
            "name": prepull_name(instance, node, container["image"]),
            "namespace": namespace,
            "labels": {**metadata.get("labels", {}), **labels.role_labels(labels.PREPULL, instance)},
            **({"annotations": metadata["annotations"]} if metadata.get("annotations") else {}),
        },
        "spec": {**manifest["spec"], "affinity": {"nodeAffinity": required}},
    }


def check_pod(
    manifest: Mapping[str, Any], name: str, namespace: str, instance: str, selector: Mapping[str, str], seconds: int
) -> JsonObject:
    """The pod that checks a stack, which the kubelet ends after so many seconds."""
    metadata, spec = manifest.get("metadata") or {}, dict(manifest["spec"])
    spec |= {"restartPolicy": "Never", "activeDeadlineSeconds": seconds, "terminationGracePeriodSeconds": 0}
    return {
        **KINDS["pods"].type_meta,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {**_others(metadata.get("labels")), **labels.role_labels(labels.CHECK, instance)},
            **({"annotations": metadata["annotations"]} if metadata.get("annotations") else {}),
        },
        "spec": spec | ({"nodeSelector": dict(selector)} if selector else {}),
    }


def prepull_name(instance: str, node: str, image: str) -> str:
    """The pod's name; the same for the same instance, node and image."""
    return "prepull-" + hashlib.sha256(f"{instance}\0{node}\0{image}".encode()).hexdigest()[:16]
