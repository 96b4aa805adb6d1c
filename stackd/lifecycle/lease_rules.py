"""The rules for owning an instance's stacks by a Lease. Pure.

Owns: when a Lease may be taken, when it is lost, what is written into it, and whether a new owner's file has everything
that the cluster has seen. Clocks of two machines are never compared: a standby measures with its own clock for how long
it has seen no renewal.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace

from stackd.kube.lease import Lease
from stackd.store import FileIdentity

RESTART_SECONDS = 10
"""How long the Lease of an owner that was stopped in order is kept for its next start; then a standby takes over."""

_NO_LEASE = Lease(holder="")
_MICROSECOND = 1000
_OLDER = "the state file is older than the Lease"


class Holding(enum.Enum):
    """What an owner finds when it reads the Lease."""

    OURS = enum.auto()
    ASKED_FOR = enum.auto()
    GONE = enum.auto()
    LOST = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTiming:
    """Times in seconds. ``duration``: how long a renewal is valid. The owner renews after a third of it, and retries a
    failed renewal after a fifteenth. It stops a tenth before others may take the Lease, because clocks differ in speed.
    """

    duration: float = 30.0

    @property
    def interval(self) -> float:
        """From one renewal, or one read by a standby, to the next."""
        return self.duration / 3

    @property
    def retry(self) -> float:
        """From a failed renewal to the next try."""
        return self.duration / 15

    @property
    def usable(self) -> float:
        """How long a renewal allows changes, from the moment it was sent."""
        return self.duration * 0.9

    @property
    def written(self) -> int:
        """The duration as the Lease holds it: in whole seconds."""
        return math.ceil(self.duration)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """This process, as a Lease that it holds names it."""

    host: str
    file_id: str
    lock_id: str
    epoch: int

    @property
    def holder(self) -> str:
        """What ``kubectl get lease`` shows."""
        return f"{self.host}/{self.file_id}"

    @property
    def requester(self) -> str:
        """How it asks for a Lease that another process holds. Not by ``file_id``: an adoption of stacks changes it."""
        return f"{self.host}/{self.lock_id}"

    def has_written(self, lease: Lease) -> bool:
        """Whether this process was the last to acquire the Lease."""
        return (lease.file_id, lease.lock_id, lease.epoch) == (self.file_id, self.lock_id, self.epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedLease:
    """The Lease as last seen, and ``since`` when (on our own clock) no renewal of it was seen.

    ``last`` is the last Lease that existed; ``guard``: how long after ``since`` a vanished Lease may still be held.
    """

    lease: Lease | None
    since: float
    last: Lease | None = None
    guard: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Succession:
    """Whether a new owner's file has all that the cluster has seen, or ``why`` not.

    ``after_lease``: a Lease existed, which the last owner renewed at ``renewed_at`` (nanoseconds) for the last time.
    """

    continuous: bool
    why: str = ""
    after_lease: bool = False
    renewed_at: int | None = None


def observed(before: ObservedLease | None, lease: Lease | None, now: float) -> ObservedLease:
    """What is known after the Lease was observed as ``lease``."""
    known = before.lease if before is not None else None
    if lease is None:
        if before is None or known is None:
            return before or ObservedLease(lease=None, since=now)
        # Somebody deleted it; its holder does not know that yet, and may create it again.
        return ObservedLease(lease=None, since=now, last=known, guard=known.duration if known.holder else 0.0)
    if before is None or known is None:
        return ObservedLease(lease=lease, since=now, last=lease)
    since = before.since if _renewal(lease) == _renewal(known) else now
    return ObservedLease(lease=lease, since=since, last=lease)


def _renewal(lease: Lease) -> tuple[object, ...]:
    """What a renewal changes, and nobody else does: a request for a takeover is no sign of life."""
    return (lease.uid, lease.holder, lease.lock_id, lease.epoch, lease.renewed_at)


def seconds_to_wait(me: Candidate, watched: ObservedLease, now: float, timing: LeaseTiming) -> float:
    """How many seconds the Lease must not be taken yet; 0 if it may be taken now.

    A holder with our own lock has ended. A Lease that was given back is reserved for its requester for a while.
    """
    lease = watched.lease
    if lease is None:
        wait = watched.guard
    elif not lease.holder:
        wait = 0.0 if lease.takeover in ("", me.requester) else lease.duration or timing.duration
    elif lease.lock_id == me.lock_id:
        wait = 0.0
    else:
        wait = lease.duration or timing.duration
    return max(0.0, watched.since + wait - now)


def holding(me: Candidate, lease: Lease | None) -> Holding:
    """Whether an owner still owns the stacks, given this Lease."""
    if lease is None:
        return Holding.GONE
    # Somebody may have emptied the holder by hand: as long as the Lease names our file, nobody has taken it.
    if not me.has_written(lease) or lease.holder not in ("", me.holder):
        return Holding.LOST
    return Holding.OURS if lease.takeover in ("", me.requester) else Holding.ASKED_FOR


def succession(last: Lease | None, identity: FileIdentity) -> Succession:
    """Whether the file continues where the last owner stopped, by what that owner has left in the Lease.

    Without a Lease the file lacks nothing: it comes from a stackd that used no Lease, or its own Lease was lost.
    """
    why = _what_is_missing(last, identity)
    renewed_at = last.renewed_at if last is not None else None
    return Succession(continuous=not why, why=why, after_lease=last is not None, renewed_at=renewed_at)


def _what_is_missing(last: Lease | None, identity: FileIdentity) -> str:
    if identity.incomplete:
        return "the file is new or restored, or was not completed before"
    if last is None:
        return ""
    if last.file_id not in ("", identity.file_id):
        return f"{last.holder or 'another stackd'} owned the stacks with another file"
    if not last.file_id or last.epoch is None or last.sequence is None:
        return "the Lease does not say how far the file had come"
    if last.epoch > identity.epoch or (last.epoch == identity.epoch and last.lock_id != identity.lock_id):
        if last.epoch == identity.epoch:
            return f"{_OLDER}, which was taken with another copy of the file"
        return f"{_OLDER}: the file's start count is {identity.epoch}, the Lease's is {last.epoch}"
    if last.sequence > identity.sequence:
        return f"{_OLDER}: the file's change count is {identity.sequence}, the Lease's is {last.sequence}"
    return ""


def taken(lease: Lease | None, me: Candidate, *, sequence: int, duration: int, now: int) -> Lease:
    """The Lease as it is written when it is taken: with a new holder, or renewed by a new process of the same file.

    A new process keeps a takeover request that the process before it has not fulfilled, and steps back for it.
    """
    before = lease or _NO_LEASE
    changed = before.holder != me.holder
    restarted = bool(before.holder) and before.lock_id == me.lock_id
    return replace(
        before,
        holder=me.holder,
        duration=duration,
        acquired_at=now if changed or before.acquired_at is None else before.acquired_at,
        renewed_at=_later(before, now),
        transitions=before.transitions + (lease is not None and changed),
        file_id=me.file_id,
        lock_id=me.lock_id,
        epoch=me.epoch,
        sequence=sequence,
        takeover=before.takeover if restarted and before.takeover != me.requester else "",
    )


def renewed(lease: Lease, me: Candidate, *, sequence: int, now: int) -> Lease:
    """The Lease as its holder writes it at a renewal; what others have written on it stays."""
    return replace(lease, holder=me.holder, renewed_at=_later(lease, now), sequence=sequence)


def stopped(lease: Lease, me: Candidate, *, sequence: int, now: int) -> Lease:
    """The Lease as its holder writes it at an orderly stop, when nothing is under way any more."""
    return replace(renewed(lease, me, sequence=sequence, now=now), duration=min(lease.duration, RESTART_SECONDS))


def _later(lease: Lease, now: int) -> int:
    """The time of a renewal: later than the one before, even if the clock stands still or is set back."""
    return max(now, (lease.renewed_at or 0) + _MICROSECOND)
