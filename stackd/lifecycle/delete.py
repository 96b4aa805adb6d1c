"""Delete one stack because somebody asked for it."""

from __future__ import annotations

import asyncio
import logging

from stackd.errors import ClusterUnavailable, StackdError, StackNotFound
from stackd.lifecycle.crashpoints import reached
from stackd.lifecycle.retire import retire
from stackd.lifecycle.room import Room
from stackd.model import DeleteReason

log = logging.getLogger(__name__)


async def delete(room: Room, stack_id: str, *, by: str = "stackd") -> None:
    """Delete the stack, as ``by`` has asked; when this returns, no pod, service, port or row of it remains (invariant 3).

    The intent is committed first. If the cluster does not confirm now, ClusterUnavailable is raised, the stack stays
    listed, and the delete is retried until it is done; so it is if the caller leaves. Raises StackNotFound.
    """
    errand = room.tasks.errand(f"delete {stack_id}", _delete(room, stack_id, by))
    await asyncio.shield(errand)


async def _delete(room: Room, stack_id: str, by: str) -> None:
    if not await room.store.mark_deleting([stack_id], DeleteReason.REQUEST, by):
        raise StackNotFound(stack_id)
    reached("delete.marked")
    room.abandon_create(stack_id)
    try:
        await retire(room, stack_id)
    except StackdError as error:
        room.retirement.add(stack_id)
        log.warning("%s: the delete goes on in the background: %s", stack_id, error, extra={"stack_id": stack_id})
        raise ClusterUnavailable(
            f"{stack_id} cannot be deleted now, it is retried until it is done: {error}"
        ) from error
