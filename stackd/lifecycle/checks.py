"""Check stacks: run the program of the template's author as a pod of its own, which reaches a stack as players do.

Owns: what the state of a check's pod means (``template_pods`` has it created and deleted), and how often a template is checked:
with a shared stack at the interval of its text, with a pool once an hour, with a stack of the pool. ``owned`` decides when
each is due.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from dataclasses import replace

from stackd.clock import NANOSECONDS
from stackd.codes import ErrorCode
from stackd.contract import host_and_port, port_variables
from stackd.errors import ClusterUnavailable, Conflict, ObjectNotFound, StackdError, StackNotFound
from stackd.kube import labels
from stackd.kube.manifests import check_pod
from stackd.kube.objects import PodState
from stackd.lifecycle.context import Context, CreateRequest, new_id
from stackd.lifecycle.create import create
from stackd.lifecycle.desired import has_pod
from stackd.lifecycle.health import CheckResult
from stackd.lifecycle.owned import Subject
from stackd.lifecycle.status import STUCK_REASONS
from stackd.lifecycle.verbs import delete, until_status
from stackd.logs import stack_log
from stackd.model import PortMapping, RoutedPort, Stack, StackStatus
from stackd.podspec import harden
from stackd.podspec.additions import with_values
from stackd.templates import Check, Template
from stackd.templates.hiding import hide, hide_in
from stackd.timing import CHECK_AGAIN_SECONDS, FORWARDED_NANOSECONDS, POOL_CHECK_SECONDS

log = logging.getLogger(__name__)

TAIL_LINES, LONGEST_MESSAGE = 10, 1000
# Reasons of an end that say nothing about the stack: the check itself could not run.
NOT_ITS_OWN = frozenset({"StartError", "ContainerCannotRun", "OOMKilled", "Evicted", "NodeLost", "Preempting"})


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
    waits = stack.updated_at + FORWARDED_NANOSECONDS - context.clock.now()
    await asyncio.sleep(waits / NANOSECONDS if 0 < waits <= FORWARDED_NANOSECONDS else 0.0)  # the clock may be set back
    manifest = with_values(harden(check.spec.manifest, check.policy), {**where(context, stack), **stack.values})
    start = context.config.stacks.scheduling_timeout + context.config.stacks.image_pull_grace
    selector, namespace = context.config.stacks.node_selector, context.config.stacks.namespace
    name, deadline = new_id("check"), math.ceil(check.timeout + start)
    pod = check_pod(manifest, name, namespace, context.cluster.instance, selector, deadline)
    now, pods = context.clock.monotonic, context.template_pods
    try:
        async with pods.running(pod) as wanted:
            began = now()
            if (begun := await pods.until(wanted, has_begun, start)) is None:
                seen = context.mirror.template_pods.get(name)
                raise ClusterUnavailable(f"the check could not be started: {why_not_begun(seen.pod) if seen else ''}")
            if begun.phase == "Running":
                began = now()
            ended = await pods.until(wanted, has_ended, check.timeout)
            seconds = now() - began
            lines = await _last_lines(context, name) or (f"exit code {_exit_code(ended)}" if ended is not None else "")
            message = hide(lines, stack.values)
    except StackdError as error:
        hide_in(error, stack.values)
        raise
    if ended is None:
        message = f"{message}\nno end within {check.timeout:g} s".lstrip()
    result = CheckResult(
        stack_id=stack.stack_id,
        generation=stack.generation,
        at=context.clock.now(),
        healthy=ended is not None and ended.phase == "Succeeded",
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
    context.template_loop.add(stack.template or "")
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


# ---- what its pod says


def has_begun(pod: PodState) -> PodState | None:
    """The pod once its program runs, or has run. Raises ClusterUnavailable if it cannot be started. Pure."""
    if pod.phase in ("Succeeded", "Failed"):
        if pod.reason == "DeadlineExceeded":
            raise ClusterUnavailable("the check could not be run: DeadlineExceeded")
        return pod
    container = next(iter(pod.containers), None)
    if container is not None and container.state == "running":
        return pod
    if container is not None and container.reason in STUCK_REASONS:
        raise ClusterUnavailable(f"the check could not be started: {why_not_begun(pod)}")
    return None


def why_not_begun(pod: PodState) -> str:
    """Why the program does not run yet. Pure."""
    container = next(iter(pod.containers), None)
    return pod.unschedulable_message or (container and (container.message or container.reason)) or pod.phase


def has_ended(pod: PodState) -> PodState | None:
    """The pod once its program has ended. Raises ClusterUnavailable if that says nothing about the stack. Pure."""
    if pod.phase not in ("Succeeded", "Failed"):
        return None
    reasons = [pod.reason, pod.disruption, *(container.reason for container in pod.containers)]
    if why := next((reason for reason in reasons if reason in NOT_ITS_OWN), pod.disruption):
        message = next((container.message for container in pod.containers if container.message), pod.message)
        raise ClusterUnavailable(f"the check could not be run: {f'{why}: {message}' if message else why}")
    return None if pod.reason == "DeadlineExceeded" else pod


def _exit_code(pod: PodState) -> int:
    return next((container.exit_code for container in pod.containers if container.exit_code is not None), 0)


async def _last_lines(context: Context, name: str) -> str:
    try:
        text = await context.cluster.pod_log(name, tail=TAIL_LINES)
    except (ObjectNotFound, Conflict):
        return ""
    return text.strip()[-LONGEST_MESSAGE:]


# ---- on schedule


def begin(context: Context, template: Template, subject: Subject) -> None:
    assert template.check is not None, "it has one"
    every = template.check.every if template.shared else POOL_CHECK_SECONDS
    context.checks.next[template.name] = subject, context.clock.monotonic() + every
    context.checks.scheduled += 1
    context.tasks.background(f"check {template.name}", _scheduled(context, template, subject.stack_id))


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
        checks.next[name] = what, min(again, context.clock.monotonic() + CHECK_AGAIN_SECONDS)
        log.warning("%s cannot be checked now: %s", name, error, extra={"same": f"check {name}"})
    finally:
        checks.scheduled -= 1
        for waiting in (name, *checks.waiting):
            context.template_loop.add(waiting)
        checks.waiting.clear()


async def _check_pooled(context: Context, template: Template) -> CheckResult:
    """What the check says of a stack of the template's pool, which is deleted afterwards. If the process ends meanwhile,
    the stack expires."""
    assert template.check is not None, "it has one"
    stacks = context.config.stacks
    request = CreateRequest(
        spec=template.spec,
        target_ports=template.target_ports,
        ttl=template.check.timeout + 2 * (stacks.scheduling_timeout + stacks.image_pull_grace),
        labels={**template.labels, labels.CHECK: template.name},
        template=template,
    )
    stack = await create(context, request)
    try:
        await until_status(context, stack.stack_id, [StackStatus.RUNNING], context.config.stacks.image_pull_grace)
        return await check_stack(context, stack.stack_id)
    finally:
        await delete(context, stack.stack_id)
