"""When work is done: a work queue, by keys, with retries; slots for requests under way; and a token bucket.

Owns: which keys wait and which are being worked on, the delays after failures, and who gets a free slot first. The
semantics are those of client-go's work queue: a key that is added while it waits is queued only once; a key that is added
while it is being worked on is queued again afterwards.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, NamedTuple, TypeVar

from stackd.errors import StackdError
from stackd.model import struct
from stackd.tasks import Tasks

K = TypeVar("K", bound=Hashable)
Work = Callable[[K], Awaitable[object]]
Failed = Callable[[K, StackdError, float | None], None]

# A key to which something happens while it is being worked on is worked on so much later again: whoever waits for what was done
# is answered first, and what follows closely is seen at the same time.
AGAIN_SECONDS = 0.01


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


class WorkQueue(Generic[K]):
    """Keys to be worked on, each by one task at a time; times are seconds on the event loop's clock.

    Keys that are added before ``start`` wait for it. A graceful stop does not wait for work that ``may_be_cut``.
    """

    def __init__(self, name: str, tasks: Tasks, retries: RetryPolicy, *, may_be_cut: bool = False) -> None:
        self._name, self._tasks, self._retries, self._may_be_cut = name, tasks, retries, may_be_cut
        self._loop = asyncio.get_running_loop()
        self._work: Work[K] | None = None
        self._failed: Failed[K] | None = None
        self._due: dict[K, float] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._working: set[K] = set()
        self._again: dict[K, tuple[float, bool]] = {}
        self._tries: dict[K, int] = {}

    def __len__(self) -> int:
        """How many keys are due, are being worked on, or wait after a failure."""
        return sum(map(self.__contains__, (*self._due, *self._working)))

    def __contains__(self, key: object) -> bool:
        """Whether the key is due, is being worked on, or waits after a failure: not one that waits for a time of its own."""
        at = self._due.get(key, math.inf)  # type: ignore[arg-type]  # any object may be asked for
        return key in self._working or key in self._tries or at <= self._loop.time() + AGAIN_SECONDS

    def at_work(self, key: K) -> bool:
        return key in self._working

    def has_failed(self, key: K) -> bool:
        return key in self._tries

    def start(self, work: Work[K], failed: Failed[K]) -> None:
        """Begin to work, on what waits, too.

        ``work`` does what is due about a key. If it raises a StackdError, ``failed`` is called with the error and the delay
        until the next try (None: there is none). Any other exception is a defect, and ends the process.
        """
        self._work, self._failed = work, failed
        for key, at in tuple(self._due.items()):
            self._wait(key, at)

    def add(self, key: K, *, delay: float = 0.0, reset: bool = False) -> None:
        """Have the key worked on, ``delay`` seconds from now; if it already waits, at the earlier of the two times.

        A key that waits after a failure keeps its time, unless ``reset``: then the cause of the failure may be over, and
        the next delay is the first one again. A key that is being worked on is worked on once more afterwards, after
        ``AGAIN_SECONDS`` unless ``reset``.
        """
        now = self._loop.time()
        at = now + delay
        if key in self._working:
            at = at if reset else max(at, now + AGAIN_SECONDS)
            before, was_reset = self._again.get(key, (at, False))
            self._again[key] = min(at, before), reset or was_reset
            return
        if reset:
            self._tries.pop(key, None)
        if key not in self._due or (at < self._due[key] and key not in self._tries):
            self._wait(key, at)

    def retry_all(self) -> None:
        """Make all keys due that wait after a failure, because the cause of the failures may be over."""
        for key in tuple(self._tries):
            self.add(key, reset=True)

    def _wait(self, key: K, at: float) -> None:
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        self._due[key] = at
        if self._work is None:
            return
        if at <= self._loop.time():
            self._launch(key)
        else:
            self._timers[key] = self._loop.call_at(at, self._launch, key)

    def _launch(self, key: K) -> None:
        self._begin(key)
        self._tasks.background(f"{self._name} {key}", self._run(key), may_be_cut=self._may_be_cut)

    def _begin(self, key: K) -> None:
        self._due.pop(key, None)
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        self._working.add(key)

    async def _run(self, key: K) -> None:
        assert self._work is not None, "it was started"
        try:
            await self._work(key)
        except StackdError as error:
            self._working.discard(key)
            self._retry(key, error)
            return
        except BaseException:
            self._working.discard(key)
            self._again.pop(key, None)
            raise
        self._working.discard(key)
        self._tries.pop(key, None)
        if key in self._again:
            self._wait(key, self._again.pop(key)[0])

    def _retry(self, key: K, error: StackdError) -> None:
        now = self._loop.time()
        at, reset = self._again.pop(key, (None, False))
        tries = 0 if reset else self._tries.get(key, 0) + 1
        given_up = self._retries.most is not None and tries >= self._retries.most
        if reset or given_up:
            self._tries.pop(key, None)
        else:
            self._tries[key] = tries
            at = now + self._retries.delay(tries)
        assert self._failed is not None, "it was started"
        self._failed(key, error, None if at is None else max(0.0, at - now))
        if at is not None:
            self._wait(key, at)


LATE_SECONDS, FAILED_AT_ONCE = 5.0, 4


class _Turn(NamedTuple):
    """One who waits for a slot, since when, and for what."""

    granted: asyncio.Future[None]
    since: float
    rank: tuple[bool, int]


class Slots:
    """So many slots for requests under way; ``limit`` says how many of them work of one priority may have.

    Whoever waits gets a free slot by rank: first those whose last try has not failed, so that hopeless work does not
    delay the rest; then by priority, the lower number first; then in order. None starves: every other free slot goes to
    who has waited longest, once that is ``LATE_SECONDS``, whatever its rank; but to one that has failed only while fewer
    than ``FAILED_AT_ONCE`` of those have a slot, because they may take long.
    """

    def __init__(self, most: int, limit: Callable[[int], int]) -> None:
        self._most, self._limit = most, limit
        self._now = asyncio.get_running_loop().time
        self._held: Counter[int] = Counter()
        self._failed = 0
        self._waiting: dict[tuple[bool, int], deque[_Turn]] = {}
        self._late_first = False

    @property
    def is_late(self) -> bool:
        """Whether what has not failed waits for ``LATE_SECONDS``: more comes than can be done."""
        return any(not turn.rank[0] for turn in self._heads() if turn.since + LATE_SECONDS <= self._now())

    @property
    def is_full(self) -> bool:
        return self._held.total() >= self._most

    @asynccontextmanager
    async def acquired(self, priority: int, *, failed: bool = False) -> AsyncIterator[bool]:
        """A slot; whether it was waited for, so that what was decided before may be outdated."""
        rank = (failed, priority)
        waits = not self._has_room(priority)
        if waits:
            await self._wait(rank)
        else:
            self._acquire(rank)
        try:
            yield waits
        finally:
            self._release(rank)

    async def _wait(self, rank: tuple[bool, int]) -> None:
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(rank, deque()).append(_Turn(granted, self._now(), rank))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._release(rank)
            raise

    def _has_room(self, priority: int) -> bool:
        return self._held.total() < self._most and self._held[priority] < self._limit(priority)

    def _acquire(self, rank: tuple[bool, int]) -> None:
        self._held[rank[1]] += 1
        self._failed += rank[0]

    def _release(self, rank: tuple[bool, int]) -> None:
        self._held[rank[1]] -= 1
        self._failed -= rank[0]
        while self._held.total() < self._most and (turn := self._next()) is not None:
            self._waiting[turn.rank].popleft()
            self._acquire(turn.rank)
            turn.granted.set_result(None)

    def _next(self) -> _Turn | None:
        """Who gets the free slot."""
        self._late_first = not self._late_first
        heads = self._heads()
        if self._late_first:
            late = [turn for turn in heads if not (turn.rank[0] and self._failed >= FAILED_AT_ONCE)]
            oldest = min(late, key=lambda turn: turn.since, default=None)
            if oldest is not None and oldest.since + LATE_SECONDS <= self._now():
                return oldest
        return next((turn for turn in heads if self._has_room(turn.rank[1])), None)

    def _heads(self) -> list[_Turn]:
        """Who waits longest of each rank, in the order of ranks; forgets those who have left."""
        for waiting in self._waiting.values():
            while waiting and waiting[0].granted.done():
                waiting.popleft()
        return [self._waiting[rank][0] for rank in sorted(self._waiting) if self._waiting[rank]]


A_SECOND, A_MINUTE = 1.0, 60.0


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
