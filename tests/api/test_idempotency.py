"""Idempotency keys: the same request sent twice creates one stack and gets the first response again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stackd.keys import digest
from tests.harness import KEY, READ_KEY, Harness, Reply, harness, request_for, seed, until


async def post(at: Harness, path: str, body: dict[str, Any], key: str) -> Reply:
    return await at.call("POST", path, body, headers={"Idempotency-Key": key})


async def test_the_same_key_and_body_give_the_first_answer_and_one_stack(at: Harness) -> None:
    first = await post(at, "/stacks", seed(), "one")
    await at.until_status(first.json["stack_id"], "running")
    again = await post(at, "/stacks", seed(), "one")
    assert (again.status, again.text) == (201, first.text)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(await at.objects("pods")) == 1


async def test_the_first_answer_is_given_even_after_the_stack_is_gone(at: Harness) -> None:
    first = await post(at, "/stacks", seed(), "one")
    await at.call("DELETE", f"/stacks/{first.json['stack_id']}")
    assert (await post(at, "/stacks", seed(), "one")).text == first.text
    assert not await at.objects("pods")


async def test_a_second_request_waits_for_the_first_and_gets_its_answer(at: Harness) -> None:
    replies = await asyncio.gather(*(post(at, "/stacks", seed(), "one") for _ in range(8)))
    assert {reply.status for reply in replies} == {201}
    assert len({reply.text for reply in replies}) == 1
    assert len(await at.objects("pods")) == 1


async def test_a_create_under_a_key_goes_on_without_its_client(at: Harness) -> None:
    at.cluster.faults.add_fault(action="latency", verb="create", resource="services", seconds=0.5)
    leaving = asyncio.create_task(post(at, "/stacks", seed(), "left"))
    await until(lambda: at.objects("pods"), lambda seen: len(seen) == 1)
    leaving.cancel()
    (made,) = await until(at.listed, lambda seen: len(seen) == 1)
    again = await post(at, "/stacks", seed(), "left")
    assert (again.status, again.json["stack_id"]) == (201, made)


async def test_another_body_while_the_first_runs_is_a_422(at: Harness) -> None:
    at.cluster.faults.pause()
    first = asyncio.create_task(post(at, "/stacks", seed(), "one"))
    await at.until_metric("stackd_creates_in_flight", 1)
    reply = await post(at, "/stacks", request_for("nginx:other"), "one")
    at.cluster.faults.resume()
    assert reply.status == 422
    assert (await first).status == 201


async def test_a_failure_is_not_kept_under_the_key(at: Harness) -> None:
    too_big = request_for("nginx:stable", cpu="100000")
    assert (await post(at, "/stacks", too_big, "one")).status == 503
    assert (await post(at, "/stacks", too_big, "one")).status == 503
    assert (await post(at, "/stacks", seed(), "one")).status == 201


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_that_cannot_be_one_is_a_400(at: Harness, key: str) -> None:
    reply = await post(at, "/stacks", seed(), key)
    assert reply.status == 400
    assert "Idempotency-Key" in reply.error


def same(first: Reply, again: Reply) -> bool:
    return (again.status, again.text, again.headers.get("Idempotency-Replayed")) == (first.status, first.text, "true")


@pytest.mark.parametrize("second", ["one", "two"])
async def test_two_keys_are_a_400(at: Harness, second: str) -> None:
    """Before, the first one counted, and the other was ignored."""
    headers = [("X-API-KEY", KEY), ("Idempotency-Key", "one"), ("Idempotency-Key", second)]
    async with at.session.post(at.url + "/stacks", json=seed(), headers=headers) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"] == "Idempotency-Key must be given once, not 2 times"
    assert not (await at.call("GET", "/stacks")).json["stacks"]


async def test_what_was_answered_stays_so_when_the_limits_have_become_narrower(at: Harness) -> None:
    stack_id = (await at.create())["stack_id"]
    ids = {"stack_ids": ["stack-one", "stack-two"]}
    batch = await post(at, "/stacks/batch-delete", ids, "one")
    extended = await post(at, f"/stacks/{stack_id}/extend", {"ttl": "3h"}, "one")
    assert (batch.status, extended.status) == (202, 200)
    at.reload("batch_delete", max_ids=1)
    at.reload("stacks", max_ttl=60.0)
    assert (await post(at, "/stacks/batch-delete", ids, "two")).status == 413
    assert (await post(at, f"/stacks/{stack_id}/extend", {"ttl": "3h"}, "two")).status == 400
    assert same(batch, await post(at, "/stacks/batch-delete", ids, "one"))
    assert same(extended, await post(at, f"/stacks/{stack_id}/extend", {"ttl": "3h"}, "one"))


@pytest.mark.parametrize("limit", ["creates_per_second", "requests_per_second"])
async def test_whoever_asks_again_gets_the_first_answer_however_often_it_asks(tmp_path: Path, limit: str) -> None:
    async with harness(tmp_path) as at:
        first = await post(at, "/stacks", seed(), "one")
        job = await post(at, "/stacks/batch-delete", {"stack_ids": ["stack-none"]}, "one")
        at.reload("limits", **{limit: 0.001})
        assert (await post(at, "/stacks", seed(), "two")).status == 201, "one is within the limit"
        for _ in range(3):
            assert same(first, await post(at, "/stacks", seed(), "one"))
            assert same(job, await post(at, "/stacks/batch-delete", {"stack_ids": ["stack-none"]}, "one"))
            for key in ("three", "two"):
                refused = await post(at, "/stacks", request_for("nginx:other"), key)
                assert refused.status == (429 if key == "three" else 422)
        assert (await at.call("POST", "/stacks", seed())).status == 429
        assert (await post(at, "/stacks?dry_run=true", seed(), "one")).status == 429, "a dry run has no first answer"


async def test_the_first_answer_needs_no_cluster_and_is_given_during_a_stop(at: Harness) -> None:
    first = await post(at, "/stacks", seed(), "one")
    await at.cluster.faults.refuse()
    with at.stopping():
        assert (await post(at, "/stacks", seed(), "two")).status == 503
        assert same(first, await post(at, "/stacks", seed(), "one"))
    await at.cluster.faults.listen()


async def test_another_body_is_a_422_though_it_is_no_request_at_all(at: Harness) -> None:
    await post(at, "/stacks", seed(), "one")
    await post(at, "/stacks/batch-delete", {"stack_ids": ["stack-none"]}, "one")
    for path in ("/stacks", "/stacks/batch-delete"):
        for body in (b"", b"{", b"[]", b'{"a": 1}'):
            reply = await at.call("POST", path, body, headers={"Idempotency-Key": "one"})
            assert (reply.status, "'one'" in reply.error) == (422, True)


async def test_a_request_that_is_wrong_is_a_400_each_time_and_leaves_its_key_free(at: Harness) -> None:
    for path, right in (("/stacks", seed()), ("/stacks/batch-delete", {"stack_ids": ["stack-none"]})):
        for _ in range(2):
            assert (await post(at, path, {"stack_ids": [], "pod_spec": ""}, "one")).status == 400
        assert (await post(at, path, right, "one")).status in (201, 202)


async def test_the_key_comes_before_the_first_answer(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[[auth.keys]]\nname = "reader"\nsha256 = "{digest(READ_KEY).hex()}"\nscope = "read"\n'
        f'[[auth.keys]]\nname = "another one"\nsha256 = "{digest("sk-another-one").hex()}"\n'
    )
    async with harness(tmp_path, config=config) as at:
        first = await post(at, "/stacks", seed(), "one")
        for key, status in ((None, 401), ("sk-wrong", 401), (READ_KEY, 403)):
            reply = await at.call("POST", "/stacks", seed(), key=key, headers={"Idempotency-Key": "one"})
            assert reply.status == status
        other = await at.call("POST", "/stacks", seed(), key="sk-another-one", headers={"Idempotency-Key": "one"})
        assert (other.status, other.json["stack_id"] != first.json["stack_id"]) == (201, True)
