"""Which volumes a pod may have.

Owns: that each has one source, of the kinds that the allowlist knows and the policy grants, and the size limit of an
emptyDir. Mounts are the containers' matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackd.podspec.fieldrefs import check_downward_item
from stackd.podspec.grants import check_granted
from stackd.podspec.names import is_inner_path, is_key, is_label, matches_any
from stackd.podspec.policy import Policy
from stackd.podspec.reasons import Reasons, below

_LARGEST_MODE = 0o777
_PROJECTED = ("downwardAPI", "configMap", "secret")


def check_volumes(spec: Mapping[str, Any], policy: Policy, reasons: Reasons) -> None:
    """Note what is wrong with the pod's volumes."""
    seen = set()
    for index, volume in enumerate(spec.get("volumes", ())):
        path = f"spec.volumes[{index}]"
        name = volume.get("name")
        if name is None:
            reasons.missing(f"{path}.name", "is required", f"{path}.name")
        elif not is_label(name):
            reasons.add(f"{path}.name", "must be at most 63 lower-case letters, digits and inner hyphens")
        elif name in seen:
            reasons.add(f"{path}.name", "is the name of another volume, too")
        seen.add(name)
        _check_source(volume, path, policy, reasons)


def limit_empty_dirs(spec: Mapping[str, Any], policy: Policy) -> None:
    """Give each emptyDir its canonical size limit, the policy's where the tenant named none."""
    for volume in spec.get("volumes", ()):
        source = volume.get("emptyDir")
        if source is None:
            continue
        limit = source.get("sizeLimit") or policy.empty_dir_quantity
        if limit is not None:
            source["sizeLimit"] = str(limit.in_whole())


def _check_source(volume: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    sources = [kind for kind in volume if kind != "name"]
    if len(sources) != 1:
        reasons.missing(path, "must have exactly one source, such as emptyDir", path)
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
            reasons.missing(here, f"must have exactly one of {', '.join(_PROJECTED)}", here)
        for kind in given:
            _check_files(kind, part[kind], f"{here}.{kind}", policy, reasons)


def _check_files(kind: str, source: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    """A source that is a set of files: downwardAPI, configMap or secret."""
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
            reasons.missing(f"{here}.path", 'must be a relative path without ".."', f"{here}.path")
        if kind == "downwardAPI":
            check_downward_item(item, here, reasons)
        elif not item.get("key"):
            reasons.missing(f"{here}.key", "is required", f"{here}.key")


def _check_csi(source: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    if not policy.csi_drivers:
        reasons.add(path, "not accepted, unless policy.csi_drivers allows it")
    elif not matches_any(policy.csi_drivers, source.get("driver", "")):
        reasons.missing(f"{path}.driver", "only what policy.csi_drivers names may be used", f"{path}.driver")
    for key in source.get("volumeAttributes", ()):
        if not is_key(key):
            reasons.add(below(f"{path}.volumeAttributes", key), "is not a valid key")


def _check_mode(mode: int | None, path: str, reasons: Reasons) -> None:
    if mode is not None and not 0 <= mode <= _LARGEST_MODE:
        reasons.add(path, "must be from 0 to 0777 (octal)")
