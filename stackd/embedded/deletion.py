"""Deletes objects: pods with grace, namespaces with their content, dependents after their owner, others at once."""

from __future__ import annotations

from functools import partial

from stackd.embedded.nodes import is_terminal
from stackd.embedded.resources import ALL, BY_KIND, EVENTS, NAMESPACES, NODES, PODS, Json, Resource
from stackd.embedded.schema import pod_condition
from stackd.embedded.store import Key, ObjectChange, ObjectStore, Record, timestamp


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


class GarbageCollector:
    """Deletes objects whose owners (ownerReferences) are gone; owners are identified by uid, not by name."""

    def __init__(self, store: ObjectStore, deletion: Deletion, *, delay: float) -> None:
        self._store = store
        self._deletion = deletion
        self._delay = delay
        self._dependents: dict[str, set[tuple[Resource, Key]]] = {}
        """What the owner with this uid owns."""
        store.observe(self._follow)

    def adopt(self) -> None:
        for resource in ALL:
            for record in self._store.of(resource).records.values():
                self._see(record)

    def _follow(self, change: ObjectChange) -> None:
        if change.type != "DELETED":
            self._see(change.after)
            return
        for resource, key in self._dependents.pop(change.after.uid, ()):
            self._store.clock.later(self._delay, partial(self._collect, resource, key))

    def _see(self, record: Record) -> None:
        for owner in _owners(record.obj):
            self._dependents.setdefault(owner["uid"], set()).add((record.resource, record.key))
        if self._is_orphan(record):
            self._store.clock.later(self._delay, partial(self._collect, record.resource, record.key))

    def _collect(self, resource: Resource, key: Key) -> None:
        record = self._store.of(resource).records.get(key)
        if record is not None and "deletionTimestamp" not in record.obj["metadata"] and self._is_orphan(record):
            self._deletion.delete(record)

    def _is_orphan(self, record: Record) -> bool:
        owners = _owners(record.obj)
        return bool(owners) and not any(self._is_there(record, owner) for owner in owners)

    def _is_there(self, record: Record, owner: Json) -> bool:
        resource = BY_KIND[owner["apiVersion"], owner["kind"]]
        namespace = record.key[0] if resource.namespaced else ""
        current = self._store.of(resource).records.get((namespace, owner["name"]))
        return current is not None and current.uid == owner["uid"]


def _owners(obj: Json) -> list[Json]:
    owners: list[Json] = obj["metadata"].get("ownerReferences") or []
    return owners
