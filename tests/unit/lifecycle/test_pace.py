"""Background work yields to creates that pools serve: it runs in their gaps and after a burst, and does run at last.

The emptier a pool, the larger the refill's share of what the cluster can do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from stackd.lifecycle.context import Context
from stackd.lifecycle.pace import (
    AT_ONCE,
    AT_ONCE_IN_TRAFFIC,
    AT_ONCE_NEARLY_EMPTY,
    AT_ONCE_NEARLY_FULL,
    CROWD,
    CROWD_SECONDS,
    GAP_SECONDS,
    AssignPace,
    refills_at_once,
)
from stackd.lifecycle.pools import Pool, Pools
from stackd.lifecycle.refill import YIELD_SECONDS, Refill
from stackd.tokenbucket import A_SECOND, TokenBucket
from tests.unit.lifecycle.test_pools import numbered, pool_of

HOLD = 1.0


def answered(pace: AssignPace, *times: float) -> None:
    for time in times:
        pace.begun(time)
        pace.done()


def burst(pace: AssignPace, at: float, seconds: float = CROWD_SECONDS / 2) -> None:
    answered(pace, *(at + number * seconds / CROWD for number in range(CROWD)))


def test_while_an_assign_is_under_way_everything_waits_for_its_end() -> None:
    pace = AssignPace()
    pace.begun(10.0)
    assert pace.wait(10.0, 10.0, HOLD) == GAP_SECONDS
    pace.done()
    assert pace.wait(10.0, 10.0, HOLD) == 0.0


@pytest.mark.parametrize("rate", [1.0, 10.0, 45.0, 80.0])
def test_assigns_at_a_steady_rate_leave_gaps_to_begin_in(rate: float) -> None:
    pace = AssignPace()
    for number in range(10 * CROWD):
        answered(pace, number / rate)
        assert pace.wait(number / rate, number / rate, HOLD) == 0.0


def test_what_waits_begins_when_a_burst_is_over() -> None:
    pace = AssignPace()
    burst(pace, 10.0)
    last = 10.0 + CROWD_SECONDS / 2 * (CROWD - 1) / CROWD
    assert pace.wait(last, 10.0, HOLD) == pytest.approx(CROWD_SECONDS)
    assert pace.wait(last + 0.9 * CROWD_SECONDS, 10.0, HOLD) == pytest.approx(0.1 * CROWD_SECONDS)
    assert pace.wait(last + CROWD_SECONDS, 10.0, HOLD) == 0.0


def test_a_burst_that_does_not_end_holds_nothing_up_for_longer_than_that() -> None:
    pace = AssignPace()
    for number in range(int(HOLD / CROWD_SECONDS)):
        burst(pace, 10.0 + number * CROWD_SECONDS, CROWD_SECONDS)
    pace.begun(10.0 + HOLD - 0.01)
    assert pace.wait(10.0 + HOLD - 0.001, 10.0, HOLD) == pytest.approx(0.001)
    assert pace.wait(10.0 + HOLD, 10.0, HOLD) == 0.0


@pytest.mark.parametrize(
    ("full", "traffic", "at_once"),
    [
        (0.0, False, AT_ONCE), (0.9, False, AT_ONCE), (0.9, True, AT_ONCE_NEARLY_FULL),
        (0.75, True, AT_ONCE_NEARLY_FULL), (0.74, True, AT_ONCE_IN_TRAFFIC), (0.5, True, AT_ONCE_IN_TRAFFIC),
        (0.49, True, AT_ONCE), (0.25, True, AT_ONCE), (0.24, True, AT_ONCE_NEARLY_EMPTY),
        (0.0, True, AT_ONCE_NEARLY_EMPTY),
    ],
)  # fmt: skip
def test_the_emptier_a_pool_is_that_creates_take_from_the_more_is_made_at_a_time(
    full: float, *, traffic: bool, at_once: int
) -> None:
    assert refills_at_once(full, traffic=traffic) == at_once


# ---- The rate limit of the refill: this many per second, and one second's worth at once


def test_the_allowance_is_so_many_per_second_and_a_seconds_worth_at_once() -> None:
    allowance = TokenBucket(0.0, 1.0)
    assert (allowance.take_some(100.0, 10.0, A_SECOND, 30), allowance.take_some(100.0, 10.0, A_SECOND, 1)) == (10, 0)
    taken = allowance.take_some(100.25, 10.0, A_SECOND, 30)
    assert (taken, round(allowance.wait(100.25, 10.0, A_SECOND), 3)) == (2, 0.05)
    slow = TokenBucket(0.0, 1.0)
    assert slow.take_some(1.0, 0.5, A_SECOND, 9) == 1


# ---- The refill yields to creates that pools serve: only for a limited time, and not if the pool has no s


@dataclass
class Clock:
    seconds: float = 100.0

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Surroundings:
    """The parts of a context that the rule reads."""

    clock: Clock = field(default_factory=Clock)
    pools: Pools = field(default_factory=Pools)


@pytest.fixture
def here() -> Surroundings:
    return Surroundings()


def pause_of(refill: Refill, here: Surroundings, pool: Pool, after: float = 0.0) -> float:
    here.clock.seconds += after
    return cast(Any, refill)._pause_for_creates(pool, here.clock.monotonic())  # type: ignore[no-any-return]


def burst_at(here: Surroundings) -> None:
    for _ in range(CROWD):
        here.pools.pace.begun(here.clock.seconds)
        here.pools.pace.done()


async def test_after_a_burst_it_begins_and_an_empty_pool_does_not_wait_for_that(here: Surroundings) -> None:
    refill = Refill(cast(Context, here))
    burst_at(here)
    assert pause_of(refill, here, pool_of(*numbered(1))) == pytest.approx(CROWD_SECONDS)
    assert pause_of(refill, here, pool_of()) == 0.0
    assert pause_of(refill, here, pool_of(*numbered(1)), after=1.01 * CROWD_SECONDS) == 0.0


async def test_burst_upon_burst_holds_it_up_for_so_long_at_most(here: Surroundings) -> None:
    refill, pool, held = Refill(cast(Context, here)), pool_of(*numbered(1)), 0.0
    burst_at(here)
    while pause_of(refill, here, pool):
        burst_at(here)
        here.clock.seconds += CROWD_SECONDS / 4
        held += CROWD_SECONDS / 4
    assert held == pytest.approx(YIELD_SECONDS, abs=CROWD_SECONDS)
