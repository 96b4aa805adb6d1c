"""The only thread that writes: it owns the connection, and commits all waiting operations together (group commit).

Owns: the queue, which operations share a commit, the transaction around a group, what becomes of the others when one
operation in it fails, and the retry when the disk is full. Does not know what the operations do. Hands each committed
group to the event loop in one call.

Owns, too, the check that the path still leads to the open files. Whatever is written to a removed file or log is lost at
the next start, so no such write may be acknowledged.
"""

from __future__ import annotations

import asyncio
import math
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from stackd.clock import Clock
from stackd.errors import StoreError, StoreUnavailable
from stackd.store.file import Ballast, companion
from stackd.store.identity import SEQUENCE, SET_META
from stackd.store.node_ports import NodePorts
from stackd.store.transaction import (
    Counters,
    Transaction,
    from_constraint,
    is_damage,
    is_environment,
    is_full,
    unavailable,
)

T = TypeVar("T")

_MAX_OPERATIONS = 500  # limits how long the first operation of a burst waits for its commit
_COMPANY_SECONDS = 0.005
"""How long a relaxed operation waits for one that needs the disk, to share its commit."""

_BUSY_SECONDS = 0.01
"""It waits only while commits that wait for the disk follow each other that closely: then the next is near. The two of one
create are 15 ms apart, and nothing follows them."""


@dataclass(slots=True, kw_only=True, eq=False)
class Submission:
    """An operation that waits for its turn (``writes``, ``grows`` and ``relaxed``: see ``Writer.submit``), and its outcome."""

    future: asyncio.Future[Any]
    operation: Callable[[Transaction], Any]
    writes: bool
    grows: bool
    relaxed: bool
    result: Any = None
    error: BaseException | None = None


class ReplacedError(Exception):
    """A path leads to another file than the open one."""


