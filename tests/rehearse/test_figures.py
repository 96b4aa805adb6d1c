"""A rehearsal measures what happened: compared with the cluster's own counts and the daemon's own records."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from stackd.clock import to_nanoseconds
from stackd.embedded import EmbeddedCluster
from stackd.rehearse.connection import Answer, Connection, no_answer
from stackd.rehearse.outcome import Outcome, parse_goal
from stackd.rehearse.plan import LABEL
from stackd.rehearse.player import Rehearsal
from stackd.rehearse.run import run
from tests.harness import Harness, eventually, fast_cluster, harness, seed
from tests.rehearse.conftest import START_DELAY, connected, kind, plan, rehearsed


def created(at: Harness) -> int:
    """How many pods the cluster has created, by its own count."""
    return at.cluster.counts.requests["create", "pods", 201]


async def reads(at: Harness) -> float:
    return await at.metric("stackd_http_requests_total", method="GET", route="/stacks/{stack_id}/status", code="200")


async def test_each_stage_takes_what_the_cluster_made_it_take(at: Harness) -> None:
    """The timeline remains after the delete; the press comes before its create, on the same clock."""
    before = await reads(at)
    outcome = await rehearsed(at, plan(12, poll=0.05, hold=0.5))
    results = outcome.results
    assert (results.started, results.failed, created(at)) == (12, 0, 12)
    assert [results.stages[name].count for name in ("accepted", "scheduled", "running")] == [12, 12, 12]
    for one in cast(list[dict[str, Any]], outcome.fields()["stacks"]):
        at_daemon = {line["kind"]: to_nanoseconds(line["at"]) / 1e9 for line in await at.timeline(one["stack_id"])}
        pressed = outcome.rehearsal.wall + one["pressed"]
        assert one["running"] >= START_DELAY
        assert one["scheduled"] == pytest.approx(at_daemon["scheduled"] - pressed, abs=0.05)
        assert one["running"] == pytest.approx(max(at_daemon["ready"] - pressed, one["accepted"]), abs=0.05)
        assert 0 <= at_daemon["accepted"] - pressed < at_daemon["scheduled"] - pressed
    assert {group.name: group.running.count for group in results.nodes} == {"embedded-worker": 6, "embedded-worker2": 6}
    assert results.reads.count == await reads(at) - before > 12
    assert 0 < results.reads.p50 <= results.reads.longest < 5


async def test_a_mix_arrives_at_the_rate_by_weight_and_failures_are_grouped(at: Harness) -> None:
    mixed = plan(8, kinds=[kind("nginx:stable", 3), kind("registry.example/ctf/noconfig", 1)], rate=20.0)
    outcome = await rehearsed(at, mixed)
    assert [one.due for one in outcome.rehearsal.attempts] == pytest.approx([place / 20 for place in range(8)])
    assert outcome.results.accepted_rate < 8 / 0.35 + 0.01
    by_image = {group.name: (group.started, group.failed) for group in outcome.results.images}
    assert by_image == {"nginx:stable": (6, 0), "registry.example/ctf/noconfig": (2, 2)}
    (reason,) = outcome.results.reasons
    assert (reason.count, reason.example) == (2, "failed (CreateContainerConfigError)")
    assert not outcome.verdict.holds
    assert outcome.verdict.sentence.startswith("It does not hold: 2 of 8 failed")


async def test_a_lost_answer_makes_no_second_stack(at: Harness) -> None:
    class LosesTheFirst(Connection):
        lost = 0

        async def ask(self, method: str, path: str, *rest: Any, **options: Any) -> Answer:
            answer = await super().ask(method, path, *rest, **options)
            if method == "POST" and path == "/stacks" and LosesTheFirst.lost < 2:
                LosesTheFirst.lost += 1
                return no_answer("the connection was cut")
            return answer

    results = (await rehearsed(at, plan(4), connection=LosesTheFirst)).results
    assert (results.started, results.failed, created(at)) == (4, 0, 4)
    assert results.troubles == {"create: the connection was cut": 2}
    assert results.stages["accepted"].longest > 0.1, "the player has waited for the second answer"


async def test_a_stack_that_ends_while_it_is_held_is_lost(at: Harness) -> None:
    async with connected(at) as connection:
        rehearsal = Rehearsal(plan=plan(3, hold=2.0), connection=connection, ident="test")

        async def end_one() -> None:
            await eventually(lambda: rehearsal.hold_began is not None)
            await at.delete_object("pods", next(iter(await at.objects("pods"))))

        await asyncio.gather(run(rehearsal), end_one())
        results = Outcome(rehearsal, ()).results
    assert (results.failed, results.stages["running"].count) == (1, 3)
    assert results.reasons[0].example.startswith("ran, and was lost: stopped")


async def test_its_stacks_outlive_their_ttl_until_they_are_deleted(at: Harness) -> None:
    other = await at.create(seed() | {"labels": {"team": "7"}})
    seen: set[str | None] = set()

    async def look() -> None:
        while True:
            answer = (await at.call("GET", "/stacks?fields=labels")).json
            seen.update(stack["labels"].get(LABEL) for stack in answer["stacks"])
            await asyncio.sleep(0.01)

    looking = asyncio.create_task(look())
    outcome = await rehearsed(at, plan(4, labels={"player": "p{player}"}, ttl=2.0, hold=3.0))
    looking.cancel()
    assert (outcome.results.failed, outcome.results.stages["running"].count, outcome.remaining) == (0, 4, 0)
    assert seen == {None, "test"}
    assert list(await at.objects("pods")) == [other["stack_id"]]


@pytest.mark.parametrize("serves", [True, False])
async def test_a_stack_is_reached_once_its_address_answers(tmp_path: Path, serves: bool) -> None:
    options = fast_cluster(serve_node_ports=serves)
    async with EmbeddedCluster(options) as cluster, harness(tmp_path, cluster=cluster) as at:
        probe = "http" if serves else "tcp"
        outcome = await rehearsed(at, plan(2, probe=probe, patience=3.0), parse_goal("reachable-max=10s"))
    stages = outcome.results.stages
    assert (stages["running"].count, stages["reachable"].count) == (2, 2 if serves else 0)
    assert outcome.verdict.holds is serves
    if serves:
        assert stages["reachable"].p50 >= stages["running"].p50
    else:
        assert outcome.results.first_refused == 2
        assert outcome.results.reasons[0].example.startswith("tcp: connection refused (")
