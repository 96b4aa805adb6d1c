"""LimitRanges: the defaults that they give containers, and what they forbid. Pure; works on decoded objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stackd.embedded import quantity
from stackd.embedded.defaults import containers, in_order
from stackd.embedded.needs import Amounts, amounts, is_bytes, pod_amounts
from stackd.embedded.resources import Json

_ANNOTATION = "kubernetes.io/limit-ranger"


def apply_defaults(pod: Json, limit_ranges: Iterable[Json]) -> None:
    """Give containers the requests and limits that they left out."""
    notes: list[str] = []
    for item in _items(limit_ranges, "Container"):
        for container in containers(pod["spec"]):
            kind = "init container" if container in pod["spec"].get("initContainers", ()) else "container"
            resources = container["resources"]
            for part, defaults in (("requests", "defaultRequest"), ("limits", "default")):
                missing = {k: v for k, v in item.get(defaults, {}).items() if k not in resources.get(part, {})}
                if missing:
                    resources[part] = dict(sorted((resources.get(part, {}) | missing).items()))
                    notes.append(f"{', '.join(missing)} {part[:-1]} for {kind} {container.get('name', '')}")
            container["resources"] = in_order("ResourceRequirements", resources)
    if notes:
        metadata = pod["metadata"]
        annotations = metadata.get("annotations", {}) | {_ANNOTATION: f"LimitRanger plugin set: {'; '.join(notes)}"}
        pod["metadata"] = in_order("ObjectMeta", metadata | {"annotations": dict(sorted(annotations.items()))})


def violations(pod: Json, limit_ranges: Iterable[Json]) -> list[str]:
    """Why the pod may not be; empty when it may."""
    found: list[str] = []
    given = list(limit_ranges)
    for item in _items(given, "Container"):
        for container in containers(pod["spec"]):
            requests = amounts(container["resources"], "requests")
            limits = amounts(container["resources"], "limits")
            found.extend(_check(item, "Container", requests, limits))
    for item in _items(given, "Pod"):
        spec = pod["spec"]
        found.extend(_check(item, "Pod", pod_amounts(spec, "requests"), pod_amounts(spec, "limits")))
    return found


def describe(problems: list[str]) -> str:
    """One message for all, in brackets if there are several."""
    return problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"


def _items(limit_ranges: Iterable[Json], kind: str) -> Iterator[Json]:
    for limit_range in limit_ranges:
        for item in limit_range.get("spec", {}).get("limits", ()):
            if item.get("type") == kind:
                yield item


def _check(item: Json, kind: str, requests: Amounts, limits: Amounts) -> Iterator[str]:
    for name, bound in item.get("min", {}).items():
        text = f"minimum {name} usage per {kind} is {bound}"
        if name not in requests:
            yield f"{text}.  No request is specified"
        elif requests[name] < quantity.milli(bound):
            yield f"{text}, but request is {_show(name, requests[name])}"
    for name, bound in sorted(item.get("max", {}).items(), reverse=True):
        text = f"maximum {name} usage per {kind} is {bound}"
        if name not in limits:
            yield f"{text}.  No limit is specified"
        elif limits[name] > quantity.milli(bound):
            yield f"{text}, but limit is {_show(name, limits[name])}"
    for name, ratio in item.get("maxLimitRequestRatio", {}).items():
        text = f"{name} max limit to request ratio per {kind} is {ratio}"
        if not requests.get(name) or name not in limits:
            yield f"{text}, but no request is specified or request is 0."
        elif limits[name] / requests[name] > quantity.milli(ratio) / 1000:
            yield f"{text}, but provided ratio is {limits[name] / requests[name]:f}"


def _show(name: str, value: int) -> str:
    return quantity.render(value, is_bytes(name))
