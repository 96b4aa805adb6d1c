"""Event objects about pods, as scheduler and kubelet write them. Keeps only the latest ones."""

from __future__ import annotations

from collections import OrderedDict

from stackd.embedded.resources import EVENTS, Json
from stackd.embedded.store import Key, ObjectStore, Record, micro_timestamp, timestamp

_SCHEDULER = "default-scheduler"
_KUBELET = "kubelet"


class EventRecorder:
    """Writes events; a repeated event only increments its count."""

    def __init__(self, store: ObjectStore, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._known: OrderedDict[tuple[str, str, str], Key] = OrderedDict()
        self._serial = 0

    def scheduling(self, pod: Record, kind: str, reason: str, message: str, action: str) -> None:
        """Write an event from the scheduler."""
        by = {"reportingComponent": _SCHEDULER, "reportingInstance": f"{_SCHEDULER}-embedded", "source": {}}
        times: Json = {"firstTimestamp": None, "lastTimestamp": None}
        times["eventTime"] = micro_timestamp(self._store.clock.now())
        self._write(pod, _about(pod), reason, message, {"type": kind, "action": action} | by | times)

    def kubelet(self, pod: Record, kind: str, reason: str, message: str, container: str = "") -> None:
        """Write an event from the kubelet of the pod's node, about `container` if given."""
        about, node = _about(pod), pod.obj["spec"]["nodeName"]
        if container:
            about["fieldPath"] = f"spec.containers{{{container}}}"
        by = {"reportingComponent": _KUBELET, "reportingInstance": node}
        times = dict.fromkeys(("firstTimestamp", "lastTimestamp"), timestamp(self._store.clock.now()))
        fields = {"type": kind, "count": 1, "source": {"component": _KUBELET, "host": node}, "eventTime": None}
        self._write(pod, about, reason, message, fields | by | times)

    def _write(self, pod: Record, about: Json, reason: str, message: str, fields: Json) -> None:
        identity = (pod.uid, reason, message)
        known = self._store.of(EVENTS).records.get(self._known.get(identity, ("", "")))
        if known is not None:
            self._again(known)
            return
        self._serial += 1
        stamp = int(self._store.clock.now() * 1_000_000) * 1000 + self._serial % 1000
        namespace, name = pod.key
        event = {"metadata": {"name": f"{name}.{stamp:x}"}, "involvedObject": about, "reason": reason}
        event |= {"message": message} | fields
        record = self._store.create(EVENTS, self._store.prepare(EVENTS, namespace, event))
        self._known[identity] = record.key
        self._trim()

    def _again(self, known: Record) -> None:
        now = self._store.clock.now()
        if known.obj["eventTime"] is None:
            self._store.update(known, count=known.obj["count"] + 1, lastTimestamp=timestamp(now))
            return
        series = {"count": known.obj.get("series", {}).get("count", 1) + 1, "lastObservedTime": micro_timestamp(now)}
        self._store.update(known, series=series)

    def _trim(self) -> None:
        events = self._store.of(EVENTS)
        while len(self._known) > self._limit:
            _, key = self._known.popitem(last=False)
            if (record := events.records.get(key)) is not None:
                self._store.remove(record)


def _about(pod: Record) -> Json:
    namespace, name = pod.key
    return {
        "kind": "Pod",
        "namespace": namespace,
        "name": name,
        "uid": pod.uid,
        "apiVersion": "v1",
        "resourceVersion": str(pod.revision),
    }
