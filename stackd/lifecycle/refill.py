"""Keep the pools filled: make missing stacks; delete stacks that failed, are of an outdated template, or are too many. Make
the shared stacks, too (``shared``).

Owns: the refilling service, its speed, and what it does about a template whose stacks do not come to run. It makes
stacks as any create does, and deletes them as any stack is deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass

from stackd.clock import NANOSECONDS, has_passed
from stackd.crashpoints import crash_point
from stackd.errors import NoNodePort, NoRoom, QuotaExceeded, StackdError, Unavailable
from stackd.lifecycle import checks, shared
from stackd.lifecycle.context import Context, CreateRequest
from stackd.lifecycle.create import make_unasked
from stackd.lifecycle.nodes import cordoned
from stackd.lifecycle.pools import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    LONGEST_WAIT,
    PROVEN_SECONDS,
    Pool,
    has_failed,
    has_lost_readiness,
    is_ready,
)
from stackd.lifecycle.prepull import PrePulls
from stackd.logs import stack_log
from stackd.model import DeleteReason, Stack, StackStatus
from stackd.tasks import set_within
from stackd.templates import Template
from stackd.workqueue import A_SECOND, TokenBucket

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""The pools are checked at least this often: a template may have changed, a pause be over, the cluster be back."""

CROWDED_SECONDS = 0.1
"""When to check again while clients' creates wait for a slot: until none does, nothing is made for pools."""

AT_ONCE = 24
"""How many creates for an empty pool run at a time, of ``loop.CREATES_AT_ONCE``: what it cannot give, the cluster has
to make for clients anyway. The fuller it is, the fewer: what it can give is not slowed down by what is made."""

