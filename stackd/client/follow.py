"""Stacks that a program follows: a copy of those that filters select, made from a list and kept current by events.

Owns: what an event or a list changes in the copy, and who reads the changes. The stream is open before the list is read, so
that no change is missed; after an outage it resumes, or the list is read again.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar
from weakref import WeakSet

from stackd.client import operations
from stackd.client.attempts import Busy, ClientError, Event, EventReader, Retries, Unreachable, log
from stackd.client.operations import Filters
from stackd.contract import STACK_FIELDS, Stack

if TYPE_CHECKING:
    from stackd.client.clients import AsyncClient, Client

C = TypeVar("C", bound="Client | AsyncClient")
WITHOUT_SPECS = tuple(name for name in STACK_FIELDS if name != "pod_spec")
MOST_UNREAD = 10_000
CLOSING_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A stack that is new or has changed (``stack``), is gone (``deleted``), or is no longer one of the followed (``left``).

    ``stack`` is as it is now, or as it was last; ``before`` is None for a new one. What is missing in the list after an
    outage is ``deleted`` without filters, and ``left`` with filters: it may be deleted, too.
    """

    kind: Literal["stack", "deleted", "left"]
    stack: Stack
    before: Stack | None = None


class Changes:
    """The changes that one reader has not read yet. Raises ClientError if it reads too slowly, or nothing is followed
    any more because of an error.
    """

    def __init__(self, unread: Any) -> None:
        self.unread = unread

    def put(self, change: Change | Exception | None) -> None:
        """Add a change; None is the end."""
        if self.unread.qsize() < MOST_UNREAD:
            self.unread.put_nowait(change)
        elif self.unread.qsize() == MOST_UNREAD:
            self.unread.put_nowait(ClientError(f"{MOST_UNREAD} changes were not read; call changes() again"))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        if (change := self._read(self.unread.get())) is None:
            raise StopIteration
        return change

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        if (change := self._read(await self.unread.get())) is None:
            raise StopAsyncIteration
        return change

    def _read(self, change: Any) -> Change | None:
        if change is None or isinstance(change, Exception):
            self.unread.put_nowait(change)  # for the next call
        if isinstance(change, Exception):
            raise change
        return change  # type: ignore[no-any-return]


class Following(Generic[C]):
    """What both kinds have in common: the copy, and what an event means to it."""

    def __init__(self, client: C, fields: Iterable[str], filters: Filters, retries: Retries) -> None:
        self._client = client
        chosen = (fields,) if isinstance(fields, str) else tuple(fields)
        self._fields = tuple(dict.fromkeys(("stack_id", *chosen))) if chosen else WITHOUT_SPECS
        self._filters, self._retries = filters, retries
        self._reader = EventReader(operations.selection_query(self._fields, filters))
        self._stacks: dict[str, Stack] = {}
        self._listed = self._stopped = False
        self._to_list = True
        self._failures = 0
        self._error: ClientError | None = None
        self._readers: WeakSet[Changes] = WeakSet()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._stacks)} stacks{'' if self._error is None else ', not current'})"

    @property
    def stacks(self) -> Mapping[str, Stack]:
        """The stacks by their ids, as they were at this moment: the mapping does not change."""
        return MappingProxyType(self._stacks)

    @property
    def error(self) -> ClientError | None:
        """Why the stacks are not current now; None while they are."""
        return self._error

    def _read_by(self, unread: Any) -> Changes:
        changes = Changes(unread)
        with self._lock:
            if self._stopped:
                changes.put(None if self._listed else self._error)
            self._readers.add(changes)
        return changes

    def _announce(self, changes: Iterable[Change | Exception | None]) -> None:
        with self._lock:
            for change in changes:
                for reader in self._readers:
                    reader.put(change)

    def _needs_list(self, event: Event) -> bool:
        """Whether the list has to be read now: until that is done, each connection begins with it."""
        self._to_list = self._to_list or event.kind == "reset"
        return self._to_list

    def _list(self, stacks: Iterable[Stack]) -> None:
        now = {stack.stack_id: stack for stack in stacks}
        gone: Literal["left", "deleted"] = "left" if operations.filter_query(**self._filters) else "deleted"
        before, self._stacks, self._listed, self._to_list = self._stacks, now, True, False
        self._announce(Change(kind=gone, stack=one) for stack_id, one in before.items() if stack_id not in now)
        self._announce(
            Change(kind="stack", stack=one, before=before.get(stack_id))
            for stack_id, one in now.items()
            if before.get(stack_id) != one
        )

    def _take(self, event: Event) -> None:
        self._error, self._failures = None, 0
        stack, before = event.stack, self._stacks.get(event.stack_id)
        if stack is not None and stack != before:
            self._stacks = {**self._stacks, stack.stack_id: stack}
            self._announce([Change(kind="stack", stack=stack, before=before)])
        elif event.kind in ("deleted", "left") and before is not None:
            self._stacks = {stack_id: one for stack_id, one in self._stacks.items() if stack_id != event.stack_id}
            kind: Literal["left", "deleted"] = "left" if event.kind == "left" else "deleted"
            self._announce([Change(kind=kind, stack=before)])

    def _lost(self, error: ClientError) -> float:
        """For how many seconds to wait after this error. Raises it if nothing was listed yet and no attempt is left."""
        self._error, again = error, isinstance(error, (Unreachable, Busy))
        if not self._listed and (not again or self._failures >= self._retries.times):
            raise error
        pause = self._retries.pause(min(self._failures, 16), getattr(error, "retry_after", 0.0))
        self._failures += 1
        log.debug("following stacks: %s; again in %.1f s", error.sentence, pause)
        return pause

    def _end(self) -> None:
        self._stopped = True
        self._announce([None])


