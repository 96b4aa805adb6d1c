"""The one way from a tenant's text to a pod that may run.

Owns: the order of the steps (read, decode, check, settle, write). Each rule lives in its own module.
"""

from __future__ import annotations

from typing import Any

from stackd.errors import InvalidPodSpec
from stackd.model import SanitizedSpec, TargetPort
from stackd.podspec.containers import by_path, check_containers, keeps_running
from stackd.podspec.decode import decode
from stackd.podspec.emit import emit
from stackd.podspec.fieldrefs import settle_divisors
from stackd.podspec.pod import check_head, check_settings, settle_settings
from stackd.podspec.policy import Policy
from stackd.podspec.reasons import Enough, Reasons
from stackd.podspec.resources import Effective, settle_resources
from stackd.podspec.security import container_context, pod_context, settle_context
from stackd.podspec.target_ports import check_target_ports
from stackd.podspec.volumes import check_volumes, limit_empty_dirs
from stackd.podspec.yaml_reader import read


def sanitize(text: str, target_ports: tuple[TargetPort, ...], policy: Policy) -> SanitizedSpec:
    """The pod that ``text`` describes, within ``policy``. Raises ``InvalidPodSpec`` with every reason why not.

    Sanitizing the text of the result again gives the same result.
    """
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
        raise InvalidPodSpec(reasons.as_list())
    return _written(pod, effective)


def _checked(pod: dict[str, Any], target_ports: tuple[TargetPort, ...], policy: Policy, reasons: Reasons) -> Effective:
    check_head(pod, reasons)
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
    effective = settle_resources(containers, policy, reasons)
    if not reasons:
        limit_empty_dirs(spec, policy)
        settle_divisors(spec)
    return effective


def _written(pod: dict[str, Any], effective: Effective) -> SanitizedSpec:
    metadata = pod.setdefault("metadata", {})
    metadata.pop("namespace", None)
    pod["status"] = {}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}
    return SanitizedSpec(
        text=emit(pod),
        manifest=manifest,
        requested_cpu_milli=effective.cpu_milli,
        requested_memory_bytes=effective.memory_bytes,
    )
