"""The changes of a row that ``decide`` can decide on: one function, and one transaction, for each kind.

Each returns whether to look at the stack again at once, and leaves nothing behind if the process dies: whatever was not
committed is decided again. Decides nothing, apart from asking the brake where the decision says so.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace

from stackd.crashpoints import crash_point
from stackd.errors import StackNotFound
from stackd.lifecycle.context import Context
from stackd.lifecycle.decide import Decision, Kind
from stackd.lifecycle.desired import SERVICES, has_pod
from stackd.lifecycle.diagnostics import capture_logs_of_expired
from stackd.lifecycle.observe import derive, remember, tell, write
from stackd.lifecycle.status import observation, pod_progress, together
from stackd.lifecycle.view import current_pod, is_explained, lost_member, member_pods
from stackd.logs import stack_log
from stackd.model import DeleteReason, Member, Stack

log = logging.getLogger(__name__)


async def accept(context: Context, stack: Stack, decision: Decision) -> bool:
    """Write the stack's new pod into the row: its create is completed, or it was started again. Raises NotOwner if this
    stackd may not acknowledge that."""
    pod, service = context.mirror.pods[stack.pod_name], context.mirror.services.get(stack.service_name)
    service_uid = service.uid if service is not None else stack.service_uid
    crash_point("accept.decided")
    context.fence.require()
    members = tuple(_with_its_pod(context, stack, member) for member in stack.members) if stack.members else ()
    whole = together(pod, members, member_pods(context, stack)) if members else pod
    snapshot, derived = derive(context, stack, whole)
    progress, events = pod_progress(None, stack, snapshot)
    seen = observation(stack, snapshot, derived, events)
    if members:
        seen = replace(seen, members=members)
    if stack.accepted:
        try:
            row = await context.store.stacks.started(seen, pod_uid=pod.uid, service_uid=service_uid)
        except StackNotFound:
            return True  # it was stopped, started again or deleted meanwhile: that is the next decision
        stack_log(log, stack.stack_id).info("started again, pod %d", stack.generation)
    else:
        creation = context.creates[stack.stack_id]
        creation.timer.end("schedule")
        creation.check()
        row = await context.store.stacks.accept(
            seen, pod_uid=pod.uid, service_uid=service_uid, claim=creation.request.claim, by=creation.request.by
        )
        creation.timer.end("accept")
        stack_log(log, stack.stack_id).info("created on %s", row.node_id)
    if row.ended or row.status_reason:  # the pod was faster than its Service
        tell(context, row)
    node = context.mirror.nodes.get(pod.node_name or row.node_id or "")
    remember(context, stack.stack_id, snapshot, derived, progress, (whole, service, node))
    crash_point("accept.accepted")
    return False  # the new row wakes the stack again, and whoever waits for it is answered first


def _with_its_pod(context: Context, stack: Stack, member: Member) -> Member:
    """The member with the pod and the address that the mirror shows."""
    name = stack.member_name(member.name)
    pod, service = context.mirror.pods[name], context.mirror.routes[SERVICES].get(name)
    address = member.address if service is None else service.address
    return replace(member, pod_uid=pod.uid, node_id=pod.node_name, address=address)


async def undo(context: Context, stack: Stack, decision: Decision) -> bool:
    """Intend to delete a stack whose create cannot be completed. Raises what its client is answered."""
    if decision.error is not None:
        raise decision.error  # the create, which waits, intends it
    await intend_undo(context, stack.stack_id)
    return True


async def intend_deletes(context: Context, stack_ids: Sequence[str], reason: DeleteReason) -> list[Stack]:
    """Intend to delete these stacks; returns the rows of those that were not to be deleted before."""
    marked = await context.store.stacks.mark_deleting(stack_ids, reason) if stack_ids else []
    if marked:
        crash_point("pool.delete_marked")
    context.loop.wake(row.stack_id for row in marked)
    return marked


async def intend_undo(context: Context, stack_id: str) -> None:
    if await context.store.stacks.mark_deleting([stack_id], DeleteReason.UNDO):
        crash_point("create.undo_marked")


async def expire(context: Context, stack: Stack, decision: Decision) -> bool:
    """Intend to delete a stack whose time is up, unless the brake holds it because the clock was set (invariant 8)."""
    until = context.wall_clock.sudden_until
    if not context.gate.may_expire:
        return False
    if stack.ttl_expires_at <= until:
        rows = (row for row in context.store.assigned.ordered() if row.deleting_since is None and not row.shared)
        sudden = [row.stack_id for row in rows if row.ttl_expires_at <= until]
        if not _may_end(context, stack, "expire: its time is up since the clock was set forward", sudden):
            return False
    if not await context.store.stacks.mark_expired([stack.stack_id]):
        return False
    crash_point("expire.marked")
    context.abandon_create(stack.stack_id)
    stack_log(log, stack.stack_id).info("its time is up")
    await capture_logs_of_expired(context, stack.stack_id)
    return True


async def end(context: Context, stack: Stack, decision: Decision) -> bool:
    """End a stack whose pod Kubernetes has said to be gone. If the pods of too many stacks are gone, its status says so, but
    nothing is given back (invariant 8)."""
    lost = lost_member(context, stack)
    snapshot, derived = derive(context, stack if lost is None else lost, None)
    seen = observation(stack, snapshot, derived)
    if lost is not None:
        name = next(member.name for member in stack.members if member.pod_uid == lost.pod_uid)
        seen = replace(seen, status_message=f"member {name}: {seen.status_message}"[:1024])
    if decision.brake and not _may_end(context, stack, f"end: {derived.message}", _missing(context)):
        seen = replace(seen, ended=False)
    return (await write(context, stack, seen)).ended


def _may_end(context: Context, stack: Stack, what: str, candidates: Collection[str]) -> bool:
    """Whether the stack may end although nobody asked for it; ``candidates`` are all that would end for the same reason
    now (invariant 8)."""
    share, among = context.config.reconcile.max_delete_share, {*candidates, *context.store.stacks.ids()}
    return not context.gate.brake.hold_back({stack.stack_id: what}, among, share, also=candidates)


def _missing(context: Context) -> frozenset[str]:
    """The stacks whose pods are gone although the cluster does not explain that. All of them are asked about at the same time:
    they are looked for again only when something else has gone."""
    memory, version = context.memory, (context.mirror.removals, len(context.mirror.nodes))
    if memory.missing[0] != version:
        rows = context.store.stacks.ordered()
        memory.missing = version, frozenset(row.stack_id for row in rows if _is_missing(context, row))
    return memory.missing[1]


def _is_missing(context: Context, stack: Stack) -> bool:
    """Whether the stack's pod is gone from the mirror, and the cluster does not explain that."""
    lost = stack if current_pod(context, stack) is None else lost_member(context, stack)
    return has_pod(stack) and lost is not None and not is_explained(context, lost)


