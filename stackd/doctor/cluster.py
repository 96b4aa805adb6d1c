"""The cluster: is it reached, may stackd do what it does, and is it set up so that stacks stay among themselves."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from stackd.config import Config
from stackd.doctor.capacity import Bound, Size, by_nodes, by_quotas
from stackd.doctor.findings import Finding, fail, ok, warn
from stackd.errors import NodePortTaken, QuotaExceeded, StackdError
from stackd.kube.client import Cluster
from stackd.kube.isolation import EGRESS, INGRESS, protects
from stackd.kube.manifests import ServiceRequest, service_manifest
from stackd.kube.objects import NodeState, node_state
from stackd.kube.rights import Ask, asks
from stackd.model import PortMapping, Stack, StackStatus

APPLY = "apply what `stackd manifests` prints"
SKEW_WARN, SKEW_FAIL = 5.0, 60.0
ENFORCE = "pod-security.kubernetes.io/enforce"
LEVELS = {"": 0, "privileged": 0, "baseline": 1, "restricted": 2}
SPECIAL = (("secrets", "get"), ("pods/exec", "create"))
_OUT_OF_RANGE = "range of valid ports"


async def examine(cluster: Cluster, config: Config, size: Size) -> AsyncIterator[Finding]:
    """Everything, in an order in which the first failure explains the others."""
    try:
        yield ok("cluster", f"Kubernetes {await cluster.version()} answers")
    except StackdError as error:
        yield fail("cluster", str(error), "see whether cluster.kubeconfig leads to it, and whether it may be reached")
        return
    for check in (_clock, _namespace, _rights, _policies, _nodes, _ports, _room):
        about = check.__name__.strip("_")
        try:
            for finding in await check(cluster, config, size):
                yield finding
        except StackdError as error:
            yield fail(about, str(error), f"{APPLY}, if it is about a right")


async def _clock(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    told = await cluster.time()
    if told is None:
        return [warn("clock", "the API server does not tell the time")]
    skew = abs(time.time() - told)
    text = f"this machine's and the API server's differ by {'about a second' if skew < 2 else f'{skew:.0f} s'}"
    if skew < SKEW_WARN:
        return [ok("clock", text)]
    advice = "keep both with NTP: stacks would live too long or too short"
    return [fail("clock", text, advice) if skew > SKEW_FAIL else warn("clock", text, advice)]


async def _namespace(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    name = config.stacks.namespace
    document = await cluster.namespace()
    if document is None:
        return [fail("namespace", f"there is no namespace {name}", APPLY)]
    if (document.get("status") or {}).get("phase") == "Terminating":
        return [fail("namespace", f"{name} is being terminated", "wait, or see what holds it")]
    level = (document["metadata"].get("labels") or {}).get(ENFORCE, "")
    if LEVELS.get(level, 0) < LEVELS[config.policy.profile]:
        text = f"{name} enforces the Pod Security Standard {level or 'none'}, and policy.profile is {config.policy.profile}"
        return [warn("namespace", text, f"kubectl label namespace {name} {ENFORCE}={config.policy.profile}")]
    return [ok("namespace", f"{name} is there, and enforces the Pod Security Standard {level}")]


async def _rights(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    wanted = list(asks(config.stacks.namespace))
    allowed = await asyncio.gather(*(cluster.may(ask) for ask in wanted))
    found = [
        fail("rights", f"it may not {_words(ask)}: {ask.why}", APPLY)
        for ask, may in zip(wanted, allowed, strict=True)
        if not may
    ]
    more = [ask for ask in _too_much(config.stacks.namespace) if await cluster.may(ask)]
    if more:
        text = f"it may also {' and '.join(map(_words, more))}, which it never does"
        found.append(
            warn("rights", text, "give it an account of its own, with the rights that `stackd manifests` prints")
        )
    return found or [ok("rights", f"all {len(wanted)} that are needed, and no others that were looked for")]


def _too_much(namespace: str) -> Iterator[Ask]:
    for resource, verb in SPECIAL:
        name, _, subresource = resource.partition("/")
        yield Ask(verb=verb, resource=name, subresource=subresource, group="", namespace=namespace, name="", why="")


def _words(ask: Ask) -> str:
    resource = f"{ask.resource}/{ask.subresource}" if ask.subresource else ask.resource
    where = f" in {ask.namespace}" if ask.namespace else f" {ask.name}" if ask.name else ""
    return f"{ask.verb} {resource}{where}"


async def _policies(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    policies = await cluster.network_policies()
    instance, about = config.cluster.instance, "policies"
    found = []
    if protects(policies, instance, INGRESS):
        found.append(
            ok(about, "NetworkPolicies restrict who reaches the stacks (--probe shows whether they are enforced)")
        )
    else:
        text = "no NetworkPolicy restricts who reaches the stacks: each is open to every other"
        needed = config.stacks.require_ingress_network_policy
        found.append(fail(about, text + "; the daemon will not start", APPLY) if needed else warn(about, text, APPLY))
    if protects(policies, instance, EGRESS):
        found.append(ok(about, "NetworkPolicies restrict what the stacks reach"))
    else:
        found.append(
            warn(about, "no NetworkPolicy restricts what the stacks reach: cluster, metadata, the internet", APPLY)
        )
    return found


async def _nodes(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    nodes = await _ours(cluster, config)
    selector = ",".join(f"{key}={value}" for key, value in config.stacks.node_selector.items())
    if not nodes:
        return [fail("nodes", f"none has {selector}", f"kubectl label node NAME {selector.replace(',', ' ')}")]
    usable = [node for node in nodes if _usable(node)]
    if not usable:
        return [fail("nodes", f"{len(nodes)} have {selector}, and none of them is ready and takes pods")]
    mute = [node.name for node in usable if not address(config, node)]
    if mute:
        types = ", ".join(config.stacks.address_types)
        text = f"no public address ({types}): {', '.join(mute)}; their stacks answer node_public_ip: null"
        return [warn("nodes", text, "name them in stacks.public_ips, or add their kind to stacks.address_types")]
    away = f"; {len(nodes) - len(usable)} more do not" if len(usable) < len(nodes) else ""
    return [ok("nodes", f"{len(usable)} with {selector or 'any label'} take pods, each with a public address{away}")]


async def _ports(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    stacks, about = config.stacks, "ports"
    if stacks.namespace and await cluster.namespace() is None:
        return []
    for port in {stacks.node_port_min: None, stacks.node_port_max: None}:
        try:
            await cluster.create_service(_service(config, port), dry_run=True)
        except NodePortTaken as taken:
            if _OUT_OF_RANGE in str(taken):
                advice = "choose stacks.node_port_min and node_port_max within the cluster's service-node-port-range"
                return [fail(about, f"{port} is not a node port of this cluster: {taken}", advice)]
        except QuotaExceeded as full:
            return [warn(about, f"the range cannot be looked at while the quota is used up: {full}")]
    return [ok(about, f"{stacks.node_port_min} to {stacks.node_port_max} are node ports of this cluster")]


async def _room(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    nodes = [node for node in await _ours(cluster, config) if _usable(node)]
    quotas = await cluster.resource_quotas()
    stacks, limit = config.stacks, config.limits.max_stacks
    bounds = [
        by_nodes(nodes, size),
        *by_quotas(quotas, size),
        Bound(stacks=stacks.node_port_max - stacks.node_port_min + 1, why="node ports"),
        *([Bound(stacks=limit, why="limits.max_stacks")] if limit else []),
    ]
    least = min(bounds, key=lambda bound: bound.stacks)
    others = ", ".join(f"{bound.why}: {bound.stacks}" for bound in bounds if bound is not least)
    text = f"for {least.stacks} stacks of {size} ({least.why}); {others}"
    if not least.stacks:
        return [fail("room", text, "there is no room for a single one")]
    found = [ok("room", text)]
    if not quotas:
        found.append(
            warn("room", f"no ResourceQuota in {stacks.namespace} keeps the stacks from taking everything", APPLY)
        )
    if not await cluster.limit_ranges():
        found.append(
            warn("room", f"no LimitRange in {stacks.namespace} keeps one stack from filling a node's disk", APPLY)
        )
    return found


async def _ours(cluster: Cluster, config: Config) -> list[NodeState]:
    nodes = [node_state(raw) async for raw in cluster.list_raw("nodes")]
    wanted = config.stacks.node_selector.items()
    return [node for node in nodes if all(node.labels.get(key) == value for key, value in wanted)]


def _usable(node: NodeState) -> bool:
    return node.ready and not node.unschedulable


def address(config: Config, node: NodeState) -> str | None:
    """The address that a stack on this node is reached at, as the daemon would tell it."""
    if node.name in config.stacks.public_ips:
        return config.stacks.public_ips[node.name]
    found = dict(reversed(node.addresses))
    return next((found[kind] for kind in config.stacks.address_types if kind in found), None)


def _service(config: Config, port: int) -> dict[str, Any]:
    return service_manifest(
        ServiceRequest(stack=throwaway(config, port), instance=f"doctor-{secrets.token_hex(4)}", pod_uid="none")
    )


def throwaway(config: Config, port: int, container_port: int = 8080) -> Stack:
    """A stack that no row knows."""
    return Stack(
        stack_id=f"stack-{secrets.token_hex(8)}",
        namespace=config.stacks.namespace,
        pod_spec="",
        ports=(PortMapping(container_port=container_port, protocol="TCP", node_port=port),),
        status=StackStatus.CREATING,
        created_at=time.time_ns(),
        updated_at=time.time_ns(),
        ttl_expires_at=time.time_ns(),
        requested_cpu_milli=0,
        requested_memory_bytes=0,
    )
