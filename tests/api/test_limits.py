"""Limits: each refusal names the limit that it hit."""

from __future__ import annotations

import asyncio
from pathlib import Path

from stackd.keys import digest
from tests.harness import READ_KEY, Harness, harness, seed


async def test_too_many_requests_of_one_key_are_a_429_and_other_keys_go_on(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[[auth.keys]]\nname = "reader"\nsha256 = "{digest(READ_KEY).hex()}"\nscope = "read"\n')
    async with harness(tmp_path, {"STACKD_LIMITS__REQUESTS_PER_SECOND": "0.01"}, config=config) as at:
        assert (await at.call("GET", "/healthz")).status == 200
        reply = await at.call("GET", "/healthz")
        assert (reply.status, "limits.requests_per_second" in reply.error) == (429, True)
        assert 90 <= int(reply.headers["Retry-After"]) <= 100
        assert (await at.call("GET", "/healthz", key=READ_KEY)).status == 200


async def test_too_many_creates_a_second_are_a_429_and_reads_go_on(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__CREATES_PER_SECOND": "0.01"}) as at:
        await at.create()
        reply = await at.call("POST", "/stacks", seed())
        assert (reply.status, "limits.creates_per_second" in reply.error) == (429, True)
        assert (await at.call("GET", "/stacks")).status == 200
        assert len(await at.objects("pods")) == 1


async def test_too_many_creates_at_the_same_time_are_a_429(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__CREATES_IN_FLIGHT": "2"}) as at:
        at.cluster.faults.pause()
        creates = [asyncio.create_task(at.call("POST", "/stacks", seed())) for _ in range(2)]
        await at.until_metric("stackd_creates_in_flight", 2)
        reply = await at.call("POST", "/stacks", seed())
        assert (reply.status, "limits.creates_in_flight" in reply.error) == (429, True)
        assert int(reply.headers["Retry-After"]) > 0
        at.cluster.faults.resume()
        assert [(await create).status for create in creates] == [201, 201]
        await at.create()


async def test_one_stack_too_many_is_a_503(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__MAX_STACKS": "2"}) as at:
        first = await at.create()
        await at.create()
        reply = await at.call("POST", "/stacks", seed())
        assert (reply.status, "max_stacks" in reply.error) == (503, True)
        assert int(reply.headers["Retry-After"]) > 0
        assert len(await at.objects("pods")) == 2
        await at.call("DELETE", f"/stacks/{first['stack_id']}")
        await at.create()


async def test_one_id_too_many_in_a_batch_is_a_413(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_BATCH_DELETE__MAX_IDS": "3"}) as at:
        assert await accepted(at, 3)
        reply = await at.call("POST", "/stacks/batch-delete", {"stack_ids": [f"stack-{n}" for n in range(4)]})
        assert (reply.status, "batch_delete.max_ids" in reply.error) == (413, True)


async def accepted(at: Harness, count: int) -> bool:
    ids = [f"stack-{number}" for number in range(count)]
    return (await at.call("POST", "/stacks/batch-delete", {"stack_ids": ids})).status == 202
