"""The passes that find what events have missed; expiry after the clock was set; and the removal of old keys, jobs, timelines.

Owns: the passes. A pass wakes the stacks that have something to do, and the loop does it, so that no request delays a
pass. A pass itself does only what has no row: it adopts stacks from their objects. Owns, too, that no stack expires by a
clock that may be wrong: if many have expired only because the clock was set, the brake decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from stackd import contract
from stackd.clock import NANOSECONDS, from_nanoseconds
from stackd.errors import ClusterError, ClusterUnavailable, Held
from stackd.kube.wire import NETWORK_POLICIES
from stackd.lifecycle.bring_up import refresh_rights
from stackd.lifecycle.context import Context
from stackd.lifecycle.decide import ACTIONS, Action, Kind, ReconcilePlan, Surroundings, of_orphans, orphans
from stackd.lifecycle.rebuild import adopt
from stackd.lifecycle.view import look_at
from stackd.logs import stack_log
from stackd.timing import ASK_TIME_SECONDS, CLOCK_SET_SECONDS, CONFIRMED_SECONDS, FIRST_LOOK_SECONDS, KEEP_CLAIMS

log = logging.getLogger(__name__)

# What the brake may hold back of stacks with rows.
MAY_BE_HELD = frozenset({Kind.END, Kind.EXPIRE})
BLOCKED_RETRY_SECONDS = 5

FIRST_PASSES, AGAIN_PASSES = 10, 30
"""A stack that cannot be adopted, because another row has its port, is tried again in each of the first passes, and then
every so many: each try lists everything."""


class Reconciler:
    """The passes of one daemon; ``unknown`` are the objects that the last one left alone."""

    def __init__(self, context: Context) -> None:
        self.unknown: tuple[Action, ...] = ()
        self.passes = 0
        self.adopted = 0
        self.actions = Counter(dict.fromkeys(ACTIONS, 0))
        self._context = context
        self._unadoptable: dict[str, str] = {}
        self._busy = asyncio.Lock()

    async def plan(self) -> ReconcilePlan:
        """What a pass would do now, and why. Makes no request and changes nothing, however often it is called. Raises
        StoreUnavailable if the file cannot be asked about objects without a row."""
        context = self._context
        rows, mirror, held = context.store.stacks, context.mirror, frozenset(context.gate.brake.held)
        found = orphans(rows.ids(), mirror.pods, mirror.services, mirror.all_routes())
        removed = await rows.removed_among({orphan.stack_id for orphan in found}) if found else frozenset()
        if blocked := context.gate.why_no_pass():
            return ReconcilePlan(blocked=blocked, held=held)
        before = context.gate.ownership.predecessor
        around = Surroundings(
            now=context.clock.now() if context.wall_clock.trusted else None,
            orphan_grace=round(context.config.reconcile.orphan_grace * NANOSECONDS),
            busy=context.loop.queue,
            removed=removed,
            unadoptable=self._unadoptable,
            incomplete=context.store.incomplete,
            succeeded_at=before.renewed_at if before is not None else None,
        )
        plan = of_orphans([orphan for orphan in found if orphan.stack_id not in rows], around)
        return replace(plan, actions=(*self._of_rows(), *plan.actions), held=held)

    def _of_rows(self) -> Iterator[Action]:
        context = self._context
        for stack in context.store.stacks.ordered():
            decision = look_at(context, stack)
            if decision.kind in MAY_BE_HELD or (decision.kind is not None and stack.stack_id not in context.loop.queue):
                yield Action(decision=decision, name=stack.stack_id)

    async def reconcile(self) -> ReconcilePlan:
        """Make one pass. The next pass finds again what cannot be done now; one bad stack never holds up the others.
        Raises StoreUnavailable."""
        async with self._busy:
            return await self._pass()

    async def confirm(self) -> contract.Released:
        """The operator agrees with what is held back now: make a pass that does it.

        Also removes the objects of unknown stacks, as far as the last pass has listed them. Raises Held if no pass can
        be made now, and StoreUnavailable; in both cases a pass within a minute still does what was held now, and
        nothing else.
        """
        context = self._context
        async with self._busy:
            listed = _uids(self.unknown)
            confirmed = context.gate.brake.confirm()
            log.warning("brake: the operator released %d stacks", len(confirmed))
            plan = await self._pass()
        if plan.blocked:
            raise Held(_not_now(plan.blocked, len(confirmed)), BLOCKED_RETRY_SECONDS)
        agreed = [
            action.orphan for action in plan.unknown if action.orphan is not None and action.orphan.seen.uid in listed
        ]
        for orphan in agreed:
            log.warning("%s: removed, as the operator confirmed", orphan, extra={"stack_id": orphan.stack_id})
            context.loop.removable.add(orphan.seen.uid)
            context.loop.wake([orphan.stack_id])
        removed = tuple(sorted(map(str, agreed)))
        return contract.Released(released=len(confirmed - plan.held), held=tuple(sorted(plan.held)), removed=removed)

    async def _pass(self) -> ReconcilePlan:
        context = self._context
        context.wake_templates()
        if any(stack.members for stack in context.store.stacks.ordered()):
            context.mirror.also_follow(NETWORK_POLICIES)
        if context.cluster.connection.rights_in_doubt:
            await refresh_rights(context)
        plan = await self.plan()
        adoptable = {action.name for action in plan.actions if action.decision.kind is Kind.ADOPT}
        # Those of the last pass, too: what the loop has looked at meanwhile was not asked for yet.
        unknown = {action.stack_id for action in (*plan.unknown, *self.unknown)}
        again = self.passes < FIRST_PASSES or self.passes % AGAIN_PASSES == 0
        adoptable |= unknown if again else unknown - self._unadoptable.keys()
        adopted = True
        if not plan.blocked and (adoptable or context.store.incomplete):
            adopted = await self._adopt(adoptable)
            plan = await self.plan()
        if plan.blocked:
            log.debug("reconciliation is waiting: %s", plan.blocked)
            return plan
        to_adopt = any(action.decision.kind is Kind.ADOPT for action in plan.actions)
        if context.store.incomplete and adopted and not to_adopt:
            await self._look_at_each()
            await context.store.end_adoption()
        before, self.unknown = _uids(self.unknown), plan.unknown
        for action in plan.unknown:
            if not _uids([action]) <= before:
                text, extra = "%s belongs to no known stack and is left alone: %s", {"stack_id": action.stack_id}
                log.warning(text, action.orphan, action.decision.why, extra=extra)
        await self._apply(plan)
        self.passes += 1
        return replace(plan, held=frozenset(context.gate.brake.held))

    async def _look_at_each(self) -> None:
        """Return once the loop has looked at each stack: no record has a status. One that requests hold up delays nobody."""
        context = self._context
        queue, rows = context.loop.queue, context.store.stacks
        context.loop.wake(rows.ids())
        end = context.clock.monotonic() + FIRST_LOOK_SECONDS
        while any(stack_id in queue and not queue.has_failed(stack_id) for stack_id in rows.ids()):
            if context.clock.monotonic() > end:
                return
            await asyncio.sleep(0.005)

    async def _adopt(self, names: set[str]) -> bool:
        """Make rows for Services that carry a stack's record. False if the cluster cannot be asked now: the next pass
        tries again."""
        try:
            done = await adopt(self._context, names)
        except (ClusterError, ClusterUnavailable) as error:
            log.warning("%d stacks or more cannot be adopted now: %s", len(names), error)
            return False
        for name in names:
            self._unadoptable.pop(name, None)
        self._unadoptable |= dict(done.lost)
        self.adopted += len(done.recovered)
        self.actions[Kind.ADOPT] += len(done.recovered)
        for stack_id in done.recovered:
            stack_log(log, stack_id).info("adopted from its Service")
        if done.recovered:
            log.warning("%d stacks were adopted from their Services: the file did not have them", len(done.recovered))
            self._context.loop.wake(done.recovered)
        return True

    async def _apply(self, plan: ReconcilePlan) -> None:
        context = self._context
        braked = [action for action in plan.actions if action.decision.brake and action.orphan is not None]
        rowless = {action.stack_id: f"{action.decision.action}: {action.decision.why}" for action in braked}
        still = rowless.keys() | {action.stack_id for action in plan.actions if action.decision.kind in MAY_BE_HELD}
        context.gate.brake.forget(context.gate.brake.held.keys() - still)
        among = context.store.stacks.ids() | rowless.keys()
        held = context.gate.brake.hold_back(rowless, among, context.config.reconcile.max_delete_share)
        for action in plan.actions:
            if action.decision.kind is Kind.ADOPT or (action in braked and action.stack_id in held):
                continue
            self.actions[action.decision.action] += 1
            stack_log(log, action.stack_id).info("%s: %s", action.decision.action, action.decision.why)
            if action.orphan is not None:
                context.loop.removable.add(action.orphan.seen.uid)
            context.loop.wake([action.stack_id])


def _uids(actions: Iterable[Action]) -> set[str]:
    return {action.orphan.seen.uid for action in actions if action.orphan is not None}


def _not_now(blocked: str, confirmed: int) -> str:
    if not confirmed:
        return f"nothing is held back, and no pass can be made: {blocked}"
    return (
        f"the {confirmed} stacks held back cannot be released now: {blocked}; "
        f"they will be if a pass can be made within {CONFIRMED_SECONDS:.0f} s"
    )


class Expiry:
    """Has stacks looked at whose time may be up although no timer says so.

    Each stack is looked at when its own time is up (``decide``). The loop's timers do not notice that the wall clock was set or
    that the machine was suspended, and nothing expires while the clock is not trusted, or another stackd may own the stacks.
    """

    def __init__(self, context: Context) -> None:
        self._context, self._may, self._ahead = context, False, 0.0

    async def check(self) -> None:
        """Have all stacks looked at if the clock was set, or they may expire from now on. Raises StoreUnavailable."""
        context = self._context
        if context.gate.may_expire:
            await _confirm_clock(context)
        may = context.gate.may_expire and context.wall_clock.trusted
        before, self._ahead = self._ahead, context.clock.now() / NANOSECONDS - asyncio.get_running_loop().time()
        if may and (not self._may or abs(self._ahead - before) >= CLOCK_SET_SECONDS):
            context.loop.wake_all()
        self._may = may


async def _confirm_clock(context: Context) -> None:
    """Ask for the API server's time if that may make the clock trusted; shorten ends set by a clock that was ahead."""
    wall_clock, now = context.wall_clock, context.clock.monotonic()
    if not wall_clock.trusted and context.mirror.synced and now - wall_clock.asked_at >= ASK_TIME_SECONDS:
        wall_clock.asked_at = now
        try:
            await context.cluster.time()  # the wall clock observes the ``Date`` of every response
        except (ClusterError, ClusterUnavailable) as error:
            log.debug("the API server's time cannot be read: %s", error)
    if wall_clock.trusted and wall_clock.changed:
        for stack in await context.store.stacks.shorten_future(context.longest_life):
            ends = from_nanoseconds(stack.ttl_expires_at)
            stack_log(log, stack.stack_id).warning("made while the clock was ahead: it ends at %s", ends)
        wall_clock.changed = False


async def purge(context: Context) -> None:
    """Remove jobs after ``batch_delete.keep_jobs``, timelines after ``stacks.keep_history`` and keys after a day.
    Removes nothing while the clock may be wrong. Raises StoreUnavailable."""
    if not context.wall_clock.trusted:
        return
    keep_history = round(context.config.stacks.keep_history * NANOSECONDS)
    keep_jobs = round(context.config.batch_delete.keep_jobs * NANOSECONDS)
    await context.store.purge(
        context.clock.now(), keep_jobs_ns=keep_jobs, keep_claims_ns=KEEP_CLAIMS, keep_history_ns=keep_history
    )
