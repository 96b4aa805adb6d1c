"""Restore what a living stack lacks: the rest of an interrupted stop or start, its Service, labels or annotations.

Owns: the background workers that do it, and restoring a Service. Whoever failed to do something, or the reconciler,
queues the repair.
"""

from __future__ import annotations

import logging

from stackd.errors import ClusterError, StackdError
from stackd.lifecycle.annotations import annotate
from stackd.lifecycle.context import Context, current_pod
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.hiding import hiding
from stackd.lifecycle.objects import expose, keep_right_service, put_labels_on
from stackd.lifecycle.plan import Repair, RepairKind, wants_service
from stackd.lifecycle.restart import put_record_right, resume
from stackd.logs import stack_log
from stackd.workqueue import RetryPolicy

log = logging.getLogger(__name__)

WORKERS = 16
RETRIES = RetryPolicy(first=0.5, longest=60.0)


async def work(context: Context) -> None:
    """The repairing service: carry out due repairs, several stacks at a time, for ever."""

    async def one(repair: Repair) -> None:
        # A background task of its own: a graceful stop waits for it.
        await context.tasks.spawn(str(repair), carry_out(context, repair))

    def failed(repair: Repair, error: StackdError, delay: float | None) -> None:
        extra = {"stack_id": repair.stack_id, "same": repair.kind.value}
        log.info("%s: next try in %.1f s: %s", repair, delay or 0.0, error, extra=extra)

    await context.repairs.run(one, workers=WORKERS, failed=failed)


async def carry_out(context: Context, repair: Repair) -> None:
    """Restore what is lacking, if it still is. Raises what keeps it from being done now."""
    with hiding(context, repair.stack_id):
        await _carry_out(context, repair)


async def _carry_out(context: Context, repair: Repair) -> None:
    stack_id = repair.stack_id
    match repair.kind:
        case RepairKind.RESUME:
            if not context.locks.busy(stack_id):  # otherwise somebody is stopping or starting it
                await resume(context, stack_id)
        case RepairKind.SERVICE:
            await put_back_service(context, stack_id)
        case RepairKind.ANNOTATE:
            await annotate(context, stack_id)
        case RepairKind.LABELS:
            await put_back_labels(context, stack_id)
        case RepairKind.RECORD:
            await put_record_right(context, stack_id)


async def put_back_labels(context: Context, stack_id: str) -> None:
    """Put our labels back on the pod of a living stack: without them the watch and its Service do not see the pod."""
    async with context.locks.of(stack_id):
        stack = context.store.stacks.get(stack_id)
        if stack is None or not wants_service(stack) or stack.pod_uid is None:
            return
        await context.right_cluster()
        try:
            pod = await put_labels_on(context, stack, stack.pod_uid)
        except ClusterError:
            return  # the pod is gone, or another pod has its name by now
        crash_point("repair.labels_put_back")
    if pod.stack_id == stack_id:
        stack_log(log, stack_id).warning("stackd's labels were removed from its pod and are restored")
    else:
        stack_log(log, stack_id, same="labels").warning("something in the cluster removes stackd's labels from its pod")


async def put_back_service(context: Context, stack_id: str) -> None:
    """Make the Service of a living stack match its row, with the same node ports unless others have taken them.

    A Service that was changed, or lost its labels, is deleted and created again.
    """
    async with context.locks.of(stack_id):
        stack = context.store.stacks.get(stack_id)
        if stack is None or not wants_service(stack):
            return  # it has ended or was stopped meanwhile, or gets another pod
        pod = current_pod(context, stack)
        if pod is None or pod.deleting:
            return  # the Service goes with the pod
        if await keep_right_service(context, stack, pod) is not None:
            return
        crash_point("repair.service_removed")
        # The mirror may still show the removed Service: if the row had the same uid, a delete would trust that uid.
        await context.store.stacks.set_service(stack_id, None)
        _, service = await expose(context, stack, pod, replaced=lambda: crash_point("repair.port_replaced"))
        crash_point("repair.service_created")
        await context.store.stacks.set_service(stack_id, service.uid)
    stack_log(log, stack_id).info("Service created again")
