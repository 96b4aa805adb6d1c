"""What clients ask of one stack: delete, stop, start, restart and extend it, and wait for its status.

Owns: what may be asked for, and what is answered. Each verb commits its intent first, then waits until nothing is left to
do about the stack. The loop carries the intent out, and retries what failed or was interrupted: so the work
continues when the caller leaves, and an error says that stackd keeps trying.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from stackd.clock import NANOSECONDS, from_nanoseconds
from stackd.codes import ErrorCode
from stackd.crashpoints import crash_point
from stackd.errors import (
    ClusterError,
    Conflict,
    NotOwner,
    StackDeleting,
    StackdError,
    StackNotFound,
    StillToDo,
    TemplateGone,
    Unavailable,
    detail_of,
    public_code,
    public_text,
)
from stackd.lifecycle.apply import spec_of
from stackd.lifecycle.context import Context, goes_on, with_label_limits
from stackd.lifecycle.desired import service_difference
from stackd.lifecycle.diagnostics import capture_logs
from stackd.lifecycle.loop import is_gone
from stackd.lifecycle.view import objects_of, require_member
from stackd.logs import stack_log
from stackd.model import (
    STACKD,
    DeleteReason,
    Desired,
    EventKind,
    PortMapping,
    Principal,
    Stack,
    StackStatus,
    TargetPort,
)
from stackd.podspec.members import members_of
from stackd.store import (
    NO_CREATE_LIMITS,
    PORT_REPLACED,
    Claim,
    CreateLimits,
    Extension,
    Relabelling,
    Renewed,
    Start,
    ports_replaced,
)
from stackd.templates import Template
from stackd.timing import PLACED_SECONDS

log = logging.getLogger(__name__)
Done = Callable[[Stack | None], bool | None]

RECORDS_AT_ONCE = 16  # of those that are written before the stacks are handed over
ENDS = frozenset({StackStatus.FAILED, StackStatus.STOPPED, StackStatus.NODE_DELETED})
"""From these statuses a stack does not come to run unless somebody does something about it."""


@goes_on
async def delete(context: Context, stack_id: str, *, by: Principal = STACKD) -> None:
    """Delete the stack, as ``by`` asked; when this returns, no pod, service, port or row of it remains (invariant 3).

    Raises StackNotFound; ClusterUnavailable if the cluster does not confirm now: the stack stays listed; NotOwner if this
    stackd cannot promise the retry.
    """
    if context.store.stacks.waits_in_pool(stack_id):
        raise StackNotFound(stack_id)
    capture_logs(context, stack_id)
    if not await context.store.stacks.mark_deleting([stack_id], DeleteReason.REQUEST, by):
        raise StackNotFound(stack_id)
    crash_point("delete.marked")
    context.abandon_create(stack_id)
    await until_done(context, stack_id, "deleted", is_gone)


@goes_on
async def stop(context: Context, stack_id: str, *, by: Principal) -> Stack:
    """Stop the stack and return it: it has no pod; it keeps its Service and ports until it is started or expires.
    Raises StackNotFound, Conflict, StoreUnavailable; ClusterUnavailable if the cluster does not confirm now."""
    await context.store.stacks.stop(stack_id, by)
    crash_point("stop.intended")
    await until_done(context, stack_id, "stopped", is_stopped)
    return _row(context, stack_id)


@goes_on
async def start(context: Context, stack_id: str, *, by: Principal, limits: CreateLimits = NO_CREATE_LIMITS) -> Stack:
    """Start the stack with a new pod if it was stopped or has ended; else return it as it is. Raises as ``restart``."""
    stack = _row(context, stack_id)
    if stack.is_to_run:
        return stack
    await context.gate.admitted()
    wanted = await start_of(context, stack, EventKind.START_REQUESTED, by)
    return await _started(context, stack, wanted, limits)


@goes_on
async def restart(
    context: Context,
    stack_id: str,
    *,
    by: Principal,
    renew: bool = False,
    member: str = "",
    limits: CreateLimits = NO_CREATE_LIMITS,
) -> Stack:
    """Give the stack a new pod behind the same ports and with the same expiry, perhaps on another node, and return it. To
    ``renew`` it, the pod is that of the newest version of its template. If it has ended, it counts for ``limits`` and
    the configured ones of labels again. With a ``member``, only that gets a new pod.

    Raises StackNotFound, NotFound, Conflict (also if the ports were given back and are no longer free), LabelLimitReached, Held,
    ShuttingDown, StoreUnavailable, and all that a create raises; what the cluster refuses (by a quota, say) is retried.
    """
    stack = _row(context, stack_id)
    if member:
        require_member(stack, member)
    await context.gate.admitted()
    template = newest_of(context, stack) if renew else None
    wanted = await start_of(context, stack, EventKind.RESTART_REQUESTED, by, template=template)
    return await _started(context, stack, replace(wanted, member=member), limits)


async def _started(context: Context, stack: Stack, wanted: Start, limits: CreateLimits) -> Stack:
    stack_id, limits = stack.stack_id, with_label_limits(limits, context.config.limits)
    await context.store.stacks.start(stack_id, replace(wanted, limits=limits))
    crash_point("restart.intended")
    await until_done(context, stack_id, "started", is_started)

    def placed(row: Stack | None) -> Stack | None:
        if row is None or row.deleting_since is not None:
            raise StackNotFound(stack_id)
        return row if row.node_id or row.status_reason else None

    started = await context.loop.until(stack_id, placed, PLACED_SECONDS) or _row(context, stack_id)
    if changed := ports_replaced(stack.ports, started.ports):
        return replace(started, status_reason=PORT_REPLACED, status_message=changed)
    return started


async def start_of(
    context: Context,
    stack: Stack,
    kind: EventKind,
    by: Principal,
    reason: str = "",
    *,
    template: Template | None = None,
) -> Start:
    """The intent to start the stack with the pod that the policy in force allows; with that of its ``template``, if given:
    the values of names that it still has stay. Raises Conflict, StackNotFound."""
    renewed, message = None, ""
    if template is None:
        spec = spec_of(context, await context.store.stacks.with_pod_spec(stack))
    else:
        spec, fresh = template.spec, template.generate()
        message = f"with version {template.version} of the template {template.name}"
        renewed = Renewed(
            digest=template.digest,
            offer=template.offer,
            values=MappingProxyType({name: stack.values.get(name, value) for name, value in fresh.items()}),
            requested_cpu_milli=spec.requested_cpu_milli,
            requested_memory_bytes=spec.requested_memory_bytes,
        )
    limits = with_label_limits(NO_CREATE_LIMITS, context.config.limits)
    return Start(pod_spec=spec.text, kind=kind, by=by, limits=limits, reason=reason, message=message, renewed=renewed)


def newest_of(context: Context, stack: Stack) -> Template:
    """The template of the stack as it is now. Raises Conflict if there is none, or its ports or members are others than the
    stack's: the stack keeps its Services, which have these."""
    if stack.template is None:
        sentence = f"{stack.stack_id} was not created from a template, so there is no newer version of it"
        raise Conflict(sentence, code=ErrorCode.NO_TEMPLATE)
    template = context.settings.templates.get(stack.template)
    if template is None:
        raise TemplateGone(stack.template)
    ours, theirs = sorted(map(_published, stack.ports)), sorted(map(_published, template.target_ports))
    if ours != theirs:
        sentence = f"{stack.stack_id} has other ports than the template {template.name} has by now; create a new stack"
        raise Conflict(sentence, code=ErrorCode.TEMPLATE_PORTS_CHANGED)
    had, has = ([(one.name, one.ports) for one in members] for members in (stack.members, members_of(template.spec)))
    if sorted(had) != sorted(has):
        sentence = (
            f"{stack.stack_id} has other members than the template {template.name} has by now; create a new stack"
        )
        raise Conflict(sentence, code=ErrorCode.TEMPLATE_PORTS_CHANGED)
    return template


