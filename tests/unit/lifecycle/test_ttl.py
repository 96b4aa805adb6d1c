"""Expiry: which stacks expire, when, and what their rows say by then."""

from __future__ import annotations

import pytest

from stackd.clock import NANOSECONDS
from stackd.lifecycle.ttl import Expiries, sort_out
from stackd.model import DeleteReason, Stack
from tests.store.building import START, TestClock
from tests.unit.lifecycle.situations import NAME, NOW, OTHER, STOPPED, stack


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def expiries(clock: TestClock) -> Expiries:
    return Expiries(clock)


def ending(seconds: float, name: str = NAME) -> Stack:
    return stack(stack_id=name, ttl_expires_at=START + round(seconds * NANOSECONDS))


def test_a_stack_comes_up_at_its_time_and_not_before(expiries: Expiries, clock: TestClock) -> None:
    for name, seconds in (("third", 70.0), (NAME, 60.0), ("second", 69.0)):
        expiries.follow(None, ending(seconds, name))
    clock.advance(59.9)
    assert expiries.take() == []
    clock.advance(0.1)
    assert expiries.take() == [NAME]
    assert expiries.take() == []
    clock.advance(10)
    assert expiries.take() == ["second", "third"]


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_the_wall_clock_counts_also_after_it_was_set(expiries: Expiries, clock: TestClock, jump: int) -> None:
    expiries.follow(None, ending(60))
    clock.wall += jump * NANOSECONDS
    assert expiries.take() == ([NAME] if jump > 0 else [])


def test_what_could_not_be_ended_comes_up_the_next_time(expiries: Expiries, clock: TestClock) -> None:
    expiries.follow(None, ending(60))
    clock.advance(60)
    for _ in range(20):
        assert expiries.take() == [NAME]
        expiries.again([NAME])
    assert expiries.take() == [NAME]
    expiries.done([NAME])
    assert expiries.take() == []


def test_an_earlier_end_counts_and_a_later_one_is_seen_when_the_old_one_comes(
    expiries: Expiries, clock: TestClock
) -> None:
    first, earlier, later = ending(60), ending(30), ending(90)
    expiries.follow(None, first)
    expiries.follow(first, earlier)
    expiries.follow(earlier, later)
    clock.advance(30)
    assert expiries.take() == [NAME]
    overdue, put_off = sort_out([NAME], {NAME: later}.get, clock.now())
    assert (overdue, put_off) == ([], [later])
    expiries.done([NAME])
    expiries.put(later)
    clock.advance(59)
    assert expiries.take() == []
    clock.advance(1)
    assert expiries.take() == [NAME]


def test_a_change_of_the_row_that_leaves_its_end_brings_nothing_up(expiries: Expiries, clock: TestClock) -> None:
    before = ending(60)
    expiries.follow(None, before)
    clock.advance(60)
    expiries.done(expiries.take())
    expiries.follow(before, stack(ttl_expires_at=before.ttl_expires_at, status_reason="NotReady"))
    expiries.follow(before, None)
    assert expiries.take() == []


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (None, "forget"), (stack(ttl_expires_at=NOW), "end"), (stack(ttl_expires_at=NOW - 1), "end"),
        (stack(ttl_expires_at=NOW + 1), "later"), (stack(ttl_expires_at=NOW, ended=True), "end"),
        (stack(ttl_expires_at=NOW, accepted=False), "end"),
        (stack(ttl_expires_at=NOW, desired=STOPPED.desired), "end"),
        (stack(ttl_expires_at=NOW, deleting_since=NOW - 1, delete_reason=DeleteReason.REQUEST), "forget"),
    ],
)  # fmt: skip
def test_the_row_has_the_last_word(row: Stack | None, verdict: str) -> None:
    rows = {} if row is None else {NAME: row}
    overdue, later = sort_out([NAME, OTHER], rows.get, NOW)
    assert overdue == ([NAME] if verdict == "end" else [])
    assert later == ([row] if verdict == "later" else [])
