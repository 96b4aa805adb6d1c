"""The objects of stacks as the version before made them: the record on the pod, or in a ConfigMap while it had none.

The Service belonged to the pod, and a stopped stack had none. Of stacks without generated values.
"""

from __future__ import annotations

import json
from typing import Any

from stackd.embedded import EmbeddedCluster
from stackd.embedded.resources import CONFIG_MAPS, PODS, SERVICES

RECORD, EXPIRES, GENERATION, DESIRED = (
    f"stackd.io/{name}" for name in ("record", "expires-at", "generation", "desired")
)


def as_version_before(cluster: EmbeddedCluster) -> None:
    """Turn all stacks in the cluster into such objects."""
    pods = cluster.store.of(PODS)
    for service in list(cluster.store.of(SERVICES).records.values()):
        metadata = service.obj["metadata"]
        notes = dict(metadata.get("annotations") or {})
        if RECORD not in notes:
            continue  # somebody else's
        stack_id = metadata["labels"]["stackd.io/stack"]
        record, desired = _record(notes), notes.pop(DESIRED)
        pod = pods.records.get(("stacks", stack_id))
        if pod is None and "ended" in json.loads(service.obj["metadata"]["annotations"][RECORD]):
            cluster.store.remove(service)
            continue
        if desired != "running" or pod is None:
            wanted = "running" if desired == "starting" else desired
            _config_map(cluster, stack_id, metadata["labels"], _notes(notes, record) | {DESIRED: wanted})
            cluster.store.remove(service)
            continue
        own = _notes(notes, record)
        kept = {key: value for key, value in pod.obj["metadata"].get("annotations", {}).items() if key != GENERATION}
        cluster.store.update(pod, metadata=pod.obj["metadata"] | {"annotations": kept | own})
        if service.obj["spec"]["type"] == "ClusterIP":  # a stack that had ended had none
            cluster.store.remove(service)
            continue
        owner = {"apiVersion": "v1", "kind": "Pod", "name": stack_id, "uid": pod.uid}
        cluster.store.update(
            service,
            metadata={key: value for key, value in metadata.items() if key != "annotations"}
            | {"ownerReferences": [owner]},
            spec=service.obj["spec"] | {"selector": {"stackd.io/stack": stack_id}},
        )


def _record(notes: dict[str, str]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(notes[RECORD]) | {"version": 1}
    for later in ("node", "address", "ended"):
        record.pop(later, None)
    if int(notes[GENERATION]):
        record["generation"] = int(notes[GENERATION])
    return record


def _notes(notes: dict[str, str], record: dict[str, Any]) -> dict[str, str]:
    own = {RECORD: json.dumps(record), EXPIRES: notes[EXPIRES]}
    return own | ({GENERATION: notes[GENERATION]} if notes[GENERATION] != "0" else {})


def _config_map(cluster: EmbeddedCluster, name: str, labels: dict[str, str], notes: dict[str, str]) -> None:
    metadata = {"name": name, "namespace": "stacks", "labels": labels, "annotations": notes}
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    cluster.store.create(CONFIG_MAPS, cluster.store.prepare(CONFIG_MAPS, "stacks", made))
