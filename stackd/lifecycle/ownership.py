"""Who owns the stacks of an instance: one stackd at a time, for as long as its Lease says (invariant 9).

Owns: the rules (pure: when a Lease may be taken, when it is lost, what is written into it, and whether a new owner's file
has everything that the cluster has seen), and the task that stands by, takes the Lease, renews it and gives it back.

    standby ──the Lease is free, or was not renewed for its duration──▶ owner ──somebody else has it──▶ lost
                                                                        owner ──release()──▶ released

A renewal is valid from the moment when it was sent. An owner that cannot renew in time has ``lapsed``: the fence allows it
nothing until it renews again or learns of another owner. Clocks of two machines are never compared: a standby measures
with its own clock for how long it has seen no renewal.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from stackd.clock import Clock
from stackd.codes import ErrorCode
from stackd.errors import (
    ClusterError,
    ClusterRefused,
    ClusterUnavailable,
    Conflict,
    NamespaceMissing,
    NotOwner,
    ObjectExists,
    PreconditionFailed,
    QuotaExceeded,
    StackdError,
    Unavailable,
)
from stackd.kube.client import Cluster
from stackd.kube.lease import Lease, Leases, is_older
from stackd.store import FileIdentity, Store
from stackd.store.links import read_revocations
from stackd.tasks import set_within
from stackd.timing import LEASE_KEPT_SECONDS

log = logging.getLogger(__name__)

INTERVAL, RETRY, USABLE = 1 / 3, 1 / 15, 0.9
"""Of a Lease's duration: from one renewal, or one read by a standby, to the next; from a failed renewal to the next try;
and how long a renewal allows changes. The owner stops before others may take the Lease, because clocks differ in speed."""

RECENTLY, RECENTLY_SECONDS = 0.5, 1.0
"""Of a Lease's duration, and so many seconds more: longer than from one failed renewal to the next."""

REFUSALS = (ClusterError, ClusterRefused, NamespaceMissing, QuotaExceeded)
STANDS_BY = ", this stackd stands by"
_CHECK_SECONDS = 1.0
_MICROSECOND = 1000
_OLDER = "the state file is older than the Lease"


# ---- the rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """This process, as a Lease that it holds names it; ``revoked``: the links that its file has as revoked."""

    host: str
    identity: FileIdentity
    revoked: str = ""

    @property
    def holder(self) -> str:
        """What ``kubectl get lease`` shows."""
        return f"{self.host}/{self.identity.file_id}"

    @property
    def requester(self) -> str:
        """How it asks for a Lease that another process holds. Not by ``file_id``: an adoption of stacks changes it."""
        return f"{self.host}/{self.identity.lock_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedLease:
    """The Lease as last seen, and ``since`` when (on our own clock) no renewal of it was seen; ``last`` that existed."""

    lease: Lease | None
    since: float
    last: Lease | None = None


def observed(before: ObservedLease | None, lease: Lease | None, now: float) -> ObservedLease:
    cached = before.lease if before is not None else None
    if before is None or (lease is None) != (cached is None):
        return ObservedLease(lease=lease, since=now, last=lease or cached)
    if lease is None or cached is None:
        return before
    return ObservedLease(lease=lease, since=before.since if _renewal(lease) == _renewal(cached) else now, last=lease)


def _renewal(lease: Lease) -> tuple[object, ...]:
    """What a renewal changes, and nobody else does: a request for a takeover is no sign of life."""
    return (lease.uid, lease.holder, lease.lock_id, lease.epoch, lease.renewed_at)


def seconds_to_wait(me: Candidate, watched: ObservedLease, now: float, duration: float) -> float:
    """How many seconds the Lease must not be taken yet; 0 if it may be taken now.

    A holder with our own lock has ended. A Lease that was given back is reserved for its requester for a while. The holder
    of one that somebody has deleted does not know that yet, and may create it again.
    """
    lease = watched.lease
    if lease is None:
        wait = watched.last.duration if watched.last is not None and watched.last.holder else 0.0
    elif not is_asked_for(me, lease) if not lease.holder else lease.lock_id == me.identity.lock_id:
        wait = 0.0
    else:
        wait = lease.duration or duration
    return max(0.0, watched.since + wait - now)


