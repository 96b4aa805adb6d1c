"""The record of a stack on its Service, from which a lost state file can be rebuilt. Pure.

The record is an annotation of the Service, which exists from the reservation of a stack to its removal; the pod carries
only its generation. What changes most (the expiry) and what the daemon compares on each pass (the generation, and what
the pod should be) are annotations of their own beside it. Records are not read while the state file exists.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from msgspec import json

from stackd.clock import from_nanoseconds, to_nanoseconds
from stackd.kube import labels
from stackd.kube.wire import JsonObject
from stackd.model import NO_VALUES, Desired, Member, Offer, PortMapping, Route, RoutedPort, Stack, StackStatus
from stackd.podspec.additions import values_in
from stackd.podspec.members import addresses_in

VERSION = 2
# Everybody who watches Services receives the annotation with each change of a Service, and Kubernetes allows 256 KiB of
# annotations in all. So a long text is compressed, unless that makes it longer.
_PACK_ABOVE_BYTES = 2 * 1024
_LONGEST_UNPACKED = 16 * 1024 * 1024
_PACKED = "pod_spec_deflated"

NO_PODS: Mapping[str, JsonObject] = {}
RUNNING, STARTING, STOPPED, ENDED = "running", "starting", "stopped", "ended"
POD_DELETED = "PodDeleted"
POD_DELETED_MESSAGE = "the pod is gone from the cluster and stackd did not delete it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrecoverable:
    """An object of ours from which no stack can be rebuilt, and why."""

    name: str
    reason: str


def wanted_pod(stack: Stack) -> str:
    """What the stack's pod should be, in the words of the ``stackd.io/desired`` annotation."""
    if stack.desired is Desired.STOPPED:
        return STOPPED
    if stack.ended:
        return ENDED
    return STARTING if stack.accepted and stack.lacks_a_pod else RUNNING


def wanted_members(stack: Stack) -> str:
    """Which pods of its members are meant, in the words of the ``stackd.io/members`` annotation; empty if it has none."""
    return ",".join([f"{member.name}={member.generation}" for member in stack.members]) if stack.members else ""


def service_annotations(stack: Stack) -> dict[str, str]:
    """The annotations of the stack's Service. Needs a stack with its pod spec (``Stacks.with_pod_spec``).

    Generated values are in the record only while there is no pod, which has them otherwise: more programs may read
    Services than pods.
    """
    if stack.pod_spec is None:
        raise ValueError(f"the pod spec of {stack.stack_id} was not read")
    record: dict[str, object] = {
        "version": VERSION,
        "created_at": from_nanoseconds(stack.created_at),
        "ttl_expires_at": from_nanoseconds(stack.ttl_expires_at),
        "ports": [_recorded(port) for port in stack.ports],
        "cpu_milli": stack.requested_cpu_milli,
        "memory_bytes": stack.requested_memory_bytes,
        "labels": dict(stack.labels),
        **_pack(stack.pod_spec),
    }
    optional = {
        "template": stack.template,
        "digest": stack.digest,
        "values": dict(stack.values) if wanted_pod(stack) in (STARTING, STOPPED) else list(stack.values),
        "env": dict(stack.env),
        "offer": asdict(stack.offer) if stack.offer is not None else None,
        "unassigned": stack.unassigned,
        "shared": stack.shared,
        "node": stack.node_id,
        "address": stack.node_public_ip,
        "ended": [stack.status.value, stack.status_reason, stack.status_message] if stack.ended else None,
        "members": {member.name: member.ports for member in stack.members} if stack.members else None,
    }
    record |= {key: value for key, value in optional.items() if value}
    return {
        labels.RECORD: json.encode(record, order="sorted").decode(),
        **expiry_annotations(stack),
        **({labels.RELABELLED: str(stack.relabelled)} if stack.relabelled else {}),
        labels.GENERATION: str(stack.generation),
        labels.DESIRED: wanted_pod(stack),
        **({labels.MEMBERS: wanted_members(stack)} if stack.members else {}),
    }


def expiry_annotations(stack: Stack) -> dict[str, str]:
    """Those that an extension changes."""
    extensions = {labels.EXTENSIONS: str(stack.extensions)} if stack.extensions else {}
    return {labels.EXPIRES: from_nanoseconds(stack.ttl_expires_at), **extensions}


def _recorded(port: PortMapping) -> list[object]:
    """Three values; of a routed port five, with its route and host."""
    recorded: list[object] = [port.container_port, port.protocol, port.node_port]
    return [*recorded, port.route, port.host] if isinstance(port, RoutedPort) else recorded


def parse_record(
    service: JsonObject, pod: JsonObject | None, others: Mapping[str, JsonObject] = NO_PODS
) -> Stack | Unrecoverable:
    """The stack of a Service, its pod, and those of its members, by their names (all as Kubernetes' JSON).

    Never raises because of the record's content: anybody with rights on the Service can edit it.
    """
    metadata = service["metadata"]
    name: str = metadata["name"]
    text = labels.annotations_of(service).get(labels.RECORD)
    if not text:
        return Unrecoverable(name=name, reason=f"it carries no {labels.RECORD} annotation")
    if metadata.get("deletionTimestamp"):
        return Unrecoverable(name=name, reason="it is being deleted")
    try:
        record = json.decode(text)
        if record["version"] != VERSION:
            return Unrecoverable(name=name, reason=f"its record has version {record['version']}, not {VERSION}")
        return _parsed(service, pod, others, record)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, zlib.error) as exc:
        return Unrecoverable(name=name, reason=f"its record cannot be read: {type(exc).__name__}: {exc}")


