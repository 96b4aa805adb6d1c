"""The work queue: each key runs once, at its time, in one worker at a time, and again after a failure."""

from __future__ import annotations

import asyncio

import pytest

from stackd.errors import StackdError
from stackd.workqueue import A_SECOND, FAILED_AT_ONCE, LATE_SECONDS, RetryPolicy, TokenBucket, WorkQueue
from tests.harness import eventually
from tests.store.building import TestClock

RETRIES = RetryPolicy(first=1.0, longest=8.0)


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def queue(clock: TestClock) -> WorkQueue[str]:
    return WorkQueue(clock.monotonic, RETRIES)


def failed(queue: WorkQueue[str], key: str = "a") -> float:
    """Report a failure of the key; return after how long it is tried again."""
    delay = queue.retry(key)
    assert delay is not None
    return delay


def test_keys_come_once_each_at_its_time_in_order(queue: WorkQueue[str], clock: TestClock) -> None:
    for seconds in (10, 20):
        queue.add("later", at=clock.seconds + seconds)
    for key in ("b", "a", "c", "b"):
        queue.add(key)
    assert queue.take(2) == ["b", "a"]
    assert ("a" in queue, queue.at_work("a"), len(queue)) == (True, True, 4)
    assert [queue.take(), queue.take()] == [["c"], []]
    queue.done("a")
    assert ("a" in queue, len(queue)) == (False, 3)
    clock.advance(9.9)
    assert queue.take() == []
    clock.advance(0.1)
    assert queue.take() == ["later"]


def test_what_is_being_worked_on_comes_again_after_that(queue: WorkQueue[str], clock: TestClock) -> None:
    queue.add("a")
    queue.take()
    queue.add("a", at=clock.seconds + 5)
    queue.add("a")
    assert queue.take() == []
    queue.done("a")
    with queue.reserve("a"):
        assert queue.take() == []
    assert queue.take() == ["a"]
    queue.done("a")
    assert len(queue) == 0


def test_failures_delay_the_next_try_until_a_success(queue: WorkQueue[str], clock: TestClock) -> None:
    queue.add("a")
    queue.take()
    for bound in (1.0, 2.0, 4.0, 8.0, 8.0):
        delay = failed(queue)
        assert bound / 2 <= delay <= bound
        assert queue.take() == []
        clock.advance(delay)
        assert queue.take() == ["a"]
    queue.done("a")
    queue.add("a")
    assert queue.take() == ["a"]
    assert failed(queue) <= 1.0
    assert RETRIES.delay(1_000_000) <= 8.0


def test_who_waits_makes_a_failed_key_due_and_nobody_else_does(queue: WorkQueue[str], clock: TestClock) -> None:
    for key in ("a", "b"):
        queue.add(key)
    queue.take()
    queue.add("b")
    failed(queue)
    failed(queue, "b")
    queue.add("a")
    assert queue.take() == [], "what was added while it was tried is covered by the next try"
    queue.add("a", retry=True)
    assert queue.take() == ["a"]
    clock.advance(1.0)
    assert queue.take() == ["b"]


def test_keys_that_have_failed_give_way_to_those_that_have_not(queue: WorkQueue[str], clock: TestClock) -> None:
    hopeless = [f"hopeless-{number}" for number in range(100)]
    for key in hopeless:
        queue.retry(key)
    clock.advance(LATE_SECONDS - 0.1)
    for key in ("b", "a"):
        queue.add(key)
    assert queue.take(3)[:2] == ["b", "a"]
    assert len(queue.take()) == 99
    for key in hopeless:
        queue.done(key)
        queue.add(key)
    queue.add("last")
    assert queue.take() == [*hopeless, "last"], "one that has succeeded has not failed any more"


def test_once_the_cause_is_over_all_that_failed_is_due(queue: WorkQueue[str], clock: TestClock) -> None:
    for key in ("a", "b"):
        queue.add(key)
    for _ in range(4):
        queue.take()
        clock.advance(max(failed(queue), failed(queue, "b")))
    (working,) = queue.take(1)  # it is about to fail
    queue.add("later", at=clock.seconds + 100)
    queue.retry_all()
    assert {working, *queue.take()} == {"a", "b"}
    assert max(failed(queue), failed(queue, "b")) <= 1.0


@pytest.mark.parametrize("most", [1, 2])
def test_a_key_is_given_up_after_so_many_tries_and_may_come_again(clock: TestClock, most: int) -> None:
    queue: WorkQueue[str] = WorkQueue(clock.monotonic, RetryPolicy(first=1.0, longest=1.0, most=most))
    for again in (True, False):
        queue.add("a")
        for _ in range(most - 1):
            assert queue.take() == ["a"]
            clock.advance(failed(queue))
        assert queue.take() == ["a"]
        if again:
            queue.add("a")
        assert queue.retry("a") is None
        assert len(queue) == again, "what was added during the last try gets tries of its own"


