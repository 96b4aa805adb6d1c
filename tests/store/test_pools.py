"""Stacks that wait in a pool: each is given away only once and only while it lives."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stackd.errors import Conflict, LabelLimitReached, StackNotFound, Unavailable
from stackd.model import DeleteReason, Desired, EventKind, Stack, StackStatus
from stackd.store import Assignment, Extension, Store
from stackd.store.adoption import renewed
from tests.store.building import HOUR, START, TestClock, accepted, claim, new_stack, open_store, seen, stack_id
from tests.unit.lifecycle.situations import NOW, STACK, STOPPED, stack

LATER = START + HOUR
AS_IT_IS = "digest of the template"


async def pooled(store: Store, number: int = 0, status: StackStatus = StackStatus.RUNNING) -> Stack:
    """A stack that waits in a pool."""
    new = replace(new_stack(number), labels={}, template="web-1", unassigned=True, digest=AS_IT_IS)
    await store.stacks.reserve(new)
    await store.stacks.accept(seen(number, StackStatus.CREATING), pod_uid="pod", service_uid="service")
    await store.stacks.observe([seen(number, status)])
    return store.stacks.get(stack_id(number)) or pytest.fail("it has no row")


def wanted(number: int = 0, **other: Any) -> Assignment:
    fields: dict[str, Any] = {
        "stack_id": stack_id(number), "digest": AS_IT_IS, "created_at": LATER, "ttl_expires_at": LATER + 5, "by": "alice",
    }  # fmt: skip
    return Assignment(**(fields | other))


async def test_what_waits_is_in_no_list_and_holds_its_ports(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "file.db")
    told: list[object] = []
    store.assigned.subscribe(lambda before, after: told.append((before, after)))
    stack = await pooled(store)
    assert (len(store.stacks), len(store.assigned), store.ports.used) == (1, 0, 1)
    assert (stack.stack_id in store.assigned, told, store.assigned.version) == (False, [], 0)
    await store.close()
    store = await open_store(tmp_path / "file.db")
    assert (len(store.stacks), len(store.assigned), store.ports.used) == (1, 0, 1)
    await store.close()


async def test_it_is_given_with_labels_and_times_of_now_and_comes_to_be_for_clients(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "file.db")
    before = await pooled(store)
    told: list[tuple[Stack | None, Stack | None]] = []
    store.assigned.subscribe(lambda was, now: told.append((was, now)))
    given = await store.stacks.assign(wanted(labels={"team": "7"}))
    assert given == replace(
        before, unassigned=False, labels={"team": "7"}, created_at=LATER, updated_at=LATER, ttl_expires_at=LATER + 5
    )
    assert told == [(None, given)]
    lines = await store.timeline.read(stack_id(0))
    assert [(line.kind, line.by) for line in lines if line.kind is EventKind.ACCEPTED] == [
        (EventKind.ACCEPTED, "alice")
    ]
    await store.close()
    store = await open_store(tmp_path / "file.db")
    assert store.assigned.get(stack_id(0)) == given
    await store.close()


async def test_of_many_at_once_one_gets_it(store: Store) -> None:
    await pooled(store)
    found = await asyncio.gather(*(store.stacks.assign(wanted(by=f"key-{number}")) for number in range(20)))
    assert sum(stack is not None for stack in found) == 1


@pytest.mark.parametrize("status", [StackStatus.STOPPED, StackStatus.FAILED, StackStatus.NODE_DELETED])
async def test_none_is_given_that_neither_runs_nor_starts(store: Store, status: StackStatus) -> None:
    await pooled(store, status=status)
    assert await store.stacks.assign(wanted()) is None
    assert len(store.assigned) == 0


async def test_none_is_given_that_has_ended_or_goes_or_is_of_another_template(store: Store) -> None:
    for number in range(3):
        await pooled(store, number)
    await store.stacks.observe([replace(seen(0), ended=True)])
    await store.stacks.mark_deleting([stack_id(1)], DeleteReason.POOL)
    assert [await store.stacks.assign(wanted(0)), await store.stacks.assign(wanted(1))] == [None, None]
    assert await store.stacks.assign(wanted(2, digest="of another")) is None
    assert await store.stacks.assign(wanted(2)) is not None


async def test_limits_count_what_was_given_and_nothing_else(store: Store) -> None:
    for number in range(4):
        await pooled(store, number)
    limits = {"team": 1}
    assert await store.stacks.assign(wanted(0, labels={"team": "7"}, label_limits=limits, max_stacks=1)) is not None
    with pytest.raises(LabelLimitReached) as found:
        await store.stacks.assign(wanted(1, labels={"team": "7"}, label_limits=limits))
    assert found.value.stack_id == stack_id(0)
    with pytest.raises(Unavailable, match="limit of 1 stacks"):
        await store.stacks.assign(wanted(1, max_stacks=1))
    with pytest.raises(Unavailable, match="limit of 1 stacks"):
        await store.stacks.reserve(new_stack(9), max_stacks=1)
    assert len(store.assigned) == 1
    assert await store.stacks.assign(wanted(1, max_stacks=2)) is not None  # the stack waited as before


async def test_the_answer_is_kept_with_it_or_not_at_all(store: Store) -> None:
    await pooled(store, 0)
    await pooled(store, 1)
    given = await store.stacks.assign(wanted(0), claim=claim(), answer=lambda stack: stack.stack_id.encode())
    assert given is not None
    kept = await store.claims.find("web", "key-1")
    assert kept is not None
    assert (kept.stack_id, kept.status, kept.answer) == (given.stack_id, 201, given.stack_id.encode())
    with pytest.raises(Conflict):
        await store.stacks.assign(wanted(1), claim=claim(), answer=lambda stack: b"")
    assert await store.stacks.assign(wanted(1)) is not None


async def test_for_its_clients_it_does_not_exist(store: Store) -> None:
    await pooled(store)
    assert await store.stacks.mark_deleting([stack_id(0)], DeleteReason.REQUEST) == []
    with pytest.raises(StackNotFound):
        await store.stacks.stop(stack_id(0), "alice")
    with pytest.raises(StackNotFound):
        await store.stacks.extend(stack_id(0), Extension(add=1, longest=9 * HOUR, by="alice"))
    await store.jobs.create("job-1", [stack_id(0)])
    assert await store.jobs.begin_items("job-1", [stack_id(0)]) == []
    job = store.jobs.get("job-1")
    assert job is not None
    assert (job.not_found, job.finished) == (1, True)
    assert store.stacks.get(stack_id(0)) is not None


async def test_it_has_no_end_of_its_own(tmp_path: Path) -> None:
    clock = TestClock()
    store = await open_store(tmp_path / "file.db", clock)
    await pooled(store)
    clock.advance(9 * 3600)
    assert await store.stacks.mark_expired([stack_id(0)]) == []
    given = await store.stacks.assign(wanted(created_at=START - HOUR, ttl_expires_at=START - 1))
    assert given is not None
    assert [stack.stack_id for stack in await store.stacks.mark_expired([stack_id(0)])] == [stack_id(0)]
    await store.close()


async def test_a_pool_gives_up_only_what_is_nobodys_and_leaves_no_trace_of_it(store: Store) -> None:
    await pooled(store, 0)
    await accepted(store, 1)
    marked = await store.stacks.mark_deleting([stack_id(0), stack_id(1)], DeleteReason.POOL)
    assert [stack.stack_id for stack in marked] == [stack_id(0)]
    assert await store.timeline.read(stack_id(0)) != []
    assert await store.stacks.remove([stack_id(0)]) == 1
    assert (await store.timeline.read(stack_id(0)), store.ports.used) == ([], 1)
    assert await store.stacks.removed_among([stack_id(0)]) == {stack_id(0)}


async def test_what_a_restored_file_has_in_a_pool_stays_there_unless_a_client_may_have_been_given_it(
    tmp_path: Path,
) -> None:
    clock = TestClock()
    store = await open_store(tmp_path / "file.db", clock)
    row = await pooled(store)
    clock.wall += HOUR
    assert await store.stacks.renew([row]) == []
    assert store.stacks.get(row.stack_id) == row
    assert await store.stacks.renew([replace(row, digest=None)]) == []
    a_clients = replace(row, unassigned=False, ttl_expires_at=row.ttl_expires_at + HOUR)
    assert store.assigned.get(row.stack_id) == a_clients
    clock.wall += HOUR
    assert await store.stacks.renew([replace(row, digest=None)]) == []
    assert store.stacks.get(row.stack_id) == a_clients  # the next start does not extend it again
    await store.close()


@pytest.mark.parametrize("digest", [AS_IT_IS, None])
async def test_what_is_adopted_stays_in_its_pool_unless_a_client_may_have_been_given_it(
    tmp_path: Path, digest: str | None
) -> None:
    store = await open_store(tmp_path / "file.db")
    record = replace(await pooled(store), digest=digest)
    await store.close()
    clock = TestClock()
    clock.wall += HOUR
    store = await open_store(tmp_path / "another.db", clock)
    (adopted,) = await store.stacks.adopt([record])
    a_clients = replace(record, unassigned=False, ttl_expires_at=record.ttl_expires_at + HOUR)
    assert adopted.stack == (a_clients if digest is None else record)
    assert (await store.stacks.assign(wanted()) is None) is (digest is None)
    await store.close()


async def test_an_undone_assignment_frees_the_key_whose_answer_was_never_sent(store: Store) -> None:
    for number in range(2):
        await pooled(store, number)
    assert await store.stacks.assign(wanted(0), claim=claim(), answer=lambda stack: b"{}") is not None
    await store.stacks.mark_deleting([stack_id(0)], DeleteReason.UNDO)
    assert await store.stacks.assign(wanted(1), claim=claim(), answer=lambda stack: b"{}") is not None


def test_a_record_that_does_not_know_yet_that_it_was_given_changes_nothing() -> None:
    behind = replace(STACK, unassigned=True, ttl_expires_at=STACK.ttl_expires_at + 7)
    assert renewed(STACK, behind, LATER) == STACK


# ---- what the row of a restored file takes over from a pod's record, and what it keeps


RECORD = stack(status=StackStatus.CREATING, updated_at=STACK.created_at)
NEXT: dict[str, Any] = {"generation": 1, "pod_uid": "next", "service_uid": "next"}
RENEWALS_LATER = STACK.ttl_expires_at + 1
ENDED = stack(status=StackStatus.FAILED, ended=True, ports_held=False)


@pytest.mark.parametrize(
    ("row", "record"),
    [
        (STACK, RECORD),
        (STACK, replace(RECORD, ttl_expires_at=STACK.ttl_expires_at - 1)),
        # the record is of an earlier pod than the row's
        (stack(generation=1, pod_uid=None), RECORD),
        # a requested delete, an ended pod, a stop that is not done yet
        (
            stack(deleting_since=NOW, delete_reason=DeleteReason.REQUEST),
            replace(RECORD, **NEXT, ttl_expires_at=RENEWALS_LATER),
        ),
        (ENDED, RECORD),
        (STOPPED, RECORD),
    ],
)
def test_a_row_that_is_no_older_than_its_pod_stays_as_it_is(row: Stack, record: Stack) -> None:
    assert renewed(row, record, NOW) == row


@pytest.mark.parametrize("row", [STACK, STOPPED, ENDED])
def test_an_end_that_was_put_off_counts_whatever_else_the_row_says(row: Stack) -> None:
    assert renewed(row, replace(RECORD, ttl_expires_at=RENEWALS_LATER), NOW) == replace(
        row, ttl_expires_at=RENEWALS_LATER
    )


@pytest.mark.parametrize("row", [STACK, STOPPED, ENDED])
def test_a_stack_that_was_started_since_lives(row: Stack) -> None:
    found = renewed(row, replace(RECORD, **NEXT), NOW)
    assert (found.desired, found.ended, found.ports_held, found.status) == (
        Desired.RUNNING, False, True, StackStatus.CREATING,
    )  # fmt: skip
    assert (found.generation, found.pod_uid, found.service_uid) == (1, "next", "next")


def test_a_create_that_the_file_has_not_seen_to_its_end_was_one() -> None:
    found = renewed(stack(accepted=False, pod_uid=None, service_uid=None), RECORD, NOW)
    assert (found.accepted, found.pod_uid, found.service_uid) == (True, "pod", "service")


def test_what_another_owner_has_told_of_since_is_not_undone() -> None:
    """This owner refused the create, another owner adopted what was left: its clients may use the stack now."""
    undone = stack(accepted=False, pod_uid=None, deleting_since=NOW, delete_reason=DeleteReason.UNDO)
    found = renewed(undone, RECORD, NOW)
    assert (found.accepted, found.deleting_since, found.delete_reason, found.pod_uid) == (True, None, None, "pod")


def test_a_stack_that_has_ended_since_has_given_its_ports_back() -> None:
    """Another stack may have the ports now, and its row could not be created otherwise."""
    over = replace(RECORD, ended=True, status=StackStatus.FAILED, status_reason="Error", ports_held=False)
    found = renewed(STACK, over, NOW)
    assert (found.ended, found.status, found.status_reason, found.ports_held) == (
        True, StackStatus.FAILED, "Error", False,
    )  # fmt: skip
    assert not renewed(replace(ENDED, ports_held=True), over, NOW).ports_held


def test_a_service_that_got_another_port_since_has_it() -> None:
    moved = tuple(replace(port, node_port=port.node_port + 1) for port in STACK.ports)
    found = renewed(STACK, replace(RECORD, ports=moved, service_uid="another"), NOW)
    assert (found.ports, found.service_uid) == (moved, "another")
    assert renewed(STACK, replace(RECORD, ports=moved, service_uid=None), NOW) == STACK, "no Service tells of a port"


async def test_what_was_given_since_a_file_was_copied_is_so_again(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "file.db")
    row = await pooled(store)
    record = replace(
        row, unassigned=False, labels={"team": "7"}, created_at=LATER, updated_at=LATER, ttl_expires_at=LATER + 5
    )
    assert await store.stacks.renew([record]) == []
    assert store.assigned.get(stack_id(0)) == record
    with pytest.raises(LabelLimitReached):
        await store.stacks.check({"team": "7"}, ports=1, label_limits={"team": 1})
    await store.close()
    store = await open_store(tmp_path / "file.db")
    assert store.assigned.get(stack_id(0)) == record
    await store.close()
