"""Who learns how a task ended: whoever awaits it, or else the process, which ends for an unexpected error."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

import pytest
from apscheduler.schedulers import base

from stackd.errors import ClusterUnavailable
from stackd.jobs import schedule
from stackd.jobs.schedule import Entry, Schedule
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


async def over(tasks: Tasks) -> None:
    """Return when all background tasks have ended and their callbacks have run."""
    await tasks.finish(5)
    await asyncio.sleep(0)


def said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_defect_in_what_nobody_awaits_ends_the_process_and_is_told_with_its_trace(
    tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.background("count", fails(KeyError("uid")))
    with pytest.raises(ServiceEnded, match="count ended unexpectedly: KeyError"):
        await tasks.failure
    (record,) = said(caplog)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)
    assert "count ended unexpectedly" in record.message


async def test_an_expected_error_of_a_background_task_is_its_own_matter(
    tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.background("annotate", fails(ClusterUnavailable("not now")))
    await over(tasks)
    assert not tasks.failure.done()
    assert not said(caplog)


async def test_a_defect_in_a_background_task_is_raised_to_its_caller_and_the_process_goes_on(tasks: Tasks) -> None:
    with pytest.raises(KeyError):
        await tasks.result_of(tasks.spawn("create", fails(KeyError("x"))))
    await over(tasks)
    assert not tasks.failure.done()


async def test_a_defect_in_a_background_task_that_nobody_awaits_ends_the_process(tasks: Tasks) -> None:
    go_on = asyncio.Event()
    attending = asyncio.create_task(tasks.result_of(tasks.spawn("create", fails(KeyError("x"), go_on))))
    await asyncio.sleep(0)
    attending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attending
    go_on.set()
    with pytest.raises(ServiceEnded, match="create ended unexpectedly"):
        await tasks.failure


async def test_a_defect_at_the_very_moment_at_which_it_was_left_is_not_lost(tasks: Tasks) -> None:
    go_on = asyncio.Event()
    spawn = tasks.spawn("create", fails(KeyError("x"), go_on))
    attending = asyncio.create_task(tasks.result_of(spawn))
    await asyncio.sleep(0)
    go_on.set()
    attending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attending
    with pytest.raises(ServiceEnded):
        await asyncio.wait_for(tasks.failure, 30)


@pytest.mark.parametrize("error", [None, KeyError("x"), ClusterUnavailable("gone")])
async def test_a_service_that_ends_in_any_way_ends_the_process(tasks: Tasks, error: Exception | None) -> None:
    async def ends() -> None:
        if error is not None:
            raise error

    tasks.supervise("mirror", ends())
    with pytest.raises(ServiceEnded, match="mirror ended unexpectedly") as caught:
        await tasks.failure
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (ExceptionGroup("group", [ClusterUnavailable("away"), ExceptionGroup("inner", [ClusterUnavailable("x")])]), 0),
        (ExceptionGroup("group", [ClusterUnavailable("away"), KeyError("x")]), 1),
    ],
)
async def test_a_group_is_thought_of_if_all_of_it_is(
    tasks: Tasks, caplog: pytest.LogCaptureFixture, error: Exception, lines: int
) -> None:
    tasks.supervise("cluster", fails(error))
    with pytest.raises(ServiceEnded):
        await tasks.failure
    assert len(said(caplog)) == lines


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


SCHEDULE = "from stackd.jobs.schedule import Schedule; from stackd.tasks import Tasks; Schedule([], Tasks())"


@pytest.mark.parametrize("zone", ["EST5EDT,M3.2.0,M11.1.0", "CET-1CEST", "Europe/Nowhere", ""])
def test_the_time_zone_may_be_any_that_the_machine_has(zone: str) -> None:
    code = f"import asyncio\nasync def main():\n    {SCHEDULE}\nasyncio.run(main())"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=os.environ | {"TZ": zone}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("seconds", [-86_400.0, 86_400.0])
async def test_what_is_due_stays_due_where_the_clock_is_set_right_after_the_start(
    seconds: float, monkeypatch: pytest.MonkeyPatch
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

    tasks = Tasks()
    jobs = Schedule([Entry(name="one", every=0.02, verb=verb)], tasks)
    jobs.start()
    by = seconds
    tasks.supervise("clock", jobs.follow_clock())
    try:
        await eventually(lambda: len(done) >= 3)
    finally:
        jobs.stop()
        await tasks.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    name: str
    uid: str = "1"
    value: int = 0


A1, A2, B1 = Thing(name="a", value=1), Thing(name="a", value=2), Thing(name="b", value=1)


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


async def test_all_who_wait_for_a_name_are_told() -> None:
    waiters: Waiters[Thing] = Waiters()
    tasks = [asyncio.create_task(waiters.until("a", lambda thing: thing, lambda: None, 1)) for _ in range(3)]
    await asyncio.sleep(0)
    waiters.wake("b", B1)
    waiters.wake("a", A1)
    assert await asyncio.gather(*tasks) == [A1] * 3
