"""The goals of a rehearsal, its verdict, and the sizes of a plan; without a daemon."""

from __future__ import annotations

import pytest

from stackd.rehearse import measure
from stackd.rehearse.measure import Results, Stage
from stackd.rehearse.outcome import Verdict, judge, parse_goal
from stackd.rehearse.plan import parse_rate, parse_share, parse_weighted


def results(*running: float | None, bottleneck: tuple[str, ...] = ()) -> Results:
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
        ("running-p50=5s", True), ("running-p50=4900ms", False), ("running-p90=9s", True), ("running-max=9s", False),
        ("running-p99.9=9s", False), ("accepted-max=101ms", True), ("failed=0", True),
    ],
)  # fmt: skip
def test_a_percentile_is_that_of_the_nearest_rank(goal: str, met: bool) -> None:
    assert verdict(results(*map(float, range(1, 11))), goal).holds is met


def test_what_never_ran_or_was_stopped_early_does_not_hold_and_the_verdict_says_what_limits_it() -> None:
    measured = results(*[1.0] * 94, *[None] * 6)
    missed = verdict(measured, "failed=10%", "running-p95=1h")
    assert (missed.holds, "6 of 100 were never running" in missed.sentence) == (False, True)
    assert verdict(measured, "failed=10%", "running-p94=1s").holds
    assert verdict(measured).sentence.startswith("It does not hold: 6 of 100 failed: stack-")
    (reason,) = measured.reasons  # sentences that differ in ids and numbers only are one reason
    assert reason.count == 6
    slow = verdict(results(1.0, bottleneck=("its event loop was up to 3.00 s late",)))
    assert (slow.holds, slow.sentence.endswith("its event loop was up to 3.00 s late.")) == (True, True)
    interrupted = verdict(results(1.0, 2.0), interrupted=True)
    assert (interrupted.holds, interrupted.sentence.startswith("No verdict: stopped early")) == (False, True)


def test_rates_shares_and_weights_are_read_as_people_write_them() -> None:
    assert (parse_rate("20/s"), parse_rate("300/min"), parse_share("10%"), parse_share("0.1")) == (20, 5, 0.1, 0.1)
    assert (parse_weighted("web-1=3"), parse_weighted("a=b.yaml")) == (("web-1", 3), ("a=b.yaml", 1))
