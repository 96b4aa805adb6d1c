"""When a Lease may be taken, when it is lost, and whether a file has all that the cluster has seen: as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackd.kube.lease import Lease
from stackd.lifecycle.lease_rules import (
    Candidate,
    Holding,
    LeaseTiming,
    ObservedLease,
    holding,
    observed,
    renewed,
    seconds_to_wait,
    succession,
    taken,
)
from stackd.store import FileIdentity

TIMING = LeaseTiming(duration=30.0)
ME = Candidate(host="vm2", file_id="f2", lock_id="l2", epoch=4)
THEIRS = Lease(
    holder="vm1/f1",
    duration=20,
    acquired_at=1000,
    renewed_at=5_000_000,
    transitions=3,
    file_id="f1",
    lock_id="l1",
    epoch=7,
    sequence=100,
    version="50",
    uid="u",
)
MINE = replace(THEIRS, holder="vm2/f2", file_id="f2", lock_id="l2", epoch=4)
RETURNED = replace(THEIRS, holder="")


def seen(lease: Lease | None, ago: float = 0.0, guard: float = 0.0) -> ObservedLease:
    return ObservedLease(lease=lease, since=100.0 - ago, last=lease or THEIRS, guard=guard)


@pytest.mark.parametrize(
    ("watched", "seconds"),
    [
        (seen(None), 0),
        (seen(None, ago=5, guard=20), 15),
        (seen(None, ago=20, guard=20), 0),
        (seen(THEIRS), 20),
        (seen(THEIRS, ago=19.5), 0.5),
        (seen(THEIRS, ago=20), 0),
        (seen(replace(THEIRS, duration=0), ago=19.5), 10.5),
        (seen(replace(THEIRS, duration=3600), ago=30), 3570),
        (seen(replace(THEIRS, lock_id="", file_id="")), 20),
        (seen(replace(THEIRS, file_id="f2")), 20),
        (seen(replace(THEIRS, lock_id="l2")), 0),
        (seen(RETURNED), 0),
        (seen(replace(RETURNED, takeover="vm2/l2")), 0),
        (seen(replace(RETURNED, takeover="vm3/l3")), 20),
        (seen(replace(RETURNED, takeover="vm3/l3", lock_id="l2"), ago=5), 15),
        (seen(replace(THEIRS, takeover="vm2/l2")), 20),
    ],
    ids=[
        "there is none",
        "it was deleted while somebody held it",
        "it was deleted, and its time would be over",
        "it was renewed just now",
        "its time is nearly over",
        "its time is over",
        "it does not say for how long it is good",
        "it is good for longer than ours",
        "nobody knows whose it is",
        "a copy of our file has it",
        "a former process with our lock has it",
        "it was given back",
        "it was given back for us",
        "it was given back for somebody else",
        "it was given back for somebody else by our own former process",
        "we have asked for it, and it was not given back yet",
    ],
)
def test_when_it_may_be_taken(watched: ObservedLease, seconds: float) -> None:
    assert seconds_to_wait(ME, watched, 100.0, TIMING) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("lease", "found"),
    [
        (MINE, Holding.OURS),
        (replace(MINE, sequence=200, renewed_at=6_000_000, version="60"), Holding.OURS),
        (replace(MINE, takeover="vm3/l3"), Holding.ASKED_FOR),
        (replace(MINE, takeover="vm2/l2"), Holding.OURS),
        (replace(MINE, holder=""), Holding.OURS),
        (None, Holding.GONE),
        (THEIRS, Holding.LOST),
        (RETURNED, Holding.LOST),
        (replace(MINE, epoch=5), Holding.LOST),
        (replace(MINE, lock_id="l9"), Holding.LOST),
        (replace(MINE, file_id="f9"), Holding.LOST),
        (replace(MINE, holder="vm9/f9"), Holding.LOST),
    ],
    ids=[
        "ours",
        "renewed by us",
        "another one asks for it",
        "our own wish of before",
        "somebody has emptied it by hand",
        "deleted",
        "another one's",
        "another one had it and gave it back",
        "a later process of our file",
        "a copy of our file",
        "another file",
        "somebody has written another holder by hand",
    ],
)
def test_when_it_is_lost(lease: Lease | None, found: Holding) -> None:
    assert holding(ME, lease) is found


COMPLETE = FileIdentity(file_id="f2", lock_id="l2", epoch=4, sequence=100, namespace="stacks", instance="default")
LAST = replace(MINE, epoch=3, sequence=100)


@pytest.mark.parametrize(
    ("last", "identity", "why"),
    [
        (None, COMPLETE, ""),
        (None, replace(COMPLETE, incomplete=True), "the file is new or restored, or was not completed before"),
        (LAST, COMPLETE, ""),
        (replace(LAST, sequence=99), COMPLETE, ""),
        (replace(LAST, holder=""), COMPLETE, ""),
        (replace(LAST, epoch=4), COMPLETE, ""),
        (LAST, replace(COMPLETE, incomplete=True), "the file is new or restored, or was not completed before"),
        (THEIRS, COMPLETE, "vm1/f1 owned the stacks with another file"),
        (RETURNED, COMPLETE, "another stackd owned the stacks with another file"),
        (replace(LAST, file_id=""), COMPLETE, "the Lease does not say how far the file had come"),
        (replace(LAST, sequence=None), COMPLETE, "the Lease does not say how far the file had come"),
        (replace(LAST, epoch=None), COMPLETE, "the Lease does not say how far the file had come"),
        (
            replace(LAST, sequence=101),
            COMPLETE,
            "the state file is older than the Lease: the file's change count is 100, the Lease's is 101",
        ),
        (
            replace(LAST, epoch=5),
            COMPLETE,
            "the state file is older than the Lease: the file's start count is 4, the Lease's is 5",
        ),
        (
            replace(LAST, epoch=4, lock_id="l9"),
            COMPLETE,
            "the state file is older than the Lease, which was taken with another copy of the file",
        ),
    ],
    ids=[
        "a file of before there were Leases",
        "a new file on a new cluster",
        "a restart",
        "a restart after changes that the Lease has not heard of",
        "the Lease was given back",
        "an earlier try of this process to take it",
        "a copy made by backup, or an adoption that was cut short",
        "another machine owned the stacks",
        "another machine owned the stacks and gave them back",
        "somebody has taken the annotations off",
        "somebody has taken the sequence off",
        "somebody has taken the epoch off",
        "a snapshot of an hour ago",
        "a snapshot of before the last start",
        "a copy that was started as often as the file itself",
    ],
)
def test_whether_the_file_has_all_that_the_cluster_has_seen(
    last: Lease | None, identity: FileIdentity, why: str
) -> None:
    found = succession(last, identity)
    assert (found.continuous, found.why) == (not why, why)


def test_only_a_renewal_is_a_sign_of_life() -> None:
    first = observed(None, THEIRS, 10.0)
    assert (first.lease, first.since) == (THEIRS, 10.0)
    asked = observed(first, replace(THEIRS, takeover="vm2/l2", version="51"), 15.0)
    assert asked.since == 10.0
    assert asked.lease is not None
    assert asked.lease.version == "51", "what is changed is the Lease as it is now"
    again = observed(asked, replace(THEIRS, renewed_at=6_000_000, version="52"), 20.0)
    assert again.since == 20.0
    other = observed(again, replace(THEIRS, renewed_at=6_000_000, holder="vm3/f3", version="53"), 21.0)
    assert other.since == 21.0


def test_a_lease_that_vanishes_may_still_be_held_for_a_while() -> None:
    assert observed(None, None, 5.0) == ObservedLease(lease=None, since=5.0)
    gone = observed(observed(None, THEIRS, 10.0), None, 15.0)
    assert (gone.lease, gone.last, gone.since, gone.guard) == (None, THEIRS, 15.0, 20)
    assert observed(gone, None, 20.0) == gone
    assert seconds_to_wait(ME, gone, 20.0, TIMING) == 15
    assert observed(observed(None, RETURNED, 10.0), None, 15.0).guard == 0
    assert observed(gone, THEIRS, 30.0).guard == 0


def test_who_takes_it_over_is_a_new_holder_and_who_restarts_is_not() -> None:
    over = taken(THEIRS, ME, sequence=9, duration=30, now=7_000_000)
    assert (over.holder, over.transitions, over.acquired_at, over.renewed_at) == ("vm2/f2", 4, 7_000_000, 7_000_000)
    assert (over.file_id, over.lock_id, over.epoch, over.sequence, over.takeover) == ("f2", "l2", 4, 9, "")
    assert (over.version, over.uid) == (THEIRS.version, THEIRS.uid)
    again = taken(replace(MINE, epoch=3, takeover="vm9/l9"), ME, sequence=9, duration=30, now=7_000_000)
    assert (again.transitions, again.acquired_at, again.epoch) == (3, 1000, 4)
    assert taken(RETURNED, ME, sequence=9, duration=30, now=7_000_000).transitions == 4
    first = taken(None, ME, sequence=0, duration=30, now=7_000_000)
    assert (first.transitions, first.acquired_at, first.version) == (0, 7_000_000, "")


def test_who_restarts_still_steps_back_for_whoever_has_asked_for_it() -> None:
    """Before, a restart of the owner forgot a takeover request that was answered with 202."""
    again = taken(replace(MINE, epoch=3, takeover="vm9/l9"), ME, sequence=9, duration=30, now=7_000_000)
    assert holding(ME, again) is Holding.ASKED_FOR
    given_back = taken(replace(RETURNED, takeover="vm9/l9"), ME, sequence=9, duration=30, now=7_000_000)
    own = taken(replace(MINE, epoch=3, takeover=ME.requester), ME, sequence=9, duration=30, now=7_000_000)
    assert holding(ME, given_back) is holding(ME, own) is Holding.OURS


def test_each_renewal_has_a_time_of_its_own_whatever_the_clock_says() -> None:
    lease = replace(MINE, renewed_at=5_000_000, takeover="vm3/l3")
    for now in (5_000_000, 0, 4_999_999):
        later = renewed(lease, ME, sequence=101, now=now)
        assert later.renewed_at == 5_001_000
        assert (later.sequence, later.takeover) == (101, "vm3/l3")
    assert renewed(lease, ME, sequence=101, now=9_000_000).renewed_at == 9_000_000
    assert taken(THEIRS, ME, sequence=9, duration=30, now=0).renewed_at == 5_001_000


def test_an_owner_stops_before_others_may_begin() -> None:
    assert TIMING.usable < TIMING.duration <= TIMING.written
    assert LeaseTiming(duration=0.5).written == 1
    assert TIMING.interval + 2 * TIMING.retry < TIMING.usable
