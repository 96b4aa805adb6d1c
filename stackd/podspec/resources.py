"""CPU, memory and storage: per container, and for the pod as the scheduler counts it.

Owns: that every container states CPU and memory; that request and limit both become the larger of the two, in canonical
form; the pod's effective request; and the policy's maxima for a pod.

Sidecars run beside the containers after them; other init containers run one by one. An emptyDir counts as memory or as
disk, depending on its medium. If the policy limits the disk, containers and emptyDirs without a size share the rest
evenly, so that nobody exceeds a maximum by leaving the size out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackd.names import matches_any
from stackd.podspec.checks import by_path, keeps_running
from stackd.podspec.policy import Policy
from stackd.podspec.reasons import Reasons, below
from stackd.quantity import NANO, Quantity, of_bytes

STORAGE = "ephemeral-storage"
_REQUIRED = ("cpu", "memory")
_COUNTED = (*_REQUIRED, STORAGE)
_MOST_CPU_MILLI = 10**9
_MOST_BYTES = 2**56
_MEBIBYTE = 1 << 20
_Containers = Mapping[str, dict[str, Any]]


def settle_resources(spec: Mapping[str, Any], policy: Policy, reasons: Reasons) -> tuple[int, int]:
    """Make request and limit of each container equal and canonical, and report what exceeds a maximum.

    If nothing is wrong, fill in the sizes that the pod leaves out. Returns what the pod reserves on its node: CPU in
    thousandths, and memory in bytes.
    """
    containers = by_path(spec)
    amounts = {path: _settle(one, f"{path}.resources", policy, reasons) for path, one in containers.items()}
    cpu, memory, storage = (_effective(name, amounts, containers) for name in _COUNTED)
    if (most := policy.amount("max_cpu")) is not None and cpu > most.milli:
        reasons.add("spec (cpu)", f"the pod asks for more than {policy.max_cpu} (policy.max_cpu)")
    volumes = enumerate(spec.get("volumes", ()))
    dirs = {f"spec.volumes[{index}].emptyDir": one["emptyDir"] for index, one in volumes if "emptyDir" in one}
    in_memory = {path: source for path, source in dirs.items() if source.get("medium") == "Memory"}
    on_disk = {path: source for path, source in dirs.items() if path not in in_memory}
    unsized = {path: one for path, one in containers.items() if STORAGE not in amounts[path]}
    budgets = (_Budget("memory", memory, in_memory, {}, policy), _Budget(STORAGE, storage, on_disk, unsized, policy))
    for budget in budgets:
        budget.check(reasons)
    if not reasons:
        for budget in budgets:
            budget.share_out(reasons)
    return cpu, memory


def _settle(container: dict[str, Any], path: str, policy: Policy, reasons: Reasons) -> Mapping[str, int]:
    """Write the larger amounts as request and limit; returns them, CPU in thousandths and the others in bytes."""
    largest: dict[str, Quantity] = {}
    for kind in ("requests", "limits"):
        for name, amount in container.get("resources", {}).get(kind, {}).items():
            if amount is None:
                continue  # no quantity, and reported already
            if why := _refusal(name, amount, policy):
                reasons.add(below(f"{path}.{kind}", name), why)
                continue
            rounded = amount.in_milli() if name == "cpu" else amount.in_ones()
            largest[name] = max(largest.get(name, rounded), rounded, key=lambda one: one.nanos)
    for name in _REQUIRED:
        if name not in largest:
            sides = (f"{path}.requests.{name}", f"{path}.limits.{name}")
            reasons.missing(f"{path}.{name}", "is required, as a request or a limit", *sides)
    canonical = {name: str(amount) for name, amount in largest.items()}
    container["resources"] = {"limits": canonical, "requests": dict(canonical)}
    return {
        name: amount.milli if name == "cpu" else amount.value for name, amount in largest.items() if name in _COUNTED
    }


def _refusal(name: str, amount: Quantity, policy: Policy) -> str:
    """Why a container cannot have this amount; empty if it can."""
    if name not in _COUNTED and not ("/" in name and matches_any(policy.extended_resources, name)):
        return "not accepted" + (", unless policy.extended_resources allows it" if "/" in name else "")
    if amount.nanos <= 0:
        return "must be more than zero"
    if name == "cpu" and amount.milli > _MOST_CPU_MILLI:
        return "is more CPU than any node has"
    if name != "cpu" and amount.value > _MOST_BYTES:
        return "is more than any node has"
    if name not in _COUNTED and amount.nanos % NANO:
        return "must be a whole number"
    return ""


def _effective(name: str, amounts: Mapping[str, Mapping[str, int]], containers: _Containers) -> int:
    """The largest amount of one resource that the pod takes at any moment."""
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


class _Budget:
    """A maximum of the policy, and the emptyDirs and the containers without an amount that share what remains."""

    def __init__(self, name: str, asked: int, dirs: _Containers, containers: _Containers, policy: Policy) -> None:
        self._name = name
        self._key = f"max_{name.replace('-', '_')}"
        self._most = policy.amount(self._key)
        self._default = policy.amount("empty_dir_size")
        self._dirs = dirs
        self._containers = containers
        self._in_dirs = sum(source["sizeLimit"].value for source in dirs.values() if "sizeLimit" in source)
        self._remaining = self._most.value - asked - self._in_dirs if self._most else 0

    def check(self, reasons: Reasons) -> None:
        """Report it if the pod asks for too much."""
        if self._remaining < 0:
            counted = " in containers and emptyDirs" if self._in_dirs else ""
            text = f"the pod asks for more than {self._most}{counted} (policy.{self._key})"
            reasons.add(f"spec ({self._name})", text)

    def share_out(self, reasons: Reasons) -> None:
        """Write size limits in canonical form for the emptyDirs, and disk for the containers that state none."""
        unsized = [path for path, source in self._dirs.items() if "sizeLimit" not in source]
        size = self._default
        if self._most is not None and (claims := [*unsized, *self._containers]):
            share = self._rounded(self._remaining // len(claims))
            if share.value < _MEBIBYTE:
                rest = f"less than 1Mi of {self._most} (policy.{self._key}) is left for it"
                reasons.add(claims[0], f"has no size, and {rest}; set a size or lower the other sizes")
                return
            size = min(size or share, share, key=lambda one: one.value)
            rest_of_containers = self._remaining - size.value * len(unsized)
            for container in self._containers.values():
                amount = str(self._rounded(rest_of_containers // len(self._containers)))
                for side in container["resources"].values():
                    side[STORAGE] = amount
        for source in self._dirs.values():
            if (limit := source.get("sizeLimit", size)) is not None:
                source["sizeLimit"] = str(limit.in_ones())

    def _rounded(self, share: int) -> Quantity:
        """The share in complete mebibytes, or the maximum in the operator's words if it is all of it."""
        if self._most is not None and share == self._most.value:
            return self._most
        return of_bytes(share // _MEBIBYTE * _MEBIBYTE)
