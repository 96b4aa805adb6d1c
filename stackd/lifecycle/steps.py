"""The executors: one for each kind of step that ``next_step`` can decide on.

Owns: the order within a step. A step may be repeated: each finds what an interrupted one has left. What the API server
answers goes into the mirror at once (``Mirror.saw``), so that the next decision rests on it. Does not decide which step is
next; ``expire`` and ``end`` ask, before they write, whether the stack may end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from stackd.crashpoints import crash_point
from stackd.errors import (
    ClusterError,
    ClusterRefused,
    ClusterUnavailable,
    NameTaken,
    NoRoom,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    QuotaExceeded,
    StackdError,
    StackNotFound,
    StillThere,
    StoreUnavailable,
    public_text,
)
from stackd.kube import labels
from stackd.kube.manifests import pod_labels
from stackd.kube.objects import PODS, SERVICES, PodState, ServiceState
from stackd.kube.records import expiry_annotations
from stackd.kube.routes import ROUTES, RouteState, WantedRoute
from stackd.lifecycle.context import Context
from stackd.lifecycle.diagnostics import capture_logs_of_expired
from stackd.lifecycle.next_step import (
    StepKind,
    has_pod,
    record_error,
    replaced_pods,
    service_error,
    service_step,
    stack_of,
)
from stackd.lifecycle.objects import (
    delete_routes,
    expose,
    gather_all,
    pod_request,
    put_routes,
    require_as_made,
    spec_of,
    wanted,
    what_is_wrong,
)
from stackd.lifecycle.observe import look, pod_is_gone, write
from stackd.lifecycle.status import PodSnapshot, derive_status, observation, pod_progress
from stackd.logs import stack_log
from stackd.model import DeleteReason, Desired, Observation, Stack, StackStatus, service_name
from stackd.templates.hiding import hide_in

log = logging.getLogger(__name__)

NO_NODE = "no node has room for the stack"
POD_DELETED = "the pod was deleted from the cluster while it was being created"
DELETE_PENDING = "DeletePending"
"""The ``status_reason`` of a stack that something in the cluster keeps from being deleted."""

NOT_OURS = "a pod that is not stackd's has the stack's name"


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


# ---- a create


async def make(context: Context, stack: Stack) -> bool:
    """Create pod, Service and routes at the same time. All outcomes are known when this returns or raises."""
    creation = context.creates[stack.stack_id]
    phases = creation.timer

    async def create_pod() -> None:
        creation.pod = await context.cluster.create(PODS, pod_request(context, stack, creation.request.spec))
        phases.lap("pod")
        crash_point("create.pod_created")
        context.mirror.saw(creation.pod)

    async def create_service() -> None:
        _, creation.service = await expose(context, stack, creation=creation)
        phases.lap("service")
        crash_point("create.service_created")

    async def create_route(wanted_route: WantedRoute) -> None:
        context.mirror.saw(await context.cluster.create(ROUTES[wanted_route.resource], wanted_route.manifest))
        crash_point("create.route_created")

    await gather_all([create_pod(), create_service(), *map(create_route, wanted(context, stack))])
    phases.restart()
    creation.made_at = context.clock.monotonic()
    return True


async def accept(context: Context, stack: Stack) -> bool:
    """Complete the create: a node has the pod."""
    creation, pod = context.creates[stack.stack_id], context.mirror.pods[stack.pod_name]
    assert creation.service is not None, "it was made"
    creation.timer.end("schedule")
    crash_point("create.scheduled")
    creation.check()
    context.fence.require()
    stack = creation.stack = await context.store.stacks.accept(
        first_observation(context, stack, pod, creation.service, node_exists=True),
        pod_uid=pod.uid,
        service_uid=creation.service.uid,
        claim=creation.request.claim,
        by=creation.request.by,
    )
    creation.timer.end("accept")
    crash_point("create.accepted")
    stack_log(log, stack.stack_id).info("created on %s", stack.node_id)
    return False  # the new row wakes it again


async def refuse(context: Context, stack: Stack) -> bool:
    """Raise NoRoom: no node takes the new pod."""
    pod = context.mirror.pods[stack.pod_name]
    raise NoRoom(NO_NODE, detail=pod.unschedulable_message)


async def undo(context: Context, stack: Stack) -> bool:
    """Intend to delete a stack whose create was never completed."""
    await context.store.stacks.mark_deleting([stack.stack_id], DeleteReason.UNDO)
    crash_point("create.undo_marked")
    return True


# ---- the end of a stack


async def expire(context: Context, stack: Stack) -> bool:
    """Intend to delete a stack whose time is up, unless the brake holds it because the clock was set (invariant 8)."""
    until = context.wall_clock.sudden_until
    if not context.may_expire:
        return False
    if stack.ttl_expires_at <= until:
        rows = (row for row in context.store.stacks.ordered() if row.deleting_since is None)
        sudden = [row.stack_id for row in rows if row.ttl_expires_at <= until and not (row.unassigned or row.shared)]
        if not context.may_end(stack, "expire: its time is up since the clock was set forward", sudden):
            return False
    if not await context.store.stacks.mark_expired([stack.stack_id]):
        return False
    crash_point("expire.marked")
    context.abandon_create(stack.stack_id)
    stack_log(log, stack.stack_id).info("its time is up")
    await capture_logs_of_expired(context, stack.stack_id)
    return True


async def end(context: Context, stack: Stack) -> bool:
    """End a stack whose pod is missing, once Kubernetes itself has said that the pod is gone. If the pods of too many stacks
    are gone, its status says so, but nothing is given back (invariant 8)."""
    if not stack.accepted:
        creation = context.creates.get(stack.stack_id)
        if creation is not None and creation.pod and await pod_is_gone(context, stack, creation.pod.uid):
            raise ClusterUnavailable(POD_DELETED)
        return False
    if not await pod_is_gone(context, stack, stack.pod_uid):
        return False
    row = context.store.stacks.get(stack.stack_id)
    if row is None or row.pod_uid != stack.pod_uid or context.current_pod(row) is not None:
        return True  # something else has happened to it meanwhile
    snapshot, derived = look(context, row, None)
    seen = observation(row, snapshot, derived)
    if derived.status is not StackStatus.NODE_DELETED and row.pod_uid not in context.memory.disruptions:
        gone = [one.stack_id for one in context.store.stacks.ordered() if is_missing(context, one)]
        if not context.may_end(row, f"end: {derived.message}", gone):
            seen = replace(seen, ended=False)
    row = await write(context, row, seen)
    if not row.ended:  # somebody may extend it, and an owner with another file must know
        await _annotate(context, row)
    return row.ended


async def _annotate(context: Context, stack: Stack) -> None:
    """Bring the record up to date, if there is one."""
    step = service_step(stack, context.mirror.services.get(stack.service_name))
    if step is not None and step.kind is StepKind.ANNOTATE:
        await put(context, stack)


def is_missing(context: Context, stack: Stack) -> bool:
    """Whether the stack's pod is gone from the mirror, and the cluster does not explain that: its node is there, and the
    cluster itself has not disrupted the pod."""
    explained = stack.node_id not in context.mirror.nodes or stack.pod_uid in context.memory.disruptions
    return has_pod(stack) and not explained and context.current_pod(stack) is None


async def delete(context: Context, stack: Stack) -> bool:
    """Delete pod and routes, then the Service; once the cluster has confirmed all gone, remove the row."""
    refused, again = context.gate.undeletable, context.loop.queue.has_failed(stack.stack_id)
    try:
        await _delete_objects(context, stack)
    except ClusterUnavailable as error:
        answered = isinstance(error, StillThere | ClusterRefused)
        if answered or (again and context.gate.is_clear):
            await context.store.stacks.set_pending_reason(stack.stack_id, DELETE_PENDING, error.sentence)
        if again and isinstance(error, ClusterRefused):
            refused[stack.stack_id] = error.sentence
        raise
    refused.pop(stack.stack_id, None)
    of_job = stack.delete_reason is DeleteReason.BATCH
    await (context.store.stacks.remove_soon if of_job else context.store.stacks.remove)([stack.stack_id])
    crash_point("delete.removed")
    stack_log(log, stack.stack_id).info("removed (%s)", stack.delete_reason)
    return False


async def _delete_objects(context: Context, stack: Stack) -> None:
    """The Service last, because it carries the record: whoever owns the stacks next takes over what is left."""
    pods = _delete_pod(context, stack), *(_remove(context, one) for one in context.earlier_pods(stack))
    results = await asyncio.gather(*pods, delete_routes(context, stack), return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in errors:
        if not isinstance(error, StillThere):  # what is being deleted takes no more traffic
            raise error
    seen = context.mirror.services.get(stack.service_name)
    await _delete_own(context, SERVICES.resource, stack.service_name, stack.service_uid, seen)
    crash_point("delete.service_deleted")
    if seen is not None:
        context.mirror.gone(seen)
    if errors:
        await context.store.ports.release([stack.stack_id])  # a finalizer may keep the pod for ever
        raise errors[0]
    crash_point("delete.confirmed")


async def _delete_pod(context: Context, stack: Stack) -> None:
    seen = context.mirror.pods.get(stack.pod_name)
    await _delete_own(context, PODS.resource, stack.pod_name, stack.pod_uid, seen)
    crash_point("delete.pod_deleted")
    if seen is not None:
        context.mirror.gone(seen)


async def _delete_own(
    context: Context, resource: str, name: str, of_row: str | None, seen: PodState | ServiceState | None
) -> None:
    """Delete the stack's object by its uid; if row and mirror disagree about that, or another object has the name by now,
    the cluster is asked what is there."""
    uid, delete = seen.uid if seen is not None and of_row == seen.uid else None, context.cluster.delete
    if not (await delete(resource, name, uid, known=(of_row,)) or await delete(resource, name, known=(of_row,))):
        raise ClusterUnavailable(f"{resource} {name} keeps changing")


async def release(context: Context, stack: Stack) -> bool:
    """Give back ports and names of a stack that has ended for good: its Service becomes one without node ports. It
    stays, because it carries the record until the row goes."""
    await delete_routes(context, stack)
    seen = context.mirror.services.get(stack.service_name)
    if seen is not None or await context.cluster.find("services", stack.service_name) is not None:
        await expose(context, replace(stack, ports_held=False))
    crash_point("release.service_changed")
    await context.store.ports.release([stack.stack_id])
    crash_point("release.released")
    stack_log(log, stack.stack_id).info("ports given back (%s)", stack.status_reason)
    return True


async def stop(context: Context, stack: Stack) -> bool:
    """Delete the pod of a stack that its user has stopped. The record says so before, the row afterwards."""
    crash_point("stop.recorded")
    await _delete_pod(context, stack)
    await context.store.stacks.stopped(stack.stack_id)
    crash_point("stop.stopped")
    stack_log(log, stack.stack_id).info("stopped")
    return True


async def start(context: Context, stack: Stack) -> bool:
    """Give the stack a new pod; its Service stays. The record says so before the old pod is deleted."""
    try:
        with hiding(context, stack.stack_id):
            await _start(context, stack)
    except StackNotFound:
        pass  # it was stopped, started again or deleted meanwhile: that is the next step
    except StackdError as error:
        await _write_reason(context, stack, error)
        raise
    return True


async def _start(context: Context, stack: Stack) -> None:
    """A pod of the stack's name is its new one only if it carries our labels, which nobody else may write. An earlier try
    may have made it, whose answer was lost."""
    stack_id = stack.stack_id
    crash_point("restart.recorded")
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
    return pod.instance == context.cluster.instance and pod.stack_id == stack.stack_id


async def _clear_name(context: Context, stack: Stack, pod: PodState) -> None:
    """Delete the pod that has the stack's name. Raises NameTaken if it is somebody else's and stays."""
    try:
        if not await context.cluster.delete("pods", pod.name, pod.uid):
            raise ClusterUnavailable(f"pods {pod.name} keeps changing")
    except StillThere as error:
        if _is_ours(context, stack, pod):
            raise
        raise NameTaken(f"{NOT_OURS}: {error}") from error
    context.mirror.gone(pod)
    crash_point("restart.cleared")


async def _create_pod(context: Context, stack: Stack) -> PodState:
    try:
        return await context.cluster.create(PODS, pod_request(context, stack, spec_of(context, stack)))
    except QuotaExceeded:
        for one in context.earlier_pods(stack):  # there is no room for two
            await _remove(context, one)
        raise
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


async def put(context: Context, stack: Stack) -> bool:
    """Make Service and record be as the row says; a node port that others hold is replaced in the row."""
    seen = context.mirror.services.get(stack.service_name)
    if seen is not None and not (seen.deleting or service_error(stack, seen) or record_error(stack, seen)):
        expiry = expiry_annotations(stack)  # nothing else differs
        try:
            service = await context.cluster.patch(SERVICES, seen.name, seen.uid, annotations=expiry)
        except (ObjectNotFound, PreconditionFailed):
            context.mirror.gone(seen)
            raise ClusterUnavailable("its Service was replaced meanwhile") from None
        require_as_made(stack, service)
        context.mirror.saw(service)
    else:
        stack, service = await expose(context, stack)
    crash_point("service.put")
    if service.uid != stack.service_uid and stack.accepted:
        await context.store.stacks.set_service(stack.stack_id, service.uid)
        stack_log(log, stack.stack_id).info("its Service was created again")
    if seen is not None and seen.uid == service.uid and not seen.recorded:
        stack_log(log, stack.stack_id).warning("stackd's annotations were missing on its Service and are restored")
    return True


async def route(context: Context, stack: Stack) -> bool:
    """Make the stack's routes be as they should."""
    await put_routes(context, stack)
    return True


