"""Endless list and watch of one kind of object: list → watch → pause → watch …, each watch from the version where the last
one ended; a new list when that version is too old. ``WatchHealth`` is the state of one of them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TypeVar

import aiohttp
from msgspec import json

from stackd.clock import Clock
from stackd.errors import (
    ClusterError,
    ClusterOverloaded,
    ClusterSilent,
    ClusterUnavailable,
    ClusterUnreachable,
    KindNotServed,
    StackdError,
    UnexpectedAnswer,
    VersionExpired,
)
from stackd.kube import wire
from stackd.kube.client import Cluster
from stackd.kube.connection import OBJECT_BYTES
from stackd.kube.objects import readable
from stackd.kube.wire import KINDS, JsonObject, KubeRequest, KubeResponse, error_of
from stackd.workqueue import RetryPolicy

log = logging.getLogger(__name__)
T = TypeVar("T")

IDLE_SECONDS = 90.0
"""After this time without a byte, the watch is restarted from the same version, because what forwards it may have lost it;
the kernel notices a dead connection itself, within ten seconds (``watched_socket``).

Bookmarks come about once a minute, so a shorter time would restart every quiet watch again and again. They come only with a
newer version than the one at which the watch started (Kubernetes 1.36). So on a quiet cluster a watch is silent for all of
this time, and that is no reason to warn."""
WATCH_SECONDS = 300
"""The server is asked to keep a watch open for this time, up to twice as long."""
RETRIES = RetryPolicy(first=0.05, longest=5.0)
"""The longest pause limits a Retry-After, too: stackd sees no changes meanwhile, and a watch is only one request."""
# After a watch of at least this length the back-off starts again, however it ended.
_GOOD_SECONDS = 1.0
# A watch that stays open this long without an event counts as connected. An open response alone proves little, because a
# proxy can give one, too. But a proxy ends it at once or sends nonsense.
_STANDING_SECONDS = 0.25
MISSED_SECONDS = 2.0
"""How long a reopened watch may take to report what was missed."""
_EVENTS = frozenset({"ADDED", "MODIFIED", "DELETED", "BOOKMARK"})


class WatchHealth:
    """The state of one watch; times on the monotonic clock.

    ``disconnected_since``  None while connected
    ``served``              whether the API server knows the kind, as far as is known
    ``open_seconds``        for how long the last connection was open
    ``version``             all that happened up to this resourceVersion was reported, and the watch continues from it;
                            empty: list first
    ``expired``             the version that was too old for the server, so that the last list was needed; empty: none was
    ``outdated``            a list is needed, although the watch could go on
    ``failed`` is called each time that the connection is lost or cannot be made, ``restored`` when it is back.
    """

    def __init__(
        self,
        kind: str,
        clock: Clock,
        failed: Callable[[], None] = lambda: None,
        restored: Callable[[], None] = lambda: None,
    ) -> None:
        self.kind = kind
        self._now = clock.monotonic
        self._failed = failed
        self._restored = restored
        self._last_good = self._now()
        self.disconnected_since: float | None = self._last_good
        self.last_error, self.served, self.outdated = "", True, False
        self.open_seconds = 0.0
        self.version = self.expired = ""
        self._missed: tuple[float, int] | None = None
        self._content: aiohttp.StreamReader | None = None
        self.relists = self.restarts = self.bookmarks = self.events = 0

    @property
    def connected(self) -> bool:
        """Whether the watch has a connection, and its events are not held back as far as is known."""
        return self.disconnected_since is None and not self.withheld

    @property
    def withheld(self) -> bool:
        """Whether the watch opens, but for some time has reported nothing of what Kubernetes has."""
        at, events = self._missed or (self._now(), -1)
        return events == self.events and self._now() - at >= MISSED_SECONDS

    def staleness(self) -> float:
        """Seconds since the last sign of life."""
        return self._now() - self._last_good

    def beat(self) -> None:
        """Note a sign of life: a list, an event, or a watch that stays open."""
        self._last_good = self._now()
        self.served = True
        if self.disconnected_since is not None:
            away = self._last_good - self.disconnected_since
            if self.last_error:
                log.info("watch of %s is back after %.1f s", self.kind, away)
            self.disconnected_since, self.last_error = None, ""
            self._restored()

    def lost(self, error: StackdError) -> None:
        """Note that the connection, or the attempt to make one, failed. Logged once per outage."""
        if self.disconnected_since is None:
            self.disconnected_since = self._now()
        if not self.last_error:
            detail = f" ({error.excerpt})" if isinstance(error, UnexpectedAnswer) and error.excerpt else ""
            log.warning("watch of %s is interrupted: %s%s", self.kind, error, detail)
        self.last_error, self.served = str(error), not isinstance(error, KindNotServed)
        self._failed()

    def listed(self, version: str) -> None:
        """Note a list, which has all that the watch may have missed."""
        self.version, self._missed = version, None

    def missed(self) -> None:
        """Note that the watch has not reported an object that Kubernetes has."""
        if self._missed is None or self._missed[1] != self.events:
            self._missed = (self._now(), self.events)

    @contextmanager
    def reading(self, response: aiohttp.ClientResponse) -> Iterator[None]:
        """Within the block, the watch reads from this response; ``reconnect`` can interrupt it."""
        self._content, opened = response.content, self._now()
        standing = asyncio.get_running_loop().call_later(_STANDING_SECONDS, self.beat)
        try:
            yield
        finally:
            standing.cancel()
            self._content, self.open_seconds = None, self._now() - opened

    def list_again(self) -> None:
        """Read the list again: parts of it were not kept."""
        self.outdated = True
        self.reconnect()

    def reconnect(self) -> None:
        """Interrupt the connection, which may be dead: the watch restarts over another one from the same version."""
        if self._content is not None:
            self._content.set_exception(TimeoutError())


async def endless(
    cluster: Cluster, listing: KubeRequest, parse: Callable[[JsonObject], T], health: WatchHealth
) -> AsyncGenerator[list[T] | tuple[T, bool], None]:
    """Yields a list, and every change after it: the object as it is now, or its last state, and whether it is gone.

    Without end; after a gap, a new list. ``listing`` is the request for the list, ``parse`` reads one object.
    """
    tries = 0
    health.version = health.expired = ""
    contact, kind = cluster.connection.contact, listing.resource
    while True:
        retry_after, began, events, health.open_seconds = 0, contact.now(), health.events, 0.0
        try:
            async with aclosing(_once(cluster, listing, parse, health)) as news:
                async for event in news:
                    yield event
        except VersionExpired as exc:
            log.info("watch of %s: listing again: %s", kind, exc)
            health.version, health.expired = "", health.version or health.expired
            health.relists += 1
        except ClusterSilent as exc:
            log.debug("watch of %s: %s; asking again", kind, exc)
            health.restarts += 1
            continue
        except (ClusterError, ClusterUnavailable) as exc:
            health.lost(exc)
            if isinstance(exc, ClusterOverloaded):
                retry_after = exc.retry_after
            elif isinstance(exc, ClusterUnreachable):
                contact.failed(began, str(exc))
        health.restarts += 1
        if health.open_seconds >= _GOOD_SECONDS or health.events > events:
            tries = 0
        tries += 1
        await contact.pause(max(RETRIES.delay(tries), min(retry_after, RETRIES.longest)))


async def _once(
    cluster: Cluster, listing: KubeRequest, parse: Callable[[JsonObject], T], health: WatchHealth
) -> AsyncGenerator[list[T] | tuple[T, bool], None]:
    """The list, if there is no version yet, and the changes of one connection, until the server ends it.

    Raises VersionExpired when the version is too old, ClusterUnavailable for everything that a reconnect may fix.
    """
    kind, before = listing.resource, health.events + health.bookmarks
    if health.outdated:
        health.version, health.expired, health.outdated = "", health.version or health.expired, False
    if not health.version:
        items, version = await cluster.everything(listing, parse)
        health.beat()
        health.listed(version)
        yield items
    call = _watch(listing, health.version)
    async with cluster.connection.stream(call, idle=IDLE_SECONDS) as response:
        with health.reading(response):
            async for line in _lines(response.content, kind):
                event, raw = _event(call, line)
                health.beat()
                cluster.connection.contact.heard()
                if event == "BOOKMARK":
                    health.bookmarks += 1
                else:
                    item = readable(kind, parse, raw)
                    health.events += 1
                    yield item, event == "DELETED"
                # Only now: an event that cannot be read, or was not passed on, is requested again.
                health.version = raw["metadata"]["resourceVersion"]
    if health.open_seconds < _GOOD_SECONDS and health.events + health.bookmarks == before:
        raise UnexpectedAnswer(f"the watch of {kind} ended as soon as it was opened")


def _watch(listing: KubeRequest, version: str) -> KubeRequest:
    # Random, so that not all watches of all clients end at the same moment.
    seconds = str(round(WATCH_SECONDS * random.uniform(1.0, 2.0)))
    params = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": seconds}
    return replace(listing, verb="watch", params={**listing.params, **params})


async def _lines(content: aiohttp.StreamReader, kind: str) -> AsyncGenerator[bytes, None]:
    """The lines of one connection, until the server ends it. Raises UnexpectedAnswer if it ends within a line."""
    rest = b""
    while chunk := await content.readany():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in filter(bytes.strip, lines):
            yield line
        if len(rest) > OBJECT_BYTES:
            raise _unreadable(kind, f"an event has more than {OBJECT_BYTES >> 20} MiB", rest)
    if rest.strip():
        raise _unreadable(kind, "it ends in the middle of an event", rest)


def _event(call: KubeRequest, line: bytes) -> tuple[str, JsonObject]:
    """The event in the line: its type and the object (of a bookmark, only a resourceVersion).

    Raises the error that an ERROR event means, and UnexpectedAnswer if it is no event.
    """
    try:
        document = json.decode(line)
    except (ValueError, RecursionError) as exc:
        raise _unreadable(call.resource, "a line is no JSON", line) from exc
    kind, raw = (document.get("type"), document.get("object")) if isinstance(document, dict) else (None, None)
    if not isinstance(raw, dict) or (kind not in _EVENTS and kind != "ERROR"):
        raise _unreadable(call.resource, "a line is no event", line)
    if kind == "ERROR" and (status := wire.read_status(raw)) is not None:
        raise error_of(call, KubeResponse(status=status.code or 500, body=json.encode(raw)))
    expected, metadata = KINDS[call.resource], raw.get("metadata")
    if kind == "ERROR" or not wire.is_a(expected, raw):
        raise _unreadable(call.resource, f"an event is not about a {expected.name}", line)
    if not isinstance(metadata, dict) or not wire.is_version(metadata.get("resourceVersion")):
        raise _unreadable(call.resource, "an event has no resourceVersion", line)
    return kind, raw


def _unreadable(kind: str, fault: str, line: bytes) -> UnexpectedAnswer:
    # A part of an object is not quoted: it may hold a stack's generated values.
    page = repr(line[: wire.SHOWN_BYTES]) if line.lstrip().startswith(b"<") else f"{len(line)} bytes"
    return UnexpectedAnswer(f"the watch of {kind} cannot be read: {fault}", page)
