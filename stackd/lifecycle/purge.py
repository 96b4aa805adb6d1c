"""Forget what has been kept long enough: finished jobs and answered Idempotency-Keys."""

from __future__ import annotations

from stackd.clock import NANOSECONDS
from stackd.lifecycle.room import Room

KEEP_CLAIMS = 24 * 3600 * NANOSECONDS
"""How long an Idempotency-Key is remembered, in nanoseconds."""


async def purge(room: Room) -> None:
    """Remove finished jobs older than ``batch_delete.keep_jobs`` and keys older than a day. Raises StoreUnavailable."""
    keep_jobs = round(room.config.batch_delete.keep_jobs * NANOSECONDS)
    await room.store.purge(room.clock.now(), keep_jobs_ns=keep_jobs, keep_claims_ns=KEEP_CLAIMS)
