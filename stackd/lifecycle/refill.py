"""The loop for templates: do what ``owned`` decides about a template's pool and its shared stack, and begin its checks and pulls.

Owns: how fast pools are filled, and what is remembered of failures. It makes stacks as any create does, deletes them as any
stack is deleted, and gives a shared one a new pod as a restart does. The key is the template's name; a row that changes, a
template, a node, a pass or a time that was asked for wakes it. The empty name stands for the images, and for stacks without a
template that are in a pool.
"""

from __future__ import annotations

import logging
import math

from stackd.crashpoints import crash_point
from stackd.errors import NoNodePort, NoRoom, QuotaExceeded, StackdError, Unavailable
from stackd.kube.mirror import Changed, Relisted
from stackd.lifecycle import checks
from stackd.lifecycle.context import Context, CreateRequest
from stackd.lifecycle.create import create_for_template
from stackd.lifecycle.nodes import cordoned
from stackd.lifecycle.owned import TEMPLATE_CHANGED, Seen, Work, decide_template
from stackd.lifecycle.pools import Pool
from stackd.lifecycle.prepull import PrePulls
from stackd.lifecycle.transitions import intend_deletes
from stackd.lifecycle.verbs import start_of
from stackd.logs import stack_log
from stackd.model import NO_LABELS, STACKD, DeleteReason, EventKind, Stack
from stackd.templates import Template
from stackd.timing import FIRST_PAUSE, LONGEST_PAUSE, NO_ROOM_PAUSE
from stackd.workqueue import A_SECOND, TokenBucket

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.02  # changes within this time are handled together
SHARED = "shared"  # the label of a shared stack, with the name of its template


