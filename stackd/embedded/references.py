"""Secrets and config maps that a pod refers to and that are not there."""

from __future__ import annotations

from collections.abc import Iterator

from stackd.embedded.resources import CONFIG_MAPS, SECRETS, Json, Resource
from stackd.embedded.store import ObjectStore

_KINDS: dict[str, tuple[Resource, str]] = {
    "secretKeyRef": (SECRETS, "secret"),
    "secretRef": (SECRETS, "secret"),
    "configMapKeyRef": (CONFIG_MAPS, "configmap"),
    "configMapRef": (CONFIG_MAPS, "configmap"),
}


def missing_reference(store: ObjectStore, namespace: str, container: Json) -> str:
    """What the container's environment lacks, in the kubelet's words; empty if nothing."""
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
