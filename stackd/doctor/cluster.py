"""Check the cluster: can stackd reach it, does stackd have its rights, and are the stacks isolated from each other."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from stackd.clock import utc_minute
from stackd.config import Config
from stackd.doctor import SHOWN, Finding, fail, ok, warn
from stackd.doctor.routes import routes
from stackd.errors import ClusterRefused, ConfigError, QuotaExceeded, StackdError
from stackd.kube.client import Cluster
from stackd.kube.credentials import REMEDY, expiry_remark
from stackd.kube.objects import NodeState, pod_state
from stackd.kube.provision import EGRESS, INGRESS, egress_policy, egress_rules, lets_through, protects
from stackd.kube.rights import AccessReview, asks, asks_of_account
from stackd.kube.routes import kinds_of
from stackd.lifecycle import nodes
from stackd.lifecycle.brake import SKEW_SECONDS
from stackd.lifecycle.capacity import (
    NODES,
    Bound,
    StackResources,
    Storage,
    by_nodes,
    by_quotas,
    fits,
    free_of,
    most_storage,
    storage_given,
)
from stackd.model import NODE_PORTS_REMEDY, PortMapping, Stack, StackStatus
from stackd.printable import some_of
from stackd.quantity import of_bytes, of_milli, parse
from stackd.templates import read_templates
from stackd.templates.egress import NONE

APPLY = "apply what `stackd manifests` prints"
STRANGE_SECONDS = 30.0
SKEW_WARN = 5.0
ENFORCE = "pod-security.kubernetes.io/enforce"
LEVELS = {"": 0, "privileged": 0, "baseline": 1, "restricted": 2}
RESTRICTED = "restricted"
SPECIAL = (("secrets", "get"), ("pods/exec", "create"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What one stack requests; ``ephemeral_bytes`` None means what the policy or the LimitRange gives."""

    cpu_milli: int = 100
    memory_bytes: int = 128 << 20
    ephemeral_bytes: int | None = None

    def __str__(self) -> str:
        return f"{of_milli(self.cpu_milli)} CPU and {of_bytes(self.memory_bytes)}"

    def need(self, given: Storage) -> StackResources:
        """What one stack takes if containers that request no disk get ``given``."""
        asked = self.ephemeral_bytes
        return StackResources(
            cpu_milli=self.cpu_milli,
            memory_bytes=self.memory_bytes,
            ephemeral_bytes=given.request_bytes if asked is None else asked,
            ephemeral_limit_bytes=given.limit_bytes if asked is None else asked,
        )


class _NothingThere(StackdError):
    """The namespace is missing, or is not the one that stackd may use."""


async def examine(cluster: Cluster, config: Config, size: Size) -> AsyncIterator[Finding]:
    """Run all checks, in an order in which the first failure explains the others."""
    try:
        yield ok("cluster", f"Kubernetes {await cluster.version()} answers")
    except StackdError as error:
        why = expiry_remark(cluster.connection.access, time.time())
        refused = f"{REMEDY}; `stackd manifests --kubeconfig-for URL` makes one"
        away = "check that cluster.kubeconfig names it, and that this machine can reach it"
        advice = why or (refused if isinstance(error, ClusterRefused) else away)
        yield fail("cluster", str(error), advice)
        return
    for check in (_clock, _credentials, _namespace, _rights, _policies, _nodes, _ports, _room, routes):
        about = check.__name__.strip("_")
        try:
            for finding in await check(cluster, config, size):
                yield finding
        except _NothingThere as error:  # the other checks would only repeat it
            yield fail(about, str(error), f"is stacks.namespace right? If so, {APPLY}")
            return
        except StackdError as error:
            yield fail(about, str(error), f"{APPLY}, if it is about a right")


async def foreign_pods(cluster: Cluster, config: Config, known: set[str]) -> Finding | None:
    """Older pods of our instance, not in a pool, that the daemon here does not know: usually another stackd's."""
    pods = [pod_state(raw) for raw in await cluster.list_raw("pods")]
    old = time.time_ns() - round(STRANGE_SECONDS * 1e9)
    names = sorted(
        pod.name for pod in pods if pod.name not in known and not (pod.pool or pod.deleting) and pod.created_at < old
    )
    if not names:
        return None
    text = f"{len(names)} pods with cluster.instance {config.cluster.instance} are no stacks of the daemon here: {names[0]}"
    return fail(
        "instance",
        f"{text}{', …' if len(names) > 1 else ''}; another stackd works in {config.stacks.namespace} under the same name",
        "give each its own cluster.instance; `stackd reconcile --plan` shows what would be adopted here",
    )


