"""Endless list and watch of one kind of object: three generators, one inside the other.

    lines     the lines of one watch connection
    stream    the events of one connection after a resourceVersion; each event counts as a sign of life
    endless   list → watch → pause → watch …, each from the version where the last one ended; a new list when that
              version is too old (``_once`` is one turn of the loop)

Owns: when to list again, when to reconnect and how long to wait first; and ``WatchHealth``, the state of a watch. Does
not know what is kept of the objects or who waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Generic, TypeVar

import aiohttp
import orjson

from stackd.clock import Clock
from stackd.errors import (
    ClusterError,
    ClusterOverloaded,
    ClusterSilent,
    ClusterUnavailable,
    ClusterUnreachable,
    StackdError,
    UnexpectedAnswer,
    VersionExpired,
)
from stackd.kube.caller import Backoff, Caller
from stackd.kube.connection import OBJECT_BYTES
from stackd.kube.responses import SHOWN_BYTES, error_of, is_a, is_version, readable
from stackd.kube.wire import KINDS, JsonObject, KubeRequest, KubeResponse, read_status
from stackd.structs import struct

log = logging.getLogger(__name__)
T = TypeVar("T")

# After a watch of at least this length the back-off starts again, however it ended.
_GOOD_SECONDS = 1.0
# A watch that stays open this long without an event counts as connected.
_STANDING_SECONDS = 0.25
MISSED_SECONDS = 2.0
"""How long a reopened watch may take to report what was missed."""
_INTERNAL = 500
_EVENTS = frozenset({"ADDED", "MODIFIED", "DELETED", "BOOKMARK"})


@struct
class Timings:
    """All in seconds.

    ``idle_limit``     after this time without a byte, the watch is restarted from the same version, because its
                       connection may be dead
    ``watch_seconds``  the server is asked to keep a watch open for this time, up to twice as long
    ``longest_pause``  also limits a Retry-After: stackd sees no changes meanwhile, and a watch is only one request

    Bookmarks come about once a minute, but only with a newer version than the one at which the watch started
    (Kubernetes 1.36). So on a quiet cluster a watch is silent for all of ``idle_limit``, and that is no reason to
    warn.
    """

    idle_limit: float = 30.0
    watch_seconds: int = 300
    first_pause: float = 0.05
    longest_pause: float = 5.0


@struct
class Source(Generic[T]):
    """What is watched: ``call`` is the request for the list, ``parse`` reads one object."""

    kind: str
    call: KubeRequest
    parse: Callable[[JsonObject], T]

    def read(self, raw: JsonObject) -> T:
        """The object. Raises UnexpectedAnswer if the JSON cannot be read as this kind."""
        return readable(self.kind, self.parse, raw)


@struct
class Listed(Generic[T]):
    """All objects at one moment."""

    items: tuple[T, ...]


@struct
class Changed(Generic[T]):
    """One object as it is now, or its last state if it is ``gone``."""

    item: T
    gone: bool


@struct
class WatchEvent:
    """One line of a watch; ``raw`` is the object (for a bookmark, only a resourceVersion)."""

    type: str
    raw: JsonObject

    @property
    def resource_version(self) -> str:
        """The version from which to continue after this event."""
        return str(self.raw["metadata"]["resourceVersion"])


class WatchHealth:
    """The state of one watch. ``disconnected_since`` is on the monotonic clock, None while connected.

    ``failed`` is called each time that the connection is lost or cannot be made, ``restored`` when it is back, with the
    seconds for which it was away.
    """

    def __init__(
        self,
        kind: str,
        clock: Clock,
        failed: Callable[[], None] = lambda: None,
        restored: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.kind = kind
        self._clock = clock
        self._failed = failed
        self._restored = restored
        self._born = clock.monotonic()
        self.last_good: float | None = None
        self.disconnected_since: float | None = self._born
        self.last_error = ""
        self.open_seconds = 0.0
        """For how long the last connection was open."""
        self.version = ""
        """All that happened up to this resourceVersion was reported, and the watch continues from it; empty: list first."""
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
        missed = self._missed
        silent = missed is not None and missed[1] == self.events
        return silent and missed is not None and self._clock.monotonic() - missed[0] >= MISSED_SECONDS

    def beat(self) -> None:
        """Note a sign of life: a list, an event, or a watch that stays open."""
        self.last_good = self._clock.monotonic()
        if self.disconnected_since is not None:
            away = self.last_good - self.disconnected_since
            if self.last_error:
                log.info("watch of %s is back after %.1f s", self.kind, away)
            self.disconnected_since, self.last_error = None, ""
            self._restored(away)

    def lost(self, error: StackdError) -> None:
        """Note that the connection, or the attempt to make one, failed. Logged once per outage."""
        if self.disconnected_since is None:
            self.disconnected_since = self._clock.monotonic()
        if not self.last_error:
            detail = f" ({error.excerpt})" if isinstance(error, UnexpectedAnswer) and error.excerpt else ""
            log.warning("watch of %s is interrupted: %s%s", self.kind, error, detail)
        self.last_error = str(error)
        self._failed()

    def listed(self, version: str) -> None:
        """Note a list, which has all that the watch may have missed."""
        self.version, self._missed = version, None

    def missed(self) -> None:
        """Note that the watch has not reported an object that Kubernetes has."""
        if self._missed is None or self._missed[1] != self.events:
            self._missed = (self._clock.monotonic(), self.events)

    @contextmanager
    def reading(self, response: aiohttp.ClientResponse) -> Iterator[None]:
        """Within the block, the watch reads from this response, and ``reopen`` can interrupt it."""
        self._content, opened = response.content, self._clock.monotonic()
        try:
            yield
        finally:
            self._content, self.open_seconds = None, self._clock.monotonic() - opened

    def reopen(self) -> None:
        """Interrupt the connection, which may be dead: the watch restarts over another one from the same version."""
        if self._content is not None:
            self._content.set_exception(TimeoutError())

    def staleness(self) -> float:
        """Seconds since the last sign of life."""
        since = self._born if self.last_good is None else self.last_good
        return self._clock.monotonic() - since


async def lines(call: KubeRequest, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """The lines until the server ends the response. Raises UnexpectedAnswer if a line is too long, or the last one
    incomplete: a server ends a watch only between two events.
    """
    rest = b""
    while chunk := await response.content.readany():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
        if len(rest) > OBJECT_BYTES:
            raise _unreadable(call.resource, f"an event has more than {OBJECT_BYTES >> 20} MiB", rest)
    if rest.strip():
        raise _unreadable(call.resource, "it ends in the middle of an event", rest)


async def stream(
    caller: Caller, source: Source[T], version: str, health: WatchHealth, timings: Timings
) -> AsyncGenerator[WatchEvent, None]:
    """The events of one connection after ``version``, until the server ends it.

    Raises VersionExpired when the version is too old, ClusterUnavailable for everything that a reconnect may fix.
    """
    call = _watch_call(source, version, timings)
    async with caller.connection.stream(call, idle=timings.idle_limit) as response:
        # An open response alone proves little, because a proxy can give one, too. But a proxy ends it at once or sends
        # nonsense.
        standing = asyncio.get_running_loop().call_later(_STANDING_SECONDS, health.beat)
        try:
            with health.reading(response):
                async with aclosing(lines(call, response)) as received:
                    async for line in received:
                        event = _event(call, line)
                        standing.cancel()
                        health.beat()
                        caller.connection.contact.heard(answer=False)
                        yield event
        finally:
            standing.cancel()


async def endless(
    caller: Caller, source: Source[T], health: WatchHealth, timings: Timings
) -> AsyncGenerator[Listed[T] | Changed[T], None]:
    """Yields a list and every change after it, without end; after a gap, a new list."""
    backoff, health.version = Backoff(first=timings.first_pause, most=timings.longest_pause), ""
    contact = caller.connection.contact
    while True:
        retry_after, began, health.open_seconds = 0, contact.now(), 0.0
        try:
            async with aclosing(_once(caller, source, backoff, health, timings)) as news:
                async for one in news:
                    yield one
        except VersionExpired as exc:
            log.info("watch of %s: listing again: %s", source.kind, exc)
            health.version = ""
            health.relists += 1
        except ClusterSilent as exc:
            log.debug("watch of %s: %s; asking again", source.kind, exc)
            health.restarts += 1
            continue
        except ClusterOverloaded as exc:
            health.lost(exc)
            retry_after = exc.retry_after
        except (ClusterError, ClusterUnavailable) as exc:
            health.lost(exc)
            if isinstance(exc, ClusterUnreachable):
                contact.failed(began, str(exc))
        health.restarts += 1
        if health.open_seconds >= _GOOD_SECONDS:
            backoff.reset()
        pause = backoff.pause(min(retry_after, timings.longest_pause))
        await contact.pause(pause)


async def _once(
    caller: Caller, source: Source[T], backoff: Backoff, health: WatchHealth, timings: Timings
) -> AsyncGenerator[Listed[T] | Changed[T], None]:
    """The list, if there is no version yet, and the changes of one connection."""
    said = health.events + health.bookmarks
    if not health.version:
        items, version = await caller.everything(source.call, source.read)
        health.beat()
        yield Listed(items=tuple(items))
        health.listed(version)
    async with aclosing(stream(caller, source, health.version, health, timings)) as events:
        async for event in events:
            if event.type == "BOOKMARK":
                health.bookmarks += 1
            else:
                item = source.read(event.raw)
                health.events += 1
                yield Changed(item=item, gone=event.type == "DELETED")
            # Only after the event was read and passed on: an event that could not be read is requested again.
            health.version = event.resource_version
            backoff.reset()
    if health.open_seconds < _GOOD_SECONDS and health.events + health.bookmarks == said:
        raise UnexpectedAnswer(f"the watch of {source.kind} ended as soon as it was opened")


def _watch_call(source: Source[T], version: str, timings: Timings) -> KubeRequest:
    params = {
        **source.call.params,
        "watch": "true",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        # Random, so that not all watches of all clients end at the same moment.
        "timeoutSeconds": str(round(timings.watch_seconds * random.uniform(1.0, 2.0))),
    }
    return replace(source.call, verb="watch", params=params)


def _event(call: KubeRequest, line: bytes) -> WatchEvent:
    """The event in the line. Raises the error that an ERROR event means, and UnexpectedAnswer if it is no event."""
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise _unreadable(call.resource, "a line is no JSON", line) from exc
    kind, raw = (document.get("type"), document.get("object")) if isinstance(document, dict) else (None, None)
    if kind == "ERROR" and isinstance(raw, dict) and (status := read_status(raw)) is not None:
        raise error_of(call, KubeResponse(status=status.code or _INTERNAL, body=orjson.dumps(raw)))
    if kind not in _EVENTS or not isinstance(raw, dict):
        raise _unreadable(call.resource, "a line is no event", line)
    if trouble := _trouble(call, raw):
        raise _unreadable(call.resource, trouble, line)
    return WatchEvent(type=kind, raw=raw)


def _trouble(call: KubeRequest, raw: JsonObject) -> str:
    expected, metadata = KINDS[call.resource], raw.get("metadata")
    if not is_a(expected, raw):
        return f"an event is not about a {expected.name}"
    if not isinstance(metadata, dict) or not is_version(metadata.get("resourceVersion")):
        return "an event has no resourceVersion"
    return ""


def _unreadable(kind: str, trouble: str, line: bytes) -> UnexpectedAnswer:
    # A part of an object is not quoted: it may hold a stack's generated values.
    page = repr(line[:SHOWN_BYTES]) if line.lstrip().startswith(b"<") else f"{len(line)} bytes"
    return UnexpectedAnswer(f"the watch of {kind} cannot be read: {trouble}", page)
