"""Stop a stack and keep its ports, start it again, or give it a new pod behind the same ports.

Owns: the order. The intent is committed first (``desired``, and a ``generation`` that is also written on the pod and
tells the old pod from the new one). The old pod and Service are confirmed gone before the new ones are made, because
they have the same names. While no pod carries the stack's record, a ConfigMap does, so that a lost file loses no stack:
it is created before the old pod is deleted, and deleted once the new pod exists. ``resume`` retries what failed and
finishes what was interrupted; the reconciler finds the latter.
"""

from __future__ import annotations

import dataclasses
import logging

from stackd.errors import (
    ClusterError,
    ClusterRefused,
    ClusterUnavailable,
    Conflict,
    InvalidPodSpec,
    StackdError,
    StackNotFound,
    StoreUnavailable,
    Unavailable,
    detail_of,
    public_text,
)
from stackd.kube.objects import PodState
from stackd.lifecycle.annotations import put_record
from stackd.lifecycle.context import Context, current_pod
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.create import first_observation, reopening_silent_watch
from stackd.lifecycle.delete import delete_objects
from stackd.lifecycle.hiding import hiding
from stackd.lifecycle.objects import expose, keep_right_service, pod_request, put_labels_on, spec_of
from stackd.lifecycle.plan import Repair, RepairKind
from stackd.lifecycle.readiness import admitted
from stackd.logs import stack_log
from stackd.model import Desired, EventKind, Observation, SanitizedSpec, Stack, StackStatus
from stackd.store import PORT_REPLACED, Start, ports_replaced

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 2.0
"""How long a response waits for a node to take the new pod, so that it can name the address; no node is no failure."""


