"""What a request or a template has beside its pod spec: ``target_port``, the published container ports, and ``labels``.

Owns: reading the JSON values. A label's name and value follow Kubernetes' rules; stackd adds the prefix. Knows nothing of
node ports.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import MappingProxyType

from stackd.contract import LARGEST_PORT, MAX_TARGET_PORTS, PROTOCOLS
from stackd.errors import InvalidRequest
from stackd.model import NO_LABELS, Route, RoutedTarget, TargetPort
from stackd.names import BARE_KEY_FORM, did_you_mean, is_bare_key, is_label_value
from stackd.podspec.reasons import Enough, Reasons, below, shown

MAX_LABELS = 16
_FIELDS = ("container_port", "protocol", "route")


def parse_target_ports(value: object) -> tuple[TargetPort, ...]:
    """The published ports, with their protocols in upper case. Raises ``InvalidRequest`` with each mistake."""
    reasons = Reasons()
    ports: tuple[TargetPort, ...] = ()
    with contextlib.suppress(Enough):
        if isinstance(value, list) and 1 <= len(value) <= MAX_TARGET_PORTS:
            ports = _parse_entries(value, reasons)
        else:
            reasons.add("target_port", _no_list(value))
    if reasons:
        mistakes = reasons.as_list()
        raise InvalidRequest("; ".join(map(str, mistakes)), mistakes)
    return ports


def parse_labels(value: object) -> Mapping[str, str]:
    """The labels, read-only. Raises ValueError with a sentence that begins with ``labels``."""
    if not isinstance(value, dict):
        raise ValueError('labels must be an object such as {"team": "7"}')
    if len(value) > MAX_LABELS:
        raise ValueError(f"{len(value)} labels; {MAX_LABELS} at most")
    for key, text in value.items():
        if not is_bare_key(key):
            raise ValueError(f"labels: {key[:64]!r} is not a label name ({BARE_KEY_FORM})")
        if not isinstance(text, str) or not is_label_value(text):
            raise ValueError(f"labels.{key} must be a string of {BARE_KEY_FORM}")
    return MappingProxyType(value) if value else NO_LABELS


def _no_list(value: object) -> str:
    if value is None:
        return "is required"
    if isinstance(value, Mapping):
        return 'must be a list of objects, such as [{"container_port": 80, "protocol": "TCP"}]'
    if isinstance(value, list):
        return f"must have 1 to {MAX_TARGET_PORTS} entries, not {len(value)}"
    return "must be a list of objects with container_port and protocol"


def _parse_entries(entries: list[object], reasons: Reasons) -> tuple[TargetPort, ...]:
    seen: dict[tuple[int, str], int] = {}
    ports = []
    for index, entry in enumerate(entries):
        path = f"target_port[{index}]"
        port = _parse_entry(entry, path, reasons)
        if port is None:
            continue
        ports.append(port)
        first = seen.setdefault((port.container_port, port.protocol), index)
        if first != index:
            reasons.add(path, f"{port.container_port}/{port.protocol} is already target_port[{first}]")
    return tuple(ports)


def _parse_entry(entry: object, path: str, reasons: Reasons) -> TargetPort | None:
    if not isinstance(entry, Mapping):
        reasons.add(path, "must be an object with container_port and protocol")
        return None
    for name in entry:
        if name not in _FIELDS:
            reasons.add(below(path, str(name)), "unknown field" + did_you_mean(str(name), _FIELDS))
    number = _container_port(entry.get("container_port"), f"{path}.container_port", reasons)
    protocol = _protocol(entry.get("protocol"), f"{path}.protocol", reasons)
    route = _route(entry["route"], protocol, f"{path}.route", reasons) if "route" in entry else None
    if number is None or protocol is None:
        return None
    if route is not None:
        return RoutedTarget(container_port=number, protocol=protocol, route=route)
    return TargetPort(container_port=number, protocol=protocol)


def _container_port(value: object, path: str, reasons: Reasons) -> int | None:
    if type(value) is int and 1 <= value <= LARGEST_PORT:
        return value
    reasons.add(path, "is required" if value is None else f"must be an integer from 1 to {LARGEST_PORT}")
    return None


def _protocol(value: object, path: str, reasons: Reasons) -> str | None:
    if isinstance(value, str) and value.upper() in PROTOCOLS:
        return value.upper()
    missing = value is None or value == ""
    reasons.add(path, "is required: TCP or UDP" if missing else f"must be TCP or UDP{_instead_of(value)}")
    return None


def _route(value: object, protocol: str | None, path: str, reasons: Reasons) -> Route | None:
    if not isinstance(value, str) or value not in list(Route):
        choices = f"must be one of {', '.join(Route)}{_instead_of(value)}"
        reasons.add(path, f"{choices}; leave it out to get a node port")
        return None
    if protocol == "UDP":
        reasons.add(path, "a UDP port cannot have a name; leave route out to get a node port")
        return None
    return Route(value)


def _instead_of(value: object) -> str:
    return f", not {shown(value)}" if isinstance(value, str) else ""
