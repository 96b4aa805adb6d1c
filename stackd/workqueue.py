"""When work may be done: a token bucket, and a work queue: keys to be worked on, each at its time, by one worker at a time,
and retried after a failure.

Owns: which keys are due, which are being worked on, the delays after failures, and the workers' loop. The semantics are
those of client-go's work queue: a key that is added while it waits is queued only once; a key that is added while it is
being worked on is queued again afterwards. In addition, keys have priorities, and those that have failed come after those
that have not, so that many hopeless keys do not delay the others. None starves, however much comes first: every other key
that is taken out is the one that is due for the longest time, once that is ``LATE_SECONDS``; but of those that have failed
only as long as no more than ``FAILED_AT_ONCE`` are being worked on, because those may take long.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

from stackd.errors import StackdError
from stackd.model import struct
from stackd.tasks import set_within

K = TypeVar("K", bound=Hashable)
_Rank = tuple[bool, int]
"""Whether a key has failed, and its priority: what comes first."""

LATE_SECONDS, FAILED_AT_ONCE = 5.0, 4
_NO_LIMIT = 1 << 30
_RESERVED: _Rank = (False, 0)
_STALE_ENTRIES = 64
"""How many stale entries a heap may have, beyond twice the number of waiting keys, before it is rebuilt."""


@struct
class RetryPolicy:
    """The delays after failures in seconds: they double from ``first`` to ``longest``, minus up to a random half. A key
    is given up after ``most`` tries; None: never."""

    first: float
    longest: float
    most: int | None = None

    def delay(self, tries: int) -> float:
        """A random delay after ``tries`` failures in a row."""
        return self.bound(tries) * random.uniform(0.5, 1.0)

    def bound(self, tries: int) -> float:
        """The longest possible delay after ``tries`` failures in a row."""
        return min(self.longest, self.first * 2.0 ** min(tries - 1, 60))


AT_ONCE = RetryPolicy(first=0.0, longest=0.0)


class _Entry(NamedTuple):
    """When a waiting key is due, and what comes before it."""

    at: float
    rank: _Rank


class WorkQueue(Generic[K]):
    """The queue, on the clock ``now`` (seconds). Belongs to one event loop; one task takes keys out of it.

    A lower priority number comes first. Nobody waits for keys of priority ``background`` and above: ``run`` works on at
    most ``at_once_in_background`` of those at a time, apart from those that are late.
    """

    def __init__(
        self,
        now: Callable[[], float],
        retries: RetryPolicy = AT_ONCE,
        *,
        background: int = 1,
        at_once_in_background: int = _NO_LIMIT,
    ) -> None:
        self._now = now
        self._retries = retries
        self._background = background
        self._at_once_in_background = at_once_in_background
        self._waiting: dict[K, _Entry] = {}
        self._heaps: dict[_Rank, list[tuple[float, int, K]]] = {}
        self._count = 0
        self._working: dict[K, _Rank] = {}
        self._again: dict[K, tuple[float, int]] = {}
        self._tries: dict[K, int] = {}
        self._late_first = False
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """How many keys wait or are being worked on."""
        return len(self._waiting) + len(self._working)

    def __contains__(self, key: object) -> bool:
        return key in self._waiting or key in self._working

    @property
    def is_late(self) -> bool:
        """Whether keys that have not failed are due for ``LATE_SECONDS``: more comes than the workers can do."""
        heads = (self._next(rank) for rank in self._heaps if not rank[0])
        return any(at is not None and at + LATE_SECONDS <= self._now() for at in heads)

    def at_work(self, key: K) -> bool:
        """Whether the key is being worked on."""
        return key in self._working

    def add(self, key: K, *, at: float | None = None, priority: int = 0, retry: bool = False) -> None:
        """Queue the key for time ``at``, or for now; if it already waits, for the earlier time and the lower priority.

        A key that waits after a failure keeps its time, unless ``retry``. A key that is being worked on is queued again
        afterwards.
        """
        at = self._now() if at is None else at
        if key in self._working:
            before, first = self._again.get(key, (at, priority))
            self._again[key] = (min(at, before), min(priority, first))
        elif (entry := self._waiting.get(key)) is None:
            self._put(key, at, priority)
        else:
            keeps_time = key in self._tries and not retry
            at, priority = entry.at if keeps_time else min(at, entry.at), min(priority, entry.rank[1])
            if retry or (at, priority) != (entry.at, entry.rank[1]):
                self._put(key, at, priority, failed=keeps_time)

    @contextmanager
    def reserve(self, key: K) -> Iterator[None]:
        """Within this, the caller works on the key; what others add waits until the end."""
        if entry := self._waiting.pop(key, None):
            self._again[key] = (entry.at, entry.rank[1])
        self._working[key] = _RESERVED
        try:
            yield
        finally:
            self.done(key)

    def take(self, most: int = _NO_LIMIT, *, background: bool = True) -> list[K]:
        """Take out up to ``most`` due keys: by priority, then the earliest first; those that have failed come last, and
        every other time those that are late come first.

        Without ``background``, takes of those for which nobody waits only what is late. The caller must call ``done`` or
        ``retry`` for each.
        """
        now = self._now()
        taken: list[K] = []
        for rank in self._ranks(now):
            while len(taken) < most and (at := self._due(rank, background=background)) is not None and at <= now:
                key = heapq.heappop(self._heaps[rank])[2]
                del self._waiting[key]
                self._working[key] = rank
                taken.append(key)
        return taken

    def done(self, key: K) -> None:
        """Note that the work on the key has succeeded."""
        self._working.pop(key, None)
        self._tries.pop(key, None)
        if key in self._again:
            self._put(key, *self._again.pop(key))

    def retry(self, key: K) -> float | None:
        """Note that the work on the key has failed, and queue it again after a delay; returns it, None if given up."""
        _, priority = self._working.pop(key, _RESERVED)
        again = self._again.pop(key, None)
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        if self._retries.most is not None and tries >= self._retries.most:
            del self._tries[key]
            if again is not None:
                self._put(key, *again)
            return None
        delay = self._retries.delay(tries)
        self._put(key, self._now() + delay, priority if again is None else min(priority, again[1]))
        return delay

    def retry_all(self) -> None:
        """Make all keys due that wait after a failure, because the cause of the failures may be over. All begin with
        the shortest delay again, also those that are being worked on and fail because of what was before."""
        now = self._now()
        for key in self._tries:
            self._tries[key] = 0
            entry = self._waiting.get(key)
            if entry is not None and entry.at > now:
                self._put(key, now, entry.rank[1])

    async def wait(self, *, background: bool = True) -> None:
        """Return when a key is due; without ``background``, one for which somebody waits, or that is late."""
        while True:
            self._wake.clear()
            due = (self._due(rank, background=background) for rank in self._heaps)
            times = [at for at in due if at is not None]
            remaining = min(times) - self._now() if times else None
            if remaining is not None and remaining <= 0:
                return
            await set_within(self._wake, remaining)
            if not background and self._may_be_background():
                return

    async def run(
        self,
        work: Callable[[K], Awaitable[None]],
        *,
        workers: int,
        failed: Callable[[K, StackdError, float | None], None],
    ) -> None:
        """Work on due keys, forever, on at most ``workers`` keys at a time.

        A StackdError from ``work`` is passed to ``failed``, with the delay until the next try (None: there is none).
        Any other exception is a defect, and is raised as an ExceptionGroup.
        """
        slots = asyncio.Semaphore(workers)

        async def one(key: K) -> None:
            try:
                await work(key)
                self.done(key)
            except StackdError as error:
                failed(key, error, self.retry(key))
            finally:
                slots.release()
                self._wake.set()

        async with asyncio.TaskGroup() as group:
            while True:
                await slots.acquire()
                while not (taken := self.take(1, background=self._may_be_background())):
                    await self.wait(background=self._may_be_background())
                group.create_task(one(taken[0]), name=f"work on {taken[0]}")

    def _may_be_background(self) -> bool:
        return sum(priority >= self._background for _, priority in self._working.values()) < self._at_once_in_background

    def _ranks(self, now: float) -> list[_Rank]:
        """What comes first this time."""
        ranks = sorted(self._heaps)
        self._late_first = not self._late_first
        if not self._late_first:
            return ranks
        many_failed = sum(failed for failed, _ in self._working.values()) >= FAILED_AT_ONCE
        late = {rank: at for rank in ranks if (at := self._next(rank)) is not None and at + LATE_SECONDS <= now}
        return sorted(ranks, key=lambda rank: now if rank[0] and many_failed else late.get(rank, now))

    def _due(self, rank: _Rank, *, background: bool) -> float | None:
        """When the earliest key of this rank may be taken out."""
        at = self._next(rank)
        return at if at is None or background or rank[1] < self._background else at + LATE_SECONDS

    def _next(self, rank: _Rank) -> float | None:
        """The time of the earliest key of this rank; drops stale entries."""
        heap = self._heaps[rank]
        while heap and self._waiting.get(heap[0][2]) != (heap[0][0], rank):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def _put(self, key: K, at: float, priority: int, *, failed: bool | None = None) -> None:
        rank = (key in self._tries if failed is None else failed, priority)
        heap = self._heaps.setdefault(rank, [])
        self._waiting[key] = _Entry(at, rank)
        self._count += 1
        heapq.heappush(heap, (at, self._count, key))
        if len(heap) > 2 * len(self._waiting) + _STALE_ENTRIES:
            heap[:] = sorted(one for one in heap if self._waiting.get(one[2]) == (one[0], rank))
        self._wake.set()


A_SECOND = 1.0
A_MINUTE = 60.0


class TokenBucket:
    """A token bucket: ``limit`` tokens per ``period`` seconds, refilled evenly. It holds at most the tokens of one
    period, but at least one, and starts full."""

    __slots__ = ("_since", "_tokens")

    def __init__(self, now: float, limit: float) -> None:
        self._tokens = max(1.0, limit)
        self._since = now

    def wait(self, now: float, limit: float, period: float) -> float:
        """0 if a token is available, otherwise the seconds until there is one."""
        return max(0.0, (1.0 - self._refilled(now, limit, period)) * period / limit)

    def take(self, now: float, limit: float, period: float) -> float:
        """Take a token if one is available; returns what ``wait`` returns."""
        wait = self.wait(now, limit, period)
        if not wait:
            self.take_some(now, limit, period, 1)
        return wait

    def take_some(self, now: float, limit: float, period: float, most: int) -> int:
        """Take up to ``most`` tokens; returns how many were taken."""
        tokens = self._refilled(now, limit, period)
        taken = max(0, min(most, int(tokens)))
        self._tokens, self._since = tokens - taken, now
        return taken

    def _refilled(self, now: float, limit: float, period: float) -> float:
        return min(max(1.0, limit), self._tokens + (now - self._since) * limit / period)