def test_what_somebody_waits_for_comes_first_also_if_that_begins_later(queue: WorkQueue[str]) -> None:
    for key, priority in (("pool", 3), ("repair", 1), ("waited", 0), ("pool-2", 3), ("pool-2", 0)):
        queue.add(key, priority=priority)
    assert queue.take() == ["waited", "pool-2", "repair", "pool"]


def test_times_that_are_brought_forward_again_and_again_do_not_pile_up(queue: WorkQueue[str], clock: TestClock) -> None:
    for number in range(10_000):
        queue.add("a", at=clock.seconds + 20_000 - number)
    assert sum(map(len, queue._heaps.values())) < 200
    clock.advance(20_000)
    assert queue.take() == ["a"]


# ---- waiting, and the workers


@pytest.fixture
def live() -> WorkQueue[str]:
    return WorkQueue(lambda: asyncio.get_running_loop().time(), RetryPolicy(first=0.001, longest=0.001))


def never(key: str, error: StackdError, delay: float | None) -> None:
    raise AssertionError(f"{key}: {error}")


def test_a_failed_key_is_tried_again_however_many_others_come(queue: WorkQueue[str], clock: TestClock) -> None:
    hopeless = [f"hopeless-{number}" for number in range(100)]
    for key in hopeless:
        queue.retry(key)
    taken: list[str] = []
    for number in range(200):
        clock.advance(1.0)
        queue.add(f"new-{number}")
        taken += queue.take(1)
        if not taken[-1].startswith("hopeless"):
            queue.done(taken[-1])
    assert sum(map(hopeless.__contains__, taken)) == FAILED_AT_ONCE, "they may take long, and leave room for the others"
    queue.retry(next(filter(hopeless.__contains__, taken)))
    assert any(map(hopeless.__contains__, queue.take(1) + queue.take(1)))


async def test_whoever_waits_for_a_later_key_is_woken_by_an_earlier_one(live: WorkQueue[str]) -> None:
    live.add("later", at=asyncio.get_running_loop().time() + 3600)
    waiting = asyncio.create_task(live.wait())
    await asyncio.sleep(0)
    live.add("early")
    await waiting
    assert live.take() == ["early"]


async def test_work_for_nobody_leaves_workers_to_those_who_wait(clock: TestClock) -> None:
    queue: WorkQueue[str] = WorkQueue(clock.monotonic, RETRIES, background=2, at_once_in_background=1)
    begun: list[str] = []
    go_on = asyncio.Event()

    async def work(key: str) -> None:
        begun.append(key)
        await go_on.wait()

    for key in ("expiry-1", "expiry-2"):
        queue.add(key, priority=2)
    working = asyncio.create_task(queue.run(work, workers=3, failed=never))
    await eventually(lambda: begun == ["expiry-1"])
    queue.add("waited")
    await eventually(lambda: begun == ["expiry-1", "waited"])
    go_on.set()
    await eventually(lambda: begun == ["expiry-1", "waited", "expiry-2"])
    working.cancel()


async def test_work_for_nobody_does_not_come_late_because_others_go_on_waiting(clock: TestClock) -> None:
    """While clients keep all workers busy, every other worker takes what is late."""
    queue: WorkQueue[str] = WorkQueue(clock.monotonic, RETRIES, background=2, at_once_in_background=1)
    for number in range(10):
        queue.add(f"expiry-{number}", priority=2)
        queue.add(f"waited-{number}")
    clock.advance(LATE_SECONDS - 0.1)
    queue.add("waited-10")
    assert queue.take(12, background=False) == [f"waited-{number}" for number in range(11)]
    clock.advance(0.1)
    for number in range(10):
        queue.add(f"waited-{number + 11}")
    taken = [key for _ in range(10) for key in queue.take(1, background=False)]
    assert sum(key.startswith("expiry") for key in taken) == 5


async def test_each_worker_has_one_key_and_a_defect_ends_them(
    live: WorkQueue[str],
) -> None:
    at_once: list[int] = []
    busy: set[str] = set()

    async def work(key: str) -> None:
        busy.add(key)
        at_once.append(len(busy))
        await asyncio.sleep(0)
        busy.remove(key)
        if len(at_once) == 20:
            raise KeyError(key)

    for number in range(20):
        live.add(f"key-{number}")
    with pytest.raises(ExceptionGroup) as ended:
        await live.run(work, workers=3, failed=never)
    assert ended.value.subgroup(KeyError) is not None
    assert (max(at_once), len(at_once)) == (3, 20)


def test_the_allowance_is_so_many_per_second_and_a_seconds_worth_at_once() -> None:
    allowance = TokenBucket(0.0, 1.0)
    assert (allowance.take_some(100.0, 10.0, A_SECOND, 30), allowance.take_some(100.0, 10.0, A_SECOND, 1)) == (10, 0)
    taken = allowance.take_some(100.25, 10.0, A_SECOND, 30)
    assert (taken, round(allowance.wait(100.25, 10.0, A_SECOND), 3)) == (2, 0.05)
    assert [round(allowance.take(100.35, 10.0, A_SECOND), 3) for _ in range(2)] == [0.0, 0.05]
