"""The one queue of work on stacks, by id: it makes each stack be as its row says, one step after the other.

Owns: that at most one task works on a stack at a time, what comes first, and the retries. Whoever has committed an
intent wakes the queue (``wake``), and may wait until nothing is left to do (``settle``). A create works on its own stack
directly, and reserves it meanwhile (``reserve``). Does not know what a step does (``steps``).
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from stackd.errors import ClusterUnavailable, StackdError
from stackd.logs import stack_log
from stackd.tasks import Tasks
from stackd.workqueue import RetryPolicy, WorkQueue

log = logging.getLogger(__name__)

WORKERS = 24
"""At most this many stacks are worked on at a time. Each may have two requests under way; creates have slots of their
own."""

IN_THE_BACKGROUND = 8  # at most this many of them for which nobody waits: expiries and pools
RETRIES = RetryPolicy(first=0.5, longest=30.0)


class Priority(enum.IntEnum):
    """Who comes first."""

    WAITED = 0  # somebody waits for it
    REPAIR = 1
    EXPIRY = 2
    POOL = 3


class Worker(WorkQueue[str]):
    """The queue of one daemon; ``converge`` makes one stack be as its row says, or raises what keeps it from that.

    ``jobs`` are stacks that a batch job deletes: nothing else wakes them, so that the job's concurrency holds.
    """

    def __init__(
        self, now: Callable[[], float], tasks: Tasks, converge: Callable[[str], Coroutine[Any, Any, None]]
    ) -> None:
        super().__init__(now, RETRIES, background=Priority.EXPIRY, at_once_in_background=IN_THE_BACKGROUND)
        self.jobs: set[str] = set()
        self._tasks = tasks
        self._converge = converge
        self._settling: dict[str, set[asyncio.Future[None]]] = {}

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self.jobs

    def wake(self, stack_id: str, priority: Priority = Priority.REPAIR, *, delay: float = 0.0) -> None:
        """Have the stack worked on, ``delay`` seconds from now; if that is under way, once more afterwards."""
        if stack_id not in self.jobs:
            self.add(stack_id, at=self._now() + delay, priority=priority)

    async def settle(self, stack_id: str, timeout: float | None = None) -> None:
        """Work on the stack before others, and return when nothing is left to do about it.

        Raises what keeps that from being done now, or ClusterUnavailable after ``timeout`` seconds; the queue then
        retries. The work goes on if the caller leaves.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        settling = self._settling.setdefault(stack_id, set())
        settling.add(done)
        self.add(stack_id, priority=Priority.WAITED, retry=True)
        try:
            async with asyncio.timeout(timeout):
                await done
        except TimeoutError:
            raise ClusterUnavailable("Kubernetes has not done it yet") from None
        finally:
            settling.discard(done)
            if not settling and self._settling.get(stack_id) is settling:
                del self._settling[stack_id]

    async def serve(self) -> None:
        """The working service; runs for ever."""
        await self.run(self._one, workers=WORKERS, failed=self._failed)

    async def _one(self, stack_id: str) -> None:
        settling = self._settling.pop(stack_id, set())
        # A background task of its own: a graceful stop waits for it.
        work = self._tasks.spawn(f"work on {stack_id}", self._converge(stack_id))
        try:
            await work
        finally:
            for done in settling:
                if not done.done():
                    _copy(work, done)

    def _failed(self, stack_id: str, error: StackdError, delay: float | None) -> None:
        stack_log(log, stack_id, same="work").info("next try in %.1f s: %s", delay or 0.0, error)


def _copy(work: asyncio.Task[None], done: asyncio.Future[None]) -> None:
    """Give whoever waits the outcome of the work; a defect, which ends the process, cancels the wait."""
    if work.cancelled() or not isinstance(error := work.exception(), StackdError | None):
        done.cancel()
    elif error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