async def label(context: Context, stack: Stack) -> bool:
    """Put our labels and the generation back on the pod: without them the watch and its Service do not see it."""
    pod = context.current_pod(stack)
    if pod is None:
        return True
    try:
        changed = await _put_labels(context, stack, pod.uid)
    except (ObjectNotFound, PreconditionFailed):
        context.mirror.gone(pod)  # the pod is gone, or another pod has its name by now
        return True
    crash_point("repair.labels_put_back")
    context.mirror.saw(changed)
    if pod.stack_id != stack.stack_id:
        stack_log(log, stack.stack_id).warning("stackd's labels were removed from its pod and are restored")
    return True


async def _put_labels(context: Context, stack: Stack, pod_uid: str) -> PodState:
    """Put stackd's labels on the stack's pod of that uid and return it. Raises ClusterRefused if something removes them
    at once; ObjectNotFound, PreconditionFailed, ClusterUnavailable."""
    names, generation = pod_labels(stack, context.cluster.instance), {labels.GENERATION: str(stack.generation)}
    pod = await context.cluster.patch(PODS, stack.pod_name, pod_uid, labels=names, annotations=generation)
    if pod.stack_id != stack.stack_id:
        context.mirror.keep(pod)  # the watch does not tell how it is
        raise ClusterRefused("something in the cluster removes stackd's labels from its pod; it must leave them there")
    return pod


