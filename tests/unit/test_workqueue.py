"""The work queue: each key runs once, at its time, in one worker at a time, and again after a failure."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from stackd.errors import ClusterUnavailable, StackdError
from stackd.workqueue import RetryPolicy, WorkQueue

RETRIES = RetryPolicy(first=1.0, longest=8.0)


class Time:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def queue(time: Time) -> WorkQueue[str]:
    return WorkQueue(time, RETRIES)


def failed(queue: WorkQueue[str]) -> float:
    """Report a failure of the key ``a``; return after how long it is tried again."""
    delay = queue.retry("a")
    assert delay is not None
    return delay


def test_keys_come_in_the_order_in_which_they_were_added(queue: WorkQueue[str]) -> None:
    for key in ("b", "a", "c", "b"):
        queue.add(key)
    assert queue.take(2) == ["b", "a"]
    assert ("a" in queue, len(queue)) == (True, 3)
    assert queue.take() == ["c"]
    assert queue.take() == []
    queue.done("a")
    assert ("a" in queue, len(queue)) == (False, 2)


def test_a_key_comes_at_its_time_and_not_before(queue: WorkQueue[str], time: Time) -> None:
    queue.add("later", at=time.now + 10)
    queue.add("now")
    assert queue.take() == ["now"]
    time.now += 9.9
    assert queue.take() == []
    time.now += 0.1
    assert queue.take() == ["later"]


@pytest.mark.parametrize(("first", "second"), [(10.0, 5.0), (5.0, 10.0)])
def test_of_two_times_the_earlier_one_counts(queue: WorkQueue[str], time: Time, first: float, second: float) -> None:
    queue.add("a", at=time.now + first)
    queue.add("a", at=time.now + second)
    time.now += 5.0
    assert queue.take() == ["a"]
    queue.done("a")
    time.now += 5.0
    assert queue.take() == []


def test_a_key_that_is_being_worked_on_is_not_given_out_again_and_comes_again_after_that(
    queue: WorkQueue[str], time: Time
) -> None:
    queue.add("a")
    queue.take()
    queue.add("a", at=time.now + 5)
    queue.add("a")
    assert queue.take() == []
    queue.done("a")
    assert queue.take() == ["a"]
    queue.done("a")
    assert len(queue) == 0


def test_failures_delay_the_next_try_twice_as_long_each_time_and_a_success_ends_that(
    queue: WorkQueue[str], time: Time
) -> None:
    queue.add("a")
    queue.take()
    assert RETRIES.delay(1_000_000) <= 8.0
    for bound in (1.0, 2.0, 4.0, 8.0, 8.0, 8.0):
        delay = failed(queue)
        assert bound / 2 <= delay <= bound
        assert queue.take() == []
        time.now += delay
        assert queue.take() == ["a"]
    queue.done("a")
    queue.add("a")
    assert queue.take() == ["a"]
    assert failed(queue) <= 1.0


def test_a_key_that_waits_because_it_has_failed_is_not_hastened_by_being_added(
    queue: WorkQueue[str], time: Time
) -> None:
    queue.add("a")
    queue.take()
    queue.retry("a")
    queue.add("a")
    assert queue.take() == []
    queue.add("b")
    queue.take()
    queue.add("b")
    queue.retry("b")
    assert queue.take() == [], "what was added while it was tried is covered by the next try"
    time.now += 1.0
    assert sorted(queue.take()) == ["a", "b"]


def test_keys_that_have_failed_give_way_to_those_that_have_not(queue: WorkQueue[str], time: Time) -> None:
    hopeless = [f"hopeless-{number}" for number in range(100)]
    for key in hopeless:
        queue.retry(key)
    time.now += 3600
    queue.add("b")
    queue.add("a")
    assert queue.take(3)[:2] == ["b", "a"]
    assert len(queue.take()) == 99
    for key in hopeless:
        queue.done(key)
        queue.add(key)
    queue.add("last")
    assert queue.take() == [*hopeless, "last"], "one that has succeeded has not failed any more"


def test_when_the_trouble_is_over_what_fails_once_more_waits_as_after_its_first_failure(time: Time) -> None:
    queue: WorkQueue[str] = WorkQueue(time, RetryPolicy(first=1.0, longest=60.0))
    queue.add("a")
    for _ in range(8):
        queue.take()
        time.now += queue.retry("a") or 0.0
    queue.take()  # it is being worked on, and is about to fail
    queue.retry_all()
    assert failed(queue) <= 1.0


def test_a_key_is_given_up_after_so_many_tries_and_may_come_again(time: Time) -> None:
    queue: WorkQueue[str] = WorkQueue(time, RetryPolicy(first=1.0, longest=1.0, most=2))
    for _ in range(2):
        queue.add("a")
        assert queue.take() == ["a"]
        time.now += failed(queue)
        assert queue.take() == ["a"]
        assert queue.retry("a") is None
        assert len(queue) == 0


# ---- waiting, and the workers


@pytest.fixture
def live() -> WorkQueue[str]:
    return WorkQueue(lambda: asyncio.get_running_loop().time(), RetryPolicy(first=0.001, longest=0.001))


async def test_whoever_waits_for_a_late_key_is_woken_by_an_early_one(live: WorkQueue[str]) -> None:
    live.add("late", at=asyncio.get_running_loop().time() + 3600)
    waiting = asyncio.create_task(live.wait())
    await asyncio.sleep(0)
    live.add("early")
    await waiting
    assert live.take() == ["early"]


async def test_workers_try_again_until_it_is_done_and_tell_of_each_failure(live: WorkQueue[str]) -> None:
    tries: list[str] = []
    told: list[tuple[str, str]] = []

    async def work(key: str) -> None:
        tries.append(key)
        if len(tries) < 3:
            raise ClusterUnavailable("away")

    def failed(key: str, error: StackdError, delay: float | None) -> None:
        assert delay is not None
        told.append((key, str(error)))

    live.add("a")
    await until_empty(live, asyncio.create_task(live.run(work, workers=2, failed=failed)))
    assert tries == ["a"] * 3
    assert told == [("a", "away")] * 2


def never(key: str, error: StackdError, delay: float | None) -> None:
    raise AssertionError(f"{key}: {error}")


async def until_empty(queue: WorkQueue[str], running: asyncio.Task[None]) -> None:
    while len(queue):
        assert not running.done(), running.exception()
        await asyncio.sleep(0.001)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def test_what_somebody_waits_for_comes_first(queue: WorkQueue[str]) -> None:
    queue.add("pool", priority=3)
    queue.add("repair", priority=1)
    queue.add("waited", priority=0)
    assert queue.take() == ["waited", "repair", "pool"]


def test_a_key_that_somebody_comes_to_wait_for_is_moved_up(queue: WorkQueue[str]) -> None:
    queue.add("first", priority=1)
    queue.add("second", priority=1)
    queue.add("second", priority=0)
    assert queue.take() == ["second", "first"]


def test_a_reserved_key_is_worked_on_afterwards(queue: WorkQueue[str]) -> None:
    queue.reserve("a")
    queue.add("a")
    assert queue.take() == []
    queue.done("a")
    assert queue.take() == ["a"]


async def test_work_for_nobody_leaves_workers_to_those_who_wait(time: Time) -> None:
    queue: WorkQueue[str] = WorkQueue(time, RETRIES, background=2, at_once_in_background=1)
    begun: list[str] = []
    go_on = asyncio.Event()

    async def work(key: str) -> None:
        begun.append(key)
        await go_on.wait()

    for key in ("expiry-1", "expiry-2"):
        queue.add(key, priority=2)
    running = asyncio.create_task(queue.run(work, workers=3, failed=lambda *_: None))
    await until(lambda: begun == ["expiry-1"])
    queue.add("waited")
    await until(lambda: begun == ["expiry-1", "waited"])
    go_on.set()
    await until(lambda: begun == ["expiry-1", "waited", "expiry-2"])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def test_when_the_trouble_is_over_all_that_has_failed_is_due_and_what_has_a_time_keeps_it(
    queue: WorkQueue[str], time: Time
) -> None:
    for key in ("a", "b"):
        queue.add(key)
    queue.take()
    for key in ("a", "b"):
        queue.retry(key)
    queue.add("later", at=time.now + 100)
    queue.retry_all()
    assert sorted(queue.take()) == ["a", "b"]


def test_times_that_are_brought_forward_again_and_again_do_not_pile_up(queue: WorkQueue[str], time: Time) -> None:
    for number in range(10_000):
        queue.add("a", at=time.now + 20_000 - number)
    assert sum(map(len, queue._heaps.values())) < 200
    time.now += 20_000
    assert queue.take() == ["a"]


def test_what_was_added_during_the_last_try_gets_tries_of_its_own(time: Time) -> None:
    queue: WorkQueue[str] = WorkQueue(time, RetryPolicy(first=1.0, longest=1.0, most=1))
    queue.add("a")
    queue.take()
    queue.add("a")
    assert queue.retry("a") is None
    assert queue.take() == ["a"]


async def test_a_defect_ends_the_workers(live: WorkQueue[str]) -> None:
    async def work(key: str) -> None:
        raise KeyError(key)

    live.add("a")
    with pytest.raises(ExceptionGroup) as ended:
        await live.run(work, workers=2, failed=never)
    assert ended.value.subgroup(KeyError) is not None


def test_a_key_that_has_failed_is_due_at_once_for_somebody_who_waits(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.take()
    queue.retry("a")
    assert queue.take() == []
    queue.add("a", retry=True)
    assert queue.take() == ["a"]


async def test_no_more_keys_are_worked_on_at_a_time_than_there_are_workers(live: WorkQueue[str]) -> None:
    at_once: list[int] = []
    busy: set[str] = set()

    async def work(key: str) -> None:
        busy.add(key)
        at_once.append(len(busy))
        await asyncio.sleep(0)
        busy.remove(key)

    for number in range(20):
        live.add(f"key-{number}")
    await until_empty(live, asyncio.create_task(live.run(work, workers=3, failed=never)))
    assert max(at_once) == 3
    assert len(at_once) == 20
