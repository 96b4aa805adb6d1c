"""Waiting for a state of a named object, for an event, or for the first of several. No change is missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Waiter(Generic[S]):
    predicate: Callable[[S | None], Any]
    found: asyncio.Future[Any]


class Waiters(Generic[S]):
    """Waiters by object name; a change wakes only the waiters for that name."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[_Waiter[S]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_name.values()))

    async def until(
        self, name: str, predicate: Callable[[S | None], T | None], current: Callable[[], S | None], timeout: float
    ) -> T:
        """The first value other than None that the predicate returns. Raises TimeoutError after ``timeout`` seconds.

        The predicate is called with ``current()`` first and then with every change, even if that state is over before
        the waiter runs. Its exceptions are raised here.
        """
        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiter: _Waiter[S] = _Waiter(predicate, found)
        self._by_name.setdefault(name, []).append(waiter)
        try:
            _ask(waiter, current())
            async with asyncio.timeout(timeout):
                result: T = await found
                return result
        finally:
            self._forget(name, waiter)

    def wake(self, name: str, state: S | None) -> None:
        """Pass the new state to the waiters for ``name``."""
        for waiter in tuple(self._by_name.get(name, ())):
            _ask(waiter, state)

    def give_up(self) -> None:
        """Raise TimeoutError in all waiters now, as at a shutdown."""
        for waiting in list(self._by_name.values()):
            for waiter in waiting:
                if not waiter.found.done():
                    waiter.found.set_exception(TimeoutError())

    def _forget(self, name: str, waiter: _Waiter[S]) -> None:
        waiting = self._by_name[name]
        waiting.remove(waiter)
        if not waiting:
            del self._by_name[name]


def _ask(waiter: _Waiter[S], state: S | None) -> None:
    if waiter.found.done():
        return
    try:
        value = waiter.predicate(state)
    except Exception as exc:  # noqa: BLE001 - it is raised where the predicate came from
        waiter.found.set_exception(exc)
        return
    if value is not None:
        waiter.found.set_result(value)


async def set_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Whether the event is set within ``seconds``; None: wait without limit."""
    if event.is_set():
        return True
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def acquired_within(slots: asyncio.Semaphore, seconds: float) -> bool:
    """Whether the semaphore was acquired within ``seconds``; the caller then releases it."""
    try:
        async with asyncio.timeout(seconds):
            return await slots.acquire()
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
