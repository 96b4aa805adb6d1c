from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from stackd.model import (
    DeleteReason,
    EventKind,
    ItemResult,
    Job,
    JobAction,
    JobRequest,
    JobStatus,
    Outcome,
    StackStatus,
)
from stackd.store import IntentSettings, Start, Store, jobs
from tests.store.building import HOUR, START, TestClock, accepted, open_store, seen, stack_id

DELETED, NOT_FOUND, FAILED = Outcome.DONE, Outcome.NOT_FOUND, Outcome.FAILED


def result(number: int, outcome: Outcome = DELETED, error: str = "") -> ItemResult:
    return ItemResult(stack_id=stack_id(number), outcome=outcome, error=error)


def counts(job: Job | None) -> tuple[str, int, int, int]:
    assert job is not None
    return (job.status.value, job.done, job.not_found, job.failed)


async def test_a_job_goes_from_queued_over_running_to_completed(store: Store, clock: TestClock) -> None:
    await accepted(store, 1)
    await accepted(store, 2)
    ids = [stack_id(number) for number in (1, 2, 3)]
    job = await store.jobs.create("job-1", ids)
    assert (job.status, job.total, job.created_at) == (JobStatus.QUEUED, 3, START)
    assert store.jobs.unfinished() == [job]
    assert await store.jobs.pending_items("job-1", 10) == ids
    clock.advance(1)
    stacks = await store.jobs.begin_items("job-1", ids)
    assert [(stack.stack_id, stack.delete_reason) for stack in stacks] == [
        (stack_id(1), DeleteReason.BATCH),
        (stack_id(2), DeleteReason.BATCH),
    ]
    assert counts(store.jobs.get("job-1")) == ("running", 0, 1, 0)
    await store.jobs.finish_items("job-1", [result(1)])
    assert store.stacks.get(stack_id(1)) is None
    clock.advance(1)
    done = await store.jobs.finish_items("job-1", [result(2, FAILED, "the cluster refuses")])
    assert counts(done) == ("completed", 1, 1, 1)
    assert done.errors[0].error == "the cluster refuses"
    assert done.updated_at == clock.now()
    assert store.jobs.unfinished() == []
    assert store.stacks.get(stack_id(2)) is not None


async def test_a_job_has_failed_only_if_every_delete_failed(store: Store) -> None:
    for number in (1, 2):
        await accepted(store, number)
    await store.jobs.create("job-1", [stack_id(1), stack_id(2)])
    await store.jobs.begin_items("job-1", [stack_id(1), stack_id(2)])
    job = await store.jobs.finish_items("job-1", [result(1, FAILED, "no"), result(2, FAILED, "no")])
    assert counts(job) == ("failed", 0, 0, 2)


async def test_a_job_goes_on_where_it_was_after_a_restart(store: Store, path: Path, clock: TestClock) -> None:
    for number in (1, 2, 3):
        await accepted(store, number)
    ids = [stack_id(number) for number in (1, 2, 3, 4)]
    await store.jobs.create("job-1", ids)
    await store.jobs.begin_items("job-1", ids[:2])
    await store.stacks.remove([stack_id(1)])  # confirmed by the cluster; then the process died
    await store.close()
    clock.advance(60)
    store = await open_store(path, clock)
    (job,) = store.jobs.unfinished()
    assert [stack.stack_id for stack in await store.jobs.begin_items(job.job_id, [stack_id(2)])] == [stack_id(2)]
    assert store.jobs.get("job-1") == job
    assert await store.jobs.pending_items(job.job_id, 10) == ids
    stacks = await store.jobs.begin_items(job.job_id, ids)
    assert [stack.stack_id for stack in stacks] == [stack_id(2), stack_id(3)]
    assert counts(store.jobs.get("job-1")) == ("running", 1, 1, 0)
    done = await store.jobs.finish_items(job.job_id, [result(2), result(3)])
    assert counts(done) == ("completed", 3, 1, 0)
    await store.close()


@pytest.mark.parametrize("crash_after", range(7))
async def test_the_counts_add_up_wherever_the_process_ended(path: Path, crash_after: int) -> None:
    store = await open_store(path)
    for number in range(3):
        await accepted(store, number)
    await store.jobs.create("job-1", [stack_id(number) for number in range(4)])
    begun, steps = False, 0
    while ids := await store.jobs.pending_items("job-1", 1):
        if begun:
            await store.jobs.finish_items("job-1", [result(int(ids[0][-1]))])
        else:
            await store.jobs.begin_items("job-1", ids)
        begun, steps = not begun, steps + 1
        if steps == crash_after:
            await store.close()
            store, begun = await open_store(path), False
    assert counts(store.jobs.get("job-1")) == ("completed", 3, 1, 0)
    assert len(store.stacks) == 0
    await store.close()


async def test_a_stack_that_is_already_being_deleted_keeps_its_reason_and_is_part_of_the_job(store: Store) -> None:
    await accepted(store, 1)
    await store.stacks.mark_deleting([stack_id(1)], DeleteReason.EXPIRED)
    await store.jobs.create("job-1", [stack_id(1)])
    (stack,) = await store.jobs.begin_items("job-1", [stack_id(1)])
    assert stack.delete_reason is DeleteReason.EXPIRED
    assert counts(await store.jobs.finish_items("job-1", [result(1)])) == ("completed", 1, 0, 0)