@dataclass(kw_only=True, eq=False)
class Writer:
    """The writer thread, which alone uses the connection, and the ballast. ``submit`` is called on the
    event loop; ``publish`` is called there with each committed transaction, before the results of its operations are set.
    """

    path: Path
    connection: sqlite3.Connection
    ports: NodePorts
    ballast: Ballast
    clock: Clock
    sequence: int
    publish: Callable[[Transaction], None]
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self._inodes = {path: _inode(path) for path in (self.path, companion(self.path, "-wal"))}
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Submission | None] = queue.SimpleQueue()
        self._outstanding: set[Submission] = set()
        self._closing = False
        self._error: BaseException | None = None
        self._waits = True
        self._synced_at, self._pace = -math.inf, math.inf
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._main, name="stackd-store", daemon=True)
        self._thread.start()

    async def failed(self) -> None:
        """Return once the thread has ended; raises ``StoreError`` if that was unexpected."""
        await asyncio.shield(self._ended)  # a caller that is cancelled has no effect on the others

    @property
    def pending(self) -> int:
        return len(self._outstanding)

    async def submit(
        self,
        operation: Callable[[Transaction], T],
        *,
        writes: bool = True,
        grows: bool = False,
        relaxed: bool = False,
    ) -> T:
        """Run the operation in the next transaction; returns its result once that is durable and published.

        ``writes`` is False for an operation that only reads. One that ``grows`` is refused while the disk is full.
        A ``relaxed`` one does not wait for the disk: it survives the end of the process, but a power failure may lose it,
        unless a later operation has waited. While others commit all the time, it waits for up to ``_COMPANY_SECONDS`` to
        share a commit. Cancelling the call does not undo an operation that has started.
        """
        if self._closing or self._ended.done():
            raise StoreUnavailable("the state file is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        call = Submission(future=future, operation=operation, writes=writes, grows=grows, relaxed=relaxed)
        self._outstanding.add(call)
        self._queue.put(call)
        return await future

    async def close(self) -> None:
        """Finish all submitted operations, checkpoint, close the connection, end the thread. Idempotent."""
        self._stop()
        await asyncio.wait([self._ended])
        self._thread.join()

    # ---- on the event loop

    def _stop(self) -> None:
        if not self._closing:
            self._closing = True
            self._queue.put(None)

    def _settle(self, calls: list[Submission], tx: Transaction | None) -> None:
        try:
            if tx is not None:
                self.publish(tx)
        except BaseException as exc:
            self._error = exc  # readers would see less than was committed, so the daemon must stop
            self._stop()
            raise
        finally:
            for call in calls:
                self._resolve(call)

    def _resolve(self, call: Submission) -> None:
        self._outstanding.discard(call)
        if call.future.done():
            return
        if call.error is None:
            call.future.set_result(call.result)
        else:
            call.future.set_exception(call.error)

    def _end(self, died: BaseException | None) -> None:
        for call in tuple(self._outstanding):
            call.error = StoreUnavailable("the state file is closed")
            self._resolve(call)
        if (cause := self._error or died) is None:
            self._ended.set_result(None)
            return
        error = StoreError(f"the state file failed: {str(cause) or type(cause).__name__}; stackd stops")
        error.__cause__ = cause
        self._ended.set_exception(error)
        self._ended.exception()  # marks the exception as retrieved, because nobody has to await it

    # ---- on the thread

    def _main(self) -> None:
        died: BaseException | None = None
        try:
            last = False
            while not last:
                calls, last = self._drain()
                if calls:
                    self._serve(calls)
        except BaseException as exc:  # noqa: BLE001  the thread's root: the daemon hears of it through ``failed``
            died = exc
        try:
            try:
                self._checkpoint("TRUNCATE")  # if that fails, the log stays, and the next start replays it
            finally:
                self.connection.close()
        except sqlite3.Error as exc:
            died = died or exc
        self._post(self._end, died)

    def _drain(self) -> tuple[list[Submission], bool]:
        """The operations for the next commit, and whether they are the last."""
        calls: list[Submission] = []
        item = self._queue.get()
        now = time.perf_counter()
        company_until = now + company_seconds(now - self._synced_at, self._pace)
        relaxed = True
        while item is not None:
            calls.append(item)
            relaxed = relaxed and item.relaxed
            if len(calls) >= _MAX_OPERATIONS:
                return calls, False
            wait = company_until - time.perf_counter() if relaxed else 0.0
            try:
                item = self._queue.get(wait > 0, wait)
            except queue.Empty:
                return calls, False
        return calls, True

    def _serve(self, calls: list[Submission]) -> None:
        """Commit a group and post its outcomes; an error of the file or the disk is that of each call, and is raised only
        if it must end the thread.
        """
        tx, fatal = None, None
        try:
            tx = self._commit(calls)
        except (sqlite3.Error, ReplacedError) as exc:
            for call in calls:  # each gets its own exception, because that collects a traceback
                call.error = unavailable(exc) if isinstance(exc, sqlite3.Error) else StoreUnavailable(str(exc))
            fatal = None if isinstance(exc, sqlite3.Error) and not is_damage(exc) else exc
        self._post(self._settle, calls, tx)
        if fatal is not None:
            raise fatal

    def _commit(self, calls: list[Submission]) -> Transaction | None:
        """Run and commit a group. On a full disk, the reserved space is freed for the calls that do not grow the file, and
        the others are refused.
        """
        full = self.ballast.spent and any(call.grows for call in calls) and not self.ballast.fill()
        if not full:
            try:
                return self._attempt(calls)
            except sqlite3.Error as exc:
                if not is_full(exc):
                    raise
                self.ballast.release()
        for call in calls:
            if call.grows:
                call.error = StoreUnavailable(f"the state file cannot be written now: {self.ballast.why}")
        calls = [call for call in calls if not call.grows]
        return self._attempt(calls) if calls else None

    def _attempt(self, calls: list[Submission]) -> Transaction:
        """Run all calls in one transaction. If it cannot be committed, it is rolled back, and the error is raised."""
        writes = any(call.writes for call in calls)
        strict = any(call.writes and not call.relaxed for call in calls)
        if strict != self._waits:
            self.connection.execute(f"PRAGMA synchronous = {'FULL' if strict else 'NORMAL'}")
            self._waits = strict
        if writes:
            self._require_in_place()
        try:
            tx = self._run(calls, writes, isolated=False)
            if tx.unclean:
                self._roll_back()
                tx = self._run(calls, writes, isolated=True)
            # Observations are relaxed. They do not change what is intended, so they do not advance the sequence.
            if tx.stacks and strict:
                tx.sequence += 1
                self.connection.execute(SET_META, (SEQUENCE, str(tx.sequence)))
            began = time.perf_counter()
            self.connection.execute("COMMIT")
            if writes:
                self._require_in_place()  # they may have been removed since the transaction began
                self._count(began)
        except BaseException:
            self.counters.failed_commits += 1
            self._roll_back()
            raise
        if tx.tight and writes:  # the next commit overwrites the log: it must not grow on a disk that is almost full
            self._checkpoint("RESTART")
        self.sequence = tx.sequence
        return tx

    def _count(self, began: float) -> None:
        self.counters.commits += 1
        self.counters.commit_durations.observe(time.perf_counter() - began)
        if self._waits:
            self._synced_at, self._pace = began, began - self._synced_at
            self.counters.disk_waits += 1

    def _roll_back(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def _run(self, calls: list[Submission], writes: bool, *, isolated: bool) -> Transaction:
        """Begin a transaction and run the operations in it; ``isolated``: each in a savepoint, to leave nothing if it fails.

        A failed operation has mostly written nothing. If it has, the group is run again, all of it in savepoints: these
        are two statements for each operation, and each statement may hand the interpreter to the event loop.
        """
        self.connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        tx = Transaction(
            connection=self.connection,
            counters=self.counters,
            ports=self.ports,
            now=self.clock.now(),
            sequence=self.sequence,
            tight=self.ballast.spent,
        )
        for call in calls:
            if call.future.cancelled():
                continue  # nobody waits for it, and it has not started
            self.counters.operations += 1
            call.result = call.error = None
            try:
                call.result = tx.attempt(call.operation, isolated=isolated)
            except sqlite3.IntegrityError as exc:
                call.error = from_constraint(exc)
            except Exception as exc:
                if isinstance(exc, sqlite3.Error) and is_environment(exc):
                    raise
                call.error = exc
        return tx

    def _checkpoint(self, mode: str) -> None:
        """Write the log back into the file, as far as the file or the machine allows."""
        try:
            self.connection.execute(f"PRAGMA wal_checkpoint({mode})")
        except sqlite3.OperationalError as exc:
            if not is_environment(exc):
                raise

    def _post(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _require_in_place(self) -> None:
        """Raise ReplacedError unless the paths lead to the open files."""
        for path, opened in self._inodes.items():
            inode = _inode(path)
            if opened is None:  # the log is created by the first write
                self._inodes[path] = inode
            elif inode != opened:
                raise ReplacedError(f"the state file {path} was removed or replaced while stackd was running")


def company_seconds(age: float, pace: float) -> float:
    """For how long a relaxed operation waits for one that needs the disk: the last such commit is ``age`` seconds old, and
    began ``pace`` seconds after the one before it."""
    return _COMPANY_SECONDS if max(age, pace) < _BUSY_SECONDS else 0.0


def _inode(path: Path) -> int | None:
    with suppress(FileNotFoundError):
        return os.stat(path).st_ino
    return None
