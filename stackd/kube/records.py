"""The record of a stack, from which a lost state file can be rebuilt: on its Pod, or in a ConfigMap without a pod.

Owns: the record's format and version, and the form of the ConfigMap. The record is an annotation. A rebuilt stack
starts as ``creating`` and is then observed like any other. When a stack is extended, only a separate annotation with
the new expiry changes, not the record. A stack that its user has stopped, or that waits for another pod, has a
ConfigMap with its name. Pure. Records are not read while the state file exists.
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
# Everybody who watches pods receives the annotation with each change of a pod, and Kubernetes allows 256 KiB of
# annotations in all. So a long text is compressed, unless that makes it longer.
_PACK_ABOVE_BYTES = 2 * 1024
_LONGEST_UNPACKED = 16 * 1024 * 1024
_PACKED = "pod_spec_deflated"
_CLOSED = "closed"
"""In the record of a stack in a pool: this record is replaced before the stack's create is answered.

Earlier versions of stackd answered first, so a stack of theirs may have been given away whatever its record says.
"""

DESIRED = "stackd.io/desired"
"""``running`` if the stack is to get another pod instead of staying stopped."""

NODE, ADDRESS = "stackd.io/node", "stackd.io/node-public-ip"
"""The node of the stack's last pod, which the API still shows."""

VALUES = "values"
"""The key of the ConfigMap's data that holds the stack's generated values, as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrecoverable:
    """A pod of ours from which no stack can be rebuilt, and why."""

    name: str
    reason: str


def our_annotations(stack: Stack) -> dict[str, str]:
    """The annotations of a stack's pod from which its row can be rebuilt. Needs a whole stack (``Stacks.whole``)."""
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
    """The record's fields about the template. Of generated values it has only the names: the pod has the values."""
    found: dict[str, object] = {"template": stack.template} if stack.template is not None else {}
    if stack.digest is not None:
        found["digest"] = stack.digest
    if stack.values:
        found["values"] = list(stack.values)
    if stack.unassigned:
        found |= {"unassigned": True, _CLOSED: True}
    return found


def parse_record(
    pod: Mapping[str, Any], service: Mapping[str, Any] | None, values: Mapping[str, str] | None = None
) -> Stack | Unrecoverable:
    """The stack of the pod and its service (both as Kubernetes' JSON).

    Its generated values are ``values``, or those of the pod's environment if ``values`` is None. Node ports are taken
    from the service if there is one, because a port may have been replaced after the pod was created. A stack that
    waits in a pool by its record has no digest if it may have been given to a client nevertheless. Never raises
    because of the annotation's content: anybody with rights on the pod can edit it.
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
        digest=None if _may_be_given(metadata, record) else _text_or_none(record.get("digest")),
    )


def _may_be_given(metadata: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether a stack that waits in a pool by its record may have been given to a client nevertheless."""
    waits = record.get("unassigned") is True
    return waits and (record.get(_CLOSED) is not True or labels.ASSIGNED in metadata["labels"])


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
    """What stackd keeps of the ConfigMap of a stopped stack; ``going`` while it is being deleted.

    Times in nanoseconds; ``expires_at`` is 0 if its annotation cannot be read.
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
    """The ConfigMap, named as the stack, with the annotations that the stack's next pod would carry."""
    metadata = {
        "name": stack.stack_id,
        "namespace": stack.namespace,
        "labels": labels.object_labels(instance, stack.stack_id),
        "annotations": stopped_annotations(stack),
    }
    manifest: JsonObject = {**KINDS[CONFIG_MAPS].type_meta, "metadata": metadata}
    # No pod holds the generated values now. Whoever may read ConfigMaps here could also read the pods that held them.
    return manifest | ({"data": {VALUES: orjson.dumps(dict(stack.values)).decode()}} if stack.values else {})


def stopped_annotations(stack: Stack) -> dict[str, str]:
    """The annotations of a stopped stack's ConfigMap, for the stack as it is now."""
    return our_annotations(stack) | {
        labels.GENERATION: str(stack.generation),
        DESIRED: stack.desired.value,
        NODE: stack.node_id or "",
        ADDRESS: stack.node_public_ip or "",
    }


def stopped_record(raw: Mapping[str, Any]) -> StoppedRecord:
    """The view of the ConfigMap's JSON. Raises KeyError."""
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
    """The stack with its ports and without a pod: stopped, or about to get one. Never raises because of the content."""
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
    """Whether the record is newer than the pod of the same stack (both as JSON).

    If so, that pod is to be stopped, or replaced by another one.
    """
    one, other = labels.generation_of(record), labels.generation_of(pod)
    return one > other or (one == other and not _is_starting(record))


def _is_starting(raw: Mapping[str, Any]) -> bool:
    return labels.annotations_of(raw).get(DESIRED) == Desired.RUNNING.value


def _stopped_values(raw: Mapping[str, Any]) -> Mapping[str, str]:
    text = (raw.get("data") or {}).get(VALUES)
    return NO_VALUES if text is None else {str(name): str(value) for name, value in orjson.loads(text).items()}
