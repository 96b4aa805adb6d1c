"""When a Lease may be taken, when it is lost, and whether a file has all that the cluster has seen: as tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest

from stackd.clock import SystemClock
from stackd.embedded import EmbeddedCluster, Rule, User
from stackd.errors import Conflict, NotOwner
from stackd.kube.client import Cluster
from stackd.kube.guards import Fence
from stackd.kube.lease import Lease, Leases, lease_manifest
from stackd.lifecycle.ownership import (
    INTERVAL,
    RETRY,
    USABLE,
    Candidate,
    Holding,
    ObservedLease,
    Ownership,
    Role,
    holding,
    observed,
    renewed,
    seconds_to_wait,
    taken,
    what_is_missing,
)
from stackd.model import PortRange
from stackd.store import FileIdentity, Store
from stackd.tasks import first_of
from tests.harness import DEADLINE, eventually, fast_cluster
from tests.store.building import accepted
from tests.target import target_at

COMPLETE = FileIdentity(file_id="f2", lock_id="l2", epoch=4, sequence=100, namespace="stacks", instance="default")
ME = Candidate(host="vm2", identity=COMPLETE)
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


def seen(lease: Lease | None, ago: float = 0.0, last: Lease | None = None) -> ObservedLease:
    return ObservedLease(lease=lease, since=100.0 - ago, last=lease or last)


@pytest.mark.parametrize(
    ("watched", "seconds"),
    [
        pytest.param(seen(None), 0, id="there is none"),
        pytest.param(seen(None, ago=5, last=THEIRS), 15, id="it was deleted while somebody held it"),
        pytest.param(seen(None, last=RETURNED), 0, id="it was deleted after it was given back"),
        pytest.param(seen(None, ago=20, last=THEIRS), 0, id="it was deleted, and its time would be over"),
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
    assert seconds_to_wait(ME, watched, 100.0, 30.0) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("lease", "found"),
    [
        pytest.param(MINE, Holding.OURS, id="ours"),
        pytest.param(replace(MINE, sequence=99, renewed_at=6_000_000, version="60"), Holding.OURS, id="renewed by us"),
        pytest.param(replace(MINE, sequence=101), Holding.LOST, id="another run of this machine, which was set back"),
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
    assert what_is_missing(last, identity) == why


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
    assert (gone.lease, gone.last, gone.since) == (None, THEIRS, 15.0)
    assert observed(gone, None, 20.0) == gone
    assert observed(gone, THEIRS, 30.0) == ObservedLease(lease=THEIRS, since=30.0, last=THEIRS)


def test_who_takes_it_over_is_a_new_holder_and_who_restarts_is_not() -> None:
    over = taken(THEIRS, ME, duration=29.5, now=7_000_000)
    assert (over.holder, over.transitions, over.acquired_at, over.renewed_at) == ("vm2/f2", 4, 7_000_000, 7_000_000)
    assert (over.file_id, over.lock_id, over.epoch, over.sequence, over.takeover) == ("f2", "l2", 4, 100, "")
    assert (over.version, over.uid, over.duration) == (THEIRS.version, THEIRS.uid, 30)
    again = taken(replace(MINE, epoch=3), ME, duration=30, now=7_000_000)
    assert (again.transitions, again.acquired_at, again.epoch) == (3, 1000, 4)
    assert taken(RETURNED, ME, duration=30, now=7_000_000).transitions == 4
    first = taken(None, ME, duration=30, now=7_000_000)
    assert (first.transitions, first.acquired_at, first.version) == (0, 7_000_000, "")


@pytest.mark.parametrize(
    ("before", "found"),
    [
        (replace(MINE, epoch=3, takeover="vm9/l9"), Holding.ASKED_FOR), (replace(RETURNED, takeover="vm9/l9"), Holding.OURS),
        (replace(MINE, epoch=3, takeover=ME.requester), Holding.OURS),
    ],
)  # fmt: skip
def test_who_restarts_still_steps_back_for_whoever_has_asked_for_it(before: Lease, found: Holding) -> None:
    assert holding(ME, taken(before, ME, duration=30, now=7_000_000)) is found


def test_each_renewal_has_a_time_of_its_own_whatever_the_clock_says() -> None:
    lease = replace(MINE, renewed_at=5_000_000, takeover="vm3/l3")
    for now in (5_000_000, 0, 4_999_999):
        later = renewed(lease, ME, now=now)
        assert (later.renewed_at, later.sequence, later.takeover) == (5_001_000, 100, "vm3/l3")
    assert renewed(lease, ME, now=9_000_000).renewed_at == 9_000_000
    assert taken(THEIRS, ME, duration=30, now=0).renewed_at == 5_001_000
    assert INTERVAL + 2 * RETRY < USABLE < 1, "it stops before others may begin"


# ---- several stackds, each with its own file, one cluster, one owner at a time; over HTTP, with real files


DURATION, SLOW = 2.0, 60.0
"""A slow Lease is renewed only every twenty seconds: the test shows that nothing waits for a renewal."""

SOON = 15.0
LEASES = "/apis/coordination.k8s.io/v1/namespaces/stacks/leases/stackd-default"


@dataclass(slots=True)
class Vm:
    """A stackd with only what ownership needs: a file, a connection, and its ``Ownership``."""

    store: Store
    cluster: Cluster
    ownership: Ownership
    task: asyncio.Task[Role]
    dead: bool = False

    @property
    def fence(self) -> Fence:
        return self.cluster.connection.fence

    async def owns(self, within: float = DEADLINE) -> None:
        """Return when it is the owner; fail if that takes too long or its task fails."""
        await first_of(self.ownership.owned, failure=self.task, timeout=within)
        if self.task.done():
            self.task.result()
        assert self.ownership.owned.is_set(), self.ownership.error

    async def dies(self) -> None:
        """End the process without a word."""
        if not self.dead:
            self.dead = self.task.cancel() or True
            await asyncio.gather(self.task, return_exceptions=True)
            await self.cluster.close()
            await self.store.close()


class Site:
    """A cluster, and machines that start and die."""

    def __init__(self, cluster: EmbeddedCluster, folder: Path, stack: AsyncExitStack) -> None:
        self.cluster = cluster
        self._folder = folder
        self._stack = stack

    async def start(self, host: str, *, token: str = "", duration: float = DURATION) -> Vm:
        """Start a stackd on that host."""
        clock, fence = SystemClock(), Fence()
        path = self._folder / host / "stackd.db"
        store = await Store.open(path, clock=clock, node_ports=PortRange(31001, 31100))
        await store.begin("stacks", "default")
        target = target_at(self.cluster.url, token=token, timeout=2.0, attempt_timeout=0.2)
        cluster = await Cluster.connect(target, fence=fence)
        ownership = Ownership(Leases(cluster), fence, store, host=host, duration=duration, clock=clock)
        vm = Vm(store, cluster, ownership, asyncio.create_task(ownership.run(), name=host))
        self._stack.push_async_callback(vm.dies)
        return vm

    async def owner(self, host: str, *, duration: float = DURATION) -> Vm:
        """A stackd that owns the stacks, with a complete file."""
        vm = await self.start(host, duration=duration)
        await vm.owns()
        await vm.store.end_adoption()
        return vm

    @asynccontextmanager
    async def leases(self) -> AsyncIterator[Leases]:
        """The Lease, as somebody else sees it."""
        cluster = await Cluster.connect(target_at(self.cluster.url))
        await cluster.ensure_namespace()
        try:
            yield Leases(cluster)
        finally:
            await cluster.close()

    async def lease(self) -> Lease:
        """The current Lease."""
        async with self.leases() as leases:
            lease = await leases.find()
        assert lease is not None
        return lease


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with EmbeddedCluster(fast_cluster()) as cluster, AsyncExitStack() as stack:
        running = Site(cluster, tmp_path, stack)
        async with running.leases():
            yield running
        cluster.faults.clear()
        await cluster.faults.listen()


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_an_event_that_is_older_than_the_answer_to_its_own_request_ends_no_ownership(site: Site) -> None:
    one = await site.owner("vm1", duration=SLOW)
    seen = await site.lease()
    older = lease_manifest(replace(seen, holder="vm9/f9", lock_id="l9"), namespace="stacks", instance="default")
    older["metadata"]["resourceVersion"] = str(int(seen.version) - 1)
    await eventually(lambda: any(watch.collection.resource.kind == "Lease" for watch in site.cluster.server.watches))
    site.cluster.faults.replay("leases.coordination.k8s.io", "MODIFIED", older)
    async with site.leases() as leases:
        await leases.update(replace(seen, takeover="vm3/l3"))
    await asyncio.wait_for(one.ownership.asked_for.wait(), DEADLINE)
    assert one.fence.open


async def test_an_owner_that_was_cut_off_goes_on_where_nobody_took_over(site: Site) -> None:
    one = await site.owner("vm1")
    await site.cluster.faults.refuse()
    await eventually(lambda: not one.fence.open)
    assert (one.ownership.role, bool(one.ownership.error)) == (Role.OWNER, True)
    with pytest.raises(NotOwner):
        one.fence.require()
    await site.cluster.faults.listen()
    await eventually(lambda: one.fence.open)
    assert not one.ownership.error
    assert (await site.lease()).transitions == 0


@pytest.mark.parametrize("verb", ["create", "update"])
@pytest.mark.parametrize("action", ["lost_reply", "hang"])
async def test_whatever_happens_to_the_answer_there_is_one_owner(site: Site, verb: str, action: str) -> None:
    if verb == "update":
        await (await site.owner("vm1")).dies()
    site.cluster.faults.add_fault(action=action, verb=verb, resource="leases", count=1)
    one = await site.start("vm1")
    await one.owns()
    before = (await site.lease()).renewed_at
    site.cluster.faults.add_fault(action=action, verb="update", resource="leases", count=1)
    end = now() + 1.2 * DURATION
    while now() < end:
        # A hanging request takes half of this short Lease's time before it is tried again.
        assert one.fence.open or action == "hang", "one answer that is lost is not missed"
        await asyncio.sleep(0.02)
    await eventually(lambda: one.fence.open)
    lease = await site.lease()
    assert (one.ownership.role, lease.transitions) == (Role.OWNER, 0)
    assert lease.renewed_at != before


async def test_whoever_asks_gets_the_lease_as_soon_as_the_owner_gives_it_back(site: Site) -> None:
    one = await site.owner("vm1", duration=SLOW)
    three = await site.start("vm3", duration=SLOW)
    two = await site.start("vm2", duration=SLOW)
    await eventually(lambda: two.ownership.owner == three.ownership.owner == "vm1")
    with pytest.raises(Conflict, match="it is owner"):
        await one.ownership.ask_for()
    assert await two.ownership.ask_for() == "vm1"
    await asyncio.wait_for(one.ownership.asked_for.wait(), SOON)
    assert one.fence.open, "it goes on until it has finished what is under way"
    await accepted(one.store, 1)
    await one.ownership.release()
    assert await one.task is Role.RELEASED
    assert one.ownership.lease is None or one.ownership.lease.sequence == 2, "how far the file has come"
    with pytest.raises(NotOwner, match="handed over"):
        one.fence.require()
    with pytest.raises(Conflict, match="it is released"):
        await one.ownership.ask_for()
    await two.owns(within=SOON)
    assert three.ownership.role is Role.STANDBY
    await asyncio.wait_for(three.ownership.release(), DEADLINE)
    assert await three.task is Role.STANDBY
    assert two.fence.valid_until > one.fence.valid_until
    assert (await site.lease()).takeover == ""


async def test_a_renewal_counts_from_when_it_was_sent_and_not_from_its_answer(site: Site) -> None:
    one = await site.owner("vm1")
    site.cluster.faults.add_fault(action="latency", verb="update", resource="leases", seconds=0.15)
    before = one.fence.valid_until
    await eventually(lambda: one.fence.valid_until > before)
    assert one.fence.left < USABLE * DURATION - 0.14


async def test_a_lease_that_is_deleted_is_made_again_by_its_owner_and_not_taken_by_a_standby(site: Site) -> None:
    one = await site.owner("vm1", duration=SLOW)
    two = await site.start("vm2")
    await eventually(lambda: two.ownership.owner == "vm1")
    before = (await site.lease()).uid
    async with aiohttp.ClientSession() as session, session.delete(site.cluster.url + LEASES) as answer:
        assert answer.status == 200
    # At once, not only when its next renewal is due.
    await eventually(lambda: one.ownership.lease is not None and one.ownership.lease.uid != before, deadline=SOON)
    assert (one.ownership.role, two.ownership.role, one.fence.open) == (Role.OWNER, Role.STANDBY, True)
    await eventually(lambda: two.ownership.owner == "vm1")


async def test_without_the_right_to_it_a_stackd_stands_by_and_says_why(tmp_path: Path) -> None:
    pods = Rule(verbs=frozenset({"*"}), resources=frozenset({"pods"}))
    users = (User(token="weak", name="stackd", rules=(pods,)),)
    async with EmbeddedCluster(fast_cluster(users=users)) as cluster, AsyncExitStack() as stack:
        one = await Site(cluster, tmp_path, stack).start("vm1", token="weak")
        await eventually(lambda: "no right to get leases" in one.ownership.error)
        with pytest.raises(NotOwner, match="who owns the stacks is not known"):
            one.fence.require()
        assert one.ownership.role is Role.STANDBY
