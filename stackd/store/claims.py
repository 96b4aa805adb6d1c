"""The claims on Idempotency-Keys: which request came first with a key, and what it was answered.

Owns: the ``Claim`` record and the operations on its table. Does not know HTTP: fingerprints and answers are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stackd.store import queries
from stackd.store.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One use of a key within a scope.

    ``fingerprint`` tells whether the same request came again. ``stack_id`` or ``job_id`` says what the request made;
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

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> Claim:
        """A claim from a row of ``queries.CLAIM_COLUMNS``."""
        scope, key, fingerprint, stack_id, job_id, status, answer, created_at = row
        return cls(
            scope=scope,
            key=key,
            fingerprint=fingerprint,
            stack_id=stack_id,
            job_id=job_id,
            status=status,
            answer=answer,
            created_at=created_at,
        )

    def to_row(self) -> tuple[Any, ...]:
        """The values of ``queries.CLAIM_COLUMNS``."""
        made = (self.stack_id, self.job_id)
        return (self.scope, self.key, self.fingerprint, *made, self.status, self.answer, self.created_at)


def insert(tx: Transaction, claim: Claim) -> None:
    """Write a claim; the primary key decides between two of the same (``Conflict``)."""
    tx.run(queries.INSERT_CLAIM, claim.to_row())


def find(tx: Transaction, scope: str, key: str) -> Claim | None:
    """The claim on ``key`` within ``scope``, or None."""
    row = tx.row(queries.FIND_CLAIM, (scope, key))
    return None if row is None else Claim.from_row(row)


def unanswered_for_stack(tx: Transaction, stack_id: str) -> bool:
    """Whether a claim waits for the answer about this stack."""
    return tx.row(queries.UNANSWERED_CLAIM, (stack_id,)) is not None


def answer_for_stack(tx: Transaction, stack_id: str, status: int, answer: bytes) -> None:
    """Keep the answer of the request that made this stack."""
    tx.run(queries.ANSWER_CLAIM, (status, answer, stack_id))


def drop_unanswered(tx: Transaction, ids: str) -> None:
    """Free the keys whose stacks (a JSON array of ids) will never be answered, so that a client may try again."""
    tx.run(queries.DROP_UNANSWERED_CLAIMS, (ids,))


def purge(tx: Transaction, before: int, limit: int) -> int:
    """Remove at most ``limit`` claims made before that time; how many went."""
    return len(tx.rows(queries.PURGE_CLAIMS, (before, limit)))
