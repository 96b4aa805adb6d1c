"""Rebuilds, on the embedded cluster, the states in which the recordings were made."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackd.embedded import EmbeddedOptions, NodeSpec, User, everything
from tests.embedded.wire import Json, Wire, fast, until

FOLDER = Path(__file__).parent.parent / "recordings"
ADMIN, WEAK, BAD = "admin-token", "weak-token", "bad-token"
READY = {"status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}
_FAKE = {"fake": "true", "role": "stack"}
_BIG = {"cpu": "1000", "memory": "1000Gi", "pods": "5000", "ephemeral_storage": ""}
_NODES = (
    NodeSpec(name="dev-worker", labels=_FAKE, external_ip="203.0.113.1", unschedulable=True, kubelet=False, **_BIG),
    NodeSpec(name="dev-worker2", labels=_FAKE, external_ip="203.0.113.2", unschedulable=True, kubelet=False, **_BIG),
    NodeSpec(name="real-worker", cpu="2", memory="24581684Ki", ephemeral_storage="", pods="110", external_ip=None),
)


def recording(name: str) -> Json:
    document: Json = json.loads((FOLDER / f"{name}.json").read_text())
    return document


def options(**more: Any) -> EmbeddedOptions:
    """The options of the recordings' cluster: two cordoned nodes, a normal one, an admin and a user without rights."""
    users = (
        User(token=ADMIN, name="admin", rules=(everything(),)),
        User(token=WEAK, name="system:serviceaccount:rec:weak"),
    )
    return fast(nodes=_NODES, users=users, **more)


async def replay(wire: Wire, name: str) -> Json:
    """Send a recorded request, which must succeed, and return the response body."""
    request = recording(name)["request"]
    answer = await wire.call(request["method"], request["path"], request["body"])
    assert answer.status < 300, answer.body
    body: Json = answer.body
    return body


async def make(wire: Wire, name: str) -> None:
    """Create the pod that `pod-get-NAME` recorded."""
    recorded = recording(f"pod-get-{name}")["response"]["body"]
    spec = {key: value for key, value in recorded["spec"].items() if key != "nodeName"}
    metadata = {"name": name, "labels": recorded["metadata"]["labels"]}
    answer = await wire.post("/api/v1/namespaces/rec/pods", {"metadata": metadata, "spec": spec})
    assert answer.status == 201, answer.body


SETTLED = {
    "ok": "Running",
    "toobig": "Unschedulable",
    "badimage": "ImagePullBackOff",
    "invalidimage": "InvalidImageName",
    "exit1": "Failed",
    "exit0": "Succeeded",
    "nosecret": "CreateContainerConfigError",
    "oom": "Failed",
    "nocmd": "Failed",
}


async def settled(wire: Wire, *names: str) -> None:
    """Create pods and wait until they look as recorded after 25 s."""
    for name in names:
        await make(wire, name)
    for name in names:
        await until(lambda name=name: _stands(wire, name))  # type: ignore[misc]


async def _stands(wire: Wire, name: str) -> bool:
    body = await wire.pod(name)
    recorded = recording(f"pod-get-{name}")["response"]["body"]["status"]
    resources = body["status"].get("resources") == recorded.get("resources")
    return SETTLED[name] in json.dumps(body["status"]) and resources


async def doomed_node(wire: Wire) -> str:
    """Create a node that is ready and runs nothing; return the version of the list after that."""
    await replay(wire, "node-create")
    addresses = [{"type": "InternalIP", "address": "10.0.0.9"}, {"type": "ExternalIP", "address": "203.0.113.9"}]
    status = {"conditions": [{"type": "Ready"} | READY], "addresses": addresses}
    answer = await wire.patch("/api/v1/nodes/doomed/status", {"status": status})
    version: str = answer.body["metadata"]["resourceVersion"]
    return version


