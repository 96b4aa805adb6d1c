"""The only way from a tenant's text to a pod that may run.

Owns: the order of the steps (read, decode, check, settle, write), and the cache of recently sanitized specs: a
challenge that clients create again and again is checked only once. Each rule is in a module of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from stackd.errors import InvalidPodSpec, Reason
from stackd.model import SanitizedSpec, TargetPort
from stackd.podspec.containers import by_path, check_containers, check_volumes, keeps_running, settle_divisors
from stackd.podspec.fields import decode
from stackd.podspec.pod import (
    check_head,
    check_settings,
    container_context,
    pod_context,
    settle_context,
    settle_settings,
)
from stackd.podspec.policy import Policy
from stackd.podspec.reasons import ROOT, Enough, Reasons
from stackd.podspec.request import check_target_ports
from stackd.podspec.resources import Effective, settle_resources, settle_sums
from stackd.podspec.yaml_reader import located, read
from stackd.podspec.yaml_writer import TooLong, emit

KEPT: Final = 64
LONG_SPEC: Final = 16 * 1024
"""In characters. Longer texts are not cached but checked each time, to save memory."""


def sanitize(text: str, target_ports: tuple[TargetPort, ...], policy: Policy) -> SanitizedSpec:
    """The pod that ``text`` describes, within ``policy``. Raises ``InvalidPodSpec`` with every reason against it.

    Sanitizing the text of the result again gives the same result.
    """
    _check_length(text, policy.max_text)
    document = read(text)
    reasons = Reasons()
    pod: dict[str, Any] = {}
    effective = Effective(cpu_milli=0, memory_bytes=0)
    try:
        pod = decode(document, reasons)
        effective = _checked(pod, target_ports, policy, reasons)
    except Enough:
        pass
    if reasons:
        raise located(InvalidPodSpec(reasons.as_list()), text)
    return _written(pod, effective, policy.max_text)


def _check_length(text: str, most: int) -> None:
    if len(text) > most or len(text.encode(errors="surrogatepass")) > most:
        raise InvalidPodSpec([Reason(path=ROOT, text=f"the text is longer than {most} bytes (limits.pod_spec)")])


def _checked(pod: dict[str, Any], target_ports: tuple[TargetPort, ...], policy: Policy, reasons: Reasons) -> Effective:
    check_head(pod, policy, reasons)
    spec = pod.setdefault("spec", {})
    containers = by_path(spec)
    check_settings(spec, policy, reasons)
    check_containers(spec, policy, reasons)
    check_volumes(spec, policy, reasons)
    running = {path: container for path, container in containers.items() if keeps_running(path, container)}
    check_target_ports(target_ports, running, reasons)
    for path, container in containers.items():
        settle_context(container, path, container_context(policy), policy, reasons)
    settle_context(spec, "spec", pod_context(policy), policy, reasons)
    settle_settings(spec, policy)
    effective = settle_sums(spec, containers, settle_resources(containers, policy, reasons), policy, reasons)
    if not reasons:
        settle_divisors(spec)
    return effective


def _written(pod: dict[str, Any], effective: Effective, most: int) -> SanitizedSpec:
    metadata = pod.setdefault("metadata", {})
    metadata.pop("namespace", None)
    pod["status"] = {}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}
    return SanitizedSpec(
        text=_text(pod, most),
        manifest=manifest,
        requested_cpu_milli=effective.cpu_milli,
        requested_memory_bytes=effective.memory_bytes,
    )


def _text(pod: dict[str, Any], most: int) -> str:
    try:
        text = emit(pod, most)
    except TooLong:
        text = ""
    if not text or len(text.encode()) > most:
        why = f"the text is longer than {most} bytes (limits.pod_spec) once sanitized and with aliases written out"
        raise InvalidPodSpec([Reason(path=ROOT, text=why)])
    return text


class Sanitizer:
    """``sanitize`` under one policy. Callers share the results and must not change their manifests."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._known: OrderedDict[tuple[str, tuple[TargetPort, ...]], SanitizedSpec] = OrderedDict()

    def sanitize(self, text: str, target_ports: tuple[TargetPort, ...]) -> SanitizedSpec:
        """The pod that ``text`` describes. Raises InvalidPodSpec; refusals are not cached."""
        name = (text, target_ports)
        spec = self._known.get(name)
        if spec is not None:
            self._known.move_to_end(name)
            return spec
        spec = sanitize(text, target_ports, self._policy)
        if len(text) <= LONG_SPEC:
            self._known[name] = spec
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        return spec
