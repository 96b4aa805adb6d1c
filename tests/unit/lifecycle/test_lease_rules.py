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
        pytest.param(seen(None), 0, id="there is none"),
        pytest.param(seen(None, ago=5, guard=20), 15, id="it was deleted while somebody held it"),
        pytest.param(seen(None, ago=20, guard=20), 0, id="it was deleted, and its time would be over"),
        pytest.param(seen(THEIRS), 20, id="it was renewed just now"),
        pytest.param(seen(THEIRS, ago=19.5), 0.5, id="its time is nearly over"),
        pytest.param(seen(THEIRS, ago=20), 0, id="its time is over"),
        pytest.param(seen(replace(THEIRS, duration=0), ago=19.5), 10.5, id="it does not say for how long it is good"),
        pytest.param(seen(replace(THEIRS, duration=3600), ago=30), 3570, id="it is good for longer than ours"),
        pytest.param(seen(replace(THEIRS, lock_id="", file_id="")), 20, id="nobody knows whose it is"),
        pytest.param(seen(replace(THEIRS, file_id="f2")), 20, id="a copy of our file has it"),
        pytest.param(seen(replace(THEIRS, lock_id="l2")), 0, id="a former process with our lock has it"),
        pytest.param(seen(RETURNED), 0, id="it was given back"),
        pytest.param(seen(replace(RETURNED, takeover="vm2/l2")), 0, id="it was given back for us"),
        pytest.param(seen(replace(RETURNED, takeover="vm3/l3")), 20, id="it was given back for somebody else"),
        pytest.param(
            seen(replace(RETURNED, takeover="vm3/l3", lock_id="l2"), ago=5),
            15,
            id="it was given back for somebody else by our own former process",
        ),
        pytest.param(
            seen(replace(THEIRS, takeover="vm2/l2")), 20, id="we have asked for it, and it was not given back yet"
        ),
    ],
)
def test_when_it_may_be_taken(watched: ObservedLease, seconds: float) -> None:
    assert seconds_to_wait(ME, watched, 100.0, TIMING) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("lease", "found"),
    [
        pytest.param(MINE, Holding.OURS, id="ours"),
        pytest.param(replace(MINE, sequence=200, renewed_at=6_000_000, version="60"), Holding.OURS, id="renewed by us"),
        pytest.param(replace(MINE, takeover="vm3/l3"), Holding.ASKED_FOR, id="another one asks for it"),
        pytest.param(replace(MINE, takeover="vm2/l2"), Holding.OURS, id="our own wish of before"),
        pytest.param(replace(MINE, holder=""), Holding.OURS, id="somebody has emptied it by hand"),
        pytest.param(None, Holding.GONE, id="deleted"),
        pytest.param(THEIRS, Holding.LOST, id="another one's"),
        pytest.param(RETURNED, Holding.LOST, id="another one had it and gave it back"),
        pytest.param(replace(MINE, epoch=5), Holding.LOST, id="a later process of our file"),
        pytest.param(replace(MINE, lock_id="l9"), Holding.LOST, id="a copy of our file"),
        pytest.param(replace(MINE, file_id="f9"), Holding.LOST, id="another file"),
        pytest.param(replace(MINE, holder="vm9/f9"), Holding.LOST, id="somebody has written another holder by hand"),
    ],
)
def test_when_it_is_lost(lease: Lease | None, found: Holding) -> None:
    assert holding(ME, lease) is found


COMPLETE = FileIdentity(file_id="f2", lock_id="l2", epoch=4, sequence=100, namespace="stacks", instance="default")
LAST = replace(MINE, epoch=3, sequence=100)
NEW = "the file is new or restored, or was not completed before"
UNSAID = "the Lease does not say how far the file had come"
OLDER = "the state file is older than the Lease"
CHANGES = f"{OLDER}: the file's change count is 100, the Lease's is 101"
STARTS = f"{OLDER}: the file's start count is 4, the Lease's is 5"
COPY = f"{OLDER}, which was taken with another copy of the file"


@pytest.mark.parametrize(
    ("last", "identity", "why"),
    [
        pytest.param(None, COMPLETE, "", id="a file of before there were Leases"),
        pytest.param(None, replace(COMPLETE, incomplete=True), NEW, id="a new file on a new cluster"),
        pytest.param(LAST, COMPLETE, "", id="a restart"),
        pytest.param(
            replace(LAST, sequence=99), COMPLETE, "", id="a restart after changes that the Lease has not heard of"
        ),
        pytest.param(replace(LAST, holder=""), COMPLETE, "", id="the Lease was given back"),
        pytest.param(replace(LAST, epoch=4), COMPLETE, "", id="an earlier try of this process to take it"),
        pytest.param(
            LAST, replace(COMPLETE, incomplete=True), NEW, id="a copy made by backup, or an adoption that was cut short"
        ),
        pytest.param(
            THEIRS, COMPLETE, "vm1/f1 owned the stacks with another file", id="another machine owned the stacks"
        ),
        pytest.param(
            RETURNED,
            COMPLETE,
            "another stackd owned the stacks with another file",
            id="another machine owned the stacks and gave them back",
        ),
        pytest.param(replace(LAST, file_id=""), COMPLETE, UNSAID, id="somebody has taken the annotations off"),
        pytest.param(replace(LAST, sequence=None), COMPLETE, UNSAID, id="somebody has taken the sequence off"),
        pytest.param(replace(LAST, epoch=None), COMPLETE, UNSAID, id="somebody has taken the epoch off"),
        pytest.param(replace(LAST, sequence=101), COMPLETE, CHANGES, id="a snapshot of an hour ago"),
        pytest.param(replace(LAST, epoch=5), COMPLETE, STARTS, id="a snapshot of before the last start"),
        pytest.param(
            replace(LAST, epoch=4, lock_id="l9"),
            COMPLETE,
            COPY,
            id="a copy that was started as often as the file itself",
        ),
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
