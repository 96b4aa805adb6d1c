from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from stackd.errors import StoreUnavailable
from stackd.model import DeleteReason, EventKind, KeptLog, TimelineEvent
from stackd.store import Store
from stackd.store.timeline import LINES_PER_STACK
from tests.store.building import HOUR, START, TestClock, accepted, seen, stack_id

ONE = stack_id(1)


async def kinds(store: Store) -> list[str]:
    return [line.kind.value for line in await store.timeline.read(ONE)]


async def test_what_the_cluster_says_again_is_counted_and_not_repeated(store: Store) -> None:
    await accepted(store, 1)
    for count in (1, 5):
        said = TimelineEvent(
            kind=EventKind.WARNING, at=START + count, reason="BackOff", message="x", by="cluster", count=count
        )
        await store.timeline.keep_diagnostics(ONE, [said], [])
    (line,) = [line for line in await store.timeline.read(ONE) if line.kind is EventKind.WARNING]
    assert (line.at, line.count) == (START + 5, 5)


async def test_last_words_are_kept_of_a_stack_that_has_just_gone_and_of_no_stranger(store: Store) -> None:
    words = KeptLog(container="app", at=START, text="bye\n")
    await accepted(store, 1)
    await store.stacks.mark_deleting([ONE], DeleteReason.REQUEST)
    await store.stacks.remove([ONE])
    waits = store.counters.disk_waits
    await store.timeline.keep_final_logs(ONE, [words])
    await store.timeline.keep_final_logs(stack_id(2), [words])
    assert await store.timeline.kept_logs(ONE) == [words]
    assert await store.timeline.kept_logs(stack_id(2)) == []
    assert store.counters.disk_waits == waits


async def test_the_latest_logs_of_all_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stackd.store.timeline.MOST_LOGS", 3)
    for number in (1, 2):
        await accepted(store, number)
        logs = [KeptLog(container=name, at=START, text="bye") for name in ("a", "b")]
        await store.timeline.keep_diagnostics(stack_id(number), [], logs)
    await store.timeline.keep_diagnostics(ONE, [], [KeptLog(container="b", at=START + 1, text="again")])
    assert [log.text for log in await store.timeline.kept_logs(ONE)] == ["again"]
    assert [log.container for log in await store.timeline.kept_logs(stack_id(2))] == ["a", "b"]


async def test_a_stack_that_flaps_keeps_a_bounded_number_of_lines(store: Store) -> None:
    await accepted(store, 1)
    for number in range(LINES_PER_STACK):
        reason = "NotReady" if number % 2 else ""
        await store.stacks.observe([replace(seen(1), status_reason=reason)])
    assert len(await store.timeline.read(ONE)) <= LINES_PER_STACK
    assert (await kinds(store))[-1] == "not_ready"


async def test_timeline_and_logs_go_when_the_stack_has_been_gone_for_long_enough(
    store: Store, clock: TestClock
) -> None:
    for number in (1, 2):
        await accepted(store, number)
        await store.timeline.keep_diagnostics(stack_id(number), [], [KeptLog(container="app", at=START, text="bye")])
    await store.stacks.mark_deleting([ONE], DeleteReason.EXPIRED)
    await store.stacks.remove([ONE])
    clock.advance(3600)
    assert (await store.purge(clock.now(), keep_jobs_ns=HOUR, keep_history_ns=HOUR + 1)).events == 0
    assert [log.text for log in await store.timeline.kept_logs(ONE)] == ["bye"]
    assert (await store.purge(clock.now() + 1, keep_jobs_ns=HOUR, keep_history_ns=HOUR)).events == 4
    assert (await kinds(store), await store.timeline.kept_logs(ONE)) == ([], [])
    assert await store.timeline.read(stack_id(2))
    assert await store.timeline.kept_logs(stack_id(2))


async def test_a_timeline_without_its_last_line_is_closed_by_the_first_purge_that_succeeds(
    path: Path, store: Store, clock: TestClock
) -> None:
    await accepted(store, 1)
    await store.stacks.mark_deleting([ONE], DeleteReason.EXPIRED)
    await store.stacks.remove([ONE])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("DELETE FROM timeline WHERE kind = 'deleted'")
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            await store.purge(clock.now(), keep_jobs_ns=HOUR, keep_history_ns=HOUR)
        shell.execute("ROLLBACK")
    await store.purge(clock.now(), keep_jobs_ns=HOUR, keep_history_ns=HOUR)
    assert (await kinds(store))[-1] == "deleted"


async def test_what_the_cluster_says_about_a_stack_that_is_gone_is_not_kept(store: Store) -> None:
    said = TimelineEvent(kind=EventKind.WARNING, at=START, reason="x", by="cluster")
    await store.timeline.keep_diagnostics(ONE, [said], [KeptLog(container="app", at=START, text="bye")])
    assert (await kinds(store), await store.timeline.kept_logs(ONE)) == ([], [])
