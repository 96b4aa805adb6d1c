"""A stack's whole record, as the annotation on its pod, so that a lost file can be rebuilt from the cluster.

Owns the annotation's format and its version. Knows nothing of how rows are stored or how a status is decided: what is
rebuilt says ``creating`` and is then observed like any other stack. When the stack is extended, the new end stands in an
annotation of its own, and the record stays as it was. A stack that its user has stopped has no pod and so no record.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from stackd.kube import labels
from stackd.model import PortMapping, Stack, StackStatus
from stackd.times import from_nanoseconds, to_nanoseconds

VERSION = 1
# Kubernetes takes 256 KiB of annotations in all; a long text is packed so that the largest body that
# the API accepts still has room.
_PACK_ABOVE_BYTES = 32 * 1024
_PACKED = "pod_spec_deflated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrecoverable:
    """A pod of ours from which no stack can be rebuilt, and why."""

    name: str
    reason: str


def record_annotation(stack: Stack) -> str:
    """The value of the ``stackd.io/record`` annotation for the stack as it is now."""
    record: dict[str, object] = {
        "version": VERSION,
        "created_at": from_nanoseconds(stack.created_at),
        "ttl_expires_at": from_nanoseconds(stack.ttl_expires_at),
        "ports": [[port.container_port, port.protocol, port.node_port] for port in stack.ports],
        "cpu_milli": stack.requested_cpu_milli,
        "memory_bytes": stack.requested_memory_bytes,
        "labels": dict(stack.labels),
        **({"generation": stack.generation} if stack.generation else {}),
        **_pack(stack.pod_spec),
    }
    return orjson.dumps(record, option=orjson.OPT_SORT_KEYS).decode()


def parse_record(pod: Mapping[str, Any], service: Mapping[str, Any] | None) -> Stack | Unrecoverable:
    """The stack that the pod and its service (as Kubernetes' JSON) were made for.

    Node ports are the service's where there is one, since a port may have been replaced after the pod was made.
    Never raises for what stands in the annotation: anybody with rights on the pod can have edited it.
    """
    metadata = pod["metadata"]
    name: str = metadata["name"]
    text = (metadata.get("annotations") or {}).get(labels.RECORD)
    if not text:
        return Unrecoverable(name=name, reason=f"it carries no {labels.RECORD} annotation")
    if metadata.get("deletionTimestamp"):
        return Unrecoverable(name=name, reason="it is being deleted")
    try:
        record = orjson.loads(text)
        if record["version"] != VERSION:
            return Unrecoverable(name=name, reason=f"its record has version {record['version']}, not {VERSION}")
        return _stack(pod, service, record)
    except (ValueError, TypeError, KeyError, LookupError, AttributeError, zlib.error, binascii.Error) as exc:
        return Unrecoverable(name=name, reason=f"its record cannot be read: {type(exc).__name__}: {exc}")


def _stack(pod: Mapping[str, Any], service: Mapping[str, Any] | None, record: Mapping[str, Any]) -> Stack:
    metadata = pod["metadata"]
    created_at = to_nanoseconds(record["created_at"])
    ended = (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")
    return Stack(
        stack_id=metadata["labels"][labels.STACK],
        namespace=metadata["namespace"],
        pod_spec=_unpack(record),
        ports=_ports(record, service),
        status=StackStatus.CREATING,
        created_at=created_at,
        updated_at=created_at,
        ttl_expires_at=to_nanoseconds(metadata["annotations"].get(labels.EXPIRES) or record["ttl_expires_at"]),
        requested_cpu_milli=int(record["cpu_milli"]),
        requested_memory_bytes=int(record["memory_bytes"]),
        node_id=pod["spec"].get("nodeName"),
        labels={str(key): str(value) for key, value in record["labels"].items()},
        accepted=True,
        ended=ended,
        ports_held=service is not None or not ended,
        pod_uid=metadata["uid"],
        service_uid=service["metadata"]["uid"] if service is not None else None,
        generation=int(record.get("generation", 0)),
    )


def _ports(record: Mapping[str, Any], service: Mapping[str, Any] | None) -> tuple[PortMapping, ...]:
    given = {} if service is None else _node_ports(service)
    return tuple(
        PortMapping(
            container_port=int(container_port),
            protocol=str(protocol),
            node_port=given.get((container_port, protocol), int(node_port)),
        )
        for container_port, protocol, node_port in record["ports"]
    )


def _node_ports(service: Mapping[str, Any]) -> dict[tuple[int, str], int]:
    return {
        (port["targetPort"], port.get("protocol", "TCP")): port["nodePort"]
        for port in service["spec"].get("ports") or ()
        if "nodePort" in port
    }


def _pack(pod_spec: str) -> dict[str, object]:
    data = pod_spec.encode()
    if len(data) <= _PACK_ABOVE_BYTES:
        return {"pod_spec": pod_spec}
    return {_PACKED: base64.b64encode(zlib.compress(data, 9)).decode()}


def _unpack(record: Mapping[str, Any]) -> str:
    if _PACKED in record:
        return zlib.decompress(base64.b64decode(record[_PACKED], validate=True)).decode()
    return str(record["pod_spec"])
