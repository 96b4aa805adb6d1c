"""The objects that a cluster needs before stackd works with it: namespaces, rights, quota and network policies.

``stackd setup`` applies them with an administrator's credentials (the daemon has no right to do so). Each step can be
repeated, and keeps what somebody has added to an object by hand.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from types import MappingProxyType
from typing import Any, Literal

from msgspec import json

from stackd.cli.admission import binding_spec, policy_spec
from stackd.errors import ClusterUnavailable, ObjectExists
from stackd.kube import labels
from stackd.kube.client import Cluster
from stackd.kube.connection import Again, poll
from stackd.kube.credentials import token_request
from stackd.kube.objects import EPHEMERAL_STORAGE, NodeState, node_state
from stackd.kube.policies import CHECKS_POLICY, egress_policy
from stackd.kube.rights import Right, in_cluster, in_namespace, of_account, of_gateway, of_namespace
from stackd.kube.wire import BINDINGS, KINDS, MERGE_PATCH, NETWORK_POLICIES, POLICIES, JsonObject, KubeRequest
from stackd.podspec.additions import EGRESS_LABEL
from stackd.quantity import parse
from stackd.templates.template import INTERNET, NONE, Egress

Manifest = dict[str, Any]

PLURALS = {kind.name: plural for plural, kind in KINDS.items()}
DELETE = "kubectl delete --ignore-not-found"
# How long to wait until the cluster has put a token into a Secret.
SECRET_SECONDS = 10.0
PRIVATE_V4 = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
SPECIAL_V4 = (
    "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
)  # fmt: skip
PRIVATE_V6 = ("fc00::/7", "fe80::/10", "::1/128", "64:ff9b::/96", "ff00::/8")
# So many pods of checks there are beside the stacks (``lifecycle.health``, ``lifecycle.checks``).
CHECKS_AT_ONCE = 8
# The disk of a container that requests none: its limit, and what the scheduler reserves.
DEFAULT_STORAGE, REQUESTED_STORAGE = "1Gi", "64Mi"
_DNS = {
    "to": [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        }
    ],
    "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestOptions:
    """What differs from site to site.

    ``cluster_cidrs``  the networks of the cluster's own pods, services and nodes, which no stack may reach
    ``target_ports``   ports that can be reached from outside, as (first, last); empty leaves it to the Services' ports
    ``cluster_rights`` whether stackd has rights in the cluster, or only in the namespace of the stacks, where its account is then
    ``token``          whether stackd renews its token, has one that does not expire, or the kubelet of its pod renews it
    ``stacks``         the most stacks; CPU, memory and disk are for all stacks together, empty for no limit
    ``instance``       the instance whose Lease may be read and renewed
    ``admission_policy``  whether only stackd may write the objects of its stacks; needs Kubernetes 1.30
    ``template_egress``  what stacks of templates with ``network.egress`` reach, each once
    ``members``        the most pods that a stack has beside its first one; with any, stackd may write NetworkPolicies
    ``checks``         the node ports that the pods of checks reach, as (first, last), if a template has a check
    ``routes``         the kinds of routes that give ports names below ``domain``, served by ``gateway`` ("namespace/name")
    ``gateway_namespaces``  the namespaces of the gateway's pods, which forward to the stacks
    ``largest_…``      the most that one container may have; an empty disk sets no limit, for nodes that report no disk
    """

    namespace: str
    profile: str
    account: str
    account_namespace: str
    stacks: int
    cluster_rights: bool = True
    token: Literal["renewed", "lasting", "kubelet"] = "renewed"
    cluster_cidrs: tuple[str, ...] = ()
    egress: Literal["none", "internet"] = "none"
    dns: bool = False
    template_egress: tuple[Egress, ...] = ()
    members: int = 0
    checks: tuple[tuple[int, int], ...] = ()
    routes: tuple[str, ...] = ()
    domain: str = ""
    gateway: str = ""
    gateway_namespaces: tuple[str, ...] = ()
    target_ports: tuple[tuple[int, int], ...] = ()
    cpu: str = ""
    memory: str = ""
    ephemeral_storage: str = ""
    largest_cpu: str = "2"
    largest_memory: str = "2Gi"
    largest_ephemeral_storage: str = "2Gi"
    instance: str = "default"
    admission_policy: bool = True


def documents(site: ManifestOptions) -> list[Manifest]:
    """All manifests, in the order of application."""
    own = [*_account(site), *_rights(site)]
    if not site.cluster_rights:  # a namespace's administrator writes no namespace, quota or limits
        return [*own, *_networks(site)]
    documents = [*_namespaces(site), *own, _quota(site), _limits(site), *_networks(site)]
    if site.admission_policy:
        name = labels.admission_policy_name(site.instance, site.namespace)
        user = f"system:serviceaccount:{site.account_namespace}:{site.account}"
        documents.append(_object(POLICIES, name, spec=policy_spec(site.instance, user, site.domain)))
        documents.append(_object(BINDINGS, name, spec=binding_spec(name, site.namespace)))
    return documents


def _object(resource: str, name: str, *, namespace: str = "", **fields: Any) -> Manifest:
    metadata: dict[str, Any] = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {**KINDS[resource].type_meta, "metadata": metadata, **fields}


def _namespaces(site: ManifestOptions) -> Iterator[Manifest]:
    stacks = _object("namespaces", site.namespace)
    levels = {"enforce": site.profile, "warn": "restricted", "audit": "restricted"}
    stacks["metadata"]["labels"] = {f"pod-security.kubernetes.io/{mode}": level for mode, level in levels.items()}
    yield stacks
    if site.account_namespace != site.namespace:
        yield _object("namespaces", site.account_namespace)


def _account(site: ManifestOptions) -> Iterator[Manifest]:
    where, account = site.account_namespace, site.account
    yield _object("serviceaccounts", account, namespace=where, automountServiceAccountToken=False)
    if site.token == "lasting":
        kind = "kubernetes.io/service-account-token"
        token = _object("secrets", f"{account}-token", namespace=where, type=kind)
        token["metadata"]["annotations"] = {"kubernetes.io/service-account.name": account}
        yield token


def _rights(site: ManifestOptions) -> Iterator[Manifest]:
    wide, policies = f"{site.account}-{site.namespace}", (NETWORK_POLICIES,) if site.members else ()
    here = in_namespace(site.instance, (*site.routes, *policies))
    here += () if site.cluster_rights else of_namespace(site.namespace)
    roles: list[tuple[str, str, tuple[Right, ...]]] = [(site.account, site.namespace, here)]
    if site.token == "renewed":
        roles.append((f"{site.account}-token", site.account_namespace, of_account(site.account)))
    if site.cluster_rights:
        roles.append((wide, "", in_cluster(site.namespace, site.instance)))
    if site.gateway:
        where, _, gateway = site.gateway.partition("/")
        roles.append((wide, where, of_gateway(gateway)))
    subjects = [{"kind": "ServiceAccount", "name": site.account, "namespace": site.account_namespace}]
    for name, namespace, rights in roles:
        resource = "roles" if namespace else "clusterroles"
        kind = KINDS[resource]
        yield _object(resource, name, namespace=namespace, rules=[right.rule() for right in rights])
        reference = {"apiGroup": kind.group, "kind": kind.name, "name": name}
        binding = f"{kind.name.lower()}bindings"
        yield _object(binding, name, namespace=namespace, roleRef=reference, subjects=subjects)


def _quota(site: ManifestOptions) -> Manifest:
    """An example: as many pods and node ports as stacks are allowed, and none of the objects that stacks do not use. Each may
    have as many members as the template with the most.

    One more Service for each: that of an ended stack keeps its record, without a node port, until the stack expires.
    """
    count = str(parse(site.stacks))
    pods = parse(site.stacks).value * (1 + site.members)
    hard = {
        "pods": str(pods + CHECKS_AT_ONCE) if site.checks else str(parse(pods)),
        "services": str(pods + parse(site.stacks).value),
        "services.nodeports": count,
        "services.loadbalancers": "0",
        "persistentvolumeclaims": "0",
    }
    for name, amount in (("cpu", site.cpu), ("memory", site.memory), (EPHEMERAL_STORAGE, site.ephemeral_storage)):
        if amount:
            hard |= {f"requests.{name}": amount, f"limits.{name}": amount}
    return _object("resourcequotas", "stacks", namespace=site.namespace, spec={"hard": hard})


def _limits(site: ManifestOptions) -> Manifest:
    """An example: it limits the size of each container, so that none fills a node's disk.

    It includes all values that an API server would fill in itself, so that applying it again changes nothing.
    """
    disk, amounts = site.largest_ephemeral_storage, {"cpu": site.largest_cpu, "memory": site.largest_memory}
    limit: dict[str, Any] = {"type": "Container"}
    for key, most in (("max", disk), ("default", DEFAULT_STORAGE), ("defaultRequest", REQUESTED_STORAGE)):
        least = min(most, disk, key=lambda text: parse(text).nanos) if disk else ""
        limit[key] = amounts | ({EPHEMERAL_STORAGE: least} if disk else {})
    return _object("limitranges", "stacks", namespace=site.namespace, spec={"limits": [limit]})


def _networks(site: ManifestOptions) -> Iterator[Manifest]:
    """Policies add up: the first denies all traffic in the namespace, the others allow the stacks some."""

    def policy(name: str, spec: dict[str, Any]) -> Manifest:
        return _object("networkpolicies", name, namespace=site.namespace, spec=spec)

    yield policy("default-deny", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
    # Traffic to a node port comes from outside, or from a node: all but the cluster's own networks.
    outside: dict[str, Any] = {"from": [_block("0.0.0.0/0", _of(site, 4)), _block("::/0", _of(site, 6))]}
    if site.target_ports:
        outside["ports"] = _port_rules(site.target_ports)
    # Of the pods of a stack with members, only the first is reached by others.
    first = {"matchExpressions": [{"key": labels.MEMBER, "operator": "DoesNotExist"}]} if site.members else {}
    yield policy("stacks-from-outside", _stacks(first, ingress=[outside]))
    if site.gateway_namespaces:
        yield policy("stacks-from-gateway", _stacks(first, ingress=[{"from": [_pods_of(site.gateway_namespaces)]}]))
    general = {"matchExpressions": [{"key": EGRESS_LABEL, "operator": "DoesNotExist"}]}
    internet = {
        "to": [
            _block("0.0.0.0/0", (*PRIVATE_V4, *SPECIAL_V4, *_of(site, 4))),
            _block("::/0", (*PRIVATE_V6, *_of(site, 6))),
        ]
    }
    if site.dns:
        yield policy("stacks-to-dns", _stacks(general, egress=[_DNS]))
    if site.egress == "internet":
        yield policy("stacks-to-internet", _stacks(general, egress=[internet]))
    for egress in site.template_egress:
        if egress.kind != NONE:
            own = {"matchLabels": {labels.MANAGED_BY: labels.MANAGER, EGRESS_LABEL: egress.kind}}
            # Names can be looked up, but not where only some networks are reached.
            rules: list[dict[str, Any]] = [_DNS, internet] if egress.kind == INTERNET else [_DNS]
            if egress.networks:
                rules = [{"to": [{"ipBlock": {"cidr": network}} for network in egress.networks]}]
            yield policy(egress_policy(egress), _stacks(own, egress=rules))
    if site.checks:
        yield from _checks(site, policy, first)


def _checks(
    site: ManifestOptions, policy: Callable[[str, dict[str, Any]], Manifest], first: Mapping[str, Any]
) -> Iterator[Manifest]:
    """The pods of checks reach what players reach: node ports, the Gateway, and the stacks themselves, to which the nodes
    forward what comes to a node port."""
    ours = {"podSelector": {"matchLabels": labels.role_labels(labels.CHECK, site.instance)}}
    rules: list[dict[str, Any]] = [
        {"to": [{"podSelector": {"matchLabels": {labels.MANAGED_BY: labels.MANAGER}}}]},
        {"to": [_block("0.0.0.0/0", ()), _block("::/0", ())], "ports": _port_rules(site.checks)},
    ]
    if site.gateway_namespaces:
        rules += [{"to": [_pods_of(site.gateway_namespaces)]}, _DNS]
    yield policy(CHECKS_POLICY, {**ours, "policyTypes": ["Egress"], "egress": rules})
    yield policy("stacks-from-checks", _stacks(first, ingress=[{"from": [ours]}]))


def _port_rules(ranges: Iterable[tuple[int, int]]) -> list[dict[str, Any]]:
    return [
        {"protocol": protocol, "port": first} | ({"endPort": last} if last > first else {})
        for first, last in ranges
        for protocol in ("TCP", "UDP")
    ]


def _pods_of(namespaces: Iterable[str]) -> dict[str, Any]:
    wanted = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [*namespaces]}
    return {"namespaceSelector": {"matchExpressions": [wanted]}}


def _stacks(selector: Mapping[str, Any] = MappingProxyType({}), **rules: Any) -> dict[str, Any]:
    selector = {"matchLabels": {labels.MANAGED_BY: labels.MANAGER}, **selector}
    return {"podSelector": selector, "policyTypes": [name.capitalize() for name in rules], **rules}


def _of(site: ManifestOptions, version: int) -> tuple[str, ...]:
    return tuple(cidr for cidr in site.cluster_cidrs if (":" in cidr) == (version == 6))


def _block(cidr: str, but: tuple[str, ...]) -> dict[str, Any]:
    """The network ``cidr`` except ``but``; Kubernetes requires each exception to be part of the network."""
    version4 = [IPv4Network(one) for one in but if ":" not in one]
    version6 = [IPv6Network(one) for one in but if ":" in one]
    left = [str(one) for one in (*collapse_addresses(version4), *collapse_addresses(version6))]
    return {"ipBlock": {"cidr": cidr} | ({"except": left} if left else {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestChange:
    """The change that one manifest needs. ``fields`` are the fields that differ; empty if the object does not exist."""

    manifest: Mapping[str, Any]
    fields: tuple[str, ...] = ()

    def __str__(self) -> str:
        metadata = self.manifest["metadata"]
        name = f"{self.manifest['kind']} {metadata['name']}"
        where = f" in {metadata['namespace']}" if "namespace" in metadata else ""
        return f"change {name}{where} ({', '.join(self.fields)})" if self.fields else f"create {name}{where}"


class Administrator(Cluster):
    """One cluster, with an administrator's rights."""

    async def change(self, manifest: Mapping[str, Any]) -> ManifestChange | None:
        """The change that makes the cluster match the manifest; None if it matches. Raises ClusterUnavailable."""
        existing = await self.get_or_none(_call("get", manifest))
        if existing is None:
            return ManifestChange(manifest=manifest)
        fields = tuple(differences(manifest, existing))
        return ManifestChange(manifest=manifest, fields=fields) if fields else None

    async def apply(self, manifest: Mapping[str, Any]) -> None:
        """Create or change the object. Raises ClusterUnavailable, and the error that a refusal means."""
        change = await self.change(manifest)
        if change is not None and not change.fields:
            try:
                await self.answer(_call("create", manifest, body=json.encode(manifest)))
                return
            except ObjectExists:
                pass  # an earlier try has created it, and its response was lost
        if change is not None:
            await self.answer(_call("patch", manifest, body=json.encode(manifest), content_type=MERGE_PATCH))

    async def token(self, namespace: str, account: str, seconds: int) -> str:
        """A token of that service account that expires. Raises ClusterUnavailable, ObjectNotFound."""
        return str((await self.answer(token_request(namespace, account, seconds)))["status"]["token"])

    async def lasting_token(self, namespace: str, account: str) -> str:
        """The token in the account's Secret; waits until the cluster has put it there. Raises ClusterUnavailable."""
        name, deadline = f"{account}-token", self.deadline(SECRET_SECONDS)
        call = KubeRequest(verb="get", resource="secrets", namespace=namespace, name=name)

        async def token() -> str | Again:
            data = (await self.answer(call, deadline)).get("data") or {}
            if "token" in data:
                return base64.b64decode(data["token"]).decode()
            none = f"the cluster has put no token into the Secret {name} of namespace {namespace}"
            return Again(error=ClusterUnavailable(none))

        return await poll(deadline, token)

    async def label_node(self, name: str, labels: Mapping[str, str]) -> NodeState:
        """Set these labels of the node; returns the node. Raises ObjectNotFound."""
        body = json.encode({"metadata": {"labels": dict(labels)}})
        call = KubeRequest(verb="patch", resource="nodes", name=name, body=body, content_type=MERGE_PATCH)
        return node_state(await self.answer(call))


