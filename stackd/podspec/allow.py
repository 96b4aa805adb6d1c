"""The allowlist: which of a Pod's fields a tenant may use at all.

Owns: one table per kind of object. A field that is not in its table is refused by path, whatever its value; a field
with a ``Refused`` is refused for that reason. Other modules check the values of allowed fields. This module names no
types: ``decode`` takes them from ``fields``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Leaf(Enum):
    """How a field without fields of its own is read and kept."""

    PLAIN = "left out when empty, as the typed encoder does"
    KEPT = "kept as given, even when zero or empty"
    QUANTITY = "a quantity, or a mapping of quantities"


@dataclass(frozen=True, slots=True)
class Refused:
    """A field that is never accepted, with the reason."""

    why: str


Table = Mapping[str, object]

PLAIN, KEPT, QUANTITY = Leaf.PLAIN, Leaf.KEPT, Leaf.QUANTITY

_FIELD_REF: Table = {"apiVersion": PLAIN, "fieldPath": KEPT}
_RESOURCE_FIELD_REF: Table = {"containerName": PLAIN, "divisor": QUANTITY, "resource": KEPT}
_KEY_REF: Table = {"name": PLAIN, "key": KEPT, "optional": KEPT}
_NAME_REF: Table = {"name": PLAIN, "optional": KEPT}
_NO_HOST = Refused("a probe or hook may only connect to its own pod")

ENV: Table = {
    "name": KEPT,
    "value": PLAIN,
    "valueFrom": {
        "fieldRef": _FIELD_REF,
        "resourceFieldRef": _RESOURCE_FIELD_REF,
        "secretKeyRef": _KEY_REF,
        "configMapKeyRef": _KEY_REF,
    },
}

_EXEC: Table = {"command": PLAIN}
_HTTP_GET: Table = {
    "httpHeaders": {"name": KEPT, "value": KEPT},
    "path": PLAIN,
    "port": KEPT,
    "scheme": PLAIN,
    "host": _NO_HOST,
}
_TCP_SOCKET: Table = {"port": KEPT, "host": _NO_HOST}
_HOOK: Table = {"exec": _EXEC, "httpGet": _HTTP_GET, "tcpSocket": _TCP_SOCKET, "sleep": {"seconds": KEPT}}
PROBE: Table = {
    "exec": _EXEC,
    "httpGet": _HTTP_GET,
    "tcpSocket": _TCP_SOCKET,
    "grpc": {"port": KEPT, "service": KEPT},
    "failureThreshold": PLAIN,
    "initialDelaySeconds": PLAIN,
    "periodSeconds": PLAIN,
    "successThreshold": PLAIN,
    "terminationGracePeriodSeconds": KEPT,
    "timeoutSeconds": PLAIN,
}

CONTAINER: Table = {
    "name": KEPT,
    "image": PLAIN,
    "imagePullPolicy": PLAIN,
    "command": PLAIN,
    "args": PLAIN,
    "workingDir": PLAIN,
    "env": ENV,
    "envFrom": {"prefix": PLAIN, "configMapRef": _NAME_REF, "secretRef": _NAME_REF},
    "ports": {
        "containerPort": KEPT,
        "name": PLAIN,
        "protocol": PLAIN,
        "hostPort": Refused("ports of the node are not available; publish ports with target_port"),
        "hostIP": Refused("ports of the node are not available; publish ports with target_port"),
    },
    "resources": {
        "limits": QUANTITY,
        "requests": QUANTITY,
        "claims": Refused("device claims are not available"),
    },
    "livenessProbe": PROBE,
    "readinessProbe": PROBE,
    "startupProbe": PROBE,
    "lifecycle": {"postStart": _HOOK, "preStop": _HOOK},
    "terminationMessagePath": PLAIN,
    "terminationMessagePolicy": PLAIN,
    "stdin": PLAIN,
    "stdinOnce": PLAIN,
    "tty": PLAIN,
    "volumeMounts": {"name": KEPT, "mountPath": KEPT, "readOnly": PLAIN, "subPath": PLAIN},
    "securityContext": {
        "allowPrivilegeEscalation": KEPT,
        "privileged": KEPT,
        "seccompProfile": {"type": KEPT},
        "capabilities": {"add": PLAIN, "drop": PLAIN},
        "runAsUser": KEPT,
        "runAsGroup": KEPT,
        "runAsNonRoot": KEPT,
        "readOnlyRootFilesystem": KEPT,
        "appArmorProfile": {"type": KEPT},
    },
    "volumeDevices": Refused("block devices are not available"),
}
INIT_CONTAINER: Table = {**CONTAINER, "restartPolicy": PLAIN}

_ITEMS: Table = {"key": KEPT, "mode": KEPT, "path": KEPT}
_DOWNWARD_ITEMS: Table = {
    "fieldRef": _FIELD_REF,
    "mode": KEPT,
    "path": KEPT,
    "resourceFieldRef": _RESOURCE_FIELD_REF,
}
_HOST_VOLUME = Refused("volumes of the node are not available")
VOLUME: Table = {
    "name": KEPT,
    "emptyDir": {"medium": PLAIN, "sizeLimit": QUANTITY},
    "downwardAPI": {"defaultMode": KEPT, "items": _DOWNWARD_ITEMS},
    "configMap": {"name": PLAIN, "items": _ITEMS, "defaultMode": KEPT, "optional": KEPT},
    "secret": {"secretName": PLAIN, "items": _ITEMS, "defaultMode": KEPT, "optional": KEPT},
    "projected": {
        "defaultMode": KEPT,
        "sources": {
            "downwardAPI": {"items": _DOWNWARD_ITEMS},
            "configMap": {"name": PLAIN, "items": _ITEMS, "optional": KEPT},
            "secret": {"name": PLAIN, "items": _ITEMS, "optional": KEPT},
            "serviceAccountToken": Refused("a stack gets no credentials of the cluster"),
        },
    },
    "persistentVolumeClaim": {"claimName": KEPT, "readOnly": PLAIN},
    "csi": {
        "driver": KEPT,
        "readOnly": KEPT,
        "fsType": KEPT,
        "volumeAttributes": PLAIN,
        "nodePublishSecretRef": Refused("a stack gets no credentials of the cluster"),
    },
    "hostPath": _HOST_VOLUME,
    "ephemeral": Refused("the claim must exist already; use one that policy.volume_claims allows"),
}

NO_HOST_NAMESPACES = "a stack may not share the node's namespaces; leave this field out"
_NO_HOST_NAMESPACES = Refused(NO_HOST_NAMESPACES)
_NO_ACCOUNT = Refused("a stack has no service account")
_NO_PLACEMENT = Refused("the operator decides on which nodes stacks run; use nodeSelector to choose among these")
SPEC: Table = {
    "containers": CONTAINER,
    "initContainers": INIT_CONTAINER,
    "volumes": VOLUME,
    "nodeSelector": PLAIN,
    "hostname": PLAIN,
    "terminationGracePeriodSeconds": KEPT,
    "activeDeadlineSeconds": KEPT,
    "restartPolicy": PLAIN,
    "enableServiceLinks": KEPT,
    "automountServiceAccountToken": KEPT,
    "imagePullSecrets": {"name": PLAIN},
    "securityContext": {
        "seccompProfile": {"type": KEPT},
        "runAsUser": KEPT,
        "runAsGroup": KEPT,
        "runAsNonRoot": KEPT,
        "fsGroup": KEPT,
        "appArmorProfile": {"type": KEPT},
    },
    "hostNetwork": _NO_HOST_NAMESPACES,
    "hostPID": _NO_HOST_NAMESPACES,
    "hostIPC": _NO_HOST_NAMESPACES,
    "hostUsers": KEPT,
    "serviceAccount": _NO_ACCOUNT,
    "serviceAccountName": _NO_ACCOUNT,
    "nodeName": _NO_PLACEMENT,
    "affinity": _NO_PLACEMENT,
    "topologySpreadConstraints": _NO_PLACEMENT,
    "schedulerName": _NO_PLACEMENT,
    "tolerations": Refused("the operator sets tolerations (policy.tolerations)"),
    "runtimeClassName": Refused("the operator sets the runtime class (policy.runtime_class)"),
    "ephemeralContainers": Refused("can only be added to a running pod, which stackd does not offer"),
    "resources": Refused("set the resources of each container instead"),
}

METADATA: Table = {
    "name": PLAIN,
    "namespace": PLAIN,
    "labels": PLAIN,
    "annotations": PLAIN,
    "generateName": Refused("stackd names the pod"),
}

POD: Table = {"apiVersion": KEPT, "kind": KEPT, "metadata": METADATA, "spec": SPEC, "status": {}}
