"""Who learns how a task ended: whoever awaits it, or else the process, which ends for an unexpected error."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, tzinfo

import pytest
from apscheduler.events import EVENT_JOB_SUBMITTED
from apscheduler.schedulers import base

from stackd.errors import ClusterUnavailable
from stackd.jobs import schedule
from stackd.jobs.schedule import Schedule
from stackd.tasks import ServiceEnded, Tasks, Waiters
from tests.harness import eventually


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    made = Tasks()
    yield made
    await made.stop()


async def fails(error: BaseException, after: asyncio.Event | None = None) -> None:
    if after is not None:
        await after.wait()
    raise error


def said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_defect_in_what_nobody_awaits_ends_the_process(tasks: Tasks, caplog: pytest.LogCaptureFixture) -> None:
    tasks.background("count", fails(KeyError("uid")))
    with pytest.raises(ServiceEnded, match="count ended unexpectedly: KeyError"):
        await tasks.failure
    assert [record.exc_info is not None for record in said(caplog)] == [True]


async def test_an_expected_error_and_a_defect_that_its_caller_gets_do_not_end_it(
    tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.background("count", fails(ClusterUnavailable("not now")))
    with pytest.raises(KeyError):
        await tasks.run("create", fails(KeyError("x")))
    await tasks.finish(5)
    await asyncio.sleep(0)
    assert (tasks.failure.done(), said(caplog)) == (False, [])


@pytest.mark.timeout(20)
async def test_a_stop_ends_though_all_tasks_have_ended_in_the_same_turn_of_the_loop() -> None:
    tasks = Tasks()
    ended = tasks.spawn("count", asyncio.sleep(0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ended.done()
    await tasks.stop()


@pytest.mark.parametrize("at_that_moment", [False, True])
async def test_a_defect_in_a_task_whose_caller_has_left_ends_the_process(tasks: Tasks, at_that_moment: bool) -> None:
    go_on = asyncio.Event()
    waiting = asyncio.create_task(tasks.run("create", fails(KeyError("x"), go_on)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if at_that_moment:
        go_on.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    with pytest.raises(ServiceEnded, match="create ended unexpectedly"):
        await asyncio.wait_for(tasks.failure, 30)


AWAY = ClusterUnavailable("away")


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (None, 0), (KeyError("x"), 1), (AWAY, 0), (ExceptionGroup("g", [AWAY, KeyError("x")]), 1),
        (ExceptionGroup("g", [AWAY, ExceptionGroup("inner", [ClusterUnavailable("x")])]), 0),
    ],
)  # fmt: skip
async def test_a_service_that_ends_in_any_way_ends_the_process(
    tasks: Tasks, caplog: pytest.LogCaptureFixture, error: Exception | None, lines: int
) -> None:
    tasks.supervise("mirror", asyncio.sleep(0) if error is None else fails(error))
    with pytest.raises(ServiceEnded, match="mirror ended unexpectedly") as caught:
        await tasks.failure
    assert (caught.value.__cause__, len(said(caplog))) == (error, lines)


async def test_stopping_is_no_failure(tasks: Tasks, caplog: pytest.LogCaptureFixture) -> None:
    async def ends_badly() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise KeyError("x")

    tasks.background("repair", ends_badly())
    tasks.supervise("mirror", ends_badly())
    await asyncio.sleep(0)
    await tasks.stop()
    assert not said(caplog)


# ---- What the scheduler needs of the machine, and what it does when the clock is set


@pytest.mark.parametrize("seconds", [-86_400.0, 86_400.0])
async def test_what_is_due_stays_due_if_the_clock_is_set(
    tasks: Tasks, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a clock that is set back by a day stops the schedule for a day: no stack would expire."""
    by = 0.0
    real = time.time

    class Set(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=by)

    monkeypatch.setattr(base, "datetime", Set)
    monkeypatch.setattr(schedule, "CHECK_CLOCK_SECONDS", 0.01)
    monkeypatch.setattr(time, "time", lambda: real() + by)
    done = []

    async def verb() -> None:
        done.append(1)

    jobs = Schedule({"one": (0.02, verb)}, tasks)
    jobs.start()
    by = seconds
    tasks.supervise("clock", jobs.follow_clock())
    await eventually(lambda: len(done) >= 3)
    jobs.stop()


async def test_a_run_that_has_become_due_does_not_begin_after_the_stop(tasks: Tasks) -> None:
    done = []

    async def verb() -> None:
        done.append(1)

    jobs = Schedule({"one": (0.01, verb)}, tasks)
    submitted = asyncio.Event()

    def stop(_: object) -> None:
        jobs.stop()
        submitted.set()

    jobs._scheduler.add_listener(stop, EVENT_JOB_SUBMITTED)
    jobs.start()
    await submitted.wait()
    await asyncio.sleep(0.05)
    assert done == []


# ---- waiting for a state of a named object


async def test_a_change_between_the_check_and_the_wait_is_not_lost() -> None:
    waiters: Waiters[int] = Waiters()

    def look() -> None:
        waiters.wake("a", 1)  # after the state was read and before anything waits

    assert await waiters.until("a", lambda state: state, look, 30) == 1


async def test_each_who_waits_for_a_name_sees_also_a_state_that_is_over_again() -> None:
    waiters: Waiters[int] = Waiters()

    def two(state: int | None) -> int | None:
        return state if state == 2 else None

    waiting = [asyncio.create_task(waiters.until("a", two, lambda: None, 30)) for _ in range(3)]
    failing = asyncio.create_task(waiters.until("a", lambda state: state and 1 // 0, lambda: None, 30))
    await asyncio.sleep(0)
    for name, state in (("b", 2), ("a", 1), ("a", 2), ("a", None)):
        waiters.wake(name, state)
    assert await asyncio.gather(*waiting) == [2] * 3
    for outcome in (failing, waiters.until("a", lambda state: state and 1 // 0, lambda: 1, 30)):
        with pytest.raises(ZeroDivisionError):
            await outcome


@pytest.mark.parametrize("gives_up", [False, True])
async def test_waiting_ends_with_a_timeout_and_leaves_nothing_behind(gives_up: bool) -> None:
    waiters: Waiters[int] = Waiters()
    waiting = asyncio.create_task(waiters.until("a", lambda state: state, lambda: None, 60 if gives_up else 0.01))
    await asyncio.sleep(0)
    if gives_up:
        waiters.give_up()
    with pytest.raises(TimeoutError):
        await waiting
    assert len(waiters) == 0
