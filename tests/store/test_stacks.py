from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackd.errors import Conflict, StackNotFound, Unavailable
from stackd.model import DeleteReason, Stack, StackStatus
from stackd.store import Extension, Store
from stackd.store.stacks import StacksView
from tests.store.building import HOUR, START, TestClock, accepted, claim, new_stack, open_store, seen, stack_id


async def test_every_field_survives_a_restart(store: Store, path: Path, clock: TestClock) -> None:
    await accepted(store, 1, ports=2)
    clock.advance(5)
    await store.stacks.observe(
        [replace(seen(1, StackStatus.FAILED), status_reason="OOMKilled", status_message="too big")]
    )
    await store.stacks.mark_deleting([stack_id(1)], DeleteReason.EXPIRED)
    before = store.stacks.ordered()
    await store.close()
    again = await open_store(path, clock)
    assert again.stacks.ordered() == before
    assert before[0].labels == {"team": "1"}
    await again.close()


async def test_the_limit_of_stacks_is_decided_in_the_transaction(store: Store) -> None:
    await store.stacks.reserve(new_stack(1), max_stacks=2)
    await store.stacks.reserve(new_stack(2), max_stacks=2)
    with pytest.raises(Unavailable, match="limit of 2 stacks"):
        await store.stacks.reserve(new_stack(3), max_stacks=2)
    assert len(store.stacks) == 2


async def test_an_accepted_stack_shows_updated_at_as_created_at(store: Store, clock: TestClock) -> None:
    await store.stacks.reserve(new_stack(1))
    clock.advance(3)
    stack = await store.stacks.accept(seen(1, StackStatus.CREATING), pod_uid="p", service_uid="s")
    assert (stack.accepted, stack.node_id, stack.node_public_ip) == (True, "worker-1", "192.0.2.7")
    assert stack.updated_at == stack.created_at == START
    assert (stack.pod_uid, stack.service_uid) == ("p", "s")


async def test_another_service_is_kept_and_no_client_sees_a_change(store: Store, clock: TestClock) -> None:
    before = await accepted(store, 1)
    clock.advance(3)
    for uid in ("another", "a third"):
        await store.stacks.set_service(before.stack_id, uid)
        assert store.stacks.get(before.stack_id) == replace(before, service_uid=uid)
    await store.stacks.mark_deleting([before.stack_id], DeleteReason.REQUEST)
    with pytest.raises(StackNotFound):
        await store.stacks.set_service(before.stack_id, "late")


async def test_a_stack_that_ended_before_it_was_accepted_stays_ended(store: Store) -> None:
    await store.stacks.reserve(new_stack(1))
    await store.stacks.observe([seen(1, StackStatus.FAILED, ended=True)])
    stack = await store.stacks.accept(seen(1, StackStatus.CREATING), pod_uid="p", service_uid="s")
    assert (stack.status, stack.ended, stack.accepted) == (StackStatus.FAILED, True, True)


async def test_a_stack_that_is_being_deleted_cannot_be_accepted(store: Store) -> None:
    await store.stacks.reserve(new_stack(1))
    await store.stacks.mark_deleting([stack_id(1)], DeleteReason.REQUEST)
    with pytest.raises(StackNotFound):
        await store.stacks.accept(seen(1), pod_uid="p", service_uid="s")
    with pytest.raises(StackNotFound):
        await store.stacks.accept(seen(2), pod_uid="p", service_uid="s")


async def test_updated_at_moves_with_what_a_client_sees_and_not_otherwise(store: Store, clock: TestClock) -> None:
    await accepted(store, 1)
    clock.advance(1)
    assert await store.stacks.observe([seen(1, StackStatus.CREATING)]) == []
    (running,) = await store.stacks.observe([seen(1, StackStatus.RUNNING)])
    assert running.updated_at == clock.now()
    clock.advance(1)
    (ended,) = await store.stacks.observe([seen(1, StackStatus.RUNNING, ended=True)])
    assert ended.ended
    assert ended.updated_at == running.updated_at


async def test_updated_at_never_goes_back_when_the_clock_is_set_back(store: Store, clock: TestClock) -> None:
    await accepted(store, 1)
    clock.advance(10)
    (running,) = await store.stacks.observe([seen(1, StackStatus.RUNNING)])
    clock.advance(-3600)
    (failed,) = await store.stacks.observe([seen(1, StackStatus.FAILED)])
    assert failed.updated_at == running.updated_at


