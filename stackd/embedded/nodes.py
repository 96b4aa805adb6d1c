"""Nodes: their objects and taints, what pods take of them (in thousandths), the scheduler, and the events about pods.

The scheduler binds pods to the node with the fewest pods that passes the filters. If none does, it says why and retries after
changes.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from stackd.embedded.resources import EVENTS, NODES, PODS, Json
from stackd.embedded.schema import default_node, is_sidecar, pod_condition
from stackd.embedded.store import Key, ObjectChange, ObjectStore, Record, micro_timestamp, timestamp
from stackd.quantity import Notation, Quantity, parse


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """A node that the cluster starts with. The quantities are what it has for pods (``allocatable``).

    If ``ephemeral_storage`` is empty, the node reports no disk, like a kubelet without local storage isolation.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=lambda: {"role": "stack"})
    cpu: str = "999930m"
    memory: str = "1048370124Ki"
    ephemeral_storage: str = "9663676416113"
    pods: str = "5000"
    external_ip: str | None = "127.0.0.1"
    internal_ip: str = "10.200.0.1"
    unschedulable: bool = False
    pod_cidr: str = ""


WORKER = NodeSpec(name="embedded-worker")


def node_specs(count: int, like: NodeSpec = WORKER) -> tuple[NodeSpec, ...]:
    """``count`` nodes like ``like``, each with its own name and addresses."""
    return tuple(
        replace(
            like,
            name=f"{like.name}{number if number > 1 else ''}",
            internal_ip=f"10.200.{number >> 8}.{number & 255}",
            pod_cidr=f"10.{244 + (number - 1 >> 8)}.{number - 1 & 255}.0/24",
        )
        for number in range(1, count + 1)
    )


DEFAULT_NODES = node_specs(2)


Amounts = dict[str, int]
Part = Literal["requests", "limits"]


def pod_amounts(spec: Json, part: Part) -> Amounts:
    """The amounts of the pod: containers and sidecars add up; an init container counts if it needs more."""
    running: Amounts = {}
    peak: Amounts = {}
    for container in spec.get("initContainers", ()):
        needs = _joined(running, amounts(container["resources"], part), int.__add__)
        if is_sidecar(container):
            running = needs
        peak = _joined(peak, needs, max)
    for container in spec["containers"]:
        running = _joined(running, amounts(container["resources"], part), int.__add__)
    overhead = {key: parse(value).milli for key, value in spec.get("overhead", {}).items()}
    return _joined(_joined(peak, running, max), overhead, int.__add__)


def amounts(resources: Json, part: Part) -> Amounts:
    return {name: parse(value).milli for name, value in resources.get(part, {}).items()}


def shown(name: str, thousandths: int) -> str:
    """The amount of a resource as a quantity: bytes in binary notation, the rest in decimal."""
    in_bytes = any(word in name for word in ("memory", "storage", "hugepages"))
    notation = Notation.BINARY if in_bytes else Notation.DECIMAL
    return str(Quantity(nanos=thousandths * 10**6, notation=notation))


def is_terminal(pod: Json) -> bool:
    """Whether the pod has ended for good, so that it needs nothing any more."""
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def _joined(one: Amounts, other: Amounts, how: Callable[[int, int], int]) -> Amounts:
    return one | {name: how(one.get(name, 0), value) for name, value in other.items()}


_SCHEDULER = "default-scheduler"
_NOT_READY = "node.kubernetes.io/not-ready"
_UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_MOST_EVENTS = 5_000
_TTL = {"node.alpha.kubernetes.io/ttl": "0"}


def is_ready(obj: Json) -> bool:
    """Whether a node or a pod has the condition Ready."""
    conditions = obj["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def address_of(node: Json) -> str:
    """The internal address of a node; empty if it has none."""
    addresses = node["status"].get("addresses", ())
    return next((one["address"] for one in addresses if one["type"] == "InternalIP"), "")


def new_node(spec: NodeSpec, now: float) -> Json:
    """A Node object, ready from the start."""
    amounts = {"cpu": spec.cpu, "ephemeral-storage": spec.ephemeral_storage, "memory": spec.memory, "pods": spec.pods}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}
    times = dict.fromkeys(("lastHeartbeatTime", "lastTransitionTime"), timestamp(now))
    addresses = {"InternalIP": spec.internal_ip, "ExternalIP": spec.external_ip, "Hostname": spec.name}
    node: Json = {
        "metadata": {
            "name": spec.name,
            "labels": {"kubernetes.io/hostname": spec.name, **spec.labels},
            "annotations": _TTL,
        },
        "spec": {"podCIDR": spec.pod_cidr, "podCIDRs": [spec.pod_cidr]} if spec.pod_cidr else {},
        "status": {
            "capacity": {name: str(parse(amount)) for name, amount in amounts.items() if amount},
            "conditions": [ready | times],
            "addresses": [{"type": kind, "address": address} for kind, address in addresses.items() if address],
        },
    }
    default_node(node)
    node["spec"]["taints"] = []
    if spec.unschedulable:
        node["spec"]["unschedulable"] = True
    return node


