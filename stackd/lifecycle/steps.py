"""The executors: one for each kind of step that ``next_step`` can decide on; and ``converge``, which runs them.

Owns: the order within a step. A step may be repeated: each finds what an interrupted one has left. What the API server
answers goes into the mirror at once (``Mirror.saw``), so that the next decision rests on it. Does not decide anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from stackd.clock import from_nanoseconds
from stackd.crashpoints import crash_point
from stackd.errors import (
    ClusterError,
    ClusterRefused,
    ClusterUnavailable,
    NameTaken,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StackdError,
    StackNotFound,
    StillThere,
    StoreUnavailable,
    public_text,
)
from stackd.kube import labels
from stackd.kube.manifests import pod_labels
from stackd.kube.objects import PODS, SERVICES, PodState, ServiceState
from stackd.kube.routes import RouteState
from stackd.lifecycle.context import Context
from stackd.lifecycle.diagnostics import capture_logs_of_expired
from stackd.lifecycle.next_step import OF_THE_PASS, StepKind, record_error, service_error, service_step
from stackd.lifecycle.objects import (
    delete_routes,
    expose,
    pod_request,
    put_routes,
    require_as_made,
    spec_of,
    what_is_wrong,
)
from stackd.lifecycle.status import PodSnapshot, derive_status, observation, pod_progress
from stackd.logs import stack_log
from stackd.model import DeleteReason, Desired, Observation, Stack, StackStatus, service_name
from stackd.templates.hiding import hide_in

log = logging.getLogger(__name__)

DELETE_PENDING = "DeletePending"
"""The ``status_reason`` of a stack that something in the cluster keeps from being deleted."""

NOT_OURS = "a pod that is not stackd's has the stack's name"
MOST_STEPS = 10  # more steps in a row mean that something in the cluster undoes what stackd does


async def converge(context: Context, stack_id: str) -> None:
    """Do what is left to be done about the stack, one step after the other. Raises what keeps it from being done now.
    Leaves alone what a brake may hold back: a pass does that."""
    for _ in range(MOST_STEPS):
        stack = context.store.stacks.get(stack_id)
        if stack is None:
            return await remove_without_row(context, stack_id)
        step = context.step(stack)
        if step is None or step.kind in OF_THE_PASS:
            return None
        with hiding(context, stack_id):
            await EXECUTORS[step.kind](context, stack)
    raise ClusterRefused("something in the cluster keeps changing what stackd makes")


@contextmanager
def hiding(context: Context, stack_id: str) -> Iterator[None]:
    """Hide the stack's generated values in every error that is raised within this context."""
    before = context.store.stacks.get(stack_id)
    try:
        yield
    except StackdError as error:
        stack = context.store.stacks.get(stack_id) or before
        if stack is not None:
            hide_in(error, stack.values)
        raise


async def undo(context: Context, stack: Stack) -> None:
    """Intend to delete a stack whose create was never completed."""
    await context.store.stacks.mark_deleting([stack.stack_id], DeleteReason.UNDO)
    crash_point("create.undo_marked")


async def delete(context: Context, stack: Stack) -> None:
    """Delete pod and routes, then the Service; once the cluster has confirmed all gone, remove the row."""
    if stack.delete_reason is DeleteReason.EXPIRED:
        await capture_logs_of_expired(context, stack.stack_id)
    try:
        await _delete_objects(context, stack)
    except (StillThere, ClusterRefused) as error:
        await context.store.stacks.set_pending_reason(stack.stack_id, DELETE_PENDING, error.sentence)
        raise
    is_of_job = stack.stack_id in context.worker.jobs
    await (context.store.stacks.remove_soon if is_of_job else context.store.stacks.remove)([stack.stack_id])
    crash_point("delete.removed")
    stack_log(log, stack.stack_id).info("removed (%s)", stack.delete_reason)