async def serve(context: Context, stack: Stack) -> bool:
    """Intend that the Service of a shared stack selects its new pod."""
    await context.store.stacks.serve(stack.stack_id, stack.generation)
    crash_point("shared.served")
    return True


async def remove_pod(context: Context, stack: Stack) -> bool:
    """Delete a pod that has the stack's name, but was made by a create that was given up; and the replaced pods of a
    shared stack."""
    pod = context.mirror.pods.get(stack.pod_name)
    if pod is not None and pod.uid != stack.pod_uid and not stack.shared:
        await _remove(context, pod)
    own, now = context.current_pod(stack), context.wall_clock.trusted_now()
    for one in replaced_pods(stack, own, now, context.earlier_pods(stack), context.mirror.nodes):
        await _remove(context, one)
    return True


async def remove_without_row(context: Context, stack_id: str) -> bool:
    """Delete the objects of a stack without a row that a pass or the operator wants removed."""
    if not context.loop.removable:
        return False
    await context.gate.right_cluster()
    if stack_id in context.store.stacks:
        return True  # it was adopted meanwhile
    mirror = context.mirror
    service = mirror.services.get(service_name(stack_id)) or mirror.services.get(stack_id)
    routes = [one for one in mirror.all_routes() if one.stack_id == stack_id]
    pods = [one for one in mirror.pods.values() if stack_of(PODS.resource, one.name) == stack_id]
    for one in (*pods, *routes, service):
        if one is not None and one.uid in context.loop.removable:
            await _remove(context, one)
            context.loop.removable.discard(one.uid)
            stack_log(log, stack_id).info("%s removed, which no row knows", one.name)
    return False


async def _remove(context: Context, one: PodState | ServiceState | RouteState) -> None:
    await context.cluster.delete(one.resource, one.name, one.uid)
    context.mirror.gone(one)
    crash_point("orphan.removed")


EXECUTORS: Mapping[StepKind, Callable[[Context, Stack], Awaitable[bool]]] = {
    StepKind.MAKE: make,
    StepKind.ACCEPT: accept,
    StepKind.REFUSE: refuse,
    StepKind.UNDO: undo,
    StepKind.DELETE: delete,
    StepKind.EXPIRE: expire,
    StepKind.RELEASE: release,
    StepKind.END: end,
    StepKind.STOP: stop,
    StepKind.START: start,
    StepKind.REPAIR: put,
    StepKind.ANNOTATE: put,
    StepKind.ROUTE: route,
    StepKind.LABEL: label,
    StepKind.SERVE: serve,
    StepKind.REMOVE_POD: remove_pod,
}
"""Each returns whether to look at the stack again at once. The other kinds are about objects without a row: a pass adopts
them, ``remove_without_row`` removes them."""
