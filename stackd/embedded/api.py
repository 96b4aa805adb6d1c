"""The API's verbs on stored objects, from requests to response bodies; lists, watches, and the logs of pods.

Uses no HTTP library: a `Watch` yields bytes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from itertools import islice
from urllib.parse import urlencode

from msgspec import json

from stackd.embedded.admission import Admission
from stackd.embedded.deletion import Deletion
from stackd.embedded.kubelet import output
from stackd.embedded.nodes import address_of, is_ready
from stackd.embedded.request import EVERYTHING, RequestInfo, Selector, integer, selector_of
from stackd.embedded.resources import (
    LEASES,
    NODES,
    PODS,
    Json,
    Resource,
    StatusError,
    already_exists,
    bad_request,
    conflict,
    invalid,
    merged,
    not_found,
    wrong,
)
from stackd.embedded.schema import containers, decode, pod_status
from stackd.embedded.store import ChangeType, Collection, Key, ObjectChange, ObjectStore, Record, watch_line

_FIXED = ("name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp")
_OBJECT_MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"
Query = Mapping[str, str]


class Registry:
    """Reads, creates, changes and deletes objects."""

    def __init__(self, store: ObjectStore, admission: Admission, deletion: Deletion) -> None:
        self._store = store
        self._admission = admission
        self._deletion = deletion

    def get(self, target: RequestInfo) -> bytes:
        """The object. Raises StatusError 404."""
        return self._current(target).alone()

    def _current(self, target: RequestInfo) -> Record:
        return self._store.of(target.resource).get(target.namespace, target.name)

    def create(self, target: RequestInfo, query: Query, body: bytes) -> bytes:
        """Create the object; returns it as stored, or with a dry run as it would be. Raises StatusError."""
        raw: Json = json.decode(body)
        if _metadata(raw).get("resourceVersion"):
            raise StatusError(500, "", "resourceVersion should not be set on objects to be created")
        return self._add(target, query, raw)

    def _add(self, target: RequestInfo, query: Query, raw: Json) -> bytes:
        resource, namespace = target.resource, target.namespace
        obj = self._admission.for_create(resource, namespace, decode(resource, raw), dry_run="dryRun" in query)
        prepared = self._store.prepare(resource, namespace, obj)
        if "dryRun" not in query:
            return self._store.create(resource, prepared).alone()
        name = prepared["metadata"]["name"]
        if (namespace, name) in self._store.of(resource).records:
            raise already_exists(resource, name)
        return Record(resource, ("", ""), prepared, 0).alone()

    def patch(self, target: RequestInfo, query: Query, body: bytes) -> bytes:
        """Apply a merge patch to the object; returns the new version. Raises StatusError."""
        before = self._current(target)
        patch = json.decode(body)
        head = {"kind": target.resource.kind, "apiVersion": target.resource.api_version}
        return self._replace(target, query, before, merged(head | before.obj, patch))

    def update(self, target: RequestInfo, query: Query, body: bytes) -> tuple[int, bytes]:
        """Replace the object; returns 200 and the new version, or 201 if it was created. Raises StatusError."""
        raw, resource = json.decode(body), target.resource
        if (name := _metadata(raw).get("name", "")) != target.name:
            raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({target.name})")
        if resource.create_on_update and (target.namespace, name) not in self._store.of(resource).records:
            _check_uid(target, raw, "")
            return 201, self._add(target, query, raw)
        before = self._current(target)
        _check_uid(target, raw, before.uid)
        if not resource.unconditional_update and not _metadata(raw).get("resourceVersion"):
            raise _version_required(before)
        return 200, self._replace(target, query, before, raw)

    def delete(self, target: RequestInfo, query: Query, body: bytes) -> bytes:
        """Delete the object; returns it or a Status, as Kubernetes does for its kind. Raises StatusError 404 or 409."""
        record = self._current(target)
        options = json.decode(body or b"{}")
        _check_preconditions(record, options.get("preconditions") or {})
        remains = False
        if "dryRun" not in query and not options.get("dryRun"):
            record = self._deletion.delete(record, options.get("gracePeriodSeconds"))
            remains = record.key in self._store.of(record.resource).records
        return record.alone() if remains or record.resource.returns_deleted else _deleted_status(record)

    def _replace(self, target: RequestInfo, query: Query, before: Record, raw: Json) -> bytes:
        resource = target.resource
        obj = decode(resource, raw)
        _check_version(before, obj["metadata"])
        parts, gone = _changes(target, before, obj), _left_out(target, before, obj)
        if not target.subresource:
            complete = {key: value for key, value in (before.obj | parts).items() if key not in gone}
            parts = self._admission.for_update(before, complete)
            gone -= parts.keys()  # a default replaces the part
        if resource.generation and parts.get("spec", before.obj.get("spec")) != before.obj.get("spec"):
            generation = before.obj["metadata"].get("generation", 0) + 1
            parts["metadata"] = parts["metadata"] | {"generation": generation}
        if "dryRun" in query:
            kept = {key: value for key, value in before.obj.items() if key not in gone}
            return Record(resource, before.key, kept | parts, before.revision).alone()
        record = self._store.update(before, gone=gone, **parts)
        if record is not before and record.obj["metadata"].get("deletionGracePeriodSeconds") == 0:
            record = self._deletion.finish(record)
        return record.alone()


def _changes(target: RequestInfo, before: Record, obj: Json) -> Json:
    """The parts of the object that the request may change."""
    old = before.obj["metadata"]
    metadata = {key: value for key, value in obj["metadata"].items() if key not in _FIXED}
    metadata |= {key: old[key] for key in (*_FIXED, "deletionGracePeriodSeconds", "resourceVersion") if key in old}
    if "labels" in old and metadata.get("labels") == old["labels"]:
        metadata["labels"] = old["labels"]  # indexes compare labels by identity
    if target.subresource == "status":
        status: Json = obj.get("status") or before.obj.get("status") or {}
        return {"metadata": metadata, "status": pod_status(status) if before.resource is PODS else status}
    return {"metadata": metadata} | {k: v for k, v in obj.items() if k not in {"metadata", "status"}}


def _left_out(target: RequestInfo, before: Record, obj: Json) -> set[str]:
    """The parts of the object that a PUT removes because it leaves them out."""
    kept = {"metadata", "status"} | (set() if target.resource is LEASES else {"spec"})
    return set() if target.subresource else before.obj.keys() - obj.keys() - kept


def _metadata(raw: Json) -> Json:
    metadata = raw.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _check_uid(target: RequestInfo, raw: Json, uid: str) -> None:
    """Raise StatusError 409 if the update carries another uid than ``uid``, which is empty if the object is gone."""
    expected = _metadata(raw).get("uid")
    if expected and expected != uid:
        key = "/".join(part for part in ("/registry", target.resource.plural, target.namespace, target.name) if part)
        problem = f"Precondition failed: UID in precondition: {expected}, UID in object meta: {uid}"
        message = (
            f"StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {problem}"
        )
        raise conflict(target.resource, target.name, message)


def _version_required(before: Record) -> StatusError:
    resource, name = before.resource, before.key[1]
    cause = wrong("metadata.resourceVersion", 0, "must be specified for an update")
    error = invalid(resource, name, [cause])
    # Only this refusal names the resource instead of the kind.
    error.message = f'{resource.qualified} "{name}" is invalid: {cause.field}: {cause.message}'
    if error.details is not None:
        error.details["kind"] = resource.plural
    return error


def _check_version(before: Record, metadata: Json) -> None:
    version, uid = metadata.get("resourceVersion"), metadata.get("uid")
    if version and version != str(before.revision):
        raise conflict(before.resource, before.key[1], _OBJECT_MODIFIED)
    if uid and uid != before.uid:  # only in a patch; the uid of a PUT is a precondition
        raise invalid(before.resource, before.key[1], 2 * [wrong("metadata.uid", uid, "field is immutable")])


def _check_preconditions(record: Record, conditions: Json) -> None:
    for field, name, actual, hint in (
        ("uid", "UID", record.uid, "deleted and then recreated"),
        ("resourceVersion", "ResourceVersion", str(record.revision), "modified"),
    ):
        if (expected := conditions.get(field)) and expected != actual:
            message = (
                f"the {name} in the precondition ({expected}) does not match the {name} in record ({actual}). "
                f"The object might have been {hint}"
            )
            raise conflict(record.resource, record.key[1], message, kind=record.resource.kind)


def _deleted_status(record: Record) -> bytes:
    resource = record.resource
    details = {"name": record.key[1], "group": resource.group, "kind": resource.plural, "uid": record.uid}
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return json.encode(status | {"details": {key: value for key, value in details.items() if value}})


# ---- lists and watches: what a client reads of a collection at one revision, and the later changes that it sees


def list_objects(collection: Collection, now: int, target: RequestInfo, query: Query) -> bytes:
    """The body of the response at revision ``now``. Raises StatusError 410."""
    selector = selector_of(query)
    limit = integer(query, "limit") or 0
    after, revision = _read_token(query.get("continue", ""), collection, now)
    records: Iterable[Record] = collection.select(target.namespace, selector, after)
    page = list(islice(records, limit)) if limit else list(records)
    more = sum(1 for _ in records) if limit else 0
    metadata: Json = {"resourceVersion": str(revision)}
    if more:
        metadata["continue"] = _token(revision, page[-1].key)
        if selector is EVERYTHING:
            metadata["remainingItemCount"] = more
    head = {"kind": f"{target.resource.kind}List", "apiVersion": target.resource.api_version, "metadata": metadata}
    return json.encode(head)[:-1] + b',"items":[' + b",".join(record.body() for record in page) + b"]}"


class Watch:
    """One client's view of a collection. `open` registers it, `close` removes it."""

    def __init__(self, collection: Collection, namespace: str, selector: Selector, *, bookmarks: bool) -> None:
        self.collection = collection
        self.namespace = namespace
        self.selector = selector
        self.bookmarks = bookmarks
        self.frozen = False
        """Half-open: sends nothing any more, but stays connected."""
        self.slowness = 0.0
        """The seconds over which each chunk is sent, a few bytes at a time."""
        self.closed = False
        self._lines: list[bytes] = []
        self._woken = asyncio.Event()

    def open(self, revision: int) -> None:
        """Begin after the revision."""
        if revision < self.collection.floor:
            error = StatusError(410, "Expired", f"too old resource version: {revision} ({self.collection.floor})")
            self._lines.append(watch_line("ERROR", error.body()))
            self.closed = True
            return
        for change in self.collection.since(revision):
            self.offer(change)
        self.collection.listeners.add(self.offer)

    def close(self) -> None:
        """Stop receiving changes, and end the iteration."""
        self.collection.listeners.discard(self.offer)
        self.closed = True
        self._woken.set()

    def offer(self, change: ObjectChange) -> None:
        """Queue the change's line if this client sees the change."""
        kind = self._seen_as(change)
        if kind is not None:
            self._lines.append(change.line(kind))
            self._woken.set()

    def thaw(self) -> None:
        """Stop being half-open or slow, and send the queued events."""
        self.frozen, self.slowness = False, 0.0
        self._woken.set()

    def inject(self, line: bytes) -> None:
        """Send the bytes as if they were an event."""
        self._lines.append(line)
        self._woken.set()

    async def chunks(self, interval: float, timeout: float, store: ObjectStore) -> AsyncIterator[bytes]:
        """Yields the events as they come, waiting lines together, and a bookmark every `interval` seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        due = loop.time() + interval
        while True:
            if self._lines and not self.frozen:
                lines, self._lines = self._lines, []
                yield b"".join(lines)
            if self.closed:
                return
            now = loop.time()
            if now >= end or (self.bookmarks and now >= due):
                due = now + interval
                if self.bookmarks and not self.frozen and not self._lines:  # a bookmark never overtakes an event
                    yield _bookmark(self.collection.resource, store.revision)
                if now >= end:
                    return
            await self._wait(min(end, due) if self.bookmarks else end)

    async def _wait(self, until: float) -> None:
        self._woken.clear()
        if (self._lines and not self.frozen) or self.closed:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._woken.wait()

    def _seen_as(self, change: ObjectChange) -> ChangeType | None:
        after, before = change.after, change.before
        if self.namespace and after.key[0] != self.namespace:
            return None
        if self.selector is EVERYTHING:
            return change.type
        now = change.type != "DELETED" and self.selector.matches(after.obj)
        then = before is not None and self.selector.matches(before.obj)
        if now:
            return "MODIFIED" if then else "ADDED"
        return "DELETED" if then else None


def _bookmark(resource: Resource, revision: int) -> bytes:
    """The BOOKMARK event, which only carries a resourceVersion."""
    empty: Json = {"metadata": {"resourceVersion": str(revision)}, "spec": {}, "status": {}}
    if resource is PODS:
        empty["spec"] = {"containers": None}
    return watch_line("BOOKMARK", resource.head + json.encode(empty)[1:])


def _token(revision: int, last: Key) -> str:
    return base64.urlsafe_b64encode(json.encode([revision, *last])).decode()


def _read_token(text: str, collection: Collection, now: int) -> tuple[Key | None, int]:
    if not text:
        return None, now
    revision, namespace, name = json.decode(base64.urlsafe_b64decode(text))
    if revision < collection.floor:
        message = "The provided continue parameter is too old to display a consistent list result."
        raise StatusError(410, "Expired", message)
    return (namespace, name), revision


# ---- logs


_PULL_FAILURES = {"ErrImagePull", "ImagePullBackOff"}
_KUBELET_PORT = 10250


def read_log(store: ObjectStore, target: RequestInfo, query: Query) -> bytes:
    """The log of a container. Raises StatusError: 400, 404, or 500 if the pod's node does not answer."""
    pod = store.of(PODS).get(target.namespace, target.name)
    container = query.get("container") or pod.obj["spec"]["containers"][0]["name"]
    if container not in (one["name"] for one in containers(pod.obj["spec"])):
        raise bad_request(f"container {container} is not valid for pod {target.name}")
    if "nodeName" not in pod.obj["spec"]:
        raise bad_request(f"pod {target.name} does not have a host assigned")
    _check_node(store, pod, container, query)
    _check_started(pod, container)
    text = output(pod.obj, container)
    if (lines := integer(query, "tailLines")) is not None:
        text = "".join(text.splitlines(keepends=True)[-lines:]) if lines else ""
    return text.encode()[: integer(query, "limitBytes")]


def _check_node(store: ObjectStore, pod: Record, container: str, query: Query) -> None:
    """The kubelet has the log. Raises StatusError if its node is gone or not ready, as the API server would."""
    name = pod.obj["spec"]["nodeName"]
    node = store.of(NODES).records.get(("", name))
    if node is None:
        raise not_found(PODS, name)  # as Kubernetes: with the node's name as that of a pod
    if not is_ready(node.obj):
        host = f"{address_of(node.obj) or name}:{_KUBELET_PORT}"
        passed_on = urlencode([(key, query[key]) for key in ("limitBytes", "tailLines") if key in query])
        url = f"https://{host}/containerLogs/{'/'.join(pod.key)}/{container}{'?' if passed_on else ''}{passed_on}"
        raise StatusError(500, "", f'Get "{url}": dial tcp {host}: connect: connection refused')


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
