"""What an operation works with: the write connection, the rules for ports, and the list of its changes; and the views, in
which reads see what is committed, and never wait.

Owns: how records and rows become each other, staging changed records until the commit is durable, how an operation becomes
a method, and what SQLite's errors mean (no other package sees an exception of ``sqlite3``). Operations are plain functions
``(Transaction, …) -> result``. They may run twice (after a full disk), so they must have no other side effects.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine, Iterable, Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import wraps
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from msgspec import json

from stackd.errors import Conflict, StackdError, StoreUnavailable
from stackd.metrics import Histogram
from stackd.model import NO_LABELS, Job, Stack
from stackd.store.identity import FileIdentity
from stackd.store.node_ports import NodePorts

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
Parameters = Sequence[Any] | Mapping[str, Any]
Submit = Callable[..., Coroutine[Any, Any, Any]]
"""``Writer.submit``."""
Forms = Mapping[str, Callable[[Any], Any]]
NO_FORMS: Forms = {}
IDS = "(SELECT value FROM json_each(?))"
"""The ids of an ``id_array``, in SQL."""


def json_text(value: object) -> str:
    return json.encode(value, order="sorted").decode()


def id_array(ids: Iterable[str]) -> str:
    """The ids as a JSON array, as the queries take them: a query for ten thousand ids is one statement."""
    return json_text(list(ids))


def labels_text(labels: Mapping[str, str]) -> str:
    return json_text(dict(labels))


def labels_from(text: str) -> Mapping[str, str]:
    return NO_LABELS if text == "{}" else MappingProxyType(json.decode(text))


class Columns(Generic[R]):
    """The columns of one kind of record: one for each field (``without`` one), of its name unless it is ``renamed``.

    ``read`` and ``write`` are for fields with another form in their column; SQLite takes enumerations and booleans as
    they are. All SQL that names these columns is derived from ``sql``, and has the fields as ``parameters``.
    """

    def __init__(
        self,
        record: type[R],
        *,
        read: Forms = NO_FORMS,
        write: Forms = NO_FORMS,
        renamed: Mapping[str, str] = NO_LABELS,
        without: str = "",
    ) -> None:
        self._record, self._read, self._write = record, read, write
        names = [field.name for field in fields(record) if field.name != without]  # type: ignore[arg-type]
        self.column_of = {name: renamed.get(name, name) for name in names}
        self.sql = ", ".join(self.column_of.values())
        self.parameters = ", ".join(f":{name}" for name in names)

    def assignments(self, names: Iterable[str]) -> str:
        """What stands after SET to write these fields."""
        return ", ".join(f"{self.column_of[name]} = :{name}" for name in names)

    def values(self, record: R) -> dict[str, Any]:
        values = {name: getattr(record, name) for name in self.column_of}
        return values | {name: write(values[name]) for name, write in self._write.items()}

    def record(self, row: Iterable[object], **other: object) -> R:
        """The record of a row of all columns; ``other`` are the fields without one."""
        values = dict(zip(self.column_of, row, strict=True))
        return self._record(**values | {name: read(values[name]) for name, read in self._read.items()}, **other)


class View(Generic[R]):
    """All records of one kind as committed; ``version`` grows with each commit that has changed one.

    ``key`` is the name of the field with a record's id. A view belongs to the event loop on which the file was opened.
    """

    def __init__(self, key: str, records: Iterable[R]) -> None:
        self._by_id: dict[str, R] = {getattr(record, key): record for record in records}
        self._place = attrgetter("created_at", key)
        self._ordered: tuple[R, ...] | None = None
        self._subscribers: list[Callable[[R | None, R | None], None]] = []
        self.version = 0

    def get(self, record_id: str) -> R | None:
        return self._by_id.get(record_id)

    def ids(self) -> KeysView[str]:
        """The ids of all records, as a live set."""
        return self._by_id.keys()

    def ordered(self) -> tuple[R, ...]:
        """All records by ``created_at``, then id; the same tuple until one changes."""
        if self._ordered is None:
            self._ordered = tuple(sorted(self._by_id.values(), key=self._place))
        return self._ordered

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[R]:
        return iter(self.ordered())

    def __contains__(self, record_id: object) -> bool:
        return record_id in self._by_id

    def subscribe(self, callback: Callable[[R | None, R | None], None]) -> None:
        """Call ``callback(before, after)`` on the loop after each change; it must not raise."""
        self._subscribers.append(callback)

    def publish(self, changes: Iterable[tuple[str, R | None]]) -> None:
        """Apply a committed group, then call the subscribers with each change, in order."""
        news: list[tuple[R | None, R | None]] = []
        for record_id, after in changes:
            before = self._by_id.pop(record_id, None)
            if after is not None:
                self._by_id[record_id] = after
            if before is not None or after is not None:
                news.append((before, after))
        if news:
            self._ordered = None
            self.version += 1
        for before, after in news:
            for callback in self._subscribers:
                callback(before, after)


@dataclass(slots=True, kw_only=True)
class Counters:
    """Totals since the file was opened. The writer thread writes them, anyone may read them.

    ``statements`` are those of operations, each row of an executemany as one, without transaction control: they do not
    depend on how operations were grouped. ``disk_waits`` are commits that waited until the data was on the disk.
    """

    operations: int = 0
    statements: int = 0
    commits: int = 0
    disk_waits: int = 0
    failed_commits: int = 0
    commit_durations: Histogram = field(default_factory=Histogram)


@dataclass(slots=True, kw_only=True)
class Transaction:
    """One transaction of the writer; ``now`` is the wall clock in nanoseconds at its start, ``sequence`` the file's.

    ``tight``    the disk is almost full, so operations leave out what is not essential
    ``unclean``  a failed operation has left changes in the transaction, so that it cannot be committed
    ``stacks``, ``jobs``, ``identity``, ``revoked``  what has changed, for the views
    """

    connection: sqlite3.Connection
    counters: Counters
    ports: NodePorts
    now: int
    sequence: int
    tight: bool = False
    unclean: bool = False
    stacks: list[tuple[str, Stack | None]] = field(default_factory=list)
    jobs: list[tuple[str, Job | None]] = field(default_factory=list)
    identity: FileIdentity | None = None
    revoked: dict[str, int] | None = None

    def run(self, sql: str, parameters: Parameters = ()) -> int:
        """Execute a statement; returns the number of changed rows."""
        self.counters.statements += 1
        return self.connection.execute(sql, parameters).rowcount

    def row(self, sql: str, parameters: Parameters = ()) -> tuple[Any, ...] | None:
        rows = self.rows(sql, parameters)
        return rows[0] if rows else None

    def rows(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        self.counters.statements += 1
        return self.connection.execute(sql, parameters).fetchall()

    def many(self, sql: str, parameters: Sequence[Parameters]) -> None:
        """Execute the statement once for each of ``parameters``."""
        self.counters.statements += len(parameters)
        self.connection.executemany(sql, parameters)

    def attempt(self, operation: Callable[[Transaction], T], *, isolated: bool = True) -> T:
        """Run the operation. If it raises, all its changes are undone; unless ``isolated``, only those for the views are.

        ``isolated`` costs two statements (a savepoint). Without it, ``unclean`` says whether changed rows stay changed.
        """
        stacks, jobs, changes = len(self.stacks), len(self.jobs), self.connection.total_changes
        if isolated:
            self.connection.execute("SAVEPOINT attempt")
        try:
            result = operation(self)
        except BaseException:
            del self.stacks[stacks:], self.jobs[jobs:]
            if not isolated:
                self.unclean = self.unclean or self.connection.total_changes != changes
            elif self.connection.in_transaction:  # SQLite may have rolled it back already, after a full disk
                self.connection.execute("ROLLBACK TO attempt")
                self.connection.execute("RELEASE attempt")
            raise
        if isolated:
            self.connection.execute("RELEASE attempt")
        return result


class Table:
    """A part of the file with its own operations; ``submit`` hands them to the threads that write and search."""

    def __init__(self, submit: Submit) -> None:
        self._submit = submit


def operation(
    function: Callable[Concatenate[Transaction, P], T],
    *,
    writes: bool = True,
    grows: bool = False,
    relaxed: bool = False,
    long: bool = False,
) -> Callable[Concatenate[Table, P], Coroutine[Any, Any, T]]:
    """Make the function a method of a ``Table`` that runs it in one transaction (see ``Writer.submit``); a ``long`` one, which
    only reads, beside the writer (see ``Reader``).

    It runs later, and may run twice: the caller leaves its arguments as they are, and passes no iterators.
    """

    @wraps(function)
    async def method(self: Table, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._submit(
            lambda tx: function(tx, *args, **kwargs), writes=writes, grows=grows, relaxed=relaxed, long=long
        )
        return result

    return method


# SQLite names the columns of the constraint that failed.
_CONSTRAINTS = {
    "idempotency.scope, idempotency.key": "this Idempotency-Key is in use already",
    "stacks.stack_id": "there is a stack of this id already",
    "node_ports.node_port": "the node port is held by another stack",
    "hostnames.hostname": "the name is another stack's",
    "jobs.job_id": "there is a job of this id already",
    "job_items.job_id, job_items.stack_id": "the job names a stack twice",
}
_SENTENCES = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the file or its folder is read-only",
    **dict.fromkeys(
        (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL), "another process has locked it"
    ),
    sqlite3.SQLITE_IOERR: "the disk reports an input/output error",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_PERM: "permission is denied",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is damaged",
}


def _code(exc: sqlite3.Error) -> int:
    return int(getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR))


def is_environment(exc: sqlite3.Error) -> bool:
    """Whether the file or the machine is at fault, not the statement. Then the whole transaction is lost."""
    return _code(exc) & 0xFF in _SENTENCES


def is_full(exc: sqlite3.Error) -> bool:
    """Whether there was no room on the disk (for the file, its log, or the log's index)."""
    return _code(exc) & 0xFF == sqlite3.SQLITE_FULL or _code(exc) == sqlite3.SQLITE_IOERR_SHMSIZE


def is_damage(exc: sqlite3.Error) -> bool:
    """Whether the file itself is damaged. Further writes would make it worse."""
    return _code(exc) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def sentence(exc: sqlite3.Error) -> str:
    return _SENTENCES.get(_code(exc) & 0xFF, str(exc))


def unavailable(exc: sqlite3.Error) -> StoreUnavailable:
    """The error for each operation of a transaction that could not be committed."""
    return StoreUnavailable(f"the state file cannot be written now: {sentence(exc)}")


def from_constraint(exc: sqlite3.IntegrityError) -> StackdError | sqlite3.IntegrityError:
    """The domain error of a violated constraint; the exception itself if no request can violate the constraint."""
    return next((Conflict(text) for columns, text in _CONSTRAINTS.items() if str(exc).endswith(columns)), exc)