async def test_a_hundred_errors_of_512_characters_are_kept_across_calls_and_restarts(store: Store, path: Path) -> None:
    for number in range(90):
        await accepted(store, number)
    ids = [stack_id(number) for number in range(150)]
    await store.jobs.create("job-1", ids)
    await store.jobs.finish_items("job-1", [result(number, FAILED, "x" * 600) for number in range(60)])
    job = await store.jobs.finish_items("job-1", [result(number, FAILED, "y" * 600) for number in range(60, 150)])
    assert (job.failed, len(job.errors)) == (150, 100)
    assert {len(error.error) for error in job.errors} == {512}
    assert [error.stack_id for error in job.errors] == ids[:100]
    await store.close()
    again = await open_store(path)
    assert again.jobs.get("job-1") == job
    await again.close()


async def test_finished_jobs_go_when_they_are_old_and_unfinished_ones_stay(store: Store) -> None:
    await store.jobs.create("job-1", ["a"])
    await store.jobs.begin_items("job-1", ["a"])
    await store.jobs.create("job-2", ["a"])
    assert (await store.purge(START + HOUR, keep_jobs_ns=HOUR)).jobs == 0
    assert (await store.purge(START + HOUR + 1, keep_jobs_ns=HOUR)).jobs == 1
    assert store.jobs.get("job-1") is None
    assert store.jobs.get("job-2") is not None
    assert len(store.jobs) == 1


async def test_a_job_of_ten_thousand_ids_costs_the_same_per_batch_from_first_to_last(store: Store) -> None:
    ids = [f"stack-{number}" for number in range(10_000)]
    before = store.counters.statements
    await store.jobs.create("job-1", ids)
    assert store.counters.statements - before == 3
    costs = []
    while page := await store.jobs.pending_items("job-1", 500):
        before = store.counters.statements
        await store.jobs.begin_items("job-1", page)
        costs.append(store.counters.statements - before)
    assert costs == [costs[0]] * 20
    assert costs[0] < 510
    assert counts(store.jobs.get("job-1")) == ("completed", 0, 10_000, 0)


async def test_the_next_items_are_found_by_the_index_of_the_open_ones(store: Store, path: Path) -> None:
    reader = sqlite3.connect(path)
    plan = [row[3] for row in reader.execute(f"EXPLAIN QUERY PLAN {jobs.OPEN_ITEMS}", ("job-1", 10))]
    assert plan == ["SEARCH job_items USING INDEX job_items_open (job_id=?)"]
    plan = [row[3] for row in reader.execute(f"EXPLAIN QUERY PLAN {jobs.JOB_ERRORS}", ("job-1",))]
    assert plan == ["SEARCH job_items USING INDEX job_items_errors (job_id=?)"]
    plan = [row[3] for row in reader.execute(f"EXPLAIN QUERY PLAN {jobs.OPEN_ITEMS_AMONG}", ("[]", "job-1"))]
    assert any("job_items_stack" in step for step in plan)
    reader.close()


async def test_an_extension_is_counted_with_its_row_and_what_cannot_be_extended_has_failed(
    store: Store, path: Path, clock: TestClock
) -> None:
    for number in (1, 2):
        await accepted(store, number)
    await store.stacks.mark_deleting([stack_id(2)], DeleteReason.REQUEST)
    ids = [stack_id(number) for number in (1, 2, 3)]
    extending = JobRequest(action=JobAction.EXTEND, ttl=HOUR, by="alice")
    await store.jobs.create("job-1", ids, extending)
    for _ in range(2):  # the second time, all have their outcome
        await store.jobs.begin_items("job-1", ids, IntentSettings(longest=24 * HOUR))
    job = store.jobs.get("job-1")
    assert counts(job) == ("completed", 1, 1, 1)
    assert store.stacks.ordered()[0].ttl_expires_at == START + 3 * HOUR
    assert job is not None
    assert [error.error for error in job.errors] == [f"{stack_id(2)} is being deleted"]
    await store.close()
    again = await open_store(path, clock)
    assert again.jobs.get("job-1") == job
    await again.close()


async def test_a_start_that_fails_leaves_nothing_of_itself_and_the_others_go_on(path: Path) -> None:
    store = await open_store(path, ports=(31001, 31009))
    await accepted(store, 1, ports=8)
    await accepted(store, 2)
    await store.stacks.observe([seen(1, StackStatus.FAILED, ended=True)])
    await store.ports.release([stack_id(1)])
    await accepted(store, 3)  # it has one of the eight ports now
    ids = [stack_id(1), stack_id(2)]
    await store.jobs.create("job-1", ids, JobRequest(action=JobAction.RESTART, by="alice"))
    start = Start(pod_spec="kind: Pod", kind=EventKind.RESTART_REQUESTED, by="alice", label_limits={})
    begun = await store.jobs.begin_items("job-1", ids, IntentSettings(starts=dict.fromkeys(ids, start)))
    assert [(stack.stack_id, stack.generation) for stack in begun] == [(stack_id(2), 1)]
    job = store.jobs.get("job-1")
    assert counts(job) == ("running", 0, 0, 1)
    assert job is not None
    assert "another stack has node port" in job.errors[0].error
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as reader:
        assert reader.execute("SELECT count(*) FROM node_ports").fetchone() == (2,)


async def test_an_outcome_is_counted_once(store: Store) -> None:
    await accepted(store, 1)
    await accepted(store, 2)
    await store.jobs.create("job-1", [stack_id(1), stack_id(2)])
    await store.jobs.begin_items("job-1", [stack_id(1)])
    await store.jobs.finish_items("job-1", [result(1), result(1)])
    again = await store.jobs.finish_items("job-1", [result(1, FAILED, "late"), result(9)])
    assert counts(again) == ("running", 1, 0, 0)
    assert await store.jobs.begin_items("job-1", [stack_id(1)]) == []
    assert counts(store.jobs.get("job-1")) == ("running", 1, 0, 0)