class NodeController:
    """Updates the taints of nodes when their readiness changes or they are cordoned, and marks the pods of a node that is not
    ready as not ready: its kubelet cannot."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        store.observe(self._follow)

    def add(self, spec: NodeSpec) -> Record:
        node = self._store.prepare(NODES, "", new_node(spec, self._store.clock.now()))
        return self._store.create(NODES, node)

    def _follow(self, change: ObjectChange) -> None:
        if change.after.resource is NODES and change.type != "DELETED":
            name = change.after.key[1]
            self._store.clock.later(0, lambda: self._reconcile(name))

    def _reconcile(self, name: str) -> None:
        record = self._store.of(NODES).records.get(("", name))
        if record is None:
            return
        ready, spec, metadata = is_ready(record.obj), record.obj["spec"], record.obj["metadata"]
        taints = list(spec.get("taints", ()))
        for key, on in ((_NOT_READY, not ready), (_UNSCHEDULABLE, spec.get("unschedulable", False))):
            there = [taint for taint in taints if taint["key"] == key]
            if there and not on:
                taints = [taint for taint in taints if taint not in there]
            elif on and not there:
                now = timestamp(self._store.clock.now())
                taints.append({"key": key, "effect": "NoSchedule", "timeAdded": now})
        spec = {key: value for key, value in spec.items() if key != "taints"} | ({"taints": taints} if taints else {})
        if ready:
            metadata = metadata | {"annotations": metadata.get("annotations", {}) | _TTL}
        else:
            self._mark_pods(name)
        self._store.update(record, spec=spec, metadata=metadata)

    def _mark_pods(self, node: str) -> None:
        now = timestamp(self._store.clock.now())
        for pod in list(self._store.of(PODS).records.values()):
            status = pod.obj["status"]
            if pod.obj["spec"].get("nodeName") == node and is_ready(pod.obj):
                conditions = [
                    one | {"status": "False", "lastTransitionTime": now} if one["type"] == "Ready" else one
                    for one in status["conditions"]
                ]
                self._store.update(pod, status=status | {"conditions": conditions})


class EventRecorder:
    """Writes events about pods, as scheduler and kubelet do; a repeated one of a kubelet only increments its count."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._written: OrderedDict[tuple[str, str, str], Key] = OrderedDict()
        """The latest events by the pod's uid, the reason and the message."""

    def scheduling(self, pod: Record, kind: str, reason: str, message: str, action: str) -> None:
        by = {"reportingComponent": _SCHEDULER, "reportingInstance": f"{_SCHEDULER}-embedded", "source": {}}
        times = {"firstTimestamp": None, "lastTimestamp": None, "eventTime": micro_timestamp(self._store.clock.now())}
        self._write(pod, {}, reason, message, {"type": kind, "action": action} | by | times)

    def kubelet(self, pod: Record, kind: str, reason: str, message: str, container: str = "") -> None:
        """Write an event from the kubelet of the pod's node, about `container` if it is not empty."""
        about = {"fieldPath": f"spec.containers{{{container}}}"} if container else {}
        by = {"reportingComponent": "kubelet", "reportingInstance": pod.obj["spec"]["nodeName"]}
        by["source"] = {"component": "kubelet", "host": pod.obj["spec"]["nodeName"]}
        times = dict.fromkeys(("firstTimestamp", "lastTimestamp"), timestamp(self._store.clock.now()))
        self._write(pod, about, reason, message, {"type": kind, "count": 1, "eventTime": None} | by | times)

    def _write(self, pod: Record, about: Json, reason: str, message: str, fields: Json) -> None:
        events, now, (namespace, name) = self._store.of(EVENTS), self._store.clock.now(), pod.key
        identity = (pod.uid, reason, message)
        earlier = events.records.get(self._written.get(identity, ("", "")))
        if earlier is not None:
            if "count" in earlier.obj:
                self._store.update(earlier, count=earlier.obj["count"] + 1, lastTimestamp=timestamp(now))
            return
        subject = {"kind": "Pod", "namespace": namespace, "name": name, "uid": pod.uid, "apiVersion": "v1"}
        subject |= {"resourceVersion": str(pod.revision)} | about
        unique = f"{int(now * 1_000_000) * 1000 + self._store.revision % 1000:x}"
        event = {"metadata": {"name": f"{name}.{unique}"}, "involvedObject": subject, "reason": reason}
        prepared = self._store.prepare(EVENTS, namespace, event | {"message": message} | fields)
        self._written[identity] = self._store.create(EVENTS, prepared).key
        if len(self._written) > _MOST_EVENTS:
            _, oldest = self._written.popitem(last=False)
            if oldest in events.records:
                self._store.remove(events.records[oldest])


