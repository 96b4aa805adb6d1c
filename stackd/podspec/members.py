"""Several pods in one stack: their texts as one text, and what is checked of them together. Pure.

Each is sanitized by itself; what is kept of a stack is one text, the first pod's and then those of the members, each behind a
line with its name. No document of canonical YAML has such a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from stackd.contract import PROTOCOLS
from stackd.errors import InvalidPodSpec, Reason
from stackd.model import Member, SanitizedSpec, TargetPort
from stackd.podspec.checks import by_path, keeps_running
from stackd.podspec.reasons import below

_LINE: Final = re.compile(r"^--- # member ([a-z0-9-]+)\n", re.MULTILINE)
Sanitize = Callable[[str, tuple[TargetPort, ...]], SanitizedSpec]


def first_of(text: str) -> str:
    """The text of the first pod."""
    return _LINE.split(text, maxsplit=1)[0]


def texts_of(text: str) -> dict[str, str]:
    """The texts of the members, by their names."""
    parts = _LINE.split(text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def together(first: SanitizedSpec, members: Mapping[str, SanitizedSpec]) -> SanitizedSpec:
    """The pods of one stack; CPU and memory are those of all."""
    if not members:
        return first
    return replace(
        first,
        text="".join([first.text, *(f"--- # member {name}\n{spec.text}" for name, spec in members.items())]),
        requested_cpu_milli=sum(spec.requested_cpu_milli for spec in (first, *members.values())),
        requested_memory_bytes=sum(spec.requested_memory_bytes for spec in (first, *members.values())),
        members={name: spec.manifest for name, spec in members.items()},
    )


def sanitize_kept(text: str, ports: tuple[TargetPort, ...], sanitize: Sanitize) -> SanitizedSpec:
    """The pods of a text that ``together`` has made. Raises InvalidPodSpec."""
    return together(sanitize(first_of(text), ports), sanitize_members(texts_of(text), sanitize))


def sanitize_members(texts: Mapping[str, str], sanitize: Sanitize) -> dict[str, SanitizedSpec]:
    """The pods of these texts. Raises InvalidPodSpec with the mistakes of all, by paths that begin with the member's."""
    specs, reasons = dict[str, SanitizedSpec](), list[Reason]()
    for name, text in texts.items():
        try:
            specs[name] = sanitize(text, ())
        except InvalidPodSpec as error:
            reasons += below_member(name, error).reasons
    if reasons:
        raise InvalidPodSpec(reasons)
    return specs


def below_member(name: str, error: InvalidPodSpec) -> InvalidPodSpec:
    """The same mistakes, of a member's pod."""
    return InvalidPodSpec([replace(one, path=f"{below('members', name)}.{one.path}") for one in error.reasons])


def declared_ports(manifest: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    """The ports that the containers declare which keep running, each once."""
    return tuple(
        {
            (port["containerPort"], port.get("protocol", "TCP")): None
            for path, container in by_path(manifest["spec"]).items()
            if keeps_running(path, container)
            for port in container.get("ports", ())
            if port.get("protocol", "TCP") in PROTOCOLS
        }
    )


def members_of(spec: SanitizedSpec) -> tuple[Member, ...]:
    """The members of a new stack."""
    return tuple(Member(name=name, ports=declared_ports(manifest)) for name, manifest in spec.members.items())


def with_addresses(manifest: Mapping[str, Any], addresses: Mapping[str, str]) -> dict[str, Any]:
    """``manifest`` of a pod that finds these names at these addresses."""
    aliases = [{"ip": address, "hostnames": [name]} for name, address in addresses.items()]
    spec = manifest["spec"]
    return {**manifest, "spec": {**spec, "hostAliases": [*spec.get("hostAliases", ()), *aliases]}}


def addresses_in(pod: Mapping[str, Any]) -> dict[str, str]:
    """The addresses that ``with_addresses`` has put into a pod."""
    aliases = pod["spec"].get("hostAliases") or ()
    return {name: alias["ip"] for alias in aliases for name in alias["hostnames"]}


def targets_of(member: Member) -> list[TargetPort]:
    return [TargetPort(container_port=number, protocol=protocol) for number, protocol in member.ports]
