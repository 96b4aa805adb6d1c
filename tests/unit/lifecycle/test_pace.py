"""What can wait gives way to creates that pools answer: in their gaps, after a burst, and never for ever."""

from __future__ import annotations

import pytest

from stackd.lifecycle.pace import CROWD, CROWD_SECONDS, GAP_SECONDS, ClaimPace

HOLD = 1.0


def answered(pace: ClaimPace, *times: float) -> None:
    for time in times:
        pace.begun(time)
        pace.ended()


def burst(pace: ClaimPace, at: float, seconds: float = CROWD_SECONDS / 2) -> None:
    answered(pace, *(at + number * seconds / CROWD for number in range(CROWD)))


def test_without_claims_nothing_waits() -> None:
    assert ClaimPace().wait(10.0, 10.0, HOLD) == 0.0


def test_while_a_claim_is_under_way_everything_waits_for_its_end() -> None:
    pace = ClaimPace()
    pace.begun(10.0)
    assert pace.wait(10.0, 10.0, HOLD) == GAP_SECONDS
    pace.ended()
    assert pace.wait(10.0, 10.0, HOLD) == 0.0


@pytest.mark.parametrize("rate", [1.0, 10.0, 45.0, 80.0])
def test_claims_at_a_steady_rate_leave_gaps_to_begin_in(rate: float) -> None:
    pace = ClaimPace()
    for number in range(10 * CROWD):
        answered(pace, number / rate)
        assert pace.wait(number / rate, number / rate, HOLD) == 0.0


def test_what_waits_begins_when_a_burst_is_over() -> None:
    pace = ClaimPace()
    burst(pace, 10.0)
    last = 10.0 + CROWD_SECONDS / 2 * (CROWD - 1) / CROWD
    assert pace.wait(last, 10.0, HOLD) == pytest.approx(CROWD_SECONDS)
    assert pace.wait(last + 0.9 * CROWD_SECONDS, 10.0, HOLD) == pytest.approx(0.1 * CROWD_SECONDS)
    assert pace.wait(last + CROWD_SECONDS, 10.0, HOLD) == 0.0


def test_a_burst_that_does_not_end_holds_nothing_up_for_longer_than_that() -> None:
    pace = ClaimPace()
    for number in range(int(HOLD / CROWD_SECONDS)):
        burst(pace, 10.0 + number * CROWD_SECONDS, CROWD_SECONDS)
    pace.begun(10.0 + HOLD - 0.01)
    assert pace.wait(10.0 + HOLD - 0.001, 10.0, HOLD) == pytest.approx(0.001)
    assert pace.wait(10.0 + HOLD, 10.0, HOLD) == 0.0


def test_there_is_traffic_from_the_first_claim_until_none_has_come_for_a_while() -> None:
    pace = ClaimPace()
    assert not pace.traffic(10.0)
    pace.begun(10.0)
    assert pace.traffic(10.0 + 2 * CROWD_SECONDS)
    pace.ended()
    assert (pace.traffic(10.0 + 0.9 * CROWD_SECONDS), pace.traffic(10.0 + 1.1 * CROWD_SECONDS)) == (True, False)
