"""Deletes objects: pods with grace, namespaces with their content, others at once."""

from __future__ import annotations

from functools import partial

from stackd.embedded.nodes import is_terminal
from stackd.embedded.resources import ALL, EVENTS, NAMESPACES, NODES, PODS, Json
from stackd.embedded.schema import pod_condition
from stackd.embedded.store import ObjectChange, ObjectStore, Record, timestamp


class Deletion:
    """Deletes on request, and finishes deletions that a request began."""

    def __init__(self, store: ObjectStore, *, pod_gc_delay: float) -> None:
        self._store = store
        self._pod_gc_delay = pod_gc_delay
        store.observe(self._follow)

    def delete(self, record: Record, grace: int | None = None) -> Record:
        """Begin the deletion, and complete it if neither grace period nor finalizer delays it; returns the object."""
        if record.resource is PODS:
            return self._delete_pod(record, grace)
        if record.resource is NAMESPACES:
            return self._delete_namespace(record)
        if record.obj["metadata"].get("finalizers"):
            return self._mark(record, 0)
        return self._store.remove(record)

    def finish(self, record: Record) -> Record:
        """Complete a running deletion, unless the object still has finalizers."""
        if record.resource is PODS and record.obj["metadata"].get("deletionGracePeriodSeconds") != 0:
            record = self._mark(record, 0)
        if record.obj["metadata"].get("finalizers"):
            return record
        return self._store.remove(record)

    def _delete_pod(self, pod: Record, grace: int | None) -> Record:
        spec = pod.obj["spec"]
        seconds = spec["terminationGracePeriodSeconds"] if grace is None else max(grace, 0)
        if "nodeName" not in spec or is_terminal(pod.obj):
            seconds = 0
        earlier = pod.obj["metadata"].get("deletionGracePeriodSeconds")
        if earlier is None or seconds < earlier:
            pod = self._mark(pod, seconds)
        if seconds == 0 and not pod.obj["metadata"].get("finalizers"):
            return self._store.remove(pod)
        return pod

    def _mark(self, record: Record, grace: int) -> Record:
        metadata: Json = record.obj["metadata"] | {"deletionTimestamp": timestamp(self._store.clock.now() + grace)}
        metadata["deletionGracePeriodSeconds"] = grace
        if "generation" in metadata and "deletionTimestamp" not in record.obj["metadata"]:
            metadata["generation"] += 1
        return self._store.update(record, metadata=metadata)

    def _delete_namespace(self, record: Record) -> Record:
        metadata = record.obj["metadata"] | {"deletionTimestamp": timestamp(self._store.clock.now())}
        record = self._store.update(record, metadata=metadata, status={"phase": "Terminating"})
        self._store.clock.later(0, partial(self._purge, record.key[1]))
        return record

    def _purge(self, namespace: str) -> None:
        for resource in ALL:
            if resource.namespaced:
                for record in self._store.of(resource).in_namespace(namespace):
                    if "deletionTimestamp" not in record.obj["metadata"]:
                        self.delete(record)
        self._complete(namespace)

    def _complete(self, namespace: str) -> None:
        record = self._store.of(NAMESPACES).records.get(("", namespace))
        kinds = (kind for kind in ALL if kind.namespaced and kind is not EVENTS)
        if record is not None and not any(self._store.of(kind).in_namespace(namespace) for kind in kinds):
            for event in self._store.of(EVENTS).in_namespace(namespace):
                self._store.remove(event)
            self._store.remove(record)

    def _follow(self, change: ObjectChange) -> None:
        if change.type != "DELETED":
            return
        namespace, name = change.after.key
        owner = self._store.of(NAMESPACES).records.get(("", namespace))
        if change.after.resource is NODES:
            self._store.clock.later(self._pod_gc_delay, partial(self._collect, name))
        elif owner is not None and "deletionTimestamp" in owner.obj["metadata"]:
            self._store.clock.later(0, partial(self._complete, namespace))

    def _collect(self, node: str) -> None:
        if ("", node) in self._store.of(NODES).records:
            return
        for pod in list(self._store.of(PODS).records.values()):
            if pod.obj["spec"].get("nodeName") == node:
                self._delete_pod(pod if is_terminal(pod.obj) else self._fail(pod), 0)

    def _fail(self, pod: Record) -> Record:
        generation, now = pod.obj["metadata"]["generation"], timestamp(self._store.clock.now())
        why = {"reason": "DeletionByPodGC", "message": "PodGC: node no longer exists"}
        condition = pod_condition("DisruptionTarget", holds=True, since=now, generation=generation, **why)
        status = {"observedGeneration": generation} | pod.obj["status"] | {"phase": "Failed"}
        status["conditions"] = [*status.get("conditions", []), condition]
        return self._store.update(pod, status=status)
