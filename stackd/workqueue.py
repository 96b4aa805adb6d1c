"""A work queue: keys to be worked on, each at its time, by one worker at a time, and retried after a failure.

Owns: which keys are due, which are being worked on, the delays after failures, and the workers' loop. Does not know
what the work is. The semantics are those of client-go's work queue: a key that is added while it waits is queued only
once; a key that is added while it is being worked on is queued again afterwards. In addition, keys that have failed
come after those that have not, so that many hopeless keys do not delay the others.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from stackd.errors import StackdError
from stackd.structs import struct
from stackd.waiters import set_within

K = TypeVar("K", bound=Hashable)
_Heap = list[tuple[float, int, K]]

_STALE_ENTRIES = 64
"""How many stale entries a heap may have, beyond twice the number of waiting keys, before it is rebuilt."""


@struct
class RetryPolicy:
    """The delays after failures in seconds: they double from ``first`` to ``longest``, minus up to a random half.

    A key is given up after ``most`` tries; None: never.
    """

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


class WorkQueue(Generic[K]):
    """The queue, on the clock ``now`` (seconds). Belongs to one event loop; one task takes keys out of it."""

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
        """Queue the key for time ``at``, or for now; if it already waits, for the earlier time.

        A key that waits after a failure keeps its time. A key that is being worked on is queued again afterwards.
        """
        at = self._now() if at is None else at
        if key in self._working:
            self._again[key] = min(at, self._again.get(key, at))
        elif key not in self._waiting or (key not in self._tries and at < self._waiting[key]):
            self._put(key, at)

    def take(self, most: int | None = None) -> list[K]:
        """Take out up to ``most`` due keys, the earliest first, those that have failed last.

        The caller must call ``done`` or ``retry`` for each.
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
        """Note that the work on the key has succeeded."""
        self._working.discard(key)
        self._tries.pop(key, None)
        if key in self._again:
            self._put(key, self._again.pop(key))

    def retry(self, key: K) -> float | None:
        """Note that the work on the key has failed, and queue it again after a delay; returns it, None if given up."""
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
        """Make all keys due that wait after a failure, because the cause of the failures may be over.

        All begin with the shortest delay again, also those that are being worked on and fail because of what was before.
        """
        now = self._now()
        for key in self._tries:
            self._tries[key] = 0
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
        """Work on due keys, forever, on at most ``workers`` keys at a time.

        A StackdError from ``work`` is passed to ``failed``, with the delay until the next try (None: there is none).
        Any other exception is a defect, and is raised as an ExceptionGroup.
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
        """The time of the earliest key in the heap; drops stale entries."""
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
