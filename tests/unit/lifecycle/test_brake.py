"""The brake as a table of situations: which unrequested endings proceed, and which wait for the operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.utils import formatdate

import pytest

from stackd.clock import NANOSECONDS
from stackd.lifecycle.brake import CONFIRMED_SECONDS, FREE_ENDINGS, WINDOW_SECONDS, Brake
from stackd.lifecycle.ttl import Expiries, sort_out
from stackd.lifecycle.wall_clock import WallClock
from stackd.model import DeleteReason, Stack
from tests.store.building import START, TestClock
from tests.unit.lifecycle.situations import NAME, NOW, OTHER, STOPPED, stack

SHARE = 0.2
MANY = FREE_ENDINGS + 4


def names(count: int, first: int = 0) -> list[str]:
    return [f"stack-{number:04d}" for number in range(first, first + count)]


@dataclass(slots=True)
class Braked:
    """A brake for ``among`` stacks, with a clock that the test sets."""

    brake: Brake
    clock: TestClock
    among: list[str]

    def ends(self, ids: Iterable[str], share: float = SHARE) -> list[str]:
        """Try to end these stacks; return the ids that are held back."""
        return sorted(self.brake.hold_back(dict.fromkeys(ids, "end"), self.among, share))

    @property
    def held(self) -> list[str]:
        return sorted(self.brake.held)


@pytest.fixture
def braked() -> Braked:
    clock = TestClock()
    return Braked(Brake(clock), clock, names(40))


@pytest.mark.parametrize(
    ("ending", "among", "share", "goes"),
    [
        (0, 0, SHARE, True), (1, 1, SHARE, True), (FREE_ENDINGS, FREE_ENDINGS, SHARE, True),
        (FREE_ENDINGS + 1, FREE_ENDINGS + 1, SHARE, False), (FREE_ENDINGS + 1, 5 * (FREE_ENDINGS + 1), SHARE, True),
        (FREE_ENDINGS + 1, 5 * (FREE_ENDINGS + 1) - 1, SHARE, False), (40, 40, 1.0, True), (40, 1000, 0.0, False),
        (FREE_ENDINGS, 1000, 0.0, True),
    ],
)  # fmt: skip
def test_up_to_ten_endings_or_a_share_of_all_go_ahead(ending: int, among: int, share: float, goes: bool) -> None:
    braked = Braked(Brake(TestClock()), TestClock(), names(among))
    assert braked.ends(names(ending), share) == ([] if goes else names(ending))
    assert braked.brake.on is not goes


def test_endings_that_trickle_in_within_a_minute_count_together(braked: Braked) -> None:
    for number in range(FREE_ENDINGS):
        assert braked.ends(names(1, number)) == []
        braked.among = braked.among[1:]  # this stack has ended
        braked.clock.advance(WINDOW_SECONDS / FREE_ENDINGS - 0.1)
    assert braked.ends(names(1, FREE_ENDINGS)) == names(1, FREE_ENDINGS)


Step = Callable[[Braked], object]


def ends(ids: list[str]) -> Step:
    def step(braked: Braked) -> None:
        assert braked.ends(ids) == []

    return step


def holds(ids: list[str], held: list[str] | None = None) -> Step:
    def step(braked: Braked) -> None:
        assert braked.ends(ids) == (held or ids)
        assert {*(held or ids)} <= {*braked.held}

    return step


def confirms(ids: list[str]) -> Step:
    def step(braked: Braked) -> None:
        assert braked.brake.confirm() == frozenset(ids)

    return step


def is_off(braked: Braked) -> None:
    assert (braked.held, braked.brake.on) == ([], False)


def wait(seconds: float) -> Step:
    return lambda braked: braked.clock.advance(seconds)


def passes(braked: Braked) -> None:
    braked.brake.pass_done()


def forget(ids: list[str]) -> Step:
    return lambda braked: braked.brake.forget(ids)


FREE, NEXT, ALL = names(FREE_ENDINGS), names(FREE_ENDINGS, FREE_ENDINGS), names(MANY)
LATER = names(MANY, FREE_ENDINGS)
SITUATIONS: dict[str, list[Step]] = {
    "endings of more than a minute ago count no longer": [ends(FREE), wait(WINDOW_SECONDS + 0.1), ends(NEXT)],
    **{
        f"an ending that is tried again every {pause} s counts once": [
            *[ends(names(5)), wait(pause)] * 100,
            ends(names(FREE_ENDINGS - 5, 5)),
        ]
        for pause in (0.0, 1.0, WINDOW_SECONDS / 2, WINDOW_SECONDS + 1)
    },
    "tries do not keep an ending in the window": [
        *(ends(names(5)), wait(WINDOW_SECONDS - 1), ends(names(5)), wait(2)),
        ends(names(FREE_ENDINGS, 5)),
    ],
    "what is held makes further endings wait, and what is true no longer does not": [
        *(holds(ALL), holds(names(1, MANY)), forget(ALL), ends(names(1, MANY)), is_off)
    ],
    "held endings stay held for as long as they are true": [holds(ALL), passes, wait(WINDOW_SECONDS + 1)] * 5,
    "a confirmation lets go what was held then, also at further tries, and it counts against nothing": [
        *(holds(ALL), confirms(ALL), ends(ALL), wait(1), ends(ALL), is_off, ends(LATER))
    ],
    "a confirmation is not for what comes after it": [
        *(holds(ALL), confirms(ALL), holds(names(2 * MANY), held=names(MANY, MANY)))
    ],
    "a confirmation where nothing is held is for nothing": [confirms([]), holds(ALL)],
    "a confirmation ends with the pass that used it": [holds(ALL), confirms(ALL), ends(ALL), passes, holds(ALL)],
    "a confirmation lasts for a minute": [holds(ALL), confirms(ALL), wait(CONFIRMED_SECONDS - 1), ends(ALL)],
    "a confirmation that no pass could use ends": [holds(ALL), confirms(ALL), wait(CONFIRMED_SECONDS), holds(ALL)],
    "what led to a confirmation has been looked at": [
        *(ends(FREE), holds(names(MANY, FREE_ENDINGS)), confirms(names(MANY, FREE_ENDINGS))),
        *(ends(names(MANY, FREE_ENDINGS)), passes, ends(names(FREE_ENDINGS, FREE_ENDINGS + MANY))),
    ],
    "a pass without a confirmation forgets no ending": [ends(FREE), passes, holds(names(1, FREE_ENDINGS))],
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_unrequested_endings(braked: Braked, situation: str) -> None:
    for step in SITUATIONS[situation]:
        step(braked)


# ---- when the wall clock is trusted: the API server's dates, and jumps between them


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


def test_hours_without_an_answer_are_no_jump(wall_clock: WallClock, clock: TestClock) -> None:
    wall_clock.observe_date(date(), 0.0)
    clock.advance(36_000)
    assert wall_clock.trusted


def test_what_is_told_of_the_time_was_read_before_the_clock_was_set_or_is_not_its() -> None:
    clock = SetWhileRead()
    wall_clock = WallClock(clock)
    wall_clock.observe_date(date(), 0.0)
    clock.by = -3600.0
    assert [wall_clock.now() for _ in range(3)] == [START] * 3