_TOO_MANY = "Too many pods"


class Scheduler:
    """Follows pods and nodes. Schedules in a callback of the event loop, never inside a request."""

    def __init__(self, store: ObjectStore, events: EventRecorder) -> None:
        self._store = store
        self._events = events
        self._load: defaultdict[str, NodeLoad] = defaultdict(NodeLoad)
        self._queue: dict[Key, None] = {}
        self._unschedulable: dict[Key, None] = {}
        self._awake = False
        self._turn = 0
        store.observe(self._follow)

    def adopt(self) -> None:
        for pod in self._store.of(PODS).records.values():
            self._see_pod(pod)

    def _follow(self, change: ObjectChange) -> None:
        record = change.after
        if record.resource is PODS and change.type == "DELETED":
            self._queue.pop(record.key, None)
            self._unschedulable.pop(record.key, None)
            self._release(record)
        elif record.resource is PODS:
            self._see_pod(record)
        elif record.resource is NODES:
            self._retry()

    def _see_pod(self, pod: Record) -> None:
        spec = pod.obj["spec"]
        if "nodeName" not in spec:
            if pod.key not in self._unschedulable and spec.get("schedulerName", _SCHEDULER) == _SCHEDULER:
                self._queue[pod.key] = None
                self._wake()
        elif is_terminal(pod.obj):
            self._release(pod)
        else:
            self._load[spec["nodeName"]].add(pod)

    def _release(self, pod: Record) -> None:
        if self._load[pod.obj["spec"].get("nodeName", "")].remove(pod):
            self._retry()

    def _retry(self) -> None:
        if self._unschedulable:
            self._queue |= self._unschedulable
            self._unschedulable.clear()
            self._wake()

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            self._store.clock.later(0, self._drain)

    def _drain(self) -> None:
        self._awake = False
        queue, self._queue = self._queue, {}
        for key in queue:
            pod = self._store.of(PODS).records.get(key)
            if pod is not None and "nodeName" not in pod.obj["spec"]:
                self._place(pod)

    def _place(self, pod: Record) -> None:
        spec, needs = pod.obj["spec"], pod_amounts(pod.obj["spec"], "requests")
        nodes = {record.key[1]: record.obj for record in self._store.of(NODES).records.values()}
        why = {name: _refusals(node, self._load[name], spec, needs) for name, node in nodes.items()}
        fitting = [name for name, reasons in why.items() if not reasons]
        if not fitting:
            self._give_up(pod, _explain(why, nodes, needs))
            return
        self._turn += 1
        start = self._turn % len(fitting)  # of equal nodes, each in its turn
        best = min(fitting[start:] + fitting[:start], key=lambda name: len(self._load[name].pods))
        condition = pod_condition("PodScheduled", holds=True, since=timestamp(self._store.clock.now()))
        status = _with_condition(pod.obj["status"], condition)
        bound = self._store.update(pod, spec=spec | {"nodeName": best}, status=status)
        message = f"Successfully assigned {pod.key[0]}/{pod.key[1]} to {best}"
        self._events.scheduling(bound, "Normal", "Scheduled", message, "Binding")

    def _give_up(self, pod: Record, message: str) -> None:
        self._unschedulable[pod.key] = None
        old: Json = next((c for c in pod.obj["status"].get("conditions", ()) if c["type"] == "PodScheduled"), {})
        since = old.get("lastTransitionTime", timestamp(self._store.clock.now()))
        why = {"reason": "Unschedulable", "message": message}
        generation = pod.obj["metadata"]["generation"]
        condition = pod_condition("PodScheduled", holds=False, since=since, generation=generation, **why)
        self._events.scheduling(pod, "Warning", "FailedScheduling", message, "Scheduling")
        self._store.update(pod, status=_with_condition(pod.obj["status"], condition))


