"""The NetworkPolicies that exist in the stacks' namespace: whether they protect the stacks. Pure.

Policies add up: one that allows all traffic undoes all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from stackd.kube import labels
from stackd.podspec.additions import EGRESS_LABEL
from stackd.templates.template import Egress

INGRESS = "Ingress"
EGRESS = "Egress"
Network = IPv4Network | IPv6Network
_SOURCES = {INGRESS: ("ingress", "from"), EGRESS: ("egress", "to")}


CHECKS_POLICY = "checks"
"""The name of the NetworkPolicy for the pods of checks."""


def egress_policy(egress: Egress) -> str:
    return f"egress-{egress.kind}"


def protects(policies: Iterable[Mapping[str, Any]], instance: str, direction: str = INGRESS) -> bool:
    """Whether the policies deny traffic to (or from) this instance's pods by default, and no rule allows all of it."""
    selecting = [policy for policy in policies if restricts(policy, instance, direction)]
    return bool(selecting) and not any(opens(policy, direction) for policy in selecting)


def restricts(policy: Mapping[str, Any], instance: str, direction: str = INGRESS) -> bool:
    """Whether the policy applies to this direction and selects all pods of this instance."""
    spec = policy.get("spec") or {}
    # Without policyTypes: ingress, and egress if it has egress rules (NetworkPolicySpec).
    types = spec.get("policyTypes") or [INGRESS, *([EGRESS] if spec.get("egress") else [])]
    return direction in types and _selects(spec.get("podSelector") or {}, _labels_of_all(instance))


def reach_members(policies: Iterable[Mapping[str, Any]], instance: str) -> list[str]:
    """The names of the policies that let others reach the members of stacks. A stack's own names its id, which no other has."""
    members = {**_labels_of_all(instance), labels.MEMBER: None}
    return [
        policy["metadata"]["name"]
        for policy in policies
        if next(_rules(policy, INGRESS), None) is not None
        and _selects((policy.get("spec") or {}).get("podSelector") or {}, members)
    ]


def _rules(
    policy: Mapping[str, Any], direction: str
) -> Iterator[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]:
    key, peers = _SOURCES[direction]
    for rule in (policy.get("spec") or {}).get(key) or ():
        yield rule, rule.get(peers) or ()


def opens(policy: Mapping[str, Any], direction: str = INGRESS) -> bool:
    return any(not peers and not rule.get("ports") for rule, peers in _rules(policy, direction))


def lets_through(
    policies: Iterable[Mapping[str, Any]], instance: str, networks: Sequence[str], direction: str = INGRESS
) -> Iterator[tuple[str, list[str]]]:
    """(policy, networks) of each policy that lets our pods be reached from (or reach) all or part of these networks.

    Only addresses are checked: a rule that allows pods by their labels is considered intended.
    """
    everything = [{"ipBlock": {"cidr": "0.0.0.0/0"}}, {"ipBlock": {"cidr": "::/0"}}]
    for policy in policies:
        if not restricts(policy, instance, direction):
            continue
        peers = [peer for _, peers in _rules(policy, direction) for peer in peers or everything]
        blocks = [peer["ipBlock"] for peer in peers if peer.get("ipBlock")]
        if reached := [
            text for text in networks if any(_is_partly_in(ip_network(text, strict=False), block) for block in blocks)
        ]:
            yield policy["metadata"]["name"], reached


def _is_partly_in(network: Network, block: Mapping[str, Any]) -> bool:
    """Whether a part of the network is in the block, but in none of its exceptions."""
    allowed = ip_network(block["cidr"], strict=False)
    parts = [network] if _within(network, allowed) else [allowed] if _within(allowed, network) else []
    for hole in (ip_network(network, strict=False) for network in block.get("except") or ()):
        kept: list[Network] = []
        for part in parts:
            if _within(hole, part) and hole != part:
                kept += part.address_exclude(hole)  # type: ignore[arg-type]
            elif not _within(part, hole):
                kept.append(part)
        parts = kept
    return bool(parts)


def _within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def egress_rules(policies: Iterable[Mapping[str, Any]], instance: str, egress: Egress) -> set[str]:
    """The names of the policies that let stacks of templates with this egress out."""
    ours = _labels_of_all(instance) | {EGRESS_LABEL: egress.kind}
    return {
        policy["metadata"]["name"]
        for policy in policies
        if (spec := policy.get("spec") or {}).get("egress") and _selects(spec.get("podSelector") or {}, ours)
    }


def _labels_of_all(instance: str) -> dict[str, str | None]:
    """The labels of all our pods; None stands for a value that differs."""
    return {**labels.object_labels(instance, ""), labels.STACK: None}


def _selects(selector: Mapping[str, Any], ours: Mapping[str, str | None]) -> bool:
    wanted = (selector.get("matchLabels") or {}).items()
    expressions = selector.get("matchExpressions") or ()
    return all(ours.get(key) == value for key, value in wanted) and all(
        _is_true(expression, ours) for expression in expressions
    )


def _is_true(expression: Mapping[str, Any], ours: Mapping[str, str | None]) -> bool:
    """Whether the expression is true of all our pods, but of members, and those of templates with their own
    ``network.egress``. No policy can know the ids of stacks.
    """
    key, values = expression["key"], expression.get("values") or ()
    truths = {
        "Exists": key in ours,
        "DoesNotExist": key in (EGRESS_LABEL, labels.MEMBER) and key not in ours,
        "In": ours.get(key) in values,
        "NotIn": key in ours and ours[key] is not None and ours[key] not in values,
    }
    return truths.get(expression["operator"], False)
