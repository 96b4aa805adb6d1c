"""References from a pod to itself (the downward API), and from variables to Secrets and ConfigMaps.

Owns: which fields and resources may be referred to. Knows nothing of where the values go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from stackd.podspec.grants import check_granted
from stackd.podspec.names import is_key
from stackd.podspec.policy import Policy
from stackd.podspec.reasons import Reasons

_VOLUME_FIELDS = frozenset(
    {"metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations"}
)
_ENV_FIELDS = frozenset(
    {
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    }
)
_SUBSCRIPT = re.compile(r"metadata\.(?:labels|annotations)\['([^']+)'\]\Z")
_RESOURCES = re.compile(r"(?:limits|requests)\.(cpu|memory|ephemeral-storage)\Z")
_NANOS_OF_CPU = frozenset({0, 10**6, 10**9})
_UNITS = frozenset({0, *(1000**power for power in range(7)), *(1024**power for power in range(7))})
_ENV_SOURCES = ("fieldRef", "resourceFieldRef", "secretKeyRef", "configMapKeyRef")


def check_env_source(source: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    """Note what is wrong with a variable's ``valueFrom``."""
    given = [kind for kind in _ENV_SOURCES if kind in source]
    if len(given) != 1:
        reasons.missing(path, "must have exactly one source", path)
        return
    kind = given[0]
    here = f"{path}.{kind}"
    if kind == "fieldRef":
        check_field_ref(source[kind], here, _ENV_FIELDS, reasons)
    elif kind == "resourceFieldRef":
        check_resource_ref(source[kind], here, reasons)
    elif kind == "secretKeyRef":
        _check_key_ref(source[kind], here, "secrets", policy.secrets, reasons)
    else:
        _check_key_ref(source[kind], here, "config_maps", policy.config_maps, reasons)


def check_downward_item(item: Mapping[str, Any], path: str, reasons: Reasons) -> None:
    """Note what is wrong with what a file of a downwardAPI volume refers to."""
    if ("fieldRef" in item) == ("resourceFieldRef" in item):
        reasons.missing(path, "must have either fieldRef or resourceFieldRef", path)
    elif "fieldRef" in item:
        check_field_ref(item["fieldRef"], f"{path}.fieldRef", _VOLUME_FIELDS, reasons)
    else:
        reference, here = item["resourceFieldRef"], f"{path}.resourceFieldRef"
        if "containerName" not in reference:
            reasons.missing(f"{here}.containerName", "is required in a volume", f"{here}.containerName")
        check_resource_ref(reference, here, reasons)


def check_field_ref(reference: Mapping[str, Any], path: str, fields: frozenset[str], reasons: Reasons) -> None:
    """Note a field that cannot be referred to."""
    if reference.get("apiVersion", "v1") != "v1":
        reasons.add(f"{path}.apiVersion", "must be v1")
    field = reference.get("fieldPath")
    if field is None:
        reasons.missing(f"{path}.fieldPath", "is required", f"{path}.fieldPath")
        return
    subscript = _SUBSCRIPT.match(field)
    if field not in fields and not (subscript and is_key(subscript.group(1))):
        reasons.add(f"{path}.fieldPath", f"must be one of {', '.join(sorted(fields))}, or a label or annotation")


def check_resource_ref(reference: Mapping[str, Any], path: str, reasons: Reasons) -> None:
    """Note a resource or divisor that cannot be used."""
    resource = reference.get("resource")
    if resource is None:
        reasons.missing(f"{path}.resource", "is required", f"{path}.resource")
        return
    match = _RESOURCES.match(resource)
    if match is None:
        reasons.add(f"{path}.resource", "must be limits or requests of cpu, memory or ephemeral-storage")
        return
    divisor = reference.get("divisor")
    if divisor is None:
        return
    cpu = match.group(1) == "cpu"
    fits = divisor.nanos in _NANOS_OF_CPU if cpu else divisor.nanos % 10**9 == 0 and divisor.whole in _UNITS
    if not fits:
        reasons.add(f"{path}.divisor", "must be 1m or 1" if cpu else "must be 1, or 1 of a suffix such as 1k or 1Mi")


def _check_key_ref(
    reference: Mapping[str, Any], path: str, key: str, patterns: tuple[str, ...], reasons: Reasons
) -> None:
    check_granted(reference.get("name", ""), patterns, path, key, reasons)
    if not reference.get("key"):
        reasons.missing(f"{path}.key", "is required", path)


def settle_divisors(spec: Mapping[str, Any]) -> None:
    """Write each divisor in canonical form; one that was left out is 0, as the typed encoder writes it."""
    for reference in _resource_refs(spec):
        divisor = reference.get("divisor")
        reference["divisor"] = "0" if divisor is None else str(divisor)


def _resource_refs(spec: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for kind in ("containers", "initContainers"):
        for container in spec.get(kind, ()):
            for variable in container.get("env", ()):
                if "resourceFieldRef" in variable.get("valueFrom", ()):
                    yield variable["valueFrom"]["resourceFieldRef"]
    for volume in spec.get("volumes", ()):
        projected = [source.get("downwardAPI", {}) for source in volume.get("projected", {}).get("sources", ())]
        for source in (volume.get("downwardAPI", {}), *projected):
            for item in source.get("items", ()):
                if "resourceFieldRef" in item:
                    yield item["resourceFieldRef"]
