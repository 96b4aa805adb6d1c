"""The record of a stack, from which a lost state file can be rebuilt: on its Pod, or in a ConfigMap while it has no pod.

Owns the record's format and its version, and the ConfigMap's form. The record is an annotation. What is rebuilt from
it says ``creating`` and is then observed like any other stack. When a stack is extended, the new end stands in an
annotation of its own, and the record stays as it was. A stack that its user has stopped, or that is getting another
pod, has a ConfigMap of its name. Pure; nothing is read from any of it while the state file is there.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from stackd.clock import from_nanoseconds, to_nanoseconds
from stackd.kube import labels
from stackd.kube.objects import expiry_of
from stackd.kube.wire import CONFIG_MAPS, KINDS, JsonObject
from stackd.model import NO_VALUES, Desired, PortMapping, Stack, StackStatus
from stackd.podspec.additions import values_in

VERSION = 1
# Whoever watches pods reads the annotation with every change of each of them, and Kubernetes takes 256 KiB of them in
# all: a text that is not short is packed, unless that makes it longer.
_PACK_ABOVE_BYTES = 2 * 1024
_LONGEST_UNPACKED = 16 * 1024 * 1024
_PACKED = "pod_spec_deflated"

DESIRED = "stackd.io/desired"
"""Says ``running`` where the stack is not to stay stopped, but to get another pod."""

NODE, ADDRESS = "stackd.io/node", "stackd.io/node-public-ip"
"""Where its last pod was, as the API goes on to tell."""

VALUES = "values"
"""The key of the ConfigMap's data under which the stack's generated values stand, as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrecoverable:
    """A pod of ours from which no stack can be rebuilt, and why."""

    name: str
    reason: str


def our_annotations(stack: Stack) -> dict[str, str]:
    """What stands on a stack's pod so that its row can be made from it; for a whole stack (``Store.whole``)."""
    ours = {labels.RECORD: record_annotation(stack), labels.EXPIRES: from_nanoseconds(stack.ttl_expires_at)}
    return ours | ({labels.GENERATION: str(stack.generation)} if stack.generation else {})


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
        **_of_template(stack),
        **_pack(_text(stack)),
    }
    return orjson.dumps(record, option=orjson.OPT_SORT_KEYS).decode()


def _of_template(stack: Stack) -> dict[str, object]:
    """What is said of the template. Of generated values only the names: they stand in the pod's environment."""
    found: dict[str, object] = {"template": stack.template} if stack.template is not None else {}
    if stack.digest is not None:
        found["digest"] = stack.digest
    if stack.values:
        found["values"] = list(stack.values)
    if stack.unassigned:
        found["unassigned"] = True
    return found


def parse_record(
    pod: Mapping[str, Any], service: Mapping[str, Any] | None, values: Mapping[str, str] | None = None
) -> Stack | Unrecoverable:
    """The stack that the pod and its service (as Kubernetes' JSON) were made for.

    Its generated values are ``values``, or what the pod's environment holds where none are given.
    Node ports are the service's where there is one, since a port may have been replaced after the pod was made.
    Never raises for what stands in the annotation: anybody with rights on the pod can have edited it.
    """
    metadata = pod["metadata"]
    name: str = metadata["name"]
    text = labels.annotations_of(pod).get(labels.RECORD)
    if not text:
        return Unrecoverable(name=name, reason=f"it carries no {labels.RECORD} annotation")
    if metadata.get("deletionTimestamp"):
        return Unrecoverable(name=name, reason="it is being deleted")
    try:
        record = orjson.loads(text)
        if record["version"] != VERSION:
            return Unrecoverable(name=name, reason=f"its record has version {record['version']}, not {VERSION}")
        return _stack(pod, service, record, _values(pod, record) if values is None else values)
    except (ValueError, TypeError, KeyError, LookupError, AttributeError, zlib.error, binascii.Error) as exc:
        return Unrecoverable(name=name, reason=f"its record cannot be read: {type(exc).__name__}: {exc}")


def _stack(
    pod: Mapping[str, Any], service: Mapping[str, Any] | None, record: Mapping[str, Any], values: Mapping[str, str]
) -> Stack:
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
        template=_text_or_none(record.get("template")),
        values=values,
        unassigned=record.get("unassigned") is True,
        digest=_text_or_none(record.get("digest")),
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


def _values(pod: Mapping[str, Any], record: Mapping[str, Any]) -> Mapping[str, str]:
    return values_in(pod, map(str, record["values"])) if "values" in record else NO_VALUES


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


def _node_ports(service: Mapping[str, Any]) -> dict[tuple[int, str], int]:
    return {
        (port["targetPort"], port.get("protocol", "TCP")): port["nodePort"]
        for port in service["spec"].get("ports") or ()
        if "nodePort" in port
    }


