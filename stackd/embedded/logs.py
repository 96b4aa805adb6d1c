"""The log subresource of pods: what containers have written, or why there is nothing to read."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from stackd.embedded.defaults import containers
from stackd.embedded.kubelet import Kubelet
from stackd.embedded.nodes import is_ready
from stackd.embedded.request import whole_number
from stackd.embedded.resources import NODES, PODS, Json
from stackd.embedded.status import StatusError, bad_request, not_found
from stackd.embedded.store import ObjectStore, Record

_PULL_FAILURES = {"ErrImagePull", "ImagePullBackOff"}
_KUBELET_PORT = 10250
_PASSED_ON = ("limitBytes", "tailLines")


def read_log(store: ObjectStore, kubelet: Kubelet, namespace: str, name: str, query: Mapping[str, str]) -> bytes:
    """The text. Raises StatusError: 400, 404, or 500 where the pod's node does not answer."""
    pod = store.of(PODS).get(namespace, name)
    container = _choose(pod, query.get("container", ""))
    if "nodeName" not in pod.obj["spec"]:
        raise bad_request(f"pod {name} does not have a host assigned")
    _check_node(store, pod, container, query)
    _check_started(pod, container)
    text = kubelet.output(pod.obj, container)
    if (lines := whole_number(query, "tailLines")) is not None:
        text = "".join(text.splitlines(keepends=True)[-lines:]) if lines else ""
    data = text.encode()
    limit = whole_number(query, "limitBytes")
    return data if limit is None else data[:limit]


def _choose(pod: Record, wanted: str) -> str:
    name = pod.key[1]
    names = [container["name"] for container in containers(pod.obj["spec"])]
    if wanted and wanted not in names:
        raise bad_request(f"container {wanted} is not valid for pod {name}")
    mains = [container["name"] for container in pod.obj["spec"]["containers"]]
    if not wanted and len(mains) > 1:
        raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{' '.join(mains)}]")
    chosen: str = wanted or mains[0]
    return chosen


def _check_node(store: ObjectStore, pod: Record, container: str, query: Mapping[str, str]) -> None:
    """The log is at the node: the API server asks its kubelet, and tells what it met."""
    name = pod.obj["spec"]["nodeName"]
    node = store.of(NODES).records.get(("", name))
    if node is None:
        raise not_found(PODS, name)  # so it says: the node's name, as that of a pod
    if not is_ready(node.obj):
        addresses = node.obj["status"].get("addresses", ())
        host = next((one["address"] for one in addresses if one["type"] == "InternalIP"), name)
        passed_on = urlencode(sorted((key, query[key]) for key in _PASSED_ON if key in query))
        url = f"https://{host}:{_KUBELET_PORT}/containerLogs/{'/'.join(pod.key)}/{container}"
        trouble = f"dial tcp {host}:{_KUBELET_PORT}: connect: connection refused"
        raise StatusError(500, "", f'Get "{url}{"?" if passed_on else ""}{passed_on}": {trouble}')


def _check_started(pod: Record, container: str) -> None:
    status = pod.obj["status"]
    entries: list[Json] = status.get("containerStatuses", []) + status.get("initContainerStatuses", [])
    entry: Json = next(
        (one for one in entries if one["name"] == container), {"state": {"waiting": {}}, "lastState": {}}
    )
    if "waiting" in entry["state"] and not entry["lastState"]:
        reason = entry["state"]["waiting"].get("reason", "ContainerCreating")
        why = "trying and failing to pull image" if reason in _PULL_FAILURES else reason
        raise bad_request(f'container "{container}" in pod "{pod.key[1]}" is waiting to start: {why}')
