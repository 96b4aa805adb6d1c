"""End the stacks whose time is up.

Owns: the order of expiry, as a heap fed by the file's own changes, so that looking costs nothing while nothing expires.
"""

from __future__ import annotations

import heapq
import logging

from stackd.lifecycle.crashpoints import reached
from stackd.lifecycle.room import Room
from stackd.model import Stack

log = logging.getLogger(__name__)


class Expiries:
    """Which stack's time is up next. An entry that is no longer true is dropped when it comes up."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []

    def follow(self, before: Stack | None, after: Stack | None) -> None:
        """A row has changed (a subscriber of the store)."""
        if after is not None and (before is None or before.ttl_expires_at != after.ttl_expires_at):
            heapq.heappush(self._heap, (after.ttl_expires_at, after.stack_id))

    def due(self, now: int) -> list[tuple[int, str]]:
        """Take out all entries up to ``now`` (nanoseconds)."""
        due: list[tuple[int, str]] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap))
        return due

    def put_back(self, entries: list[tuple[int, str]]) -> None:
        """They could not be dealt with now."""
        for entry in entries:
            heapq.heappush(self._heap, entry)


async def expire(room: Room, expiries: Expiries) -> int:
    """End every stack whose time has come up in ``expiries``. Returns how many.

    Raises StoreUnavailable; then they are due again the next time.
    """
    due = expiries.due(room.clock.now())
    stacks = room.store.stacks
    ids = [
        stack_id
        for ttl, stack_id in due
        if (stack := stacks.get(stack_id)) is not None and stack.deleting_since is None and stack.ttl_expires_at == ttl
    ]
    if not ids:
        return 0
    try:
        ended = await end_overdue(room, ids)
    except BaseException:
        expiries.put_back(due)
        raise
    expiries.put_back([(ttl, stack_id) for ttl, stack_id in due if stack_id in stacks.ids() and stack_id not in ended])
    return len(ended)


async def end_overdue(room: Room, stack_ids: list[str]) -> set[str]:
    """Mark those of these whose time is up as deleting, and hand them to the retirement. Returns their ids.

    Raises StoreUnavailable; then nothing has happened.
    """
    marked = await room.store.mark_expired(stack_ids)
    reached("expire.marked")
    for stack in marked:
        room.abandon_create(stack.stack_id)
        log.info("%s: its time is up", stack.stack_id, extra={"stack_id": stack.stack_id})
        room.retirement.add(stack.stack_id)
    return {stack.stack_id for stack in marked}