def is_ours(me: Candidate, lease: Lease) -> bool:
    """Whether an owner still owns the stacks, by this Lease."""
    ours = (me.identity.file_id, me.identity.lock_id, me.identity.epoch)
    # Somebody may have emptied the holder by hand: as long as the Lease names our file, nobody has taken it.
    named = (lease.file_id, lease.lock_id, lease.epoch) == ours and lease.holder in ("", me.holder)
    # A higher sequence: this process and its machine were set back, and another run of it has gone on.
    return named and (lease.sequence or 0) <= me.identity.sequence


def is_asked_for(me: Candidate, lease: Lease) -> bool:
    return lease.takeover not in ("", me.requester)


def what_is_missing(last: Lease | None, identity: FileIdentity) -> str:
    """Why the file may lack something that the cluster has seen, by what the last owner has left in the Lease; or empty.

    Without a Lease the file lacks nothing: it comes from a stackd that used no Lease, or its own Lease was lost.
    """
    if identity.incomplete:
        return "the file is new or restored, or was not completed before"
    if last is None:
        return ""
    if last.file_id not in ("", identity.file_id):
        return f"{last.holder or 'another stackd'} owned the stacks with another file"
    if not last.file_id or last.epoch is None or last.sequence is None:
        return "the Lease does not say how far the file had come"
    if last.epoch > identity.epoch:
        return f"{_OLDER}: the file's start count is {identity.epoch}, the Lease's is {last.epoch}"
    if last.epoch == identity.epoch and last.lock_id != identity.lock_id:
        return f"{_OLDER}, which was taken with another copy of the file"
    if last.sequence > identity.sequence:
        return f"{_OLDER}: the file's change count is {identity.sequence}, the Lease's is {last.sequence}"
    return ""


def acquired(lease: Lease | None, me: Candidate, *, duration: float, now: int) -> Lease:
    """The Lease as it is written when it is taken: with a new holder, or renewed by a new process of the same file. A
    new process keeps a takeover request that the process before it has not fulfilled, and steps back for it."""
    before = lease or Lease(holder="")
    changed = before.holder != me.holder
    restarted = bool(before.holder) and before.lock_id == me.identity.lock_id
    return replace(
        renewed(before, me, now=now),
        duration=math.ceil(duration),
        acquired_at=now if changed or before.acquired_at is None else before.acquired_at,
        transitions=before.transitions + (lease is not None and changed),
        file_id=me.identity.file_id,
        lock_id=me.identity.lock_id,
        epoch=me.identity.epoch,
        takeover=before.takeover if restarted and before.takeover != me.requester else "",
    )


def renewed(lease: Lease, me: Candidate, *, now: int) -> Lease:
    """The Lease as its holder writes it at a renewal; what others have written on it stays. Its time is later than the
    one before, even if the clock stands still or is set back."""
    later = max(now, (lease.renewed_at or 0) + _MICROSECOND)
    return replace(lease, holder=me.holder, renewed_at=later, sequence=me.identity.sequence, revoked=me.revoked)


# ---- the task


class Role(enum.StrEnum):
    """The role of this process towards the stacks."""

    STANDBY = "standby"
    OWNER = "owner"
    LAPSED = "lapsed"  # only as ``reported``: the owner, until its Lease was not renewed in time
    LOST = "lost"
    RELEASED = "released"


