"""Batch jobs: each id has one outcome, counted once, wherever the process ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stackd.errors import TooManyRequests
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
    WantedStack,
)
from stackd.store import Start, Store, claim_of, jobs
from tests.store.building import (
    ALICE,
    BOB,
    TestClock,
    accepted,
    new_stack,
    open_store,
    query,
    seen,
    stack_id,
)

IDS = [stack_id(number) for number in range(5)]
COMPLETED, RUNNING = JobStatus.COMPLETED, JobStatus.RUNNING


def result(number: int, outcome: Outcome = Outcome.DONE, error: str = "") -> ItemResult:
    return ItemResult(stack_id=stack_id(number), outcome=outcome, error=error)


def counts(job: Job | None) -> tuple[JobStatus, int, int, int]:
    assert job is not None
    return (job.status, job.done, job.not_found, job.failed)


async def test_an_outcome_is_counted_once(store: Store) -> None:
    await accepted(store, 1)
    await accepted(store, 2)
    await store.stacks.mark_deleting([IDS[2]], DeleteReason.EXPIRED)
    job = await store.jobs.create("job-1", IDS[1:4])
    assert (job.status, job.total, job.not_found) == (JobStatus.QUEUED, 3, 1)
    assert await store.jobs.pending_items("job-1", 10) == IDS[1:3], "no stack ever gets the id that is unknown now"
    stacks = await store.jobs.begin_items("job-1", IDS[1:4])
    assert [stack.delete_reason for stack in stacks] == [None, DeleteReason.EXPIRED]
    await store.jobs.finish_items("job-1", [result(1), result(1)])
    assert store.stacks.get(IDS[1]) is None
    again = await store.jobs.finish_items("job-1", [result(1, Outcome.FAILED, "late"), result(9)])
    assert counts(again) == (RUNNING, 1, 1, 0)
    assert await store.jobs.begin_items("job-1", [IDS[1]]) == []
    done = await store.jobs.finish_items("job-1", [result(2, Outcome.FAILED, "the cluster refuses")])
    assert (counts(done), done.errors[0].error) == ((COMPLETED, 1, 1, 1), "the cluster refuses")
    assert store.jobs.unfinished() == []
    assert store.stacks.get(IDS[2]) is not None


async def test_the_claim_of_a_stack_that_a_job_creates_is_kept_until_it_is_counted(store: Store) -> None:
    """However long that takes: without the claim, the stack would be created again."""
    wishes = tuple(WantedStack(index=index, labels={"player": f"p{index}"}, ttl=None) for index in range(2))
    request = JobRequest(action=JobAction.CREATE, template="lab-1", by=ALICE, each=wishes)
    job = await store.jobs.create("job-1", [], request)
    assert await store.jobs.begin_creates("job-1", 5) == list(wishes)
    claims = [claim_of(job, one, 1) for one in wishes]
    for number, one in enumerate(claims):
        await store.stacks.reserve(new_stack(number), claim=one)
    await store.purge(2**62, keep_jobs_ns=0, keep_claims_ns=0)
    assert [await store.claims.find(one.scope, one.key) for one in claims] == [
        replace(one, stack_id=stack_id(number)) for number, one in enumerate(claims)
    ]
    made = ItemResult(stack_id="1", outcome=Outcome.DONE, created=stack_id(1))
    assert counts(await store.jobs.finish_items("job-1", [made])) == (JobStatus.RUNNING, 1, 0, 0)
    assert [await store.claims.find(one.scope, one.key) is None for one in claims] == [False, True]
    refused = ItemResult(stack_id="0", outcome=Outcome.FAILED, error="no", code="no_room")
    job = await store.jobs.finish_items("job-1", [made, refused])
    assert (counts(job), job.errors[0].labels) == ((JobStatus.COMPLETED, 1, 0, 1), {"player": "p0"})
    items = await store.jobs.items("job-1")
    assert [(one.stack_id, one.state, one.code) for one in items] == [
        ("", "failed", "no_room"),
        (stack_id(1), "done", None),
    ]


async def test_of_unknown_ids_only_the_number_is_kept(store: Store) -> None:
    before = store.counters.statements
    job = await store.jobs.create("job-1", [f"stack-{number}" for number in range(10_000)])
    assert store.counters.statements - before < 6
    assert (counts(job), job.total) == ((COMPLETED, 0, 10_000, 0), 10_000)
    assert query(store.path, "SELECT count(*) FROM job_items") == [(0,)]


async def test_the_oldest_finished_jobs_of_a_key_make_way_and_unfinished_ones_are_not_too_many(
    store: Store, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "ITEMS_PER_KEY", 100)  # a job counts as ten
    await accepted(store, 1)
    await store.jobs.create("other", ["unknown"], JobRequest(by=BOB))
    for number in range(30):
        clock.advance(1)
        await store.jobs.create(f"job-{number}", ["unknown"], JobRequest(by=ALICE))
    kept = [job.job_id for job in store.jobs]
    assert (kept[0], kept[-1], 5 <= len(kept) <= 11) == ("other", "job-29", True)
    assert sorted(kept) == sorted(one for (one,) in query(store.path, "SELECT job_id FROM jobs"))
    clock.advance(1)
    for number in range(9):
        await store.jobs.create(f"waits-{number}", [IDS[1]], JobRequest(by=ALICE))
    with pytest.raises(TooManyRequests, match="have 99 stacks that wait"):
        await store.jobs.create("one-too-many", [IDS[1]], JobRequest(by=ALICE))
    await store.jobs.create("bobs", [IDS[1]], JobRequest(by=BOB))
    assert len(store.jobs.unfinished()) == 10


async def test_a_start_that_fails_leaves_nothing_of_itself(path: Path) -> None:
    store = await open_store(path, ports=(31001, 31009))
    await accepted(store, 1, ports=8)
    await accepted(store, 2)
    await store.stacks.observe([seen(1, StackStatus.FAILED, ended=True)])
    await store.ports.release([IDS[1]])
    await accepted(store, 3)  # it has one of the eight ports now
    await store.jobs.create("job-1", IDS[1:3], JobRequest(action=JobAction.RESTART, by=ALICE))
    start = Start(pod_spec="kind: Pod", kind=EventKind.RESTART_REQUESTED, by=ALICE)
    starts = dict.fromkeys(IDS, start)
    begun = await store.jobs.begin_items("job-1", IDS[1:3], starts=starts)
    assert [(stack.stack_id, stack.generation) for stack in begun] == [(IDS[2], 1)]
    again = await store.jobs.begin_items("job-1", IDS[1:3], starts=starts)
    assert [stack.generation for stack in again] == [1], "none is restarted twice"
    job = store.jobs.get("job-1")
    assert counts(job) == (RUNNING, 0, 0, 1)
    await store.close()
    assert query(path, "SELECT count(*) FROM node_ports") == [(2,)]
