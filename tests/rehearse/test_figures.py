"""A rehearsal measures what happened: compared with the cluster's own counts and the daemon's own records."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stackd.clock import to_nanoseconds
from stackd.embedded import EmbeddedCluster, Fault
from stackd.rehearse.connection import Answer, Connection, NoAnswer
from stackd.rehearse.outcome import parse_goal
from stackd.rehearse.plan import LABEL
from tests.harness import Harness, fast_cluster, harness, seed
from tests.rehearse.conftest import START_DELAY, kind, plan, rehearsed


def created(cluster: EmbeddedCluster, kind: str = "pods") -> int:
    """How many objects the cluster has created, by its own count."""
    return cluster.counts.requests["create", kind, 201]


async def test_each_stage_takes_what_the_cluster_made_it_take(at: Harness) -> None:
    found = (await rehearsed(at, plan(20))).results
    accepted, scheduled, running = (found.stages[name] for name in ("accepted", "scheduled", "running"))
    assert (found.started, found.failed, created(at.cluster)) == (20, 0, 20)
    assert (accepted.count, scheduled.count, running.count) == (20, 20, 20)
    for sample in found.samples:
        assert sample.scheduled is not None
        assert sample.accepted is not None
        assert sample.running is not None
        assert sample.scheduled <= sample.accepted <= sample.running
        assert sample.running >= START_DELAY
    assert {group.name: group.running.count for group in found.nodes} == {"embedded-worker": 10, "embedded-worker2": 10}


async def test_each_stacks_times_are_those_of_its_timeline(at: Harness) -> None:
    """The timeline remains after the delete; the press comes before its create, on the same clock."""
    found = await rehearsed(at, plan(8))
    for sample in found.results.samples:
        lines = (await at.call("GET", f"/stacks/{sample.stack_id}/timeline")).json["events"]
        told = {line["kind"]: to_nanoseconds(line["at"]) / 1e9 for line in lines}
        pressed = found.rehearsal.wall + sample.pressed
        assert sample.scheduled == pytest.approx(told["scheduled"] - pressed, abs=0.05)
        assert sample.running == pytest.approx(max(told["ready"] - pressed, sample.accepted or 0.0), abs=0.05)
        assert 0 <= told["accepted"] - pressed < told["scheduled"] - pressed


async def test_where_a_creates_time_goes_is_the_daemons_own_count(at: Harness) -> None:
    at.cluster.faults.add(Fault(verb="create", resource="pods", action="latency", seconds=1.0))
    found = (await rehearsed(at, plan(3))).results
    assert found.create_time is not None
    assert found.create_time.creates == 3
    assert 1.0 <= found.create_time.api_server <= found.create_time.total
    assert max(found.create_time.parts().values()) == found.create_time.api_server
    assert found.create_time.total <= found.stages["accepted"].longest + 0.05, (
        "two clocks: the daemon's and the client's"
    )


async def test_players_arrive_at_the_rate(at: Harness) -> None:
    found = (await rehearsed(at, plan(10, rate=20.0))).results
    assert [sample.pressed for sample in found.samples] == pytest.approx([place / 20 for place in range(10)])
    assert found.accepted_rate < 10 / 0.45 + 0.01
    assert created(at.cluster) == 10


async def test_a_mix_is_started_by_weight_and_told_apart(at: Harness) -> None:
    mixed = plan(8, kinds=[kind("nginx:stable", 3), kind("registry.example/ctf/noconfig", 1)])
    found = await rehearsed(at, mixed)
    by_image = {group.name: (group.started, group.failed) for group in found.results.images}
    assert by_image == {"nginx:stable": (6, 0), "registry.example/ctf/noconfig": (2, 2)}
    assert [reason.count for reason in found.results.reasons] == [2]
    assert found.results.reasons[0].example == "failed (CreateContainerConfigError)"
    assert not found.verdict.holds
    assert found.verdict.sentence.startswith("It does not hold: 2 of 8 failed")


async def test_some_players_start_anew_during_the_hold(at: Harness) -> None:
    found = (await rehearsed(at, plan(10, hold=1.0, churn=0.3))).results
    assert (found.started, created(at.cluster), found.deletes.count) == (13, 13, 3)
    assert found.failed == 0
    assert max(sample.pressed for sample in found.samples) > START_DELAY
    assert await at.objects("pods") == {}


async def test_a_lost_answer_makes_no_second_stack(at: Harness) -> None:
    class LosesTheFirst(Connection):
        lost = 0

        async def ask(self, method: str, path: str, *rest: Any, **options: Any) -> Answer:
            answer = await super().ask(method, path, *rest, **options)
            if method == "POST" and path == "/stacks" and LosesTheFirst.lost < 2:
                LosesTheFirst.lost += 1
                raise NoAnswer("the connection was cut")
            return answer

    found = (await rehearsed(at, plan(4), connection=LosesTheFirst)).results
    assert (found.started, found.failed, created(at.cluster)) == (4, 0, 4)
    assert found.troubles == {"create: the connection was cut": 2}
    assert found.stages["accepted"].longest > 0.1, "the player has waited for the second answer"


async def test_status_reads_are_counted_and_timed(at: Harness) -> None:
    before = await _reads(at)
    found = (await rehearsed(at, plan(6, poll=0.05, hold=0.5))).results
    assert found.reads.count == await _reads(at) - before > 6
    assert 0 < found.reads.p50 <= found.reads.longest < 5


async def _reads(at: Harness) -> float:
    return await at.metric("stackd_http_requests_total", method="GET", route="/stacks/{stack_id}/status", code="200")


async def test_a_stack_that_ends_while_it_is_held_is_lost(at: Harness) -> None:
    async def end_one() -> None:
        while not (pods := await at.objects("pods")) or len(at.rows("SELECT 1 FROM stacks")) < 3:
            await asyncio.sleep(0.01)
        for name in pods:  # all of them: the rehearsal has followed the first one's start by then
            await at.until_status(name, "running")
        await at.delete_object("pods", next(iter(pods)))

    found, _ = await asyncio.gather(rehearsed(at, plan(3, hold=2.0)), end_one())
    assert found.results.failed == 1
    assert found.results.reasons[0].example.startswith("ran, and was lost: stopped")
    assert found.results.stages["running"].count == 3


async def test_a_program_that_ends_soon_after_its_start_is_lost_in_the_hold(at: Harness) -> None:
    found = await rehearsed(at, plan(2, kinds=[kind("registry.example/ctf/fail")], hold=1.0))
    assert found.results.failed == 2
    assert found.results.reasons[0].example.endswith("failed (Error)")


async def test_all_that_it_makes_has_its_label_and_nothing_of_it_is_left(at: Harness) -> None:
    other = await at.create(seed() | {"labels": {"team": "7"}})
    seen: set[str | None] = set()

    async def look() -> None:
        while True:
            seen.update(
                stack["labels"].get(LABEL) for stack in (await at.call("GET", "/stacks?fields=labels")).json["stacks"]
            )
            await asyncio.sleep(0.01)

    looking = asyncio.create_task(look())
    found = await rehearsed(at, plan(5, labels={"player": "p{player}"}))
    looking.cancel()
    assert seen == {None, "test"}
    assert found.left == 0
    assert list(await at.objects("pods")) == [other["stack_id"]]


async def test_lives_are_put_off_while_the_rehearsal_goes_on(at: Harness) -> None:
    found = await rehearsed(at, plan(4, ttl=2.0, hold=4.0))
    assert found.results.failed == 0
    assert found.results.stages["running"].count == 4
    assert found.left == 0


async def test_an_address_answers_or_the_stack_does_not_count_as_reached(tmp_path: Path) -> None:
    async with (
        EmbeddedCluster(fast_cluster(serve_node_ports=True, node_port_range=(30000, 32767))) as cluster,
        harness(tmp_path, cluster=cluster) as at,
    ):
        found = await rehearsed(at, plan(4, probe="http"), parse_goal("reachable-max=10s"))
        assert found.results.stages["reachable"].count == 4
        assert found.verdict.holds
        assert found.results.stages["reachable"].p50 >= found.results.stages["running"].p50


async def test_an_address_that_does_not_answer_is_a_failure_with_its_reason(at: Harness) -> None:
    found = await rehearsed(at, plan(2, probe="tcp", patience=3.0))  # no node port is served here
    assert found.results.stages["running"].count == 2
    assert found.results.first_refused == 2
    assert found.results.reasons[0].example.startswith("tcp: connection refused (")
    assert not found.verdict.holds
