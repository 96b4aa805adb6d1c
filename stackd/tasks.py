"""Named, supervised tasks; and waiting for a state of a named object, for an event, or for the first of several.

Owns: every task that outlives the call that started it. A *service* runs until it is stopped; if it ends earlier, the
process ends. A *background task* ends by itself, and a graceful stop waits for it. Its exception is raised where it is
awaited. If nobody awaits it, a StackdError is logged and any other exception ends the process. Whoever waits misses no
change.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from stackd.errors import StackdError

log = logging.getLogger(__name__)

T = TypeVar("T")


class ServiceEnded(RuntimeError):
    """A service ended although nobody stopped it, or a task that nobody awaits failed unexpectedly."""


class Tasks:
    """The tasks of one daemon; ``failure`` fails with ``ServiceEnded`` when the process has to end."""

    def __init__(self) -> None:
        self._services: list[asyncio.Task[None]] = []
        self._background: set[asyncio.Task[Any]] = set()
        self._unawaited: set[asyncio.Task[Any]] = set()
        self._cut: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def supervise(self, name: str, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a service."""
        task = asyncio.create_task(coro, name=name)
        self._services.append(task)
        task.add_done_callback(self._service_ended)
        return task

    def spawn(self, name: str, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a background task that the caller awaits, and whose exception the caller handles."""
        task = asyncio.create_task(coro, name=name)
        self._background.add(task)
        task.add_done_callback(self._background_ended)
        return task

    def background(self, name: str, coro: Coroutine[Any, Any, object], *, may_be_cut: bool = False) -> None:
        """Start a background task that nobody awaits: an unexpected exception ends the process. A graceful stop does not wait
        for one that ``may_be_cut``."""
        task = self.spawn(name, coro)
        self._unawaited.add(task)
        if may_be_cut:
            self._cut.add(task)

    def let_go(self, task: asyncio.Task[Any]) -> None:
        """Stop awaiting the task: from now on its unexpected exception ends the process."""
        self._unawaited.add(task)
        if task.done():
            self._background_ended(task)

    async def result_of(self, task: asyncio.Task[T]) -> T:
        """The result of a background task. The task continues when the caller is cancelled."""
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.let_go(task)
            raise

    async def run(self, name: str, coro: Coroutine[Any, Any, T]) -> T:
        """The result of a new background task, which continues when the caller is cancelled."""
        return await self.result_of(self.spawn(name, coro))

    async def finish(self, deadline_seconds: float) -> int:
        """Wait for the background tasks and those that they start; returns how many still run after the deadline."""
        end = time.monotonic() + deadline_seconds
        while pending := self._background - self._cut - {asyncio.current_task()}:
            remaining = end - time.monotonic()
            if remaining <= 0:
                return len(pending)
            await asyncio.wait(pending, timeout=remaining)
        return 0

    async def stop(self) -> None:
        """Cancel everything, services in reverse order of their start, and wait until all have ended."""
        self._stopping = True
        while running := [
            *self._background,
            *reversed(self._services),
        ]:  # also what those have started, such as an undo
            self._services.clear()
            for task in running:
                task.cancel()
            await asyncio.wait(running)  # unlike gather, it lets the callbacks of what has ended already run first
        self.failure.cancel()

    def fail(self, name: str, error: BaseException | None) -> None:
        """End the process because the task ``name`` ended, with ``error`` or (None) without one."""
        if self._stopping or self.failure.done():
            return
        if error is not None and not _is_expected(error):
            log.error("%s ended unexpectedly, and so does the process", name, exc_info=error)
        failure = ServiceEnded(f"{name} ended unexpectedly: {error!r}")
        failure.__cause__ = error
        self.failure.set_exception(failure)

    def _service_ended(self, task: asyncio.Task[None]) -> None:
        self.fail(task.get_name(), None if task.cancelled() else task.exception())

    def _background_ended(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        self._cut.discard(task)
        unattended = task in self._unawaited
        self._unawaited.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if unattended and not _is_expected(error):
            self.fail(task.get_name(), error)
        else:
            log.debug("%s: %s", task.get_name(), error)


def _is_expected(error: BaseException) -> bool:
    """Whether it is a StackdError, or a group of nothing else: then something outside failed, not the program."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(StackdError)[1] is None
    return isinstance(error, StackdError)


S = TypeVar("S")


class Waiters(Generic[S]):
    """Waiters by object name; a change wakes only the waiters for that name."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[tuple[Callable[[S | None], Any], asyncio.Future[Any]]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_name.values()))

    async def until(
        self, name: str, predicate: Callable[[S | None], T | None], current: Callable[[], S | None], timeout: float
    ) -> T:
        """The first value other than None that the predicate returns. Raises TimeoutError after ``timeout`` seconds.

        The predicate is called with ``current()`` first and then with every change, even if that state is over before
        the waiter runs. Its exceptions are raised here.
        """
        with self.waiting(name, predicate, current) as waiter:
            async with asyncio.timeout(timeout):
                return await waiter

    @contextmanager
    def waiting(
        self, name: str, predicate: Callable[[S | None], T | None], current: Callable[[], S | None]
    ) -> Iterator[asyncio.Future[T]]:
        """What ``until`` waits for, within this context; the caller may end the wait with an exception of its own."""
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        waiter, waiting = (predicate, result), self._by_name.setdefault(name, [])
        waiting.append(waiter)
        try:
            _ask(*waiter, current())
            yield result
        finally:
            if not result.cancel() and not result.cancelled():
                result.exception()  # marks it as retrieved: the caller may have left
            waiting.remove(waiter)
            if not waiting and self._by_name.get(name) is waiting:
                del self._by_name[name]

    def wake(self, name: str, state: S | None) -> None:
        """Pass the new state to the waiters for ``name``."""
        for waiter in tuple(self._by_name.get(name, ())):
            _ask(*waiter, state)

    def give_up(self) -> None:
        """Raise TimeoutError in all waiters now, as at a shutdown."""
        for waiting in self._by_name.values():
            for _, result in waiting:
                if not result.done():
                    result.set_exception(TimeoutError())


def _ask(predicate: Callable[[S | None], Any], result: asyncio.Future[Any], state: S | None) -> None:
    if result.done():
        return
    try:
        value = predicate(state)
    except Exception as exc:  # noqa: BLE001 - it is raised where the predicate came from
        result.set_exception(exc)
    else:
        if value is not None:
            result.set_result(value)


async def set_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Whether the event is set within ``seconds``; None: wait without limit."""
    return event.is_set() or await _within(event.wait(), seconds)


async def acquired_within(slots: asyncio.Semaphore, seconds: float) -> bool:
    """Whether the semaphore was acquired within ``seconds``; the caller then releases it."""
    return await _within(slots.acquire(), seconds)


async def _within(waiting: Awaitable[bool], seconds: float | None) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await waiting
    except TimeoutError:
        return False


async def first_of(
    *events: asyncio.Event, failure: asyncio.Future[Any] | None = None, timeout: float | None = None
) -> None:
    """Return as soon as one of the events is set, or ``failure`` is done, or after ``timeout`` seconds."""
    if any(event.is_set() for event in events):
        return
    waiting = [asyncio.create_task(event.wait(), name="event") for event in events]
    either: list[asyncio.Future[Any]] = [*waiting, failure] if failure is not None else [*waiting]
    try:
        await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
