"""Check stacks: run the program of the template's author as a pod of its own, which reaches a stack as players do.

Owns: the pod of a check, what its end means, and which check is due: of a shared stack on schedule and after each start, of
a template with a pool once an hour, with a stack of the pool. A pod of a check has no row. It is deleted at its end; what
an earlier process has left is found by its label, and the kubelet ends it in any case.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from stackd.clock import NANOSECONDS
from stackd.codes import ErrorCode
from stackd.contract import host_and_port, port_variables
from stackd.crashpoints import crash_point
from stackd.errors import ClusterUnavailable, Conflict, ObjectNotFound, ShuttingDown, StackdError, StackNotFound
from stackd.kube import labels
from stackd.kube.manifests import check_pod
from stackd.kube.objects import PODS, PodState, pod_state
from stackd.lifecycle.context import Context, CreateRequest, new_id
from stackd.lifecycle.create import create
from stackd.lifecycle.desired import has_pod
from stackd.lifecycle.gate import SHUTTING_DOWN
from stackd.lifecycle.health import CheckResult
from stackd.lifecycle.pools import is_ready
from stackd.lifecycle.status import STUCK_REASONS
from stackd.lifecycle.verbs import delete, until_status
from stackd.logs import stack_log
from stackd.model import PortMapping, RoutedPort, Stack, StackStatus
from stackd.podspec import harden
from stackd.podspec.additions import with_values
from stackd.templates import Check, Template
from stackd.templates.hiding import hide, hide_in

log = logging.getLogger(__name__)

SCHEDULED = 4  # so many checks run at a time that no client waits for
POOL_SECONDS = 3600.0
SETTLED_NANOSECONDS = 5 * NANOSECONDS
"""Nodes forward to a new pod a little later than it is ready."""

RETRY_SECONDS = 60.0  # when a check is tried again that could not be run
SWEEP_AGAIN_SECONDS = 90.0  # an earlier owner's last requests may have been delayed
FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.25, 2.0
TAIL_LINES, LONGEST_MESSAGE = 10, 1000
NOT_ITS_OWN = frozenset({"StartError", "ContainerCannotRun", "OOMKilled", "Evicted", "NodeLost", "Preempting"})
"""Reasons of an end that say nothing about the stack: the check itself could not run."""


async def check_stack(context: Context, stack_id: str) -> CheckResult:
    """What the template's check says of the stack now; waits for a check that is under way already.

    Raises StackNotFound, Conflict if it has no check or no pod; ClusterUnavailable and what a create raises if the check
    could not be run: that says nothing about the stack.
    """
    stack = context.store.assigned.get(stack_id)
    if stack is None:
        raise StackNotFound(stack_id)
    template = context.settings.templates.get(stack.template or "")
    if template is None or template.check is None:
        raise Conflict(f"{stack_id} cannot be checked: its template has no check", code=ErrorCode.NO_CHECK)
    if not has_pod(stack):
        raise Conflict(f"{stack_id} has no pod that could be checked", code=ErrorCode.NO_POD)
    await context.gate.admitted()
    running = context.checks.running
    if (task := running.get(stack_id)) is None:
        task = running[stack_id] = context.tasks.spawn(f"check {stack_id}", _check(context, stack, template.check))
        task.add_done_callback(lambda _: running.pop(stack_id, None))
    return await context.tasks.result_of(task)


async def _check(context: Context, stack: Stack, check: Check) -> CheckResult:
    waits = stack.updated_at + SETTLED_NANOSECONDS - context.clock.now()
    await asyncio.sleep(waits / NANOSECONDS if 0 < waits <= SETTLED_NANOSECONDS else 0.0)  # the clock may be set back
    name, cluster = new_id("check"), context.cluster
    manifest = with_values(harden(check.spec.manifest, check.policy), {**where(context, stack), **stack.values})
    deadline = math.ceil(check.timeout + _start_seconds(context))
    selector, namespace = context.config.stacks.node_selector, context.config.stacks.namespace
    pod = check_pod(manifest, name, namespace, cluster.instance, selector, deadline)
    context.checks.pods.add(name)
    try:
        await context.gate.right_cluster()
        created = await cluster.create(PODS, pod)
        crash_point("check.pod_created")
        ended, seconds = await _ended(context, check, created)
        lines = await _last_lines(context, name) or (f"exit code {_exit_code(ended)}" if ended is not None else "")
        message = hide(lines, stack.values)
    except StackdError as error:
        hide_in(error, stack.values)
        raise
    finally:
        await _remove(context, name)
        context.checks.pods.discard(name)
    crash_point("check.pod_deleted")
    healthy = ended is not None and ended.phase == "Succeeded"
    if ended is None:
        message = f"{message}\nno end within {check.timeout:g} s".lstrip()
    result = CheckResult(
        stack_id=stack.stack_id,
        generation=stack.generation,
        at=context.clock.now(),
        healthy=healthy,
        message=message,
        seconds=round(seconds, 3),
    )
    return _note(context, stack, result)


def _note(context: Context, stack: Stack, result: CheckResult) -> CheckResult:
    row, checks = context.store.stacks.get(stack.stack_id), context.checks
    if row is None or row.generation != result.generation:
        return result
    result = checks.note(result)
    if stack.shared:
        checks.of_template[stack.template or ""] = result
    if not result.healthy or row.status_reason:
        stack_log(log, stack.stack_id).info("check: healthy %s: %s", result.healthy, result.message)
        context.memory.seen.pop(stack.stack_id, None)
        context.loop.wake([stack.stack_id])
    return result


def where(context: Context, stack: Stack) -> Mapping[str, str]:
    """The variables that say how players reach the stack's ports; those without a number are of the first port."""
    host = _host(context, stack)

    def address(port: PortMapping) -> str:
        return (port.url or port.host) if isinstance(port, RoutedPort) else host_and_port(host, port.node_port)

    return port_variables((port.container_port, address(port)) for port in stack.ports)


