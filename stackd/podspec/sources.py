"""Where a pod's files and variables come from: volumes, Secrets, ConfigMaps, and the pod itself (downward API).

Owns: how many volumes there may be; that each volume and variable has one source, of a kind that the allowlist knows
and the policy grants; and which fields and resources a pod may refer to. ``resources`` sizes emptyDirs; ``containers``
checks mounts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from stackd.names import LABEL_FORM, SUBDOMAIN_FORM, is_inner_path, is_key, is_label, is_subdomain, matches_any
from stackd.podspec.policy import Policy
from stackd.podspec.reasons import Reasons, below

_LARGEST_MODE = 0o777
_PROJECTED = ("downwardAPI", "configMap", "secret")
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


def check_granted(name: str, patterns: tuple[str, ...], path: str, key: str, reasons: Reasons) -> None:
    """Report a reference to something that the operator has not granted under ``policy.<key>``."""
    if not patterns:
        reasons.add(path, f"not accepted, unless policy.{key} allows it")
    elif not is_subdomain(name):
        reasons.add(path, f"must be a name of {SUBDOMAIN_FORM}")
    elif not matches_any(patterns, name):
        reasons.add(path, f"only what policy.{key} names may be used")


def check_volumes(spec: Mapping[str, Any], policy: Policy, reasons: Reasons) -> None:
    """Report what is wrong with the pod's volumes."""
    seen = set()
    volumes = spec.get("volumes", ())
    if len(volumes) > policy.max_volumes:
        reasons.add(
            "spec.volumes", f"{len(volumes)} volumes; at most {policy.max_volumes} allowed (policy.max_volumes)"
        )
    for index, volume in enumerate(volumes):
        path = f"spec.volumes[{index}]"
        name = volume.get("name")
        if name is None:
            reasons.missing(f"{path}.name", "is required")
        elif not is_label(name):
            reasons.add(f"{path}.name", f"must be {LABEL_FORM}")
        elif name in seen:
            reasons.add(f"{path}.name", "is also the name of another volume")
        seen.add(name)
        _check_source(volume, path, policy, reasons)


