"""Who owns the stacks of an instance: one stackd at a time, for as long as its Lease says (invariant 9).

Owns the task that stands by, takes the Lease, renews it and gives it back; ``lease_rules`` says when. Does not know
what an owner does, nor how an incomplete file is completed.

    standby ──the Lease is free, or was not renewed for its duration──▶ owner ──somebody else has it──▶ lost
                                                                        owner ──release()──▶ released

A renewal is valid from the moment when it was sent. An owner that cannot renew stays owner, but the fence allows it
nothing until it renews again or learns of another owner.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from stackd.clock import Clock
from stackd.errors import (
    ClusterError,
    ClusterUnavailable,
    Conflict,
    NotOwner,
    ObjectExists,
    PreconditionFailed,
    StackdError,
    Unavailable,
)
from stackd.kube.guards import Fence
from stackd.kube.lease import Lease, Leases, is_older
from stackd.lifecycle.lease_rules import (
    Candidate,
    Holding,
    LeaseTiming,
    ObservedLease,
    Succession,
    holding,
    observed,
    renewed,
    seconds_to_wait,
    stopped,
    succession,
    taken,
)
from stackd.store import Store
from stackd.tasks import set_within

log = logging.getLogger(__name__)

_CHECK_SECONDS = 1.0
STANDS_BY = ", this stackd stands by"


class Role(enum.StrEnum):
    """The role of this process towards the stacks."""

    STANDBY = "standby"
    OWNER = "owner"
    LOST = "lost"
    RELEASED = "released"


class Ownership:
    """The role of this process. ``run`` is the task, ``store`` an open file, ``host`` the name of this machine, as it
    is written into a Lease that this process holds.

    ``owned`` is set once this process is owner. ``stands_by`` is set while it knows that another one is: ``standby``
    then holds the sentence for clients, and is empty otherwise. ``asked_for`` is set when another process, ``asker``,
    wants to take over. ``trouble`` says why the last read or renewal of the Lease failed; ``troubled`` is called at
    each failure. ``set_back`` is called when the operator has set the cluster back (restored a backup of it): what was
    seen of it before is void.

    ``confirmed`` returns once the cluster that answers is confirmed as the file's own, or raises ClusterUnavailable:
    the Lease of another cluster, or its absence there, means nothing.
    """

    def __init__(
        self, leases: Leases, fence: Fence, store: Store, *, host: str, timing: LeaseTiming, clock: Clock
    ) -> None:
        self.role = Role.STANDBY
        self.succession: Succession | None = None
        self.owned = asyncio.Event()
        self.stands_by = asyncio.Event()
        self.asked_for = asyncio.Event()
        self.asker = ""
        self.standby = ""
        self.trouble = ""
        self.confirmed: Callable[[], Awaitable[None]] = _confirmed
        self.troubled: Callable[[], None] = lambda: None
        self.set_back: Callable[[], None] = lambda: None
        self._leases = leases
        self._fence = fence
        self._store = store
        self.host = host
        self._timing = timing
        self._clock = clock
        self._watched: ObservedLease | None = None
        self._changed = asyncio.Event()
        self._release = asyncio.Event()
        self._ended = asyncio.Event()
        self._next_renewal = 0.0
        self._lapsed = False
        fence.close("stackd does not know yet whether it owns the stacks; retry")

    @property
    def lease(self) -> Lease | None:
        """The Lease as it was last seen."""
        return self._watched.lease if self._watched is not None else None

    @property
    def owner(self) -> str:
        """The host of whoever holds the Lease, as far as is known; empty if nobody does."""
        return self.lease.holder.partition("/")[0] if self.lease is not None else ""

    @property
    def longest_wait(self) -> float:
        """How long, in seconds, a Lease that nobody renews keeps this process waiting at most."""
        return self._timing.duration + 2 * self._timing.interval

    @property
    def lease_name(self) -> str:
        """The name of the Lease, in the namespace of the stacks."""
        return self._leases.name

    @property
    def stepped_back(self) -> bool:
        """Whether another process owns the stacks that this one has owned, or has asked for them."""
        return self.asked_for.is_set() or self.role in (Role.LOST, Role.RELEASED)

    def why_closed(self) -> str:
        """Why this owner may change nothing now; empty if it may, or is not the owner."""
        if self.role is not Role.OWNER or self._fence.open:
            return ""
        return (
            f"the Lease {self._leases.name} was not renewed in time; stackd changes nothing until it is: {self.trouble}"
        )

    async def serve(self) -> None:
        """``run`` as a service; raises NotOwner when this process stops being owner."""
        role = await self.run()
        if role is Role.LOST:
            raise NotOwner(f"{self.owner or 'another stackd'} owns the stacks now; this stackd will stand by")
        raise NotOwner("the stacks were handed over; this stackd will stand by")

    async def run(self) -> Role:
        """Stand by, take the Lease, keep it; ``LOST`` when another process has it, ``RELEASED`` after ``release``.

        Once this has returned, this process may change nothing any more.
        """
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self._follow(), name="lease watch")
            try:
                await self._stand_by()
                await self._hold()
            finally:
                following.cancel()
                self._ended.set()
        return self.role

    def hurry(self) -> None:
        """The cluster answers again: an owner that could not renew the Lease tries again now."""
        if self.role is Role.OWNER and self.trouble:
            self._next_renewal = self._fence.now()
            self._changed.set()

    async def release(self) -> None:
        """Give the Lease back, for whoever asked for it, or else shorten it to the time that a restart takes.

        To be called when everything under way is done. Does nothing if ``run`` has not begun or is over.
        """
        if self._watched is None:
            return
        self._release.set()
        self._changed.set()
        await self._ended.wait()

    async def ask_for(self) -> str:
        """Ask the owner to step back in favour of this process. Returns the owner's host.

        Raises Conflict if there is nobody to ask, ClusterUnavailable.
        """
        while True:
            lease = await self._leases.find()
            if self.role is not Role.STANDBY:
                raise Conflict(f"this stackd is not a standby: it is {self.role}")
            if lease is None or not lease.holder:
                raise Conflict("nobody owns the stacks, so there is no owner to ask")
            try:
                await self._leases.update(replace(lease, takeover=self._me.requester))
            except PreconditionFailed:
                continue  # it was renewed meanwhile
            return lease.holder.partition("/")[0]

    # ---- what is seen

    async def _follow(self) -> None:
        async for lease in self._leases.follow():
            if not is_older(lease, self.lease):  # the answer to a request of our own came sooner
                self._observe(lease)

    def _observe(self, lease: Lease | None) -> None:
        before, self._watched = self._watched, observed(self._watched, lease, self._clock.monotonic())
        if self._watched != before:
            self._changed.set()

    async def _read_lease(self) -> None:
        before = self.lease
        found = await self._leases.find(timeout=self._timing.interval)
        if is_older(found, before):
            log.warning(
                "the cluster was restored from a backup; everything is listed again (Lease %s)", self.lease_name
            )
            self.set_back()
        elif is_older(found, self.lease):
            return  # the watch was faster
        self._observe(found)

    async def _changed_within(self, seconds: float) -> bool:
        """Whether the Lease changed within so many seconds."""
        try:
            return await set_within(self._changed, seconds)
        finally:
            self._changed.clear()

    # ---- standby

    async def _stand_by(self) -> None:
        heard = False
        while not self._release.is_set():
            pause = self._timing.retry
            try:
                known = self._watched
                if not heard or self._wait() <= 0:
                    await self._read_lease()
                    if self._wait() <= 0 and await self._take():
                        return
                self._succeeded()
                # If nothing new was seen, a try now would be refused like this one.
                if self._wait() > 0 or self._watched != known:
                    pause = min(self._wait(), self._timing.interval)
            except (ClusterError, Unavailable) as error:
                self._failed(error, "who owns the stacks is not known")
            self._report_owner()
            heard = await self._changed_within(pause)

    def _wait(self) -> float:
        if self._watched is None:
            return 0.0
        return seconds_to_wait(self._me, self._watched, self._clock.monotonic(), self._timing)

    def _report_owner(self) -> None:
        lease = self.lease
        if not self.trouble:
            held = lease is not None and bool(lease.holder) and lease.lock_id != self._me.lock_id
            self._stand_by_for(self.owner if held else "")
        if self.standby:
            self._fence.close(self.standby)
        elif self.trouble:
            self._fence.close(f"who owns the stacks is not known: {self.trouble}")

    def _stand_by_for(self, owner: str) -> None:
        before, self.standby = self.standby, f"{owner} owns the stacks{STANDS_BY}" if owner else ""
        if owner == self.host:
            self.standby = (
                f"another state file of {owner} owns the stacks; this stackd takes them once that has not renewed its Lease "
                f"for {self.lease.duration if self.lease else 0} s"
            )
        if not owner:
            self.stands_by.clear()
            return
        self.stands_by.set()
        if self.standby != before:
            log.info("standing by: %s (Lease %s)", self.standby.removesuffix(STANDS_BY), self._leases.name)

    async def _take(self) -> bool:
        """Try to take the Lease; False if somebody else was faster, or if an earlier try of ours succeeded unseen."""
        watched = self._watched
        assert watched is not None
        await self.confirmed()
        found = succession(watched.last, self._store.identity)
        if not found.continuous:
            # Before the Lease names this file, so that after a crash the adoption is finished, too.
            await self._store.begin_adoption()
        sent = self._fence.now()
        wanted = self._as_taken(watched.lease)
        try:
            held = await (self._leases.create(wanted) if watched.lease is None else self._leases.update(wanted))
        except (ObjectExists, PreconditionFailed):
            return False
        self.role, self.succession = Role.OWNER, found
        self._stand_by_for("")
        self._renewed(held, sent)
        log.info("this stackd owns the stacks (Lease %s)%s", self._leases.name, f"; {found.why}" if found.why else "")
        self.owned.set()
        return True

    # ---- owner

    async def _hold(self) -> None:
        while self.role is Role.OWNER:
            # Check often: while the machine is suspended the event loop's clock stops, the fence's does not.
            await self._changed_within(min(max(0.0, self._next_renewal - self._fence.now()), _CHECK_SECONDS))
            if self._release.is_set():
                await self._give_back()
            elif await self._is_ours() and self._fence.now() >= self._next_renewal:
                await self._renew()

    async def _is_ours(self) -> bool:
        found = self._holding()
        if found is Holding.LOST:
            self._fence.close(f"{self.owner or 'another stackd'} owns the stacks now")
            return await self._is_ours_after_all()
        if found is Holding.GONE:
            self._next_renewal = self._fence.now()
        if found is Holding.ASKED_FOR and not self.asked_for.is_set() and self.lease is not None:
            self.asker = self.lease.takeover.partition("/")[0]
            log.info("%s asks to take over", self.asker)
            self.asked_for.set()
        if not self._fence.open and not self._lapsed:
            self._lapsed = True
            log.error(
                "the Lease was not renewed in time; stackd changes nothing until it is: %s", self.trouble or "late"
            )
        return True

    def _holding(self) -> Holding:
        lease = self.lease
        if lease is not None and (lease.sequence or 0) > self._store.identity.sequence:
            return Holding.LOST  # this process and its machine were set back: another run of it has gone on
        return holding(self._me, lease)

    async def _is_ours_after_all(self) -> bool:
        """Whether the Lease that says otherwise belongs to another cluster under the same address."""
        try:
            await self.confirmed()
            await self._read_lease()
        except (ClusterError, ClusterUnavailable) as error:
            self._next_renewal = self._fence.now() + self._timing.retry
            self._failed(error, "it is not known whether the Lease is lost")
            await asyncio.sleep(self._timing.retry)
            return False
        if self._holding() is not Holding.LOST:
            return True
        self._end(Role.LOST, f"{self.owner or 'another stackd'} owns the stacks now")
        log.error("this stackd does not own the stacks any more: %s has the Lease", self.owner or "somebody else")
        return False

    async def _renew(self) -> None:
        sent, lease = self._fence.now(), self.lease
        try:
            if lease is None:
                await self.confirmed()
                held = await self._leases.create(self._as_taken(None), timeout=self._timing.interval)
            else:
                held = await self._leases.update(self._as_renewed(lease), timeout=self._timing.interval)
        except (ObjectExists, PreconditionFailed):
            # Somebody has changed it, or an earlier try of ours has: read it, and then try again.
            await self._read_lease_again()
        except (ClusterError, Unavailable) as error:  # a quota may count Leases, too
            self._next_renewal = self._fence.now() + self._timing.retry
            self._failed(error, "the Lease cannot be renewed")
        else:
            self._renewed(held, sent)

    async def _read_lease_again(self) -> None:
        known = self.lease
        try:
            await self._read_lease()
        except (ClusterError, ClusterUnavailable) as error:
            self._next_renewal = self._fence.now() + self._timing.retry
            self._failed(error, "the Lease cannot be read")
        else:
            if self.lease == known:  # a try now would be refused like this one
                self._next_renewal = self._fence.now() + self._timing.retry
                self.trouble = "the API server refuses to change the Lease"

    def _renewed(self, held: Lease, sent: float) -> None:
        self._observe(held)
        self._next_renewal = sent + self._timing.interval
        self._fence.allow_until(sent + self._timing.usable, "another stackd may own the stacks now")
        self._succeeded()
        if self._lapsed and self._fence.open:
            self._lapsed = False
            log.info("the Lease is renewed again")

    async def _give_back(self) -> None:
        """Change nothing from here on, and give the Lease back or shorten it; otherwise it expires."""
        until = self._fence.valid_until
        self._fence.close("stackd is shutting down")
        await self._fence.nothing_under_way(until)
        while self._fence.now() < until and (lease := self.lease) is not None:
            found = holding(self._me, lease)
            if found not in (Holding.OURS, Holding.ASKED_FOR):
                break
            asked = found is Holding.ASKED_FOR
            try:
                given = replace(self._as_renewed(lease), holder="") if asked else self._as_stopped(lease)
                self._observe(await self._leases.update(given))
            except PreconditionFailed:
                await self._read_lease_again()
            except (ClusterError, ClusterUnavailable) as error:
                self._failed(error, "the Lease cannot be given back")
                await asyncio.sleep(self._timing.retry)
            else:
                if asked:
                    log.info("the Lease %s was given back", self._leases.name)
                break
        self._end(Role.RELEASED, "the stacks were handed over to another stackd, or stackd is shutting down")

    def _end(self, role: Role, why: str) -> None:
        self.role, self.standby = role, why
        self._fence.close(why)

    # ---- both

    @property
    def _me(self) -> Candidate:
        identity = self._store.identity
        return Candidate(host=self.host, file_id=identity.file_id, lock_id=identity.lock_id, epoch=identity.epoch)

    def _as_taken(self, lease: Lease | None) -> Lease:
        sequence, now = self._store.identity.sequence, self._clock.now()
        return taken(lease, self._me, sequence=sequence, duration=self._timing.written, now=now)

    def _as_renewed(self, lease: Lease) -> Lease:
        return renewed(lease, self._me, sequence=self._store.identity.sequence, now=self._clock.now())

    def _as_stopped(self, lease: Lease) -> Lease:
        return stopped(lease, self._me, sequence=self._store.identity.sequence, now=self._clock.now())

    def _failed(self, error: StackdError, what: str) -> None:
        if not self.trouble:
            log.warning("%s: %s", what, error)
        self.trouble = str(error)
        self.troubled()

    def _succeeded(self) -> None:
        self.trouble = ""


async def _confirmed() -> None:
    """The default: no cluster identity to confirm."""
