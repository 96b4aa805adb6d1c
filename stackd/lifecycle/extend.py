"""Let a stack live longer.

Owns: the order (the file first, then the pod's annotation, from which a lost file would be rebuilt). The annotation is
written in the background; where that fails, the reconciler finds it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from stackd.clock import NANOSECONDS
from stackd.errors import StackdError
from stackd.kube import labels
from stackd.lifecycle.crashpoints import reached
from stackd.lifecycle.room import Room
from stackd.model import Stack
from stackd.store import Claim, Extension
from stackd.times import from_nanoseconds

log = logging.getLogger(__name__)


async def extend(
    room: Room,
    stack_id: str,
    seconds: float,
    *,
    by: str,
    claim: Claim | None = None,
    answer: Callable[[Stack], bytes] | None = None,
) -> Stack:
    """The stack with its end put off by ``seconds``; what is returned survives ``kill -9``.

    Raises StackNotFound; Conflict when it is too late, or more than ``stacks.max_ttl`` in all; StoreUnavailable.
    """
    longest = round(room.config.stacks.max_ttl * NANOSECONDS)
    extension = Extension(add=round(seconds * NANOSECONDS), longest=longest, by=by)
    writing = room.store.extend(stack_id, extension, claim=claim, answer=answer)
    stack = await asyncio.shield(room.tasks.errand(f"extend {stack_id}", writing))
    reached("extend.extended")
    log.info("%s: extended by %g s by %s", stack_id, seconds, by, extra={"stack_id": stack_id})
    room.tasks.errand(f"annotate {stack_id}", annotate(room, stack_id))
    return stack


async def annotate(room: Room, stack_id: str) -> None:
    """Write the stack's end on its pod, if there is one and it says otherwise; a failure is left to the reconciler."""
    async with room.locks.of(stack_id):
        stack, pod = room.store.stacks.get(stack_id), room.mirror.pods.get(stack_id)
        if stack is None or pod is None or pod.expires_at == stack.ttl_expires_at:
            return
        try:
            await room.cluster.patch_pod_annotations(
                stack_id, pod.uid, {labels.EXPIRES: from_nanoseconds(stack.ttl_expires_at)}
            )
        except StackdError as error:
            said = {"stack_id": stack_id, "same": "annotate"}
            log.info("%s: its new end cannot be written on its pod now: %s", stack_id, error, extra=said)