def _published(port: PortMapping | TargetPort) -> tuple[int, str, str]:
    return port.container_port, port.protocol, getattr(port, "route", "")


def is_stopped(row: Stack | None) -> bool | None:
    """For ``until_done``: True once the stack has no pod, or is no longer to be stopped."""
    return True if row is None or row.at_rest or row.desired is not Desired.STOPPED or row.deleting_since else None


def is_started(row: Stack | None) -> bool | None:
    """For ``until_done``: True once the stack has a pod, or is no longer to be started."""
    return True if row is None or not row.lacks_a_pod or row.desired is Desired.STOPPED or row.deleting_since else None


async def until_done(context: Context, stack_id: str, what: str, done: Done, *, patient: bool = False) -> None:
    """Return once the stack is ``what``: deleted, stopped or started. Raises StillToDo, which says that stackd keeps
    trying; NotOwner if it cannot promise that; Conflict. ``patient``: as for ``Loop.reconcile_until``."""
    try:
        await context.loop.reconcile_until(stack_id, done, context.longest_call, patient=patient)
    except StackdError as error:
        context.gate.may_promise(error)
        if not isinstance(error, ClusterError | Unavailable):
            raise
        until, retry_after = "", None
        if what == "started":
            pod = "its old pod may run on" if stack_id in context.mirror.pods else "it has no pod"
            until, retry_after = f"; {pod} until then", getattr(error, "retry_after", None)
        stack_log(log, stack_id).warning("cannot be %s now; stackd keeps trying: %s", what, error)
        sentence = f"{stack_id} cannot be {what} now; stackd keeps trying{until}: {public_text(error)}"
        raise StillToDo(sentence, retry_after, detail=detail_of(error), code=public_code(error)) from error


