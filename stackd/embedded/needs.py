"""What a pod needs: total resources in thousandths (for scheduler, quotas, limit ranges), Secrets and ConfigMaps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from stackd.embedded.defaults import is_sidecar
from stackd.embedded.resources import CONFIG_MAPS, SECRETS, Json, Resource
from stackd.embedded.store import ObjectStore
from stackd.quantity import Notation, Quantity, parse

Amounts = dict[str, int]
Part = Literal["requests", "limits"]


def pod_amounts(spec: Json, part: Part) -> Amounts:
    """The amounts of the whole pod: containers and sidecars add up; an init container counts if it needs more."""
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
    """The amounts of one container."""
    return {name: parse(value).milli for name, value in resources.get(part, {}).items()}


def rendered(needs: Amounts) -> dict[str, str]:
    """The amounts as quantities."""
    return {name: shown(name, value) for name, value in sorted(needs.items())}


def shown(name: str, thousandths: int) -> str:
    """The amount of a resource as a quantity: bytes in binary notation, the rest in decimal."""
    notation = Notation.BINARY if is_bytes(name) else Notation.DECIMAL
    return str(Quantity(nanos=thousandths * 10**6, notation=notation))


def is_bytes(name: str) -> bool:
    """Whether the resource is counted in bytes."""
    return "memory" in name or "storage" in name or "hugepages" in name


def is_terminal(pod: Json) -> bool:
    """Whether the pod has ended for good, so that it needs nothing any more."""
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def _join(into: Amounts, more: Amounts, how: Callable[[int, int], int]) -> None:
    for name, value in more.items():
        into[name] = how(into.get(name, 0), value)


_KINDS: dict[str, tuple[Resource, str]] = {
    "secretKeyRef": (SECRETS, "secret"),
    "secretRef": (SECRETS, "secret"),
    "configMapKeyRef": (CONFIG_MAPS, "configmap"),
    "configMapRef": (CONFIG_MAPS, "configmap"),
}


def missing_reference(store: ObjectStore, namespace: str, container: Json) -> str:
    """The first missing reference of the container's environment, in the kubelet's words; empty if there is none."""
    for kind, reference in _environment(container):
        resource, word = _KINDS[kind]
        name = reference.get("name", "")
        found = store.of(resource).records.get((namespace, name))
        if found is None and not reference.get("optional"):
            return f'{word} "{name}" not found'
        if found is not None and "key" in reference and not reference.get("optional"):
            known = found.obj.get("data", {}) | found.obj.get("stringData", {})
            if reference["key"] not in known:
                return f"couldn't find key {reference['key']} in {kind[:-6].capitalize()} {namespace}/{name}"
    return ""


def missing_mount(store: ObjectStore, pod: Json) -> str:
    """The first volume that cannot be mounted, in the kubelet's words; empty if all can."""
    namespace = pod["metadata"]["namespace"]
    for volume in pod["spec"].get("volumes", ()):
        for kind, field, resource in (("secret", "secretName", SECRETS), ("configMap", "name", CONFIG_MAPS)):
            source = volume.get(kind)
            if source and not source.get("optional"):
                name = source.get(field, "")
                if (namespace, name) not in store.of(resource).records:
                    return f'MountVolume.SetUp failed for volume "{volume["name"]}" : {kind.lower()} "{name}" not found'
    return ""


def _environment(container: Json) -> Iterator[tuple[str, Json]]:
    for variable in container.get("env", ()):
        for kind, reference in (variable.get("valueFrom") or {}).items():
            if kind in _KINDS:
                yield kind, reference
    for source in container.get("envFrom", ()):
        for kind, reference in source.items():
            if kind in _KINDS:
                yield kind, reference
