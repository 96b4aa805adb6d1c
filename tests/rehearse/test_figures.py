"""A rehearsal measures what happened: compared with the cluster's own counts and the daemon's own records."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from stackd.clock import to_nanoseconds
from stackd.embedded import EmbeddedCluster
from stackd.rehearse import run as running
from stackd.rehearse.connection import Answer, Connection, no_answer
from stackd.rehearse.outcome import Outcome, parse_goal
from tests.harness import Harness, eventually, fast_cluster, harness, until
from tests.rehearse.conftest import START_DELAY, holding, kind, plan, rehearsed

CLOCK_SECONDS = 0.05
"""By how much the monotonic clock and the wall clock may have drifted apart within a test."""


def created(at: Harness) -> int:
    """How many pods the cluster has created, by its own count."""
    return at.cluster.counts.requests["create", "pods", 201]


async def reads(at: Harness) -> float:
    return await at.metric("stackd_http_requests_total", method="GET", route="/stacks/{stack_id}/status", code="200")


async def test_each_stage_takes_what_the_cluster_made_it_take(at: Harness) -> None:
    before = await reads(at)
    outcome = await rehearsed(at, plan(12, poll=0.05, hold=0.5))
    results = outcome.results
    assert (results.started, results.failed, created(at)) == (12, 0, 12)
    assert [results.stages[name].count for name in ("accepted", "scheduled", "running")] == [12, 12, 12]
    for one in cast(list[dict[str, Any]], outcome.fields()["stacks"]):
        at_daemon = {line["kind"]: to_nanoseconds(line["at"]) / 1e9 for line in await at.timeline(one["stack_id"])}
        pressed = outcome.rehearsal.wall + one["pressed"]
        assert one["running"] >= max(START_DELAY, at_daemon["ready"] - pressed - CLOCK_SECONDS)
        assert one["scheduled"] >= at_daemon["scheduled"] - pressed - CLOCK_SECONDS
    assert {group.name: group.running.count for group in results.nodes} == {"embedded-worker": 6, "embedded-worker2": 6}
    assert results.reads.count == await reads(at) - before > 12


async def test_a_mix_arrives_at_the_rate_by_weight_and_failures_are_grouped(at: Harness) -> None:
    mixed = plan(8, kinds=[kind("nginx:stable", 3), kind("registry.example/ctf/noconfig", 1)], rate=20.0)
    outcome = await rehearsed(at, mixed)
    assert [one.due for one in outcome.rehearsal.attempts] == pytest.approx([place / 20 for place in range(8)])
    by_image = {group.name: (group.started, group.failed) for group in outcome.results.images}
    assert by_image == {"nginx:stable": (6, 0), "registry.example/ctf/noconfig": (2, 2)}
    (reason,) = outcome.results.reasons
    assert (reason.count, reason.example) == (2, "failed (CreateContainerConfigError)")
    assert not outcome.verdict.holds


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


async def test_a_stack_that_ends_while_it_is_held_is_lost(at: Harness) -> None:
    async with holding(at, plan(3, hold=60.0)) as rehearsal:
        await at.delete_object("pods", next(iter(await at.objects("pods"))))
        await eventually(lambda: any(one.lost for one in rehearsal.attempts))
    results = Outcome(rehearsal, ()).results
    assert (results.failed, results.stages["running"].count) == (1, 3)
    assert results.reasons[0].example.startswith("ran, and was lost: stopped")


async def test_its_stacks_are_extended_until_they_are_deleted(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "CHECKS", 600)
    other = await at.create(labels={"team": "7"})
    async with holding(at, plan(4, labels={"player": "p{player}"}, ttl=60.0, hold=60.0)) as rehearsal:
        ends = {one["stack_id"]: one["ttl_expires_at"] for one in await at.stacks()}
        rehearsal.began -= 31  # half of their time is over
        await until(at.stacks, lambda now: sum(one["ttl_expires_at"] > ends[one["stack_id"]] for one in now) == 4)
    assert (Outcome(rehearsal, ()).results.failed, rehearsal.remaining) == (0, 0)
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
