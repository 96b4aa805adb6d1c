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
from stackd.store.reservations import PortRules
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
_COMPANY_SECONDS = 0.02
"""How long a relaxed operation waits for one that needs the disk, to share its commit."""

_BUSY_SECONDS = 0.05
"""It waits only if the last commit that waited for the disk is not older than this: the next is likely to be near."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Submission:
    """An operation that waits for its turn; ``writes``, ``grows`` and ``relaxed``: see ``Writer.submit``."""

    future: asyncio.Future[Any]
    operation: Callable[[Transaction], Any]
    writes: bool
    grows: bool
    relaxed: bool


Outcome = tuple[Submission, Any, BaseException | None]


@dataclass(kw_only=True, eq=False)
class Writer:
    """The writer thread, which alone uses the connection, and the ballast and rules of ports. ``submit`` is called on the
    event loop; ``publish`` is called there with each committed transaction, before the results of its operations are set.
    """

    path: Path
    connection: sqlite3.Connection
    ports: PortRules
    ballast: Ballast
    clock: Clock
    sequence: int
    publish: Callable[[Transaction], None]
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self._log = companion(self.path, "-wal")
        self._inode, self._log_inode = _inode(self.path), _inode(self._log)
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Submission | None] = queue.SimpleQueue()
        self._outstanding: set[Submission] = set()
        self._closing = False
        self._waits = True
        self._synced_at = -math.inf
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._main, name="stackd-store", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> asyncio.Future[None]:
        """Raises ``StoreError`` once the thread has ended unexpectedly. Waiters can be cancelled without any effect."""
        return asyncio.shield(self._failed)

    @property
    def pending(self) -> int:
        """How many operations have no outcome yet."""
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
        if self._closing or self._failed.done():
            raise StoreUnavailable("the state file is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        call = Submission(future=future, operation=operation, writes=writes, grows=grows, relaxed=relaxed)
        self._outstanding.add(call)
        self._queue.put(call)
        return await future

    async def close(self) -> None:
        """Finish all submitted operations, checkpoint, close the connection, end the thread. Idempotent."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await asyncio.shield(self._ended)
        self._thread.join()

    # ---- on the event loop

    def _settle(self, outcomes: list[Outcome], tx: Transaction | None) -> None:
        try:
            if tx is not None:
                self.publish(tx)
        except BaseException as exc:
            self._fail(exc)  # readers would see less than was committed, so the daemon must stop
            raise
        finally:
            for outcome in outcomes:
                self._resolve(*outcome)

    def _resolve(self, call: Submission, result: Any, error: BaseException | None) -> None:
        self._outstanding.discard(call)
        if call.future.done():
            return
        if error is None:
            call.future.set_result(result)
        else:
            call.future.set_exception(error)

    def _fail(self, exc: BaseException) -> None:
        if self._failed.done():
            return
        error = StoreError(f"the state file failed: {str(exc) or type(exc).__name__}; stackd stops")
        error.__cause__ = exc
        self._failed.set_exception(error)
        self._failed.exception()  # marks the exception as retrieved, because nobody has to await it

    def _end(self, exc: BaseException | None) -> None:
        if exc is not None:
            self._fail(exc)
        for call in tuple(self._outstanding):
            self._resolve(call, None, StoreUnavailable("the state file is closed"))
        if not self._ended.done():
            self._ended.set_result(None)

    # ---- on the thread

    def _main(self) -> None:
        died: BaseException | None = None
        try:
            while self._serve():
                pass
        except BaseException as exc:  # noqa: BLE001  the thread's root: the daemon hears of it through ``failed``
            died = exc
        try:
            self._close_connection()
        except sqlite3.Error as exc:
            died = died or exc
        self._post(self._end, died)

    def _serve(self) -> bool:
        """Commit one group; False when it was the last."""
        calls, last = self._drain()
        if calls:
            fatal = self._commit(calls)
            if fatal is not None:
                raise fatal
        return not last

    def _drain(self) -> tuple[list[Submission], bool]:
        """The operations for the next commit, and whether they are the last."""
        calls: list[Submission] = []
        item = self._queue.get()
        now = time.perf_counter()
        company_until = now + _COMPANY_SECONDS if now - self._synced_at < _BUSY_SECONDS else now
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

    def _commit(self, calls: list[Submission]) -> BaseException | None:
        """Commit a group and post its outcomes; returns the error that must end the thread, if any.

        Errors of the file or the disk are not raised, but become the outcome of each call. On a full disk, the reserved
        space is freed for the calls that do not grow the file, and the others are refused.
        """
        refused: list[Submission] = []
        outcomes: list[Outcome] = []
        tx: Transaction | None = None
        fatal: Exception | None = None
        full = self.ballast.spent and any(call.grows for call in calls) and not self.ballast.fill()
        try:
            try:
                if not full:
                    outcomes, tx = self._attempt(calls)
            except sqlite3.Error as exc:
                if not is_full(exc):
                    raise
                self.ballast.release()
                full = True
            if full:
                refused = [call for call in calls if call.grows]
                calls = [call for call in calls if not call.grows]
                outcomes, tx = self._attempt(calls) if calls else ([], None)
        except sqlite3.Error as exc:
            # Each call gets its own exception, because that collects a traceback.
            outcomes = [(call, None, unavailable(exc)) for call in calls]
            fatal = exc if is_damage(exc) else None
        except ReplacedError as exc:
            outcomes = [(call, None, StoreUnavailable(str(exc))) for call in calls]
            fatal = exc
        why = f"the state file cannot be written now: {self.ballast.why}"
        outcomes += [(call, None, StoreUnavailable(why)) for call in refused]
        self._post(self._settle, outcomes, tx)
        return fatal

    def _attempt(self, calls: list[Submission]) -> tuple[list[Outcome], Transaction | None]:
        """Run all calls in one transaction. If it cannot be committed, it is rolled back, and the error is raised."""
        writes = any(call.writes for call in calls)
        strict = any(call.writes and not call.relaxed for call in calls)
        if strict != self._waits:
            self.connection.execute(f"PRAGMA synchronous = {'FULL' if strict else 'NORMAL'}")
            self._waits = strict
        if writes:
            self._require_in_place()
        try:
            tx = self._begin(writes)
            outcomes = [self._apply(tx, call, isolated=False) for call in calls]
            if len(calls) == 1 and outcomes[0][2] is not None:
                self._roll_back()
                return outcomes, None
            if tx.unclean:
                self._roll_back()
                tx = self._begin(writes)
                outcomes = [self._apply(tx, call, isolated=True) for call in calls]
            # Observations are relaxed. They do not change what is intended, so they do not advance the sequence.
            if tx.stacks and strict:
                tx.sequence += 1
                self.connection.execute(SET_META, (SEQUENCE, str(tx.sequence)))
            self._finish(writes)
        except BaseException:
            self.counters.failed_commits += 1
            self._roll_back()
            raise
        if tx.tight and writes:  # the next commit overwrites the log: it must not grow on a disk that is almost full
            self._checkpoint("RESTART")
        self.sequence = tx.sequence
        return outcomes, tx

    def _begin(self, writes: bool) -> Transaction:
        self.connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        return Transaction(
            connection=self.connection,
            counters=self.counters,
            ports=self.ports,
            now=self.clock.now(),
            sequence=self.sequence,
            tight=self.ballast.spent,
        )

    def _roll_back(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def _apply(self, tx: Transaction, call: Submission, *, isolated: bool) -> Outcome:
        """Run one operation; ``isolated``: in a savepoint, so that it leaves nothing if it fails.

        A failed operation has mostly written nothing. If it has, the group is run again, all of it in savepoints: these
        are two statements for each operation, and each statement may hand the interpreter to the event loop.
        """
        if call.future.cancelled():
            return call, None, None  # nobody waits for it, and it has not started
        self.counters.operations += 1
        try:
            return call, tx.attempt(call.operation, isolated=isolated), None
        except sqlite3.IntegrityError as exc:
            return call, None, from_constraint(exc)
        except sqlite3.Error as exc:
            if is_environment(exc):
                raise
            return call, None, exc
        except Exception as exc:  # noqa: BLE001  the operation's own error: it goes to the caller, the others are not touched
            return call, None, exc

    def _finish(self, writes: bool) -> None:
        began = time.perf_counter()
        self.connection.execute("COMMIT")
        if writes:
            self._require_in_place()  # they may have been removed since the transaction began
            if self._waits:
                self._synced_at = began
            self.counters.commits += 1
            self.counters.disk_waits += self._waits
            self.counters.commit_durations.observe(time.perf_counter() - began)

    def _checkpoint(self, mode: str) -> None:
        """Write the log back into the file, as far as the file or the machine allows."""
        try:
            self.connection.execute(f"PRAGMA wal_checkpoint({mode})")
        except sqlite3.OperationalError as exc:
            if not is_environment(exc):
                raise

    def _close_connection(self) -> None:
        """Checkpoint the log and close."""
        try:
            self._checkpoint("TRUNCATE")  # if that fails, the log stays, and the next start replays it
        finally:
            self.connection.close()

    def _post(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _require_in_place(self) -> None:
        """Raise ReplacedError unless the paths lead to the open files."""
        if _inode(self.path) != self._inode:
            raise ReplacedError(f"the state file {self.path} was removed or replaced while stackd was running")
        log = _inode(self._log)
        if self._log_inode is None:
            self._log_inode = log
        elif log != self._log_inode:
            raise ReplacedError(
                f"{self._log}, a part of the state file, was removed or replaced while stackd was running"
            )


class ReplacedError(Exception):
    """The path leads to another file than the open one."""


def _inode(path: Path) -> int | None:
    with suppress(FileNotFoundError):
        return os.stat(path).st_ino
    return None