async def stop(context: Context, stack_id: str, *, by: str) -> Stack:
    """Stop the stack and return it: no pod or Service of it remains; it keeps its ports until it is started or expires.

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
    """Give the stack a new pod behind the same ports and with the same expiry, and return it as ``creating``.

    The node may be another. An error of the cluster (a quota, say) is raised, and the start is retried until it is
    done. Raises StackNotFound, Conflict (also if the ports were given back and are no longer free), LabelLimitReached,
    Held, ShuttingDown, StoreUnavailable, and all that a create raises.
    """
    task = context.tasks.spawn(f"restart {stack_id}", _start(context, stack_id, EventKind.RESTART_REQUESTED, by))
    return await context.tasks.result_of(task)


async def resume(context: Context, stack_id: str) -> None:
    """Do what is left of a stop, start or restart. Raises what keeps it from being done now."""
    async with context.locks.of(stack_id):
        stack = context.store.stacks.get(stack_id)
        if stack is None or stack.deleting_since is not None or stack.ended or not stack.accepted:
            return
        if stack.desired is Desired.STOPPED:
            await _finish_stop(context, stack_id)
        elif stack.pod_uid is None:
            await _finish_start(context, stack_id)


async def _stop(context: Context, stack_id: str, by: str) -> Stack:
    async with context.locks.of(stack_id):
        await context.store.stacks.stop(stack_id, by)
        crash_point("stop.intended")
        try:
            return await _finish_stop(context, stack_id)
        except (ClusterError, Unavailable) as error:
            context.repairs.retry(Repair(kind=RepairKind.RESUME, stack_id=stack_id))
            context.may_promise(error)
            sentence = f"{stack_id} cannot be stopped now; stackd keeps trying: {public_text(error)}"
            raise ClusterUnavailable(sentence, detail=detail_of(error)) from error


async def _finish_stop(context: Context, stack_id: str) -> Stack:
    stack = _wanted(context, stack_id, Desired.STOPPED)
    with hiding(context, stack_id):
        await _clear(context, stack)
    stopped = await context.store.stacks.stopped(stack_id)
    if stopped is None:
        raise StackNotFound(stack_id)
    crash_point("stop.stopped")
    stack_log(log, stack_id).info("stopped")
    return stopped


async def _clear(context: Context, stack: Stack) -> None:
    """Remove everything of the stack from the cluster except its record."""
    stack_id = stack.stack_id
    if not stack.at_rest or stack_id in context.mirror.pods or stack.service_name in context.mirror.services:
        await put_record(context, stack)
        crash_point("stop.recorded")
        await delete_objects(context, stack, for_good=False)
        crash_point("stop.cleared")


async def _start(context: Context, stack_id: str, kind: EventKind, by: str) -> Stack:
    async with context.locks.of(stack_id), context.create_slots:  # whoever waits for the stack occupies no slot
        stack = context.store.stacks.get(stack_id)
        if stack is None:
            raise StackNotFound(stack_id)
        if (
            kind is EventKind.START_REQUESTED
            and stack.desired is Desired.RUNNING
            and not stack.ended
            and stack.accepted
        ):
            return stack
        await admitted(context)
        spec = _spec(context, await context.store.stacks.whole(stack))
        limits = context.config.limits.stacks_per_label
        await context.store.stacks.start(stack_id, Start(pod_spec=spec.text, kind=kind, by=by, label_limits=limits))
        crash_point("restart.intended")
        try:
            return await _finish_start(context, stack_id)
        except StackdError as error:
            context.repairs.retry(Repair(kind=RepairKind.RESUME, stack_id=stack_id))
            context.may_promise(error)
            if isinstance(error, ClusterError | Unavailable):
                raise _retried(context, stack_id, error) from error
            raise


def _retried(context: Context, stack_id: str, error: ClusterError | Unavailable) -> Unavailable:
    """The error for a start that failed now; it says that stackd retries, and whether there is a pod until then."""
    stack, pod = context.store.stacks.get(stack_id), context.mirror.pods.get(stack_id)
    until = "it has no pod until then" if pod is None else "its old pod may run on until then"
    if stack is None or current_pod(context, stack) is not None:
        until = ""
    sentence = f"{stack_id} cannot be started now; stackd keeps trying{until and f'; {until}'}: {public_text(error)}"
    retry_after = error.retry_after if isinstance(error, Unavailable) else None
    return Unavailable(sentence, retry_after, detail=detail_of(error))


def _spec(context: Context, stack: Stack) -> SanitizedSpec:
    try:
        return spec_of(context, stack)
    except InvalidPodSpec as exc:
        raise Conflict(f"{stack.stack_id} cannot be started: its pod spec is not allowed any more: {exc}") from exc


async def _finish_start(context: Context, stack_id: str) -> Stack:
    stack = _wanted(context, stack_id, Desired.RUNNING)
    try:
        with hiding(context, stack_id):
            return await _make(context, stack)
    except StackNotFound:
        raise
    except StackdError as error:
        await _write_reason(context, stack, error)
        raise


async def _make(context: Context, stack: Stack) -> Stack:
    stack_id = stack.stack_id
    await context.right_cluster()
    pod = await context.cluster.get_pod(stack.pod_name)
    if pod is None or pod.deleting or pod.generation < stack.generation:
        # Not by the mirror, which may still show the record of an earlier stop.
        if not await context.cluster.has_stopped(stack_id):
            await put_record(context, stack)
            crash_point("restart.recorded")
        await delete_objects(context, stack, for_good=False)
        crash_point("restart.cleared")
        whole = await context.store.stacks.whole(_wanted(context, stack_id, Desired.RUNNING))
        pod = await context.cluster.create_pod(pod_request(context, whole, _spec(context, whole)))
    else:  # an interrupted start has created it, and may have left its Service without labels
        if pod.stack_id != stack_id or pod.instance != context.config.cluster.instance:
            pod = await _labelled(context, stack, pod)
        await keep_right_service(context, stack, pod)
    crash_point("restart.pod_created")
    await context.cluster.delete_stopped(stack_id)
    crash_point("restart.record_deleted")
    _wanted(context, stack_id, Desired.RUNNING)
    kept = stack.ports
    stack, service = await expose(context, stack, pod)
    crash_point("restart.service_created")
    pod = await _placed(context, pod)
    seen = first_observation(context, stack, pod, service, node_exists=pod.node_name in context.mirror.nodes)
    if replaced := ports_replaced(kept, stack.ports):
        seen = dataclasses.replace(seen, status_reason=PORT_REPLACED, status_message=replaced)
    started = await context.store.stacks.started(seen, pod_uid=pod.uid, service_uid=service.uid)
    crash_point("restart.started")
    stack_log(log, stack_id).info("started again, pod %d", stack.generation)
    return started


async def _labelled(context: Context, stack: Stack, pod: PodState) -> PodState:
    """Put stackd's labels back on the new pod; without them the mirror would not see it, and the row not get it.

    Raises ClusterRefused if something removes them again, and ClusterUnavailable.
    """
    pod = await put_labels_on(context, stack, pod.uid)
    if pod.stack_id != stack.stack_id:
        raise ClusterRefused("something in the cluster removes stackd's labels from its pod; it must leave them there")
    stack_log(log, stack.stack_id).warning("stackd's labels were removed from its fresh pod and are restored")
    return pod


async def put_record_right(context: Context, stack_id: str) -> None:
    """Put the stack's record into a ConfigMap if the stack is stopped; delete the record if it has a pod.

    Raises ClusterUnavailable, ClusterError, StoreUnavailable.
    """
    async with context.locks.of(stack_id):
        stack = context.store.stacks.get(stack_id)
        if stack is None or stack.deleting_since is not None:
            return
        if stack.desired is Desired.STOPPED and stack.at_rest:
            await put_record(context, stack)
        elif stack.pod_uid is not None:
            await context.right_cluster()
            await context.cluster.delete_stopped(stack_id)
        crash_point("repair.record_put_right")


async def _placed(context: Context, made: PodState) -> PodState:
    """The pod as soon as a node has it, the scheduler says that none takes it, or ``PATIENCE_SECONDS`` are over.

    Raises ClusterUnavailable if the mirror does not see the pod in time: the row must not name the pod before that, or
    the observer would take it for deleted.
    """

    def seen(pod: PodState | None) -> PodState | None:
        return pod if pod is not None and pod.uid == made.uid else None

    def placed(pod: PodState | None) -> PodState | None:
        return pod if seen(pod) and pod is not None and (pod.node_name or pod.scheduled is False) else None

    with reopening_silent_watch(context, made):
        try:
            pod = await context.mirror.until(made.name, seen, timeout=context.config.stacks.scheduling_timeout)
        except TimeoutError as exc:
            raise ClusterUnavailable(f"the fresh pod of {made.name} has not been seen yet") from exc
    try:
        return await context.mirror.until(made.name, placed, timeout=PATIENCE_SECONDS)
    except TimeoutError:
        return pod


def _wanted(context: Context, stack_id: str, desired: Desired) -> Stack:
    """The stack, if that is still its desired state. Raises StackNotFound otherwise, or if it is being deleted."""
    stack = context.store.stacks.get(stack_id)
    if stack is None or stack.deleting_since is not None or stack.desired is not desired:
        raise StackNotFound(stack_id)
    return stack


async def _write_reason(context: Context, stack: Stack, error: StackdError) -> None:
    """Write into the stack's status why its start has to be retried."""
    reason = "ClusterUnavailable" if isinstance(error, ClusterError) else type(error).__name__
    seen = Observation(
        stack_id=stack.stack_id,
        status=StackStatus.CREATING,
        status_reason=reason,
        status_message=f"waiting for another pod: {public_text(error)}; retrying"[:1024],
        generation=stack.generation,
    )
    try:
        await context.store.stacks.observe([seen])
    except StoreUnavailable as unavailable:
        log.debug("%s: %s", stack.stack_id, unavailable)
