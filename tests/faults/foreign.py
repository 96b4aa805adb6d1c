"""Objects of others, which must not have changed at the end (invariant 5)."""

from __future__ import annotations

from typing import Any

from stackd.embedded import EmbeddedCluster
from stackd.embedded.resources import NAMESPACES, PODS, SERVICES, Json, Resource
from stackd.embedded.schema import default_namespace, default_pod, default_service, first_status

OURS = {"app.kubernetes.io/managed-by": "stackd", "stackd.io/instance": "default"}
ELSEWHERE = "elsewhere"
NAMESPACE = "stacks"


class Foreign:
    """Objects with names and labels much like stackd's; each differs in one respect."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._cluster = cluster
        self._put: dict[tuple[str, str, str], tuple[str, Json, Json]] = {}
        self._uids: set[str] = set()
        self.ports: set[int] = set()

    def settle(self) -> None:
        """Create the objects."""
        for name in (NAMESPACE, ELSEWHERE):
            namespace: Json = {"metadata": {"name": name}}
            default_namespace(namespace)
            self._cluster.store.create(NAMESPACES, self._cluster.store.prepare(NAMESPACES, "", namespace))
        for number, labels in enumerate(
            ({}, OURS | {"stackd.io/instance": "other"}, {"stackd.io/instance": "default"}, {"app": "stackd"})
        ):
            name = f"stack-{number:016x}"
            self.put_pod(name, labels | {"stackd.io/stack": name})
            self.put_service(f"svc-{name}", 32700 + number, labels | {"stackd.io/stack": name})
        self.put_pod("stack-00000000000000ff", OURS | {"stackd.io/stack": "stack-00000000000000ff"}, ELSEWHERE)

    def put_pod(self, name: str, labels: dict[str, str] | None = None, namespace: str = NAMESPACE) -> None:
        """Create somebody else's pod."""
        self._keep(PODS, namespace, self.new_pod(name, labels, namespace))

    def new_pod(self, name: str, labels: dict[str, str] | None = None, namespace: str = NAMESPACE) -> Json:
        """A pod that fits on no node, ready to be stored."""
        pod: Json = {
            "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
            "spec": {"nodeSelector": {"for": "nobody"}, "containers": [{"name": "theirs", "image": "theirs/runs"}]},
        }
        default_pod(pod)
        pod["status"] = first_status(pod)
        return self._cluster.store.prepare(PODS, namespace, pod)

    def put_service(self, name: str, port: int, labels: dict[str, str]) -> None:
        """Create somebody else's Service."""
        service: Json = {
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "nodePort": port}], "selector": {}},
        }
        default_service(service)
        self._cluster.ports.assign(service)
        self.ports.add(port)
        self._keep(SERVICES, NAMESPACE, self._cluster.store.prepare(SERVICES, NAMESPACE, service))

    def is_theirs(self, obj: Json) -> bool:
        """Whether the object belongs to somebody else, whatever its name is."""
        return obj["metadata"]["uid"] in self._uids

    def differences(self) -> list[str]:
        """Which of the objects have changed."""
        found = []
        for (kind, namespace, name), (uid, labels, spec) in self._put.items():
            record = self._cluster.store.of(PODS if kind == "Pod" else SERVICES).records.get((namespace, name))
            if record is None:
                found.append(f"{kind} {namespace}/{name} of somebody else is gone")
            elif (record.uid, record.obj["metadata"].get("labels"), _own(record.obj)) != (uid, labels, spec):
                found.append(f"{kind} {namespace}/{name} of somebody else was changed")
        return found

    def _keep(self, resource: Resource, namespace: str, obj: Json) -> None:
        self._uids.add(obj["metadata"]["uid"])
        record = self._cluster.store.create(resource, obj)
        known = (record.uid, record.obj["metadata"].get("labels"), _own(record.obj))
        self._put[resource.kind, namespace, record.key[1]] = known


def _own(obj: Json) -> dict[str, Any]:
    """The spec without the fields that the cluster adds."""
    return {key: value for key, value in obj["spec"].items() if key not in ("nodeName", "tolerations")}
