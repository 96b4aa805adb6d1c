"""When the wall clock is trusted: the API server's dates, and jumps between them."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from stackd.clock import NANOSECONDS
from stackd.lifecycle.ttl import Expiries, sort_out
from stackd.lifecycle.wall_clock import WallClock
from stackd.model import DeleteReason, Stack
from tests.store.building import START, TestClock
from tests.unit.lifecycle.situations import NAME, NOW, OTHER, STOPPED, stack

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


# ---- Expiry: which stacks expire, when, and what their rows say by then


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
