from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stackd.errors import Conflict, StackNotFound
from stackd.model import DeleteReason, Stack, StackStatus
from stackd.store import Store
from tests.store.building import HOUR, START, claim, new_stack, open_store, seen, stack_id


async def accept(store: Store, number: int, answer: bytes = b"{}") -> None:
    await store.stacks.accept(seen(number), pod_uid="p", service_uid="s", answer=lambda _: answer)


async def test_of_two_requests_with_one_key_the_file_lets_one_through(store: Store) -> None:
    results = await asyncio.gather(
        store.stacks.reserve(new_stack(1), claim=claim()),
        store.stacks.reserve(new_stack(2), claim=claim()),
        return_exceptions=True,
    )
    assert [type(result).__name__ for result in results] == ["Stack", "Conflict"]
    assert (len(store.stacks), store.ports.used) == (1, 1)


async def test_the_answer_is_kept_with_the_acceptance_and_survives_a_restart(store: Store, path: Path) -> None:
    await store.stacks.reserve(new_stack(1), claim=claim())
    waiting = await store.claims.find("web", "key-1")
    assert waiting is not None
    assert (waiting.stack_id, waiting.status, waiting.answer) == (stack_id(1), None, None)
    given: list[StackStatus] = []

    def answer(stack: Stack) -> bytes:
        given.append(stack.status)
        return stack.stack_id.encode()

    await store.stacks.accept(
        seen(1, StackStatus.CREATING),
        pod_uid="p",
        service_uid="s",
        answer=answer,
    )
    await store.close()
    again = await open_store(path)
    answered = await again.claims.find("web", "key-1")
    assert answered is not None
    assert (answered.status, answered.answer) == (201, stack_id(1).encode())
    assert answered.fingerprint == b"\x01\x02"
    assert given == [StackStatus.CREATING]
    await again.close()


async def test_the_key_of_a_create_that_was_undone_may_be_used_again(store: Store) -> None:
    await store.stacks.reserve(new_stack(1), claim=claim())
    await store.stacks.mark_deleting([stack_id(1)], DeleteReason.UNDO)
    assert await store.claims.find("web", "key-1") is None
    await store.stacks.reserve(new_stack(2), claim=claim())
    with pytest.raises(StackNotFound):
        await accept(store, 1)
    await accept(store, 2, b"second")
    answered = await store.claims.find("web", "key-1")
    assert answered is not None
    assert answered.answer == b"second"


async def test_an_answer_that_cannot_be_made_accepts_nothing(store: Store) -> None:
    await store.stacks.reserve(new_stack(1), claim=claim())
    with pytest.raises(ZeroDivisionError):
        await store.stacks.accept(seen(1), pod_uid="p", service_uid="s", answer=lambda _: bytes(1 // 0))
    stack = store.stacks.get(stack_id(1))
    assert stack is not None
    assert not stack.accepted


async def test_the_answer_of_a_batch_delete_is_kept_with_its_job(store: Store) -> None:
    job = await store.jobs.create("job-1", ["a"], claim=claim(), answer=lambda job: job.job_id.encode())
    kept = await store.claims.find("web", "key-1")
    assert kept is not None
    assert (kept.job_id, kept.status, kept.answer) == (job.job_id, 202, b"job-1")
    with pytest.raises(Conflict):
        await store.jobs.create("job-2", ["a"], claim=claim())
    assert store.jobs.get("job-2") is None


async def test_claims_go_after_a_day_and_not_before(store: Store) -> None:
    await store.stacks.reserve(new_stack(1), claim=claim("old"))
    await store.stacks.reserve(new_stack(2), claim=claim("young", created_at=START + 2 * HOUR))
    assert (await store.purge(START + 24 * HOUR, keep_jobs_ns=HOUR)).claims == 0
    assert (await store.purge(START + 25 * HOUR, keep_jobs_ns=HOUR)).claims == 1
    assert await store.claims.find("web", "old") is None
    assert await store.claims.find("web", "young") is not None
