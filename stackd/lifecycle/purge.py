"""Forget what has been kept long enough: finished jobs, answered Idempotency-Keys, timelines of stacks that are gone."""

from __future__ import annotations

from stackd.clock import NANOSECONDS
from stackd.lifecycle.room import Room

KEEP_CLAIMS = 24 * 3600 * NANOSECONDS
"""How long an Idempotency-Key is remembered, in nanoseconds."""


async def purge(room: Room) -> None:
    """Remove jobs after ``batch_delete.keep_jobs``, timelines after ``stacks.keep_history`` and keys after a day.

    Raises StoreUnavailable.
    """
    keep_history = round(room.config.stacks.keep_history * NANOSECONDS)
    keep_jobs = round(room.config.batch_delete.keep_jobs * NANOSECONDS)
    await room.store.purge(
        room.clock.now(), keep_jobs_ns=keep_jobs, keep_claims_ns=KEEP_CLAIMS, keep_history_ns=keep_history
    )
