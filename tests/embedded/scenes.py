"""Rebuilds, on the embedded cluster, the states in which the recordings were made."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from stackd.embedded import EmbeddedOptions, NodeSpec, Rule, User, everything
from tests.embedded.wire import Json, Wire, fast
from tests.harness import eventually
from tests.kube.wire import recording

ADMIN, WEAK, BAD, ASKS = "admin-token", "weak-token", "bad-token", "asks-token"
RULES = (
    Rule(verbs=frozenset({"create", "delete"}), resources=frozenset({"pods", "services"}), namespace="rec"),
    Rule(verbs=frozenset({"get"}), resources=frozenset({"pods/log"}), namespace="rec"),
    Rule(
        verbs=frozenset({"get", "update"}),
        resources=frozenset({"leases"}),
        groups=frozenset({"coordination.k8s.io"}),
        names=frozenset({"stackd-default"}),
        namespace="rec",
    ),
)
"""The rules of the Role in `rules-review`."""

READY = {"status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}
_FAKE = {"fake": "true", "role": "stack"}
_BIG = {"cpu": "1000", "memory": "1000Gi", "pods": "5000", "ephemeral_storage": ""}
_NODES = (
    NodeSpec(name="dev-worker", labels=_FAKE, external_ip="203.0.113.1", unschedulable=True, **_BIG),
    NodeSpec(name="dev-worker2", labels=_FAKE, external_ip="203.0.113.2", unschedulable=True, **_BIG),
    NodeSpec(name="real-worker", cpu="2", memory="24581684Ki", ephemeral_storage="", pods="110", external_ip=None),
)


def options(**more: Any) -> EmbeddedOptions:
    """The options of the recordings' cluster: two cordoned nodes, a normal one, an admin and a user without rights."""
    users = (
        User(token=ADMIN, name="admin", rules=(everything(),)),
        User(token=WEAK, name="system:serviceaccount:rec:weak"),
        User(token=ASKS, name="system:serviceaccount:rec:asks", rules=RULES),
    )
    return fast(nodes=_NODES, users=users, gateway="gateways/public", **more)


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
        await eventually(lambda name=name: _stands(wire, name))  # type: ignore[misc]


async def _stands(wire: Wire, name: str) -> bool:
    return SETTLED[name] in json.dumps((await wire.pod(name))["status"])


async def doomed_node(wire: Wire) -> str:
    """Create a node that is ready and runs nothing; return the version of the list after that."""
    await replay(wire, "node-create")
    addresses = [{"type": "InternalIP", "address": "10.0.0.9"}, {"type": "ExternalIP", "address": "203.0.113.9"}]
    status = {"conditions": [{"type": "Ready"} | READY], "addresses": addresses}
    answer = await wire.patch("/api/v1/nodes/doomed/status", {"status": status})
    version: str = answer.body["metadata"]["resourceVersion"]
    return version


Prepare = Callable[[Wire], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scene:
    """What is done before a recorded request, and who sends it; `namespace`: whether `rec` exists."""

    prepare: tuple[Prepare, ...] = ()
    token: str = ADMIN
    namespace: bool = True


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


def _scenes() -> Iterator[tuple[Scene, str]]:
    limits, quota = played("limitrange-create"), played("quota-create")
    service = played("service-create-201")
    # the cluster chooses this one's node port: any, also one that another recording asks for
    services = played("service-create-201", "service-create-201-allocated")
    yield Scene(token=WEAK), "access-review-no nodes-list-403-rbac pod-create-403-rbac pods-list-403-rbac"
    yield Scene(token=WEAK), "token-request-403-rbac"
    yield Scene(token=BAD), "pods-list-401"
    yield Scene(namespace=False), "namespace-create namespace-get-404 pod-create-404-namespace"
    yield Scene((limits,)), "pod-create-403-limitrange-max pod-create-403-limitrange-max-two"
    yield Scene((limits,)), "pod-create-403-limitrange-min"
    yield Scene((baseline,)), "pod-create-403-podsecurity"
    yield Scene((quota_measured,)), "pod-create-403-quota"
    yield Scene((quota,)), "pod-create-403-quota-must-specify"
    yield Scene((terminating,)), "pod-create-403-terminating"
    yield Scene((played("node-create"),)), "node-delete-200"
    yield Scene((played("pod-create-201"),)), "pod-create-409"
    yield Scene((pods("badimage"),)), "pod-delete-200-grace pod-log-400-not-started"
    yield Scene((pods("exit1"),)), "pod-delete-409-uid pod-log-200"
    yield Scene((pods("ok"),)), "pod-delete-200-grace0"
    yield Scene((on_lost_nodes,)), "pod-log-404-node pod-log-500-kubelet-away"
    yield Scene((waiting,)), "pod-patch-422-uid"
    yield Scene((pods(*SETTLED),)), "pods-list-labels pods-list-page1"
    yield Scene((services, quota)), "service-create-403-quota-nodeports"
    yield Scene((service,)), "service-create-409 service-create-422-port-allocated service-create-udp-same-port"
    yield Scene((service,)), "service-delete-200 service-dryrun-422-port-allocated"
    yield Scene(token=ASKS), "rules-review"
    yield Scene((played("httproute-create-201"),)), "httproute-create-409 httproute-delete-200"
    for name in SETTLED:
        yield Scene((pods(name),)), f"pod-get-{name}"


SCENES = {name: scene for scene, names in _scenes() for name in names.split()}
"""Recording → how it is replayed; the others need no preparation."""


# ---- makes recorded and embedded responses comparable: replaces only the values that differ from run to run


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
_ADDRESS = re.compile(r"\b10\.\d+\.\d+\.\d+\b")
_HASH = re.compile(r"(containerd|sha256):(//)?[0-9a-f]{64}")
_EVENT = re.compile(r"\.[0-9a-f]{14,16}$")
_VERSIONS = re.compile(r"resource version: \d+ \(\d+\)")
_BY_KEY = {"resourceVersion", "continue", "nodePort", "token"}


def normal(value: Any, *, keep_ports: bool = False) -> Any:
    """The value with uids, versions, times, addresses, hashes and chosen ports replaced by placeholders.

    It lacks the resources that a pod's status repeats: the embedded cluster does not.
    """
    if isinstance(value, dict):
        if {"phase", "restartCount"} & value.keys():
            value = {key: part for key, part in value.items() if key not in ("resources", "allocatedResources")}
        return {
            key: f"<{key}>"
            if key in _BY_KEY and not (keep_ports and key == "nodePort")
            else normal(part, keep_ports=keep_ports)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [normal(part, keep_ports=keep_ports) for part in value]
    if isinstance(value, str):
        return _text(value)
    return value


def _text(value: str) -> str:
    for pattern, name in (
        (_UUID, "<uid>"),
        (_TIME, "<time>"),
        (_ADDRESS, "<address>"),
        (_HASH, "<hash>"),
        (_EVENT, ".<event>"),
        (_VERSIONS, "resource version: <versions>"),
    ):
        value = pattern.sub(name, value)
    return (
        value.replace("real-worker", "<node>")
        .replace("default-scheduler-node", "<scheduler>")
        .replace("default-scheduler-embedded", "<scheduler>")
    )
