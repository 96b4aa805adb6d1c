"""The refill yields to creates that pools serve: only for a limited time, and not if the pool has no stack to give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from stackd.lifecycle.context import Context
from stackd.lifecycle.pace import CROWD, CROWD_SECONDS
from stackd.lifecycle.pools import Pool, Pools
from stackd.lifecycle.refill import YIELD_SECONDS, Refill
from tests.unit.lifecycle.test_pools import numbered, pool_of


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


def waits(refill: Refill, here: Surroundings, pool: Pool, after: float = 0.0) -> float:
    here.clock.seconds += after
    return cast(Any, refill)._pause_for_creates(pool, here.clock.monotonic())  # type: ignore[no-any-return]


def burst(here: Surroundings) -> None:
    for _ in range(CROWD):
        here.pools.pace.begun(here.clock.seconds)
        here.pools.pace.done()


async def test_after_a_burst_it_begins_and_an_empty_pool_does_not_wait_for_that(here: Surroundings) -> None:
    refill = Refill(cast(Context, here))
    burst(here)
    assert waits(refill, here, pool_of(*numbered(1))) == pytest.approx(CROWD_SECONDS)
    assert waits(refill, here, pool_of()) == 0.0
    assert waits(refill, here, pool_of(*numbered(1)), after=1.01 * CROWD_SECONDS) == 0.0


async def test_burst_upon_burst_holds_it_up_for_so_long_at_most(here: Surroundings) -> None:
    refill, pool, held = Refill(cast(Context, here)), pool_of(*numbered(1)), 0.0
    burst(here)
    while waits(refill, here, pool):
        burst(here)
        here.clock.seconds += CROWD_SECONDS / 4
        held += CROWD_SECONDS / 4
    assert held == pytest.approx(YIELD_SECONDS, abs=CROWD_SECONDS)