class Follow(Following["Client"]):
    """The stacks that ``Client.follow`` follows, in a thread of its own: use it in a ``with``."""

    _socket: socket.socket | None = None

    def __enter__(self) -> Self:
        self._first, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="stackd-follow", daemon=True)
        self._thread.start()
        try:
            self._first.wait()
        except BaseException:
            self.close()
            raise
        if not self._listed:
            assert self._error is not None
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def changes(self) -> Changes:
        """All changes from now on, for a ``for`` of one thread; it ends when the stacks are no longer followed."""
        return self._read_by(queue.SimpleQueue())

    def close(self) -> None:
        """Follow no longer."""
        self._closed.set()
        self._wake(self._socket)
        self._thread.join(CLOSING_SECONDS)

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                pause = 0.0
                try:
                    for event in self._client._events(self._reader, self._opened):  # noqa: SLF001 - the same package
                        if self._needs_list(event):
                            self._list(self._client.stacks(fields=self._fields, **self._filters))
                        self._take(event)
                        self._first.set()
                    pause = self._lost(Unreachable("the stream has ended", sent=True))
                except ClientError as error:
                    pause = self._lost(error)
                self._closed.wait(pause)
        except ClientError as error:
            self._error = error
        finally:
            self._end()
            self._first.set()

    def _opened(self, connection: socket.socket) -> None:
        """The stream has a connection, whose end wakes the thread that reads it."""
        self._socket = connection
        if self._closed.is_set():
            self._wake(connection)

    def _wake(self, connection: socket.socket | None) -> None:
        if connection is not None:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


class AsyncFollow(Following["AsyncClient"]):
    """The stacks that ``AsyncClient.follow`` follows, in a task of its own: use it in an ``async with``."""

    async def __aenter__(self) -> Self:
        import asyncio

        self._first = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="stackd-follow")
        try:
            await self._first.wait()
        except BaseException:
            await self.close()
            raise
        if not self._listed:
            await self._task
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def changes(self) -> Changes:
        """All changes from now on, for one ``async for``; it ends when the stacks are no longer followed."""
        import asyncio

        return self._read_by(asyncio.Queue())

    async def close(self) -> None:
        """Follow no longer."""
        import asyncio

        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        import asyncio

        try:
            while True:
                try:
                    async for event in self._client._events(self._reader):  # noqa: SLF001 - the same package
                        if self._needs_list(event):
                            self._list(await self._client.stacks(fields=self._fields, **self._filters))
                        self._take(event)
                        self._first.set()
                    pause = self._lost(Unreachable("the stream has ended", sent=True))
                except ClientError as error:
                    pause = self._lost(error)
                await asyncio.sleep(pause)
        except ClientError as error:
            self._error = error
            raise
        finally:
            self._end()
            self._first.set()
