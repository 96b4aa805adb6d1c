"""The three ways to patch: JSON patch, merge patch, strategic merge. Pure: the original is left alone."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from stackd.embedded.resources import Json
from stackd.embedded.status import ApiError, bad_request, unsupported_media_type

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"

_KEYS = {
    "conditions": "type",
    "addresses": "type",
    "taints": "key",
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "ownerReferences": "uid",
}


def apply(kind: str, original: Json, patch: Any) -> Json:
    """The patched object. Raises ApiError 400, 415 or 422."""
    if kind == JSON_PATCH:
        return _json_patch(original, patch)
    if kind not in {MERGE_PATCH, STRATEGIC}:
        supported = f"{JSON_PATCH}, {MERGE_PATCH}, {STRATEGIC}"
        raise unsupported_media_type(
            f"the body of the request was in an unknown format - accepted media types include: {supported}"
        )
    if not isinstance(patch, dict):
        raise bad_request("json: cannot unmarshal array into Go value of type map[string]interface {}")
    return _merge(original, patch, strategic=kind == STRATEGIC)


def _merge(original: Json, patch: Json, *, strategic: bool) -> Json:
    merged = dict(original)
    for key, value in patch.items():
        if strategic and key.startswith("$"):
            continue
        old = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = _merge(old if isinstance(old, dict) else {}, value, strategic=strategic)
        elif strategic and key in _KEYS and isinstance(value, list):
            merged[key] = _merge_list(old or [], value, _KEYS[key])
        elif strategic and key == "finalizers" and isinstance(value, list):
            merged[key] = [*(old or []), *(one for one in value if one not in (old or []))]
        else:
            merged[key] = value
    return merged


def _merge_list(original: list[Json], patch: list[Json], key: str) -> list[Json]:
    merged = {one.get(key): one for one in original}
    for one in patch:
        if one.get("$patch") == "delete":
            merged.pop(one.get(key), None)
        elif "$patch" not in one:
            merged[one.get(key)] = _merge(merged.get(one.get(key), {}), one, strategic=True)
    return list(merged.values())


def _json_patch(original: Json, patch: Any) -> Json:
    result = deepcopy(original)
    for step in patch if isinstance(patch, list) else ():
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        target: Any = result
        try:
            for part in path:
                target = target[int(part)] if isinstance(target, list) else target[part]
            _step(step, target, last)
        except (KeyError, IndexError, ValueError) as exc:
            message = f"the server rejected our request due to an error in our request: {step['op']} {step['path']}"
            raise ApiError(422, "Invalid", message, {}) from exc
    return result


def _step(step: Json, target: Any, last: str) -> None:
    place: Any = int(last) if isinstance(target, list) and last != "-" else last
    match step["op"]:
        case "add" if isinstance(target, list):
            target.insert(len(target) if last == "-" else place, step["value"])
        case "add":
            target[place] = step["value"]
        case "replace":
            if isinstance(target, dict) and place not in target:
                raise KeyError(place)
            target[place] = step["value"]
        case "remove":
            del target[place]
        case "test":
            if target[place] != step["value"]:
                raise ValueError(step["path"])
        case other:
            raise ValueError(other)
