"""A template, and the set of those that are in force."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from stackd.model import NO_LABELS, NO_VALUES, SanitizedSpec, TargetPort
from stackd.podspec import Policy
from stackd.templates import values


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One template as its file describes it.

    ``spec``             its pod within ``policy``, without what is generated for each stack
    ``ttl``              in seconds; None leaves it to ``stacks.ttl``
    ``pool``             how many stacks are kept running and unassigned
    ``values``           patterns by the names of the environment variables that every container gets
    ``policy``           the policy in force with the template's own rights
    ``digest``           tells one pod from another: the same digest makes the same template's pod but for its generated values
    ``interchangeable``  a create with a pod spec of this text and these ports gets the same pod: nothing is generated, and
                         the policy in force adds the same
    """

    name: str
    spec: SanitizedSpec
    target_ports: tuple[TargetPort, ...]
    policy: Policy
    digest: str
    ttl: float | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    pool: int = 0
    prepull: bool = False
    values: Mapping[str, str] = field(default_factory=lambda: NO_VALUES)
    interchangeable: bool = False

    @property
    def images(self) -> tuple[str, ...]:
        """The images of all its containers, each once, in the order of the pod."""
        spec: Any = self.spec.manifest["spec"]
        containers = (*spec.get("initContainers", ()), *spec["containers"])
        return tuple(dict.fromkeys(container["image"] for container in containers))

    def generate(self) -> Mapping[str, str]:
        """Fresh values for one stack."""
        return values.generate(self.values) if self.values else NO_VALUES


class TemplateSet(Mapping[str, Template]):
    """The templates in force, by name; never changed, but replaced as a whole."""

    def __init__(self, templates: Iterable[Template] = ()) -> None:
        self._by_name = {one.name: one for one in sorted(templates, key=lambda one: one.name)}
        self._by_spec = {
            (one.spec.text, one.target_ports): one
            for one in reversed(self._by_name.values())
            if one.pool and one.interchangeable
        }

    def __getitem__(self, name: str) -> Template:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def pooled_as(self, spec: SanitizedSpec, target_ports: tuple[TargetPort, ...]) -> Template | None:
        """The template from whose pool a create with this pod spec can be served; the first by name of several."""
        return self._by_spec.get((spec.text, target_ports))


NO_TEMPLATES = TemplateSet()


def digest_of(
    name: str,
    manifest: Mapping[str, Any],
    target_ports: tuple[TargetPort, ...],
    patterns: Mapping[str, str],
    placement: Any,
) -> str:
    """The digest of all that makes a template's pod: the manifest with the operator's additions, ports, values, and where it
    runs; and the template's name, for its pods are its own.
    """
    ports = [[port.container_port, port.protocol] for port in target_ports]
    parts = [name, manifest, ports, dict(patterns), placement]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()
