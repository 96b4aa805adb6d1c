"""The only way from a tenant's text to a pod that may run; and from JSON to the ``target_port`` beside it.

Owns: the order of the steps (read, decode, check, settle, write); the fields that stackd always sets, security contexts
among them; and the cache of recently sanitized specs: a challenge that clients create again and again is checked only
once; and reading published ports and labels (Kubernetes' rules; stackd adds the prefix). Each other rule is in a module
of its own.

A tenant's security context may have what only hardens the pod, stackd's own choices and what the policy grants. An empty
one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from stackd import contract
from stackd.contract import TargetPorts
from stackd.errors import InvalidPodSpec, Reason
from stackd.model import Route, RoutedTarget, SanitizedSpec, TargetPort
from stackd.names import did_you_mean
from stackd.podspec import fields
from stackd.podspec.checks import Checks, by_path
from stackd.podspec.decoding import decode, refusal
from stackd.podspec.fields import LARGEST_INT32
from stackd.podspec.policy import DROPPABLE, Policy
from stackd.podspec.reasons import ROOT, Enough, Reasons
from stackd.podspec.resources import settle_resources
from stackd.podspec.yaml_text import TooLong, emit, located, read

KEPT: Final = 128
TARGET_PORT: Final = "target_port"
LONG_SPEC: Final = 16 * 1024
"""In characters. Longer texts are not cached but checked each time, to save memory."""
_OWN = "not accepted; stackd sets the security context"
_IDS = frozenset({"runAsUser", "runAsGroup", "fsGroup"})
_HARDENING: Mapping[str, object] = {
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "appArmorProfile": {"type": "RuntimeDefault"},
}
"""Everybody may ask for this, and drop capabilities."""


def sanitize(text: str, target_ports: tuple[TargetPort, ...], policy: Policy) -> SanitizedSpec:
    """The pod that ``text`` describes, within ``policy``. Raises ``InvalidPodSpec`` with every reason against it.

    Sanitizing the text of the result again gives the same result.
    """
    if len(text) > policy.max_text or len(text.encode(errors="surrogatepass")) > policy.max_text:
        raise _too_long(policy)
    document = read(text)
    reasons = Reasons()
    pod: dict[str, Any] = {}
    cpu = memory = 0
    try:
        pod = fields.decode(document, reasons)
        cpu, memory = _settle(pod, target_ports, policy, reasons)
    except Enough:
        pass
    if reasons:
        raise located(InvalidPodSpec(reasons.as_list()), text)
    metadata = pod.setdefault("metadata", {})
    metadata.pop("namespace", None)
    pod["status"] = {}
    try:
        written = emit(pod, policy.max_text)
    except TooLong as exc:
        raise _too_long(policy, " once sanitized and with aliases written out") from exc
    return SanitizedSpec(
        text=written,
        manifest={"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]},
        requested_cpu_milli=cpu,
        requested_memory_bytes=memory,
    )


def _settle(
    pod: dict[str, Any], target_ports: tuple[TargetPort, ...], policy: Policy, reasons: Reasons
) -> tuple[int, int]:
    checks = Checks(policy, reasons)
    checks.pod(pod)
    spec = pod.setdefault("spec", {})
    checks.target_ports(target_ports, spec)
    for path, container in by_path(spec).items():
        _settle_context(container, path, _container_context(policy), policy, reasons)
    _settle_context(spec, "spec", _context(policy), policy, reasons)
    spec |= {"automountServiceAccountToken": False, "enableServiceLinks": False, "restartPolicy": policy.restart_policy}
    return settle_resources(spec, policy, reasons)


def _too_long(policy: Policy, when: str = "") -> InvalidPodSpec:
    text = f"the text is longer than {policy.max_text} bytes (limits.pod_spec){when}"
    return InvalidPodSpec([Reason(path=ROOT, text=text)])


def _context(policy: Policy) -> dict[str, Any]:
    """The security context of every pod."""
    non_root = {"runAsNonRoot": True} if policy.non_root else {}
    return {"seccompProfile": {"type": "RuntimeDefault"}, **non_root}


def _container_context(policy: Policy) -> dict[str, Any]:
    """The security context of every container."""
    dropped = {"capabilities": {"drop": ["ALL"]}} if policy.restricted else {}
    return {"allowPrivilegeEscalation": False, "privileged": False, **_context(policy), **dropped}


def _settle_context(
    owner: dict[str, Any], path: str, profile: dict[str, Any], policy: Policy, reasons: Reasons
) -> None:
    """Replace the owner's security context by the profile's block and the tenant's fields that the policy grants."""
    asked = owner.get("securityContext")
    block = owner["securityContext"] = dict(profile)
    if asked is None:
        return
    here = f"{path}.securityContext"
    if not asked:
        reasons.missing(here, _OWN)
    for field, value in asked.items():
        if value == profile.get(field):
            continue
        if field == "capabilities":
            _settle_capabilities(value, block, f"{here}.{field}", policy, reasons)
        elif why := _refusal(field, value, policy):
            reasons.add(f"{here}.{field}", why)
        else:
            block[field] = value