async def _delete_objects(context: Context, stack: Stack) -> None:
    """The Service last, because it carries the record: whoever owns the stacks next takes over what is left."""
    await context.gate.right_cluster()
    results = await asyncio.gather(_delete_pod(context, stack), delete_routes(context, stack), return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in errors:
        if not isinstance(error, StillThere):  # what is being deleted takes no more traffic
            raise error
    seen = context.mirror.services.get(stack.service_name)
    uid = _uid(stack.service_uid, seen)
    await context.cluster.delete("services", stack.service_name, uid, known=(stack.service_uid,))
    crash_point("delete.service_deleted")
    if seen is not None:
        context.mirror.gone(seen)
    if errors:
        await context.store.ports.release([stack.stack_id])  # a finalizer may keep the pod for ever
        raise errors[0]
    crash_point("delete.confirmed")


async def _delete_pod(context: Context, stack: Stack) -> None:
    seen = context.mirror.pods.get(stack.pod_name)
    await context.cluster.delete("pods", stack.pod_name, _uid(stack.pod_uid, seen), known=(stack.pod_uid,))
    crash_point("delete.pod_deleted")
    if seen is not None:
        context.mirror.gone(seen)


def _uid(of_row: str | None, seen: PodState | ServiceState | None) -> str | None:
    """The uid to delete by; None if row and mirror disagree: then the cluster is asked what is there now. A delete by
    the old uid of a Service that was created again would delete nothing, and look like success."""
    return seen.uid if seen is not None and of_row == seen.uid else None


async def release(context: Context, stack: Stack) -> None:
    """Give back ports and names of a stack that has ended for good: its Service becomes one without node ports. It
    stays, because it carries the record until the row goes."""
    await context.gate.right_cluster()
    await delete_routes(context, stack)
    seen = context.mirror.services.get(stack.service_name)
    if seen is not None or await context.cluster.find("services", stack.service_name) is not None:
        await expose(context, replace(stack, ports_held=False))
    crash_point("release.service_changed")
    await context.store.ports.release([stack.stack_id])
    crash_point("release.released")
    stack_log(log, stack.stack_id).info("ports given back (%s)", stack.status_reason)


async def stop(context: Context, stack: Stack) -> None:
    """Delete the pod of a stack that its user has stopped. The record says so before, the row afterwards."""
    await _record_first(context, stack)
    crash_point("stop.recorded")
    await context.gate.right_cluster()
    await _delete_pod(context, stack)
    await context.store.stacks.stopped(stack.stack_id)
    crash_point("stop.stopped")
    stack_log(log, stack.stack_id).info("stopped")


async def start(context: Context, stack: Stack) -> None:
    """Give the stack a new pod; its Service stays. The record says so before the old pod is deleted."""
    try:
        with hiding(context, stack.stack_id):
            await _start(context, stack)
    except StackNotFound:
        return  # it was stopped, started again or deleted meanwhile: that is the next step
    except StackdError as error:
        await _write_reason(context, stack, error)
        raise


async def _start(context: Context, stack: Stack) -> None:
    """A pod of the stack's name is its new one only if it carries our labels, which nobody else may write. An earlier try
    may have made it, whose answer was lost."""
    stack_id = stack.stack_id
    stack = await _record_first(context, stack)
    crash_point("restart.recorded")
    await context.gate.right_cluster()
    pod = await context.cluster.get(PODS, stack.pod_name)
    if pod is not None and (pod.deleting or not _is_ours(context, stack, pod) or pod.generation < stack.generation):
        await _clear_name(context, stack, pod)
        pod = None
    row = context.store.stacks.get(stack_id)
    if row is None or row.deleting_since is not None or row.desired is not Desired.RUNNING:
        raise StackNotFound(stack_id)
    stack = await context.store.stacks.with_pod_spec(row)
    if pod is None:
        pod = await _create_pod(context, stack)
    context.mirror.saw(pod)
    crash_point("restart.pod_created")
    service = context.mirror.services.get(stack.service_name)
    seen = first_observation(context, stack, pod, service, node_exists=pod.node_name in context.mirror.nodes)
    await context.store.stacks.started(seen, pod_uid=pod.uid, service_uid=service.uid if service else stack.service_uid)
    crash_point("restart.started")
    stack_log(log, stack_id).info("started again, pod %d", stack.generation)


def _is_ours(context: Context, stack: Stack, pod: PodState) -> bool:
    return pod.instance == context.instance and pod.stack_id == stack.stack_id


async def _clear_name(context: Context, stack: Stack, pod: PodState) -> None:
    """Delete the pod that has the stack's name. Raises NameTaken if it is somebody else's and stays."""
    try:
        await context.cluster.delete("pods", pod.name, pod.uid)
    except StillThere as error:
        if _is_ours(context, stack, pod):
            raise
        raise NameTaken(f"{NOT_OURS}: {error}") from error
    context.mirror.gone(pod)
    crash_point("restart.cleared")


async def _create_pod(context: Context, stack: Stack) -> PodState:
    try:
        return await context.cluster.create(PODS, pod_request(context, stack, spec_of(context, stack)))
    except ObjectExists as error:  # since it was looked for
        raise NameTaken(NOT_OURS) from error


def first_observation(
    context: Context, stack: Stack, pod: PodState, service: ServiceState | None, *, node_exists: bool
) -> Observation:
    """What is written about a stack together with its new pod; the pod may have started by then."""
    snapshot = PodSnapshot(
        pod=pod,
        node_exists=node_exists,
        node_public_ip=context.public_address(pod.node_name, service),
        now=context.clock.now(),
        repaired=what_is_wrong(context, stack),
    )
    derived = derive_status(stack, snapshot, context.config.stacks.image_pull_grace)
    is_creating = derived.status is StackStatus.CREATING  # then the observer records when it starts
    return observation(stack, snapshot, derived, () if is_creating else pod_progress(None, stack, snapshot)[1])


async def _record_first(context: Context, stack: Stack) -> Stack:
    """The stack once its Service says what the row intends: whoever loses the file reads it there."""
    current = service_step(stack, context.mirror.services.get(stack.service_name)) is None
    return stack if current else await put(context, stack)


async def _write_reason(context: Context, stack: Stack, error: StackdError) -> None:
    """Write into the stack's status why its start has to be retried."""
    seen = Observation(
        stack_id=stack.stack_id,
        # Of what somebody else keeps, nobody knows when it goes: whoever waits for the stack has to know.
        status=StackStatus.FAILED if isinstance(error, NameTaken) else StackStatus.CREATING,
        status_reason="ClusterUnavailable" if isinstance(error, ClusterError) else type(error).__name__,
        status_message=f"waiting to create the pod: {public_text(error)}; retrying"[:1024],
        generation=stack.generation,
    )
    try:
        await context.store.stacks.observe([seen])
    except StoreUnavailable as unavailable:
        log.debug("%s: %s", stack.stack_id, unavailable)


async def put(context: Context, stack: Stack, *, timeout: float | None = None) -> Stack:
    """Make Service and record be as the row says; returns the row, in which a port may have been replaced."""
    seen = context.mirror.services.get(stack.service_name)
    if seen is not None and not (seen.deleting or service_error(stack, seen) or record_error(stack, seen)):
        expiry = {labels.EXPIRES: from_nanoseconds(stack.ttl_expires_at)}  # nothing else differs
        await context.gate.right_cluster()
        try:
            service = await context.cluster.patch(SERVICES, seen.name, seen.uid, annotations=expiry, timeout=timeout)
        except (ObjectNotFound, PreconditionFailed):
            context.mirror.gone(seen)
            raise ClusterUnavailable("its Service was replaced meanwhile") from None
        require_as_made(stack, service)
        context.mirror.saw(service)
    else:
        stack, service = await expose(context, stack, timeout=timeout)
    crash_point("service.put")
    if service.uid != stack.service_uid and stack.accepted:
        await context.store.stacks.set_service(stack.stack_id, service.uid)
        stack_log(log, stack.stack_id).info("its Service was created again")
    if seen is not None and seen.uid == service.uid and not seen.recorded:
        stack_log(log, stack.stack_id).warning("stackd's annotations were missing on its Service and are restored")
    return stack


async def label(context: Context, stack: Stack) -> None:
    """Put our labels and the generation back on the pod: without them the watch and its Service do not see it."""
    pod = context.current_pod(stack)
    if pod is None:
        return
    await context.gate.right_cluster()
    try:
        changed = await _put_labels(context, stack, pod.uid)
    except (ObjectNotFound, PreconditionFailed):
        context.mirror.gone(pod)  # the pod is gone, or another pod has its name by now
        return
    crash_point("repair.labels_put_back")
    context.mirror.saw(changed)
    if pod.stack_id != stack.stack_id:
        stack_log(log, stack.stack_id).warning("stackd's labels were removed from its pod and are restored")


async def _put_labels(context: Context, stack: Stack, pod_uid: str) -> PodState:
    """Put stackd's labels on the stack's pod of that uid and return it. Raises ClusterRefused if something removes them
    at once; ObjectNotFound, PreconditionFailed, ClusterUnavailable."""
    names, generation = pod_labels(stack, context.instance), {labels.GENERATION: str(stack.generation)}
    pod = await context.cluster.patch(PODS, stack.pod_name, pod_uid, labels=names, annotations=generation)
    if pod.stack_id != stack.stack_id:
        context.mirror.keep(pod)  # the watch does not tell how it is
        raise ClusterRefused("something in the cluster removes stackd's labels from its pod; it must leave them there")
    return pod


async def remove_pod(context: Context, stack: Stack) -> None:
    """Delete a pod that has the stack's name, but was made by a create that was given up."""
    pod = context.mirror.pods.get(stack.pod_name)
    if pod is not None and pod.uid != stack.pod_uid:
        await _remove(context, pod)


async def remove_without_row(context: Context, stack_id: str) -> None:
    """Delete the objects of a stack without a row that a pass or the operator wants removed."""
    mirror = context.mirror
    service = mirror.services.get(service_name(stack_id)) or mirror.services.get(stack_id)
    routes = [one for one in mirror.all_routes() if one.stack_id == stack_id]
    for one in (mirror.pods.get(stack_id), *routes, service):
        if one is not None and one.uid in context.removable:
            await _remove(context, one)
            context.removable.discard(one.uid)
            stack_log(log, stack_id).info("%s removed, which no row knows", one.name)


async def _remove(context: Context, one: PodState | ServiceState | RouteState) -> None:
    await context.gate.right_cluster()
    await context.cluster.delete(one.resource, one.name, one.uid)
    context.mirror.gone(one)
    crash_point("orphan.removed")


EXECUTORS: Mapping[StepKind, Callable[[Context, Stack], Awaitable[object]]] = {
    StepKind.UNDO: undo,
    StepKind.DELETE: delete,
    StepKind.RELEASE: release,
    StepKind.STOP: stop,
    StepKind.START: start,
    StepKind.REPAIR: put,
    StepKind.ANNOTATE: put,
    StepKind.ROUTE: put_routes,
    StepKind.LABEL: label,
    StepKind.REMOVE_POD: remove_pod,
}
"""The others are the pass's (``OF_THE_PASS``), or about objects without a row."""
