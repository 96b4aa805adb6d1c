"""Delete stacks: on request, and in the background whatever is left to delete.

Owns: the order (Service and Pod are confirmed gone before ports and row go: invariants 2 and 3), and the background
workers, which give way to creates for a while. No other module deletes stacks. Does not decide what is deleted: that is
a `deleting` row, an ended stack that gives back its Service, or an object without a row.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Mapping
from functools import partial

from stackd.clock import NANOSECONDS
from stackd.errors import ClusterUnavailable, StackdError, StackNotFound, StillThere, detail_of, public_text
from stackd.kube.mirror import Named
from stackd.kube.objects import PodState, ServiceState
from stackd.kube.wire import CONFIG_MAPS
from stackd.lifecycle.context import Context
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.diagnostics import capture_logs, capture_logs_of_expired
from stackd.lifecycle.hiding import hiding
from stackd.lifecycle.pace import DeletePace
from stackd.lifecycle.plan import PODS, SERVICES, Orphan, Removal, is_kept
from stackd.logs import stack_log
from stackd.model import DeleteReason, Desired, Stack
from stackd.workqueue import RetryPolicy

log = logging.getLogger(__name__)

WORKERS = 16
RETRIES = RetryPolicy(first=0.5, longest=30.0)
DELETE_PENDING = "DeletePending"
"""The ``status_reason`` of a stack that something in the cluster keeps from being deleted."""


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
    with context.deleting(stack_id):
        if not await context.store.stacks.mark_deleting([stack_id], DeleteReason.REQUEST, by):
            raise StackNotFound(stack_id)
        crash_point("delete.marked")
        context.abandon_create(stack_id)
        try:
            await finish_delete(context, stack_id)
        except StackdError as error:
            context.removals.retry(stack_id)
            context.may_promise(error)
            stack_log(log, stack_id).warning("the delete goes on in the background: %s", error)
            raise ClusterUnavailable(
                f"{stack_id} cannot be deleted now; stackd keeps trying: {public_text(error)}",
                detail=detail_of(error),
            ) from error


class DeleteStep(enum.StrEnum):
    """What is left to be done about a stack's objects."""

    NOTHING = "nothing"
    REMOVE = "remove"
    RELEASE = "release"


async def work(context: Context) -> None:
    """The deleting service: carry out due removals, several at a time, for ever."""

    def failed(removal: Removal, error: StackdError, delay: float | None) -> None:
        stack_id = removal.stack_id if isinstance(removal, Orphan) else removal
        extra = {"stack_id": stack_id, "same": "not gone"}
        log.info("%s: not gone yet, next try in %.1f s: %s", removal, delay or 0.0, error, extra=extra)

    await context.removals.run(partial(_in_its_turn, context, DeletePace()), workers=WORKERS, failed=failed)


async def _in_its_turn(context: Context, pace: DeletePace, removal: Removal) -> None:
    """Carry out the removal. While creates need the cluster more, few removals run at a time; others wait a while."""
    since, clock = _intended_at(context, removal), context.clock
    while (pause := pace.wait(clock.monotonic(), since, in_need=creates_in_need(context))) and not context.closing:  # noqa: ASYNC110
        await asyncio.sleep(pause)
    pace.under_way += 1
    try:
        await carry_out(context, removal)
    finally:
        pace.under_way -= 1


def _intended_at(context: Context, removal: Removal) -> float:
    """Since when (monotonic seconds) the removal is intended, as far as the row tells."""
    row = None if isinstance(removal, Orphan) else context.store.stacks.get(removal)
    waited = 0 if row is None or row.deleting_since is None else context.clock.now() - row.deleting_since
    return context.clock.monotonic() - max(0, waited) / NANOSECONDS


def creates_in_need(context: Context) -> bool:
    """Whether creates need all that the cluster can do: they wait for a slot, or take from a pool that runs low.

    False if they lack ports, nodes or quota: deletes give those back.
    """
    pools, now = context.pools, context.clock.monotonic()
    if pools.short_of_capacity(now):
        return False
    return context.create_slots.locked() or (pools.pace.traffic(now) and pools.low(context.settings.templates.values()))


async def carry_out(context: Context, removal: Removal) -> None:
    """Do whatever is left to be done about a stack's objects, or about an object without a row.

    Does nothing for a living stack, or for one that a request or a batch job deletes. Raises ClusterUnavailable or
    StoreUnavailable: then it is still to be done.
    """
    if isinstance(removal, Orphan):
        await _delete_orphan(context, removal)
        return
    if removal in context.being_deleted:
        return
    step = next_step(context.store.stacks.get(removal))
    if step is DeleteStep.REMOVE:
        await finish_delete(context, removal)
    elif step is DeleteStep.RELEASE:
        await _release(context, removal)


def next_step(stack: Stack | None) -> DeleteStep:
    """What is left to be done about the objects of a stack with this row."""
    if stack is None:
        return DeleteStep.NOTHING
    if stack.deleting_since is not None:
        return DeleteStep.REMOVE
    return DeleteStep.RELEASE if stack.ended else DeleteStep.NOTHING