def _host(context: Context, stack: Stack) -> str:
    if stack.node_public_ip is not None:
        return stack.node_public_ip
    node = context.mirror.nodes.get(stack.node_id or "")
    inside = (text for kind, text in (node.addresses if node is not None else ()) if kind == "InternalIP")
    return next(inside, "127.0.0.1")


def _start_seconds(context: Context) -> float:
    return context.config.stacks.scheduling_timeout + context.config.stacks.image_pull_grace


async def _ended(context: Context, check: Check, pod: PodState) -> tuple[PodState | None, float]:
    """The pod once its program has ended, None if it does not in time; and how many seconds it ran.

    Raises ClusterUnavailable if the program could not be run to its end; ShuttingDown.
    """
    now = context.clock.monotonic
    began, started, pause = now(), 0.0, FIRST_LOOK_SECONDS
    while not context.gate.closing:
        raw = await context.cluster.find("pods", pod.name)
        if raw is None or raw["metadata"]["uid"] != pod.uid:
            raise ClusterUnavailable("the check could not be run: its pod was deleted")
        seen = pod_state(raw)
        container = next(iter(seen.containers), None)
        if seen.phase in ("Succeeded", "Failed"):
            if (why := _not_its_own(seen)) or (not started and seen.reason == "DeadlineExceeded"):
                raise ClusterUnavailable(f"the check could not be run: {why or seen.reason}")
            return (None if seen.reason == "DeadlineExceeded" else seen), now() - (started or began)
        if container is not None and container.state == "running":
            started = started or now()
            if now() - started >= check.timeout:
                return None, now() - started
        elif now() - began >= _start_seconds(context) or (container is not None and container.reason in STUCK_REASONS):
            why = seen.unschedulable_message or (container and (container.message or container.reason)) or seen.phase
            raise ClusterUnavailable(f"the check could not be started: {why}")
        await asyncio.sleep(pause)
        pause = min(LONGEST_LOOK_SECONDS, pause * 1.5)
    raise ShuttingDown(SHUTTING_DOWN)


def _not_its_own(pod: PodState) -> str:
    reasons = [pod.reason, pod.disruption, *(container.reason for container in pod.containers)]
    found = next((reason for reason in reasons if reason in NOT_ITS_OWN), pod.disruption)
    message = next((container.message for container in pod.containers if container.message), pod.message)
    return f"{found}: {message}" if found and message else found


def _exit_code(pod: PodState) -> int:
    return next((one.exit_code for one in pod.containers if one.exit_code is not None), 0)


