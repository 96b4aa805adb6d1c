"""Limits: each refusal names the limit that it hit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stackd.keys import digest
from tests.harness import READ_KEY, harness, request_for, seed


async def test_too_many_requests_of_one_key_are_a_429_and_other_keys_go_on(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[[auth.keys]]\nname = "reader"\nsha256 = "{digest(READ_KEY).hex()}"\nscope = "read"\n')
    async with harness(tmp_path, {"STACKD_LIMITS__REQUESTS_PER_SECOND": "0.01"}, config=config) as at:
        assert (await at.call("GET", "/healthz")).status == 200
        reply = await at.call("GET", "/healthz")
        assert (reply.status, "limits.requests_per_second" in reply.error) == (429, True)
        assert 90 <= int(reply.headers["Retry-After"]) <= 100
        assert (await at.call("GET", "/healthz", key=READ_KEY)).status == 200


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


async def test_one_id_too_many_in_a_batch_is_a_413(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_BATCH_DELETE__MAX_IDS": "3"}) as at:
        ids = [f"stack-{number}" for number in range(4)]
        assert (await at.call("POST", "/stacks/batch-delete", {"stack_ids": ids[1:]})).status == 202
        reply = await at.call("POST", "/stacks/batch-delete", {"stack_ids": ids})
        assert (reply.status, "batch_delete.max_ids" in reply.error) == (413, True)


# ---- required labels, and a limit on how often one value may create stacks


PLAYER = {"STACKD_LIMITS__REQUIRED_LABELS": "player"}
TWICE = {"STACKD_LIMITS__CREATES_PER_LABEL": '{ player = "2/min" }'}
ONE_EACH = {"STACKD_LIMITS__STACKS_PER_LABEL": "{ player = 1 }"}


def of(player: str, **more: Any) -> dict[str, Any]:
    return seed() | {"labels": {"player": player}} | more


@pytest.mark.parametrize(
    "labels", [None, {}, {"team": "7"}, {"Player": "7"}, {"player": ""}, {"PLAYER": "7", "team": "1"}]
)
async def test_a_create_without_a_required_label_is_a_400_that_names_it(tmp_path: Path, labels: Any) -> None:
    body = seed() | ({} if labels is None else {"labels": labels})
    async with harness(tmp_path, PLAYER) as at:
        for path in ("/stacks", "/stacks?dry_run=true"):
            reply = await at.call("POST", path, body)
            assert reply.status == 400
            assert reply.error == "invalid request body: labels: player must be given (limits.required_labels)"
        assert not await at.objects("pods")
        assert (await at.call("POST", "/capacity", seed())).status == 200
        await at.create(of("7"))
        document = (await at.call("GET", "/openapi.json")).json["components"]["schemas"]["Create"]
        assert "labels" in document["required"]
        assert document["properties"]["labels"]["required"] == ["player"]


async def test_one_create_too_many_of_a_player_is_a_429_and_the_others_go_on(tmp_path: Path) -> None:
    async with harness(tmp_path, TWICE) as at:
        for _ in range(2):
            await at.create(of("7"))
        reply = await at.call("POST", "/stacks", of("7"))
        assert reply.status == 429
        assert reply.error == "more than 2/min creates with the label player=7 (limits.creates_per_label)"
        assert 1 <= int(reply.headers["Retry-After"]) <= 60
        dry = await at.call("POST", "/stacks?dry_run=true", of("7"))
        assert (dry.status, dry.error) == (429, reply.error)
        assert len(await at.objects("pods")) == 2
        await at.create(of("8"))
        await at.create()


async def test_what_is_counted_does_not_depend_on_letters_case(tmp_path: Path) -> None:
    async with harness(tmp_path, TWICE) as at:
        await at.create(of("alice"))
        await at.create(seed() | {"labels": {"Player": "ALICE"}})
        for labels in ({"player": "Alice"}, {"PLAYER": "alice", "player": "bob"}, {"pLayer": "aLICE"}):
            assert (await at.call("POST", "/stacks", seed() | {"labels": labels})).status == 429
        for blank in (" alice", "alice ", "alice\t", "alice\u00a0"):
            assert (await at.call("POST", "/stacks", of(blank))).status == 400
        assert len(await at.objects("pods")) == 2


async def test_restarts_and_starts_count_as_creates_of_their_stacks_label(tmp_path: Path) -> None:
    async with harness(tmp_path, TWICE) as at:
        stack_id = (await at.create(of("7")))["stack_id"]
        other = (await at.create(of("8")))["stack_id"]
        await at.until_status(stack_id, "running")
        assert (await at.call("POST", f"/stacks/{stack_id}/start")).status == 200  # it runs already: nothing is created
        assert (await at.call("POST", f"/stacks/{stack_id}/restart")).status == 200
        for verb in ("restart", "start"):
            reply = await at.call("POST", f"/stacks/{stack_id}/{verb}")
            assert (reply.status, "player=7" in reply.error) == (429, True)
        assert (await at.call("POST", "/stacks", of("7"))).status == 429
        await at.until_status(other, "running")
        assert (await at.call("POST", f"/stacks/{other}/stop")).status == 200
        assert (await at.call("POST", f"/stacks/{other}/start")).status == 200
        assert (await at.call("POST", f"/stacks/{other}/restart")).status == 429
        assert (await at.call("POST", "/stacks/stack-0000000000000000/start")).status == 404


async def test_an_answer_that_was_given_before_or_a_stack_that_is_there_is_no_create(tmp_path: Path) -> None:
    async with harness(tmp_path, TWICE | ONE_EACH) as at:
        headers = {"Idempotency-Key": "k"}
        first = (await at.call("POST", "/stacks", of("7"), headers=headers)).json["stack_id"]
        for _ in range(5):
            reply = await at.call("POST", "/stacks", of("7"), headers=headers)
            assert (reply.status, reply.json["stack_id"]) == (201, first)
            assert (await at.call("POST", "/stacks", of("7"))).status == 409
            reply = await at.call("POST", "/stacks", of("7", if_exists="return"))
            assert (reply.status, reply.json["stack_id"]) == (200, first)
        await at.call("DELETE", f"/stacks/{first}")
        await at.create(of("7"))
        assert (await at.call("POST", "/stacks", of("7", if_exists="return"))).status == 429


async def test_a_create_that_the_cluster_refuses_counts(tmp_path: Path) -> None:
    body = request_for("nginx", cpu="2000") | {"labels": {"player": "7"}}
    async with harness(tmp_path, TWICE) as at:
        assert [(await at.call("POST", "/stacks", body)).status for _ in range(3)] == [503, 503, 429]
