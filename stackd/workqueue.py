"""A work queue: keys about which something is to be done, each at its time, one worker at a time, again after a failure.

Owns: which key is due and which is being worked on, the delays after failures, and the loop of the workers. Knows nothing
of what is done. The semantics are those of client-go's work queue: a key that is added while it waits stays once in the
queue; one that is added while it is being worked on comes again when that is done. Beyond that, keys that have failed give
way to those that have not, so that many hopeless ones keep nobody waiting.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from stackd.errors import StackdError
from stackd.waiters import set_within

K = TypeVar("K", bound=Hashable)
_Heap = list[tuple[float, int, K]]

_STALE_ENTRIES = 64
"""So many more entries than keys may be in a heap before it is made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The delays after failures in seconds: they double from ``first`` to ``longest``, less a random part of up to a half.

    A key is given up after ``most`` tries; None: never.
    """

    first: float
    longest: float
    most: int | None = None

    def delay(self, tries: int) -> float:
        """The delay after so many tries in a row have failed."""
        return self.bound(tries) * random.uniform(0.5, 1.0)

    def bound(self, tries: int) -> float:
        """The longest that delay may be."""
        return min(self.longest, self.first * 2.0 ** min(tries - 1, 60))


AT_ONCE = RetryPolicy(first=0.0, longest=0.0)


class WorkQueue(Generic[K]):
    """The keys, by the clock ``now`` (seconds). Belongs to one event loop; one task takes keys out of it."""

    def __init__(self, now: Callable[[], float], retries: RetryPolicy = AT_ONCE) -> None:
        self._now = now
        self._retries = retries
        self._waiting: dict[K, float] = {}
        self._fresh: _Heap[K] = []
        self._failed: _Heap[K] = []
        self._count = 0
        self._working: set[K] = set()
        self._again: dict[K, float] = {}
        self._tries: dict[K, int] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """How many keys wait or are being worked on."""
        return len(self._waiting) + len(self._working)

    def __contains__(self, key: object) -> bool:
        return key in self._waiting or key in self._working

    def add(self, key: K, *, at: float | None = None) -> None:
        """Have the key worked on at that time, or now; if it waits already, at the earlier time.

        One that waits because it has failed keeps its time. One that is being worked on comes again after that.
        """
        at = self._now() if at is None else at
        if key in self._working:
            self._again[key] = min(at, self._again.get(key, at))
        elif key not in self._waiting or (key not in self._tries and at < self._waiting[key]):
            self._put(key, at)

    def take(self, most: int | None = None) -> list[K]:
        """Take out the keys that are due, at most so many, the earliest first, and those that have failed at the end.

        ``done`` or ``retry`` is owed for each.
        """
        now = self._now()
        taken: list[K] = []
        for heap in (self._fresh, self._failed):
            while (most is None or len(taken) < most) and (at := self._next(heap)) is not None and at <= now:
                key = heapq.heappop(heap)[2]
                del self._waiting[key]
                self._working.add(key)
                taken.append(key)
        return taken

    def done(self, key: K) -> None:
        """What was to be done about the key has been done."""
        self._working.discard(key)
        self._tries.pop(key, None)
        if key in self._again:
            self._put(key, self._again.pop(key))

    def retry(self, key: K) -> float | None:
        """It has failed: have the key worked on again after a delay, which is returned. None if it is given up."""
        self._working.discard(key)
        again = self._again.pop(key, None)
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        if self._retries.most is not None and tries >= self._retries.most:
            del self._tries[key]
            if again is not None:
                self._put(key, again)
            return None
        delay = self._retries.delay(tries)
        self._put(key, self._now() + delay)
        return delay

    def hurry(self) -> None:
        """What kept keys from being done may be over: those that wait because they have failed are due now."""
        now = self._now()
        for key in self._tries:
            if self._waiting.get(key, now) > now:
                self._put(key, now)

    async def wait(self) -> None:
        """Return when a key is due."""
        while True:
            self._wake.clear()
            times = [at for heap in (self._fresh, self._failed) if (at := self._next(heap)) is not None]
            left = min(times) - self._now() if times else None
            if left is not None and left <= 0:
                return
            await set_within(self._wake, left)

    async def run(
        self,
        work: Callable[[K], Awaitable[None]],
        *,
        workers: int,
        failed: Callable[[K, StackdError, float | None], None],
    ) -> None:
        """Work on what is due, for ever, on at most ``workers`` keys at a time.

        What ``work`` raises is told to ``failed`` together with the delay until the next try (None: there is none). What
        is no StackdError is a defect, and is raised as an ExceptionGroup.
        """
        slots = asyncio.Semaphore(workers)

        async def one(key: K) -> None:
            try:
                await work(key)
            except StackdError as error:
                failed(key, error, self.retry(key))
            else:
                self.done(key)
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:
            while True:
                await slots.acquire()
                await self.wait()
                (key,) = self.take(1)
                group.create_task(one(key), name=f"work on {key}")

    def _next(self, heap: _Heap[K]) -> float | None:
        """The time of the earliest key."""
        while heap and self._waiting.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def _put(self, key: K, at: float) -> None:
        heap = self._failed if key in self._tries else self._fresh
        self._waiting[key] = at
        self._count += 1
        heapq.heappush(heap, (at, self._count, key))
        if len(heap) > 2 * len(self._waiting) + _STALE_ENTRIES:
            heap[:] = sorted(entry for entry in heap if self._waiting.get(entry[2]) == entry[0])
        self._wake.set()
