"""Node objects: the nodes that a cluster starts with, and the taints that the node controllers maintain."""

from __future__ import annotations

from stackd.embedded.defaults import default_node
from stackd.embedded.options import NodeSpec
from stackd.embedded.resources import NODES, Json
from stackd.embedded.store import ObjectChange, ObjectStore, Record
from stackd.embedded.timing import timestamp
from stackd.quantity import parse

_NOT_READY = "node.kubernetes.io/not-ready"
_UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_TTL = {"node.alpha.kubernetes.io/ttl": "0"}


def is_ready(obj: Json) -> bool:
    """Whether a node or a pod has the condition Ready."""
    conditions = obj["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


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
    """Updates the taints of nodes when their readiness changes or they are cordoned."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        store.observe(self._follow)

    def add(self, spec: NodeSpec) -> Record:
        """Create a node with a kubelet. Raises StatusError 409."""
        node = self._store.prepare(NODES, "", new_node(spec, self._store.clock.now()))
        return self._store.create(NODES, node)

    def cordon(self, name: str, *, on: bool = True) -> Record:
        """Mark the node unschedulable, or schedulable again. Raises StatusError 404."""
        record = self._store.of(NODES).get("", name)
        spec = {key: value for key, value in record.obj["spec"].items() if key != "unschedulable"}
        if on:
            spec["unschedulable"] = True
        return self._store.update(record, spec=spec)

    def _follow(self, change: ObjectChange) -> None:
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
            metadata = metadata | {"annotations": metadata.get("annotations", {}) | _TTL}
        self._store.update(record, spec=fresh, metadata=metadata)
