"""The brake, and the wall clock: which unrequested endings proceed, which wait for the operator, and when a clock counts."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate

import pytest

from stackd.clock import NANOSECONDS, WallClock
from stackd.lifecycle.gate import FREE_ENDINGS, Brake
from stackd.timing import CONFIRMED_SECONDS, WINDOW_SECONDS
from tests.store.building import START, TestClock

SHARE = 0.2
MANY = FREE_ENDINGS + 4


def names(count: int, first: int = 0) -> list[str]:
    return [f"stack-{number:04d}" for number in range(first, first + count)]


class Braked:
    """A brake for ``among`` stacks, with a clock that the test sets."""

    def __init__(self, among: int = 40) -> None:
        self.clock = TestClock()
        self.brake = Brake(self.clock)
        self.among = names(among)

    def ends(self, ids: list[str], share: float = SHARE) -> list[str]:
        """Try to end these stacks; return the ids that are held back."""
        return sorted(self.brake.hold_back(dict.fromkeys(ids, "end"), self.among, share))


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
    braked = Braked(among)
    assert braked.ends(names(ending), share) == ([] if goes else names(ending))
    assert bool(braked.brake.held) is not goes


Step = Callable[[Braked], object]  # what happens next, or a pair: what is seen, and what was expected


def ends(ids: list[str]) -> Step:
    return lambda braked: (braked.ends(ids), [])


def holds(ids: list[str], held: list[str] | None = None) -> Step:
    return lambda braked: ((braked.ends(ids), {*(held or ids)} - {*braked.brake.held}), (held or ids, set()))


def confirms(ids: list[str]) -> Step:
    return lambda braked: (sorted(braked.brake.confirm()), ids)


def is_off(braked: Braked) -> object:
    return [*braked.brake.held], []


def wait(seconds: float) -> Step:
    return lambda braked: braked.clock.advance(seconds)


def forget(ids: list[str]) -> Step:
    return lambda braked: braked.brake.forget(ids)


def one_has_ended(braked: Braked) -> None:
    braked.among = braked.among[1:]


FREE, NEXT, ALL = names(FREE_ENDINGS), names(FREE_ENDINGS, FREE_ENDINGS), names(MANY)
LATER = names(MANY, FREE_ENDINGS)
SITUATIONS: dict[str, list[Step]] = {
    "endings that trickle in within a minute count together": [
        *(step for n in range(FREE_ENDINGS) for step in (ends(names(1, n)), one_has_ended, wait(5.9))),
        holds(names(1, FREE_ENDINGS)),
    ],
    "endings of more than a minute ago count no longer": [ends(FREE), wait(WINDOW_SECONDS + 0.1), ends(NEXT)],
    "an ending that is tried again counts once": [*[ends(names(5)), wait(9)] * 20, ends(names(FREE_ENDINGS - 5, 5))],
    "tries do not keep an ending in the window": [
        *(ends(names(5)), wait(WINDOW_SECONDS - 1), ends(names(5)), wait(2), ends(names(FREE_ENDINGS, 5)))
    ],
    "what is held makes further endings wait, and what is true no longer does not": [
        *(holds(ALL), holds(names(1, MANY)), forget(ALL), ends(names(1, MANY)), is_off)
    ],
    "held endings stay held for as long as they are true": [holds(ALL), wait(WINDOW_SECONDS + 1)] * 5,
    "a confirmation lets go what was held then, also at further tries, and it counts against nothing": [
        *(holds(ALL), confirms(ALL), ends(ALL), wait(1), ends(ALL), is_off, ends(LATER))
    ],
    "a confirmation is not for what comes after it": [
        *(holds(ALL), confirms(ALL), holds(names(2 * MANY), held=names(MANY, MANY)))
    ],
    "a confirmation where nothing is held is for nothing": [confirms([]), holds(ALL)],
    "a confirmation lasts for a minute": [
        *(holds(ALL), confirms(ALL), wait(CONFIRMED_SECONDS - 1), ends(ALL), wait(1), holds(ALL))
    ],
    "what led to a confirmation has been looked at": [
        *(ends(FREE), holds(names(MANY, FREE_ENDINGS)), confirms(names(MANY, FREE_ENDINGS))),
        *(ends(names(MANY, FREE_ENDINGS)), ends(names(FREE_ENDINGS, FREE_ENDINGS + MANY))),
    ],
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_unrequested_endings(situation: str) -> None:
    braked = Braked()
    for number, step in enumerate(SITUATIONS[situation]):
        if isinstance(pair := step(braked), tuple):
            assert pair[0] == pair[1], number


# ---- when the wall clock is trusted: the API server's dates, and jumps between them


YEARS = 12 * 365 * 86_400.0


class SetWhileRead(TestClock):
    """A clock that is set once, right after it was read."""

    by = 0.0

    def now(self) -> int:
        read = super().now()
        by, self.by = self.by, 0.0
        self.jump(by)
        return read

    def jump(self, seconds: float) -> None:
        self.wall += round(seconds * NANOSECONDS)


@pytest.fixture
def clock() -> SetWhileRead:
    return SetWhileRead()


@pytest.fixture
def wall_clock(clock: SetWhileRead) -> WallClock:
    return WallClock(clock)


def date(seconds: float = 0.0) -> str:
    return formatdate(START / NANOSECONDS + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("ahead", "took", "says"),
    [
        (0.0, 0.0, ""), (60.0, 0.0, ""), (-60.0, 0.0, ""), (90.0, 0.0, "89 s ahead of"), (-90.0, 0.0, "90 s behind"),
        (90.0, 40.0, ""), (YEARS, 5.0, "ahead of the API server's: no stack expires until they agree"),
    ],
)  # fmt: skip
def test_the_clocks_may_differ_by_a_minute_beside_the_time_that_the_answer_took(
    wall_clock: WallClock, clock: SetWhileRead, ahead: float, took: float, says: str
) -> None:
    clock.jump(ahead)
    assert (wall_clock.trusted, wall_clock.why_untrusted()) == (False, ""), "before the first answer"
    wall_clock.observe_date(date(), took)
    for _ in range(2):
        assert wall_clock.trusted is not bool(says)
        assert (says in wall_clock.why_untrusted(), bool(wall_clock.why_untrusted())) == (True, bool(says))
        clock.advance(36_000)  # hours without an answer are no jump


@pytest.mark.parametrize("seconds", [YEARS, 6.0, -6.0, -YEARS])
def test_a_clock_that_was_set_is_believed_again_later(
    wall_clock: WallClock, clock: SetWhileRead, seconds: float
) -> None:
    wall_clock.observe_date(date(), 0.0)
    clock.jump(seconds)
    assert (wall_clock.trusted, f"set by {seconds:+.0f} s" in wall_clock.why_untrusted()) == (False, True)
    wall_clock.observe_date(date(seconds), 0.0)
    assert (wall_clock.trusted, wall_clock.why_untrusted()) == (True, "")
    assert wall_clock.sudden_until == (clock.now() if seconds > 0 else 0)


@pytest.mark.parametrize("text", ["", "soon", "1 Jan 99999999999 00:00:00 GMT"])
def test_an_impossible_date_means_nothing(wall_clock: WallClock, clock: SetWhileRead, text: str) -> None:
    clock.jump(-3600.0)
    for date_of_answer, trusted in ((text, True), (date(), False), (text, False)):
        wall_clock.observe_date(date_of_answer, 0.0)
        assert wall_clock.trusted is trusted


@pytest.mark.parametrize("by", [3600.0, -3600.0, -YEARS])
def test_a_clock_that_is_set_while_it_is_read_is_not_believed(
    wall_clock: WallClock, clock: SetWhileRead, by: float
) -> None:
    """Otherwise everything that is created until the clocks agree would expire too early or too late by that much."""
    clock.by = by
    for _ in range(2):
        wall_clock.observe_date(date(), 0.0)
        assert (wall_clock.trusted, wall_clock.now()) == (False, START)


def test_the_time_was_read_before_the_clock_was_set_or_is_not_its(wall_clock: WallClock, clock: SetWhileRead) -> None:
    wall_clock.observe_date(date(), 0.0)
    clock.by = -3600.0
    assert [wall_clock.now() for _ in range(3)] == [START] * 3
