"""Pod specs for tests: the document's example, and ways to change it."""

from __future__ import annotations

import copy
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from stackd.errors import InvalidPodSpec
from stackd.model import SanitizedSpec, TargetPort
from stackd.podspec import Policy, sanitize

REFUSALS: dict[str, list[dict[str, Any]]] = yaml.safe_load(Path(__file__).with_name("refusals.yaml").read_text())
"""What is refused, and why."""

DEFAULT_POLICY = Policy()
HTTP = (TargetPort(container_port=80, protocol="TCP"),)
_SEED: dict[str, Any] = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "challenge"},
    "spec": {"containers": [{
        "name": "app", "image": "nginx:stable", "ports": [{"containerPort": 80, "protocol": "TCP"}],
        "resources": {"limits": {"cpu": "100m", "memory": "128Mi"}},
    }]},
}  # fmt: skip


def seed() -> dict[str, Any]:
    """A new copy of the document's example."""
    return copy.deepcopy(_SEED)


def changed(case: dict[str, Any]) -> dict[str, Any]:
    """The seed with the fields of one of the refusals: in its container, its spec, its metadata, or itself."""
    pod = seed()
    spec = pod["spec"]
    for name, owner in {
        "container": spec["containers"][0],
        "spec": spec,
        "metadata": pod["metadata"],
        "pod": pod,
    }.items():
        owner.update(case.get(name, {}))
    return pod


def container(**fields: Any) -> dict[str, Any]:
    """The seed with more fields in its container."""
    return changed({"container": fields})


def spec(**fields: Any) -> dict[str, Any]:
    """The seed with more fields in its spec."""
    return changed({"spec": fields})


def metadata(**fields: Any) -> dict[str, Any]:
    """The seed with more fields in its metadata."""
    return changed({"metadata": fields})


def with_volume(source: dict[str, Any]) -> dict[str, Any]:
    """The seed with one volume, mounted."""
    pod = container(volumeMounts=[{"name": "v", "mountPath": "/v"}])
    pod["spec"]["volumes"] = [{"name": "v", **source}]
    return pod


def with_init(*init: dict[str, Any]) -> dict[str, Any]:
    """The seed with init containers; each has a name, an image and the seed's resources unless given."""
    defaults = {"image": "b:1", "resources": {"limits": {"cpu": "100m", "memory": "128Mi"}}}
    return spec(initContainers=[{"name": f"init{index}", **defaults, **one} for index, one in enumerate(init)])


def admit(pod: object, policy: Policy = DEFAULT_POLICY, ports: tuple[TargetPort, ...] = HTTP) -> SanitizedSpec:
    """The sanitized spec of ``pod``, given as data or text."""
    return sanitize(pod if isinstance(pod, str) else json.dumps(pod), ports, policy)


def manifest(pod: object, policy: Policy = DEFAULT_POLICY) -> dict[str, Any]:
    """The sanitized pod as data."""
    return dict(admit(pod, policy).manifest)


def reasons(pod: object, policy: Policy = DEFAULT_POLICY, ports: tuple[TargetPort, ...] = HTTP) -> list[str]:
    """Why ``pod`` is refused; an empty list if it is not."""
    try:
        admit(pod, policy, ports)
    except InvalidPodSpec as refused:
        return [str(reason) for reason in refused.reasons]
    return []


def exact(text: str) -> Fraction:
    """The value of a quantity."""
    if text[-1].isdigit() and "e" in text.lower():
        mantissa, _, exponent = text.lower().partition("e")
        return Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(exponent)
    number = text.rstrip("numkKMGTPEi")
    suffix = text[len(number) :]
    powers = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
    tens = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
    factor = Fraction(1024) ** powers[suffix] if suffix in powers else Fraction(10) ** tens[suffix]
    return Fraction(number.rstrip(".")) * factor