class Ownership:
    """The role of this process. ``run`` is the task, ``store`` an open file, ``host`` the name of this machine, as it
    is written into a Lease that this process holds.

    ``owned`` is set once this process is owner. ``stands_by`` is set while it knows that another one is: ``standby``
    then holds the sentence for clients, and is empty otherwise. ``asked_for`` is set when another process, ``asker``,
    wants to take over. ``error`` says why the last read or renewal of the Lease failed, and ``refused`` whether the
    API server has refused it, so that waiting does not help. ``set_back`` is called when the operator
    has set the cluster back (restored a backup of it): what was seen of it before is void.

    ``predecessor`` is the Lease as the owner before this one has left it, None if there was none.

    ``confirmed`` returns once the cluster that answers is confirmed as the file's own, or raises ClusterUnavailable:
    the Lease of another cluster, or its absence there, means nothing.
    """

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        *,
        duration: float,
        clock: Clock,
        confirmed: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0),
        set_back: Callable[[], None] = lambda: None,
    ) -> None:
        self.role = Role.STANDBY
        self.predecessor: Lease | None = None
        self.owned = asyncio.Event()
        self.stands_by = asyncio.Event()
        self.asked_for = asyncio.Event()
        self.asker = ""
        self.standby = ""
        self.error, self.refused = "", False
        self.host = socket.gethostname()
        self._leases = Leases(cluster, clock)
        self.lease_name = self._leases.name
        self._fence, self._contact = cluster.connection.fence, cluster.connection.contact
        self._confirmed, self._set_back = confirmed, set_back
        self._store = store
        self._duration = duration
        self._interval, self._retry = INTERVAL * duration, RETRY * duration
        self._clock = clock
        self._watched: ObservedLease | None = None
        self._changed = asyncio.Event()
        self._tried = asyncio.Event()
        self._failed_at = -math.inf
        self._release = asyncio.Event()
        self._ended = asyncio.Event()
        self._next_renewal = 0.0
        self._lapsed = self._keeps = False
        self._fence.close("stackd does not know yet whether it owns the stacks; retry")

    @property
    def lease(self) -> Lease | None:
        return self._watched.lease if self._watched is not None else None

    @property
    def owner(self) -> str:
        """The host of whoever holds the Lease, as far as is known; empty if nobody does."""
        return self.lease.holder.partition("/")[0] if self.lease is not None else ""

    @property
    def reported(self) -> Role:
        """The role that others may rely on now: ``OWNER`` only while nobody else can own the stacks."""
        return Role.LAPSED if self.role is Role.OWNER and not self._fence.open else self.role

    @property
    def unverified(self) -> bool:
        """Whether this owner's Lease has lapsed without a try to renew it that failed just now: this process was
        suspended, and another stackd may have owned the stacks for long."""
        return self.reported is Role.LAPSED and not self._is_recent(self._failed_at)

    async def verified(self, timeout: float) -> None:
        """Return once this owner has tried again to renew its Lease, or after ``timeout`` seconds."""
        self._tried.clear()
        await set_within(self._tried, timeout)

    async def revocations_written(self, timeout: float) -> bool:
        """Renew the Lease now. Returns whether it has all revocations of links of the file, after ``timeout`` seconds at
        the latest."""
        end = self._clock.monotonic() + timeout
        while self.lease is None or self.lease.revoked != self._store.links.revocations:
            if (remaining := end - self._clock.monotonic()) <= 0:
                return False
            if not self.error:  # after a failure, the next try is due already
                self._next_renewal = 0.0
                self._changed.set()
            await self.verified(remaining)
        return True

    @property
    def longest_wait(self) -> float:
        """How long, in seconds, a Lease that nobody renews keeps this process waiting at most."""
        return self._duration + 2 * self._interval

    @property
    def stepped_back(self) -> bool:
        """Whether another process owns the stacks that this one has owned, or has asked for them."""
        return self.asked_for.is_set() or self.role in (Role.LOST, Role.RELEASED)

    def why_closed(self) -> str:
        """Why this owner may change nothing now, or only as long as its last renewal is valid; empty if it may, or is not
        the owner. An API server that does not answer for a moment is no reason yet; one that refuses is."""
        if self.role is Role.OWNER and self._fence.open and self.refused:
            return f"the Lease {self.lease_name} cannot be renewed: {self.error}; see `stackd doctor`"
        if self.reported is not Role.LAPSED:
            return ""
        return f"the Lease {self.lease_name} was not renewed in time; stackd changes nothing until it is: {self.error}"

    async def serve(self) -> None:
        """``run`` as a service; raises NotOwner when this process stops being owner."""
        if await self.run() is Role.LOST:
            raise NotOwner(f"{self.owner or 'another stackd'} owns the stacks now; this stackd will stand by")
        raise NotOwner("the stacks were handed over; this stackd will stand by")

    async def run(self) -> Role:
        """Stand by, take the Lease, keep it; ``LOST`` when another process has it, ``RELEASED`` after ``release``. Once
        this has returned, this process may change nothing any more."""
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self._follow(), name="lease watch")
            try:
                while self.role is Role.STANDBY and not self._release.is_set():
                    await self._changed_within(await self._try_to_acquire())
                while self.role is Role.OWNER:
                    await self._keep()
            finally:
                following.cancel()
                self._ended.set()
        return self.role

    async def release(self, *, keep: bool = False) -> None:
        """Give the Lease back, so that a standby takes it at once; or ``keep`` it for the time that a restart takes. To be
        called when everything under way is done. Does nothing if ``run`` has not begun or is over."""
        if self._watched is None:
            return
        self._keeps = keep
        self._release.set()
        self._changed.set()
        await self._ended.wait()

    async def ask_for(self) -> str:
        """Ask the owner to step back in favour of this process. Returns the owner's host. Raises Conflict if there is
        nobody to ask, ClusterUnavailable."""
        while True:
            lease = await self._leases.find()
            if self.role is not Role.STANDBY:
                raise Conflict(f"this stackd is not a standby: it is {self.role}", code=ErrorCode.NOT_STANDBY)
            if lease is None or not lease.holder:
                raise Conflict("nobody owns the stacks, so there is no owner to ask", code=ErrorCode.NO_OWNER)
            try:
                await self._leases.write(replace(lease, takeover=self._me.requester))
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
        found = await self._leases.find(timeout=self._interval)
        if is_older(found, before):
            log.warning(
                "the cluster was restored from a backup; everything is listed again (Lease %s)", self.lease_name
            )
            self._set_back()
        elif is_older(found, self.lease):
            return  # the watch was faster
        self._observe(found)

    async def _changed_within(self, seconds: float) -> bool:
        try:
            return await set_within(self._changed, seconds)
        finally:
            self._changed.clear()

    # ---- standby

    async def _try_to_acquire(self) -> float:
        """Take the Lease, if it is free. Returns in how many seconds to try again if nothing changes."""
        pause, before = self._retry, self._watched
        try:
            await self._read_lease()
            if self._wait() <= 0 and await self._acquire():
                return 0.0
            self.error, self.refused = "", False
            # If nothing new was seen, a try now would be refused like this one.
            if self._wait() > 0 or self._watched != before:
                pause = min(self._wait(), self._interval)
        except (ClusterError, Unavailable) as error:
            self._note(error, "who owns the stacks is not known")
        else:
            self._stand_by()
        if self.standby:
            self._fence.close(self.standby)
        elif self.error:
            self._fence.close(f"who owns the stacks is not known: {self.error}")
        return pause

    def _wait(self) -> float:
        if self._watched is None:
            return 0.0
        return seconds_to_wait(self._me, self._watched, self._clock.monotonic(), self._duration)

    def _stand_by(self) -> None:
        before, lease, owner = self.standby, self.lease, self.owner
        if lease is None or not owner or lease.lock_id == self._me.identity.lock_id:
            self.standby = ""
            self.stands_by.clear()
            return
        self.standby = f"{owner} owns the stacks{STANDS_BY}"
        if owner == self.host:
            self.standby = (
                f"another state file of {owner} owns the stacks; this stackd takes them once that has not renewed its Lease "
                f"for {lease.duration} s"
            )
        self.stands_by.set()
        if self.standby != before:
            log.info("standing by: %s (Lease %s)", self.standby.removesuffix(STANDS_BY), self.lease_name)

    async def _acquire(self) -> bool:
        """Try to take the Lease; False if somebody else was faster, or if an earlier try of ours succeeded unseen."""
        watched = self._watched
        assert watched is not None
        await self._confirmed()
        if missing := what_is_missing(watched.last, self._store.identity):
            # Before the Lease names this file, so that after a crash the adoption is finished, too.
            await self._store.begin_adoption()
        if watched.last is not None and watched.last.revoked not in ("", self._store.links.revocations):
            await self._store.links.revoke(read_revocations(watched.last.revoked))
        if not await self._send(watched.lease):
            return False
        self.role, self.predecessor, self.standby = Role.OWNER, watched.last, ""
        self.stands_by.clear()
        log.info("this stackd owns the stacks (Lease %s)%s", self.lease_name, f"; {missing}" if missing else "")
        self.owned.set()
        return True

    async def _send(self, lease: Lease | None, timeout: float | None = None) -> bool:
        """Take or renew the Lease, which was last seen as ``lease``; False if it has changed since then."""
        sent, now = self._fence.now(), self._clock.now()
        as_acquired = acquired(lease, self._me, duration=self._duration, now=now)
        try:
            if lease is not None and self.role is Role.OWNER:
                written = await self._leases.write(renewed(lease, self._me, now=now), timeout=timeout)
            else:
                written = await self._leases.write(as_acquired, timeout=timeout)
        except (ObjectExists, PreconditionFailed):
            return False
        self._observe(written)
        self._next_renewal = sent + self._interval
        self._fence.allow_until(sent + USABLE * self._duration, "another stackd may own the stacks now")
        self.error, self.refused = "", False
        self._tried.set()
        if self._lapsed and self._fence.open:
            self._lapsed = False
            log.info("the Lease is renewed again")
        return True

    # ---- owner

    async def _keep(self) -> None:
        # Check often: while the machine is suspended the event loop's clock stops, the fence's does not.
        await self._changed_within(min(max(0.0, self._next_renewal - self._fence.now()), _CHECK_SECONDS))
        began = self._fence.now()
        try:
            if self._release.is_set():
                await self._give_back()
            elif await self._still_owns() and (self.lease is None or self._fence.now() >= self._next_renewal):
                if self.lease is None:
                    await self._confirmed()
                if not await self._send(self.lease, self._interval):
                    await self._read_lease_again()
        except (ClusterError, Unavailable) as error:  # a quota may count Leases, too
            now = self._fence.now()
            self._next_renewal = now + self._retry
            if self._is_recent(began):  # otherwise this process was suspended meanwhile
                self._failed_at = now
                self._tried.set()
            self._note(error, "the Lease cannot be renewed")

    async def _still_owns(self) -> bool:
        lease = self.lease
        if lease is not None and not is_ours(self._me, lease):
            self._fence.close(f"{self.owner or 'another stackd'} owns the stacks now")
            await self._confirmed()  # the Lease of another cluster under the same address means nothing
            await self._read_lease()
            lease = self.lease
        if lease is not None and not is_ours(self._me, lease):
            self._end(Role.LOST, f"{self.owner or 'another stackd'} owns the stacks now")
            log.error("this stackd does not own the stacks any more: %s has the Lease", self.owner or "somebody else")
            return False
        if lease is not None and is_asked_for(self._me, lease) and not self.asked_for.is_set():
            self.asker = lease.takeover.partition("/")[0]
            log.info("%s asks to take over", self.asker)
            self.asked_for.set()
        if not self._fence.open and not self._lapsed:
            self._lapsed = True
            log.error("the Lease was not renewed in time; stackd changes nothing until it is: %s", self.error or "late")
        return True

    async def _read_lease_again(self) -> None:
        """Somebody has changed it, or an earlier try of ours has."""
        before = self.lease
        await self._read_lease()
        if self.lease == before:  # a try now would be refused like this one
            self._next_renewal = self._fence.now() + self._retry
            self.error = "the API server refuses to change the Lease"

    async def _give_back(self) -> None:
        """Change nothing from here on, and give the Lease back or shorten it; otherwise it expires."""
        until = self._fence.valid_until
        self._fence.close("stackd is shutting down")
        await self._fence.nothing_under_way(until)
        while self._fence.now() < until and (lease := self.lease) is not None and is_ours(self._me, lease):
            last = renewed(lease, self._me, now=self._clock.now())
            short = min(lease.duration, LEASE_KEPT_SECONDS)
            last = replace(last, duration=short) if self._keeps else replace(last, holder="")
            try:
                try:
                    self._observe(await self._leases.write(last))
                except PreconditionFailed:
                    await self._read_lease_again()
                    continue
            except (ClusterError, ClusterUnavailable) as error:
                self._note(error, "the Lease cannot be given back")
                await asyncio.sleep(self._retry)
                continue
            log.info("the Lease %s was %s", self.lease_name, "kept for a restart" if self._keeps else "given back")
            break
        self._end(Role.RELEASED, "the stacks were handed over to another stackd, or stackd is shutting down")

    def _is_recent(self, moment: float) -> bool:
        return self._fence.now() - moment <= RECENTLY * self._duration + RECENTLY_SECONDS

    def _end(self, role: Role, why: str) -> None:
        self.role, self.standby = role, why
        self._fence.close(why)
        self._tried.set()

    @property
    def _me(self) -> Candidate:
        return Candidate(host=self.host, identity=self._store.identity, revoked=self._store.links.revocations)

    def _note(self, error: StackdError, what: str) -> None:
        if not self.error:
            log.warning("%s: %s", what, error)
        self.error, self.refused = str(error), isinstance(error, REFUSALS)
        self._contact.tried.set()