async def test_an_observation_without_news_costs_no_transaction(store: Store) -> None:
    await accepted(store, 1)
    before = store.counters.commits, store.counters.statements
    assert await store.stacks.observe([seen(1, StackStatus.CREATING), seen(2)]) == []
    assert (store.counters.commits, store.counters.statements) == before


async def test_what_was_seen_of_a_stack_before_its_end_does_not_bring_it_back(store: Store) -> None:
    await accepted(store, 1)
    (ended,) = await store.stacks.observe([seen(1, StackStatus.FAILED, ended=True)])
    assert await store.stacks.observe([seen(1, StackStatus.RUNNING)]) == []
    assert store.stacks.get(stack_id(1)) == ended
    (later,) = await store.stacks.observe([seen(1, StackStatus.NODE_DELETED, ended=True)])
    assert (later.status, later.ended) == (StackStatus.NODE_DELETED, True)


async def test_an_observation_behind_another_one_is_compared_with_it_not_with_the_view(store: Store) -> None:
    await accepted(store, 1)
    await asyncio.gather(
        store.stacks.observe([seen(1, StackStatus.RUNNING)]),
        store.stacks.observe([seen(1, StackStatus.CREATING)]),  # equal to the view now, but not when it is executed
    )
    last = store.stacks.get(stack_id(1))
    assert last is not None
    assert last.status is StackStatus.CREATING


async def test_the_first_reason_and_time_of_a_delete_stay(store: Store, clock: TestClock) -> None:
    await accepted(store, 1)
    (first,) = await store.stacks.mark_deleting([stack_id(1)], DeleteReason.EXPIRED)
    clock.advance(60)
    again = await store.stacks.mark_deleting([stack_id(2), stack_id(1)], DeleteReason.REQUEST)
    assert again == [first]
    assert (first.delete_reason, first.deleting_since) == (DeleteReason.EXPIRED, START)
    assert first.updated_at == first.created_at


async def test_only_an_ended_stack_gives_its_ports_back_and_its_answer_still_shows_them(store: Store) -> None:
    await accepted(store, 1)
    assert await store.ports.release([stack_id(1)]) == []
    assert store.ports.used == 1
    (ended,) = await store.stacks.observe([seen(1, StackStatus.STOPPED, ended=True)])
    (released,) = await store.ports.release([stack_id(1)])
    assert (released.ports_held, released.ports) == (False, ended.ports)
    assert (store.ports.used, store.ports.free) == (0, 100)
    assert await store.ports.release([stack_id(1)]) == []


async def test_adopted_records_come_back_as_they_were(store: Store, path: Path, tmp_path: Path) -> None:
    lost = [await accepted(store, number, ports=2) for number in range(3)]
    other = await open_store(tmp_path / "rebuilt.db")
    results = await other.stacks.adopt(lost)
    assert [result.stack for result in results] == lost
    assert other.stacks.ordered() == store.stacks.ordered()
    assert other.ports.used == 6
    await other.close()


async def test_a_record_that_contradicts_the_file_is_skipped_with_the_reason(store: Store) -> None:
    here = await accepted(store, 1)
    same_port = replace(here, stack_id=stack_id(2))
    elsewhere = replace(here.ports[0], node_port=here.ports[0].node_port % 31100 + 1)
    fine = replace(here, stack_id=stack_id(3), ports=(elsewhere,))
    results = await store.stacks.adopt([same_port, here, fine])
    assert [result.reason for result in results] == [
        "the node port is held by another stack",
        "there is a stack of this id already",
        "",
    ]
    assert [stack.stack_id for stack in store.stacks] == [stack_id(1), stack_id(3)]
    assert store.ports.used == 2


async def test_a_stack_whose_end_was_put_off_a_moment_ago_does_not_expire(store: Store, clock: TestClock) -> None:
    await accepted(store, 1)
    await accepted(store, 2)
    clock.advance(2 * 3600 - 1)
    await store.stacks.extend(stack_id(1), Extension(add=HOUR, longest=24 * HOUR, by="alice"))
    clock.advance(1)
    assert [stack.stack_id for stack in await store.stacks.mark_expired([stack_id(1), stack_id(2)])] == [stack_id(2)]
    clock.advance(3600)
    assert [stack.stack_id for stack in await store.stacks.mark_expired([stack_id(1)])] == [stack_id(1)]


