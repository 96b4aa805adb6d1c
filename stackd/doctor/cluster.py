"""Check the cluster: can stackd reach it, does stackd have its rights, and are the stacks isolated from each other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from stackd.clock import SKEW_SECONDS, utc_minute
from stackd.config import Config
from stackd.doctor import SHOWN, Finding, Found, fail, ok, warn
from stackd.doctor.routes import routes
from stackd.errors import ClusterRefused, ConfigError, QuotaExceeded, StackdError, UnexpectedAnswer
from stackd.kube import labels
from stackd.kube.client import Cluster
from stackd.kube.credentials import REMEDY, expiry_remark
from stackd.kube.objects import ANY, NodeState, pod_state
from stackd.kube.policies import (
    CHECKS_POLICY,
    EGRESS,
    INGRESS,
    egress_policy,
    egress_rules,
    lets_through,
    protects,
    reach_members,
)
from stackd.kube.rights import AccessReview, asks, of_account, reviews
from stackd.kube.routes import kinds_of
from stackd.kube.wire import NETWORK_POLICIES, JsonObject
from stackd.lifecycle import nodes
from stackd.lifecycle.templates import all_templates
from stackd.model import NODE_PORTS_REMEDY
from stackd.printable import some_of
from stackd.quantity import NANO, of_bytes, of_milli, parse
from stackd.templates.template import NONE

APPLY = "apply what `stackd manifests` prints"
NEW_KUBECONFIG = "`stackd manifests --kubeconfig-for URL` makes one"
NAMESPACE_ONLY = 'cluster.rights = "namespace"'
COST = (
    "that a node is gone shows when Kubernetes has removed its pods; quotas and node ports alone count for /capacity; no image "
    "is pulled ahead; and nobody checks that nodes have the labels of stacks.node_selector"
)
STRANGE_SECONDS = 30.0
SKEW_WARN = 5.0
ENFORCE = "pod-security.kubernetes.io/enforce"
UNGUARDED = "whoever may create pods or ConfigMaps in {} can have stackd run a stack, and write a template with an admin's rights"
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

    def need(self, default: nodes.Storage) -> nodes.StackResources:
        """What one stack takes if containers that request no disk get ``default``."""
        asked = self.ephemeral_bytes
        return nodes.StackResources(
            cpu_milli=self.cpu_milli,
            memory_bytes=self.memory_bytes,
            ephemeral_bytes=default.request_bytes if asked is None else asked,
            ephemeral_limit_bytes=default.limit_bytes if asked is None else asked,
        )


class _NothingThere(StackdError):
    """The namespace is missing, or is not the one that stackd may use."""


async def examine(cluster: Cluster, config: Config, size: Size, found: Found) -> bool:
    """Run all checks, in an order in which the first failure explains the others. Returns whether the cluster answers."""
    try:
        found([ok("cluster", f"Kubernetes {await cluster.version()} answers")])
    except StackdError as error:
        refused = f"{REMEDY}; {NEW_KUBECONFIG}"
        away = "check that cluster.kubeconfig names it, and that this machine can reach it"
        why = expiry_remark(cluster.connection.access, time.time())
        found([fail("cluster", str(error), why or (refused if isinstance(error, ClusterRefused) else away))])
        return False
    for check in (_clock, _credentials, _namespace, _rights, _policies, _admission, _nodes, _ports, _room, routes):
        about = check.__name__.strip("_")
        try:
            found(await check(cluster, config, size))
        except _NothingThere as error:  # the other checks would only repeat it
            found([fail(about, str(error), f"is stacks.namespace right? If so, {APPLY}")])
            break
        except StackdError as error:
            found([fail(about, str(error), f"{APPLY}, if it is about a right")])
    return True


async def foreign_pods(cluster: Cluster, config: Config, stack_ids: set[str]) -> Finding | None:
    """Older pods of our instance, not in a pool, that the daemon here does not know: usually another stackd's."""
    try:
        pods = [pod_state(raw) for raw in await cluster.list_raw("pods")]
    except StackdError:  # ``_rights`` says why
        return None
    old = time.time_ns() - round(STRANGE_SECONDS * 1e9)
    names = sorted(
        pod.name
        for pod in pods
        if pod.name not in stack_ids and not (pod.pool or pod.deleting) and pod.created_at < old
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
    theirs = await cluster.time()
    if theirs is None:
        return [warn("clock", "the API server did not tell its time")]
    skew = abs(time.time() - theirs)
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
        return [(fail if now >= expiry.at else warn)(about, remark, NEW_KUBECONFIG)]
    valid = f"{expiry.what} is valid until {utc_minute(expiry.at)}"
    if token is None:
        return [ok(about, valid)]
    if not all([await cluster.may(ask) for ask in reviews(of_account(token.account), token.namespace)]):
        text = f"{expiry.what} expires on {utc_minute(expiry.at)}, and stackd may not create a new one for itself"
        return [warn(about, text, APPLY)]
    return [ok(about, f"{valid}, and is renewed before")]


async def _namespace(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    name, policy, about = config.stacks.namespace, config.policy, "namespace"
    document = await cluster.namespace()
    if document is None:
        raise _NothingThere(f"there is no namespace {name}")
    if (document.get("status") or {}).get("phase") == "Terminating":
        return [fail(about, f"{name} is being terminated", "wait, or see what holds it")]
    level = (document["metadata"].get("labels") or {}).get(ENFORCE, "")
    enforces = f"{name} enforces the Pod Security Standard {level or 'none'}, and"
    relabel = f"kubectl label --overwrite namespace {name} {ENFORCE}={policy.profile}"
    meets_restricted = policy.profile == RESTRICTED or (not policy.run_as_root and "ALL" in policy.drop_capabilities)
    if level == RESTRICTED and not meets_restricted:
        advice = f'set policy.profile = "{RESTRICTED}", or {relabel}'
        return [fail(about, f"{enforces} pods of policy.profile {policy.profile} are refused", advice)]
    if LEVELS.get(level, 0) < LEVELS[policy.profile]:
        return [warn(about, f"{enforces} policy.profile is {policy.profile}", relabel)]
    return [ok(about, f"{name} is there, and enforces the Pod Security Standard {level}")]


async def _rights(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    kinds = kinds_of(config.routes)
    if _most_members(config):
        kinds = (*kinds, NETWORK_POLICIES)
    wide, routes = config.cluster.rights == "cluster", config.routes
    wanted = list(asks(config.stacks.namespace, config.cluster.instance, kinds, routes.served_by, cluster=wide))
    allowed = await asyncio.gather(*(cluster.may(ask) for ask in wanted))
    own = [may for ask, may in zip(wanted, allowed, strict=True) if ask.namespace == config.stacks.namespace]
    if not any(own):
        raise _NothingThere(f"stackd has none of its {len(own)} rights in the namespace {config.stacks.namespace}")
    missing = [ask for ask, may in zip(wanted, allowed, strict=True) if not may]
    findings = [fail("rights", f"stackd may not {_words(ask)}: {ask.why}", APPLY) for ask in missing]
    special = [AccessReview(verb=verb, resource=what, namespace=config.stacks.namespace) for what, verb in SPECIAL]
    if more := [ask for ask in special if await cluster.may(ask)]:
        text = f"stackd may also {' and '.join(map(_words, more))}, which it never does"
        advice = "give it an account of its own, with the rights that `stackd manifests` prints"
        findings.append(warn("rights", text, advice))
    return findings or [ok("rights", f"all {len(wanted)} that stackd needs, and none of the others that were checked")]


def _words(ask: AccessReview) -> str:
    where = f" in {ask.namespace}" if ask.namespace else f" {ask.name}" if ask.name else ""
    return f"{ask.verb} {ask.resource}{where}"


async def _policies(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    policies = await cluster.list_namespaced("networkpolicies")
    instance, about = config.cluster.instance, "policies"
    enforced = "NetworkPolicies restrict who reaches the stacks (--probe shows whether they are enforced)"
    findings = [ok(about, enforced)]
    if not protects(policies, instance, INGRESS):
        text = "no NetworkPolicy restricts who reaches the stacks: each is open to every other"
        needed = config.stacks.require_ingress_network_policy
        findings = [fail(about, f"{text}; the daemon creates no stacks", APPLY) if needed else warn(about, text, APPLY)]
    if protects(policies, instance, EGRESS):
        findings.append(ok(about, "NetworkPolicies restrict what the stacks reach"))
    else:
        text = "no NetworkPolicy restricts what the stacks reach: cluster, metadata, the internet"
        findings.append(warn(about, text, APPLY))
    findings += [*_members(policies, config), *_template_egress(policies, config)]
    return [*findings, *_networks(policies, await cluster.list_nodes(), instance)]


async def _admission(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    """Whether nobody else writes what stackd believes: its labels, its records, and who has written a template."""
    about, namespace = "admission", config.stacks.namespace
    if not cluster.reads_nodes:
        return [warn(about, f"not looked up ({NAMESPACE_ONLY}); without its policy, {UNGUARDED.format(namespace)}")]
    try:
        policy, binding = await cluster.admission_policy()
    except ClusterRefused:
        return []  # ``_rights`` says so
    except UnexpectedAnswer:
        return [warn(about, f"Kubernetes has no admission policies (before 1.30): {UNGUARDED.format(namespace)}")]
    if policy is None or binding is None or "Deny" not in binding["spec"].get("validationActions", ()):
        return [warn(about, f"no admission policy is in force: {UNGUARDED.format(namespace)}", APPLY)]
    if labels.TEMPLATE not in str(policy["spec"]):
        return [warn(about, "the admission policy is an earlier stackd's: it lets nobody else write templates", APPLY)]
    return [ok(about, f"only stackd writes the objects of its stacks and its templates in {namespace}")]


def _members(policies: list[dict[str, Any]], config: Config) -> Iterator[Finding]:
    if most := _most_members(config):
        for name in reach_members(policies, config.cluster.instance):
            text = f"NetworkPolicy {name} lets others reach the members of stacks"
            remedy = f"leave them out of its podSelector, as `stackd manifests --members {most}` does"
            yield fail("policies", text, remedy)


def _most_members(config: Config) -> int:
    """How many members a template has at most; another check says what is wrong with templates that cannot be read."""
    with suppress(ConfigError):
        return max((len(one.spec.members) for one in all_templates(config).values()), default=0)
    return 0


def _template_egress(policies: list[dict[str, Any]], config: Config) -> Iterator[Finding]:
    """Whether stacks of templates with ``network.egress`` reach what it says, and nothing else."""
    try:
        templates = all_templates(config).values()
    except ConfigError:
        return  # ``machine`` reports it
    checks = [one.name for one in templates if one.check is not None]
    if checks and not any(policy["metadata"]["name"] == CHECKS_POLICY for policy in policies):
        text = f"there is no NetworkPolicy {CHECKS_POLICY}: the checks of {some_of(checks, SHOWN)} may reach nothing"
        yield warn("policies", text, APPLY)
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
    advice = "apply what `stackd manifests --cluster-cidr NETWORK` prints, with the networks of pods and of services"
    for direction, say, what in ((INGRESS, fail, "lets in"), (EGRESS, warn, "lets out to")):
        for name, cidrs in lets_through(policies, instance, pods, direction):
            text = f"NetworkPolicy {name} {what} the cluster's own pods (podCIDR {some_of(cidrs, SHOWN)})"
            yield say("policies", text, advice)


async def _nodes(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    listed, about = await cluster.list_nodes(), "nodes"
    if not cluster.reads_nodes:
        findings = [warn(about, f"not read ({NAMESPACE_ONLY}): {COST}")]
        if ANY not in config.stacks.public_ips:
            text = 'stacks.public_ips has no "*": stacks on nodes that it does not name have node_public_ip: null'
            findings.append(warn(about, text, "name there the address at which players reach the node ports"))
        return findings
    selector = nodes.selector(config)
    if why := nodes.none_eligible(config, listed):
        labelled = nodes.selected(config, listed) or not selector
        return [fail(about, why, "" if labelled else f"kubectl label node NAME {selector.replace(',', ' ')}")]
    usable = nodes.eligible(config, listed)
    if mute := nodes.without_address(config, listed):
        types = ", ".join(config.stacks.address_types)
        text = f"no public address ({types}): {mute}; their stacks have node_public_ip: null"
        advice = "name them in stacks.public_ips, or add a kind that they have to stacks.address_types"
        return [warn(about, text, advice)]
    away = len(nodes.selected(config, listed)) - len(usable)
    more = f"; {away} more do not" if away else ""
    return [ok(about, f"{len(usable)} with {selector or 'any label'} take pods, each with a public address{more}")]


async def _ports(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    about, wanted = "ports", config.stacks.node_ports
    try:
        available = await cluster.node_port_range()
    except QuotaExceeded as full:
        return [warn(about, f"the range cannot be read while the quota is used up: {full}")]
    if available is None:
        return [warn(about, "the cluster does not tell its node port range")]
    mismatch = wanted.mismatch(available)
    if not wanted.common(available):
        return [fail(about, f"no stack can be created: {mismatch}", NODE_PORTS_REMEDY)]
    if mismatch:
        return [warn(about, mismatch, NODE_PORTS_REMEDY)]
    if (most := len(wanted) // 2) < config.stacks.spare_services:
        text = f"only {most} of {config.stacks.spare_services} spare Services are kept: half of the node ports stays free of them"
        return [warn(about, text, "lower stacks.spare_services, or widen the range of node ports")]
    return [ok(about, f"{wanted.first} to {wanted.last} are node ports of this cluster, whose range is {available}")]


async def _room(cluster: Cluster, config: Config, size: Size) -> list[Finding]:
    usable = nodes.eligible(config, await cluster.list_nodes())
    quotas, limit_ranges = await cluster.list_namespaced("resourcequotas"), await cluster.list_namespaced("limitranges")
    stacks, limit = config.stacks, config.limits.max_stacks
    storage = nodes.default_storage(config.policy.max_ephemeral_storage, limit_ranges)
    need = size.need(storage)
    by_node = nodes.by_nodes([nodes.fits(nodes.free_of(node), need) for node in usable])
    scarce = nodes.NODES if by_node.why == nodes.NODES else f"{nodes.NODES}, {by_node.why.replace('_', '-')}"
    bounds = [
        *([(by_node.stacks, scarce)] if cluster.reads_nodes else []),
        *((one.stacks, f"quota {one.why.replace(': ', ', ')}") for one in nodes.by_quotas(quotas, need, unused=False)),
        (len(stacks.node_ports), "node ports"),
        *([(limit, "limits.max_stacks")] if limit else []),
    ]
    least = min(bounds, key=itemgetter(0))
    others = [f"{why}: {count}" for count, why in bounds if why != least[1]]
    text = "; ".join([f"for {least[0]} stacks of {size} ({least[1]})", *others])
    spares = sum(labels.SPARE in labels.labels_of(raw) for raw in await cluster.list_raw("services"))
    findings = [
        *_used_up(quotas, need, size, spares),
        *_without_disk(usable, need, storage),
        *_refused_disk(config, limit_ranges),
    ]
    if not least[0]:
        return [fail("room", text, "not even one stack fits"), *findings]
    quota = f"no ResourceQuota in {stacks.namespace} keeps the stacks from taking everything"
    limits = f"no LimitRange in {stacks.namespace} keeps one stack from filling a node's disk"
    advice = (
        APPLY
        if cluster.reads_nodes
        else "an administrator of the cluster makes one, or stackd's limits do ([limits], policy.max_…)"
    )
    findings += [] if quotas else [warn("room", quota, advice)]
    return [ok("room", text), *findings, *([] if limit_ranges else [warn("room", limits, advice)])]


def _used_up(quotas: Sequence[JsonObject], need: nodes.StackResources, size: Size, spares: int) -> Iterator[Finding]:
    """What ``_room`` does not show, which counts what fits into an empty cluster. Spare Services give way to creates."""
    released = dict.fromkeys(nodes.SERVICE_QUOTAS, spares * NANO)
    bounds = nodes.by_quotas(quotas, need, unused=True, released=released)
    used_up = [one.why.replace(": ", ", ") for one in bounds if not one.stacks]
    if used_up:
        text = f"no more stacks of {size} fit now: quota {' and '.join(used_up)} is used up"
        yield warn("room", text, "delete stacks, or raise the quota")


def _without_disk(usable: list[NodeState], need: nodes.StackResources, storage: nodes.Storage) -> list[Finding]:
    short = [node for node in usable if node.ephemeral_bytes < need.ephemeral_bytes]
    if not short:
        return []
    names = some_of([node.name for node in short], SHOWN)
    has = f"report{'s' if len(short) == 1 else ''} {'less' if any(node.ephemeral_bytes for node in short) else 'none'}"
    advice = "let the kubelets report it (localStorageCapacityIsolation)"
    if storage.limit_range:
        who = f"LimitRange {storage.limit_range} gives each container"
        advice += ", or apply what `stackd manifests --no-ephemeral-storage` prints"
    elif storage.request_bytes:
        who = "policy.max_ephemeral_storage gives each pod"
        advice += ", or set policy.max_ephemeral_storage to what the nodes have"
    else:
        who = "one stack takes"
    text = f"{who} {of_bytes(need.ephemeral_bytes)} of ephemeral-storage, and {names} {has}: no stack runs there"
    return [fail("room", text, advice) if len(short) == len(usable) else warn("room", text, advice)]


def _refused_disk(config: Config, limit_ranges: list[dict[str, Any]]) -> Iterator[Finding]:
    """Whether the policy gives more disk than a LimitRange allows a container."""
    most, maximum = nodes.most_storage(limit_ranges), config.policy.max_ephemeral_storage
    if maximum and 0 < most.limit_bytes < parse(maximum).value:
        text = f"policy.max_ephemeral_storage gives a pod {maximum}, and LimitRange {most.limit_range} refuses a container more"
        text += f" than {most.limit}: creates without a disk request fail with 400"
        yield fail("room", text, f"lower policy.max_ephemeral_storage, or {APPLY}")
