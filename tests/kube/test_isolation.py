"""Which NetworkPolicies protect the stacks, and which only seem to."""

from __future__ import annotations

from typing import Any

import pytest

from stackd.kube.policies import EGRESS, INGRESS, lets_through, protects

MANAGED = {"app.kubernetes.io/managed-by": "stackd"}
WORLD = {"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]}
PODS = ["10.244.0.0/24"]


def policy(selector: Any = None, *, types: list[str] | None = None, **rules: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"podSelector": selector or {}, **rules}
    return {"metadata": {"name": "it"}, "spec": spec | ({"policyTypes": types} if types is not None else {})}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator} | ({"values": list(values)} if values else {})]}


OPEN_TO_ALL = policy({"matchLabels": MANAGED}, ingress=[{}])
OTHERS = policy({"matchLabels": {"app": "other"}}, ingress=[{}])


@pytest.mark.parametrize(
    ("one", "good"),
    [
        (policy(), True),
        (policy(types=["Ingress", "Egress"]), True),
        (policy({"matchLabels": MANAGED}, ingress=[WORLD]), True),
        (policy({"matchLabels": MANAGED | {"stackd.io/instance": "default"}}), True),
        (policy(expression("stackd.io/instance", "In", "other", "default")), True),
        (policy(ingress=[{"ports": [{"port": 80}]}]), True),
        (policy(types=["Egress"]), False),
        (policy({"matchLabels": {"stackd.io/instance": "other"}}), False),
        (policy(expression("stackd.io/stack", "DoesNotExist")), False),
        (policy(expression("stackd.io/instance", "NotIn", "default")), False),
        (policy(expression("stackd.io/stack", "In", "stack-1")), False),
        (policy(expression("stackd.io/stack", "NotIn", "stack-1")), False),
        (policy(expression("stackd.io/stack", "Near")), False),
        (policy(ingress=[WORLD, {}]), False),
    ],
)
def test_a_policy_protects_that_selects_every_stack_and_restricts_ingress(one: dict[str, Any], good: bool) -> None:
    assert not protects([], "default")
    assert protects([one], "default") == protects([OTHERS, one], "default") == good
    assert not protects([one, OPEN_TO_ALL], "default")


def test_egress_is_restricted_only_by_a_policy_that_says_so() -> None:
    assert not protects([policy()], "default", EGRESS)
    assert protects([policy(types=["Ingress", "Egress"])], "default", EGRESS)
    assert not protects([policy(types=["Egress"], egress=[{}])], "default", EGRESS)


def block(cidr: str, *but: str) -> dict[str, Any]:
    return {"ipBlock": {"cidr": cidr} | ({"except": list(but)} if but else {})}


@pytest.mark.parametrize(
    ("peers", "networks", "through"),
    [
        ([block("0.0.0.0/0", "10.244.0.0/16")], ["10.244.0.0/24", "10.244.255.0/24"], []),
        ([block("0.0.0.0/0", "10.244.0.0/16")], ["10.245.0.0/24", "10.244.0.0/24"], ["10.245.0.0/24"]),
        ([block("0.0.0.0/0", "10.244.0.0/25")], PODS, PODS),
        ([block("0.0.0.0/0", "10.244.0.0/25", "10.244.0.128/25")], PODS, []),
        ([block("0.0.0.0/0", "10.244.0.0/24"), block("10.244.0.7/32")], PODS, PODS),
        ([block("0.0.0.0/0")], ["fd00::/64"], []),
        ([block("::/0", "fd00::/48")], ["fd00::/64", "fd00:0:1::/64"], ["fd00:0:1::/64"]),
        ([{"podSelector": {}}], PODS, []),
        ([], PODS, PODS),
    ],
)
def test_the_networks_that_a_policy_lets_in_are_named(peers: Any, networks: list[str], through: list[str]) -> None:
    one = policy({"matchLabels": MANAGED}, ingress=[{"from": peers, "ports": [{"port": 80}]}])
    assert dict(lets_through([one], "default", networks, INGRESS)).get("it", []) == through
    assert not list(lets_through([one], "default", networks, EGRESS))
    assert not list(lets_through([policy({"matchLabels": {"app": "web"}}, ingress=[{}])], "default", networks))