async def test_stacks_that_were_made_in_the_future_end_as_if_they_were_made_now(store: Store, clock: TestClock) -> None:
    await accepted(store, 1)
    year = 365 * 24 * HOUR
    clock.wall += year
    for number in (2, 3, 4):
        await store.stacks.reserve(new_stack(number, created_at=clock.wall))
    clock.wall -= year
    changed = await store.stacks.end_in_time(HOUR)
    assert {stack.stack_id: stack.ttl_expires_at for stack in changed} == {
        stack_id(number): clock.wall + HOUR for number in (2, 3, 4)
    }
    clock.advance(600)
    assert await store.stacks.end_in_time(HOUR) == []
    kept = store.stacks.get(stack_id(1))
    assert kept is not None
    assert kept.ttl_expires_at == START + 2 * HOUR


# ---- view


Change = tuple[Stack | None, Stack | None]


async def test_the_list_is_the_same_object_until_something_changes(store: Store) -> None:
    await accepted(store, 1)
    first = store.stacks.ordered()
    assert store.stacks.ordered() is first
    await store.stacks.observe([seen(1)])
    assert store.stacks.ordered() is not first


async def test_subscribers_hear_of_each_change_in_its_order_before_the_caller_does(store: Store) -> None:
    heard: list[Change] = []
    unsubscribe = store.stacks.subscribe(lambda before, after: heard.append((before, after)))
    reserved = await store.stacks.reserve(new_stack(1))
    assert heard == [(None, reserved)]
    (running,) = await store.stacks.observe([seen(1)])
    (marked,) = await store.stacks.mark_deleting([stack_id(1)], DeleteReason.REQUEST)
    await store.stacks.remove([stack_id(1)])
    assert heard[1:] == [(reserved, running), (running, marked), (marked, None)]
    unsubscribe()
    await store.stacks.reserve(new_stack(2))
    assert len(heard) == 4


async def test_a_row_that_came_and_went_within_one_batch_is_heard_of_twice(store: Store) -> None:
    heard: list[Change] = []
    store.stacks.subscribe(lambda before, after: heard.append((before, after)))
    await asyncio.gather(store.stacks.reserve(new_stack(1)), store.stacks.remove([stack_id(1)]))
    assert [(before is None, after is None) for before, after in heard] == [(True, False), (False, True)]
    assert len(store.stacks) == 0


def record(number: int, created_at: int) -> Stack:
    return Stack(
        stack_id=stack_id(number),
        namespace="stacks",
        pod_spec="",
        ports=(),
        status=StackStatus.CREATING,
        created_at=created_at,
        updated_at=created_at,
        ttl_expires_at=created_at,
        requested_cpu_milli=1,
        requested_memory_bytes=1,
    )


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.booleans()), max_size=40))
def test_the_order_kept_by_insertion_is_the_sorted_one(steps: list[tuple[int, int, bool]]) -> None:
    view, expected = StacksView(), dict[str, Stack]()
    for number, created_at, there in steps:
        stack = replace(record(number, created_at), updated_at=len(expected))
        if there:
            expected[stack.stack_id] = stack
        else:
            expected.pop(stack.stack_id, None)
        view.publish([(stack.stack_id, stack if there else None)])
        assert list(view.ordered()) == sorted(expected.values(), key=lambda s: (s.created_at, s.stack_id))
        assert len(view) == len(expected)
    assert all(view.get(known) is stack for known, stack in expected.items())


# ---- claims


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


async def test_observations_of_stacks_that_are_gone_or_being_deleted_are_skipped(store: Store) -> None:
    await accepted(store, 1)
    (marked,) = await store.stacks.mark_deleting([stack_id(1)], DeleteReason.REQUEST)
    assert await store.stacks.observe([seen(1), seen(9)]) == []
    assert store.stacks.ordered() == (marked,)


async def test_the_list_is_ordered_by_creation_then_id(store: Store) -> None:
    for number, created_at in ((3, START), (1, START + 5), (2, START), (4, START - 1)):
        await store.stacks.reserve(new_stack(number, created_at=created_at))
    assert [stack.stack_id for stack in store.stacks.ordered()] == [stack_id(number) for number in (4, 2, 3, 1)]


async def test_a_failed_reservation_leaves_no_claim(path: Path) -> None:
    store = await open_store(path, ports=(31001, 31001))
    await store.stacks.reserve(new_stack(1))
    with pytest.raises(Exception, match="node ports in 31001-31001 are in use"):
        await store.stacks.reserve(new_stack(2), claim=claim())
    assert await store.claims.find("web", "key-1") is None
    await store.close()
