"""Waiting for a named object to be in some state, for an event, or for the first of some. No change is missed."""

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
    """Those who wait, by the name that they wait for: a change wakes nobody else."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[_Waiter[S]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_name.values()))

    async def until(
        self, name: str, predicate: Callable[[S | None], T | None], current: Callable[[], S | None], timeout: float
    ) -> T:
        """The first value other than None that the predicate gives. Raises TimeoutError after ``timeout`` seconds.

        The predicate is asked about ``current()`` first and then about every single change, also about states that
        are over again when the one who waits gets to run. What it raises is raised here.
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
        """Tell those who wait for the name how it is now."""
        for waiter in tuple(self._by_name.get(name, ())):
            _ask(waiter, state)

    def give_up(self) -> None:
        """Let everybody who waits have a TimeoutError now, as at a shutdown."""
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
    """Whether the event is set within so many seconds; None: however long that takes."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def first_of(
    *events: asyncio.Event, failure: asyncio.Future[Any] | None = None, timeout: float | None = None
) -> None:
    """Return as soon as one of the events is set, or the future is done, or after ``timeout`` seconds."""
    if any(event.is_set() for event in events):
        return
    waiting = [asyncio.create_task(event.wait(), name="event") for event in events]
    either: list[asyncio.Future[Any]] = [*waiting, failure] if failure is not None else [*waiting]
    try:
        await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
