"""Which NetworkPolicies protect the stacks, and which only seem to."""

from __future__ import annotations

from typing import Any

import pytest

from stackd.kube.provision import EGRESS, INGRESS, lets_through, protects

MANAGED = {"app.kubernetes.io/managed-by": "stackd"}
WORLD = {"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]}


def policy(selector: Any = None, *, types: list[str] | None = None, **rules: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"podSelector": selector or {}, **rules}
    return {"spec": spec | ({"policyTypes": types} if types is not None else {})}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator} | ({"values": list(values)} if values else {})]}


@pytest.mark.parametrize(
    "good",
    [
        policy(),
        policy(types=["Ingress"]),
        policy(types=["Ingress", "Egress"]),
        policy({"matchLabels": MANAGED}, ingress=[WORLD]),
        policy({"matchLabels": MANAGED | {"stackd.io/instance": "default"}}),
        policy(expression("stackd.io/stack", "Exists")),
        policy(expression("stackd.io/instance", "In", "other", "default")),
        policy(expression("stackd.io/instance", "NotIn", "other")),
        policy(ingress=[{"ports": [{"port": 80}]}]),
    ],
)
def test_a_policy_protects_that_selects_every_stack_and_restricts_ingress(good: dict[str, Any]) -> None:
    assert protects([good], "default")
    assert protects([policy({"matchLabels": {"app": "other"}}, ingress=[{}]), good], "default")


@pytest.mark.parametrize(
    "bad",
    [
        policy(types=["Egress"]),
        policy({"matchLabels": {"app": "web"}}),
        policy({"matchLabels": {"stackd.io/instance": "other"}}),
        policy({"matchLabels": {"stackd.io/stack": "stack-0123456789abcdef"}}),
        policy(expression("stackd.io/stack", "DoesNotExist")),
        policy(expression("stackd.io/pool", "DoesNotExist")),
        policy(expression("stackd.io/instance", "NotIn", "default")),
        policy(expression("stackd.io/stack", "In", "stack-1")),
        policy(expression("stackd.io/stack", "NotIn", "stack-1")),
        policy(expression("team", "NotIn", "red")),
        policy(expression("stackd.io/stack", "Near")),
        policy(ingress=[WORLD, {}]),
    ],
)
def test_a_policy_for_others_or_open_to_all_protects_nobody(bad: dict[str, Any]) -> None:
    assert not protects([bad], "default")
    assert not protects([], "default")


def test_one_policy_that_lets_everybody_in_undoes_the_others() -> None:
    assert not protects([policy(), policy({"matchLabels": MANAGED}, ingress=[{}])], "default")


def test_egress_is_restricted_only_by_a_policy_that_says_so() -> None:
    assert not protects([policy()], "default", EGRESS)
    assert protects([policy(types=["Ingress", "Egress"])], "default", EGRESS)
    assert protects([policy(egress=[{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}])], "default", EGRESS)
    assert not protects([policy(types=["Egress"], egress=[{}])], "default", EGRESS)


def named(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return policy({"matchLabels": MANAGED}, ingress=list(rules), **more) | {"metadata": {"name": "outside"}}


def block(cidr: str, *but: str) -> dict[str, Any]:
    return {"ipBlock": {"cidr": cidr} | ({"except": list(but)} if but else {})}


@pytest.mark.parametrize(
    ("peers", "networks", "through"),
    [
        ([block("0.0.0.0/0", "10.244.0.0/16")], ["10.244.0.0/24", "10.244.255.0/24"], []),
        ([block("0.0.0.0/0", "10.244.0.0/16")], ["10.245.0.0/24", "10.244.0.0/24"], ["10.245.0.0/24"]),
        ([block("0.0.0.0/0", "10.244.0.0/25")], ["10.244.0.0/24"], ["10.244.0.0/24"]),
        ([block("0.0.0.0/0", "10.244.0.0/25", "10.244.0.128/25")], ["10.244.0.0/24"], []),
        ([block("0.0.0.0/0", "10.244.0.0/24"), block("10.244.0.7/32")], ["10.244.0.0/24"], ["10.244.0.0/24"]),
        ([block("203.0.113.0/24")], ["10.244.0.0/24"], []),
        ([block("0.0.0.0/0")], ["fd00::/64"], []),
        ([block("::/0", "fd00::/48")], ["fd00::/64", "fd00:0:1::/64"], ["fd00:0:1::/64"]),
        ([{"podSelector": {}}], ["10.244.0.0/24"], []),
    ],
)
def test_the_networks_that_a_policy_lets_in_are_told(peers: Any, networks: list[str], through: list[str]) -> None:
    found = dict(lets_through([named({"from": peers})], "default", networks, INGRESS))
    assert found.get("outside", []) == through


def test_a_rule_without_peers_lets_everybody_in_and_another_direction_or_namespace_does_not_count() -> None:
    networks = ["10.244.0.0/24"]
    assert dict(lets_through([named({"ports": [{"port": 80}]})], "default", networks)) == {"outside": networks}
    assert not list(lets_through([named({"ports": [{"port": 80}]})], "default", networks, EGRESS))
    other = policy({"matchLabels": {"app": "web"}}, ingress=[{}]) | {"metadata": {"name": "other"}}
    assert not list(lets_through([other], "default", networks))
