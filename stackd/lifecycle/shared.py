"""Keep one stack of each template with ``shared: true``, the same for everybody and without an end.

Owns: what a shared stack needs next, whether it has to be made, started again, replaced or deleted. ``refill`` asks for it,
and makes it as it makes the stacks of pools; the loop gives it a new pod as a restart does. The file decides that there is
one of each template.
"""

from __future__ import annotations

import logging

from stackd.clock import NANOSECONDS, has_passed
from stackd.crashpoints import crash_point
from stackd.errors import StackdError
from stackd.lifecycle.context import Context, CreateRequest
from stackd.lifecycle.pools import PROVEN_SECONDS, Pool, has_lost_readiness, is_ready
from stackd.lifecycle.verbs import start_of
from stackd.logs import stack_log
from stackd.model import CHECK_FAILED, STACKD, DeleteReason, Desired, EventKind, Stack, StackStatus
from stackd.templates import Template

log = logging.getLogger(__name__)

LABEL = "shared"
"""The label of a shared stack, with the name of its template."""

PATIENCE_SECONDS = 30.0
"""A shared stack that runs and is not ready for so long gets a new pod; the present one stays until that is ready."""

TEMPLATE_CHANGED = "TemplateChanged"


def request_for(context: Context, template: Template) -> CreateRequest:
    """The create of the template's shared stack."""
    return CreateRequest(
        spec=template.spec,
        target_ports=template.target_ports,
        ttl=context.config.stacks.max_ttl,
        labels={**template.labels, LABEL: template.name},
        template=template,
        shared=True,
    )


async def keep(context: Context, pool: Pool, template: Template | None) -> bool:
    """Begin what the shared stacks of a template need; without a template, which somebody has removed, or with one that is
    not shared, they are deleted. Returns whether one has to be made. Raises StackdError."""
    wanted = template if template is not None and template.shared else None
    for row in _kept(pool):
        if wanted is None or not fits(row, wanted):
            await context.store.stacks.mark_deleting([row.stack_id], DeleteReason.POOL)
            crash_point("shared.delete_marked")
            context.loop.wake([row.stack_id])
        else:
            await _keep_one(context, pool, wanted, row)
    return wanted is not None and not pool.shared


async def keep_without_template(context: Context, pool: Pool) -> None:
    """Begin what the shared stacks of a template need that is missing, though nobody has removed it: they stay as they are.
    Raises StackdError."""
    for row in _kept(pool):
        await _keep_one(context, pool, None, row)


def _kept(pool: Pool) -> list[Stack]:
    return [row for row in pool.shared.values() if row.accepted and row.deleting_since is None]


async def _keep_one(context: Context, pool: Pool, template: Template | None, row: Stack) -> None:
    now, monotonic = context.wall_clock.now(), context.clock.monotonic()
    if row.ttl_expires_at - now < context.longest_life // 2:
        await context.store.stacks.keep(row.stack_id, now + context.longest_life)
        crash_point("shared.kept")
    if pool.failures and is_ready(row) and has_passed(now, row.updated_at, round(PROVEN_SECONDS * NANOSECONDS)):
        pool.succeeded()
    if row.desired is Desired.STOPPED or row.pod_uid is None:
        return
    changed = template is not None and row.digest != template.digest
    reason = TEMPLATE_CHANGED if changed else why_again(row, now) or _fails(context, template, row)
    if reason and monotonic >= pool.not_before:
        if not changed:
            pool.failed(f"{reason}: {row.status_message}" if row.status_message else reason, monotonic)
        await _again(context, template, row, reason)


async def _again(context: Context, template: Template | None, row: Stack, reason: str) -> None:
    try:
        wanted = await start_of(context, row, EventKind.RESTART_REQUESTED, STACKD, reason, template=template)
        await context.store.stacks.start(row.stack_id, wanted)
    except StackdError as error:
        stack_log(log, row.stack_id, same="shared").warning("cannot be started again now: %s", error)
        return
    crash_point("shared.restart_intended")
    stack_log(log, row.stack_id).info("the shared stack of %s gets a new pod: %s", row.template, reason)
    context.loop.wake([row.stack_id])


def _fails(context: Context, template: Template | None, row: Stack) -> str:
    seen, check = context.checks.of_stack.get(row.stack_id), template.check if template is not None else None
    if seen is None or check is None or seen.generation != row.generation:
        return ""
    return CHECK_FAILED if seen.failures >= check.failures else ""


def why_again(row: Stack, now: int) -> str:
    """Why the stack needs another pod, in one word; empty if it does not. ``now`` in nanoseconds. Pure."""
    if row.ended or row.status in (StackStatus.FAILED, StackStatus.NODE_DELETED):
        return row.status_reason or str(row.status)
    if row.status_reason == "Terminating":
        return row.status_reason
    is_late = has_lost_readiness(row) and has_passed(now, row.updated_at, round(PATIENCE_SECONDS * NANOSECONDS))
    return row.status_reason if is_late else ""


def fits(row: Stack, template: Template) -> bool:
    """Whether a pod of the template can stand behind the stack's Service and names. Pure."""
    wanted = [(one.container_port, one.protocol, getattr(one, "route", None)) for one in template.target_ports]
    if wanted != [(one.container_port, one.protocol, getattr(one, "route", None)) for one in row.ports]:
        return False
    names = {one.container_port: one.hostname.partition(".")[0] for one in row.routed}
    ports = {one.container_port: one.node_port for one in row.ports}
    return template.hostnames.items() <= names.items() and template.node_ports.items() <= ports.items()