def _explain(why: Mapping[str, list[str]], nodes: Mapping[str, Json], needs: Amounts) -> str:
    counted = Counter(reason for reasons in why.values() for reason in reasons)
    reasons = ", ".join(sorted(f"{count} {reason}" for reason, count in counted.items()))
    not_helpful = sum(_is_unresolvable(nodes[name], reasons, needs) for name, reasons in why.items())
    outcomes = {
        "Preemption is not helpful for scheduling": not_helpful,
        "No preemption victims found for incoming pod": len(why) - not_helpful,
    }
    preemption = ", ".join(sorted(f"{count} {reason}" for reason, count in outcomes.items() if count))
    available = f"0/{len(why)} nodes are available"
    return f"{available}: {reasons}. no new claims to deallocate, preemption: {available}: {preemption}."


class NodeLoad:
    """The pods on one node, and what they use together, in thousandths."""

    def __init__(self) -> None:
        self.pods: dict[str, Amounts] = {}
        self.used: Amounts = {}

    def add(self, pod: Record) -> None:
        if pod.uid not in self.pods:
            needs = self.pods[pod.uid] = pod_amounts(pod.obj["spec"], "requests")
            self.used = _joined(self.used, needs, int.__add__)

    def remove(self, pod: Record) -> bool:
        """Remove a pod from the node; returns whether it was there."""
        needs = self.pods.pop(pod.uid, None)
        self.used = _joined(self.used, needs or {}, int.__sub__)
        return needs is not None


def _room(node: Json) -> Amounts:
    return {key: parse(value).milli for key, value in node["status"].get("allocatable", {}).items()}


def _refusals(node: Json, load: NodeLoad, spec: Json, needs: Amounts) -> list[str]:
    """Why the node refuses the pod, in the words of the first filter that does; empty if the pod fits."""
    tolerations = spec.get("tolerations", ())
    if node["spec"].get("unschedulable") and not _tolerated({"key": _UNSCHEDULABLE}, tolerations):
        return ["node(s) were unschedulable"]
    for taint in node["spec"].get("taints", ()):
        if not _tolerated(taint, tolerations):
            return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"]
    if not _selected(node["metadata"], spec):
        return ["node(s) didn't match Pod's node affinity/selector"]
    room = _room(node)
    short = [_TOO_MANY] if (len(load.pods) + 1) * 1000 > room.get("pods", 0) else []
    for name, value in needs.items():
        if value and load.used.get(name, 0) + value > room.get(name, 0):
            short.append(f"Insufficient {name}")
    return short


def _is_unresolvable(node: Json, reasons: list[str], needs: Amounts) -> bool:
    """Whether the node would refuse the pod even without other pods."""
    if not all(reason == _TOO_MANY or reason.startswith("Insufficient ") for reason in reasons):
        return True
    room = _room(node)
    return any(value > room.get(name, 0) for name, value in needs.items())


def _with_condition(status: Json, condition: Json) -> Json:
    others = [one for one in status.get("conditions", ()) if one["type"] != condition["type"]]
    return status | {"conditions": [*others, condition]}


def _tolerated(taint: Json, tolerations: Iterable[Json]) -> bool:
    return any(
        one.get("key") in (None, "", taint["key"])
        and (one.get("operator") == "Exists" or one.get("value", "") == taint.get("value", ""))
        for one in tolerations
    )


def _selected(node: Json, spec: Json) -> bool:
    """Whether the node (its metadata) is one that the pod selects, with the operators that stackd's pods use."""
    labels, fields = node.get("labels", {}), {"metadata.name": node["name"]}
    if any(labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    needed = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {"nodeSelectorTerms": [{}]}
    return any(
        all(
            (values.get(part["key"]) in part["values"]) == (part["operator"] == "In")
            for values, name in ((labels, "matchExpressions"), (fields, "matchFields"))
            for part in term.get(name) or ()
        )
        for term in needed["nodeSelectorTerms"]
    )
