"""The time to live: delete expired stacks, and extend stacks.

Owns: the order of expiry, fed by the file's own changes, so that a check costs nothing while nothing expires; that no
stack expires by a clock that may be wrong (if many have expired only because the clock was set, the brake decides); and
the order of an extension: first the file, then the annotation of the pod or of a stopped stack's record, from which a
lost file would be rebuilt. An extension is acknowledged once both have it, and only then is its answer kept under its
Idempotency-Key.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from stackd.clock import NANOSECONDS, Clock, from_nanoseconds
from stackd.errors import (
    ClusterError,
    ClusterUnavailable,
    NotOwner,
    StackdError,
    StackNotFound,
    detail_of,
    public_text,
)
from stackd.lifecycle.context import Context
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.worker import Priority
from stackd.logs import stack_log
from stackd.model import Stack
from stackd.store import Claim, Extension
from stackd.workqueue import WorkQueue

log = logging.getLogger(__name__)

ASK_SECONDS = 5.0
"""How often the API server is asked for the time while the clock is not trusted."""

RECORD_SECONDS = 5.0
"""How long an extension waits until the cluster has it, too."""

SUDDEN = "its time is up since the clock was set forward"


class Expiries:
    """Which stack expires next, by the wall clock. The row decides: the stack may have been extended meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self.asked_at = float("-inf")
        self._queue: WorkQueue[str] = WorkQueue(lambda: clock.now() / NANOSECONDS)

    def follow(self, before: Stack | None, after: Stack | None) -> None:
        """Subscriber of the store: follow changes of the expiry."""
        if after is not None and (before is None or before.ttl_expires_at != after.ttl_expires_at):
            self.put(after)

    def put(self, stack: Stack) -> None:
        """Have ``take`` return the stack when it expires."""
        self._queue.add(stack.stack_id, at=stack.ttl_expires_at / NANOSECONDS)

    def take(self) -> list[str]:
        """Take out the stacks that have expired by now; the caller then calls ``done`` or ``again`` for them."""
        return self._queue.take()

    def done(self, stack_ids: Iterable[str]) -> None:
        """These stacks have been handled."""
        for stack_id in stack_ids:
            self._queue.done(stack_id)

    def again(self, stack_ids: Iterable[str]) -> None:
        """These stacks could not be handled: they are due again."""
        for stack_id in stack_ids:
            self._queue.retry(stack_id)


async def expire(context: Context, expiries: Expiries) -> int:
    """Mark every stack as deleting that is due in ``expiries``, unless the clock may be wrong. Returns how many.

    Raises StoreUnavailable; then they are due again the next time.
    """
    if not context.gate.renewed or not context.fence.open:
        return 0  # a restored file, or one whose stacks another stackd has taken over, may not know of an extension
    await _confirm_clock(context, expiries)
    due = expiries.take()
    overdue, later = sort_out(due, context.store.stacks.get, context.clock.now())
    if not context.wall_clock.trusted:
        expiries.again(due)
        return 0
    try:
        expired = await expire_overdue(context, overdue) if overdue else set()
    except BaseException:
        expiries.again(due)
        raise
    expiries.done(due)
    not_expired = (context.store.stacks.get(stack_id) for stack_id in overdue if stack_id not in expired)
    for stack in (*later, *filter(None, not_expired)):
        expiries.put(stack)
    return len(expired)


def sort_out(due: Iterable[str], row: Callable[[str], Stack | None], now: int) -> tuple[list[str], list[Stack]]:
    """Of the due stacks: the ids of those that have expired, and those that were extended; the others are deleted."""
    found = [stack for stack_id in due if (stack := row(stack_id)) is not None and stack.deleting_since is None]
    overdue = [stack.stack_id for stack in found if stack.ttl_expires_at <= now]
    return overdue, [stack for stack in found if stack.ttl_expires_at > now]


