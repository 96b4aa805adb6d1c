"""Labels that must be given, and how often stacks of one value may be made: a player who hammers "start" is told to wait."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stackd.errors import Conflict, TooManyRequests
from stackd.units import parse_frequency
from stackd.web.limits import SWEEP_ABOVE, LabelRates
from tests.api.test_limits import Hands
from tests.harness import harness, request_for, seed

PLAYER = {"STACKD_LIMITS__REQUIRED_LABELS": "player"}
TWICE = {"STACKD_LIMITS__CREATES_PER_LABEL": '{ player = "2/min" }'}
ONE_EACH = {"STACKD_LIMITS__STACKS_PER_LABEL": "{ player = 1 }"}


def of(player: str, **more: Any) -> dict[str, Any]:
    return seed() | {"labels": {"player": player}} | more


def rates(clock: Hands, **labels: str) -> LabelRates:
    made = LabelRates(clock)
    made.replace(labels)
    return made


def create(counted: LabelRates, **labels: str) -> None:
    with counted.create(labels):
        pass


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


async def test_many_at_once_are_counted_one_by_one(tmp_path: Path) -> None:
    async with harness(tmp_path, TWICE) as at:
        replies = await asyncio.gather(*(at.call("POST", "/stacks", of("7")) for _ in range(20)))
        assert sorted(reply.status for reply in replies) == [201] * 2 + [429] * 18


async def test_restarts_and_starts_count_as_creates_of_their_stacks_label(tmp_path: Path) -> None:
    async with harness(tmp_path, TWICE) as at:
        stack_id = (await at.create(of("7")))["stack_id"]
        other = (await at.create(of("8")))["stack_id"]
        await at.until_status(stack_id, "running")
        assert (await at.call("POST", f"/stacks/{stack_id}/start")).status == 200  # it runs: nothing is made
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


def test_the_window_slides_and_retry_after_is_when_there_is_room_again() -> None:
    clock = Hands()
    counted = rates(clock, player="2/10s")
    create(counted, player="7")
    clock.at = 4.0
    create(counted, player="7")
    with pytest.raises(TooManyRequests) as refused:
        create(counted, player="7")
    assert refused.value.retry_after == 6
    clock.at = 9.9
    with pytest.raises(TooManyRequests) as refused:
        counted.check({"player": "7"})
    assert refused.value.retry_after == 1
    clock.at = 10.0
    create(counted, player="7")
    with pytest.raises(TooManyRequests):
        create(counted, player="7")
    clock.at = 100.0
    for _ in range(2):
        create(counted, player="7")
    with pytest.raises(TooManyRequests):
        create(counted, player="7")


def test_a_refusal_by_one_label_counts_for_no_other() -> None:
    counted = rates(Hands(), player="1/min", team="5/min")
    create(counted, player="7", team="a")
    for _ in range(10):
        with pytest.raises(TooManyRequests, match="player=7"):
            create(counted, player="7", team="a")
    for number in range(4):
        create(counted, player=f"p{number}", team="a")
    with pytest.raises(TooManyRequests, match="team=a"):
        create(counted, player="new", team="a")


def test_what_contradicts_the_present_state_made_nothing() -> None:
    counted = rates(Hands(), player="1/min")
    for error in (Conflict, Conflict, ValueError):
        with pytest.raises(error), counted.create({"player": "7"}):
            raise error("no")
    with pytest.raises(TooManyRequests):
        create(counted, player="7")


def test_a_reload_keeps_what_was_counted_under_a_rate_that_stays() -> None:
    counted = rates(Hands(), player="1/min", team="1/min")
    create(counted, player="7", team="a")
    counted.replace({"player": "1/min", "team": "2/min"})
    with pytest.raises(TooManyRequests, match="player"):
        create(counted, player="7")
    for _ in range(2):
        create(counted, team="a")
    counted.replace({})
    create(counted, player="7", team="a")


def test_values_that_were_not_seen_lately_are_forgotten() -> None:
    clock = Hands()
    counted = rates(clock, player="3/min")
    for number in range(20 * SWEEP_ABOVE):
        clock.at += 1.0
        create(counted, player=f"p{number}")
    assert len(counted._made) <= SWEEP_ABOVE + 1


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [
        ("6/min", 6, 60),
        ("1/s", 1, 1),
        ("20/10min", 20, 600),
        ("100/h", 100, 3600),
        ("1/day", 1, 86400),
        ("5 / 30 s", 5, 30),
    ],
)
def test_rates_are_read_as_people_write_them(text: str, count: int, seconds: float) -> None:
    frequency = parse_frequency(text)
    assert (frequency.count, frequency.seconds, str(frequency)) == (count, seconds, text)


@pytest.mark.parametrize(
    "text", ["", "6", "6/", "/min", "0/min", "-1/min", "6/0s", "6/fortnight", "1.5/min", "6/2day", "99999/s"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r'"'):
        parse_frequency(text)