async def _last_lines(context: Context, name: str) -> str:
    try:
        text = await context.cluster.pod_log(name, tail=TAIL_LINES)
    except (ObjectNotFound, Conflict):
        return ""
    return text.strip()[-LONGEST_MESSAGE:]


async def _remove(context: Context, name: str) -> None:
    """Delete the pod of a check; one that cannot be deleted now is deleted by a later sweep."""
    try:
        raw = await context.cluster.find("pods", name)
        if raw is not None and labels.has_role(raw, labels.CHECK, context.cluster.instance):
            await context.cluster.delete("pods", name, raw["metadata"]["uid"])
    except StackdError as error:
        context.checks.sweep_at = context.clock.monotonic() + FIRST_LOOK_SECONDS
        log.info("%s cannot be deleted now: %s", name, error, extra={"same": "check"})


# ---- on schedule


async def look_after(context: Context) -> None:
    """Begin the checks that are due, and delete what an earlier process has left. Raises StackdError."""
    checks, templates, now = context.checks, context.settings.templates, context.clock.monotonic()
    checks.forget(frozenset(context.store.stacks.ids()), frozenset(templates))
    if now >= checks.sweep_at:
        await _sweep(context)
        first = not checks.sweep_at and any(one.check for one in templates.values())
        checks.sweep_at = now + SWEEP_AGAIN_SECONDS if first else math.inf
    for name, template in templates.items():
        if template.check is None or checks.scheduled >= SCHEDULED:
            continue
        what, stack_id = _subject(context, template)
        last, again = checks.next.get(name, (None, 0.0))
        if what is not None and (what != last or now >= again):
            checks.next[name] = what, now + (template.check.every if template.shared else POOL_SECONDS)
            checks.scheduled += 1
            context.tasks.background(f"check {name}", _scheduled(context, template, stack_id))


def _subject(context: Context, template: Template) -> tuple[object, str]:
    """What there is to check of the template: a new one is checked at once. None: nothing now. The stack's id, unless it
    is to be one of the pool."""
    pool = context.pools.of(template.name)
    if template.shared:
        for row in pool.shared.values():
            if is_ready(row) and row.serving == row.generation and has_pod(row):
                return (row.stack_id, row.generation), row.stack_id
        return None, ""
    ready = sum(is_ready(row) and row.digest == template.digest for row in pool.waits.values())
    return (template.digest if template.pool and ready >= template.pool else None), ""


async def _scheduled(context: Context, template: Template, stack_id: str) -> None:
    checks, name = context.checks, template.name
    try:
        if stack_id:
            await check_stack(context, stack_id)
        else:
            checks.of_template[name] = await _check_pooled(context, template)
    except StackdError as error:
        last = checks.of_template.get(name) or CheckResult(stack_id=stack_id, generation=0, at=context.clock.now())
        checks.of_template[name] = replace(last, trouble=str(error))
        what, again = checks.next[name]
        checks.next[name] = what, min(again, context.clock.monotonic() + RETRY_SECONDS)
        log.warning("%s cannot be checked now: %s", name, error, extra={"same": f"check {name}"})
    finally:
        checks.scheduled -= 1


async def _check_pooled(context: Context, template: Template) -> CheckResult:
    """What the check says of a stack of the template's pool, which is deleted afterwards. If the process ends meanwhile,
    the stack expires."""
    assert template.check is not None, "it has one"
    request = CreateRequest(
        spec=template.spec,
        target_ports=template.target_ports,
        ttl=template.check.timeout + 2 * _start_seconds(context),
        labels={**template.labels, labels.CHECK: template.name},
        template=template,
    )
    stack = await create(context, request)
    try:
        await until_status(context, stack.stack_id, StackStatus.RUNNING, context.config.stacks.image_pull_grace)
        return await check_stack(context, stack.stack_id)
    finally:
        await delete(context, stack.stack_id)


async def _sweep(context: Context) -> None:
    await context.gate.right_cluster()
    left = await context.cluster.list_role(labels.CHECK)
    for name in _names(left):
        if name not in context.checks.pods:
            await _remove(context, name)
            crash_point("check.swept")


def _names(pods: Iterable[Mapping[str, dict[str, str]]]) -> list[str]:
    return [pod["metadata"]["name"] for pod in pods]
