"""Lists and watches: what a client reads of a collection at one revision, and the later changes that it sees.

Owns: selection, pages and continue tokens, and a watch's events as lines of JSON. Uses no HTTP library: a `Watch`
yields bytes.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from itertools import islice

import orjson

from stackd.embedded.request import EVERYTHING, RequestInfo, Selector, parse, whole_number
from stackd.embedded.resources import PODS, Json, Resource, bad_request, expired
from stackd.embedded.store import ChangeType, Collection, Key, ObjectChange, ObjectStore, Record, watch_line

_TOKEN_VERSION = "meta.k8s.io/v1"
_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


def list_objects(collection: Collection, now: int, target: RequestInfo, query: Mapping[str, str]) -> bytes:
    """The body of the response at revision ``now``. Raises StatusError 400 or 410."""
    selector = parse(target.resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))
    limit = whole_number(query, "limit") or 0
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
    return orjson.dumps(head)[:-1] + b',"items":[' + b",".join(record.body() for record in page) + b"]}"


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

    def open(self, revision: int | None) -> None:
        """Begin after the revision; without one, begin with the current state as ADDED events."""
        if revision is None:
            for record in self.collection.select(self.namespace, self.selector):
                self._lines.append(watch_line("ADDED", record.alone()))
        elif revision < self.collection.floor:
            error = expired(f"too old resource version: {revision} ({self.collection.floor})")
            self._lines.append(watch_line("ERROR", error.body()))
            self.closed = True
            return
        else:
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
        if not self.selector.tests:
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
    return watch_line("BOOKMARK", resource.head + orjson.dumps(empty)[1:])


def _token(revision: int, last: Key) -> str:
    start = "/".join(part for part in last if part) + "\0"
    token = orjson.dumps({"v": _TOKEN_VERSION, "rv": revision, "start": f"/{start}", "key": last})
    return base64.urlsafe_b64encode(token).decode().rstrip("=")


def _read_token(text: str, collection: Collection, now: int) -> tuple[Key | None, int]:
    if not text:
        return None, now
    try:
        token = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        namespace, name = token["key"]
        revision = int(token["rv"])
    except (binascii.Error, ValueError, KeyError, TypeError) as exc:
        raise bad_request("continue key is not valid: " + str(exc)) from exc
    if revision < 0:
        return (namespace, name), now
    if revision < collection.floor:
        error = expired(_TOO_OLD)
        error.metadata = {"continue": _token(-1, (namespace, name))}
        raise error
    return (namespace, name), revision