async def _confirm_clock(context: Context, expiries: Expiries) -> None:
    """Ask for the API server's time if that may make the clock trusted; shorten ends set by a clock that was ahead.

    Raises StoreUnavailable.
    """
    wall_clock, now = context.wall_clock, context.clock.monotonic()
    if not wall_clock.trusted and context.mirror.synced and now - expiries.asked_at >= ASK_SECONDS:
        expiries.asked_at = now
        try:
            await context.cluster.time()  # the wall clock observes the ``Date`` of every response
        except (ClusterError, ClusterUnavailable) as error:
            log.debug("the API server's time cannot be read: %s", error)
    if wall_clock.trusted and wall_clock.changed:
        longest = round(context.config.stacks.max_ttl * NANOSECONDS)
        for stack in await context.store.stacks.end_in_time(longest):
            ends = from_nanoseconds(stack.ttl_expires_at)
            stack_log(log, stack.stack_id).warning("made while the clock was ahead: it ends at %s", ends)
        wall_clock.changed = False


async def expire_overdue(context: Context, stack_ids: list[str]) -> set[str]:
    """Mark expired stacks as deleting, unless a brake holds them back, and hand them to the deleter.

    Returns the ids of the marked stacks. Raises StoreUnavailable; then nothing has happened.
    """
    held = _hold_back(context, stack_ids)
    allowed = [stack_id for stack_id in stack_ids if stack_id not in held]
    marked = await context.store.stacks.mark_expired(allowed) if allowed else []
    crash_point("expire.marked")
    for stack in marked:
        context.abandon_create(stack.stack_id)
        stack_log(log, stack.stack_id).info("its time is up")
        context.worker.add(stack.stack_id, Priority.EXPIRY)
    return {stack.stack_id for stack in marked}


def _hold_back(context: Context, stack_ids: Iterable[str]) -> frozenset[str]:
    """Which of these a brake holds: they expired because the clock was set, and are too many at once (invariant 8)."""
    rows = map(context.store.stacks.get, stack_ids)
    until = context.wall_clock.sudden_until
    sudden = {row.stack_id: f"expire: {SUDDEN}" for row in rows if row is not None and row.ttl_expires_at <= until}
    if not sudden:
        return frozenset()
    return context.gate.hold_back(sudden, context.store.stacks.ids(), context.config.reconcile.max_delete_share)


async def extend(
    context: Context,
    stack_id: str,
    seconds: float,
    *,
    by: str,
    claim: Claim | None = None,
) -> Stack:
    """Extend the stack by ``seconds`` and return it; the extension survives ``kill -9``, and the loss of the file.

    A ``claim`` that names the stack already belongs to an extension that the file has and the cluster may lack: the
    stack is not extended again. Raises StackNotFound; Conflict if it is too late, or more than ``stacks.max_ttl`` in
    all; StoreUnavailable, NotOwner; ClusterUnavailable if the stack is extended but the cluster may not have that.
    """
    context.fence.require()
    if claim is None or claim.stack_id is None:
        longest = round(context.config.stacks.max_ttl * NANOSECONDS)
        extension = Extension(add=round(seconds * NANOSECONDS), longest=longest, by=by)
        writing = context.store.stacks.extend(stack_id, extension, claim=claim)
        stack = await context.tasks.result_of(context.tasks.spawn(f"extend {stack_id}", writing))
        crash_point("extend.extended")
        stack_log(log, stack_id).info("extended by %g s by %s", seconds, by)
    elif (found := context.store.stacks.get(stack_id)) is not None:
        stack = found
    else:
        raise StackNotFound(stack_id)
    await context.tasks.result_of(context.tasks.spawn(f"record {stack_id}", _record(context, stack)))
    crash_point("extend.recorded")
    return stack


async def _record(context: Context, stack: Stack) -> None:
    """Write the new expiry into the cluster, too: an owner with another file reads it there.

    Raises ClusterUnavailable if the cluster may not have it; the write is then retried.
    """
    try:
        await context.worker.settle(stack.stack_id, timeout=RECORD_SECONDS)
    except StackdError as error:
        if isinstance(error, NotOwner | StackNotFound):
            raise  # another stackd may own the stacks, and not know of the extension; or the stack is deleted
        service = context.mirror.services.get(stack.service_name)
        if service is not None and service.recorded and service.expires_at == stack.ttl_expires_at:
            return  # something else is left to do about the stack
        expiry = from_nanoseconds(stack.ttl_expires_at)
        written = f"stackd retries to write that into the cluster: {public_text(error)}"
        sentence = f"{stack.stack_id} is extended until {expiry}, and {written}"
        raise ClusterUnavailable(sentence, detail=detail_of(error)) from error
    if stack.stack_id not in context.store.stacks:
        raise StackNotFound(stack.stack_id)
