"""What the file keeps of a stack's life, and for how long after its end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackd.clock import NANOSECONDS
from stackd.model import KeptLog
from stackd.store import Store, history
from tests.store.building import (
    ALICE,
    BOB,
    HOUR,
    START,
    TestClock,
    accepted,
    new_stack,
    query,
    reopened,
    seen,
    stack_id,
)

ONE = stack_id(1)
BYE = KeptLog(container="app", at=START, text="bye\n")
MONTH = 30 * 24 * 3600 * NANOSECONDS


async def kinds(store: Store) -> list[str]:
    return [line.kind.value for line in await store.timeline.read(ONE)]


async def test_the_latest_logs_of_all_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stackd.store.history.MOST_LOGS", 3)
    for number in (1, 2):
        await accepted(store, number)
        await store.timeline.keep_diagnostics(stack_id(number), [], [replace(BYE, container=name) for name in "ab"])
    await store.timeline.keep_diagnostics(ONE, [], [KeptLog(container="b", at=START + 1, text="again")])
    assert [log.text for log in await store.timeline.kept_logs(ONE)] == ["again"]
    assert [log.container for log in await store.timeline.kept_logs(stack_id(2))] == ["a", "b"]


async def test_a_stack_that_flaps_keeps_a_bounded_number_of_lines(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "LINES_PER_STACK", 10)
    await accepted(store, 1)
    for number in range(20):
        await store.stacks.observe([replace(seen(1), status_reason="NotReady" if number % 2 else "")])
    assert len(await store.timeline.read(ONE)) <= 10
    assert (await kinds(store))[-1] == "not_ready"


# ---- the ids of removed stacks: proof, within this file's history, that they were deleted


async def test_they_are_kept_over_restarts_and_for_thirty_days(store: Store, clock: TestClock) -> None:
    gone = [await accepted(store, number) for number in (1, 2)]
    for stack in gone:
        await store.stacks.remove([stack.stack_id])
        clock.advance(60)
    assert set((await store.stacks.adopt(gone)).values()) == {"the stack was removed"}
    assert (await store.purge(START + MONTH, keep_jobs_ns=0))["removed"] == 0
    again = await reopened(store, clock)
    assert (await again.purge(START + MONTH + 1, keep_jobs_ns=0))["removed"] == 1
    assert await again.stacks.removed_among([stack_id(1), stack_id(2)]) == {stack_id(2)}
    await again.close()


# ---- what clients have asked for


async def test_of_the_stacks_of_one_key_the_latest_timelines_are_kept(
    store: Store, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "STACKS_PER_KEY", 3)
    for number in range(8):
        clock.advance(1)
        await store.stacks.reserve(new_stack(number, created_at=clock.now(), ports=0))
        by = BOB if number == 1 else ALICE
        await store.stacks.accept(seen(number), pod_uid="p", service_uid="s", by=by)
        if number:  # the first one lives on
            await store.stacks.remove([stack_id(number)])
    assert (await store.purge(clock.now(), keep_jobs_ns=HOUR))["events"] > 0
    kept = [number for number in range(8) if await store.timeline.read(stack_id(number))]
    assert kept == [0, 1, 5, 6, 7]
    assert query(store.path, "SELECT count(*) FROM removed_labels") == [(4,)]
