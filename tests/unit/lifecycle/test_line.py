"""Creates that wait for the next stack of an empty pool get stacks in the order in which they came."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from stackd.lifecycle.assign import next_is_sooner
from stackd.lifecycle.pools import SHORT_OF_CAPACITY_SECONDS, Pools
from stackd.model import StackStatus
from tests.unit.lifecycle.test_pools import numbered, pool_of, waits, web

CREATING = StackStatus.CREATING


def starting(pools: Pools, *numbers: int) -> None:
    pools.load(numbered(*numbers, status=CREATING))


def comes_to_run(pools: Pools, number: int) -> None:
    (before,) = numbered(number, status=CREATING)
    (after,) = numbered(number)
    pools.row_changed(before, after)


async def test_as_many_are_called_as_there_are_stacks_the_first_first() -> None:
    pools = Pools()
    starting(pools, 1, 2)
    with pools.in_line("now") as first, pools.in_line("now") as second, pools.in_line("now") as third:
        comes_to_run(pools, 1)
        assert [waiting.notified.is_set() for waiting in (first, second, third)] == [True, False, False]
        assert [pools.has_turn("now", waiting) for waiting in (first, second, third)] == [True, False, False]
        comes_to_run(pools, 2)
        assert [waiting.notified.is_set() for waiting in (first, second, third)] == [True, True, False]


async def test_one_that_leaves_leaves_its_turn_to_the_next_one() -> None:
    pools = Pools()
    starting(pools, 1)
    with ExitStack() as leaves:
        leaves.enter_context(pools.in_line("now"))
        with pools.in_line("now") as second:
            comes_to_run(pools, 1)
            assert not second.notified.is_set()
            leaves.close()
            assert second.notified.is_set()
            assert pools.has_turn("now", second)
    assert pools.waiting("now") == 0


async def test_one_that_is_taking_its_stack_waits_for_no_other_one() -> None:
    pools = Pools()
    starting(pools, 1, 2)
    with pools.in_line("now") as first, pools.in_line("now") as second:
        comes_to_run(pools, 1)
        first.taking = pools.has_turn("now", first)
        assert pools.take("now") is not None
        assert (pools.waiting("now"), pools.free("now"), pools.has_turn("now", second)) == (1, 0, False)
        comes_to_run(pools, 2)
        assert pools.has_turn("now", second)


async def test_stacks_of_another_template_call_nobody() -> None:
    pools = Pools()
    with pools.in_line("now") as waiting:
        pools.row_changed(None, waits(digest="other"))
        assert not waiting.notified.is_set()


def test_so_many_are_on_their_way_to_run() -> None:
    rows = [
        *numbered(1, 2, status=CREATING),
        *numbered(3, status=CREATING, accepted=False),  # one of those that ``making`` counts
        *numbered(4, status=CREATING, status_reason="ErrImagePull"),
        *numbered(5, status=CREATING, deleting_since=1),
        *numbered(6, status=CREATING, digest="old"),
        *numbered(7),
    ]
    pool = pool_of(*rows, making=2)
    assert pool.coming("now") == 4
    pool.failed("why", 0.0)
    assert pool.coming("now") == 0


@pytest.mark.parametrize(
    ("coming", "waiting", "sooner"), [(0, 0, False), (1, 0, False), (2, 0, True), (8, 3, True), (8, 4, False)]
)
def test_the_next_one_is_waited_for_where_it_comes_before_one_that_is_begun_now(
    coming: int, waiting: int, *, sooner: bool
) -> None:
    assert next_is_sooner(pool_of(making=coming), "now", waiting, 10.0) is sooner


def test_after_one_has_waited_in_vain_nobody_waits_for_a_while() -> None:
    pool = pool_of(making=8)
    pool.in_vain_until = 40.0
    assert (next_is_sooner(pool, "now", 0, 39.9), next_is_sooner(pool, "now", 0, 40.0)) == (False, True)


def test_a_pool_runs_low_that_is_less_than_half_full_and_does_not_fail() -> None:
    pools = Pools()
    pools.load(numbered(1, 2, 3))
    assert not pools.low([web(pool=6), web(pool=0)])
    assert pools.low([web(pool=7)])
    pools.of("web-1").failed("why", 0.0)
    assert not pools.low([web(pool=7)])


def test_room_is_short_for_a_while_after_something_found_none() -> None:
    pools = Pools()
    assert not pools.short_of_capacity(10.0)
    pools.capacity_lacked(10.0)
    assert pools.short_of_capacity(10.0 + 0.9 * SHORT_OF_CAPACITY_SECONDS)
    assert not pools.short_of_capacity(10.0 + SHORT_OF_CAPACITY_SECONDS)
