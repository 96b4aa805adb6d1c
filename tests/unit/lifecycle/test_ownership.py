"""Several stackds, each with its own file, one cluster, one owner at a time; over HTTP, with real files."""

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
from stackd.errors import ClusterError, NotOwner
from stackd.kube.client import Cluster
from stackd.kube.guards import Fence
from stackd.kube.lease import Lease, Leases, lease_manifest
from stackd.lifecycle.lease_rules import LeaseTiming
from stackd.lifecycle.ownership import Ownership, Role
from stackd.model import PortRange
from stackd.store import Store
from tests.harness import DEADLINE, eventually, fast_cluster
from tests.store.building import SMALL, accepted
from tests.target import target_at

TIMING = LeaseTiming(duration=2.0)
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
        assert self.ownership.owned.is_set(), self.ownership.trouble

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
        timing: LeaseTiming = TIMING,
    ) -> Machine:
        """Start a stackd on that host, with the file of that name (by default, its own)."""
        clock = clock or SystemClock()
        path = self.folder / (file or host) / "stackd.db"
        store = await Store.open(path, clock=clock, node_ports=PortRange(31001, 31100), options=SMALL)
        await store.begin("stacks", "default")
        target = target_at(self.cluster.url, token=token, timeout=2.0, attempt_timeout=0.2)
        fence = Fence()
        cluster = await Cluster.connect(target, fence=fence)
        ownership = Ownership(Leases(cluster), fence, store, host=host, timing=timing, clock=clock)
        task = asyncio.create_task(ownership.run(), name=host)
        machine = Machine(host, store, cluster, ownership, task)
        self.machines.append(machine)
        return machine

    async def owner(self, host: str, *, timing: LeaseTiming = TIMING) -> Machine:
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
    assert one.ownership.trouble
    with pytest.raises(NotOwner):
        one.fence.require()
    await site.cluster.faults.listen()
    await eventually(lambda: one.fence.open)
    assert not one.ownership.trouble
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
    end = now() + 1.2 * TIMING.duration
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
    assert one.fence.left < TIMING.usable - 0.14


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
        await eventually(lambda: "no right to get leases" in one.ownership.trouble)
        with pytest.raises(NotOwner, match="who owns the stacks is not known"):
            one.fence.require()
        assert one.ownership.role is Role.STANDBY
        await one.dies()


async def test_an_owner_that_has_nothing_to_do_sends_its_renewals_and_nothing_else(site: Site) -> None:
    await site.owner("vm1")
    await eventually(lambda: site.cluster.counts.total("watch") == 1)
    site.cluster.counts.clear()
    await asyncio.sleep(2 * TIMING.duration)
    renewals = site.cluster.counts.requests.pop(("update", "leases", 200))
    assert 4 <= renewals <= 7
    assert not site.cluster.counts.requests