async def finish_delete(context: Context, stack_id: str) -> None:
    """Remove a stack whose delete is intended. When this returns, nothing of it is left anywhere.

    Raises ClusterUnavailable or StoreUnavailable; the row then stays `deleting`.
    """
    async with context.locks.of(stack_id):
        stack = context.store.stacks.get(stack_id)
        if stack is None or stack.deleting_since is None:
            return
        if stack.delete_reason is DeleteReason.EXPIRED:
            await capture_logs_of_expired(context, stack_id)
        await _delete_or_tell(context, stack)
        await context.store.stacks.remove([stack_id])
        crash_point("delete.removed")
    stack_log(log, stack_id).info("removed (%s)", stack.delete_reason)


async def _delete_or_tell(context: Context, stack: Stack) -> None:
    """Delete the stack's objects; if the cluster holds one back, write into the stack's status which one, and why."""
    try:
        with hiding(context, stack.stack_id):
            await delete_objects(context, stack)
    except StillThere as error:
        await context.store.stacks.tell_held(stack.stack_id, DELETE_PENDING, str(error))
        raise


async def delete_objects(context: Context, stack: Stack, *, for_good: bool = True) -> None:
    """Delete the stack's Service and Pod; return when the cluster has confirmed both gone.

    ``for_good``: both at the same time, and also the record that the cluster may have of the stack; objects of it that
    appear later are deleted, too. Otherwise the Service stays as long as the pod may run.
    """
    if for_good:
        context.recently_deleted.add(stack.stack_id)
    await context.right_cluster()
    pod = context.mirror.pods.get(stack.pod_name)

    async def service_goes() -> None:
        await _delete_service(context, stack)
        crash_point("delete.service_deleted")

    async def pod_goes() -> None:
        await context.cluster.delete_pod(stack.pod_name, _uid(stack.pod_uid, pod), known=(stack.pod_uid,))
        crash_point("delete.pod_deleted")

    async def record_goes() -> None:
        if _may_have_record(context, stack):
            await context.cluster.delete_stopped(stack.stack_id)
            crash_point("delete.record_deleted")

    if not for_good:
        await pod_goes()
        await service_goes()
        return
    for result in await asyncio.gather(service_goes(), pod_goes(), record_goes(), return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
    crash_point("delete.confirmed")


def _may_have_record(context: Context, stack: Stack) -> bool:
    """Whether a ConfigMap may hold its record: it is stopped or was restarted, and the mirror may not have it yet."""
    stopped = stack.desired is Desired.STOPPED or stack.generation > 0
    return stopped or stack.stack_id in context.mirror.stopped


async def _delete_service(context: Context, stack: Stack) -> None:
    uid = _uid(stack.service_uid, context.mirror.services.get(stack.service_name))
    await context.cluster.delete_service(stack.service_name, uid, known=(stack.service_uid, stack.pod_uid))


def _uid(known: str | None, seen: PodState | ServiceState | None) -> str | None:
    """The uid to delete by; None if row and mirror disagree: then the cluster is asked what is there now.

    A delete by the old uid of a Service that was created again would delete nothing, and look like success.
    """
    return seen.uid if seen is not None and known == seen.uid else None


async def _release(context: Context, stack_id: str) -> None:
    """Give back the Service and the ports of a stack that has ended for good; its row stays."""
    async with context.locks.of(stack_id):
        stack = context.store.stacks.get(stack_id)
        if stack is None or next_step(stack) is not DeleteStep.RELEASE:
            return
        await context.right_cluster()
        await _delete_service(context, stack)
        crash_point("release.service_deleted")
        await context.store.ports.release([stack_id])
        crash_point("release.released")
    stack_log(log, stack_id).info("Service and ports given back (%s)", stack.status_reason)


async def _delete_orphan(context: Context, orphan: Orphan) -> None:
    """Delete an object with our labels that no row knows, unless a row is reason enough by now to keep it."""
    stack_id = orphan.stack_id
    async with context.locks.of(stack_id):
        if stack_id in context.creating or is_kept(orphan, context.store.stacks.get(stack_id)):
            return
        await context.right_cluster()
        if not _is_there(context, orphan):
            return
        cluster = context.cluster
        delete = {PODS: cluster.delete_pod, SERVICES: cluster.delete_service, CONFIG_MAPS: cluster.delete_stopped}
        await delete[orphan.resource](orphan.name, orphan.uid)
        crash_point("orphan.removed")
    stack_log(log, stack_id).info("%s removed, which no row knows", orphan)


def _is_there(context: Context, orphan: Orphan) -> bool:
    mirror = context.mirror
    views: dict[str, Mapping[str, Named]] = {PODS: mirror.pods, SERVICES: mirror.services, CONFIG_MAPS: mirror.stopped}
    seen = views[orphan.resource].get(orphan.name)
    return seen is not None and seen.uid == orphan.uid
