"""Idempotency keys: the same request sent twice creates one stack and gets the first response again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stackd.keys import ApiKey, digest
from tests.harness import KEY, READ_KEY, Harness, Reply, request_for, seed, until

OTHER = request_for("nginx:other")
BATCH, IDS = "/stacks/batch-delete", {"stack_ids": ["stack-one", "stack-two"]}


async def post(at: Harness, path: str = "/stacks", body: Any = None, key: str = "one") -> Reply:
    return await at.call("POST", path, seed() if body is None else body, headers={"Idempotency-Key": key})


FIRST = ("stack_id", "created_at", "pod_spec", "ports", "job_id")
"""Fields that a repeated answer has as the first one had them; the others are as they are now."""


def same(first: Reply, again: Reply) -> bool:
    same_text = [again.json.get(name) for name in FIRST] == [first.json.get(name) for name in FIRST]
    return (again.status, again.headers.get("Idempotency-Replayed"), same_text) == (first.status, "true", True)


async def test_the_same_key_and_body_give_the_first_answer_and_one_stack(at: Harness) -> None:
    with at.no_pod_starting():  # which an answer would show
        first, *others = await asyncio.gather(*(post(at) for _ in range(8)))
    assert {(reply.status, reply.text) for reply in (first, *others)} == {(201, first.text)}
    assert sum("Idempotency-Replayed" not in reply.headers for reply in (first, *others)) == 1
    await at.until_status(first.json["stack_id"], "running")
    assert same(first, await post(at))
    assert len(await at.objects("pods")) == 1
    await at.delete(first.json["stack_id"])
    assert (await post(at)).code == "answer_gone"
    assert not await at.objects("pods"), "no second stack"


@pytest.mark.stackd(limits__stacks_per_label='{"player": 1}')
async def test_a_repeated_answer_takes_no_room_for_the_pod_spec(at: Harness) -> None:
    spec = seed()["pod_spec"].replace("name: app", "name: app\n      args: ['" + "x" * 40_000 + "']")
    body = seed() | {"pod_spec": spec, "labels": {"player": "7"}, "if_exists": "return"}
    first = await post(at, body=body)
    answers = [await post(at, body=body, key=f"again-{number}") for number in range(5)]
    assert {(answer.status, answer.json["pod_spec"]) for answer in answers} == {(200, first.json["pod_spec"])}
    assert same(answers[3], await post(at, body=body, key="again-3"))
    assert same(first, await post(at, body=body))
    assert sum(len(str(value)) for row in at.rows("SELECT * FROM idempotency") for value in row) < 10_000


async def test_a_create_under_a_key_goes_on_without_its_client(at: Harness) -> None:
    at.faults.add_fault(action="latency", verb="create", resource="services", seconds=0.5)
    leaving = asyncio.create_task(post(at))
    await until(lambda: at.objects("pods"), lambda seen: len(seen) == 1)
    assert (await post(at, body=OTHER)).status == 422, "another body, while the first create runs"
    leaving.cancel()
    (made,) = await at.until_listed(1)
    again = await post(at)
    assert (again.status, again.json["stack_id"]) == (201, made)


async def test_a_wrong_request_leaves_its_key_free(at: Harness) -> None:
    for _ in range(2):
        assert (await post(at, body=request_for("nginx:stable", cpu="100000"))).status == 503
        for path in ("/stacks", BATCH):
            assert (await post(at, path, {"stack_ids": [], "pod_spec": ""})).status == 400
    assert [(await post(at)).status, (await post(at, BATCH, IDS)).status] == [201, 202]
    for path in ("/stacks", BATCH):
        for body in (b"", b"{", b"[]", b'{"a": 1}'):
            reply = await post(at, path, body)
            assert (reply.status, "'one'" in reply.error) == (422, True), "though it is no request at all"


async def test_a_key_that_cannot_be_one_or_two_keys_are_a_400(at: Harness) -> None:
    for key in ("", "x" * 256):
        reply = await post(at, key=key)
        assert (reply.status, "Idempotency-Key" in reply.error) == (400, True)
    for second in ("one", "two"):
        headers = [("X-API-KEY", KEY), ("Idempotency-Key", "one"), ("Idempotency-Key", second)]
        async with at.session.post(at.url + "/stacks", json=seed(), headers=headers) as answer:
            assert (answer.status, "given once" in await answer.text()) == (400, True)
    assert not await at.listed()


@pytest.mark.parametrize("limit", ["creates_per_second", "requests_per_second"])
async def test_whoever_asks_again_gets_the_first_answer_however_often_it_asks(at: Harness, limit: str) -> None:
    first, job = await post(at), await post(at, BATCH, IDS)
    at.reload("limits", **{limit: 0.001})
    assert (await post(at, key="two")).status == 201, "one is within the limit"
    for _ in range(3):
        assert same(first, await post(at))
        assert same(job, await post(at, BATCH, IDS))
        assert (await post(at, body=OTHER, key="three")).status == 429
        assert (await post(at, body=OTHER, key="two")).status == 422
    assert (await at.call("POST", "/stacks", seed())).status == 429
    assert (await post(at, "/stacks?dry_run=true")).status == 429, "a dry run has no first answer"


async def test_the_first_answer_needs_no_cluster(at: Harness) -> None:
    first = await post(at)
    await at.faults.refuse()
    with at.stopping():
        assert (await post(at, key="two")).status == 503
        assert same(first, await post(at))
    await at.faults.listen()


async def test_the_key_comes_before_the_first_answer(at: Harness) -> None:
    one, another = (ApiKey(name=key, sha256=digest(key)) for key in (KEY, "sk-another-one"))
    at.put_keys_in_force(one, another, ApiKey(name="reader", sha256=digest(READ_KEY), scope="read"))
    first, headers = await post(at), {"Idempotency-Key": "one"}
    for key, status in ((None, 401), ("sk-wrong", 401), (READ_KEY, 403), ("sk-another-one", 201)):
        reply = await at.call("POST", "/stacks", seed(), key=key, headers=headers)
        assert (reply.status, reply.json.get("stack_id") != first.json["stack_id"]) == (status, True)