def _refusal(field: str, value: Any, policy: Policy) -> str:
    if value == _HARDENING.get(field):
        return ""
    if field not in _IDS and field != "runAsNonRoot":
        return _OWN
    if not policy.run_as_user:
        return "not accepted, unless policy.run_as_user allows it"
    if field in _IDS and not 0 <= value <= LARGEST_INT32:
        return f"must be from 0 to {LARGEST_INT32}"
    if policy.non_root and (value is False or (field == "runAsUser" and value == 0)):
        return "containers may not run as root (policy.run_as_root, or the restricted profile)"
    return ""


def _settle_capabilities(
    value: Mapping[str, Any], block: dict[str, Any], path: str, policy: Policy, reasons: Reasons
) -> None:
    for index, name in enumerate(value.get("add", ())):
        if not policy.add_capabilities:
            reasons.add(f"{path}.add", "not accepted, unless policy.add_capabilities allows it")
        elif name not in policy.add_capabilities:
            reasons.add(f"{path}.add[{index}]", "only what policy.add_capabilities names may be added")
    for index, name in enumerate(value.get("drop", ())):
        if name not in DROPPABLE:
            reasons.add(f"{path}.drop[{index}]", f"is not a capability{did_you_mean(name, DROPPABLE)}")
    if settled := {**value, **block.get("capabilities", {})}:
        block["capabilities"] = settled


class Sanitizer:
    """``sanitize`` under one policy. Callers share the results and must not change their manifests.

    A result is kept under its own text, too: a stack that starts again has that text, and is not parsed again.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._kept: dict[tuple[str, tuple[TargetPort, ...]], SanitizedSpec] = {}

    def sanitize(self, text: str, target_ports: tuple[TargetPort, ...]) -> SanitizedSpec:
        """The pod that ``text`` describes. Raises InvalidPodSpec; refusals are not kept."""
        spec = self._kept.get((text, target_ports)) or sanitize(text, target_ports, self._policy)
        for kept in {text, spec.text}:
            self._kept.pop((kept, target_ports), None)
            if len(kept) <= LONG_SPEC:
                self._kept[kept, target_ports] = spec  # behind the others
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return spec


# ---- what a request or a template has beside its pod spec


def parse_target_ports(value: object) -> tuple[TargetPort, ...]:
    """The published ports, as they stand in JSON or YAML. Raises ``InvalidRequest`` with each mistake."""
    return target_ports(decode(TargetPorts, value, TARGET_PORT))


def target_ports(entries: Sequence[contract.TargetPort]) -> tuple[TargetPort, ...]:
    """The published ports, with their protocols in upper case. Raises ``InvalidRequest`` with each mistake."""
    reasons: list[Reason] = []
    ports: list[TargetPort] = []
    seen: dict[tuple[int, str], int] = {}
    for index, entry in enumerate(entries):
        number, protocol = entry.container_port, entry.protocol.upper()
        first = seen.setdefault((number, protocol), index)
        if entry.route is not None and protocol == "UDP":
            text = "a UDP port cannot have a name; leave route out to get a node port"
            reasons.append(Reason(path=f"{TARGET_PORT}[{index}].route", text=text))
        if first != index:
            text = f"{number}/{protocol} is already {TARGET_PORT}[{first}]"
            reasons.append(Reason(path=f"{TARGET_PORT}[{index}]", text=text))
        if entry.route is not None:
            ports.append(RoutedTarget(container_port=number, protocol=protocol, route=Route(entry.route)))
        else:
            ports.append(TargetPort(container_port=number, protocol=protocol))
    if reasons:
        raise refusal(reasons)
    return tuple(ports)
