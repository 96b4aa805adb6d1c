"""What has to be in a cluster before stackd works with it: namespaces, rights, quota and network policies. Pure.

Owns these objects, as Kubernetes' JSON in the order in which they are to be applied. Asks and applies nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Any, Literal

from stackd.kube import labels
from stackd.kube.rights import IN_NAMESPACE, NETWORKING, in_cluster

Manifest = dict[str, Any]

PRIVATE_V4 = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
SPECIAL_V4 = (
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "192.0.0.0/24",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
PRIVATE_V6 = ("fc00::/7", "fe80::/10", "::1/128", "64:ff9b::/96", "ff00::/8")
_DNS_PORTS = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
_RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What differs from site to site.

    ``cluster_cidrs``  the networks of the cluster's own pods, services and nodes: no stack talks to them
    ``target_ports``   what may be reached from outside, as (first, last); empty leaves it to the Services' target ports
    ``stacks``         how many there may be; CPU and memory are for all of them together, empty for no limit
    """

    namespace: str
    profile: str
    account: str
    account_namespace: str
    stacks: int
    cluster_cidrs: tuple[str, ...] = ()
    egress: Literal["none", "internet"] = "none"
    dns: bool = False
    target_ports: tuple[tuple[int, int], ...] = ()
    cpu: str = ""
    memory: str = ""
    largest_cpu: str = "2"
    largest_memory: str = "2Gi"


def documents(site: Site) -> list[Manifest]:
    """Everything, in order."""
    return [*_namespaces(site), *_account(site), *_rights(site), _quota(site), _limits(site), *_networks(site)]


def _object(kind: str, name: str, *, api: str = "v1", namespace: str = "", **fields: Any) -> Manifest:
    metadata: dict[str, Any] = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **fields}


def _namespaces(site: Site) -> list[Manifest]:
    stacks = _object("Namespace", site.namespace)
    levels = {"enforce": site.profile, "warn": "restricted", "audit": "restricted"}
    stacks["metadata"]["labels"] = {f"pod-security.kubernetes.io/{mode}": level for mode, level in levels.items()}
    if site.account_namespace == site.namespace:
        return [stacks]
    return [stacks, _object("Namespace", site.account_namespace)]


def _account(site: Site) -> list[Manifest]:
    token = _object(
        "Secret",
        f"{site.account}-token",
        namespace=site.account_namespace,
        type="kubernetes.io/service-account-token",
    )
    token["metadata"]["annotations"] = {"kubernetes.io/service-account.name": site.account}
    account = _object(
        "ServiceAccount", site.account, namespace=site.account_namespace, automountServiceAccountToken=False
    )
    return [account, token]


def _rights(site: Site) -> list[Manifest]:
    wide = f"{site.account}-{site.namespace}"
    subjects = [{"kind": "ServiceAccount", "name": site.account, "namespace": site.account_namespace}]
    role = _object(
        "Role", site.account, api=f"{_RBAC}/v1", namespace=site.namespace, rules=[one.rule() for one in IN_NAMESPACE]
    )
    cluster_role = _object(
        "ClusterRole", wide, api=f"{_RBAC}/v1", rules=[one.rule() for one in in_cluster(site.namespace)]
    )
    return [role, _binding(role, subjects), cluster_role, _binding(cluster_role, subjects)]


def _binding(role: Manifest, subjects: list[dict[str, str]]) -> Manifest:
    metadata, kind = role["metadata"], role["kind"]
    reference = {"apiGroup": _RBAC, "kind": kind, "name": metadata["name"]}
    return _object(
        f"{kind}Binding",
        metadata["name"],
        api=f"{_RBAC}/v1",
        namespace=metadata.get("namespace", ""),
        roleRef=reference,
        subjects=subjects,
    )


def _quota(site: Site) -> Manifest:
    """An example: as many stacks as there are node ports, and none of what stacks do not use."""
    count = str(site.stacks)
    hard = {
        "pods": count,
        "services": count,
        "services.nodeports": count,
        "services.loadbalancers": "0",
        "persistentvolumeclaims": "0",
    }
    for name, amount in (("cpu", site.cpu), ("memory", site.memory)):
        if amount:
            hard |= {f"requests.{name}": amount, f"limits.{name}": amount}
    return _object("ResourceQuota", "stacks", namespace=site.namespace, spec={"hard": hard})


def _limits(site: Site) -> Manifest:
    """An example: no container is larger than this, and none fills a node's disk."""
    limit = {
        "type": "Container",
        "max": {"cpu": site.largest_cpu, "memory": site.largest_memory, "ephemeral-storage": "2Gi"},
        "default": {"ephemeral-storage": "1Gi"},
        "defaultRequest": {"ephemeral-storage": "64Mi"},
    }
    return _object("LimitRange", "stacks", namespace=site.namespace, spec={"limits": [limit]})


def _networks(site: Site) -> list[Manifest]:
    """Policies add up: nothing for anybody in the namespace, and for the stacks what is listed."""
    nothing = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    found = [_policy(site, "default-deny", nothing), _policy(site, "stacks-from-outside", _ingress(site))]
    if site.dns:
        found.append(_policy(site, "stacks-to-dns", _stacks(egress=[_DNS])))
    if site.egress == "internet":
        found.append(_policy(site, "stacks-to-internet", _stacks(egress=[{"to": _internet(site)}])))
    return found


def _policy(site: Site, name: str, spec: dict[str, Any]) -> Manifest:
    return _object("NetworkPolicy", name, api=f"{NETWORKING}/v1", namespace=site.namespace, spec=spec)


def _stacks(**rules: Any) -> dict[str, Any]:
    selector = {"matchLabels": {labels.MANAGED_BY: labels.MANAGER}}
    return {"podSelector": selector, "policyTypes": [name.capitalize() for name in rules], **rules}


def _ingress(site: Site) -> dict[str, Any]:
    """From everywhere but the cluster's own networks: what comes to a node port comes from outside, or from a node."""
    rule: dict[str, Any] = {"from": [_block("0.0.0.0/0", _of(site, 4)), _block("::/0", _of(site, 6))]}
    if site.target_ports:
        rule["ports"] = [
            {"protocol": protocol, "port": first} | ({"endPort": last} if last > first else {})
            for first, last in site.target_ports
            for protocol in ("TCP", "UDP")
        ]
    return _stacks(ingress=[rule])


def _internet(site: Site) -> list[dict[str, Any]]:
    return [
        _block("0.0.0.0/0", (*PRIVATE_V4, *SPECIAL_V4, *_of(site, 4))),
        _block("::/0", (*PRIVATE_V6, *_of(site, 6))),
    ]


def _of(site: Site, version: int) -> tuple[str, ...]:
    return tuple(cidr for cidr in site.cluster_cidrs if (":" in cidr) == (version == 6))


def _block(cidr: str, but: tuple[str, ...]) -> dict[str, Any]:
    """The network without the others; Kubernetes wants each of those to be a part of it."""
    version4 = [IPv4Network(one) for one in but if ":" not in one]
    version6 = [IPv6Network(one) for one in but if ":" in one]
    left = [str(one) for one in (*collapse_addresses(version4), *collapse_addresses(version6))]
    return {"ipBlock": {"cidr": cidr} | ({"except": left} if left else {})}


_DNS = {
    "to": [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        }
    ],
    "ports": _DNS_PORTS,
}
