"""The loop: which stack is reconciled when, by at most one task at a time; and the waiting of those who want something of it.

Owns: the queue of stacks, who gets a free slot for requests first, retries, and those who wait for a row. Does not know what
is done to a stack (``reconcile``). A change that the mirror reports, a verb that has changed the row, a time that was asked
for or a pass wakes a stack.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from stackd.errors import ClusterRefused, NotYet, StackdError, StillThere
from stackd.logs import stack_log
from stackd.model import DeleteReason, Stack
from stackd.store.store import Stacks
from stackd.tasks import Tasks, Waiters
from stackd.timing import STACK_RETRIES
from stackd.workqueue import Slots, WorkQueue

log = logging.getLogger(__name__)
T = TypeVar("T")
Reconcile = Callable[[str], Awaitable[bool]]

# At most so many stacks have requests under way.
SLOTS = 24
# So many new ones beside them: the others wait, so that a burst neither runs into deadlines nor delays everything else.
CREATES_AT_ONCE = 32
# While the loop is late: otherwise creates would take all of what the cluster can do from expiries, whose ports and room they
# need.
FEW_CREATES_AT_ONCE = 8
# At most so many expiries, so many of pools, and so many records are written at a time: nobody waits for them.
IN_THE_BACKGROUND, RECORDS = 8, 4
# How many stacks are looked at in one go if all are, and when the next follow; a look takes some 0.1 ms.
LOOKS_AT_ONCE, LOOK_SECONDS = 50, 0.005

MOST_STEPS = 12  # more steps in a row mean that something in the cluster undoes what stackd does


class Priority(enum.IntEnum):
    """Who comes first."""

    WAITED = 0  # somebody waits for it
    REPAIR = 1
    BATCH = 2  # a job deletes it
    EXPIRY = 3
    POOL = 4
    RECORD = 5  # only its record is outdated


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiter:
    """One who waits for a row, for ``timeout`` seconds; ``still``: has waited for it before; ``pending``: what the cluster has
    accepted and not done yet.

    For a ``patient`` one, the time begins when something holds the stack up, or nothing is left to do about it; what is not
    about the stack itself costs no time.
    """

    result: asyncio.Future[Any]
    priority: Priority
    limit: asyncio.Timeout
    timeout: float
    patient: bool
    still: bool
    pending: StackdError | None = None

    def rests(self, pending: StackdError | None = None) -> None:
        """Only the cluster can do something now."""
        self.pending = pending or self.pending
        if self.limit.when() is None and not self.result.done():
            self.limit.reschedule(asyncio.get_running_loop().time() + self.timeout)

    def fails(self, error: StackdError) -> None:
        """A step could not be done; the loop tries it again."""
        if self.result.done():
            return
        if isinstance(error, StillThere):
            self.rests(error)
        elif self.patient and not error.stays:
            self.pending = None
            self.limit.reschedule(None)
        else:
            self.result.set_exception(error)


def is_gone(row: Stack | None) -> bool | None:
    """For ``Loop.reconcile_until``: True once the row is gone."""
    return True if row is None else None


class Loop:
    """The loop of one daemon; ``rows`` are those who read a row once it has changed, ``removable`` the uids of objects without a
    row that a pass or the operator wants removed.

    Stacks that are woken before ``start`` wait for it.
    """

    def __init__(self, tasks: Tasks, stacks: Stacks) -> None:
        self.rows: Waiters[Stack] = Waiters()
        self._wishes: Waiters[Stack] = Waiters()
        self.removable: set[str] = set()
        self.queue: WorkQueue[str] = WorkQueue("reconcile", tasks, STACK_RETRIES)
        self._stacks = stacks
        self._slots = Slots(SLOTS, _limit)
        self._creates = Slots(CREATES_AT_ONCE, lambda _: FEW_CREATES_AT_ONCE if self.is_late else CREATES_AT_ONCE)
        self._waiters: dict[str, list[_Waiter]] = {}

    def start(self, reconcile: Reconcile) -> None:
        """Begin to work. ``reconcile`` looks at one stack and does the next step, if there is one; it returns whether to look
        again at once, and raises what keeps the step from being done."""
        self.queue.start(partial(self._work, reconcile), self._failed)

    def wake(self, stack_ids: Iterable[str], *, delay: float = 0.0) -> None:
        """Have the stacks looked at, ``delay`` seconds from now."""
        for stack_id in stack_ids:
            self.queue.add(stack_id, delay=delay)

    def wake_all(self) -> None:
        """Have all stacks looked at, as after a start or a confirmation; a few at a time, so that requests run in between."""
        for number, stack in enumerate(self._stacks.ordered()):
            self.queue.add(stack.stack_id, delay=number // LOOKS_AT_ONCE * LOOK_SECONDS)

    @property
    def is_late(self) -> bool:
        """Whether more comes than can be done in time."""
        return self._slots.is_late

    @property
    def creates_wait(self) -> bool:
        """Whether a create would have to wait for a slot now."""
        return self._creates.is_full

    @asynccontextmanager
    async def slot(self, stack: Stack, *, record: bool = False) -> AsyncIterator[bool]:
        """A slot for the stack's requests, perhaps only for its ``record``; whether it was waited for, so that what was
        decided may be outdated."""
        priority, failed = self._priority(stack, record=record), self.queue.has_failed(stack.stack_id)
        is_new = not stack.accepted and stack.deleting_since is None
        async with (self._creates if is_new else self._slots).acquired(priority, failed=failed) as waited:
            yield waited

    # ---- waiting for a row

    async def until(self, stack_id: str, predicate: Callable[[Stack | None], T | None], timeout: float) -> T | None:
        """What the predicate returns for the row at last; None after ``timeout`` seconds. Raises what it raises."""
        try:
            return await self.rows.until(stack_id, predicate, lambda: self._stacks.get(stack_id), timeout)
        except TimeoutError:
            return None

    async def reconcile_until(
        self,
        stack_id: str,
        done: Callable[[Stack | None], T | None],
        timeout: float,
        priority: Priority = Priority.WAITED,
        *,
        still: bool = False,
        patient: bool = False,
    ) -> T:
        """Have the stack worked on; return what ``done`` returns for the row at last.

        ``done`` is asked again when the row has changed, and when a step was done. Raises what it raises; what keeps a
        step from being done, which the loop then retries; NotYet or StillThere after ``timeout`` seconds. The work goes on
        if the caller leaves. A caller who ``still`` waits, after a NotYet, asks for no try of its own: what fails by then was
        begun for it. A ``patient`` one gets only errors about the stack itself, however long Kubernetes is away.
        """
        with self._wishes.waiting(stack_id, done, lambda: self._stacks.get(stack_id)) as result:
            if result.done():
                return result.result()
            limit, waiters = asyncio.timeout(None if patient else timeout), self._waiters.setdefault(stack_id, [])
            waiter = _Waiter(
                result=result, priority=priority, limit=limit, timeout=timeout, patient=patient, still=still
            )
            waiters.append(waiter)
            if not still:
                self.queue.add(stack_id, reset=True)
            try:
                async with limit:
                    return await result
            except TimeoutError:
                raise waiter.pending or NotYet("Kubernetes has not done it yet") from None
            finally:
                waiters.remove(waiter)
                if not waiters and self._waiters.get(stack_id) is waiters:
                    del self._waiters[stack_id]

    def wake_waiters(self, stack_id: str) -> None:
        """Ask those who wait for the row whether it is as they want it."""
        self._wishes.wake(stack_id, self._stacks.get(stack_id))

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Subscriber of the store: wake those who wait for the row; and a stack with a new pod, which may have moved on
        before the row was written."""
        if (row := after or before) is None:
            return
        self.rows.wake(row.stack_id, after)
        self._wishes.wake(row.stack_id, after)
        known = before.pod_uids if before is not None and before.accepted else (None,)
        if after is not None and after.accepted and after.pod_uids not in ((None,), known):
            self.queue.add(row.stack_id)

    # ---- the work

    async def _work(self, reconcile: Reconcile, stack_id: str) -> None:
        """Reconcile the stack until nothing more can be done now, and report to those who wait for it."""
        waiters = tuple(self._waiters.get(stack_id, ()))  # whoever comes later gets a try of their own
        try:
            for _ in range(MOST_STEPS):
                again = await reconcile(stack_id)
                self.wake_waiters(stack_id)
                if not again:
                    for waiter in waiters:
                        waiter.rests()
                    return
            raise ClusterRefused("something in the cluster keeps changing what stackd makes")
        except StackdError as error:
            late = [waiter for waiter in self._waiters.get(stack_id, ()) if waiter.still]
            for waiter in (*waiters, *late):
                waiter.fails(error)
            raise

    def _failed(self, stack_id: str, error: StackdError, delay: float | None) -> None:
        stack_log(log, stack_id, same="work").info("next try in %.1f s: %s", delay or 0.0, error)

    def _priority(self, stack: Stack, *, record: bool) -> Priority:
        if waiters := self._waiters.get(stack.stack_id):
            return min(waiter.priority for waiter in waiters)
        if record or stack.spare:
            return Priority.RECORD
        if stack.delete_reason is DeleteReason.BATCH:
            return Priority.BATCH
        if stack.unassigned or stack.delete_reason is DeleteReason.POOL:
            return Priority.POOL
        return Priority.EXPIRY if stack.delete_reason is DeleteReason.EXPIRED else Priority.REPAIR


def _limit(priority: int) -> int:
    if priority == Priority.RECORD:
        return RECORDS
    return IN_THE_BACKGROUND if priority >= Priority.EXPIRY else SLOTS