def _check_source(volume: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    sources = [kind for kind in volume if kind != "name"]
    if len(sources) != 1:
        reasons.missing(path, "must have exactly one source, such as emptyDir")
        return
    kind = sources[0]
    source, here = volume[kind], f"{path}.{kind}"
    if kind == "emptyDir":
        _check_empty_dir(source, here, policy, reasons)
    elif kind == "projected":
        _check_projected(source, here, policy, reasons)
    elif kind == "persistentVolumeClaim":
        check_granted(source.get("claimName", ""), policy.volume_claims, here, "volume_claims", reasons)
    elif kind == "csi":
        _check_csi(source, here, policy, reasons)
    else:
        _check_files(kind, source, here, policy, reasons)


def _check_empty_dir(source: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    medium, limit = source.get("medium"), source.get("sizeLimit")
    if medium == "Memory" and not policy.empty_dir_memory:
        reasons.add(f"{path}.medium", "not accepted, unless policy.empty_dir_memory allows it")
    elif medium not in (None, "Memory"):
        reasons.add(f"{path}.medium", "must be Memory, or left out")
    if limit is None:
        return
    if limit.nanos <= 0:
        reasons.add(f"{path}.sizeLimit", "must be more than zero")
    elif policy.empty_dir_quantity and limit.whole > policy.empty_dir_quantity.whole:
        reasons.add(f"{path}.sizeLimit", f"more than {policy.empty_dir_quantity} (policy.empty_dir_size)")


def _check_projected(source: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    _check_mode(source.get("defaultMode"), f"{path}.defaultMode", reasons)
    for index, part in enumerate(source.get("sources", ())):
        here = f"{path}.sources[{index}]"
        given = [kind for kind in _PROJECTED if kind in part]
        if len(given) != 1:
            reasons.missing(here, f"must have exactly one of {', '.join(_PROJECTED)}")
        for kind in given:
            _check_files(kind, part[kind], f"{here}.{kind}", policy, reasons)


def _check_files(kind: str, source: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    """Report what is wrong with a source that is a set of files: downwardAPI, configMap or secret."""
    if kind == "configMap":
        check_granted(source.get("name", ""), policy.config_maps, path, "config_maps", reasons)
    elif kind == "secret":
        name = source.get("secretName") or source.get("name", "")
        check_granted(name, policy.secrets, path, "secrets", reasons)
    _check_mode(source.get("defaultMode"), f"{path}.defaultMode", reasons)
    for index, item in enumerate(source.get("items", ())):
        here = f"{path}.items[{index}]"
        _check_mode(item.get("mode"), f"{here}.mode", reasons)
        if not item.get("path") or not is_inner_path(item["path"]):
            reasons.missing(f"{here}.path", 'must be a relative path without ".."')
        if kind == "downwardAPI":
            _check_downward_item(item, here, reasons)
        elif not item.get("key"):
            reasons.missing(f"{here}.key", "is required")


def _check_csi(source: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    if not policy.csi_drivers:
        reasons.add(path, "not accepted, unless policy.csi_drivers allows it")
    elif not matches_any(policy.csi_drivers, source.get("driver", "")):
        reasons.missing(f"{path}.driver", "only what policy.csi_drivers names may be used")
    for key in source.get("volumeAttributes", ()):
        if not is_key(key):
            reasons.add(below(f"{path}.volumeAttributes", key), "is not a valid key")


def _check_mode(mode: int | None, path: str, reasons: Reasons) -> None:
    if mode is not None and not 0 <= mode <= _LARGEST_MODE:
        reasons.add(path, "must be from 0 to 0777 (octal)")


def check_env_source(source: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    """Report what is wrong with a variable's ``valueFrom``."""
    given = [kind for kind in _ENV_SOURCES if kind in source]
    if len(given) != 1:
        reasons.missing(path, "must have exactly one source")
        return
    kind = given[0]
    here = f"{path}.{kind}"
    if kind == "fieldRef":
        _check_field_ref(source[kind], here, _ENV_FIELDS, reasons)
    elif kind == "resourceFieldRef":
        _check_resource_ref(source[kind], here, reasons)
    elif kind == "secretKeyRef":
        _check_key_ref(source[kind], here, "secrets", policy.secrets, reasons)
    else:
        _check_key_ref(source[kind], here, "config_maps", policy.config_maps, reasons)


def _check_downward_item(item: Mapping[str, Any], path: str, reasons: Reasons) -> None:
    if ("fieldRef" in item) == ("resourceFieldRef" in item):
        reasons.missing(path, "must have either fieldRef or resourceFieldRef")
    elif "fieldRef" in item:
        _check_field_ref(item["fieldRef"], f"{path}.fieldRef", _VOLUME_FIELDS, reasons)
    else:
        reference, here = item["resourceFieldRef"], f"{path}.resourceFieldRef"
        if "containerName" not in reference:
            reasons.missing(f"{here}.containerName", "is required in a volume")
        _check_resource_ref(reference, here, reasons)


def _check_field_ref(reference: Mapping[str, Any], path: str, fields: frozenset[str], reasons: Reasons) -> None:
    if reference.get("apiVersion", "v1") != "v1":
        reasons.add(f"{path}.apiVersion", "must be v1")
    field = reference.get("fieldPath")
    if field is None:
        reasons.missing(f"{path}.fieldPath", "is required")
        return
    subscript = _SUBSCRIPT.match(field)
    if field not in fields and not (subscript and is_key(subscript.group(1))):
        reasons.add(f"{path}.fieldPath", f"must be one of {', '.join(sorted(fields))}, or a label or annotation")


def _check_resource_ref(reference: Mapping[str, Any], path: str, reasons: Reasons) -> None:
    resource = reference.get("resource")
    if resource is None:
        reasons.missing(f"{path}.resource", "is required")
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
    """Write each divisor in canonical form; a missing one becomes 0, as the typed encoder writes it."""
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
