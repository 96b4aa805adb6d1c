"""The feed of changes of stacks and jobs, for the event streams.

Owns: the numbers of the changes, and one log of the latest ones. All followers read the log at their own pace, which
bounds the memory that a slow one holds, and a stream that was cut resumes from it. A change is rendered once for all
followers that want the same fields.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

from msgspec import json

from stackd import contract
from stackd.codes import ErrorCode
from stackd.contract import EventName
from stackd.errors import TooManyRequests, Unavailable
from stackd.lifecycle.context import Context
from stackd.model import Job, JobAction, Stack
from stackd.tasks import set_within
from stackd.web.bodies import batch_body, encoder, job_body
from stackd.web.limits import share_of_a_key

LOGGED = 4_000
"""How many changes the log has. A follower that is further behind has to list again."""

PAUSE_SECONDS = 0.05
"""Changes are announced at most once in this time, so that a burst does not wake followers more often."""


@dataclass(slots=True, eq=False)
class FeedChange:
    """A change of a job or a stack: ``before`` is None for a new stack, ``record`` for a deleted one."""

    number: int
    name: str
    record: Stack | Job | None
    before: Stack | None = None

    @property
    def kind(self) -> EventName:
        """What the change means to a client that follows everything."""
        if self.record is None:
            return "deleted"
        return "job" if isinstance(self.record, Job) else "stack"

    @property
    def stack(self) -> Stack:
        """The stack that has changed, as it is or was at last."""
        stack = self.record or self.before
        assert isinstance(stack, Stack), "it is no job"
        return stack


class ChangeFeed:
    """The changes of one daemon."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._boot = secrets.token_hex(4)
        self._log: deque[FeedChange] = deque(maxlen=LOGGED)
        self._announcement = asyncio.Event()
        self._waking: asyncio.TimerHandle | None = None
        self._woken = 0.0
        self._announced = 0
        self._by_key: Counter[str] = Counter()
        self.number = 0
        self.closed = False

    @property
    def followers(self) -> int:
        return self._by_key.total()

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Add the change of a row (a subscriber of the store), unless only its Service was recreated."""
        changed = after or before
        if before and after and before.service_uid != after.service_uid:
            changed = None if replace(before, service_uid=after.service_uid) == after else after
        if changed is not None:
            self._add(changed.stack_id, after, before)

    def job_changed(self, before: Job | None, job: Job | None) -> None:
        """Add the change of a job (a subscriber of the store). A purge is not announced."""
        if job is not None:
            self._add(job.job_id, job)

    @contextmanager
    def follow(self, caller: str) -> Iterator[None]:
        """Count as a follower.

        Raises Unavailable if ``limits.event_streams`` followers are open, and TooManyRequests if this key has its whole
        share of them (``limits.event_streams_per_key``).
        """
        limits = self._context.config.limits
        share = share_of_a_key(self._context.config, limits.event_streams_per_key, limits.event_streams)
        if limits.event_streams and self.followers >= limits.event_streams:
            raise Unavailable(f"{self.followers} event streams are open (limits.event_streams)", retry_after=30)
        if self._by_key.get(caller, 0) >= share:
            raise TooManyRequests(
                f"{share} event streams of this key are open (limits.event_streams_per_key)",
                30,
                code=ErrorCode.TOO_MANY_STREAMS,
            )
        self._by_key[caller] += 1
        try:
            yield
        finally:
            self._by_key[caller] -= 1
            if not self._by_key[caller]:
                del self._by_key[caller]
            if not self.followers:
                frame.cache_clear()

    def since(self, number: int) -> list[FeedChange] | None:
        """The changes after that number, in order; None if the log no longer has all of them."""
        if number >= self.number:
            return []
        if not self._log or self._log[0].number > number + 1:
            return None
        missed = islice(reversed(self._log), self.number - number)  # from the right: they are few of many
        return list(missed)[::-1]

    def resumed(self, last_id: str) -> list[FeedChange] | None:
        """The changes since the event with that id; None if they are not known."""
        boot, _, text = last_id.partition("-")
        if boot != self._boot or not (text.isascii() and text.isdigit() and len(text) < len(str(2**63))):
            return None
        return self.since(int(text)) if int(text) <= self.number else None

    async def more(self, number: int, seconds: float) -> bool:
        """Return True once a change after that number is announced or the feed has closed, False after ``seconds``.

        Changes are announced at most every ``PAUSE_SECONDS``, also to a follower that has just read the previous ones.
        """
        return number < self._announced or self.closed or await set_within(self._announcement, seconds)

    def id_of(self, number: int) -> str:
        return f"{self._boot}-{number}"

    def close(self) -> None:
        self.closed = True
        self.wake()

    def wake(self) -> None:
        """Let all followers look now: whether the feed is closed, their keys are in force, or there are changes."""
        self._waking = None
        self._woken = asyncio.get_running_loop().time()
        self._announced = self.number
        announcement, self._announcement = self._announcement, asyncio.Event()
        announcement.set()

    def _add(self, name: str, record: Stack | Job | None, before: Stack | None = None) -> None:
        self.number += 1
        self._log.append(FeedChange(self.number, name, record, before))
        if self.followers and self._waking is None:
            loop = asyncio.get_running_loop()
            self._waking = loop.call_at(max(loop.time(), self._woken + PAUSE_SECONDS), self.wake)


@lru_cache(maxsize=2_000)
def frame(feed: ChangeFeed, change: FeedChange, kind: EventName, fields: tuple[str, ...]) -> bytes:
    """A change as a server-sent event, rendered once for all clients that chose the same fields."""
    record = None if kind == "left" else change.record
    data = json.encode({"stack_id": change.name}) if record is None else rendered(record, fields)
    return event(kind.encode(), data, feed.id_of(change.number))


def rendered(record: Stack | Job, fields: tuple[str, ...]) -> bytes:
    """A job, as the read of a job of its action answers, or a stack with these fields (if none are chosen, with all)."""
    if isinstance(record, Job):
        return job_body(record) if record.action is JobAction.DELETE else batch_body(record)
    return encoder(contract.Stack, fields or contract.STACK_FIELDS)(record)


def event(kind: bytes, data: bytes, event_id: str = "") -> bytes:
    """One server-sent event; ``data`` is JSON in one line."""
    head = b"id: %b\n" % event_id.encode() if event_id else b""
    return b"%bevent: %b\ndata: %b\n\n" % (head, kind, data)
