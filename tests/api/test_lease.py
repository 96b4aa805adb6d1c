"""The owner's Lease: lost and late responses, old events, and Leases that somebody else deletes."""

from __future__ import annotations

from dataclasses import replace

import aiohttp
import pytest

from stackd.embedded.resources import LEASES
from stackd.kube.lease import lease_manifest
from stackd.lifecycle.ownership import USABLE, Role
from stackd.metrics import RouteMeter
from tests.api.scenes import OTHER_CLUSTER
from tests.harness import Harness, Machine, eventually

PATH = "/apis/coordination.k8s.io/v1/namespaces/stacks/leases/stackd-default"
DURATION = 2.0
RENEWED_RARELY = pytest.mark.stackd(cluster__lease_duration="60s")
"""Every twenty seconds: the test shows that nothing waits for a renewal."""

pytestmark = pytest.mark.stackd(cluster__lease_duration=f"{DURATION:g}s")


@pytest.mark.parametrize("verb", ["create", "update"])
async def test_a_lost_response_costs_no_renewal(vm: Machine, verb: str) -> None:
    vm.cluster.faults.add_fault(action="lost_reply", verb=verb, resource="leases", count=1)
    at = await vm.start()
    ownership, fence = at.daemon.context.gate.ownership, at.daemon.context.fence
    first = ownership.lease
    assert first is not None
    await eventually(lambda: ownership.lease is not None and ownership.lease.renewed_at != first.renewed_at)
    await eventually(lambda: fence.open)
    assert (ownership.role, ownership.lease and ownership.lease.transitions) == (Role.OWNER, 0)


async def test_a_renewal_counts_from_when_it_was_sent_and_an_owner_that_was_cut_off_goes_on(at: Harness) -> None:
    ownership, fence = at.daemon.context.gate.ownership, at.daemon.context.fence
    at.faults.add_fault(action="latency", verb="update", resource="leases", seconds=0.15)
    before = fence.valid_until
    await eventually(lambda: fence.valid_until > before)
    assert fence.left < USABLE * DURATION - 0.14
    await at.faults.refuse()
    await eventually(lambda: not fence.open)
    assert (ownership.role, bool(ownership.error)) == (Role.OWNER, True)
    await at.faults.listen()
    await eventually(lambda: fence.open)
    assert (ownership.role, ownership.error) == (Role.OWNER, "")


async def test_an_owner_suspended_before_its_answer_gives_none(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it goes on, another stackd may have taken over without the change."""
    stack_id, fence = await at.running(), at.daemon.context.fence
    monkeypatch.setattr(RouteMeter, "record", lambda *_: setattr(fence, "valid_until", 0.0))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await at.call("POST", f"/stacks/{stack_id}/extend", {"ttl": "1m"})
    monkeypatch.undo()
    await eventually(lambda: fence.open)
    assert (await at.do("extend", stack_id, ttl="1m"))["stack_id"] == stack_id


@RENEWED_RARELY
async def test_an_event_that_is_older_than_the_response_to_its_own_request_ends_no_ownership(at: Harness) -> None:
    ownership = at.daemon.context.gate.ownership
    lease = ownership.lease
    assert lease is not None
    older = lease_manifest(replace(lease, holder="vm9/f9", lock_id="l9"), namespace="stacks", instance="default")
    older["metadata"]["resourceVersion"] = str(int(lease.version) - 1)
    await eventually(lambda: any(one.collection.resource is LEASES for one in at.cluster.server.watches))
    at.faults.replay("leases.coordination.k8s.io", "MODIFIED", older)
    await at.kubectl("PATCH", PATH, {"metadata": {"annotations": {"stackd.io/takeover": "vm3/l3"}}})
    assert "vm3 takes over" in await at.ended()


@RENEWED_RARELY
async def test_a_lease_that_is_deleted_is_made_again_at_once(at: Harness) -> None:
    ownership = at.daemon.context.gate.ownership
    assert ownership.lease is not None
    before = ownership.lease.uid
    at.cluster.store.remove(at.cluster.store.of(LEASES).get("stacks", "stackd-default"))
    await eventually(lambda: ownership.lease is not None and ownership.lease.uid != before, deadline=10.0)
    assert (ownership.role, at.daemon.context.fence.open) == (Role.OWNER, True)


async def test_a_lease_that_is_given_back_amid_conflicts_and_failures_need_not_run_out(at: Harness) -> None:
    await at.kubectl("PATCH", PATH, {"metadata": {"annotations": {"stackd.io/takeover": "vm3/l3"}}})
    assert "vm3 takes over" in await at.ended()
    at.faults.add_fault(action="status", verb="update", resource="leases", code=409, count=1)
    at.faults.add_fault(action="status", verb="get", resource="leases", code=403, count=1)
    await at.daemon.context.gate.ownership.release()
    assert (await at.kubectl("GET", PATH))["spec"]["holderIdentity"] == ""


async def test_the_lease_of_another_cluster_means_nothing(at: Harness) -> None:
    ownership, leases = at.daemon.context.gate.ownership, at.cluster.store.of(LEASES)
    asked, created = at.counts.requests, at.counts.total("create", "leases")
    at.faults.add_fault(action="reply", code=200, body=OTHER_CLUSTER, verb="get", name="kube-system")
    at.cluster.store.remove(leases.get("stacks", "stackd-default"))
    await at.until_unready("belongs to the cluster")
    before = asked["get", "namespaces", 200]
    await eventually(lambda: asked["get", "namespaces", 200] > before + 1)
    assert (ownership.role, at.counts.total("create", "leases")) == (Role.OWNER, created)
    theirs = {"metadata": {"name": "stackd-default"}, "spec": {"holderIdentity": "vm9/f9", "leaseDurationSeconds": 2}}
    assert (await at.kubectl("POST", PATH.rpartition("/")[0], theirs))["kind"] == "Lease"
    await eventually(lambda: ownership.owner == "vm9")
    before = asked["get", "namespaces", 200]
    await eventually(lambda: asked["get", "namespaces", 200] > before + 1)
    assert ownership.role is Role.OWNER
    at.cluster.store.remove(leases.get("stacks", "stackd-default"))
    at.faults.clear()
    await eventually(lambda: at.daemon.context.fence.open)
    assert ownership.role is Role.OWNER
