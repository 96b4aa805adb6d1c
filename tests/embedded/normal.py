"""Makes recorded and embedded responses comparable: replaces only the values that differ from run to run."""

from __future__ import annotations

import re
from typing import Any

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
_ADDRESS = re.compile(r"\b10\.\d+\.\d+\.\d+\b")
_HASH = re.compile(r"(containerd|sha256):(//)?[0-9a-f]{64}")
_EVENT = re.compile(r"\.[0-9a-f]{14,16}$")
_VERSIONS = re.compile(r"resource version: \d+ \(\d+\)")
_BY_KEY = {"resourceVersion", "continue", "nodePort", "token"}


def normal(value: Any, *, keep_ports: bool = False) -> Any:
    """The value with uids, versions, times, addresses, hashes and chosen ports replaced by placeholders."""
    if isinstance(value, dict):
        return {
            key: f"<{key}>"
            if key in _BY_KEY and not (keep_ports and key == "nodePort")
            else normal(part, keep_ports=keep_ports)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [normal(part, keep_ports=keep_ports) for part in value]
    if isinstance(value, str):
        return _text(value)
    return value


def _text(value: str) -> str:
    for pattern, name in (
        (_UUID, "<uid>"),
        (_TIME, "<time>"),
        (_ADDRESS, "<address>"),
        (_HASH, "<hash>"),
        (_EVENT, ".<event>"),
        (_VERSIONS, "resource version: <versions>"),
    ):
        value = pattern.sub(name, value)
    return (
        value.replace("real-worker", "<node>")
        .replace("default-scheduler-node", "<scheduler>")
        .replace("default-scheduler-embedded", "<scheduler>")
    )


def shape(value: Any) -> Any:
    """The value with only its keys and types."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value]
    return type(value).__name__
