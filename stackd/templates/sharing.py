"""What a template says about its shared stack, the node ports and names that its target ports keep; and about its check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import json

from stackd.contract import LARGEST_PORT
from stackd.names import did_you_mean, is_label
from stackd.podspec import Policy, sanitize
from stackd.templates.template import Check
from stackd.units import parse_duration

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


# ---- the check

CHECK: Final = "check"
"""The egress and the role of its pods, and the name of its container."""

CHECK_FIELDS: Final = ("image", "command", "every", "timeout", "failures")
SHORTEST_EVERY: Final = 10.0
LONGEST_TIMEOUT: Final = 600.0
MOST_FAILURES: Final = 100
_RESOURCES: Final = {"cpu": "250m", "memory": "256Mi"}


def check(value: Any, policy: Policy) -> Check:
    """Read ``check``; its pod is one within the template's ``policy``. Raises ValueError, InvalidPodSpec."""
    if not isinstance(value, dict):
        raise ValueError("{image: …, command: […], every: 5m, timeout: 60s, failures: 3} is expected")
    for name in value:
        if name not in CHECK_FIELDS:
            raise ValueError(f"{name}: there is no such field{did_you_mean(name, CHECK_FIELDS)}")
    image, command = value.get("image"), value.get("command") or []
    if not isinstance(image, str) or not image:
        raise ValueError("image: the image of the program that checks is expected")
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise ValueError('command: a list of texts is expected, such as ["python3", "/solve.py"]')
    failures = value.get("failures", 3)
    if type(failures) is not int or not 1 <= failures <= MOST_FAILURES:
        raise ValueError(f"failures: a whole number from 1 to {MOST_FAILURES} is expected")
    own = policy.model_copy(update={"egress": CHECK, "host_names": (), "restart_policy": "Never"})
    container = {"name": CHECK, "image": image, "resources": {"limits": dict(_RESOURCES)}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": CHECK}}
    pod |= {"spec": {"containers": [container | ({"command": command} if command else {})]}}
    return Check(
        image=image,
        command=tuple(command),
        every=_seconds(value, "every", "5m", SHORTEST_EVERY, 86400.0),
        timeout=_seconds(value, "timeout", "60s", 1.0, LONGEST_TIMEOUT),
        failures=failures,
        spec=sanitize(json.encode(pod).decode(), (), own),
        policy=own,
    )


def _seconds(value: Mapping[str, Any], name: str, usual: str, least: float, most: float) -> float:
    text = value.get(name, usual)
    try:
        seconds = parse_duration(text) if isinstance(text, str) else 0.0
    except (ValueError, OverflowError):
        seconds = 0.0
    if not least <= seconds <= most:
        raise ValueError(f'{name}: a duration from {least:g} s to {most:g} s is expected, such as "{usual}"')
    return seconds
