"""The body of a create: what may stand in it, and the order that it is.

Owns: the fields beyond the contract's two, each optional. What a pod spec may hold is ``podspec``'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from stackd.errors import InvalidRequest
from stackd.lifecycle.create import Order
from stackd.metrics import INVALID
from stackd.model import NO_LABELS
from stackd.podspec import parse_target_ports
from stackd.web import bodies
from stackd.web.api import Call
from stackd.web.parameters import duration

REQUIRED = ("target_port", "pod_spec")
FIELDS = (*REQUIRED, "ttl", "labels", "if_exists")
IF_EXISTS = ("error", "return")
MAX_LABELS = 16
LABEL_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
"""As the name of a label of Kubernetes; the prefix is stackd's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An order, and whether a stack that has the place already is as good."""

    order: Order
    return_existing: bool


def parse(call: Call, body: bytes) -> Asked:
    """What a create's body asks for. Raises InvalidRequest, InvalidPodSpec."""
    measured = call.api.room.metrics
    laps = measured.laps()
    try:
        return _parse(call, body)
    except InvalidRequest:
        measured.creates[INVALID] += 1
        raise
    finally:
        laps.end("validate")


def _parse(call: Call, body: bytes) -> Asked:
    room = call.api.room
    fields = bodies.parse_object(body, FIELDS, REQUIRED)
    ports = parse_target_ports(fields["target_port"])
    ttl = ttl_of(fields, room.config.stacks.max_ttl) if "ttl" in fields else None
    labels = labels_of(fields["labels"]) if "labels" in fields else NO_LABELS
    existing = fields.get("if_exists", "error") if "if_exists" in fields else "error"
    if existing not in IF_EXISTS:
        raise InvalidRequest(f"invalid request body: if_exists must be one of {', '.join(IF_EXISTS)}")
    spec = room.sanitizer.sanitize(bodies.text(fields, "pod_spec"), ports)
    order = Order(spec=spec, target_ports=ports, ttl=ttl, labels=labels, by=call.key.name)
    return Asked(order=order, return_existing=existing == "return")


def ttl_of(fields: Mapping[str, Any], most: float) -> float:
    """The field ``ttl`` in seconds, ``most`` at most (``stacks.max_ttl``)."""
    value = fields["ttl"]
    if not isinstance(value, str):
        raise InvalidRequest('invalid request body: ttl must be a string such as "30m"')
    return duration("invalid request body: ttl", value, most)


def labels_of(value: object) -> Mapping[str, str]:
    """The field ``labels``: at most sixteen, with names and values as Kubernetes takes them."""
    if not isinstance(value, dict):
        raise InvalidRequest('invalid request body: labels must be an object such as {"team": "7"}')
    if len(value) > MAX_LABELS:
        raise InvalidRequest(f"invalid request body: {len(value)} labels; {MAX_LABELS} at most")
    for key, text in value.items():
        if not LABEL_KEY.fullmatch(key):
            raise InvalidRequest(
                f"invalid request body: labels: {key[:64]!r} is not a label name (at most 63 of A-Za-z0-9._-)"
            )
        if not isinstance(text, str) or (text and not LABEL_KEY.fullmatch(text)):
            raise InvalidRequest(f"invalid request body: labels.{key} must be a string of at most 63 of A-Za-z0-9._-")
    return MappingProxyType(value) if value else NO_LABELS
