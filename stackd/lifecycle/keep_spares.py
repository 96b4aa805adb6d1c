"""Have as many spare Services as are configured: begin some in quiet moments, and remove those that are too many."""

from __future__ import annotations

import asyncio

from stackd.crashpoints import crash_point
from stackd.errors import StackdError
from stackd.lifecycle.context import Context, new_id
from stackd.lifecycle.spares import new_spare
from stackd.model import DeleteReason

# How many are begun in one go.
AT_ONCE = 8


async def keep(context: Context) -> None:
    """Begin what brings their number nearer to ``stacks.spare_services``. Raises StackdError.

    None is made while creates are under way, nor where a create might need the node port.
    """
    spares, config = context.spares, context.config.stacks
    if surplus := list(spares.rows)[config.spare_services :]:
        await context.store.stacks.mark_deleting(surplus, DeleteReason.POOL)
        crash_point("spare.delete_marked")
        context.loop.wake(surplus)
        return
    missing = config.spare_services - len(spares.rows)
    count = min(AT_ONCE, missing, context.store.ports.free - 2 * len(spares.rows))
    if count <= 0 or context.creates or context.loop.is_late or context.clock.monotonic() < spares.not_before:
        return
    try:
        context.gate.admit()
    except StackdError:
        return
    now, reserve = context.wall_clock.now(), context.store.stacks.reserve
    made = await asyncio.gather(*(reserve(new_spare(new_id("stack"), config.namespace, now)) for _ in range(count)))
    crash_point("spare.intended")
    context.loop.wake(row.stack_id for row in made)
