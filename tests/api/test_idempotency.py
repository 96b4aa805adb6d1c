"""Idempotency keys: asking twice makes one stack, and gives the first answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stackd.embedded import EmbeddedCluster
from tests.stand import READ_KEY, Reply, Stand, fast_cluster, request_for, seed, stand


async def post(at: Stand, path: str, body: dict[str, Any], key: str) -> Reply:
    return await at.call("POST", path, body, headers={"Idempotency-Key": key})


async def test_the_same_key_and_body_give_the_first_answer_and_one_stack(at: Stand) -> None:
    first = await post(at, "/stacks", seed(), "one")
    await at.until_status(first.json["stack_id"], "running")
    again = await post(at, "/stacks", seed(), "one")
    assert (again.status, again.text) == (201, first.text)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(await at.objects("pods")) == 1


async def test_the_first_answer_is_given_even_after_the_stack_is_gone(at: Stand) -> None:
    first = await post(at, "/stacks", seed(), "one")
    await at.call("DELETE", f"/stacks/{first.json['stack_id']}")
    assert (await post(at, "/stacks", seed(), "one")).text == first.text
    assert not await at.objects("pods")


async def test_the_same_key_with_another_body_is_a_422(at: Stand) -> None:
    await post(at, "/stacks", seed(), "one")
    reply = await post(at, "/stacks", request_for("nginx:other"), "one")
    assert reply.status == 422
    assert "'one'" in reply.error
    assert len(await at.objects("pods")) == 1


async def test_a_second_request_waits_for_the_first_and_gets_its_answer(at: Stand) -> None:
    replies = await asyncio.gather(*(post(at, "/stacks", seed(), "one") for _ in range(8)))
    assert {reply.status for reply in replies} == {201}
    assert len({reply.text for reply in replies}) == 1
    assert len(await at.objects("pods")) == 1


async def test_another_body_while_the_first_runs_is_a_422(at: Stand) -> None:
    at.cluster.faults.pause()
    first = asyncio.create_task(post(at, "/stacks", seed(), "one"))
    while not at.daemon.room.creating:
        await asyncio.sleep(0)
    reply = await post(at, "/stacks", request_for("nginx:other"), "one")
    at.cluster.faults.resume()
    assert reply.status == 422
    assert (await first).status == 201


async def test_a_failure_is_not_kept_under_the_key(at: Stand) -> None:
    too_big = request_for("nginx:stable", cpu="100000")
    assert (await post(at, "/stacks", too_big, "one")).status == 503
    assert (await post(at, "/stacks", too_big, "one")).status == 503
    assert (await post(at, "/stacks", seed(), "one")).status == 201


async def test_the_first_answer_survives_a_restart(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with stand(tmp_path, cluster=cluster) as at:
            first = await post(at, "/stacks", seed(), "one")
            job = await post(at, "/stacks/batch-delete", {"stack_ids": ["stack-none"]}, "two")
        async with stand(tmp_path, cluster=cluster) as later:
            again = await post(later, "/stacks", seed(), "one")
            assert (again.status, again.text) == (201, first.text)
            repeated = await post(later, "/stacks/batch-delete", {"stack_ids": ["stack-none"]}, "two")
            assert (repeated.status, repeated.text) == (202, job.text)
            assert len(await later.objects("pods")) == 1


async def test_a_client_that_leaves_under_a_key_finds_its_stack_when_it_asks_again(at: Stand) -> None:
    at.cluster.faults.pause()
    first = asyncio.create_task(post(at, "/stacks", seed(), "one"))
    while not at.daemon.room.creating:
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    at.cluster.faults.resume()
    assert (await post(at, "/stacks", seed(), "one")).status == 201
    assert len(await at.objects("pods")) == 1


async def test_keys_of_different_callers_and_routes_do_not_meet(at: Stand) -> None:
    assert (await post(at, "/stacks", seed(), "one")).status == 201
    assert (await post(at, "/stacks/batch-delete", {"stack_ids": ["stack-none"]}, "one")).status == 202
    assert (await at.call("POST", "/stacks", seed(), key=READ_KEY)).status == 401


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_that_cannot_be_one_is_a_400(at: Stand, key: str) -> None:
    reply = await post(at, "/stacks", seed(), key)
    assert reply.status == 400
    assert "Idempotency-Key" in reply.error
