"""What an operation works with: the write connection, the rules for ports, and the list of its changes.

Owns: counting statements, and staging changed records until the commit is durable. Operations are plain functions
``(Transaction, …) -> result``. They may run twice (after a full disk), so they must have no other side effects.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from stackd.metrics import Histogram
from stackd.model import Job, Stack

if TYPE_CHECKING:
    from stackd.store.ports import PortRules

T = TypeVar("T")
P = ParamSpec("P")


BEGIN_READ = "BEGIN"
BEGIN_WRITE = "BEGIN IMMEDIATE"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"
SYNC_EACH_COMMIT = "PRAGMA synchronous = FULL"
SYNC_LATER = "PRAGMA synchronous = NORMAL"
CHECKPOINT = "PRAGMA wal_checkpoint(TRUNCATE)"
BEGIN_LOG_ANEW = "PRAGMA wal_checkpoint(RESTART)"
OPERATION, ADOPTION, ITEM = "operation", "adoption", "item"
"""Names of savepoints."""


def id_array(ids: Iterable[str]) -> str:
    """The ids as a JSON array, as the queries take them."""
    return json.dumps(list(ids))


@dataclass(slots=True, kw_only=True)
class Counters:
    """Totals since the file was opened. The writer thread writes them, anyone may read them.

    ``statements`` counts the statements of operations, each row of an executemany as one. It leaves out transaction
    control, so it does not depend on how operations were grouped. ``disk_waits`` counts the commits that waited until
    the data was on the disk.
    """

    operations: int = 0
    statements: int = 0
    commits: int = 0
    disk_waits: int = 0
    failed_commits: int = 0
    commit_durations: Histogram = field(default_factory=Histogram)


class Transaction:
    """One transaction of the writer; ``now`` is the wall clock in nanoseconds at its start.

    ``tight`` means that the disk is almost full; operations then leave out what is not essential.
    """

    def __init__(
        self, connection: sqlite3.Connection, counters: Counters, ports: PortRules, now: int, *, tight: bool = False
    ) -> None:
        self._connection = connection
        self._counters = counters
        self.ports = ports
        self.now = now
        self.tight = tight
        self.unclean = False
        """Whether a failed operation has left changes in the transaction, so that it cannot be committed."""
        self.stacks: list[tuple[str, Stack | None]] = []
        self.jobs: list[tuple[str, Job | None]] = []

    def run(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> int:
        """Execute a statement; returns the number of changed rows."""
        self._counters.statements += 1
        return self._connection.execute(sql, parameters).rowcount

    def row(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> tuple[Any, ...] | None:
        """The first row, or None."""
        rows = self.rows(sql, parameters)
        return rows[0] if rows else None

    def rows(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """All rows."""
        self._counters.statements += 1
        return self._connection.execute(sql, parameters).fetchall()

    def many(self, sql: str, parameters: Iterable[Sequence[Any] | Mapping[str, Any]]) -> None:
        """Execute the statement once for each of ``parameters``."""
        batch = list(parameters)
        self._counters.statements += len(batch)
        self._connection.executemany(sql, batch)

    def put_stack(self, stack: Stack) -> Stack:
        """Stage a written stack for the view; returns it."""
        self.stacks.append((stack.stack_id, stack))
        return stack

    def put_job(self, job: Job) -> Job:
        """Stage a written job for the view; returns it."""
        self.jobs.append((job.job_id, job))
        return job

    def anew(self) -> Transaction:
        """A transaction like this one, without what was staged in it; this one must have been rolled back."""
        return Transaction(self._connection, self._counters, self.ports, self.now, tight=self.tight)

    def tried(self, operation: Callable[[Transaction], T]) -> T:
        """Run the operation. If it raises, ``unclean`` says whether rows that it has changed are left changed."""
        staged, changes = self._staged(), self._connection.total_changes
        try:
            return operation(self)
        except BaseException:
            self._unstage(*staged)
            self.unclean = self.unclean or self._connection.total_changes != changes
            raise

    def isolated(self, operation: Callable[[Transaction], T], savepoint: str) -> T:
        """Run the operation in a savepoint. If it raises, all its changes are undone."""
        staged = self._staged()
        self._connection.execute(f"SAVEPOINT {savepoint}")
        try:
            result = operation(self)
        except BaseException:
            self._unstage(*staged)
            if self._connection.in_transaction:  # SQLite may have rolled it back already, after a full disk
                self._connection.execute(f"ROLLBACK TO {savepoint}")
                self._connection.execute(f"RELEASE {savepoint}")
            raise
        self._connection.execute(f"RELEASE {savepoint}")
        return result

    def _staged(self) -> tuple[int, int]:
        return len(self.stacks), len(self.jobs)

    def _unstage(self, stacks: int, jobs: int) -> None:
        """Forget what was staged since then."""
        del self.stacks[stacks:]
        del self.jobs[jobs:]


class Submit(Protocol):
    """``Writer.submit``."""

    async def __call__(
        self,
        operation: Callable[[Transaction], T],
        /,
        *,
        writes: bool = True,
        grows: bool = False,
        relaxed: bool = False,
    ) -> T:
        """Run the operation in the next transaction; returns its result once that is durable and published."""


class Table:
    """A part of the file with its own operations; ``submit`` hands them to the writer's thread."""

    def __init__(self, submit: Submit) -> None:
        self._submit = submit


def operation(
    function: Callable[Concatenate[Transaction, P], T],
    *,
    writes: bool = True,
    grows: bool = False,
    relaxed: bool = False,
) -> Callable[Concatenate[Table, P], Coroutine[Any, Any, T]]:
    """Make the function a method of a ``Table`` that runs it in one transaction (see ``Writer.submit``).

    Lists and other iterables are copied at the call, because the function runs later, and twice after a full disk.
    """

    @wraps(function)
    async def method(self: Table, /, *args: P.args, **kwargs: P.kwargs) -> T:
        given: Any = [_as_it_is_now(argument) for argument in args]
        named: Any = {name: _as_it_is_now(argument) for name, argument in kwargs.items()}
        return await self._submit(lambda tx: function(tx, *given, **named), writes=writes, grows=grows, relaxed=relaxed)

    return method


def _as_it_is_now(argument: object) -> object:
    if isinstance(argument, Iterable) and not isinstance(argument, str | bytes | Mapping):
        return tuple(argument)
    return argument