def _text(stack: Stack) -> str:
    if stack.pod_spec is None:
        raise ValueError(f"the pod spec of {stack.stack_id} was not read")
    return stack.pod_spec


def _pack(pod_spec: str) -> dict[str, object]:
    data = pod_spec.encode()
    if len(data) > _PACK_ABOVE_BYTES:
        packed = base64.b64encode(zlib.compress(data))
        if len(packed) < len(data):
            return {_PACKED: packed.decode()}
    return {"pod_spec": pod_spec}


def _unpack(record: Mapping[str, Any]) -> str:
    if _PACKED not in record:
        return str(record["pod_spec"])
    unpacking = zlib.decompressobj()
    data = unpacking.decompress(base64.b64decode(record[_PACKED], validate=True), _LONGEST_UNPACKED)
    if not unpacking.eof:
        raise ValueError(f"its pod spec is cut short, or longer than {_LONGEST_UNPACKED} bytes")
    return data.decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedRecord:
    """What is kept of such a ConfigMap; ``going`` while it is being deleted.

    Times in nanoseconds; ``expires_at`` is 0 where what stands there makes no sense.
    """

    name: str
    uid: str
    resource_version: str
    instance: str
    stack_id: str
    going: bool
    created_at: int = 0
    expires_at: int = 0


def stopped_manifest(stack: Stack, instance: str) -> JsonObject:
    """The ConfigMap, of the stack's own name, with the annotations that the stack's next pod would carry."""
    metadata = {
        "name": stack.stack_id,
        "namespace": stack.namespace,
        "labels": labels.object_labels(instance, stack.stack_id),
        "annotations": stopped_annotations(stack),
    }
    manifest: JsonObject = {**KINDS[CONFIG_MAPS].type_meta, "metadata": metadata}
    # No pod holds its generated values now. Who may read ConfigMaps here may read the pods that held them, too.
    return manifest | ({"data": {VALUES: orjson.dumps(dict(stack.values)).decode()}} if stack.values else {})


def stopped_annotations(stack: Stack) -> dict[str, str]:
    """All that such a ConfigMap says, as it is now."""
    return our_annotations(stack) | {
        labels.GENERATION: str(stack.generation),
        DESIRED: stack.desired.value,
        NODE: stack.node_id or "",
        ADDRESS: stack.node_public_ip or "",
    }


def stopped_record(raw: Mapping[str, Any]) -> StoppedRecord:
    """What is kept of the ConfigMap that Kubernetes' JSON is. Raises KeyError."""
    metadata, names = raw["metadata"], labels.labels_of(raw)
    return StoppedRecord(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        instance=labels.instance_of(names),
        stack_id=names.get(labels.STACK, ""),
        going=bool(metadata.get("deletionTimestamp")),
        created_at=to_nanoseconds(metadata["creationTimestamp"]),
        expires_at=expiry_of(raw) or 0,
    )


def parse_stopped(raw: Mapping[str, Any]) -> Stack | Unrecoverable:
    """The stack with its ports and without a pod: at rest, or about to get one. Never raises for what it holds."""
    try:
        values = _stopped_values(raw)
    except (ValueError, TypeError, AttributeError) as exc:
        return Unrecoverable(name=raw["metadata"]["name"], reason=f"its values cannot be read: {type(exc).__name__}")
    found = parse_record({**raw, "spec": {}, "status": {}}, None, values)
    if isinstance(found, Unrecoverable):
        return found
    annotations, starting = labels.annotations_of(raw), _is_starting(raw)
    return replace(
        found,
        status=StackStatus.CREATING if starting else StackStatus.STOPPED,
        desired=Desired.RUNNING if starting else Desired.STOPPED,
        pod_uid=None,
        ports_held=True,
        node_id=annotations.get(NODE) or None,
        node_public_ip=annotations.get(ADDRESS) or None,
    )


def supersedes(record: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Whether the record is of a later time than the pod of the same stack (both as JSON): that pod is to be stopped, or to give
    way to another one.
    """
    one, other = labels.generation_of(record), labels.generation_of(pod)
    return one > other or (one == other and not _is_starting(record))


def _is_starting(raw: Mapping[str, Any]) -> bool:
    return labels.annotations_of(raw).get(DESIRED) == Desired.RUNNING.value


def _stopped_values(raw: Mapping[str, Any]) -> Mapping[str, str]:
    text = (raw.get("data") or {}).get(VALUES)
    return NO_VALUES if text is None else {str(name): str(value) for name, value in orjson.loads(text).items()}