class Refill:
    """The loop of one daemon."""

    def __init__(self, context: Context, prepulls: PrePulls) -> None:
        self._context, self._prepulls = context, prepulls
        self._allowance = TokenBucket(context.clock.monotonic(), 1.0)
        self.queue = context.template_loop

    def start(self) -> None:
        self.queue.start(self._work, self._failed)

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Subscriber of the store."""
        if after is not None and after.template and not after.unassigned:
            closes = self._context.settings.templates.closes.get(after.template, 0)
            if 0 < closes < after.ttl_expires_at and after.deleting_since is None:
                self._context.pools.of(after.template).closes = None  # its create began with another text
                self.queue.add(after.template, delay=GATHER_SECONDS)
        row = before if before is not None and before.unassigned else after or before
        if row is not None and not row.spare and (row.unassigned or row.shared):
            self.queue.add(row.template or "", delay=GATHER_SECONDS)

    def node_changed(self, change: Changed | Relisted) -> None:
        """Subscriber of the mirror: a node that takes stacks, or does not any more, concerns all templates."""
        if isinstance(change, Changed):
            self._context.wake_templates(GATHER_SECONDS)

    async def _work(self, name: str) -> None:
        """Look after what the template owns. Raises StackdError if nothing can be done now."""
        context, templates = self._context, self._context.settings.templates
        context.gate.admit()
        await context.gate.right_cluster()
        await context.store.ports.fix(templates.fixed_ports)
        if context.settings.may_be_outdated(name):
            return
        again = await self._maintain(name, templates.get(name))
        if not math.isinf(again):
            self.queue.add(name, delay=again)

    def _failed(self, name: str, error: StackdError, delay: float | None) -> None:
        """Say why a pool lacks stacks that has not failed."""
        pool, template = self._context.pools.of(name), self._context.settings.templates.get(name)
        now = self._context.wall_clock.now()
        if template is not None and not pool.failures and decide_template(pool, template, now).missing:
            pool.reason = str(error)

    async def _maintain(self, name: str, template: Template | None) -> float:
        """Returns in how many seconds to look again if nothing changes."""
        context, pool = self._context, self._context.pools.of(name)
        now, missing = context.wall_clock.now(), context.settings.is_missing(name)
        if missing and not pool.reason:
            pool.reason = "the template is missing"
            log.warning("the template %s is missing; its pool and its shared stack stay as they are", name)
        pool.forget_failures(now, template.digest if template is not None else pool.digest)
        if not missing:
            await self._close(pool, name, template.hours.closes if template is not None else 0)
        seen = self._seen(pool, name, template, missing=missing)
        work = decide_template(pool, template, now, seen)
        if work.failed:
            pool.crashed_at = now
            self._note_failure(pool, name, work.failed, LONGEST_PAUSE)
        elif template is not None and not pool.failures and seen.paused <= 0 and (work.begin or not work.missing):
            pool.reason = ""
        deletes, begins = self._allowed(len(work.unwanted)), self._allowed(work.begin)
        self._begin(pool, template, work, begins)
        if not name:
            self._prepulls.carry_out(work, seen.images)
        await self._delete([*work.failing, *work.unwanted[:deletes]])
        for row, until in work.kept:
            await context.store.stacks.keep(row.stack_id, until)
            crash_point("shared.kept")
        for row, reason in work.restarts:
            if reason != TEMPLATE_CHANGED:
                text = f"{reason}: {row.status_message}" if row.status_message else reason
                pool.failed(text, context.clock.monotonic())
            await self._restart(row, template, reason)
        again = work.again
        if (paused := pool.not_before - context.clock.monotonic()) > 0:  # by a failure that was just noted
            again = min(again, paused)
        if deletes < len(work.unwanted) or begins < work.begin:
            again = min(again, self._until_allowed())
        return again

    def _seen(self, pool: Pool, name: str, template: Template | None, *, missing: bool) -> Seen:
        context, most = self._context, template.check.failures if template and template.check else math.inf
        checked, recheck = context.checks.next.get(name, (None, 0.0))
        results = (context.checks.of_stack.get(stack_id) for stack_id in pool.shared)
        return Seen(
            cordoned=cordoned(context.config, context.mirror.nodes.values()),
            unhealthy=[result.stack_id for result in results if result is not None and result.failures >= most],
            longest_life=context.longest_life,
            paused=pool.not_before - (clock := context.clock.monotonic()),
            missing=missing,
            making=sum(other.making for other in context.pools.by_name.values()),
            crowded=context.loop.creates_wait,
            clock=clock,
            checked=checked,
            recheck=recheck,
            checking=context.checks.scheduled,
            images={} if name else self._prepulls.wanted(),
            pulls={} if name else self._prepulls.known,
        )

    async def _close(self, pool: Pool, name: str, closes: int) -> None:
        """Have the template's stacks end when it ``closes``, once after a start, and when that or a row has changed."""
        if pool.closes == closes:
            return
        context, pool.closes = self._context, closes
        try:
            changed = await context.store.stacks.close(name, closes=closes, longest=context.longest_life)
        except StackdError:
            pool.closes = None
            raise
        context.loop.wake(row.stack_id for row in changed)

    # ---- what was decided

    def _begin(self, pool: Pool, template: Template | None, work: Work, begins: int) -> None:
        """Begin creates, and the check; nothing else has begun since that was decided."""
        if template is None:
            return
        for _ in range(begins):
            pool.making += 1
            self._context.tasks.background(f"pool {template.name}", self._make_stack(pool, template))
        if work.check_waits:
            self._context.checks.waiting[template.name] = None
        if work.check is not None:
            checks.begin(self._context, template, work.check)

    async def _delete(self, rows: list[Stack]) -> None:
        for row in await intend_deletes(self._context, [row.stack_id for row in rows], DeleteReason.POOL):
            stack_log(log, row.stack_id).info("deleted from what the template %s has", row.template)

    async def _restart(self, row: Stack, template: Template | None, reason: str) -> None:
        context = self._context
        try:
            wanted = await start_of(context, row, EventKind.RESTART_REQUESTED, STACKD, reason, template=template)
            await context.store.stacks.start(row.stack_id, wanted)
        except StackdError as error:
            stack_log(log, row.stack_id, same="shared").warning("cannot be started again now: %s", error)
            self.queue.add(row.template or "", delay=A_SECOND)
            return
        crash_point("shared.restart_intended")
        stack_log(log, row.stack_id).info("the shared stack of %s gets a new pod: %s", row.template, reason)
        context.loop.wake([row.stack_id])

    async def _make_stack(self, pool: Pool, template: Template) -> None:
        try:
            await create_for_template(self._context, request_for(self._context, template))
            if pool.failures and not pool.crashed_at:
                pool.succeeded()
        except (NoRoom, NoNodePort, QuotaExceeded) as error:
            self._note_failure(pool, template.name, str(error), NO_ROOM_PAUSE)
        except Unavailable as error:
            pool.pause(self._context.clock.monotonic() + FIRST_PAUSE, str(error))
        except StackdError as error:
            if pool.digest == template.digest:
                self._note_failure(pool, template.name, str(error), LONGEST_PAUSE)
        finally:
            pool.making -= 1
            self.queue.add(template.name, delay=GATHER_SECONDS)

    def _note_failure(self, pool: Pool, name: str, why: str, longest: float) -> None:
        """Record why the pool cannot be filled; of several failures at the same time only one counts."""
        log.warning("the pool of %s cannot be filled now: %s", name, why, extra={"same": f"pool {name}"})
        now = self._context.clock.monotonic()
        if now >= pool.not_before:
            pool.failed(why, now, longest=longest)

    # ---- how fast

    def _allowed(self, most: int) -> int:
        rate = self._context.config.templates.refill_per_second
        return self._allowance.take_some(self._context.clock.monotonic(), rate, A_SECOND, most)

    def _until_allowed(self) -> float:
        rate = self._context.config.templates.refill_per_second
        return max(0.001, self._allowance.wait(self._context.clock.monotonic(), rate, A_SECOND))


def request_for(context: Context, template: Template) -> CreateRequest:
    """The create of a stack for the template's pool, or of its shared stack."""
    return CreateRequest(
        spec=template.spec,
        target_ports=template.target_ports,
        ttl=context.config.stacks.max_ttl if template.shared else template.ttl,
        labels={**template.labels, SHARED: template.name} if template.shared else NO_LABELS,
        template=template,
        unassigned=not template.shared,
        shared=template.shared,
    )
