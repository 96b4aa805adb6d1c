"""The work queue: each key runs once, at its time, in one task at a time, and again after a failure. Slots go by rank."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from stackd import workqueue
from stackd.errors import StackdError
from stackd.tasks import ServiceEnded, Tasks
from stackd.workqueue import A_SECOND, RetryPolicy, Slots, TokenBucket, WorkQueue
from tests.harness import eventually

SOON = RetryPolicy(first=0.01, longest=0.02)
LATE = RetryPolicy(first=3600.0, longest=3600.0)


class Work:
    """A queue whose work the test ends: ``end`` lets the task that is at work on a key succeed, or fail."""

    def __init__(self, tasks: Tasks, retries: RetryPolicy) -> None:
        self.queue: WorkQueue[str] = WorkQueue("test", tasks, retries)
        self.begun: list[str] = []
        self.delays: list[float | None] = []
        self._under_way: dict[str, asyncio.Future[None]] = {}

    def start(self) -> None:
        self.queue.start(self._work, self._failed)

    async def _work(self, key: str) -> None:
        assert key not in self._under_way, "two tasks work on one key"
        self.begun.append(key)
        self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            await self._under_way[key]
        finally:
            del self._under_way[key]

    def _failed(self, key: str, error: StackdError, delay: float | None) -> None:
        self.delays.append(delay)

    async def until_begun(self, *keys: str) -> None:
        await eventually(lambda: self.begun == [*keys])

    async def end(self, key: str, error: Exception | None = None) -> None:
        await eventually(lambda: key in self._under_way)
        ended = self._under_way[key]
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)
        await eventually(lambda: self._under_way.get(key) is not ended)


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks()
    yield tasks
    await tasks.stop()


@pytest.fixture
async def late(tasks: Tasks) -> Work:
    """What fails is not tried again within a test, unless something makes it due."""
    work = Work(tasks, LATE)
    work.start()
    return work


FAILURE = StackdError("not now")


async def test_what_is_added_before_the_queue_is_started_waits(tasks: Tasks) -> None:
    work = Work(tasks, SOON)
    for key in ("b", "a", "b"):
        work.queue.add(key)
    work.queue.add("later", delay=3600)
    assert (work.begun, len(work.queue), "a" in work.queue, "later" in work.queue) == ([], 2, True, False)
    work.start()
    await work.until_begun("b", "a")
    assert (work.queue.at_work("a"), work.queue.at_work("later")) == (True, False)
    work.queue.add("later", delay=0.01)
    await work.until_begun("b", "a", "later")


async def test_what_is_being_worked_on_comes_again_after_that(late: Work) -> None:
    late.queue.add("a")
    await late.until_begun("a")
    late.queue.add("a", delay=3600)
    late.queue.add("a")
    await late.end("a")
    await late.until_begun("a", "a")
    await late.end("a")
    assert len(late.queue) == 0


async def test_what_happens_meanwhile_waits_a_moment_and_whoever_asks_does_not(
    late: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workqueue, "AGAIN_SECONDS", 60.0)
    for reset in (False, True):
        late.begun.clear()
        late.queue.add("a")
        await late.until_begun("a")
        late.queue.add("a")
        late.queue.add("a", reset=reset)
        await late.end("a")
        assert "a" in late.queue, "it is due, or about to be"
        await late.until_begun(*["a"] * (1 + reset))
        late.queue.add("a", reset=True)
        await late.until_begun("a", "a")
        await late.end("a")


async def test_failures_delay_the_next_try_until_a_success(tasks: Tasks) -> None:
    work = Work(tasks, RetryPolicy(first=0.01, longest=0.04))
    work.start()
    work.queue.add("a")
    for _ in range(4):
        await work.end("a", FAILURE)
    assert all(
        bound / 2 <= (delay or 0.0) <= bound for bound, delay in zip((0.01, 0.02, 0.04, 0.04), work.delays, strict=True)
    )
    await work.end("a")
    assert not work.queue.has_failed("a")
    work.queue.add("a")
    await work.end("a", FAILURE)
    assert (work.delays[-1] or 1.0) <= 0.01


async def test_whoever_waits_makes_a_failed_key_due_and_nobody_else_does(late: Work) -> None:
    late.queue.add("a")
    await late.end("a", FAILURE)
    late.queue.add("a")
    late.queue.add("b")
    await late.until_begun("a", "b")  # and not "a" again
    late.queue.add("a", reset=True)
    await late.until_begun("a", "b", "a")
    late.queue.add("a", reset=True)  # while a try is under way, which fails
    await late.end("a", FAILURE)
    await late.until_begun("a", "b", "a", "a")


async def test_what_has_failed_is_due_at_once_when_the_cause_is_over(late: Work) -> None:
    for key in ("a", "b"):
        late.queue.add(key)
        await late.end(key, FAILURE)
    late.queue.retry_all()
    await late.until_begun("a", "b", "a", "b")


async def test_a_key_is_given_up_after_the_last_try(tasks: Tasks) -> None:
    work = Work(tasks, RetryPolicy(first=0.01, longest=0.01, most=2))
    work.start()
    work.queue.add("a")
    for _ in range(2):
        await work.end("a", FAILURE)
    assert (work.delays[-1], "a" in work.queue) == (None, False)


async def test_a_defect_ends_the_process(tasks: Tasks, late: Work) -> None:
    late.queue.add("a")
    await late.end("a", KeyError("a"))
    with pytest.raises(ServiceEnded):
        await tasks.failure


class Line:
    """Who waits for the only slot, and in which order they got it."""

    def __init__(self, most: Callable[[int], int] = lambda _: 1) -> None:
        self.slots, self.order = Slots(1, most), list[str]()

    def wait(self, name: str, priority: int, *, failed: bool = False) -> asyncio.Task[None]:
        return asyncio.create_task(self._work(name, priority, failed))

    async def _work(self, name: str, priority: int, failed: bool) -> None:
        async with self.slots.acquired(priority, failed=failed):
            self.order.append(name)


async def test_slots_go_to_what_has_not_failed_then_by_priority_then_in_order() -> None:
    line = Line()
    async with line.slots.acquired(0) as waited:
        waiting = [line.wait("hopeless", 0, failed=True), line.wait("low", 2), line.wait("b", 1), line.wait("c", 1)]
        leaves = line.wait("leaves", 0)
        await asyncio.sleep(0)
        leaves.cancel()
        assert (waited, line.order) == (False, [])
    await asyncio.gather(*waiting)
    assert line.order == ["b", "c", "low", "hopeless"]


async def test_what_has_waited_for_long_takes_turns_with_what_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """While clients keep all slots busy, every other slot goes to who has waited longest."""
    monkeypatch.setattr("stackd.workqueue.LATE_SECONDS", 0.0)
    line = Line(lambda priority: 0 if priority == 2 else 1)
    async with line.slots.acquired(0):
        waiting = [line.wait("expiry", 2), line.wait("failed", 0, failed=True)]
        waiting += [line.wait(f"client-{number}", 0) for number in range(4)]
        await asyncio.sleep(0)
        assert line.slots.is_late
    await asyncio.gather(*waiting)
    assert [line.order.index("expiry"), line.order.index("failed")] == [0, 2]
    assert not line.slots.is_late


async def test_work_of_one_priority_leaves_slots_to_the_others() -> None:
    slots = Slots(3, lambda priority: 1 if priority else 3)
    async with slots.acquired(1), slots.acquired(0):
        second = asyncio.create_task(slots.acquired(1).__aenter__())
        await asyncio.sleep(0)
        assert not second.done()
        async with slots.acquired(0) as waited:
            assert not waited
    assert await second


def test_the_allowance_is_so_many_per_second() -> None:
    allowance = TokenBucket(0.0, 1.0)
    assert (allowance.take_some(100.0, 10.0, A_SECOND, 30), allowance.take_some(100.0, 10.0, A_SECOND, 1)) == (10, 0)
    taken = allowance.take_some(100.25, 10.0, A_SECOND, 30)
    assert (taken, round(allowance.wait(100.25, 10.0, A_SECOND), 3)) == (2, 0.05)
    assert [round(allowance.take(100.35, 10.0, A_SECOND), 3) for _ in range(2)] == [0.0, 0.05]