Prepare = Callable[[Wire], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is done before a recorded request, and who sends it."""

    prepare: tuple[Prepare, ...] = ()
    token: str = ADMIN
    namespace: bool = True
    """Whether the namespace `rec` exists."""


def played(*names: str) -> Prepare:
    """Replay these recorded requests in this order."""

    async def prepare(wire: Wire) -> None:
        for name in names:
            await replay(wire, name)

    return prepare


def pods(*names: str) -> Prepare:
    """Create pods and wait until they are in their recorded state."""

    async def prepare(wire: Wire) -> None:
        await settled(wire, *names)

    return prepare


async def on_lost_nodes(wire: Wire) -> None:
    """Two pods: the node of one is deleted, the node of the other does not answer."""
    await replay(wire, "node-create")
    addresses = [{"type": "InternalIP", "address": "127.0.0.9"}]
    await wire.patch("/api/v1/nodes/doomed/status", {"status": {"addresses": addresses}})
    for name, node in (("p2", "doomed"), ("p3", "nosuch")):
        await wire.make_pod(name, nodeName=node)


async def waiting(wire: Wire) -> None:
    """A pod that fits on no node."""
    await wire.make_pod("p", nodeSelector={"no": "where"})


async def owner(wire: Wire) -> None:
    """The pod that owns a Service."""
    await wire.make_pod("owner")


async def quota_measured(wire: Wire) -> None:
    """Pods that request 64.2 CPUs, and then a quota of one CPU."""
    await settled(wire, "ok", "toobig", "badimage")
    await replay(wire, "quota-create")


async def terminating(wire: Wire) -> None:
    """A namespace that is being deleted, but is held by a finalizer."""
    metadata = {"name": "held", "finalizers": ["test/hold"]}
    await wire.post("/api/v1/namespaces/rec/configmaps", {"metadata": metadata})
    await wire.delete("/api/v1/namespaces/rec")


async def baseline(wire: Wire) -> None:
    """The namespace enforces the baseline standard."""
    labels = {"pod-security.kubernetes.io/enforce": "baseline"}
    await wire.patch("/api/v1/namespaces/rec", {"metadata": {"labels": labels}})


async def compacted(wire: Wire) -> None:
    """Compact the history: older versions are no longer available."""
    wire.cluster.faults.compact()


_LIMITS, _QUOTA = played("limitrange-create"), played("quota-create")
_SERVICES = played("service-create-201", "service-create-201-allocated")
_ALL = pods(*SETTLED)

SCENES: dict[str, Scene] = {
    "access-review-no": Scene(token=WEAK),
    "access-review-yes": Scene(),
    "limitrange-create": Scene(),
    "namespace-create": Scene(namespace=False),
    "namespace-create-409": Scene(),
    "namespace-delete": Scene(),
    "namespace-get-404": Scene(namespace=False),
    "namespace-kube-system": Scene(),
    "networkpolicies-list": Scene(),
    "node-create": Scene(),
    "node-delete-200": Scene(prepare=(played("node-create"),)),
    "node-get-404": Scene(),
    "nodes-list-403-rbac": Scene(token=WEAK),
    "pod-create-201": Scene(),
    "pod-create-400-strict": Scene(),
    "pod-create-400-type": Scene(),
    "pod-create-403-limitrange-max": Scene(prepare=(_LIMITS,)),
    "pod-create-403-limitrange-max-two": Scene(prepare=(_LIMITS,)),
    "pod-create-403-limitrange-min": Scene(prepare=(_LIMITS,)),
    "pod-create-403-podsecurity": Scene(prepare=(baseline,)),
    "pod-create-403-quota": Scene(prepare=(quota_measured,)),
    "pod-create-403-quota-must-specify": Scene(prepare=(_QUOTA,)),
    "pod-create-403-rbac": Scene(token=WEAK),
    "pod-create-403-terminating": Scene(prepare=(terminating,)),
    "pod-create-404-namespace": Scene(namespace=False),
    "pod-create-409": Scene(prepare=(played("pod-create-201"),)),
    "pod-create-422-image": Scene(),
    "pod-create-422-name": Scene(),
    "pod-create-bad-image": Scene(),
    "pod-create-dryrun": Scene(),
    "pod-create-invalid-image": Scene(),
    "pod-create-unschedulable": Scene(),
    "pod-delete-200-grace": Scene(prepare=(pods("badimage"),)),
    "pod-delete-200-grace0": Scene(prepare=(pods("ok"),)),
    "pod-delete-404": Scene(),
    "pod-delete-409-uid": Scene(prepare=(pods("exit1"),)),
    "pod-get-404": Scene(),
    "pod-get-badimage": Scene(prepare=(pods("badimage"),)),
    "pod-get-exit0": Scene(prepare=(pods("exit0"),)),
    "pod-get-exit1": Scene(prepare=(pods("exit1"),)),
    "pod-get-invalidimage": Scene(prepare=(pods("invalidimage"),)),
    "pod-get-nocmd": Scene(prepare=(pods("nocmd"),)),
    "pod-get-nosecret": Scene(prepare=(pods("nosecret"),)),
    "pod-get-ok": Scene(prepare=(pods("ok"),)),
    "pod-get-oom": Scene(prepare=(pods("oom"),)),
    "pod-get-toobig": Scene(prepare=(pods("toobig"),)),
    "pod-log-200": Scene(prepare=(pods("exit1"),)),
    "pod-log-400-not-started": Scene(prepare=(pods("badimage"),)),
    "pod-log-404-node": Scene(prepare=(on_lost_nodes,)),
    "pod-log-500-kubelet-away": Scene(prepare=(on_lost_nodes,)),
    "pod-patch-422-uid": Scene(prepare=(waiting,)),
    "pods-list-401": Scene(token=BAD),
    "pods-list-403-rbac": Scene(token=WEAK),
    "pods-list-empty": Scene(),
    "pods-list-labels": Scene(prepare=(_ALL,)),
    "pods-list-page1": Scene(prepare=(_ALL,)),
    "quota-create": Scene(),
    "service-create-201": Scene(),
    "service-create-201-allocated": Scene(),
    "service-create-403-quota-nodeports": Scene(prepare=(_SERVICES, _QUOTA)),
    "service-create-409": Scene(prepare=(_SERVICES,)),
    "service-create-422-port-allocated": Scene(prepare=(_SERVICES,)),
    "service-create-422-port-range": Scene(),
    "service-create-owned": Scene(prepare=(owner,)),
    "service-create-udp-same-port": Scene(prepare=(_SERVICES,)),
    "service-delete-200": Scene(prepare=(_SERVICES,)),
    "service-delete-404": Scene(),
    "token-request-201": Scene(),
    "token-request-403-rbac": Scene(token=WEAK),
    "token-request-404": Scene(),
    "token-request-422": Scene(),
}
