from __future__ import annotations

import asyncio

from stackd.kube.caller import Backoff, Deadline


def test_pauses_double_up_to_the_longest_and_begin_again() -> None:
    backoff = Backoff(first=0.1, most=0.5)
    bounds = [0.1, 0.2, 0.4, 0.5, 0.5]
    for bound in bounds:
        assert bound / 2 <= backoff.pause() <= bound
    backoff.reset()
    assert backoff.pause() <= 0.1


def test_pauses_of_many_who_wait_differ() -> None:
    assert len({Backoff(first=1, most=1).pause() for _ in range(20)}) > 10


async def test_a_deadline_never_has_less_than_nothing_left() -> None:
    assert 9 < Deadline(10).left <= 10
    past = Deadline(0.0)
    await asyncio.sleep(0)
    assert past.left == 0.0