def deletion(manifest: Mapping[str, Any]) -> str:
    metadata = manifest["metadata"]
    where = f"-n {metadata['namespace']} " if "namespace" in metadata else ""
    return f"{DELETE} {where}{PLURALS[manifest['kind']]} {metadata['name']}"


def differences(wanted: Any, existing: Any, path: str = "") -> Iterator[str]:
    """The fields in which the object differs from the manifest.

    Fields that the manifest does not name are ignored, but not in the items of lists.
    """
    if isinstance(wanted, Mapping) and isinstance(existing, Mapping):
        for key, value in wanted.items():
            yield from differences(value, existing.get(key), f"{path}.{key}" if path else key)
    elif isinstance(wanted, list) and isinstance(existing, list) and len(wanted) == len(existing):
        pairs = [*zip(wanted, existing, strict=True), *zip(existing, wanted, strict=True)]
        if any(True for pair in pairs for _ in differences(*pair)):
            yield path
    elif wanted != existing and (wanted or existing):
        yield path


def _call(verb: str, manifest: Mapping[str, Any], **options: Any) -> KubeRequest:
    metadata: JsonObject = manifest["metadata"]
    where = {"namespace": metadata.get("namespace", ""), "name": metadata["name"]}
    return KubeRequest(verb=verb, resource=PLURALS[manifest["kind"]], **where, **options)
