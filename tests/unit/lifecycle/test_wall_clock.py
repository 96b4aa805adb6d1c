"""When the wall clock is trusted: the API server's dates, and jumps between them."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from stackd.clock import NANOSECONDS
from stackd.lifecycle.wall_clock import WallClock
from tests.store.building import START, TestClock

YEARS = 12 * 365 * 86_400.0


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def wall_clock(clock: TestClock) -> WallClock:
    return WallClock(clock)


def date(seconds: float = 0.0) -> str:
    return formatdate(START / NANOSECONDS + seconds, usegmt=True)


def jump(clock: TestClock, seconds: float) -> None:
    clock.wall += round(seconds * NANOSECONDS)


def test_before_the_first_answer_the_clock_is_not_believed_and_nothing_is_said(wall_clock: WallClock) -> None:
    assert (wall_clock.trusted, wall_clock.trouble()) == (False, "")


@pytest.mark.parametrize(
    ("ahead", "took", "trusted", "says"),
    [
        (0.0, 0.0, True, ""), (60.0, 0.0, True, ""), (-60.0, 0.0, True, ""),
        (90.0, 0.0, False, "the clock of this machine is 89 s ahead of the API server's"),
        (-90.0, 0.0, False, "the clock of this machine is 90 s behind the API server's"), (90.0, 40.0, True, ""),
        (YEARS, 5.0, False, "ahead of the API server's: no stack expires until they agree"),
    ],
)  # fmt: skip
def test_the_clocks_may_differ_by_a_minute_beside_the_time_that_the_answer_took(
    wall_clock: WallClock, clock: TestClock, ahead: float, took: float, trusted: bool, says: str
) -> None:
    jump(clock, ahead)
    wall_clock.observe_date(date(), took)
    assert wall_clock.trusted is trusted
    assert says in wall_clock.trouble()
    assert bool(says) is bool(wall_clock.trouble())


@pytest.mark.parametrize("seconds", [YEARS, 6.0, -6.0, -YEARS])
def test_a_clock_that_was_set_is_believed_again_when_the_api_server_agrees(
    wall_clock: WallClock, clock: TestClock, seconds: float
) -> None:
    wall_clock.observe_date(date(), 0.0)
    jump(clock, seconds)
    assert not wall_clock.trusted
    assert f"was set by {seconds:+.0f} s" in wall_clock.trouble()
    wall_clock.observe_date(date(seconds), 0.0)
    assert (wall_clock.trusted, wall_clock.trouble()) == (True, "")
    assert wall_clock.sudden_until == (clock.now() if seconds > 0 else 0)


def test_hours_without_an_answer_are_no_jump(wall_clock: WallClock, clock: TestClock) -> None:
    wall_clock.observe_date(date(), 0.0)
    clock.advance(36_000)
    assert wall_clock.trusted


def test_what_was_due_only_while_the_clock_was_ahead_is_not_suspected_afterwards(
    wall_clock: WallClock, clock: TestClock
) -> None:
    wall_clock.observe_date(date(), 0.0)
    jump(clock, YEARS)
    wall_clock.observe_date(date(), 0.0)
    assert not wall_clock.trusted
    jump(clock, -YEARS)
    assert not wall_clock.trusted
    wall_clock.changed = False
    wall_clock.observe_date(date(), 0.0)
    assert (wall_clock.trusted, wall_clock.changed, wall_clock.sudden_until) == (True, True, 0)


def test_an_answer_without_a_date_says_nothing_against_the_clock(wall_clock: WallClock, clock: TestClock) -> None:
    wall_clock.observe_date("", 0.0)
    assert wall_clock.trusted
    jump(clock, YEARS)
    wall_clock.observe_date("soon", 0.0)
    assert not wall_clock.trusted


class SetWhileRead(TestClock):
    """A clock that is set once, right after it was read."""

    by = 0.0

    def now(self) -> int:
        read = super().now()
        by, self.by = self.by, 0.0
        jump(self, by)
        return read


@pytest.mark.parametrize("by", [3600.0, -3600.0, -YEARS])
def test_a_clock_that_is_set_just_after_it_was_found_right_is_not_believed(by: float) -> None:
    """Otherwise everything that is created until the clocks agree would expire too early or too late by that much."""
    clock = SetWhileRead()
    wall_clock = WallClock(clock)
    clock.by = by
    wall_clock.observe_date(date(), 0.0)
    assert not wall_clock.trusted
    assert wall_clock.now() == START
    wall_clock.observe_date(date(), 0.0)
    assert (wall_clock.trusted, wall_clock.now()) == (False, START)


def test_what_is_told_of_the_time_was_read_before_the_clock_was_set_or_is_not_its() -> None:
    clock = SetWhileRead()
    wall_clock = WallClock(clock)
    wall_clock.observe_date(date(), 0.0)
    clock.by = -3600.0
    assert [wall_clock.now() for _ in range(3)] == [START] * 3


def test_a_clock_that_only_an_answer_without_a_date_spoke_for_is_put_right_by_the_first_date(
    wall_clock: WallClock, clock: TestClock
) -> None:
    jump(clock, -3600.0)
    wall_clock.observe_date("", 0.0)
    assert wall_clock.trusted
    wall_clock.observe_date(date(), 0.0)
    assert (wall_clock.trusted, wall_clock.now()) == (False, START)


def test_a_date_that_cannot_be_says_nothing(wall_clock: WallClock) -> None:
    """An API server, or something in its place, can send any text; this one ended the daemon before."""
    wall_clock.observe_date("1 Jan 99999999999 00:00:00 GMT", 0.1)
    assert wall_clock.trouble() == ""
