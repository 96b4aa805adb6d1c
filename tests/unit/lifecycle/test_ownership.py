"""When a Lease may be taken, when it is lost, and whether a file has all that the cluster has seen: as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackd.kube.lease import Lease
from stackd.lifecycle import ownership
from stackd.lifecycle.ownership import Candidate, ObservedLease
from stackd.store import FileIdentity

COMPLETE = FileIdentity(file_id="f2", lock_id="l2", epoch=4, sequence=100, namespace="stacks", instance="default")
ME = Candidate(host="vm2", identity=COMPLETE)
THEIRS = Lease(
    holder="vm1/f1", duration=20, acquired_at=1000, renewed_at=5_000_000, transitions=3, file_id="f1", lock_id="l1",
    epoch=7, sequence=100, version="50", uid="u",
)  # fmt: skip
MINE = replace(THEIRS, holder="vm2/f2", file_id="f2", lock_id="l2", epoch=4)
RETURNED = replace(THEIRS, holder="")


def seen(lease: Lease | None, ago: float = 0.0, last: Lease | None = None) -> ObservedLease:
    return ObservedLease(lease=lease, since=100.0 - ago, last=lease or last)


WAITS: dict[str, tuple[ObservedLease, float]] = {
    "there is none": (seen(None), 0),
    "it was deleted while somebody held it": (seen(None, ago=5, last=THEIRS), 15),
    "it was deleted after it was given back": (seen(None, last=RETURNED), 0),
    "it was deleted, and its time would be over": (seen(None, ago=20, last=THEIRS), 0),
    "it was renewed just now": (seen(THEIRS), 20),
    "its time is nearly over": (seen(THEIRS, ago=19.5), 0.5),
    "it does not say for how long it is good": (seen(replace(THEIRS, duration=0), ago=19.5), 10.5),
    "nobody knows whose it is": (seen(replace(THEIRS, lock_id="", file_id="")), 20),
    "a copy of our file has it": (seen(replace(THEIRS, file_id="f2")), 20),
    "a former process with our lock has it": (seen(replace(THEIRS, lock_id="l2")), 0),
    "it was given back": (seen(RETURNED), 0),
    "it was given back for us": (seen(replace(RETURNED, takeover="vm2/l2")), 0),
    "it was given back for somebody else": (seen(replace(RETURNED, takeover="vm3/l3")), 20),
    "our own former process gave it back for them": (seen(replace(RETURNED, takeover="vm3/l3", lock_id="l2")), 20),
    "we have asked for it, and it was not given back yet": (seen(replace(THEIRS, takeover="vm2/l2")), 20),
}


@pytest.mark.parametrize("situation", WAITS)
def test_when_it_may_be_taken(situation: str) -> None:
    watched, seconds = WAITS[situation]
    assert ownership.seconds_to_wait(ME, watched, 100.0, 30.0) == pytest.approx(seconds)


HOLDINGS: dict[str, tuple[Lease, bool]] = {
    "ours": (MINE, True),
    "renewed by us": (replace(MINE, sequence=99, renewed_at=6_000_000, version="60"), True),
    "another run of this machine, which was set back": (replace(MINE, sequence=101), False),
    "another one asks for it": (replace(MINE, takeover="vm3/l3"), True),
    "somebody has emptied it by hand": (replace(MINE, holder=""), True),
    "another one's": (THEIRS, False),
    "a later process of our file": (replace(MINE, epoch=5), False),
    "a copy of our file": (replace(MINE, lock_id="l9"), False),
    "somebody has written another holder by hand": (replace(MINE, holder="vm9/f9"), False),
}


@pytest.mark.parametrize("situation", HOLDINGS)
def test_whose_it_is(situation: str) -> None:
    lease, ours = HOLDINGS[situation]
    assert ownership.is_ours(ME, lease) is ours


LAST = replace(MINE, epoch=3, sequence=100)
INCOMPLETE = replace(COMPLETE, incomplete=True)
NEW = "the file is new or restored, or was not completed before"
UNSAID = "the Lease does not say how far the file had come"
OLDER = "the state file is older than the Lease"
CHANGES = f"{OLDER}: the file's change count is 100, the Lease's is 101"
STARTS = f"{OLDER}: the file's start count is 4, the Lease's is 5"
COPY = f"{OLDER}, which was taken with another copy of the file"
OTHERS = "owned the stacks with another file"
MISSING: dict[str, tuple[Lease | None, FileIdentity, str]] = {
    "a file of before there were Leases": (None, COMPLETE, ""),
    "a new file on a new cluster": (None, INCOMPLETE, NEW),
    "a restart": (LAST, COMPLETE, ""),
    "a restart after changes that the Lease has not heard of": (replace(LAST, sequence=99), COMPLETE, ""),
    "the Lease was given back": (replace(LAST, holder=""), COMPLETE, ""),
    "an earlier try of this process to take it": (replace(LAST, epoch=4), COMPLETE, ""),
    "a copy made by backup, or an adoption that was cut short": (LAST, INCOMPLETE, NEW),
    "another machine owned the stacks": (THEIRS, COMPLETE, f"vm1/f1 {OTHERS}"),
    "another machine owned the stacks and gave them back": (RETURNED, COMPLETE, f"another stackd {OTHERS}"),
    "somebody has taken the annotations off": (replace(LAST, file_id=""), COMPLETE, UNSAID),
    "somebody has taken the sequence off": (replace(LAST, sequence=None), COMPLETE, UNSAID),
    "somebody has taken the epoch off": (replace(LAST, epoch=None), COMPLETE, UNSAID),
    "a snapshot of an hour ago": (replace(LAST, sequence=101), COMPLETE, CHANGES),
    "a snapshot of before the last start": (replace(LAST, epoch=5), COMPLETE, STARTS),
    "a copy that was started as often as the file itself": (replace(LAST, epoch=4, lock_id="l9"), COMPLETE, COPY),
}


@pytest.mark.parametrize("situation", MISSING)
def test_whether_the_file_has_all_that_the_cluster_has_seen(situation: str) -> None:
    last, identity, why = MISSING[situation]
    assert ownership.what_is_missing(last, identity) == why


def test_only_a_renewal_is_a_sign_of_life() -> None:
    first = ownership.observed(None, THEIRS, 10.0)
    assert first == ObservedLease(lease=THEIRS, since=10.0, last=THEIRS)
    request = replace(THEIRS, takeover="vm2/l2", version="51")
    asked = ownership.observed(first, request, 15.0)
    assert asked == ObservedLease(lease=request, since=10.0, last=request)
    assert ownership.observed(asked, replace(THEIRS, renewed_at=6_000_000, version="52"), 20.0).since == 20.0
    assert ownership.observed(asked, replace(THEIRS, holder="vm3/f3", version="53"), 21.0).since == 21.0
    gone = ownership.observed(first, None, 15.0)
    assert gone == ownership.observed(gone, None, 20.0) == ObservedLease(lease=None, since=15.0, last=THEIRS)
    assert ownership.observed(gone, THEIRS, 30.0) == ObservedLease(lease=THEIRS, since=30.0, last=THEIRS)
    assert ownership.observed(None, None, 5.0) == ObservedLease(lease=None, since=5.0)


def test_who_takes_it_over_is_a_new_holder_and_who_restarts_is_not() -> None:
    over = ownership.acquired(THEIRS, ME, duration=29.5, now=7_000_000)
    assert (over.holder, over.transitions, over.acquired_at, over.renewed_at) == ("vm2/f2", 4, 7_000_000, 7_000_000)
    assert (over.file_id, over.lock_id, over.epoch, over.sequence, over.takeover) == ("f2", "l2", 4, 100, "")
    assert (over.version, over.uid, over.duration) == (THEIRS.version, THEIRS.uid, 30)
    again = ownership.acquired(replace(MINE, epoch=3), ME, duration=30, now=7_000_000)
    assert (again.transitions, again.acquired_at, again.epoch) == (3, 1000, 4)
    assert ownership.acquired(RETURNED, ME, duration=30, now=7_000_000).transitions == 4
    first = ownership.acquired(None, ME, duration=30, now=7_000_000)
    assert (first.transitions, first.acquired_at, first.version) == (0, 7_000_000, "")


def test_who_restarts_still_steps_back_for_whoever_has_asked_for_it() -> None:
    ours, returned = replace(MINE, epoch=3, takeover="vm9/l9"), replace(RETURNED, takeover="vm9/l9")
    for before, asked in ((ours, True), (returned, False), (replace(ours, takeover=ME.requester), False)):
        lease = ownership.acquired(before, ME, duration=30, now=7_000_000)
        assert (ownership.is_ours(ME, lease), ownership.is_asked_for(ME, lease)) == (True, asked)


def test_each_renewal_has_a_time_of_its_own_whatever_the_clock_says() -> None:
    lease = replace(MINE, renewed_at=5_000_000, takeover="vm3/l3")
    for now in (5_000_000, 0, 4_999_999):
        later = ownership.renewed(lease, ME, now=now)
        assert (later.renewed_at, later.sequence, later.takeover) == (5_001_000, 100, "vm3/l3")
    assert ownership.renewed(lease, ME, now=9_000_000).renewed_at == 9_000_000
    assert ownership.acquired(THEIRS, ME, duration=30, now=0).renewed_at == 5_001_000
    assert ownership.INTERVAL + 2 * ownership.RETRY < ownership.USABLE < 1, "it stops before others may begin"
