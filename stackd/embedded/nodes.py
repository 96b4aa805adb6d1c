"""Node objects: the nodes that a cluster starts with, and the taints that the node controllers maintain."""

from __future__ import annotations

from collections.abc import Iterator

from stackd.embedded.defaults import default_node, in_order
from stackd.embedded.options import NodeSpec
from stackd.embedded.resources import NODES, VERSION, Json
from stackd.embedded.store import ObjectChange, ObjectStore, Record
from stackd.embedded.timing import timestamp
from stackd.quantity import of_bytes, of_milli, parse

_NOT_READY = "node.kubernetes.io/not-ready"
_UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_TTL = {"node.alpha.kubernetes.io/ttl": "0"}
_ATTACH = {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
_ARCH, _OS = "amd64", "linux"
_PLATFORM = {
    f"{prefix}kubernetes.io/{key}": value for prefix in ("", "beta.") for key, value in (("arch", _ARCH), ("os", _OS))
}
_ZEROS = "00000000-0000-0000-0000-000000000000"
_INFO = {
    "machineID": _ZEROS,
    "systemUUID": _ZEROS,
    "bootID": _ZEROS,
    "kernelVersion": "6.12.0",
    "osImage": "Debian GNU/Linux 13 (trixie)",
    "containerRuntimeVersion": "embedded://1",
    "kubeletVersion": VERSION["gitVersion"],
    "kubeProxyVersion": "",
    "operatingSystem": _OS,
    "architecture": _ARCH,
}
_RESERVED_MEMORY = 100 << 20
_ODD = 4 << 10
_CONDITIONS = (
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
)


def is_ready(obj: Json) -> bool:
    """Whether a node or a pod has the condition Ready."""
    conditions = obj["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def new_node(spec: NodeSpec, now: float) -> Json:
    """A Node object, ready from the start."""
    capacity, allocatable = _reported(spec) if spec.kubelet else (_by_hand(spec), _by_hand(spec))
    labels = {"kubernetes.io/hostname": spec.name} | (_PLATFORM if spec.kubelet else {}) | dict(spec.labels)
    annotations = _TTL | (_ATTACH if spec.kubelet else {})
    status: Json = {
        "capacity": capacity,
        "allocatable": allocatable,
        "conditions": list(_conditions(spec, timestamp(now))),
        "addresses": list(_addresses(spec)),
    }
    if spec.kubelet:
        status["nodeInfo"] = _INFO
    node: Json = {
        "metadata": {"name": spec.name, "labels": dict(sorted(labels.items())), "annotations": annotations},
        "spec": _spec(spec),
        "status": status,
    }
    default_node(node)
    node["spec"]["taints"] = [taint for taint in node["spec"]["taints"] if taint["key"] != _NOT_READY]
    if not node["spec"]["taints"]:
        del node["spec"]["taints"]
    return node


def _by_hand(spec: NodeSpec) -> dict[str, str]:
    """The amounts as given."""
    amounts = {
        "cpu": spec.cpu,
        "ephemeral-storage": spec.ephemeral_storage,
        "memory": spec.memory,
        "pods": spec.pods,
    }
    return {name: str(parse(amount)) for name, amount in amounts.items() if amount}


def _reported(spec: NodeSpec) -> tuple[dict[str, str], dict[str, str]]:
    """Capacity, and the allocatable part: less memory and disk, because of the kubelet's eviction thresholds.

    As on a real machine, memory is not a round number and is written in ``Ki``; allocatable disk is written in bytes.
    """
    huge = {"hugepages-1Gi": "0", "hugepages-2Mi": "0"}
    cpu, memory = parse(spec.cpu), parse(spec.memory).whole
    memory += 0 if memory % (1 << 20) else _ODD
    more = huge | {"pods": str(parse(spec.pods))}
    allocatable = more | {"cpu": str(cpu), "memory": str(of_bytes(memory))}
    capacity = more | {"cpu": str(of_milli(cpu.whole * 1000)), "memory": str(of_bytes(memory + _RESERVED_MEMORY))}
    if spec.ephemeral_storage:
        disk = parse(spec.ephemeral_storage).whole | 1
        allocatable["ephemeral-storage"] = str(of_bytes(disk))
        capacity["ephemeral-storage"] = str(of_bytes((disk * 10 // 9 // _ODD + 1) * _ODD))
    return dict(sorted(capacity.items())), dict(sorted(allocatable.items()))


def _conditions(spec: NodeSpec, now: str) -> Iterator[Json]:
    times = {"lastHeartbeatTime": now, "lastTransitionTime": now}
    for name, status, reason, message in _CONDITIONS if spec.kubelet else _CONDITIONS[-1:]:
        yield {"type": name, "status": status} | times | {"reason": reason, "message": message}


def _addresses(spec: NodeSpec) -> Iterator[Json]:
    yield {"type": "InternalIP", "address": spec.internal_ip}
    if spec.external_ip is not None:
        yield {"type": "ExternalIP", "address": spec.external_ip}
    if spec.kubelet:
        yield {"type": "Hostname", "address": spec.name}


def _spec(spec: NodeSpec) -> Json:
    fields: Json = {"podCIDR": spec.pod_cidr, "podCIDRs": [spec.pod_cidr]} if spec.pod_cidr else {}
    return fields | ({"unschedulable": True} if spec.unschedulable else {})


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
        return self._store.update(record, spec=in_order("NodeSpec", spec))

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
            annotations = dict(sorted((metadata.get("annotations", {}) | _TTL).items()))
            metadata = in_order("ObjectMeta", metadata | {"annotations": annotations})
        self._store.update(record, spec=in_order("NodeSpec", fresh), metadata=metadata)
