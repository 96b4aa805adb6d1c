"""The log subresource of pods: what containers have written, or why there is nothing to read."""

from __future__ import annotations

from collections.abc import Mapping

from stackd.embedded.defaults import containers
from stackd.embedded.kubelet import Kubelet
from stackd.embedded.request import whole_number
from stackd.embedded.resources import PODS, Json
from stackd.embedded.status import bad_request
from stackd.embedded.store import ObjectStore, Record

_PULL_FAILURES = {"ErrImagePull", "ImagePullBackOff"}


def read_log(store: ObjectStore, kubelet: Kubelet, namespace: str, name: str, query: Mapping[str, str]) -> bytes:
    """The text. Raises ApiError 400 or 404."""
    pod = store.of(PODS).get(namespace, name)
    container = _choose(pod, query.get("container", ""))
    if "nodeName" not in pod.obj["spec"]:
        raise bad_request(f"pod {name} does not have a host assigned")
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
