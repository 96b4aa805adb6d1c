"""CPU, memory and storage: per container, and for the whole pod as the scheduler counts it.

Owns: that every container states CPU and memory; that request and limit both become the larger of the two, in canonical
form; the pod's effective request; and the policy's maxima for a pod.

Sidecars run beside the containers after them; other init containers run one by one. An emptyDir counts as memory or as
disk, depending on its medium. If the policy limits the disk, containers and emptyDirs without a size share the rest
evenly, so that nobody exceeds a maximum by leaving the size out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stackd.names import matches_any
from stackd.podspec.containers import keeps_running
from stackd.podspec.policy import Policy
from stackd.podspec.reasons import Reasons, below
from stackd.quantity import NANO, Quantity, of_bytes

_REQUIRED = ("cpu", "memory")
_KNOWN = ("cpu", "memory", "ephemeral-storage")
_MOST_CPU_MILLI = 10**9
_MOST_BYTES = 2**56


Amounts = Mapping[str, Mapping[str, int]]
"""By container and resource: CPU in thousandths, the rest in bytes."""
STORAGE = "ephemeral-storage"
_MEBIBYTE = 1 << 20


def settle_resources(containers: Mapping[str, dict[str, Any]], policy: Policy, reasons: Reasons) -> Amounts:
    """Make request and limit of each container equal and canonical. Returns the amounts of each container."""
    return {path: _settle(container, f"{path}.resources", policy, reasons) for path, container in containers.items()}


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
            sides = (f"{path}.requests.{name}", f"{path}.limits.{name}")
            reasons.missing(f"{path}.{name}", "is required, as a request or a limit", *sides)
    canonical = {name: str(amount) for name, amount in largest.items()}
    container["resources"] = {"limits": canonical, "requests": dict(canonical)}
    return {name: amount.milli if name == "cpu" else amount.whole for name, amount in largest.items() if name in _KNOWN}


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
    """Whether the amount is possible, else report why; ``None`` was not a quantity and is reported already."""
    if amount is None:
        return False
    if amount.nanos <= 0:
        reasons.add(path, "must be more than zero")
    elif name == "cpu" and amount.milli > _MOST_CPU_MILLI:
        reasons.add(path, "is more CPU than any node has")
    elif name != "cpu" and amount.whole > _MOST_BYTES:
        reasons.add(path, "is more than any node has")
    elif name not in _KNOWN and amount.nanos % NANO:
        reasons.add(path, "must be a whole number")
    else:
        return True
    return False


def _rounded(name: str, amount: Quantity) -> Quantity:
    return amount.in_milli() if name == "cpu" else amount.in_whole()


def effective(name: str, amounts: Amounts, containers: Mapping[str, Mapping[str, Any]]) -> int:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """What the pod reserves on its node."""

    cpu_milli: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Largest:
    """A maximum of the policy, and how much of it the pod asks for."""

    key: str
    most: Quantity
    asked: int
    in_dirs: int

    @property
    def left(self) -> int:
        return self.most.whole - self.asked - self.in_dirs

    def check(self, path: str, reasons: Reasons) -> None:
        """Report it if the pod asks for too much."""
        if self.left < 0:
            counted = " in containers and emptyDirs" if self.in_dirs else ""
            reasons.add(path, f"the pod asks for more than {self.most}{counted} (policy.{self.key})")


def settle_sums(
    spec: Mapping[str, Any],
    containers: Mapping[str, dict[str, Any]],
    amounts: Amounts,
    policy: Policy,
    reasons: Reasons,
) -> Effective:
    """Report each sum above its maximum; if nothing is wrong, fill in the sizes that the pod left out."""
    cpu, memory, storage = (effective(name, amounts, containers) for name in ("cpu", "memory", STORAGE))
    if (most := policy.amount("max_cpu")) is not None and cpu > most.milli:
        reasons.add("spec (cpu)", f"the pod asks for more than {policy.max_cpu} (policy.max_cpu)")
    dirs = dict(_empty_dirs(spec))
    in_memory = {path: source for path, source in dirs.items() if source.get("medium") == "Memory"}
    on_disk = {path: source for path, source in dirs.items() if path not in in_memory}
    of_memory = _largest("max_memory", policy, memory, in_memory)
    of_storage = _largest("max_ephemeral_storage", policy, storage, on_disk)
    for largest, name in ((of_memory, "memory"), (of_storage, STORAGE)):
        if largest is not None:
            largest.check(f"spec ({name})", reasons)
    if not reasons:
        nameless = {path: one for path, one in containers.items() if STORAGE not in amounts[path]}
        _give(in_memory, {}, of_memory, policy, reasons)
        _give(on_disk, nameless, of_storage, policy, reasons)
    return Effective(cpu_milli=cpu, memory_bytes=memory)


def _empty_dirs(spec: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for index, volume in enumerate(spec.get("volumes", ())):
        if "emptyDir" in volume:
            yield f"spec.volumes[{index}].emptyDir", volume["emptyDir"]


def _largest(key: str, policy: Policy, asked: int, dirs: Mapping[str, Mapping[str, Any]]) -> _Largest | None:
    if (most := policy.amount(key)) is None:
        return None
    named = (source.get("sizeLimit") for source in dirs.values())
    return _Largest(key=key, most=most, asked=asked, in_dirs=sum(limit.whole for limit in named if limit is not None))


def _give(
    dirs: Mapping[str, dict[str, Any]],
    containers: Mapping[str, dict[str, Any]],
    largest: _Largest | None,
    policy: Policy,
    reasons: Reasons,
) -> None:
    """Write size limits in canonical form for the emptyDirs, and disk for the containers that state none."""
    size, share = policy.amount("empty_dir_size"), None
    nameless = [path for path, source in dirs.items() if "sizeLimit" not in source]
    if largest is not None and (claims := [*nameless, *containers]):
        share = _share(largest, len(claims))
        if share.whole < _MEBIBYTE:
            left = f"less than 1Mi of {largest.most} (policy.{largest.key}) is left for it"
            reasons.add(claims[0], f"has no size, and {left}; set a size or lower the other sizes")
            return
        size = min((size or share, share), key=lambda one: one.whole)
    for source in dirs.values():
        limit = source.get("sizeLimit", size)
        if limit is not None:
            source["sizeLimit"] = str(limit.in_whole())
    if largest is not None and size is not None and containers:
        taken = size.whole * len(nameless)
        amount = str(_share(largest, len(containers), taken))
        for container in containers.values():
            for side in ("limits", "requests"):
                container["resources"][side][STORAGE] = amount


def _share(largest: _Largest, count: int, taken: int = 0) -> Quantity:
    """An even part of what is left, rounded down to whole mebibytes unless it is the whole maximum."""
    share = (largest.left - taken) // count
    if share == largest.most.whole:
        return largest.most
    return of_bytes(share // _MEBIBYTE * _MEBIBYTE)
