"""Whether a pod fits on a node, and how much room it would leave. Knows nodes and pods, not the store."""

from __future__ import annotations

from stackd.embedded import quantity
from stackd.embedded.needs import Amounts
from stackd.embedded.resources import Json

UNSCHEDULABLE = "node(s) were unschedulable"
NO_AFFINITY = "node(s) didn't match Pod's node affinity/selector"
TOO_MANY = "Too many pods"
_DEFAULT_PODS = 110_000


class NodeState:
    """What the scheduler knows of one node: its room and who is using it. Thousandths."""

    __slots__ = ("labels", "name", "pods", "room", "taints", "unschedulable", "used")

    def __init__(self, name: str) -> None:
        self.name = name
        self.labels: Json = {}
        self.taints: list[Json] = []
        self.unschedulable = False
        self.room: Amounts = {}
        self.used: Amounts = {}
        self.pods: dict[str, Amounts] = {}

    def read(self, node: Json) -> None:
        """Take over what the Node object says."""
        spec, status = node.get("spec", {}), node.get("status", {})
        self.labels = node["metadata"].get("labels", {})
        self.unschedulable = spec.get("unschedulable", False)
        self.taints = [t for t in spec.get("taints", ()) if t.get("effect") in {"NoSchedule", "NoExecute"}]
        self.room = {key: quantity.milli(value) for key, value in status.get("allocatable", {}).items()}

    def add(self, uid: str, needs: Amounts) -> None:
        """A pod uses the node from now on."""
        self.pods[uid] = needs
        for name, value in needs.items():
            self.used[name] = self.used.get(name, 0) + value

    def remove(self, uid: str) -> bool:
        """The pod uses it no more; whether it did."""
        needs = self.pods.pop(uid, None)
        for name, value in (needs or {}).items():
            self.used[name] -= value
        return needs is not None

    def room_after(self, needs: Amounts) -> float:
        """The share of cpu, memory and pods left free with this pod on it, averaged; more is better."""
        shares = []
        for name in ("cpu", "memory"):
            room = self.room.get(name, 0)
            if room:
                shares.append(1 - (self.used.get(name, 0) + needs.get(name, 0)) / room)
        shares.append(1 - len(self.pods) * 1000 / self.room.get("pods", _DEFAULT_PODS))
        return sum(shares) / len(shares)


def refusals(node: NodeState, spec: Json, needs: Amounts) -> list[str]:
    """Why the node does not take the pod, in the words of the first filter that refuses; empty if it does."""
    tolerations = spec.get("tolerations", ())
    if node.unschedulable and not _tolerated(
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}, tolerations
    ):
        return [UNSCHEDULABLE]
    for taint in node.taints:
        if not _tolerated(taint, tolerations):
            return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"]
    if not _selected(node, spec):
        return [NO_AFFINITY]
    short = [TOO_MANY] if (len(node.pods) + 1) * 1000 > node.room.get("pods", _DEFAULT_PODS) else []
    for name, value in needs.items():
        if value and node.used.get(name, 0) + value > node.room.get(name, 0):
            short.append(f"Insufficient {name}")
    return short


def beyond_preemption(node: NodeState, reasons: list[str], needs: Amounts) -> bool:
    """Whether the node would refuse the pod even if it were empty."""
    if not reasons or not all(reason == TOO_MANY or reason.startswith("Insufficient ") for reason in reasons):
        return bool(reasons)
    return any(value > node.room.get(name, 0) for name, value in needs.items())


def with_condition(status: Json, condition: Json) -> Json:
    """The status with the condition in place of an older one of its type."""
    others = [one for one in status.get("conditions", ()) if one["type"] != condition["type"]]
    changed = dict(status) | {"conditions": [*others, condition]}
    order = ("observedGeneration", "phase", "conditions")
    first = {key: changed[key] for key in order if key in changed}
    return first | {key: value for key, value in changed.items() if key not in first}


def _tolerated(taint: Json, tolerations: list[Json] | tuple[()]) -> bool:
    return any(_tolerates(toleration, taint) for toleration in tolerations)


def _tolerates(toleration: Json, taint: Json) -> bool:
    if toleration.get("effect") not in {None, "", taint.get("effect")}:
        return False
    if toleration.get("key") not in {None, "", taint["key"]}:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and toleration.get("value", "") == taint.get("value", "")


def _selected(node: NodeState, spec: Json) -> bool:
    if any(node.labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    needed = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not needed:
        return True
    return any(_term(node, term) for term in needed.get("nodeSelectorTerms", ()))


def _term(node: NodeState, term: Json) -> bool:
    labels = all(_expression(node.labels, part) for part in term.get("matchExpressions") or ())
    fields = all(_expression({"metadata.name": node.name}, part) for part in term.get("matchFields") or ())
    return labels and fields and bool(term)


def _expression(labels: Json, part: Json) -> bool:
    value, values = labels.get(part["key"]), part.get("values") or []
    match part["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and int(value) > int(values[0])
        case "Lt":
            return value is not None and int(value) < int(values[0])
    return False
