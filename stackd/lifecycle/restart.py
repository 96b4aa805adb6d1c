"""Stop a stack and keep its ports, start it again, or give it a new pod behind the same ports.

Owns: what may be stopped or started, and what is answered. The intent is committed first (``desired``, and a
``generation`` that is also written on the pod and tells the old pod from the new one); ``steps`` carries it out, and
retries what failed or was interrupted.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from stackd.errors import (
    ClusterError,
    ClusterUnavailable,
    StackdError,
    StackNotFound,
    Unavailable,
    detail_of,
    public_text,
)
from stackd.lifecycle.context import Context
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.steps import required_spec
from stackd.model import Desired, EventKind, Stack
from stackd.store import PORT_REPLACED, Start, ports_replaced

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 2.0
"""How long a response waits for a node to take the new pod, so that it can name the address; no node is no failure."""


async def stop(context: Context, stack_id: str, *, by: str) -> Stack:
    """Stop the stack and return it: it has no pod; it keeps its Service and ports until it is started or expires.

    If the cluster does not confirm now, ClusterUnavailable is raised and the stop is retried until it is done. The stop
    also goes on if the caller leaves. Raises StackNotFound, Conflict, StoreUnavailable.
    """
    return await context.tasks.result_of(context.tasks.spawn(f"stop {stack_id}", _stop(context, stack_id, by)))


async def start(context: Context, stack_id: str, *, by: str) -> Stack:
    """Start the stack with a new pod if it was stopped or has ended; else return it as it is. Raises as ``restart``."""
    return await context.tasks.result_of(
        context.tasks.spawn(f"start {stack_id}", _start(context, stack_id, EventKind.START_REQUESTED, by))
    )


async def restart(context: Context, stack_id: str, *, by: str) -> Stack:
    """Give the stack a new pod behind the same ports and with the same expiry, and return it.

    The node may be another. An error of the cluster (a quota, say) is raised, and the start is retried until it is
    done. Raises StackNotFound, Conflict (also if the ports were given back and are no longer free), LabelLimitReached,
    Held, ShuttingDown, StoreUnavailable, and all that a create raises.
    """
    task = context.tasks.spawn(f"restart {stack_id}", _start(context, stack_id, EventKind.RESTART_REQUESTED, by))
    return await context.tasks.result_of(task)


async def _stop(context: Context, stack_id: str, by: str) -> Stack:
    await context.store.stacks.stop(stack_id, by)
    crash_point("stop.intended")
    await settle_stop(context, stack_id)
    return _row(context, stack_id)


async def settle_stop(context: Context, stack_id: str) -> None:
    """Return once a stack that is to be stopped has no pod. Raises as ``stop``."""
    try:
        await context.settle(stack_id)
    except (ClusterError, Unavailable) as error:
        context.gate.may_promise(error)
        sentence = f"{stack_id} cannot be stopped now; stackd keeps trying: {public_text(error)}"
        raise ClusterUnavailable(sentence, detail=detail_of(error)) from error


async def _start(context: Context, stack_id: str, kind: EventKind, by: str) -> Stack:
    stack = _row(context, stack_id)
    runs = stack.desired is Desired.RUNNING and not stack.ended and stack.accepted
    if kind is EventKind.START_REQUESTED and runs:
        return stack
    await context.gate.admitted()
    await context.store.stacks.start(stack_id, await start_of(context, stack, kind, by))
    crash_point("restart.intended")
    await settle_start(context, stack_id)
    started = await _placed(context, stack_id)
    if changed := ports_replaced(stack.ports, started.ports):
        return replace(started, status_reason=PORT_REPLACED, status_message=changed)
    return started


async def start_of(context: Context, stack: Stack, kind: EventKind, by: str, reason: str = "") -> Start:
    """The intent to start the stack with the pod that the policy in force allows. Raises Conflict, StackNotFound."""
    spec = required_spec(context, await context.store.stacks.whole(stack))
    limits = context.config.limits.stacks_per_label
    return Start(pod_spec=spec.text, kind=kind, by=by, label_limits=limits, reason=reason)


async def settle_start(context: Context, stack_id: str) -> None:
    """Return once a stack that is to start has its new pod. Raises as ``restart``."""
    try:
        await context.settle(stack_id)
    except StackdError as error:
        context.gate.may_promise(error)
        if isinstance(error, ClusterError | Unavailable):
            raise _retried(context, stack_id, error) from error
        raise


def _retried(context: Context, stack_id: str, error: ClusterError | Unavailable) -> Unavailable:
    """The error for a start that failed now; it says that stackd retries, and whether there is a pod until then."""
    until = "its old pod may run on until then" if stack_id in context.mirror.pods else "it has no pod until then"
    sentence = f"{stack_id} cannot be started now; stackd keeps trying; {until}: {public_text(error)}"
    retry_after = error.retry_after if isinstance(error, Unavailable) else None
    return Unavailable(sentence, retry_after, detail=detail_of(error))


async def _placed(context: Context, stack_id: str) -> Stack:
    """The stack as soon as a node has its pod, or something keeps it from that, or ``PATIENCE_SECONDS`` are over."""

    def placed(stack: Stack | None) -> Stack | None:
        if stack is None or stack.deleting_since is not None:
            raise StackNotFound(stack_id)
        return stack if stack.node_id or stack.status_reason else None

    try:
        return await context.rows.until(stack_id, placed, lambda: context.store.stacks.get(stack_id), PATIENCE_SECONDS)
    except TimeoutError:
        return _row(context, stack_id)


def _row(context: Context, stack_id: str) -> Stack:
    stack = context.store.stacks.get(stack_id)
    if stack is None:
        raise StackNotFound(stack_id)
    return stack
