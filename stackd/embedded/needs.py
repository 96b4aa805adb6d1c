"""What a pod asks for: the sums that scheduler, quotas and limit ranges count with. Pure; in thousandths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from stackd.embedded.defaults import is_sidecar
from stackd.embedded.resources import Json
from stackd.quantity import Notation, Quantity, parse

Amounts = dict[str, int]
Part = Literal["requests", "limits"]


def pod_amounts(spec: Json, part: Part) -> Amounts:
    """Of the whole pod: containers and sidecars add up; an init container counts if it needs more than that."""
    running: Amounts = {}
    peak: Amounts = {}
    for container in spec.get("initContainers", ()):
        needs = amounts(container["resources"], part)
        if is_sidecar(container):
            _join(running, needs, int.__add__)
            _join(peak, running, max)
        else:
            together = dict(running)
            _join(together, needs, int.__add__)
            _join(peak, together, max)
    for container in spec["containers"]:
        _join(running, amounts(container["resources"], part), int.__add__)
    _join(peak, running, max)
    _join(peak, {key: parse(value).milli for key, value in spec.get("overhead", {}).items()}, int.__add__)
    return peak


def amounts(resources: Json, part: Part) -> Amounts:
    """Of one container."""
    return {name: parse(value).milli for name, value in resources.get(part, {}).items()}


def rendered(needs: Amounts) -> dict[str, str]:
    """As quantities."""
    return {name: shown(name, value) for name, value in sorted(needs.items())}


def shown(name: str, thousandths: int) -> str:
    """So much of a resource as a quantity: bytes in binary, the rest in decimal."""
    notation = Notation.BINARY if is_bytes(name) else Notation.DECIMAL
    return str(Quantity(nanos=thousandths * 10**6, notation=notation))


def is_bytes(name: str) -> bool:
    """Whether a resource is counted in bytes."""
    return "memory" in name or "storage" in name or "hugepages" in name


def is_terminal(pod: Json) -> bool:
    """Whether the pod has ended for good and needs nothing any more."""
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def _join(into: Amounts, more: Amounts, how: Callable[[int, int], int]) -> None:
    for name, value in more.items():
        into[name] = how(into.get(name, 0), value)
