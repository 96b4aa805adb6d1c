"""Why a stack failed: the cluster's warnings about it, and the last log lines of its containers.

Owns: what is requested and how much of it is kept. In the background it asks the cluster about stacks that fail or are
not ready, and for the last logs of stacks that are deleted or expire. ``read_logs`` is the only read that asks the
cluster (invariant 6): logs are too large to be copied as they are written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from stackd.codes import ErrorCode
from stackd.errors import ClusterUnavailable, Conflict, NotFound, ObjectNotFound, StackdError, StackNotFound
from stackd.kube.labels import PUBLISHED
from stackd.kube.objects import PodState
from stackd.lifecycle.context import LOG_READS_AT_ONCE, Context
from stackd.lifecycle.view import current_pod, member_pods, require_member
from stackd.logs import stack_log
from stackd.model import CLUSTER, NO_VALUES, EventKind, KeptLog, Stack, TimelineEvent
from stackd.tasks import acquired_within
from stackd.templates.hiding import hide
from stackd.timing import CAPTURE_SECONDS, EXPIRY_WAITS_SECONDS, READ_WAITS_SECONDS

log = logging.getLogger(__name__)

WORKERS = 4
KEPT_BYTES = 16 * 1024
KEPT_LINES = 400
FIRST = ("", PUBLISHED)  # the parts of pods that are no member's
CAPTURES_AT_ONCE = 16  # at most this many captures at a time, so that none takes a connection that a delete needs


def start(context: Context) -> None:
    slots = asyncio.Semaphore(WORKERS)

    async def work(stack_id: str) -> None:
        async with slots:
            await keep(context, stack_id)

    def failed(stack_id: str, error: StackdError, delay: float | None) -> None:
        """An error about one stack does not stop the others."""
        stack_log(log, stack_id, same="diagnostics").info("its events and logs cannot be kept now: %s", error)

    context.diagnostics.queue.start(work, failed)


async def keep(context: Context, stack_id: str) -> None:
    """Write the cluster's warnings into the stack's timeline, and keep the last log lines of containers that ended.
    Raises ClusterUnavailable, StoreUnavailable, ClusterError."""
    stack = context.store.stacks.get(stack_id)
    if stack is None:
        return
    for pod in _pods_of(context, stack):
        events = await context.cluster.pod_events(pod.name, pod.uid)
        ended = [c.name for c in pod.containers if c.state == "terminated" or c.last_exit_code is not None]
        tails = [await _log_tail(context, pod, name, stack.values) for name in ended]
        logs = [kept for kept in tails if kept is not None]
        about = f"member {pod.part}: " if pod.part not in FIRST else ""
        lines = [
            TimelineEvent(
                kind=EventKind.WARNING if event.type == "Warning" else EventKind.PULLING,
                at=event.at,
                reason=event.reason,
                message=about + hide(event.message, stack.values),
                by=CLUSTER,
                count=event.count,
            )
            for event in events
            if event.type == "Warning" or (event.type, event.reason) == ("Normal", "Pulling")
        ]
        if lines or logs:
            await context.store.timeline.keep_diagnostics(stack_id, lines, logs)


def _pods_of(context: Context, stack: Stack) -> list[PodState]:
    """The pods of the stack that the mirror shows: the first, then those of its members."""
    pods = context.mirror.pods.get(stack.pod_name), *member_pods(context, stack)
    return [pod for pod in pods if pod is not None]


def capture_logs(context: Context, stack_id: str) -> None:
    """Start to keep the last lines that the stack's running containers wrote; call it before the pod is deleted.

    Nothing waits for the capture, and what the cluster does not return within moments is not kept. Makes no request
    while the cluster is away, or while too many captures are under way.
    """
    stack = context.store.stacks.get(stack_id)
    pods = _pods_of(context, stack) if stack is not None else filter(None, [context.mirror.pods.get(stack_id)])
    running = [(pod, one.name) for pod in pods for one in pod.containers if one.state == "running"]
    busy = (
        context.gate.closing
        or len(context.diagnostics.captures) >= CAPTURES_AT_ONCE
        or stack_id in context.diagnostics.captures
    )
    if not running or busy:
        return
    try:
        context.gate.require_cluster()
    except ClusterUnavailable:
        return
    values = NO_VALUES if stack is None else stack.values  # the row may be gone when the logs arrive
    capture = _capture_logs(context, stack_id, running, values)
    context.diagnostics.captures[stack_id] = context.tasks.spawn(f"capture logs {stack_id}", capture)


async def capture_logs_of_expired(context: Context, stack_id: str) -> None:
    """As ``capture_logs`` for an expired stack, but waits a moment for the capture, whatever comes of it."""
    capture_logs(context, stack_id)
    if stack_id in context.diagnostics.captures:
        await asyncio.wait([context.diagnostics.captures[stack_id]], timeout=EXPIRY_WAITS_SECONDS)


async def _capture_logs(
    context: Context, stack_id: str, containers: list[tuple[PodState, str]], values: Mapping[str, str]
) -> None:
    try:
        async with asyncio.timeout(CAPTURE_SECONDS):
            tails = await asyncio.gather(
                *(_log_tail(context, pod, name, values) for pod, name in containers), return_exceptions=True
            )
        if logs := [kept for kept in tails if isinstance(kept, KeptLog)]:
            await context.store.timeline.keep_final_logs(stack_id, logs)
    except (StackdError, TimeoutError) as error:
        stack_log(log, stack_id).debug("its last log lines are not kept: %s", error)
    finally:
        del context.diagnostics.captures[stack_id]


async def _log_tail(context: Context, pod: PodState, container: str, values: Mapping[str, str]) -> KeptLog | None:
    try:
        text = await context.cluster.pod_log(pod.name, tail=KEPT_LINES, container=container)
    except (ObjectNotFound, Conflict):
        return None
    tail = (await _hidden(text, values)).encode()[-KEPT_BYTES:].decode(errors="ignore")
    kept = f"{pod.part}/{container}" if pod.part not in FIRST else container
    return KeptLog(container=kept, at=context.clock.now(), text=tail) if tail else None


async def _hidden(text: str, values: Mapping[str, str]) -> str:
    """A log without the values. A long one would hold the loop."""
    return await asyncio.to_thread(hide, text, values) if values else text


async def read_logs(context: Context, stack_id: str, *, tail: int, container: str = "", member: str = "") -> str:
    """The last ``tail`` lines of a container without the stack's generated values; by default of the only or first one. Of the
    first pod, or of that of a ``member``.

    Raises StackNotFound; NotFound if no log is left; Conflict while the stack has no pod or the container has not
    started; ClusterUnavailable if the cluster cannot be asked and nothing was kept.
    """
    if context.store.stacks.waits_in_pool(stack_id):
        raise StackNotFound(stack_id)
    stack = context.store.assigned.get(stack_id)
    away: ClusterUnavailable | None = None
    if stack is not None and (pod := _pod_of(context, stack, member)) is not None:
        name = container or next((c.name for c in pod.containers if not c.init), "")
        try:
            context.gate.require_cluster()
            return await _hidden(await _read(context, pod.name, tail, name), stack.values)
        except ObjectNotFound:
            pass  # the pod has just gone
        except ClusterUnavailable as error:
            away = error
    if stack_id in context.diagnostics.captures:
        await asyncio.wait([context.diagnostics.captures[stack_id]])
    logs = await context.store.timeline.kept_logs(stack_id)
    pod_of = f"{member}/" if member else ""
    of_pod = (each for each in logs if each.container.startswith(pod_of) and (member or "/" not in each.container))
    kept = [each for each in of_pod if container in ("", each.container[len(pod_of) :])]
    if kept:
        return "".join(kept[0].text.splitlines(keepends=True)[-tail:])
    if away is not None:
        raise away
    if stack is None and not await context.store.timeline.read(stack_id):
        raise StackNotFound(stack_id)
    if stack is not None and not stack.ended and not stack.at_rest:
        raise Conflict(f"{stack_id} has no pod at present", code=ErrorCode.NO_POD)
    of = f" of its container {pod_of}{container}" if container or member else ""
    raise NotFound(f"{stack_id}: its pod is gone, and no log{of} was kept", code=ErrorCode.LOG_NOT_FOUND)


def _pod_of(context: Context, stack: Stack, member: str) -> PodState | None:
    if not member:
        return current_pod(context, stack)
    require_member(stack, member)
    return context.mirror.pods.get(stack.member_name(member))


async def _read(context: Context, pod: str, tail: int, container: str) -> str:
    if not await acquired_within(context.diagnostics.reads, READ_WAITS_SECONDS):
        raise ClusterUnavailable(f"{LOG_READS_AT_ONCE} logs are being read from the cluster, as many as may be; retry")
    try:
        return await context.cluster.pod_log(pod, tail=tail, container=container)
    finally:
        context.diagnostics.reads.release()