async def extend(
    context: Context,
    stack_id: str,
    seconds: float,
    *,
    by: Principal,
    claim: Claim | None = None,
    times: int | None = None,
) -> Stack:
    """Extend the stack by ``seconds`` and return it; the extension survives ``kill -9``, and the loss of the file.

    A ``claim`` that names the stack already belongs to an extension that the file has and the cluster may lack: the
    stack is not extended again. ``times``: as in ``Extension``. Raises StackNotFound; Conflict if it is too late, or more
    than ``stacks.max_ttl`` in all; StoreUnavailable, NotOwner; ClusterUnavailable if the stack is extended but the
    cluster may not have that.
    """
    context.fence.require()
    if claim is None or claim.stack_id is None:
        row = context.store.stacks.get(stack_id)
        closes = context.settings.templates.closes.get(row.template or "", 0) if row is not None else 0
        add = round(seconds * NANOSECONDS)
        extension = Extension(add=add, longest=context.longest_life, closes=closes, by=by, times=times)
        writing = context.store.stacks.extend(stack_id, extension, claim=claim)
        stack = await context.tasks.run(f"extend {stack_id}", writing)
        crash_point("extend.extended")
        stack_log(log, stack_id).info("extended by %g s by %s", seconds, by)
    else:
        stack = _row(context, stack_id)
    await context.tasks.run(f"record {stack_id}", record(context, stack_id))
    crash_point("extend.recorded")
    return stack


async def relabel(context: Context, stack_id: str, change: Relabelling) -> Stack:
    """Give the stack other labels and return it; they survive ``kill -9``, and the loss of the file.

    Raises StackNotFound, Conflict, LabelLimitReached, StoreUnavailable, NotOwner; ClusterUnavailable if the stack has them but
    the cluster may not.
    """
    context.fence.require()
    stack = await context.tasks.run(f"relabel {stack_id}", context.store.stacks.relabel(stack_id, change))
    crash_point("relabel.relabelled")
    await context.tasks.run(f"record {stack_id}", record(context, stack_id, done="has its new labels"))
    return stack