async def _clock(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    told = await cluster.time()
    if told is None:
        return [warn("clock", "the API server did not tell its time")]
    skew = abs(time.time() - told)
    text = f"this machine's and the API server's differ by {'about a second' if skew < 2 else f'{skew:.0f} s'}"
    if skew < SKEW_WARN:
        return [ok("clock", text)]
    if skew > SKEW_SECONDS:
        return [fail("clock", text, "set both right, and run NTP on both: no stack expires until they agree")]
    return [warn("clock", text, "run NTP on both: stacks may live too long or too short")]


async def _credentials(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    access, about = cluster.connection.access, "credentials"
    expiry, token, now = access.expiry, access.token, time.time()
    if expiry is None:
        return [ok(about, "they do not expire, or something else renews them")]
    if remark := expiry_remark(access, now):
        advice = "`stackd manifests --kubeconfig-for URL` makes one"
        return [fail(about, remark, advice) if now >= expiry.at else warn(about, remark, advice)]
    if token is None:
        return [ok(about, f"{expiry.what} is valid until {utc_minute(expiry.at)}")]
    if not all([await cluster.may(ask) for ask in asks_of_account(token.account, token.namespace)]):
        text = f"{expiry.what} expires on {utc_minute(expiry.at)}, and stackd may not create a new one for itself"
        return [warn(about, text, APPLY)]
    return [ok(about, f"{expiry.what} is valid until {utc_minute(expiry.at)}, and is renewed before")]


async def _namespace(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    name = config.stacks.namespace
    document = await cluster.namespace()
    if document is None:
        raise _NothingThere(f"there is no namespace {name}")
    if (document.get("status") or {}).get("phase") == "Terminating":
        return [fail("namespace", f"{name} is being terminated", "wait, or see what holds it")]
    level = (document["metadata"].get("labels") or {}).get(ENFORCE, "")
    if level == RESTRICTED and not _can_be_restricted(config):
        pods = f"pods of policy.profile {config.policy.profile} are refused"
        text = f"{name} enforces the Pod Security Standard restricted, and {pods}"
        return [fail("namespace", text, f'set policy.profile = "{RESTRICTED}", or {_relabel(config)}')]
    if LEVELS.get(level, 0) < LEVELS[config.policy.profile]:
        text = f"{name} enforces the Pod Security Standard {level or 'none'}, and policy.profile is {config.policy.profile}"
        return [warn("namespace", text, _relabel(config))]
    return [ok("namespace", f"{name} is there, and enforces the Pod Security Standard {level}")]


def _relabel(config: Config) -> str:
    return f"kubectl label --overwrite namespace {config.stacks.namespace} {ENFORCE}={config.policy.profile}"


def _can_be_restricted(config: Config) -> bool:
    """Whether every pod that the policy allows meets the restricted standard."""
    policy = config.policy
    return policy.profile == RESTRICTED or (not policy.run_as_root and "ALL" in policy.drop_capabilities)


async def _rights(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    routed = kinds_of(config.routes), config.routes.served_by
    wanted = list(asks(config.stacks.namespace, config.cluster.instance, *routed))
    allowed = await asyncio.gather(*(cluster.may(ask) for ask in wanted))
    own = [may for ask, may in zip(wanted, allowed, strict=True) if ask.namespace == config.stacks.namespace]
    if not any(own):
        raise _NothingThere(f"stackd has none of its {len(own)} rights in the namespace {config.stacks.namespace}")
    found = [
        fail("rights", f"stackd may not {_words(ask)}: {ask.why}", APPLY)
        for ask, may in zip(wanted, allowed, strict=True)
        if not may
    ]
    more = [ask for ask in _too_much(config.stacks.namespace) if await cluster.may(ask)]
    if more:
        text = f"stackd may also {' and '.join(map(_words, more))}, which it never does"
        found.append(
            warn("rights", text, "give it an account of its own, with the rights that `stackd manifests` prints")
        )
    return found or [ok("rights", f"all {len(wanted)} that stackd needs, and none of the others that were checked")]


def _too_much(namespace: str) -> Iterator[AccessReview]:
    for resource, verb in SPECIAL:
        yield AccessReview(verb=verb, resource=resource, namespace=namespace)


def _words(ask: AccessReview) -> str:
    where = f" in {ask.namespace}" if ask.namespace else f" {ask.name}" if ask.name else ""
    return f"{ask.verb} {ask.resource}{where}"


async def _policies(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    policies = await cluster.list_namespaced("networkpolicies")
    instance, about = config.cluster.instance, "policies"
    found = []
    if protects(policies, instance, INGRESS):
        found.append(
            ok(about, "NetworkPolicies restrict who reaches the stacks (--probe shows whether they are enforced)")
        )
    else:
        text = "no NetworkPolicy restricts who reaches the stacks: each is open to every other"
        needed = config.stacks.require_ingress_network_policy
        found.append(
            fail(about, text + "; the daemon creates no stacks", APPLY) if needed else warn(about, text, APPLY)
        )
    if protects(policies, instance, EGRESS):
        found.append(ok(about, "NetworkPolicies restrict what the stacks reach"))
    else:
        found.append(
            warn(about, "no NetworkPolicy restricts what the stacks reach: cluster, metadata, the internet", APPLY)
        )
    found += _template_egress(policies, config)
    return [*found, *_networks(policies, await cluster.list_nodes(), instance)]


def _template_egress(policies: list[dict[str, Any]], config: Config) -> Iterator[Finding]:
    """Whether stacks of templates with ``network.egress`` reach what it says, and nothing else."""
    try:
        templates = read_templates(config).values()
    except ConfigError:
        return  # ``machine`` reports it
    for egress in {one.egress for one in templates if one.egress.kind}:
        names = some_of([one.name for one in templates if one.egress == egress], SHOWN)
        wanted = set() if egress.kind == NONE else {egress_policy(egress)}
        allowed = egress_rules(policies, config.cluster.instance, egress)
        for missing in wanted - allowed:
            yield fail("policies", f"there is no NetworkPolicy {missing}: stacks of {names} reach nothing", APPLY)
        for more in sorted(allowed - wanted):
            text = f"NetworkPolicy {more} lets stacks of {names} out, beyond their network.egress"
            yield fail("policies", text, APPLY)


def _networks(policies: list[dict[str, Any]], nodes: list[NodeState], instance: str) -> Iterator[Finding]:
    """Whether a policy that is meant for outside networks also allows the cluster's own pods (the nodes' podCIDRs)."""
    pods = sorted({cidr for node in nodes for cidr in node.pod_cidrs})
    for direction, say, what in ((INGRESS, fail, "lets in"), (EGRESS, warn, "lets out to")):
        for name, cidrs in lets_through(policies, instance, pods, direction):
            advice = (
                "apply what `stackd manifests --cluster-cidr NETWORK` prints, with the networks of pods and of services"
            )
            yield say(
                "policies",
                f"NetworkPolicy {name} {what} the cluster's own pods (podCIDR {some_of(cidrs, SHOWN)})",
                advice,
            )


async def _nodes(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    found, about = await cluster.list_nodes(), "nodes"
    selector = nodes.selector(config)
    if why := nodes.none_eligible(config, found):
        labelled = nodes.selected(config, found) or not selector
        return [fail(about, why, "" if labelled else f"kubectl label node NAME {selector.replace(',', ' ')}")]
    usable = nodes.eligible(config, found)
    if mute := nodes.without_address(config, found):
        types = ", ".join(config.stacks.address_types)
        text = f"no public address ({types}): {mute}; their stacks have node_public_ip: null"
        return [
            warn(about, text, "name them in stacks.public_ips, or add a kind that they have to stacks.address_types")
        ]
    away = len(nodes.selected(config, found)) - len(usable)
    more = f"; {away} more do not" if away else ""
    return [ok(about, f"{len(usable)} with {selector or 'any label'} take pods, each with a public address{more}")]


async def _ports(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    about, wanted = "ports", config.stacks.node_ports
    try:
        told = await cluster.node_port_range()
    except QuotaExceeded as full:
        return [warn(about, f"the range cannot be read while the quota is used up: {full}")]
    if told is None:
        return [warn(about, "the cluster does not tell its node port range")]
    mismatch = wanted.mismatch(told)
    if not wanted.common(told):
        return [fail(about, f"no stack can be created: {mismatch}", NODE_PORTS_REMEDY)]
    if mismatch:
        return [warn(about, mismatch, NODE_PORTS_REMEDY)]
    return [ok(about, f"{wanted.first} to {wanted.last} are node ports of this cluster, whose range is {told}")]


async def _room(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    usable = nodes.eligible(config, await cluster.list_nodes())
    quotas, limit_ranges = await cluster.list_namespaced("resourcequotas"), await cluster.list_namespaced("limitranges")
    stacks, limit = config.stacks, config.limits.max_stacks
    given = storage_given(config.policy.max_ephemeral_storage, limit_ranges)
    need = size.need(given)
    bounds = [
        _of_nodes(by_nodes([fits(free_of(node), need) for node in usable])),
        *(
            Bound(stacks=one.stacks, why=f"quota {one.why.replace(': ', ', ')}")
            for one in by_quotas(quotas, need, left=False)
        ),
        Bound(stacks=len(stacks.node_ports), why="node ports"),
        *([Bound(stacks=limit, why="limits.max_stacks")] if limit else []),
    ]
    least = min(bounds, key=lambda bound: bound.stacks)
    others = ", ".join(f"{bound.why}: {bound.stacks}" for bound in bounds if bound is not least)
    text = f"for {least.stacks} stacks of {size} ({least.why}); {others}"
    found = [*_without_disk(usable, need, given), *_refused_disk(config, limit_ranges)]
    if not least.stacks:
        return [fail("room", text, "not even one stack fits"), *found]
    found.insert(0, ok("room", text))
    if not quotas:
        found.append(
            warn("room", f"no ResourceQuota in {stacks.namespace} keeps the stacks from taking everything", APPLY)
        )
    if not limit_ranges:
        found.append(
            warn("room", f"no LimitRange in {stacks.namespace} keeps one stack from filling a node's disk", APPLY)
        )
    return found


def _of_nodes(bound: Bound) -> Bound:
    why = NODES if bound.why == NODES else f"{NODES}, {bound.why.replace('_', '-')}"
    return Bound(stacks=bound.stacks, why=why)


def _without_disk(usable: list[NodeState], need: StackResources, given: Storage) -> list[Finding]:
    """The nodes that no stack can use because they report no disk, or less than one stack takes."""
    short = [node for node in usable if node.ephemeral_bytes < need.ephemeral_bytes]
    if not short:
        return []
    names = some_of([node.name for node in short], SHOWN)
    has = f"report{'s' if len(short) == 1 else ''} {'less' if any(node.ephemeral_bytes for node in short) else 'none'}"
    advice = "let the kubelets report it (localStorageCapacityIsolation)"
    if given.limit_range:
        who = f"LimitRange {given.limit_range} gives each container"
        advice += ", or apply what `stackd manifests --no-ephemeral-storage` prints"
    elif given.request_bytes:
        who = "policy.max_ephemeral_storage gives each pod"
        advice += ", or set policy.max_ephemeral_storage to what the nodes have"
    else:
        who = "one stack takes"
    text = f"{who} {of_bytes(need.ephemeral_bytes)} of ephemeral-storage, and {names} {has}: no stack runs there"
    return [fail("room", text, advice) if len(short) == len(usable) else warn("room", text, advice)]


def _refused_disk(config: Config, limit_ranges: list[dict[str, Any]]) -> Iterator[Finding]:
    """Whether the policy gives more disk than a LimitRange allows a container."""
    most, given = most_storage(limit_ranges), config.policy.max_ephemeral_storage
    if given and 0 < most.limit_bytes < parse(given).whole:
        text = f"policy.max_ephemeral_storage gives a pod {given}, and LimitRange {most.limit_range} refuses a container more"
        text += f" than {most.limit}: creates without a disk request fail with 400"
        yield fail("room", text, f"lower policy.max_ephemeral_storage, or {APPLY}")


def throwaway(config: Config, port: int, container_port: int = 8080) -> Stack:
    """A stack without a row."""
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
