"""What an operation gets to work with: the write connection, the port pool, and a list of what it changed.

Owns the counting of statements, and the staging of changed records until the commit is durable. Operations are plain
functions ``(Transaction, …) -> result``; they may run twice (after a full disk) and must not keep anything outside.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from stackd.metrics import Histogram
from stackd.model import Job, Stack
from stackd.store import queries
from stackd.store.ports import PortPool

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Savepoint:
    """The three statements of a named savepoint."""

    begin: str
    back: str
    release: str


OPERATION = Savepoint(begin=queries.SAVEPOINT, back=queries.ROLLBACK_TO, release=queries.RELEASE)
ADOPTION = Savepoint(begin=queries.SAVEPOINT_ADOPT, back=queries.ROLLBACK_TO_ADOPT, release=queries.RELEASE_ADOPT)


@dataclass(slots=True, kw_only=True)
class Counters:
    """Totals since the file was opened; written by the writer thread, read by anyone.

    ``statements`` counts what operations execute, each row of an executemany as one; transaction control is not in it,
    so the number does not depend on how operations happened to be grouped. ``disk_waits`` counts the commits that
    returned only once the disk had them.
    """

    operations: int = 0
    statements: int = 0
    commits: int = 0
    disk_waits: int = 0
    failed_commits: int = 0
    commit_seconds_total: float = 0.0
    commit_seconds_last: float = 0.0
    commit_durations: Histogram = field(default_factory=Histogram)


class Transaction:
    """One transaction of the writer; ``now`` is the wall clock in nanoseconds at its beginning.

    While it is ``tight`` there is hardly room on the disk: what can be done without is not written.
    """

    def __init__(
        self, connection: sqlite3.Connection, counters: Counters, ports: PortPool, now: int, *, tight: bool = False
    ) -> None:
        self._connection = connection
        self._counters = counters
        self.ports = ports
        self.now = now
        self.tight = tight
        self.stacks: list[tuple[str, Stack | None]] = []
        self.jobs: list[tuple[str, Job | None]] = []

    def run(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> int:
        """Execute; the number of rows changed."""
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

    def many(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        """Execute once for each."""
        batch = list(parameters)
        self._counters.statements += len(batch)
        self._connection.executemany(sql, batch)

    def put_stack(self, stack: Stack) -> Stack:
        """Stage a stack as written."""
        self.stacks.append((stack.stack_id, stack))
        return stack

    def put_job(self, job: Job) -> Job:
        """Stage a job as written."""
        self.jobs.append((job.job_id, job))
        return job

    def isolated(self, operation: Callable[[Transaction], T], savepoint: Savepoint) -> T:
        """Run within a savepoint: if it raises, nothing of it remains, not in the port pool either."""
        stacks, jobs, ports = len(self.stacks), len(self.jobs), self.ports.mark()
        self._connection.execute(savepoint.begin)
        try:
            result = operation(self)
        except BaseException:
            del self.stacks[stacks:]
            del self.jobs[jobs:]
            self.ports.undo(ports)
            if self._connection.in_transaction:  # a full disk may have ended the transaction already
                self._connection.execute(savepoint.back)
                self._connection.execute(savepoint.release)
            raise
        self._connection.execute(savepoint.release)
        return result
