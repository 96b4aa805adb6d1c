"""Probes and lifecycle hooks.

Owns: that each has exactly one handler, and the ranges of their numbers. That none names a
host is the allowlist's work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackd.podspec.grants import check_choice
from stackd.podspec.names import is_header_name, is_port_name
from stackd.podspec.reasons import Reasons
from stackd.podspec.target_ports import LARGEST_PORT

LARGEST_INT32 = 2**31 - 1
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_PROBE_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_HOOK_HANDLERS = ("exec", "httpGet", "tcpSocket", "sleep")
_NUMBERS = ("failureThreshold", "initialDelaySeconds", "periodSeconds", "successThreshold", "timeoutSeconds")
_LONGEST_SLEEP = 3600


def check_probes(container: Mapping[str, Any], path: str, reasons: Reasons) -> None:
    """Note what is wrong with the container's probes."""
    for kind in _PROBES:
        if kind in container:
            _check_probe(container[kind], kind, f"{path}.{kind}", reasons)


def check_lifecycle(container: Mapping[str, Any], path: str, reasons: Reasons) -> None:
    """Note what is wrong with the container's hooks."""
    for name, hook in container.get("lifecycle", {}).items():
        here = f"{path}.lifecycle.{name}"
        _check_handler(hook, _HOOK_HANDLERS, here, reasons)
        seconds = hook.get("sleep", {}).get("seconds")
        if "sleep" in hook and seconds is None:
            reasons.missing(f"{here}.sleep.seconds", "is required", f"{here}.sleep")
        elif seconds is not None and not 0 <= seconds <= _LONGEST_SLEEP:
            reasons.add(f"{here}.sleep.seconds", f"must be from 0 to {_LONGEST_SLEEP}")


def _check_probe(probe: Mapping[str, Any], kind: str, path: str, reasons: Reasons) -> None:
    _check_handler(probe, _PROBE_HANDLERS, path, reasons)
    for field in _NUMBERS:
        if not 0 <= probe.get(field, 0) <= LARGEST_INT32:
            reasons.add(f"{path}.{field}", f"must be from 0 to {LARGEST_INT32}")
    if kind != "readinessProbe" and probe.get("successThreshold", 1) != 1:
        reasons.add(f"{path}.successThreshold", f"must be 1 in a {kind}")
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None and kind == "readinessProbe":
        reasons.add(f"{path}.terminationGracePeriodSeconds", "a readinessProbe must not have it")
    elif grace is not None and not 1 <= grace <= LARGEST_INT32:
        reasons.add(f"{path}.terminationGracePeriodSeconds", f"must be from 1 to {LARGEST_INT32}")
    if "grpc" in probe:
        _check_port(probe["grpc"].get("port"), f"{path}.grpc.port", reasons)


def _check_handler(owner: Mapping[str, Any], handlers: tuple[str, ...], path: str, reasons: Reasons) -> None:
    if sum(handler in owner for handler in handlers) != 1:
        reasons.missing(path, f"must have exactly one of {', '.join(handlers)}", path)
    if "exec" in owner and not owner["exec"].get("command"):
        reasons.missing(f"{path}.exec.command", "is required", f"{path}.exec")
    if "tcpSocket" in owner:
        _check_port(owner["tcpSocket"].get("port"), f"{path}.tcpSocket.port", reasons)
    if "httpGet" in owner:
        _check_http_get(owner["httpGet"], f"{path}.httpGet", reasons)


def _check_http_get(action: Mapping[str, Any], path: str, reasons: Reasons) -> None:
    _check_port(action.get("port"), f"{path}.port", reasons)
    check_choice(action.get("scheme"), ("HTTP", "HTTPS"), f"{path}.scheme", reasons)
    for index, header in enumerate(action.get("httpHeaders", ())):
        if not is_header_name(header.get("name", "")):
            here = f"{path}.httpHeaders[{index}].name"
            reasons.missing(here, 'must be letters, digits, "-" and "_"', here)
        if "value" not in header:
            here = f"{path}.httpHeaders[{index}].value"
            reasons.missing(here, "is required", here)


def _check_port(port: int | str | None, path: str, reasons: Reasons) -> None:
    if port is None:
        reasons.missing(path, "is required", path)
    elif isinstance(port, str):
        if not is_port_name(port):
            reasons.add(path, "must be a number, or a port's name (lower-case letters, digits and single hyphens)")
    elif not 1 <= port <= LARGEST_PORT:
        reasons.add(path, f"must be from 1 to {LARGEST_PORT}")
