"""Delete a stack on request. The intent is committed first; ``steps.delete`` carries it out."""

from __future__ import annotations

import logging

from stackd.errors import ClusterUnavailable, StackdError, StackNotFound, detail_of, public_text
from stackd.lifecycle.context import Context
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.diagnostics import capture_logs
from stackd.logs import stack_log
from stackd.model import DeleteReason

log = logging.getLogger(__name__)


async def delete(context: Context, stack_id: str, *, by: str = "stackd") -> None:
    """Delete the stack, as ``by`` asked; when this returns, no pod, service, port or row of it remains (invariant 3).

    The intent is committed first. If the cluster does not confirm now, ClusterUnavailable is raised, the stack stays
    listed, and stackd keeps trying. The delete also goes on if the caller leaves. Raises
    StackNotFound; NotOwner if this stackd cannot promise the retry.
    """
    spawn = context.tasks.spawn(f"delete {stack_id}", _delete(context, stack_id, by))
    await context.tasks.result_of(spawn)


async def _delete(context: Context, stack_id: str, by: str) -> None:
    if context.store.stacks.waits_in_pool(stack_id):
        raise StackNotFound(stack_id)
    capture_logs(context, stack_id)
    if not await context.store.stacks.mark_deleting([stack_id], DeleteReason.REQUEST, by):
        raise StackNotFound(stack_id)
    crash_point("delete.marked")
    context.abandon_create(stack_id)
    try:
        await context.settle(stack_id)
    except StackdError as error:
        context.gate.may_promise(error)
        stack_log(log, stack_id).warning("the delete goes on in the background: %s", error)
        raise ClusterUnavailable(
            f"{stack_id} cannot be deleted now; stackd keeps trying: {public_text(error)}",
            detail=detail_of(error),
        ) from error
