"""What a NetworkPolicy does for the stacks' pods. Pure.

Owns the reading of a policy's selector and rules. Policies add up: one that lets everything in undoes all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stackd.kube import labels

INGRESS = "Ingress"
EGRESS = "Egress"
_SOURCES = {INGRESS: ("ingress", "from"), EGRESS: ("egress", "to")}


def protects(policies: Iterable[Mapping[str, Any]], instance: str, direction: str = INGRESS) -> bool:
    """Whether traffic to (or from) the pods of this instance is refused unless a rule allows it; none may allow all."""
    selecting = [policy for policy in policies if restricts(policy, instance, direction)]
    return bool(selecting) and not any(opens(policy, direction) for policy in selecting)


def restricts(policy: Mapping[str, Any], instance: str, direction: str = INGRESS) -> bool:
    """Whether the policy selects the pods of this instance, each of them, and is about this direction."""
    spec = policy.get("spec") or {}
    return direction in _types(spec) and _selects(spec.get("podSelector") or {}, instance)


def opens(policy: Mapping[str, Any], direction: str = INGRESS) -> bool:
    """Whether a rule of the policy allows the traffic of anybody."""
    rules, peers = _SOURCES[direction]
    return any(not rule.get(peers) and not rule.get("ports") for rule in (policy.get("spec") or {}).get(rules) or ())


def _types(spec: Mapping[str, Any]) -> list[str]:
    """Without policyTypes it is about ingress, and about egress if it has rules for that (NetworkPolicySpec)."""
    return spec.get("policyTypes") or [INGRESS, *([EGRESS] if spec.get("egress") else [])]


def _selects(selector: Mapping[str, Any], instance: str) -> bool:
    ours: dict[str, str | None] = {**labels.object_labels(instance, ""), labels.STACK: None}
    wanted = (selector.get("matchLabels") or {}).items()
    expressions = selector.get("matchExpressions") or ()
    return all(ours.get(key) == value for key, value in wanted) and all(_holds(one, ours) for one in expressions)


def _holds(expression: Mapping[str, Any], ours: Mapping[str, str | None]) -> bool:
    """Whether the expression is true of every pod of ours; a stack's id is one that no policy knows."""
    key, values = expression["key"], expression.get("values") or ()
    rules: dict[str, Callable[[], bool]] = {
        "Exists": lambda: key in ours,
        "DoesNotExist": lambda: False,
        "In": lambda: ours.get(key) in values,
        "NotIn": lambda: key in ours and ours[key] is not None and ours[key] not in values,
    }
    return expression["operator"] in rules and rules[expression["operator"]]()
