"""When a Lease may be taken, when it is lost, and whether a file has all that the cluster has seen: as tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import pytest

from stackd.clock import SystemClock
from stackd.embedded import EmbeddedCluster, Rule, User, everything
from stackd.errors import ClusterError, Conflict, NotOwner
from stackd.kube.client import Cluster
from stackd.kube.guards import Fence
from stackd.kube.lease import Lease, Leases, lease_manifest
from stackd.lifecycle.ownership import (
    Candidate,
    Holding,
    LeaseTiming,
    ObservedLease,
    Ownership,
    Role,
    holding,
    observed,
    renewed,
    seconds_to_wait,
    succession,
    taken,
)
from stackd.model import PortRange
from stackd.store import FileIdentity, Store
from tests.harness import DEADLINE, eventually, fast_cluster
from tests.store.building import accepted
from tests.target import target_at

TIMING = LeaseTiming(duration=30.0)
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
    found = succession(last, identity)
    assert found.why == why


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
    assert TIMING.interval + 2 * TIMING.retry < TIMING.usable < TIMING.duration, "it stops before others may begin"


# ---- several stackds, each with its own file, one cluster, one owner at a time; over HTTP, with real files


OWNERSHIP_TIMING = LeaseTiming(duration=2.0)
SLOW = LeaseTiming(duration=60.0)
"""A Lease that is renewed only every twenty seconds: the test shows that nothing waits for a renewal."""

SOON = 15.0
LEASES = "/apis/coordination.k8s.io/v1/namespaces/stacks/leases/stackd-default"


@dataclass(slots=True)
class Machine:
    """A stackd with only what ownership needs: a file, a connection, and its ``Ownership``."""

    host: str
    store: Store
    cluster: Cluster
    ownership: Ownership
    task: asyncio.Task[Role]
    _closed: bool = field(default=False)

    @property
    def fence(self) -> Fence:
        return self.cluster.connection.fence

    async def owns(self, within: float = DEADLINE) -> None:
        """Return when it is the owner; fail if that takes too long or its task fails."""
        owned = asyncio.ensure_future(self.ownership.owned.wait())
        done, _ = await asyncio.wait({owned, self.task}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        owned.cancel()
        if self.task in done:
            self.task.result()
        assert self.ownership.owned.is_set(), self.ownership.error

    async def dies(self) -> None:
        """End the process without a word."""
        if not self._closed:
            self._closed = True
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            await self.cluster.close()
            await self.store.close()


class Site:
    """A cluster, and machines that start and die."""

    def __init__(self, cluster: EmbeddedCluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.machines: list[Machine] = []

    async def start(
        self,
        host: str,
        *,
        token: str = "",
        file: str = "",
        clock: SystemClock | None = None,
        timing: LeaseTiming = OWNERSHIP_TIMING,
    ) -> Machine:
        """Start a stackd on that host, with the file of that name (by default, its own)."""
        clock = clock or SystemClock()
        path = self.folder / (file or host) / "stackd.db"
        store = await Store.open(path, clock=clock, node_ports=PortRange(31001, 31100))
        await store.begin("stacks", "default")
        target = target_at(self.cluster.url, token=token, timeout=2.0, attempt_timeout=0.2)
        fence = Fence()
        cluster = await Cluster.connect(target, fence=fence)
        ownership = Ownership(Leases(cluster), fence, store, host=host, timing=timing, clock=clock)
        task = asyncio.create_task(ownership.run(), name=host)
        machine = Machine(host, store, cluster, ownership, task)
        self.machines.append(machine)
        return machine

    async def owner(self, host: str, *, timing: LeaseTiming = OWNERSHIP_TIMING) -> Machine:
        """A stackd that owns the stacks, with a complete file."""
        machine = await self.start(host, timing=timing)
        await machine.owns()
        await machine.store.end_adoption()
        return machine

    async def lease(self) -> Lease:
        """The current Lease."""
        viewer = self.machines[0] if self.machines else None
        assert viewer is not None
        cluster = await Cluster.connect(viewer.cluster.target)
        try:
            found = await Leases(cluster).find()
        finally:
            await cluster.close()
        assert found is not None
        return found

    async def edit(self, **fields: object) -> None:
        """Change the Lease by hand."""
        cluster = await Cluster.connect(self.machines[0].cluster.target)
        try:
            while True:
                found = await Leases(cluster).find()
                assert found is not None
                try:
                    await Leases(cluster).update(replace(found, **fields))  # type: ignore[arg-type]
                except ClusterError:
                    continue
                return
        finally:
            await cluster.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(EmbeddedCluster(fast_cluster()))
        running = Site(cluster, tmp_path)
        first = await Cluster.connect(target_at(cluster.url))
        await first.ensure_namespace()
        await first.close()
        yield running
        cluster.faults.clear()
        await cluster.faults.listen()
        for machine in running.machines:
            await machine.dies()


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_an_event_that_is_older_than_the_answer_to_its_own_request_ends_no_ownership(site: Site) -> None:
    one = await site.owner("vm1", timing=SLOW)
    seen = await site.lease()
    older = replace(seen, holder="vm9/f9", lock_id="l9")
    obj = lease_manifest(older, namespace="stacks", instance="default")
    obj["metadata"]["resourceVersion"] = str(int(seen.version) - 1)
    await eventually(lambda: any(watch.collection.resource.kind == "Lease" for watch in site.cluster.server.watches))
    site.cluster.faults.replay("leases.coordination.k8s.io", "MODIFIED", obj)
    await site.edit(takeover="vm3/l3")
    await asyncio.wait_for(one.ownership.asked_for.wait(), DEADLINE)
    assert one.fence.open


async def test_an_owner_that_was_cut_off_goes_on_where_nobody_took_over(site: Site) -> None:
    one = await site.owner("vm1")
    await site.cluster.faults.refuse()
    await eventually(lambda: not one.fence.open)
    assert one.ownership.role is Role.OWNER
    assert one.ownership.error
    with pytest.raises(NotOwner):
        one.fence.require()
    await site.cluster.faults.listen()
    await eventually(lambda: one.fence.open)
    assert not one.ownership.error
    assert (await site.lease()).transitions == 0


@pytest.mark.parametrize("verb", ["create", "update"])
@pytest.mark.parametrize("action", ["lost_reply", "cut", "hang"])
async def test_whatever_happens_to_the_answer_there_is_one_owner(site: Site, verb: str, action: str) -> None:
    if verb == "update":
        await (await site.owner("vm1")).dies()
    site.cluster.faults.add_fault(action=action, verb=verb, resource="leases", count=1)
    one = await site.start("vm1")
    await one.owns()
    renewed = (await site.lease()).renewed_at
    site.cluster.faults.add_fault(action=action, verb="update", resource="leases", count=1)
    end = now() + 1.2 * OWNERSHIP_TIMING.duration
    while now() < end:
        # A hanging request takes half of this short Lease's time before it is tried again.
        assert one.fence.open or action == "hang", "one answer that is lost is not missed"
        await asyncio.sleep(0.02)
    await eventually(lambda: one.fence.open)
    assert one.ownership.role is Role.OWNER
    lease = await site.lease()
    assert lease.transitions == 0
    assert lease.renewed_at != renewed


async def test_whoever_asks_gets_the_lease_as_soon_as_the_owner_gives_it_back(site: Site) -> None:
    one = await site.owner("vm1", timing=SLOW)
    three = await site.start("vm3", timing=SLOW)
    two = await site.start("vm2", timing=SLOW)
    await eventually(lambda: two.ownership.owner == three.ownership.owner == "vm1")
    assert await two.ownership.ask_for() == "vm1"
    await asyncio.wait_for(one.ownership.asked_for.wait(), SOON)
    assert one.fence.open, "it goes on until it has finished what is under way"
    await accepted(one.store, 1)
    await one.ownership.release()
    assert await one.task is Role.RELEASED
    assert one.ownership.lease is None or one.ownership.lease.sequence == 2, "how far the file has come"
    with pytest.raises(NotOwner, match="handed over"):
        one.fence.require()
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
    assert one.fence.left < OWNERSHIP_TIMING.usable - 0.14


async def test_a_lease_that_is_deleted_is_made_again_by_its_owner_and_not_taken_by_a_standby(site: Site) -> None:
    one = await site.start("vm1", timing=SLOW)
    await one.owns()
    two = await site.start("vm2")
    await eventually(lambda: two.ownership.owner == "vm1")
    before = (await site.lease()).uid
    async with aiohttp.ClientSession() as session, session.delete(site.cluster.url + LEASES) as answer:
        assert answer.status == 200
    # At once, not only when its next renewal is due.
    await eventually(lambda: one.ownership.lease is not None and one.ownership.lease.uid != before, deadline=SOON)
    assert (one.ownership.role, two.ownership.role) == (Role.OWNER, Role.STANDBY)
    assert one.fence.open
    await eventually(lambda: two.ownership.owner == "vm1")


async def test_without_the_right_to_it_a_stackd_stands_by_and_says_why(tmp_path: Path) -> None:
    admin = User(token="admin", name="admin", rules=(everything(),))
    pods = Rule(verbs=frozenset({"*"}), resources=frozenset({"pods"}))
    users = (admin, User(token="weak", name="stackd", rules=(pods,)))
    async with EmbeddedCluster(fast_cluster(users=users)) as cluster:
        site = Site(cluster, tmp_path)
        one = await site.start("vm1", token="weak")
        await eventually(lambda: "no right to get leases" in one.ownership.error)
        with pytest.raises(NotOwner, match="who owns the stacks is not known"):
            one.fence.require()
        assert one.ownership.role is Role.STANDBY
        await one.dies()


async def test_an_owner_that_has_nothing_to_do_sends_its_renewals_and_nothing_else(site: Site) -> None:
    await site.owner("vm1")
    await eventually(lambda: site.cluster.counts.total("watch") == 1)
    site.cluster.counts.clear()
    await asyncio.sleep(2 * OWNERSHIP_TIMING.duration)
    renewals = site.cluster.counts.requests.pop(("update", "leases", 200))
    assert 4 <= renewals <= 7
    assert not site.cluster.counts.requests


async def test_nobody_is_asked_where_nobody_owns_anything_and_by_nobody_who_is_no_standby(site: Site) -> None:
    one = await site.owner("vm1")
    with pytest.raises(Conflict, match="it is owner"):
        await one.ownership.ask_for()
    await one.ownership.release()
    with pytest.raises(Conflict, match="it is released"):
        await one.ownership.ask_for()
