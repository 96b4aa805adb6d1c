"""The changes of stacks and jobs on their way to those who follow them.

Owns: the numbers of the changes, one log of the latest that all followers read at their own pace (which bounds what a slow
one can hold), and the memory of what changed when, from which a stream that was cut goes on. Where nobody follows, a
change costs one entry of that memory. A change is rendered once for all who want the same fields.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import orjson

from stackd.errors import Unavailable
from stackd.lifecycle.room import Room
from stackd.model import Job, Stack

BEHIND = 1_000
"""A follower that is so many changes behind is told to list again."""

REMEMBERED = 10_000
"""So many stacks and jobs are remembered with their last change, for streams that go on after a cut."""

PAUSE_SECONDS = 0.05
"""Changes within this time go out together: a burst wakes each follower no more often."""

JOB_PREFIX = "job-"

Render = Callable[[Stack | Job], bytes]


@dataclass(slots=True, eq=False)
class Change:
    """A change of a stack or a job; ``record`` is None for a stack that has gone."""

    number: int
    name: str
    record: Stack | Job | None
    rendered: dict[Render, bytes] = field(default_factory=dict)

    @property
    def is_end(self) -> bool:
        """Whether the stack has gone."""
        return self.record is None


class Hub:
    """The changes of one daemon."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._boot = secrets.token_hex(4)
        self._log: deque[Change] = deque(maxlen=BEHIND)
        self._changed: OrderedDict[str, int] = OrderedDict()
        self._forgotten = 0
        self._news = asyncio.Event()
        self._waking: asyncio.TimerHandle | None = None
        self._woken = 0.0
        self._told = 0
        self.number = 0
        self.followers = 0
        self.closed = False

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """A row changed (a subscriber of the store)."""
        changed = after or before
        if changed is not None:
            self._add(changed.stack_id, after)

    def job_changed(self, job_id: str, job: Job | None) -> None:
        """A job has got on (a subscriber of the store); one that is only forgotten is no news."""
        if job is not None:
            self._add(job_id, job)

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Be one of the followers. Raises Unavailable where there are as many as ``limits.event_streams`` allows."""
        limit = self._room.config.limits.event_streams
        if limit and self.followers >= limit:
            raise Unavailable(f"{self.followers} event streams are open (limits.event_streams)", retry_after=30)
        self.followers += 1
        try:
            yield
        finally:
            self.followers -= 1
            if not self.followers:
                self._log.clear()

    def since(self, number: int) -> list[Change] | None:
        """The changes after that number, in their order; None if some of them are no longer in the log."""
        if number >= self.number:
            return []
        if not self._log or self._log[0].number > number + 1:
            return None
        return list(islice(self._log, number + 1 - self._log[0].number, None))

    def resumed(self, last_id: str) -> list[Change] | None:
        """What has changed since the change of that id, each stack and job once and as it is now; None if unknown."""
        boot, _, text = last_id.partition("-")
        if boot != self._boot or not (text.isascii() and text.isdigit() and len(text) < len(str(2**63))):
            return None
        number = int(text)
        if not self._forgotten <= number <= self.number:
            return None
        found = []
        for name, last in reversed(self._changed.items()):
            if last <= number:
                break
            record = self._now(name)
            if record is not None or not name.startswith(JOB_PREFIX):  # a job that was only forgotten is no news
                found.append(Change(last, name, record))
        return found[::-1]

    async def more(self, number: int, seconds: float) -> bool:
        """Return True once there is a change after that number or the hub has closed, False after ``seconds``.

        Changes are announced at most every ``PAUSE_SECONDS``, also to one who has only just read the ones before.
        """
        if number < self._told or self.closed:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def id_of(self, number: int) -> str:
        """The event id of a change."""
        return f"{self._boot}-{number}"

    def close(self) -> None:
        """End all streams."""
        self.closed = True
        self._wake()

    def _add(self, name: str, record: Stack | Job | None) -> None:
        self.number += 1
        self._changed[name] = self.number
        self._changed.move_to_end(name)
        if len(self._changed) > REMEMBERED:
            _, self._forgotten = self._changed.popitem(last=False)
        if self.followers:
            self._log.append(Change(self.number, name, record))
            if self._waking is None:
                loop = asyncio.get_running_loop()
                self._waking = loop.call_at(max(loop.time(), self._woken + PAUSE_SECONDS), self._wake)

    def _wake(self) -> None:
        self._waking = None
        self._woken = asyncio.get_running_loop().time()
        self._told = self.number
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _now(self, name: str) -> Stack | Job | None:
        store = self._room.store
        return store.stacks.get(name) or store.jobs.get(name)


def frame(hub: Hub, change: Change, render: Render) -> bytes:
    """A change as a server-sent event; made once for all who render alike."""
    made = change.rendered.get(render)
    if made is None:
        record = change.record
        if record is None:
            kind, data = b"deleted", orjson.dumps({"stack_id": change.name})
        else:
            kind, data = (b"job" if isinstance(record, Job) else b"stack"), render(record)
        made = event(kind, data, hub.id_of(change.number))
        change.rendered[render] = made
    return made


def event(kind: bytes, data: bytes, event_id: str = "") -> bytes:
    """One server-sent event; ``data`` is JSON in one line."""
    head = b"id: %b\n" % event_id.encode() if event_id else b""
    return b"%bevent: %b\ndata: %b\n\n" % (head, kind, data)
