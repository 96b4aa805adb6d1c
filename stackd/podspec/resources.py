"""CPU, memory and storage: per container, and for the pod as the scheduler will count it.

Owns: that every container states CPU and memory, that request and limit become the larger of both, in canonical form,
and the pod's effective request (sidecars run beside what follows them; other init containers run one by one).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stackd.podspec.containers import keeps_running
from stackd.podspec.names import matches_any
from stackd.podspec.policy import Policy
from stackd.podspec.quantity import NANO, Quantity
from stackd.podspec.reasons import Reasons, below

_REQUIRED = ("cpu", "memory")
_KNOWN = ("cpu", "memory", "ephemeral-storage")
_MOST_CPU_MILLI = 10**9
_MOST_BYTES = 2**56


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """What the pod takes on its node."""

    cpu_milli: int
    memory_bytes: int


def settle_resources(containers: Mapping[str, dict[str, Any]], policy: Policy, reasons: Reasons) -> Effective:
    """Make request and limit of each container equal and canonical; the pod's effective request."""
    amounts = {path: _settle(container, f"{path}.resources", policy, reasons) for path, container in containers.items()}
    totals = {name: _effective(name, amounts, containers) for name in _KNOWN}
    limits = {
        "cpu": (policy.max_cpu_milli, policy.max_cpu, "max_cpu"),
        "memory": (policy.max_memory_bytes, policy.max_memory, "max_memory"),
        "ephemeral-storage": (policy.max_ephemeral_bytes, policy.max_ephemeral_storage, "max_ephemeral_storage"),
    }
    for name, (limit, text, key) in limits.items():
        if limit is not None and totals[name] > limit:
            reasons.add(f"spec ({name})", f"the pod asks for more than {text} (policy.{key})")
    return Effective(cpu_milli=totals["cpu"], memory_bytes=totals["memory"])


def _settle(container: dict[str, Any], path: str, policy: Policy, reasons: Reasons) -> Mapping[str, int]:
    given = container.get("resources", {})
    requests, limits = given.get("requests", {}), given.get("limits", {})
    largest: dict[str, Quantity] = {}
    for name in {**requests, **limits}:
        if not _accepted(name, requests, limits, path, policy, reasons):
            continue
        amounts = [
            _rounded(name, side[name])
            for kind, side in (("requests", requests), ("limits", limits))
            if name in side and _usable(name, side[name], below(f"{path}.{kind}", name), reasons)
        ]
        if amounts:
            largest[name] = max(amounts, key=lambda amount: amount.nanos)
    for name in _REQUIRED:
        if name not in largest:
            reasons.missing(f"{path}.{name}", "is required, as a request or a limit", *_sides(path, name))
    canonical = {name: str(amount) for name, amount in largest.items()}
    container["resources"] = {"limits": canonical, "requests": dict(canonical)}
    return {name: amount.milli if name == "cpu" else amount.whole for name, amount in largest.items() if name in _KNOWN}


def _sides(path: str, name: str) -> tuple[str, str]:
    return f"{path}.requests.{name}", f"{path}.limits.{name}"


def _accepted(
    name: str, requests: Mapping[str, Any], limits: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons
) -> bool:
    if name in _KNOWN or ("/" in name and matches_any(policy.extended_resources, name)):
        return True
    for kind, side in (("requests", requests), ("limits", limits)):
        if name in side:
            text = "not accepted" + (", unless policy.extended_resources allows it" if "/" in name else "")
            reasons.add(below(f"{path}.{kind}", name), text)
    return False


def _usable(name: str, amount: Quantity | None, path: str, reasons: Reasons) -> bool:
    """Whether the amount makes sense; ``None`` was not a quantity, which has been noted."""
    if amount is None:
        return False
    if amount.nanos <= 0:
        reasons.add(path, "must be more than zero")
    elif name == "cpu" and amount.milli > _MOST_CPU_MILLI:
        reasons.add(path, "more CPU than any node has")
    elif name != "cpu" and amount.whole > _MOST_BYTES:
        reasons.add(path, "more than any node has")
    elif name not in _KNOWN and amount.nanos % NANO:
        reasons.add(path, "must be a whole number")
    else:
        return True
    return False


def _rounded(name: str, amount: Quantity) -> Quantity:
    return amount.in_milli() if name == "cpu" else amount.in_whole()


def _effective(name: str, amounts: Mapping[str, Mapping[str, int]], containers: Mapping[str, Mapping[str, Any]]) -> int:
    together, sidecars, peak = 0, 0, 0
    for path, container in containers.items():
        amount = amounts[path].get(name, 0)
        if not keeps_running(path, container):
            peak = max(peak, sidecars + amount)
            continue
        together += amount
        if path.startswith("spec.init"):
            sidecars += amount
            peak = max(peak, sidecars)
    return max(together, peak)
