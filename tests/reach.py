"""Whether NetworkPolicies let a connection through, as a network that enforces them decides it.

By the reference of NetworkPolicySpec: a direction of a pod's traffic is restricted if any policy of its namespace that selects
it has the direction, and then it needs a rule that matches the other side and the port. An ``ipBlock`` matches pods, too, by
their address, which networks may do; it is the stricter assumption where policies have to keep pods apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Policy = Mapping[str, Any]
NAME_OF_NAMESPACE = "kubernetes.io/metadata.name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One end of a connection: a pod with its namespace and labels, or without a namespace an address outside."""

    ip: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def may_reach(policies: Iterable[Policy], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    policies, ports = list(policies), (port, protocol)
    out = _allowed(policies, source, target, ports, "Egress", ("egress", "to"))
    return out and _allowed(policies, target, source, ports, "Ingress", ("ingress", "from"))


def _allowed(
    policies: list[Policy], pod: Peer, other: Peer, port: tuple[int, str], direction: str, keys: tuple[str, str]
) -> bool:
    key, peers = keys
    selecting = [
        policy
        for policy in policies
        if pod.namespace == policy["metadata"]["namespace"]
        and direction in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], pod.labels)
    ]
    return not selecting or any(
        _matches_peer(rule.get(peers) or (), other, policy["metadata"]["namespace"]) and _matches_port(rule, *port)
        for policy in selecting
        for rule in policy["spec"].get(key) or ()
    )


def _matches_peer(peers: Iterable[Mapping[str, Any]], other: Peer, own_namespace: str) -> bool:
    peers = list(peers)
    return not peers or any(_is_peer(one, other, own_namespace) for one in peers)


def _is_peer(peer: Mapping[str, Any], other: Peer, own_namespace: str) -> bool:
    if block := peer.get("ipBlock"):
        address = ip_address(other.ip)
        holes = [ip_network(hole) for hole in block.get("except") or ()]
        return address in ip_network(block["cidr"]) and not any(address in hole for hole in holes)
    if not other.namespace:
        return False
    if (namespaces := peer.get("namespaceSelector")) is None:
        here = other.namespace == own_namespace
    else:
        here = _selects(namespaces, {NAME_OF_NAMESPACE: other.namespace})
    return here and _selects(peer.get("podSelector") or {}, other.labels)


def _matches_port(rule: Mapping[str, Any], port: int, protocol: str) -> bool:
    ports = rule.get("ports") or ()
    return not ports or any(
        one.get("protocol", "TCP") == protocol
        and ("port" not in one or one["port"] <= port <= one.get("endPort", one["port"]))
        for one in ports
    )


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    wanted = (selector.get("matchLabels") or {}).items()
    expressions = selector.get("matchExpressions") or ()
    return all(labels.get(key) == value for key, value in wanted) and all(_is_true(one, labels) for one in expressions)


def _is_true(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    return {
        "In": key in labels and labels[key] in values,
        "NotIn": labels.get(key) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }[expression["operator"]]