async def record(context: Context, stack_id: str, *, done: str = "", patient: bool = False) -> None:
    """Return once the cluster has the stack's end and labels, too: an owner with another file reads them there.

    Raises StackNotFound; Conflict if it is being deleted, which writes no record; NotOwner; ClusterUnavailable if the
    cluster may not have it; stackd retries. ``done``: what it may lack, if no extension. ``patient``: as for
    ``Loop.reconcile_until``.
    """
    try:
        recorded = partial(is_recorded, context)
        await context.loop.reconcile_until(stack_id, recorded, context.longest_turn, patient=patient)
    except StackdError as error:
        if isinstance(error, NotOwner | StackNotFound):
            raise  # another stackd may own the stacks, and not know of the extension; or the stack is deleted
        stack = _row(context, stack_id)
        if not is_recorded(context, stack):  # otherwise something else is left to do about the stack
            written = f"stackd retries to write that into the cluster: {public_text(error)}"
            sentence = (
                f"{stack_id} {done or f'is extended until {from_nanoseconds(stack.ttl_expires_at)}'}, and {written}"
            )
            raise StillToDo(sentence, detail=detail_of(error), code=public_code(error)) from error
    if _row(context, stack_id).deleting_since is not None:
        raise StackDeleting(stack_id)


async def write_records(context: Context, timeout: float) -> None:
    """Write into the cluster what its records of the stacks lack, within ``timeout`` seconds: the next owner may have
    another file."""

    async def write(stack: Stack) -> None:
        async with slots:
            try:
                await record(context, stack.stack_id)
            except StackdError as error:
                stack_log(log, stack.stack_id, same="records").warning(
                    "its record in the cluster is outdated: %s", error
                )

    if not (context.mirror.synced and context.gate.compared):
        return  # what the records lack is not known
    slots, services = asyncio.Semaphore(RECORDS_AT_ONCE), context.mirror.services
    outdated = [
        stack
        for stack in context.store.stacks.ordered()
        if stack.accepted
        and (wanted := objects_of(context, stack).service) is not None
        and service_difference(wanted, services.get(stack.service_name)) is not None
    ]
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await asyncio.gather(*map(write, outdated))


def is_recorded(context: Context, row: Stack | None) -> bool | None:
    """For ``Loop.reconcile_until``: True once the Service's record has the row's expiry and labels, or needs them no more."""
    service = None if row is None else context.mirror.services.get(row.service_name)
    if row is None or row.deleting_since is not None:
        return True
    if service is None or not service.recorded:
        return None
    seen = service.expires_at, service.labels, service.relabelled
    return True if seen == (row.ttl_expires_at, row.labels, row.relabelled) else None


async def until_status(context: Context, stack_id: str, wanted: Collection[StackStatus], timeout: float) -> Stack:
    """The stack as soon as it has one of these statuses, or cannot be expected to get one; after ``timeout`` seconds, as it
    is. Raises StackNotFound, also if it is deleted meanwhile."""
    may_end = not ENDS.isdisjoint(wanted)

    def reached(stack: Stack | None) -> Stack | None:
        if stack is None:
            raise StackNotFound(stack_id)
        stays = stack.ended or stack.deleting_since is not None or (stack.status in ENDS and not may_end)
        return stack if stack.status in wanted or stays else None

    return await context.loop.until(stack_id, reached, timeout) or _row(context, stack_id)


async def until_gone(context: Context, stack_id: str, timeout: float) -> Stack | None:
    """None as soon as there is no such stack; the stack as it is if it still exists after ``timeout`` seconds."""
    gone = await context.loop.until(stack_id, lambda stack: True if stack is None else None, timeout)
    return None if gone else context.store.stacks.get(stack_id)


def _row(context: Context, stack_id: str) -> Stack:
    stack = context.store.stacks.get(stack_id)
    if stack is None:
        raise StackNotFound(stack_id)
    return stack
