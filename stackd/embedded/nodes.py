"""Node objects: those a cluster starts with, and the taints that the node controllers keep on them."""

from __future__ import annotations

from stackd.embedded import quantity
from stackd.embedded.defaults import default_node, in_order
from stackd.embedded.options import NodeSpec
from stackd.embedded.resources import NODES, Json
from stackd.embedded.store import Change, Record, Store
from stackd.embedded.timing import timestamp

_NOT_READY = "node.kubernetes.io/not-ready"
_UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_TTL = {"node.alpha.kubernetes.io/ttl": "0"}


def is_ready(node: Json) -> bool:
    """Whether its kubelet says so."""
    conditions = node["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def new_node(spec: NodeSpec, now: float) -> Json:
    """A node with a kubelet, ready from the start."""
    capacity = {
        "cpu": quantity.canonical(spec.cpu),
        "ephemeral-storage": quantity.canonical(spec.ephemeral_storage),
        "memory": quantity.canonical(spec.memory),
        "pods": quantity.canonical(spec.pods),
    }
    addresses = [{"type": "InternalIP", "address": spec.internal_ip}]
    if spec.external_ip is not None:
        addresses.append({"type": "ExternalIP", "address": spec.external_ip})
    labels = dict(sorted(({"kubernetes.io/hostname": spec.name} | dict(spec.labels)).items()))
    heartbeat = timestamp(now)
    ready = {
        "type": "Ready",
        "status": "True",
        "lastHeartbeatTime": heartbeat,
        "lastTransitionTime": heartbeat,
        "reason": "KubeletReady",
        "message": "kubelet is posting ready status",
    }
    status: Json = {"capacity": capacity, "allocatable": capacity, "conditions": [ready], "addresses": addresses}
    node: Json = {"metadata": {"name": spec.name, "labels": labels, "annotations": _TTL}, "status": status}
    if spec.unschedulable:
        node["spec"] = {"unschedulable": True}
    default_node(node)
    node["spec"]["taints"] = [taint for taint in node["spec"]["taints"] if taint["key"] != _NOT_READY]
    if not node["spec"]["taints"]:
        del node["spec"]["taints"]
    return node


class NodeController:
    """Keeps the taints of nodes in step with their readiness and their being cordoned."""

    def __init__(self, store: Store) -> None:
        self._store = store
        store.observe(self._follow)

    def add(self, spec: NodeSpec) -> Record:
        """Create a node with a kubelet. Raises ApiError 409."""
        node = self._store.prepare(NODES, "", new_node(spec, self._store.clock.now()))
        return self._store.create(NODES, node)

    def cordon(self, name: str, *, on: bool = True) -> Record:
        """Let no new pods on the node (or let them again). Raises ApiError 404."""
        record = self._store.of(NODES).get("", name)
        spec = {key: value for key, value in record.obj["spec"].items() if key != "unschedulable"}
        if on:
            spec["unschedulable"] = True
        return self._store.update(record, spec=in_order("NodeSpec", spec))

    def _follow(self, change: Change) -> None:
        if change.after.resource is NODES and change.type != "DELETED":
            name = change.after.key[1]
            self._store.clock.later(0, lambda: self._reconcile(name))

    def _reconcile(self, name: str) -> None:
        record = self._store.of(NODES).records.get(("", name))
        if record is None:
            return
        spec = record.obj["spec"]
        taints = list(spec.get("taints", ()))
        wanted = {_NOT_READY: not is_ready(record.obj), _UNSCHEDULABLE: spec.get("unschedulable", False)}
        for key, on in wanted.items():
            there = any(taint["key"] == key for taint in taints)
            if there and not on:
                taints = [taint for taint in taints if taint["key"] != key]
            elif on and not there:
                now = timestamp(self._store.clock.now())
                taints.append({"key": key, "effect": "NoSchedule", "timeAdded": now})
        fresh = {key: value for key, value in spec.items() if key != "taints"}
        if taints:
            fresh["taints"] = taints
        metadata = record.obj["metadata"]
        if is_ready(record.obj):
            annotations = dict(sorted((metadata.get("annotations", {}) | _TTL).items()))
            metadata = in_order("ObjectMeta", metadata | {"annotations": annotations})
        self._store.update(record, spec=in_order("NodeSpec", fresh), metadata=metadata)
