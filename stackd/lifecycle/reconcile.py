"""Compare what stackd intends with what exists, plan what to do about it, and have it done unless a brake holds it.

Owns: the passes. ``next_step`` says what is to be done. A pass hands work to the observer (statuses) and the worker, so
that no request holds it up, and finds what they may have missed. Only adopting objects without a row and observing
confirmed stacks are part of the pass itself.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace

from stackd.clock import NANOSECONDS
from stackd.errors import ClusterError, ClusterUnavailable, Held
from stackd.lifecycle.brake import CONFIRMED_SECONDS
from stackd.lifecycle.context import Context
from stackd.lifecycle.next_step import (
    UNASKED,
    Action,
    PlanInput,
    ReconcilePlan,
    StepKind,
    Unknown,
    make_plan,
    without_row,
)
from stackd.lifecycle.observe import Observer
from stackd.lifecycle.rebuild import adopt
from stackd.lifecycle.ttl import expire_overdue
from stackd.logs import stack_log

log = logging.getLogger(__name__)

BLOCKED_RETRY_SECONDS = 5

CONTESTED_PASSES, AGAIN_PASSES = 10, 30
"""How many passes a new owner waits at most for the ports of stacks that it adopts, and how often it looks for them
afterwards: each look lists everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The result of a confirmation: how many stacks are no longer held, and which are held now.

    ``removed`` are the objects of unknown stacks that are removed now.
    """

    count: int
    held: frozenset[str]
    removed: frozenset[str] = frozenset()


class Reconciler:
    """The passes of one daemon."""

    def __init__(self, context: Context, observer: Observer) -> None:
        self._context = context
        self._observer = observer
        self._removed: frozenset[str] = frozenset()
        self._looked_up: frozenset[str] = frozenset()
        self._unadoptable: dict[str, str] = {}
        self._contested: frozenset[str] = frozenset()
        self._contested_passes = 0
        self.unknown: tuple[Unknown, ...] = ()
        self._busy = asyncio.Lock()
        self.passes = 0
        self.actions: dict[StepKind, int] = dict.fromkeys(StepKind, 0)

    async def plan(self) -> ReconcilePlan:
        """What a pass would do now, and why. Makes no request and changes nothing, however often it is called.

        Raises StoreUnavailable if the file cannot be asked about objects without a row.
        """
        await self._look_up()
        held = frozenset(self._context.brake.held)
        if blocked := self._context.gate.why_no_pass():
            return ReconcilePlan(blocked=blocked, held=held)
        return replace(make_plan(self._plan_input()), held=held)

    async def _look_up(self) -> None:
        """Ask the file whether it has removed the stacks of objects without a row, if there are any."""
        context = self._context
        mirror = context.mirror
        wanted = without_row(mirror.pods, mirror.services, context.store.stacks.ids(), mirror.all_routes())
        removed = await context.store.stacks.removed_among(wanted) if wanted else frozenset()
        self._looked_up, self._removed = wanted, removed
        self._unadoptable = {stack_id: why for stack_id, why in self._unadoptable.items() if stack_id in wanted}

    async def reconcile(self) -> ReconcilePlan:
        """Make one pass. The next pass finds again what cannot be done now; one bad stack never holds up the others.

        Raises StoreUnavailable.
        """
        async with self._busy:
            return await self._pass()

    async def confirm(self) -> Released:
        """The operator agrees with what is held back now: make a pass that does it.

        Also removes the objects of unknown stacks, as far as the last pass has listed them. Raises Held if no pass can
        be made now, and StoreUnavailable; in both cases a pass within a minute still does what was held now, and
        nothing else.
        """
        context = self._context
        async with self._busy:
            listed = {one.object for one in self.unknown}
            confirmed = context.brake.confirm()
            log.warning("brake: the operator released %d stacks", len(confirmed))
            plan = await self._pass()
        if plan.blocked:
            raise Held(_not_now(plan.blocked, len(confirmed)), BLOCKED_RETRY_SECONDS)
        agreed = [one.object for one in plan.unknown if one.object in listed]
        for orphan in agreed:
            log.warning("%s: removed, as the operator confirmed", orphan, extra={"stack_id": orphan.stack_id})
            context.removable.add(orphan.uid)
            context.worker.add(orphan.stack_id)
        removed = frozenset(f"{orphan}" for orphan in agreed)
        return Released(count=len(confirmed - plan.held), held=plan.held, removed=removed)

    async def _pass(self) -> ReconcilePlan:
        context = self._context
        confirmed = context.brake.confirmed
        if confirmed and not context.gate.why_no_pass():
            await self._observer.observe(set(confirmed))
        if self._contested_passes < CONTESTED_PASSES or self.passes % AGAIN_PASSES == 0:
            # What they lack may have been given back since the last pass.
            for stack_id in self._contested:
                self._unadoptable.pop(stack_id, None)
            self._contested = frozenset()
        if context.unrecordable and self.passes % AGAIN_PASSES == AGAIN_PASSES - 1:
            context.unrecordable.pop()  # one is tried again: what removed the annotations may be gone
        plan = await self.plan()
        adoptable = frozenset(action.name for action in plan.actions if action.kind is StepKind.ADOPT)
        adopted = True
        if not plan.blocked and (adoptable or context.store.incomplete):
            adopted = await self._adopt(adoptable)
            plan = await self.plan()
        if plan.blocked:
            log.debug("reconciliation is waiting: %s", plan.blocked)
            return plan
        if context.store.incomplete and adopted and not self._still_adopts(plan):
            await context.store.end_adoption()
        self._tell_unknown(plan.unknown)
        await self._apply(plan)
        self.passes += 1
        context.brake.pass_done()
        return replace(plan, held=frozenset(context.brake.held))

    def _still_adopts(self, plan: ReconcilePlan) -> bool:
        """Whether something is still to be adopted; waits at most ``CONTESTED_PASSES`` passes for missing ports."""
        self._contested_passes += bool(self._contested)
        waits = bool(self._contested) and self._contested_passes < CONTESTED_PASSES
        return waits or any(action.kind is StepKind.ADOPT for action in plan.actions)

    async def _adopt(self, names: frozenset[str]) -> bool:
        """Make rows for Services that carry a stack's record. False if the cluster cannot be asked now: the next pass
        tries again.
        """
        context = self._context
        try:
            done = await adopt(context, names)
        except (ClusterError, ClusterUnavailable) as error:
            log.warning("%d stacks or more cannot be adopted now: %s", len(names), error)
            return False
        self._unadoptable |= done.unadoptable
        self._contested = frozenset(done.contested)
        self.actions[StepKind.ADOPT] += len(done.stacks)
        for stack_id in done.stacks:
            stack_log(log, stack_id).info("adopted from its Service")
        if done.stacks:
            log.warning("%d stacks were adopted from their Services: the file did not have them", len(done.stacks))
            await self._observer.observe(set(done.stacks))
        return True

    def _tell_unknown(self, unknown: tuple[Unknown, ...]) -> None:
        before, self.unknown = {one.object for one in self.unknown}, unknown
        for one in unknown:
            if one.object not in before:
                extra = {"stack_id": one.object.stack_id}
                log.warning("%s belongs to no known stack and is left alone: %s", one.object, one.why, extra=extra)

    def _plan_input(self) -> PlanInput:
        context = self._context
        succession = context.ownership.succession
        if context.unrecordable:
            context.unrecordable &= {service.uid for service in context.mirror.services.values()}
        return PlanInput(
            now=context.clock.now() if context.wall_clock.trusted else None,
            orphan_grace=round(context.config.reconcile.orphan_grace * NANOSECONDS),
            stacks=context.store.stacks.ordered(),
            pods=context.mirror.pods,
            services=context.mirror.services,
            routes=list(context.mirror.all_routes()),
            step=context.step,
            busy=context.worker,
            removed=self._removed,
            looked_up=self._looked_up,
            unadoptable=self._unadoptable,
            incomplete=context.store.incomplete,
            sudden_until=context.wall_clock.sudden_until,
            succeeded_at=succession.renewed_at if succession is not None else None,
        )

    async def _apply(self, plan: ReconcilePlan) -> None:
        context = self._context
        unasked = {a.stack_id: f"{a.kind}: {a.why}" for a in plan.actions if a.kind in UNASKED or a.sudden}
        orphans = {a.stack_id: unasked[a.stack_id] for a in plan.actions if a.orphan is not None}
        context.brake.forget(context.brake.held.keys() - unasked.keys())
        held = context.gate.hold_back(
            orphans, context.store.stacks.ids() | orphans, context.config.reconcile.max_delete_share
        )
        for action in plan.actions:
            if action.kind is StepKind.ADOPT or (action.orphan is not None and action.stack_id in held):
                continue
            self._count(action)
            if action.orphan is not None:
                context.removable.add(action.orphan.uid)
            if action.kind is StepKind.END:
                self._observer.mark_dirty([action.name])
            elif action.kind is not StepKind.EXPIRE:
                context.worker.add(action.stack_id)
        if expired := [action.name for action in plan.actions if action.kind is StepKind.EXPIRE]:
            await expire_overdue(context, expired)

    def _count(self, action: Action) -> None:
        self.actions[action.kind] += 1
        stack_log(log, action.stack_id).info("%s: %s", action.kind, action.why)


def _not_now(blocked: str, confirmed: int) -> str:
    if not confirmed:
        return f"nothing is held back, and no pass can be made: {blocked}"
    return (
        f"the {confirmed} stacks held back cannot be released now: {blocked}; "
        f"they will be if a pass can be made within {CONFIRMED_SECONDS:.0f} s"
    )