def _parsed(
    service: JsonObject, pod: JsonObject | None, others: Mapping[str, JsonObject], record: Mapping[str, Any]
) -> Stack:
    generation, wanted = labels.generation_of(service), labels.annotations_of(service).get(labels.DESIRED)
    own = pod if pod is not None and labels.generation_of(pod) >= generation else None
    stack = _as_recorded(service, record, generation, _values(own, record))
    if wanted == STOPPED:
        return replace(stack, status=StackStatus.STOPPED, desired=Desired.STOPPED, ports_held=True)
    if stack.members:
        stack = replace(stack, members=tuple(_with_its_pod(member, others, own) for member in stack.members))
    if own is None and wanted == STARTING:
        return replace(stack, ports_held=True)
    if own is not None:
        stack = _with_pod(stack, own)
    if wanted == STARTING and stack.lacks_a_pod and not stack.ended:
        return replace(stack, ports_held=True)
    if "ended" in record or stack.lacks_a_pod:
        status, reason, message = record.get("ended", (StackStatus.STOPPED, POD_DELETED, POD_DELETED_MESSAGE))
        return replace(
            stack, ended=True, status=StackStatus(status), status_reason=str(reason), status_message=str(message)
        )
    return stack if stack.ended else replace(stack, ports_held=True)


def _as_recorded(service: JsonObject, record: Mapping[str, Any], generation: int, values: Mapping[str, str]) -> Stack:
    """What the Service and its record say, without the pod."""
    metadata, spec = service["metadata"], service["spec"]
    created_at = to_nanoseconds(record["created_at"])
    serving = labels.serving_of(spec.get("selector") or {}) or 0
    stack = Stack(
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
        labels={str(key): str(value) for key, value in record["labels"].items()},
        accepted=True,
        service_uid=metadata["uid"],
        generation=generation,
        serving=serving if record.get("shared") is True else None,
        node_id=_optional_text(record.get("node")),
        node_public_ip=_optional_text(record.get("address")),
        template=_optional_text(record.get("template")),
        values=values,
        env={str(name): str(value) for name, value in (record.get("env") or {}).items()} or NO_VALUES,
        unassigned=record.get("unassigned") is True,
        digest=_optional_text(record.get("digest")),
        offer=_offer(record["offer"]) if record.get("offer") else None,
        extensions=int(metadata["annotations"].get(labels.EXTENSIONS, "0")[:4]),
        relabelled=labels.relabelled_of(metadata["annotations"]),
        members=_members(record, metadata["annotations"].get(labels.MEMBERS, "")),
    )
    # Without node ports, the type of the Service does not say whether it holds anything; names are released first.
    holds = spec.get("type") == "NodePort" or not (stack.node_ports or "ended" in record)
    return replace(stack, ports_held=holds)


def _with_pod(stack: Stack, pod: JsonObject) -> Stack:
    phase = (pod.get("status") or {}).get("phase")
    return replace(
        stack,
        pod_uid=pod["metadata"]["uid"],
        node_id=pod["spec"].get("nodeName") or stack.node_id,
        ended=phase in ("Failed", "Succeeded"),
    )


def _with_its_pod(member: Member, others: Mapping[str, JsonObject], first: JsonObject | None) -> Member:
    """The member with its pod, if that is one that is meant, and the address under which the first pod knows it."""
    pod = others.get(member.name)
    if pod is None or labels.generation_of(pod) < member.generation:
        return member
    return replace(
        member,
        pod_uid=pod["metadata"]["uid"],
        node_id=pod["spec"].get("nodeName"),
        address=addresses_in(first or pod).get(member.name, ""),
    )


def _members(record: Mapping[str, Any], generations: str) -> tuple[Member, ...]:
    meant = dict(part.split("=") for part in generations.split(",")) if generations else {}
    return tuple(
        Member(
            name=str(name),
            ports=tuple((int(number), str(protocol)) for number, protocol in ports),
            generation=int(meant.get(name, "0")[:10]),
        )
        for name, ports in record.get("members", {}).items()
    )


def _values(pod: JsonObject | None, record: Mapping[str, Any]) -> Mapping[str, str]:
    kept = record.get("values") or {}
    if isinstance(kept, dict):
        return {str(name): str(value) for name, value in kept.items()} or NO_VALUES
    return values_in(pod, map(str, kept)) if pod is not None else NO_VALUES


def _ports(record: Mapping[str, Any], service: JsonObject) -> tuple[PortMapping, ...]:
    """The ports; their node ports from the Service, where it has them: a port may have been replaced."""
    node_ports = {
        (port["targetPort"], port.get("protocol", "TCP")): port["nodePort"]
        for port in service["spec"].get("ports") or ()
        if "nodePort" in port
    }
    return tuple(_port(recorded, node_ports) for recorded in record["ports"])


def _port(recorded: Sequence[Any], node_ports: Mapping[tuple[int, str], int]) -> PortMapping:
    container_port, protocol, node_port, *routed = recorded
    number, protocol = int(container_port), str(protocol)
    if routed:
        route, host = routed
        return RoutedPort(container_port=number, protocol=protocol, route=Route(route), host=str(host))
    held = node_ports.get((number, protocol), int(node_port))
    return PortMapping(container_port=number, protocol=protocol, node_port=held)


def _offer(kept: Mapping[str, Any]) -> Offer:
    show = tuple(map(str, kept["show"]))
    by, times, cost = float(kept["by"]), int(kept["times"]), int(kept.get("cost", 1))
    return Offer(title=str(kept["title"]), show=show, by=by, times=times, cost=cost)


def _optional_text(value: object) -> str | None:
    return None if value is None else str(value)


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