GATHER_SECONDS = 0.02  # changes within this time are handled together


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a pool needs: how many more stacks, and which to delete: ``failing`` at once, ``unwanted`` as fast as others
    are made. ``failed`` says why the first of the current template failed by itself; empty if none has."""

    missing: int = 0
    failing: tuple[Stack, ...] = ()
    unwanted: tuple[Stack, ...] = ()
    failed: str = ""


def work_for(pool: Pool, template: Template | None, now: int, cordoned: Collection[str] = ()) -> Work:
    """What the pool needs, even if it cannot be done ``now`` (nanoseconds). Pure. Without a template, which somebody has
    removed, all of its stacks are deleted. A stack of an outdated template counts as present until its delete is intended, so
    a pool is replaced bit by bit; one that is not ready counts for PROVEN_SECONDS, since it may soon be ready again."""
    digest, wanted = (template.digest, template.pool) if template is not None else (None, 0)
    rows = [row for row in pool.waits.values() if row.accepted and row.deleting_since is None]
    patience = round(PROVEN_SECONDS * NANOSECONDS)

    def fails(row: Stack) -> bool:
        return has_failed(row) or (has_lost_readiness(row) and has_passed(now, row.updated_at, patience))

    failing = [row for row in rows if fails(row)]
    others = [row for row in rows if not fails(row)]
    outdated = [row for row in others if row.digest != digest or row.node_id in cordoned]
    good = [row for row in others if row.digest == digest and row.node_id not in cordoned]
    surplus = sorted(good, key=lambda row: (is_ready(row), -row.created_at))[: max(0, len(good) - wanted)]
    gone = StackStatus.NODE_DELETED
    return Work(
        missing=max(0, wanted - len(good) - len(outdated) - pool.making),
        failing=tuple(failing),
        unwanted=(*outdated, *surplus),
        failed=next((_why(row) for row in failing if row.digest == digest and row.status is not gone), ""),
    )


def _why(stack: Stack) -> str:
    reason = stack.status_reason or str(stack.status)
    return f"{reason}: {stack.status_message}" if stack.status_message else reason


def may_begin(fill: float, making: int) -> int:
    """How many creates may begin for a pool that is ``fill`` full (0 to 1), while ``making`` run for all pools. Pure."""
    return max(0, max(2, round(AT_ONCE * (1 - fill) ** 2)) - making)


class Refill:
    """The refilling of one daemon."""

    def __init__(self, context: Context, prepulls: PrePulls) -> None:
        self._context, self._prepulls = context, prepulls
        self._allowance = TokenBucket(context.clock.monotonic(), 1.0)

    async def run(self) -> None:
        """The refilling service; runs for ever."""
        news = self._context.pools.news
        while True:
            news.clear()
            if await set_within(news, await self._check()):
                await asyncio.sleep(GATHER_SECONDS)

    async def _check(self) -> float:
        """Look after all pools, as far as possible now. Returns in how many seconds to check again if nothing changes."""
        context, pools = self._context, self._context.pools
        templates = context.settings.templates
        try:
            context.gate.admit()
            await context.gate.right_cluster()
            await context.store.ports.fix(
                frozenset(port for one in templates.values() for port in one.node_ports.values())
            )
            names = sorted({*templates, *pools.by_name}, key=self._fill)
            again = min([await self._maintain(name, templates.get(name)) for name in names], default=CHECK_SECONDS)
            checks.look_after(context)
            self._prepulls.look()
            return again
        except StackdError as error:  # why a pool lacks stacks that has not failed
            for name, template in templates.items():
                if not pools.of(name).failures and work_for(pools.of(name), template, context.wall_clock.now()).missing:
                    pools.of(name).reason = str(error)
            return CHECK_SECONDS

    def _fill(self, name: str) -> float:
        """How full a pool is (0 to 1); the emptiest is handled first."""
        template = self._context.settings.templates.get(name)
        if template is None or not template.pool:
            return 1.0
        return min(1.0, sum(map(is_ready, self._context.pools.of(name).waits.values())) / template.pool)

    async def _maintain(self, name: str, template: Template | None) -> float:
        context, pool = self._context, self._context.pools.of(name)
        now, wall_now = context.clock.monotonic(), context.wall_clock.now()
        if context.settings.may_be_outdated(name):
            return CHECK_SECONDS
        if context.settings.is_missing(name):
            if not pool.reason:
                pool.reason = "the template is missing"
                log.warning("the template %s is missing; its pool and its shared stack stay as they are", name)
            await shared.keep_without_template(context, pool)
            return CHECK_SECONDS
        if template is not None:
            pool.settle(wall_now, template.digest)
        work = work_for(pool, template, wall_now, cordoned(context.config, context.mirror.nodes.values()))
        if work.failed:
            pool.crashed_at = wall_now
            self._note_failure(pool, name, work.failed, LONGEST_PAUSE)
        if chosen := [row.stack_id for row in (*work.failing, *work.unwanted[: self._allowed(len(work.unwanted))])]:
            marked = await context.store.stacks.mark_deleting(chosen, DeleteReason.POOL)
            crash_point("pool.delete_marked")
            for stack in marked:
                stack_log(log, stack.stack_id).info("deleted from the pool of %s", stack.template)
                context.loop.wake([stack.stack_id])
        needs_one = await shared.keep(context, pool, template)
        missing = work.missing + (needs_one and not pool.making)
        return CHECK_SECONDS if template is None else self._make(pool, template, missing, now)

    def _make(self, pool: Pool, template: Template, missing: int, now: float) -> float:
        """Begin making missing stacks; after a failure one at a time. Returns in how many seconds to check again."""
        if not missing:
            if not pool.failures and now >= pool.not_before:
                pool.reason = ""
            return CHECK_SECONDS
        if now < pool.not_before:
            return min(CHECK_SECONDS, pool.not_before - now)
        if self._context.loop.creates_wait:  # clients wait for a slot
            return CROWDED_SECONDS
        making = sum(one.making for one in self._context.pools.by_name.values())
        most = min(missing, may_begin(self._fill(template.name), making))
        if pool.failures:
            starting = pool.making or any(row.status is StackStatus.CREATING for row in pool.waits.values())
            most = 0 if starting or pool.since_crash() else min(1, most)
        count = self._allowed(most)
        if count and not pool.failures:
            pool.reason = ""
        for _ in range(count):
            pool.making += 1
            self._context.tasks.background(f"pool {template.name}", self._one(pool, template))
        if count == most:
            return CHECK_SECONDS
        rate = self._context.config.templates.refill_per_second
        return max(0.001, self._allowance.wait(self._context.clock.monotonic(), rate, A_SECOND))

    def _allowed(self, most: int) -> int:
        """How many of ``most`` steps may be taken now."""
        rate = self._context.config.templates.refill_per_second
        return self._allowance.take_some(self._context.clock.monotonic(), rate, A_SECOND, most)

    async def _one(self, pool: Pool, template: Template) -> None:
        spec, ports = template.spec, template.target_ports
        request = CreateRequest(spec=spec, target_ports=ports, ttl=template.ttl, template=template, unassigned=True)
        if template.shared:
            request = shared.request_for(self._context, template)
        try:
            await make_unasked(self._context, request)
            if pool.failures and not pool.crashed_at:
                pool.succeeded()
        except (NoRoom, NoNodePort, QuotaExceeded) as error:
            self._note_failure(pool, template.name, str(error), LONGEST_WAIT)
        except Unavailable as error:
            pool.put_off(self._context.clock.monotonic() + FIRST_PAUSE, str(error))
        except StackdError as error:
            if pool.digest == template.digest:
                self._note_failure(pool, template.name, str(error), LONGEST_PAUSE)
        finally:
            pool.making -= 1
            self._context.pools.news.set()

    def _note_failure(self, pool: Pool, name: str, why: str, longest: float) -> None:
        """Record why the pool cannot be filled; of several failures at the same time only one counts."""
        log.warning("the pool of %s cannot be filled now: %s", name, why, extra={"same": f"pool {name}"})
        now = self._context.clock.monotonic()
        if now >= pool.not_before:
            pool.failed(why, now, longest=longest)
