"""What a request or a template has beside its pod spec: ``target_port``, the published container ports, and ``labels``.

Owns: reading the JSON values. A label's name and value follow Kubernetes' rules; stackd adds the prefix. Knows nothing of
node ports.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import MappingProxyType

from stackd.contract import MAX_TARGET_PORTS
from stackd.errors import InvalidRequest
from stackd.model import NO_LABELS, Route, RoutedTarget, TargetPort
from stackd.names import BARE_KEY_FORM, is_bare_key, is_label_value
from stackd.podspec.fields import decode_target_port
from stackd.podspec.reasons import Enough, Reasons

MAX_LABELS = 16


def parse_target_ports(value: object) -> tuple[TargetPort, ...]:
    """The published ports, with their protocols in upper case. Raises ``InvalidRequest`` with each mistake."""
    reasons = Reasons()
    ports: list[TargetPort] = []
    with contextlib.suppress(Enough):
        if value is None:
            reasons.add("target_port", "is required")
        elif not isinstance(value, list):
            text = 'must be a list of objects, such as [{"container_port": 80, "protocol": "TCP"}]'
            reasons.add("target_port", text)
        elif not 1 <= len(value) <= MAX_TARGET_PORTS:
            reasons.add("target_port", f"must have 1 to {MAX_TARGET_PORTS} entries, not {len(value)}")
        else:
            ports = _parse_entries(value, reasons)
    if reasons:
        mistakes = reasons.as_list()
        raise InvalidRequest("; ".join(map(str, mistakes)), mistakes)
    return tuple(ports)


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


def _parse_entries(entries: list[object], reasons: Reasons) -> list[TargetPort]:
    ports: list[TargetPort] = []
    seen: dict[tuple[int, str], int] = {}
    for index, entry in enumerate(entries):
        path = f"target_port[{index}]"
        fields = decode_target_port(entry, path, reasons) or {}
        if isinstance(entry, dict) and entry.get("route", "") is None:
            reasons.add(f"{path}.route", "must be a string, not null")
        number, protocol, route = (fields.get(name) for name in ("container_port", "protocol", "route"))
        if number is None or protocol is None:
            continue
        protocol = protocol.upper()
        if route is not None and protocol == "UDP":
            reasons.add(f"{path}.route", "a UDP port cannot have a name; leave route out to get a node port")
        first = seen.setdefault((number, protocol), index)
        if first != index:
            reasons.add(path, f"{number}/{protocol} is already target_port[{first}]")
        if route in list(Route):
            ports.append(RoutedTarget(container_port=number, protocol=protocol, route=Route(route)))
        else:
            ports.append(TargetPort(container_port=number, protocol=protocol))
    return ports
