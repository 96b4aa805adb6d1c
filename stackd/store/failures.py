"""What SQLite's errors mean, in one place: constraint name → domain error, result code → a plain sentence.

Owns: the translation at the boundary of ``store``, so that no other package sees an exception of ``sqlite3``.
"""

from __future__ import annotations

import sqlite3

from stackd.errors import Conflict, StackdError, StoreUnavailable

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
    sqlite3.SQLITE_BUSY: "another process has locked it",
    sqlite3.SQLITE_LOCKED: "another process has locked it",
    sqlite3.SQLITE_IOERR: "the disk reports an input/output error",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_PERM: "permission is denied",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
    sqlite3.SQLITE_PROTOCOL: "another process has locked it",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is damaged",
}

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


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
    return _code(exc) & 0xFF in _DAMAGED


def sentence(exc: sqlite3.Error) -> str:
    """The reason in plain words."""
    return _SENTENCES.get(_code(exc) & 0xFF, str(exc))


def unavailable(exc: sqlite3.Error) -> StoreUnavailable:
    """The error for each operation of a transaction that could not be committed."""
    return StoreUnavailable(f"the state file cannot be written now: {sentence(exc)}")


def from_constraint(exc: sqlite3.IntegrityError) -> StackdError | sqlite3.IntegrityError:
    """The domain error of a violated constraint; the exception itself if no request can violate the constraint."""
    message = str(exc)
    for columns, meaning in _CONSTRAINTS.items():
        if message.endswith(columns):
            return Conflict(meaning)
    return exc
