from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from stackd.waiters import Waiters


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    name: str
    uid: str = "1"
    value: int = 0


A1, A2, B1 = Thing(name="a", value=1), Thing(name="a", value=2), Thing(name="b", value=1)


async def test_what_is_so_already_is_seen_without_any_change() -> None:
    waiters: Waiters[Thing] = Waiters()
    assert await waiters.until("a", lambda thing: thing, lambda: A1, 0.1) is A1
    assert len(waiters) == 0


async def test_a_change_between_the_check_and_the_wait_is_not_lost() -> None:
    waiters: Waiters[Thing] = Waiters()
    current: list[Thing | None] = [None]

    def look() -> Thing | None:
        seen = current[0]
        # The change comes after the state was read and before anything waits.
        current[0] = A1
        waiters.wake("a", A1)
        return seen

    assert await waiters.until("a", lambda thing: thing, look, 0.1) is A1


async def test_a_state_that_is_over_again_was_seen_nevertheless() -> None:
    waiters: Waiters[Thing] = Waiters()
    waiting = asyncio.create_task(waiters.until("a", lambda t: t if t and t.value == 2 else None, lambda: None, 1))
    await asyncio.sleep(0)
    for state in (A1, A2, None):
        waiters.wake("a", state)
    assert await waiting is A2


async def test_waiting_ends_with_a_timeout_and_leaves_nothing_behind() -> None:
    waiters: Waiters[Thing] = Waiters()
    with pytest.raises(TimeoutError):
        await waiters.until("a", lambda thing: thing, lambda: None, 0.01)
    assert len(waiters) == 0


async def test_what_a_predicate_raises_reaches_the_one_who_waits() -> None:
    waiters: Waiters[Thing] = Waiters()

    def refuse(thing: Thing | None) -> Thing | None:
        if thing is not None:
            raise RuntimeError("no room")
        return None

    waiting = asyncio.create_task(waiters.until("a", refuse, lambda: None, 1))
    await asyncio.sleep(0)
    waiters.wake("a", A1)
    with pytest.raises(RuntimeError, match="no room"):
        await waiting
    with pytest.raises(RuntimeError, match="no room"):
        await waiters.until("a", refuse, lambda: A1, 1)


async def test_all_who_wait_for_a_name_are_told() -> None:
    waiters: Waiters[Thing] = Waiters()
    tasks = [asyncio.create_task(waiters.until("a", lambda thing: thing, lambda: None, 1)) for _ in range(3)]
    await asyncio.sleep(0)
    waiters.wake("b", B1)
    waiters.wake("a", A1)
    assert await asyncio.gather(*tasks) == [A1] * 3
