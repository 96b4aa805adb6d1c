"""A proxy that drops the query string: a list holds more than was asked for, and a trial is no trial."""

from __future__ import annotations

import asyncio
from pathlib import Path

from stackd.embedded import EmbeddedCluster
from tests.api.test_cluster_truth import SHORT_LEASE, config_file, exit_code
from tests.harness import Harness, fast_cluster, harness, seed


async def test_a_dry_run_that_became_a_create_is_removed_and_refused(at: Harness) -> None:
    """Before, it was answered with 200, and its pod ran on without a row."""
    at.cluster.faults.add_fault(action="no_query", verb="create", resource="pods", count=1)
    reply = await at.call("POST", "/stacks?dry_run=true", seed())
    assert (reply.status, "query string" in reply.error) == (503, True)
    assert not await at.objects("pods")
    assert (await at.call("POST", "/stacks?dry_run=true", seed())).status == 200


async def test_a_lost_file_is_not_rebuilt_from_the_stacks_of_another_instance(tmp_path: Path) -> None:
    """Before, ``rebuild`` wrote them into the file."""
    (tmp_path / "other").mkdir()
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with (
            harness(tmp_path, SHORT_LEASE, cluster=cluster) as at,
            harness(tmp_path / "other", {"STACKD_CLUSTER__INSTANCE": "other"}, cluster=cluster) as other,
        ):
            mine = (await at.create())["stack_id"]
            await other.create()
        cluster.faults.add_fault(action="no_query", verb="list", resource="pods|services|configmaps")
        (tmp_path / "new").mkdir()
        config = config_file(tmp_path / "new", tmp_path / "kubeconfig")
        assert await asyncio.to_thread(exit_code, ["rebuild", "--config", str(config)]) == 0
        cluster.faults.clear()
        async with harness(tmp_path / "new", SHORT_LEASE, cluster=cluster) as later:
            assert await later.listed() == [mine]
