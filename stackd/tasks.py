"""Named, supervised tasks.

Owns: every task of the process that outlives the call that began it. A *service* runs until it is stopped, and its
unexpected end ends the process; an *errand* ends by itself, and stopping waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class ServiceEnded(RuntimeError):
    """A service of the daemon ended although nobody stopped it."""


class Tasks:
    """The tasks of one daemon."""

    def __init__(self) -> None:
        self._services: list[asyncio.Task[None]] = []
        self._errands: set[asyncio.Task[Any]] = set()
        self._failure: asyncio.Future[None] | None = None
        self._stopping = False

    @property
    def failure(self) -> asyncio.Future[None]:
        """A future that fails with ``ServiceEnded`` as soon as one service has ended unexpectedly."""
        if self._failure is None:
            self._failure = asyncio.get_running_loop().create_future()
        return self._failure

    def serve(self, name: str, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a service."""
        task = asyncio.create_task(coro, name=name)
        self._services.append(task)
        task.add_done_callback(self._service_ended)
        return task

    def errand(self, name: str, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start something that ends by itself; its exception belongs to whoever awaits it."""
        task = asyncio.create_task(coro, name=name)
        self._errands.add(task)
        task.add_done_callback(self._errand_ended)
        return task

    async def finish(self, deadline_seconds: float) -> int:
        """Wait for the errands under way; return how many were not done in time (they go on)."""
        pending = {task for task in self._errands if task is not asyncio.current_task()}
        if not pending:
            return 0
        _, late = await asyncio.wait(pending, timeout=deadline_seconds)
        return len(late)

    async def stop(self) -> None:
        """Cancel everything, services in reverse order of their start, and wait until all have ended."""
        self._stopping = True
        for task in [*self._errands, *reversed(self._services)]:
            task.cancel()
        await asyncio.gather(*self._errands, *self._services, return_exceptions=True)
        self._services.clear()
        if self._failure is not None and not self._failure.done():
            self._failure.cancel()

    def fail(self, name: str, error: BaseException | None) -> None:
        """Something that must not end has ended with ``error``: the process is to end."""
        if self._stopping or self.failure.done():
            return
        failure = ServiceEnded(f"{name} ended unexpectedly: {error!r}")
        failure.__cause__ = error
        self.failure.set_exception(failure)

    def _service_ended(self, task: asyncio.Task[None]) -> None:
        self.fail(task.get_name(), None if task.cancelled() else task.exception())

    def _errand_ended(self, task: asyncio.Task[Any]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("%s: %s", task.get_name(), error)