async def serve(context: Context, stack: Stack, decision: Decision) -> bool:
    """Intend that the Service of a shared stack selects its new pod."""
    await context.store.stacks.serve(stack.stack_id, stack.generation)
    crash_point("shared.served")
    return True


async def stopped(context: Context, stack: Stack, decision: Decision) -> bool:
    """The pod of a stack that its user has stopped is gone."""
    await context.store.stacks.stopped(stack.stack_id)
    crash_point("stop.stopped")
    stack_log(log, stack.stack_id).info("stopped")
    return True


async def released(context: Context, stack: Stack, decision: Decision) -> bool:
    """Give back the node ports that no Service of the stack holds any more."""
    await context.store.ports.release([stack.stack_id])
    crash_point("release.released")
    stack_log(log, stack.stack_id).info("ports given back (%s)", stack.status_reason or stack.delete_reason)
    return True


async def removed(context: Context, stack: Stack, decision: Decision) -> bool:
    """Remove the row: the cluster has confirmed all objects gone."""
    crash_point("delete.confirmed")
    of_job = stack.delete_reason is DeleteReason.BATCH
    await (context.store.stacks.remove_soon if of_job else context.store.stacks.remove)([stack.stack_id])
    crash_point("delete.removed")
    context.gate.undeletable.pop(stack.stack_id, None)
    stack_log(log, stack.stack_id).info("removed (%s)", stack.delete_reason)
    return False


TRANSITIONS: Mapping[Kind, Callable[[Context, Stack, Decision], Awaitable[bool]]] = {
    Kind.ACCEPT: accept,
    Kind.UNDO: undo,
    Kind.EXPIRE: expire,
    Kind.END: end,
    Kind.SERVE: serve,
    Kind.STOPPED: stopped,
    Kind.RELEASED: released,
    Kind.REMOVED: removed,
}
