"""List and watch of one kind of object, without end: three generators, one inside the other.

    lines     the lines of one watch connection, and the sign of life that each byte is
    stream    the events of one connection, from a resourceVersion on
    endless   list → watch → pause → watch …, from where the last one ended; a new list when that is too old

Owns when to list again, when to reconnect and how long to wait before; and ``Pulse``, which says how it goes. Knows
nothing of what is kept of the objects or who waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import aiohttp
import orjson

from stackd.clock import Clock
from stackd.errors import (
    ClusterError,
    ClusterOverloaded,
    ClusterSilent,
    ClusterUnavailable,
    StackdError,
    VersionExpired,
)
from stackd.kube.answers import error_of
from stackd.kube.backoff import Backoff
from stackd.kube.caller import Caller
from stackd.kube.calls import Answer, Call

log = logging.getLogger(__name__)
T = TypeVar("T")

# A watch that lived so long was a good one: its end is the server's routine, no reason to wait longer each time.
_GOOD_SECONDS = 1.0
_EVENTS = frozenset({"ADDED", "MODIFIED", "DELETED", "BOOKMARK"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds. ``idle_limit``: after so long without a byte the watch is asked for again, from where it was, for its
    connection may be dead; ``watch_seconds``: how long the server is asked to keep one open, at least; up to twice that.

    Bookmarks come about once a minute, but only with a version newer than the one that the watch was asked from
    (Kubernetes 1.36). Where nothing happens, a watch is silent for the whole of ``idle_limit``: nothing to warn of.
    """

    idle_limit: float = 75.0
    watch_seconds: int = 300
    first_pause: float = 0.05
    longest_pause: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Generic[T]):
    """What is watched, and how one object of it is read; ``call`` is the list."""

    kind: str
    call: Call
    parse: Callable[[dict[str, Any]], T]

    def read(self, raw: dict[str, Any]) -> T:
        """The object. Raises ClusterUnavailable where the JSON is not one of this kind."""
        try:
            return self.parse(raw)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ClusterUnavailable(f"one of {self.kind} cannot be read: {type(exc).__name__}: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed(Generic[T]):
    """Everything there is, at one moment."""

    items: tuple[T, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed(Generic[T]):
    """One object as it is now, or as it last was where it is gone."""

    item: T
    gone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of a watch; ``raw`` is the object (of a bookmark, only its resourceVersion)."""

    type: str
    raw: dict[str, Any]

    @property
    def resource_version(self) -> str:
        """From where to go on after this event."""
        return str(self.raw["metadata"]["resourceVersion"])


class Pulse:
    """How it goes with one watch. ``disconnected_since`` is on the monotonic clock, None while connected."""

    def __init__(self, kind: str, clock: Clock) -> None:
        self.kind = kind
        self._clock = clock
        self._born = clock.monotonic()
        self.last_good: float | None = None
        self.disconnected_since: float | None = self._born
        self.last_error = ""
        self.relists = self.restarts = self.outages = self.bookmarks = self.events = 0

    def beat(self) -> None:
        """Something arrived that says that the connection lives."""
        self.last_good = self._clock.monotonic()
        if self.disconnected_since is not None:
            if self.last_error:
                log.info("watch of %s is back after %.1f s", self.kind, self.last_good - self.disconnected_since)
            self.disconnected_since, self.last_error = None, ""

    def lost(self, error: StackdError) -> None:
        """The connection, or the attempt to make one, failed. Said once per outage."""
        if self.disconnected_since is None:
            self.disconnected_since = self._clock.monotonic()
        if not self.last_error:
            self.outages += 1
            log.warning("watch of %s is interrupted: %s", self.kind, error)
        self.last_error = str(error)

    def staleness(self) -> float:
        """Seconds since what is known was last known to be true."""
        since = self._born if self.last_good is None else self.last_good
        return self._clock.monotonic() - since


async def lines(response: aiohttp.ClientResponse, pulse: Pulse) -> AsyncGenerator[bytes, None]:
    """The lines until the server ends the answer; a last one that is not complete is left out."""
    rest = b""
    while chunk := await response.content.readany():
        pulse.beat()
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield line


async def stream(
    caller: Caller, source: Source[T], version: str, pulse: Pulse, timings: Timings
) -> AsyncGenerator[Event, None]:
    """The events of one connection after ``version``, until the server ends it.

    Raises VersionExpired when the version is too old, ClusterUnavailable for everything that a reconnect may mend.
    """
    call = _watch_call(source, version, timings)
    async with caller.connection.stream(call, idle=timings.idle_limit) as response:
        pulse.beat()
        async with aclosing(lines(response, pulse)) as received:
            async for line in received:
                yield _event(call, line)


async def endless(
    caller: Caller, source: Source[T], pulse: Pulse, timings: Timings
) -> AsyncGenerator[Listed[T] | Changed[T], None]:
    """A list and every change after it, for as long as it is read; after a gap, the list again."""
    backoff = Backoff(first=timings.first_pause, most=timings.longest_pause)
    version = ""
    loop = asyncio.get_running_loop()
    while True:
        retry_after = 0
        began = loop.time()
        try:
            if not version:
                items, version = await caller.everything(source.call, source.read)
                pulse.beat()
                yield Listed(items=tuple(items))
            async with aclosing(stream(caller, source, version, pulse, timings)) as events:
                async for event in events:
                    version = event.resource_version
                    backoff.reset()
                    if event.type == "BOOKMARK":
                        pulse.bookmarks += 1
                        continue
                    pulse.events += 1
                    yield Changed(item=source.read(event.raw), gone=event.type == "DELETED")
            if loop.time() - began >= _GOOD_SECONDS:
                backoff.reset()
        except VersionExpired as exc:
            log.info("watch of %s: listing again: %s", source.kind, exc)
            version = ""
            pulse.relists += 1
        except ClusterSilent as exc:
            log.debug("watch of %s: %s; asking again", source.kind, exc)
            pulse.restarts += 1
            continue
        except ClusterOverloaded as exc:
            pulse.lost(exc)
            retry_after = exc.retry_after
        except (ClusterError, ClusterUnavailable) as exc:
            pulse.lost(exc)
        pulse.restarts += 1
        await asyncio.sleep(backoff.pause(retry_after))


def _watch_call(source: Source[T], version: str, timings: Timings) -> Call:
    listed = source.call
    params = {
        **listed.params,
        "watch": "true",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        # Not all at the same moment, and not all watches of all clients.
        "timeoutSeconds": str(round(timings.watch_seconds * random.uniform(1.0, 2.0))),
    }
    return Call(verb="watch", resource=listed.resource, path=listed.path, namespace=listed.namespace, params=params)


def _event(call: Call, line: bytes) -> Event:
    try:
        document = orjson.loads(line)
        kind, raw = document["type"], document["object"]
        if kind == "ERROR":
            raise error_of(call, Answer(status=int(raw.get("code") or 500), body=orjson.dumps(raw)))
        if kind not in _EVENTS:
            raise ValueError(f"an event of type {kind!r}")
        event = Event(type=kind, raw=raw)
        _ = event.resource_version
        return event
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ClusterUnavailable(f"a watch event of {call.resource} cannot be read: {exc}") from exc
