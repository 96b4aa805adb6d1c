"""The goals of a rehearsal, its verdict, and the sizes of a plan; without a daemon."""

from __future__ import annotations

import pytest

from stackd.rehearse import measure
from stackd.rehearse.measure import Results, Stage
from stackd.rehearse.outcome import Verdict, judge, parse_goal
from stackd.rehearse.plan import parse_rate, parse_share, parse_weighted


def results(running: list[float | None], *, bottleneck: tuple[str, ...] = ()) -> Results:
    """The results of a rehearsal whose stacks took this long to run; None means never."""
    attempts = []
    for player, seconds in enumerate(running):
        attempt = measure.Attempt(player=player, kind="pod.yaml", due=10.0 + player)
        attempt.stack_id = f"stack-{player:016x}"
        attempt.reached(Stage.ACCEPTED, attempt.due + 0.1)
        if seconds is None:
            attempt.fail(Stage.RUNNING, f"{attempt.stack_id} is failed after {player} s")
        else:
            attempt.reached(Stage.RUNNING, attempt.due + seconds)
        attempts.append(attempt)
    return measure.measure(attempts, bottleneck=bottleneck)


def verdict(of: Results, *texts: str, interrupted: bool = False) -> Verdict:
    return judge(of, [parse_goal(text) for text in texts], asked_for=of.started, interrupted=interrupted)


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        ("running-p50=5s", True), ("running-p50=4900ms", False), ("running-p90=9s", True), ("running-max=10s", True),
        ("running-max=9s", False), ("running-p99.9=9s", False), ("accepted-max=101ms", True), ("failed=0", True),
    ],
)  # fmt: skip
def test_a_percentile_is_that_of_the_nearest_rank(goal: str, met: bool) -> None:
    measured = verdict(results([float(seconds) for seconds in range(1, 11)]), goal)
    assert measured.holds is met
    assert measured.goals[-1].met is met


def test_a_stack_that_never_ran_took_for_ever() -> None:
    measured = results([1.0] * 94 + [None] * 6)
    assert measured.stages["running"].p95 == pytest.approx(1.0)
    missed = verdict(measured, "failed=10%", "running-p95=1h")
    assert not missed.holds
    assert missed.sentence == "It does not hold: 6 of 100 were never running (goal running-p95=1h)."
    assert verdict(measured, "failed=10%", "running-p94=1s").holds


def test_the_verdict_says_what_limits_it() -> None:
    measured = results([1.0, None, None])
    assert verdict(measured).sentence == "It does not hold: 2 of 3 failed: stack-0000000000000001 is failed after 1 s."
    assert [(reason.count, reason.example) for reason in measured.reasons] == [
        (2, "stack-0000000000000001 is failed after 1 s")
    ], "sentences that differ in ids and numbers only are one reason"
    assert verdict(measured, "failed=70%").holds
    slow = verdict(results([1.0], bottleneck=("its event loop was up to 3.00 s late",)))
    caveat = " But this machine may have been the bottleneck: its event loop was up to 3.00 s late."
    assert (slow.holds, slow.sentence.endswith(caveat)) == (True, True)
    interrupted = verdict(results([1.0, 2.0]), interrupted=True)
    assert not interrupted.holds
    assert interrupted.sentence == "No verdict: stopped early, with 2 of 2 stacks started and 2 running."


def test_rates_shares_and_weights_are_read_as_people_write_them() -> None:
    assert (parse_rate("20/s"), parse_rate("300/min")) == (20, 5)
    assert (parse_share("10%"), parse_share("0.1")) == (0.1, 0.1)
    assert (parse_weighted("web-1=3"), parse_weighted("web-1"), parse_weighted("a=b.yaml")) == (
        ("web-1", 3), ("web-1", 1), ("a=b.yaml", 1),
    )  # fmt: skip
