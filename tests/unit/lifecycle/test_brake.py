"""The brake as a table of situations: which unrequested endings proceed, and which wait for the operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
