"""Binds pods to nodes: filters, then the least loaded; says why when none fits, and tries again when things change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from stackd.embedded import placement
from stackd.embedded.events import EventRecorder
from stackd.embedded.needs import Amounts, is_terminal, pod_amounts
from stackd.embedded.placement import NodeState
from stackd.embedded.resources import NODES, PODS, Json
from stackd.embedded.store import Change, Key, Record, Store
from stackd.embedded.timing import timestamp

_NO_NODES = "no nodes available to schedule pods"


class Scheduler:
    """Follows pods and nodes; decides from the event loop, never inside a request."""

    def __init__(self, store: Store, events: EventRecorder) -> None:
        self._store = store
        self._events = events
        self._nodes: dict[str, NodeState] = {}
        self._queue: dict[Key, None] = {}
        self._unschedulable: dict[Key, None] = {}
        self._awake = False
        self._turn = 0
        store.observe(self._follow)

    def adopt(self) -> None:
        """Take up what the store holds already."""
        for node in self._store.of(NODES).records.values():
            self._see_node(node.obj)
        for pod in self._store.of(PODS).records.values():
            self._see_pod(pod, None)

    def _follow(self, change: Change) -> None:
        if change.after.resource is PODS:
            if change.type == "DELETED":
                self._queue.pop(change.after.key, None)
                self._unschedulable.pop(change.after.key, None)
                self._release(change.after)
            else:
                self._see_pod(change.after, change.before)
        elif change.after.resource is NODES:
            if change.type == "DELETED":
                self._nodes.pop(change.after.key[1], None)
            else:
                self._see_node(change.after.obj)
            self._retry()

    def _see_node(self, node: Json) -> None:
        name = node["metadata"]["name"]
        state = self._nodes.get(name)
        if state is None:
            state = self._nodes[name] = NodeState(name)
            for pod in self._store.of(PODS).records.values():
                if pod.obj["spec"].get("nodeName") == name and not is_terminal(pod.obj):
                    state.add(pod.uid, _needs(pod.obj))
        state.read(node)

    def _see_pod(self, pod: Record, before: Record | None) -> None:
        spec = pod.obj["spec"]
        node = self._nodes.get(spec.get("nodeName", ""))
        if "nodeName" not in spec:
            if before is None:
                self._queue[pod.key] = None
                self._wake()
        elif is_terminal(pod.obj):
            self._release(pod)
        elif node is not None and pod.uid not in node.pods:
            node.add(pod.uid, _needs(pod.obj))

    def _release(self, pod: Record) -> None:
        node = self._nodes.get(pod.obj["spec"].get("nodeName", ""))
        if node is not None and node.remove(pod.uid):
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
        spec, needs = pod.obj["spec"], _needs(pod.obj)
        fitting: list[NodeState] = []
        refusals: Counter[str] = Counter()
        helpless = 0
        for node in self._nodes.values():
            reasons = placement.refusals(node, spec, needs)
            if not reasons:
                fitting.append(node)
            refusals.update(reasons)
            helpless += placement.beyond_preemption(node, reasons, needs)
        if fitting:
            self._bind(pod, self._choose(fitting, needs))
        else:
            self._give_up(pod, _explain(len(self._nodes), refusals, helpless))

    def _choose(self, fitting: list[NodeState], needs: Amounts) -> NodeState:
        self._turn += 1
        start = self._turn % len(fitting)
        return max(fitting[start:] + fitting[:start], key=lambda node: node.room_after(needs))

    def _bind(self, pod: Record, node: NodeState) -> None:
        now = timestamp(self._store.clock.now())
        condition = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now}
        status = placement.with_condition(pod.obj["status"], condition)
        bound = self._store.update(pod, spec=_with_node(pod.obj["spec"], node.name), status=status)
        message = f"Successfully assigned {pod.key[0]}/{pod.key[1]} to {node.name}"
        self._events.scheduling(bound, "Normal", "Scheduled", message, "Binding")

    def _give_up(self, pod: Record, message: str) -> None:
        self._unschedulable[pod.key] = None
        old: Json = next((c for c in pod.obj["status"].get("conditions", ()) if c["type"] == "PodScheduled"), {})
        now = timestamp(self._store.clock.now())
        condition = {
            "type": "PodScheduled",
            "observedGeneration": pod.obj["metadata"]["generation"],
            "status": "False",
            "lastProbeTime": None,
            "lastTransitionTime": old.get("lastTransitionTime", now),
            "reason": "Unschedulable",
            "message": message,
        }
        status = placement.with_condition(pod.obj["status"], condition)
        self._events.scheduling(pod, "Warning", "FailedScheduling", message, "Scheduling")
        self._store.update(pod, status=status)


def _needs(pod: Json) -> Amounts:
    return pod_amounts(pod["spec"], "requests")


def _with_node(spec: Json, node: str) -> Json:
    return dict(_insert(spec, "nodeName", node, behind="automountServiceAccountToken"))


def _insert(spec: Json, key: str, value: str, *, behind: str) -> Iterator[tuple[str, object]]:
    anchor = behind if behind in spec else "serviceAccount"
    for name, part in spec.items():
        yield name, part
        if name == anchor:
            yield key, value


def _explain(nodes: int, refusals: Counter[str], helpless: int) -> str:
    if not nodes:
        return _NO_NODES
    reasons = ", ".join(sorted(f"{count} {reason}" for reason, count in refusals.items()))
    hopeless = {"Preemption is not helpful for scheduling": helpless}
    hopeless["No preemption victims found for incoming pod"] = nodes - helpless
    preemption = ", ".join(sorted(f"{count} {reason}" for reason, count in hopeless.items() if count))
    available = f"0/{nodes} nodes are available"
    return f"{available}: {reasons}. no new claims to deallocate, preemption: {available}: {preemption}."
