"""The claims on Idempotency-Keys: which request came first with a key, and its response.

Owns: the ``Claim`` record and the operations on its table. Does not know HTTP: fingerprints and answers are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from stackd.store.transaction import Table, Transaction, operation

OK, CREATED, ACCEPTED = 200, 201, 202  # the response codes of an extension, a create and a batch delete (API contract)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One use of a key within a scope.

    ``fingerprint`` tells whether the same request came again. ``stack_id`` or ``job_id`` is what the request created.
    ``status`` and ``answer`` are set once it was answered. ``created_at`` is in nanoseconds since the epoch.
    """

    scope: str
    key: str
    fingerprint: bytes
    created_at: int
    stack_id: str | None = None
    job_id: str | None = None
    status: int | None = None
    answer: bytes | None = None


_NAMES = tuple(field.name for field in fields(Claim))
_COLUMNS = ", ".join(_NAMES)
INSERT_CLAIM = f"INSERT INTO idempotency ({_COLUMNS}) VALUES (?{', ?' * (len(_NAMES) - 1)})"
FIND_CLAIM = f"SELECT {_COLUMNS} FROM idempotency WHERE scope = ? AND key = ?"
UNANSWERED_CLAIM = "SELECT 1 FROM idempotency WHERE stack_id = ? AND answer IS NULL"
ANSWER_CLAIM = "UPDATE idempotency SET status = ?, answer = ? WHERE stack_id = ? AND answer IS NULL"
ANSWER_KEY = "UPDATE idempotency SET status = ?, answer = ? WHERE scope = ? AND key = ?"
DROP_UNANSWERED_CLAIMS = "DELETE FROM idempotency WHERE stack_id IN (SELECT value FROM json_each(?)) AND answer IS NULL"
DROP_CLAIMS = "DELETE FROM idempotency WHERE stack_id IN (SELECT value FROM json_each(?))"
PURGE_CLAIMS = (
    "DELETE FROM idempotency WHERE rowid IN (SELECT rowid FROM idempotency WHERE created_at < ? LIMIT ?)"
    " RETURNING rowid"
)


def insert(tx: Transaction, claim: Claim) -> None:
    """Write a claim. If the key has one already, the primary key refuses it (``Conflict``)."""
    tx.run(INSERT_CLAIM, tuple(getattr(claim, name) for name in _NAMES))


def find(tx: Transaction, scope: str, key: str) -> Claim | None:
    """The claim on an Idempotency-Key within ``scope``, or None."""
    row = tx.row(FIND_CLAIM, (scope, key))
    return None if row is None else Claim(**dict(zip(_NAMES, row, strict=True)))


def unanswered_for_stack(tx: Transaction, stack_id: str) -> bool:
    """Whether a claim for this stack has no answer yet."""
    return tx.row(UNANSWERED_CLAIM, (stack_id,)) is not None


def answer_for_stack(tx: Transaction, stack_id: str, status: int, answer: bytes) -> None:
    """Keep the answer to the request that created this stack."""
    tx.run(ANSWER_CLAIM, (status, answer, stack_id))


def answer(tx: Transaction, claim: Claim, status: int, body: bytes) -> None:
    """Keep the answer to the request with this key."""
    tx.run(ANSWER_KEY, (status, body, claim.scope, claim.key))


def drop_unanswered(tx: Transaction, ids: str) -> None:
    """Delete the unanswered claims of these stacks (a JSON array of ids), so that a client can use the keys again."""
    tx.run(DROP_UNANSWERED_CLAIMS, (ids,))


def drop(tx: Transaction, ids: str) -> None:
    """Delete the claims of these stacks, although an answer may be kept with them that was never sent."""
    tx.run(DROP_CLAIMS, (ids,))


def purge(tx: Transaction, before: int, limit: int) -> int:
    """Delete at most ``limit`` claims created before ``before``; returns how many."""
    return len(tx.rows(PURGE_CLAIMS, (before, limit)))


class Claims(Table):
    """All claims in the file."""

    find = operation(find, writes=False)
    keep = operation(insert, grows=True)
    answer = operation(answer)
