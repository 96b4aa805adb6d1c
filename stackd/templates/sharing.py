"""What a template says about its shared stack: the node ports and names that its target ports keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stackd.contract import LARGEST_PORT
from stackd.names import is_label

NODE_PORT, HOSTNAME = "node_port", "hostname"


def without_places(ports: Any) -> Any:
    """``target_port`` as a create may have it, too."""
    if not isinstance(ports, list):
        return ports
    return [{key: entry[key] for key in entry if key not in (NODE_PORT, HOSTNAME)} if isinstance(entry, dict) else entry
            for entry in ports]  # fmt: skip


def places(ports: Any, key: str) -> dict[int, Any]:
    """What the entries of a ``target_port`` without mistakes say under this key, by container port."""
    return {entry["container_port"]: entry[key] for entry in ports or () if entry.get(key) is not None}


def mistakes(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the fields that concern a shared stack, each with its path."""
    shared, ports = fields.get("shared") is True, fields.get("target_port")
    if shared and fields.get("pool"):
        yield "pool", "a shared template has one stack, and no pool"
    taken: set[object] = set()
    for index, entry in enumerate(ports if isinstance(ports, list) else ()):
        for key in (NODE_PORT, HOSTNAME):
            value = entry.get(key) if isinstance(entry, dict) else None
            if value is None:
                continue
            text = _mistake(key, value, entry.get("route") is not None)
            if not text and not shared:
                text = "only a shared template (shared: true) has one"
            if not text and value in taken:
                text = f"another target port has {value} already"
            taken.add(value)
            if text:
                yield f"target_port[{index}].{key}", text


def _mistake(key: str, value: object, routed: bool) -> str:
    if key == NODE_PORT:
        if routed:
            return "a port with a route has a name, and no node port"
        return (
            "" if type(value) is int and 0 < value <= LARGEST_PORT else f"a port from 1 to {LARGEST_PORT} is expected"
        )
    if not routed:
        return "only a port with a route has a name"
    is_name = isinstance(value, str) and is_label(value)
    return (
        ""
        if is_name
        else "the first part of a name below routes.domain is expected: lower-case letters, digits, hyphens"
    )
