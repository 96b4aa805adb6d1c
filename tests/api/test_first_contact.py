"""Just after a start, before stackd has seen the cluster: requests that need it wait for a moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from stackd.embedded import EmbeddedCluster
from stackd.lifecycle import gate
from tests.harness import KEY, Harness, eventually, fast_cluster, harness, seed


@asynccontextmanager
async def unseen(folder: Path) -> AsyncIterator[Harness]:
    """A daemon that listens while its cluster accepts requests and answers none."""
    async with EmbeddedCluster(fast_cluster()) as cluster:
        cluster.faults.pause()
        async with harness(folder, cluster=cluster, wait=False) as at:
            await eventually(lambda: cluster.counts.in_flight > 0)
            yield at
            cluster.faults.resume()


async def test_a_create_that_comes_before_the_first_sight_of_the_cluster_waits_for_it(tmp_path: Path) -> None:
    async with unseen(tmp_path) as at:
        assert (await at.call("GET", "/healthz")).status == 200
        creates = [asyncio.create_task(at.call("POST", "/stacks", seed())) for _ in range(3)]
        dry = asyncio.create_task(at.call("POST", "/stacks?dry_run=true", seed()))
        done, _ = await asyncio.wait([*creates, dry], timeout=0.3)
        assert not done
        at.cluster.faults.resume()
        assert [(await create).status for create in creates] == [201] * 3
        assert (await dry).status == 200


async def test_a_restart_waits_for_it_as_well(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, cluster=cluster) as at:
            stack_id = (await at.create())["stack_id"]
            await at.until_status(stack_id, "running")
        cluster.faults.pause()
        async with harness(tmp_path, cluster=cluster, wait=False) as at:
            restart = asyncio.create_task(at.call("POST", f"/stacks/{stack_id}/restart"))
            done, _ = await asyncio.wait([restart], timeout=0.3)
            assert not done
            cluster.faults.resume()
            assert (await restart).status in (200, 202)


async def test_it_waits_for_a_moment_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gate.FIRST_CONTACT_SECONDS == 5.0
    monkeypatch.setattr(gate, "FIRST_CONTACT_SECONDS", 0.2)
    async with unseen(tmp_path) as at:
        reply = await at.call("POST", "/stacks", seed())
        assert reply.status == 503
        assert "waiting for the cluster" in reply.error


@pytest.mark.parametrize("verb", ["get", "list"])
async def test_once_a_try_to_see_the_cluster_has_failed_nobody_waits_and_the_answer_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr(gate, "FIRST_CONTACT_SECONDS", 60.0)
    async with EmbeddedCluster(fast_cluster()) as cluster:
        # Missing rights fail the first try at once: nothing is tried again for long.
        forbidden = (
            '{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,'
            '"message":"pods is forbidden: User \\"u\\" cannot do it: cannot VERB resource \\"x\\""}'
        ).replace("VERB", verb)
        json.loads(forbidden)
        cluster.faults.add_fault(action="reply", code=403, body=forbidden, verb=verb)
        async with harness(tmp_path, cluster=cluster, wait=False) as at:
            began = asyncio.get_running_loop().time()
            for _ in range(5):
                reply = await at.call("POST", "/stacks", seed())
                assert reply.status == 503
                assert f"no right to {verb}" in reply.detail
            assert asyncio.get_running_loop().time() - began < 60
            cluster.faults.clear()
            await at.until_ready()
            await at.create()


async def test_a_create_that_waits_when_the_daemon_stops_is_told_so(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster, aiohttp.ClientSession(headers={"X-API-KEY": KEY}) as client:
        cluster.faults.pause()
        async with harness(tmp_path, cluster=cluster, wait=False) as at:
            create = asyncio.create_task(client.post(f"{at.url}/stacks", json=seed()))
            await eventually(lambda: cluster.counts.in_flight > 0)
            done, _ = await asyncio.wait([create], timeout=0.3)
            assert not done
        answer = await create
        assert (answer.status, await answer.json()) == (503, {"error": "stackd is shutting down"})
        cluster.faults.resume()


async def test_a_restart_while_the_cluster_is_away_answers_reads_from_the_file(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, cluster=cluster) as at:
            stack_id = (await at.create())["stack_id"]
            await at.until_status(stack_id, "running")
            before = await at.stack(stack_id)
        cluster.faults.pause()
        async with harness(tmp_path, cluster=cluster, wait=False) as at:
            assert await at.stack(stack_id) == before
            (listed,) = (await at.call("GET", "/stacks")).json["stacks"]
            assert listed["stack_id"] == stack_id
            assert (await at.call("GET", "/readyz")).status == 503
            cluster.faults.resume()
