"""Everything that reads a node, with the node that a real kubelet registered: capacity, dry run, creates."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from stackd.embedded import EmbeddedCluster
from tests.harness import Harness, fast_cluster, harness, request_for, seed
from tests.provisioning import apply, printed

RECORDING = Path(__file__).parent.parent / "recordings" / "nodes-list.json"
MEMORY = 24_581_684 * 1024
"""The kubelet reports this as 24581684Ki."""


def recorded() -> dict[str, Any]:
    items = json.loads(RECORDING.read_text())["response"]["body"]["items"]
    (node,) = [one for one in items if one["metadata"]["name"] == "real-worker"]
    assert node["status"]["allocatable"]["memory"] == "24581684Ki"
    for given_by_the_server in ("uid", "resourceVersion", "creationTimestamp"):
        del node["metadata"][given_by_the_server]
    return dict(node)


@asynccontextmanager
async def cluster(*manifests: str, **settings: Any) -> AsyncIterator[EmbeddedCluster]:
    """A cluster whose only node is the recorded one, set up with the output of ``stackd manifests``."""
    node = recorded()
    async with EmbeddedCluster(fast_cluster(nodes=(), **settings)) as made:
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{made.url}/api/v1/nodes", json=node) as answer:
                assert answer.status == 201, await answer.text()
            kind = {"Content-Type": "application/merge-patch+json"}
            url = f"{made.url}/api/v1/nodes/real-worker/status"
            async with session.patch(url, data=json.dumps({"status": node["status"]}), headers=kind) as answer:
                assert (await answer.json())["status"]["allocatable"] == node["status"]["allocatable"]
        await apply(made, printed(*manifests))
        yield made


async def capacity(at: Harness, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = (await at.call("GET", f"/capacity{query}")).json
    return found


async def test_capacity_is_what_the_node_has(tmp_path: Path) -> None:
    async with cluster("--no-ephemeral-storage") as made, harness(tmp_path, cluster=made) as at:
        assert (await capacity(at))["nodes"] == {"real-worker": 20}
        found = await capacity(at, "?cpu=1m&memory=1Gi")
        assert (found["fits"], found["limited_by"]) == (MEMORY >> 30, "memory")
        assert (await capacity(at, "?cpu=1m&memory=24581684Ki"))["fits"] == 1
        assert (await capacity(at, "?cpu=1m&memory=24581685Ki"))["fits"] == 0
        assert (await capacity(at, "?cpu=1m&memory=1Mi"))["limited_by"] == "pods"


async def test_what_fits_is_created_and_no_more(tmp_path: Path) -> None:
    body = request_for("nginx:stable", cpu="500m", memory="2Gi")
    async with cluster("--no-ephemeral-storage") as made, harness(tmp_path, cluster=made) as at:
        assert (await at.call("POST", "/stacks?dry_run=true", body)).status == 200
        fits = (await at.call("POST", "/capacity", body)).json["fits"]
        assert fits == 4
        for _ in range(fits):
            created = await at.create(body)
            assert created["node_id"] == "real-worker"
        assert (await at.call("POST", "/stacks", body)).status == 503


async def test_a_node_without_disk_has_no_room_where_the_limit_range_asks_for_some(tmp_path: Path) -> None:
    async with cluster() as made, harness(tmp_path, cluster=made) as at:
        assert (await at.call("POST", "/stacks", seed())).status == 503
        found = (await at.call("POST", "/capacity", seed())).json
        assert (found["fits"], found["limited_by"], found["nodes"]) == (0, "ephemeral_storage", {"real-worker": 0})
        assert found["requested_ephemeral_storage_bytes"] == 64 << 20
        assert (await capacity(at))["fits"] == 0  # the request before has read the LimitRange


async def test_a_largest_disk_of_the_policy_asks_a_node_for_what_it_does_not_have(tmp_path: Path) -> None:
    settings = {"STACKD_POLICY__MAX_EPHEMERAL_STORAGE": "8Gi"}
    async with cluster("--no-ephemeral-storage") as made, harness(tmp_path, settings, cluster=made) as at:
        found = (await at.call("POST", "/capacity", seed())).json
        assert (found["fits"], found["limited_by"]) == (0, "ephemeral_storage")
        assert found["requested_ephemeral_storage_bytes"] == 8 << 30
        assert (await capacity(at))["requested_ephemeral_storage_bytes"] == 8 << 30
        assert (await at.call("POST", "/stacks", seed())).status == 503
