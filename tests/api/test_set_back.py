"""The cluster's etcd is restored from a backup while stackd runs: resourceVersions are lower than those it has seen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster
from tests.harness import Harness, fast_cluster, harness, seed, until

NEW, OLD = 100_000, 1_000
LEASE = {"STACKD_CLUSTER__LEASE_DURATION": "2s"}
SECONDS = 3
MOST_REQUESTS = 60
"""Far more requests than the Lease needs in ``SECONDS``; a loop without a pause makes thousands."""


@pytest.fixture
async def cluster() -> AsyncIterator[EmbeddedCluster]:
    """A cluster whose resourceVersion is already high."""
    async with EmbeddedCluster(fast_cluster()) as alone:
        alone.store.revision = NEW
        yield alone


@pytest.fixture
async def at(cluster: EmbeddedCluster, tmp_path: Path) -> AsyncIterator[Harness]:
    async with harness(tmp_path, LEASE, cluster=cluster) as ready:
        yield ready


def asked_about_leases(cluster: EmbeddedCluster) -> int:
    return cluster.counts.total("update", "leases") + cluster.counts.total("get", "leases")


async def creates(at: Harness) -> None:
    await until(lambda: at.call("POST", "/stacks", seed()), lambda seen: seen.status == 201)


async def test_an_owner_renews_its_lease_again_and_does_not_ask_without_a_pause(at: Harness) -> None:
    """Before, stackd sent 6,950 requests in five seconds, and never renewed the Lease again."""
    at.cluster.faults.set_back(OLD)
    at.cluster.counts.clear()
    await creates(at)
    assert asked_about_leases(at.cluster) < MOST_REQUESTS


async def test_a_standby_takes_over_and_does_not_ask_without_a_pause(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    for name in ("vm1", "vm2"):
        (tmp_path / name).mkdir()
    async with harness(tmp_path / "vm1", LEASE, cluster=cluster, host="vm1") as owner:
        await owner.create()
        async with harness(tmp_path / "vm2", LEASE, cluster=cluster, host="vm2", wait=False) as standby:
            await standby.until_metric("stackd_standby", 1)
            owner.stop_renewing()
            cluster.faults.set_back(OLD)
            cluster.counts.clear()

            await until(standby.role, lambda seen: seen == "owner")
            assert asked_about_leases(cluster) < MOST_REQUESTS


@pytest.mark.parametrize("silent", [False, True], ids=["older bookmarks", "silent watches"])
async def test_what_happens_to_stacks_after_it_shows(at: Harness, *, silent: bool) -> None:
    """An API server reports nothing older than the resourceVersion at which a watch starts."""
    stack_id = await at.running()
    if silent:
        at.cluster.faults.add_fault(action="mute", verb="watch", resource="(pods|services|configmaps|nodes)")
    at.cluster.faults.set_back(OLD)
    await at.delete_object("pods", stack_id)
    await at.until_status(stack_id, "stopped")


async def test_what_a_backup_brings_back_is_removed_again(at: Harness) -> None:
    """The file remembers that it deleted the stack (invariant 3)."""
    stack_id = (await at.create())["stack_id"]
    pod = (await at.objects("pods"))[stack_id]
    assert (await at.call("DELETE", f"/stacks/{stack_id}")).status == 200
    at.cluster.faults.set_back(OLD)
    metadata = {key: value for key, value in pod["metadata"].items() if key in ("name", "labels", "annotations")}
    await at.kubectl("POST", "/api/v1/namespaces/stacks/pods", {"metadata": metadata, "spec": pod["spec"]})

    await until(lambda: at.objects("pods"), lambda seen: not seen)
