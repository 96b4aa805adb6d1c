"""Watches: which changes one client sees, as lines of JSON. Knows no HTTP library: a `Watch` yields bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import orjson

from stackd.embedded.resources import PODS, Json, Resource
from stackd.embedded.selectors import Selector
from stackd.embedded.status import expired
from stackd.embedded.store import ChangeType, Collection, ObjectChange, watch_line


class Watch:
    """One client's view of a collection. Registered by `open`, and taken off by `close`."""

    def __init__(self, collection: Collection, namespace: str, selector: Selector, *, bookmarks: bool) -> None:
        self.collection = collection
        self.namespace = namespace
        self.selector = selector
        self.bookmarks = bookmarks
        self.frozen = False
        """Half-open: says nothing any more, and stays connected."""
        self.slowness = 0.0
        """Seconds over which each chunk is sent, a few bytes at a time."""
        self.closed = False
        self._lines: list[bytes] = []
        self._woken = asyncio.Event()

    def open(self, revision: int | None) -> None:
        """Begin after the revision; without one, with the current state as ADDED events."""
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
        self.collection.listeners.add(self)

    def close(self) -> None:
        """See nothing more; the iteration ends."""
        self.collection.listeners.discard(self)
        self.closed = True
        self._woken.set()

    def offer(self, change: ObjectChange) -> None:
        """Keep the line if the change concerns this client."""
        kind = self._seen_as(change)
        if kind is not None:
            self._lines.append(change.line(kind))
            self._woken.set()

    def thaw(self) -> None:
        """Be half-open or slow no more, and say what was kept back."""
        self.frozen, self.slowness = False, 0.0
        self._woken.set()

    def inject(self, line: bytes) -> None:
        """Send these bytes as if they were an event."""
        self._lines.append(line)
        self._woken.set()

    async def chunks(self, interval: float, timeout: float, revision: Callable[[], int]) -> AsyncIterator[bytes]:
        """The events as they come, several lines at once when they do, with a bookmark each `interval` seconds."""
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
                    yield bookmark(self.collection.resource, revision())
                if now >= end:
                    return
            await self._wait(min(end, due) if self.bookmarks else end)

    async def _wait(self, until: float) -> None:
        self._woken.clear()
        if (self._lines and not self.frozen) or self.closed:
            return
        try:
            async with asyncio.timeout_at(until):
                await self._woken.wait()
        except TimeoutError:
            return

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


def bookmark(resource: Resource, revision: int) -> bytes:
    """The event that only carries a resourceVersion."""
    empty: Json = {"metadata": {"resourceVersion": str(revision)}, "spec": {}, "status": {}}
    if resource is PODS:
        empty["spec"] = {"containers": None}
    return watch_line("BOOKMARK", resource.head + orjson.dumps(empty)[1:])
