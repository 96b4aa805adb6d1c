"""The brake as a table of situations: which unrequested endings proceed, and which wait for the operator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from stackd.lifecycle.brake import CONFIRMED_SECONDS, FREE_ENDINGS, WINDOW_SECONDS, Brake
from tests.store.building import TestClock

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


def test_endings_of_more_than_a_minute_ago_count_no_longer(braked: Braked) -> None:
    assert braked.ends(names(FREE_ENDINGS)) == []
    braked.clock.advance(WINDOW_SECONDS + 0.1)
    assert braked.ends(names(FREE_ENDINGS, FREE_ENDINGS)) == []


@pytest.mark.parametrize("pause", [0.0, 1.0, WINDOW_SECONDS / 2, WINDOW_SECONDS + 1])
def test_an_ending_that_is_tried_again_and_again_counts_once(braked: Braked, pause: float) -> None:
    for _ in range(10 * FREE_ENDINGS):
        assert braked.ends(names(5)) == []
        braked.clock.advance(pause)
    assert braked.ends(names(FREE_ENDINGS - 5, 5)) == []


def test_tries_do_not_keep_an_ending_in_the_window(braked: Braked) -> None:
    """Only the first try within a minute counts, so that an ending that is tried for hours counts once."""
    braked.ends(names(5))
    braked.clock.advance(WINDOW_SECONDS - 1)
    braked.ends(names(5))
    braked.clock.advance(2)
    assert braked.ends(names(FREE_ENDINGS, 5)) == []


def test_what_is_held_makes_further_endings_wait_too_and_what_is_true_no_longer_does_not(braked: Braked) -> None:
    assert braked.ends(names(MANY)) == names(MANY)
    assert braked.ends(names(1, MANY)) == names(1, MANY)
    assert braked.held == names(MANY + 1)
    braked.brake.forget(names(MANY))
    assert braked.held == names(1, MANY)
    assert braked.ends(names(1, MANY)) == []
    assert not braked.brake.on


def test_held_endings_stay_held_for_as_long_as_they_are_true(braked: Braked) -> None:
    for _ in range(5):
        assert braked.ends(names(MANY)) == names(MANY)
        braked.brake.pass_done()
        braked.clock.advance(WINDOW_SECONDS + 1)
    assert braked.held == names(MANY)


# ---- a confirmation


def test_a_confirmation_is_not_for_what_comes_after_it(braked: Braked) -> None:
    braked.ends(names(MANY))
    braked.brake.confirm()
    assert braked.ends(names(2 * MANY)) == names(MANY, MANY)
    assert braked.held == names(MANY, MANY)


def test_a_confirmation_where_nothing_is_held_is_for_nothing(braked: Braked) -> None:
    assert braked.brake.confirm() == frozenset()
    assert braked.ends(names(MANY)) == names(MANY)


def test_what_was_confirmed_does_not_count_against_what_comes_next(braked: Braked) -> None:
    braked.ends(names(MANY))
    assert braked.brake.confirm() == frozenset(names(MANY))
    for _ in range(3):  # the file cannot be written, and they are tried again
        assert braked.ends(names(MANY)) == []
        braked.clock.advance(1)
    assert (braked.held, braked.brake.on) == ([], False)
    assert braked.ends(names(FREE_ENDINGS, MANY)) == []


def test_a_confirmation_ends_with_the_pass_that_used_it(braked: Braked) -> None:
    braked.ends(names(MANY))
    braked.brake.confirm()
    braked.ends(names(MANY))
    braked.brake.pass_done()
    assert braked.ends(names(MANY)) == names(MANY)


@pytest.mark.parametrize(("after", "goes"), [(CONFIRMED_SECONDS - 1, True), (CONFIRMED_SECONDS, False)])
def test_a_confirmation_that_no_pass_could_use_ends_after_a_minute(braked: Braked, after: float, goes: bool) -> None:
    braked.ends(names(MANY))
    braked.brake.confirm()
    braked.clock.advance(after)
    assert braked.ends(names(MANY)) == ([] if goes else names(MANY))


def test_what_led_to_a_confirmation_has_been_looked_at(braked: Braked) -> None:
    assert braked.ends(names(FREE_ENDINGS)) == []
    braked.ends(names(MANY, FREE_ENDINGS))
    braked.brake.confirm()
    braked.ends(names(MANY, FREE_ENDINGS))
    braked.brake.pass_done()
    assert braked.ends(names(FREE_ENDINGS, FREE_ENDINGS + MANY)) == []


def test_a_pass_without_a_confirmation_forgets_no_ending(braked: Braked) -> None:
    assert braked.ends(names(FREE_ENDINGS)) == []
    braked.brake.pass_done()
    assert braked.ends(names(1, FREE_ENDINGS)) == names(1, FREE_ENDINGS)
