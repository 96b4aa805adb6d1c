"""Stacks that wait in a pool: each is assigned only once and only while it lives; and the renewal of restored rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stackd.errors import LabelLimitReached
from stackd.lifecycle.spares import new_spare
from stackd.model import DeleteReason, Desired, EventKind, PortMapping, Stack, StackStatus
from stackd.store import Assignment, CreateLimits, Store
from stackd.store.adoption import updated
from tests.store.building import (
    ALICE,
    HOUR,
    START,
    accepted,
    claim,
    new_stack,
    open_store,
    reopened,
    seen,
    stack_id,
)

LATER = START + HOUR
DIGEST = "digest of the template"
ZERO = stack_id(0)


async def pooled(store: Store, number: int = 0, status: StackStatus = StackStatus.RUNNING) -> Stack:
    """A stack that waits in a pool."""
    await store.stacks.reserve(new_stack(number, labels={}, template="web-1", unassigned=True, digest=DIGEST))
    await store.stacks.accept(seen(number, StackStatus.CREATING), pod_uid="pod", service_uid="service")
    await store.stacks.observe([seen(number, status)])
    return store.stacks.get(stack_id(number)) or pytest.fail("it has no row")


def wanted(number: int = 0, limits: CreateLimits | None = None, **other: Any) -> Assignment:
    fields = {"labels": {}, "digest": DIGEST, "created_at": LATER, "updated_at": LATER, "ttl_expires_at": LATER + 5}
    return Assignment(stack=new_stack(number, **{**fields, **other}), by=ALICE, limits=limits or CreateLimits())


async def test_a_spare_is_taken_once_and_only_as_one(path: Path) -> None:
    store = await open_store(path)
    stacks, one = store.stacks, await store.stacks.reserve(new_spare(ZERO, "stacks", START))
    going = await stacks.reserve(new_spare(stack_id(1), "stacks", START))
    await stacks.mark_deleting([going.stack_id], DeleteReason.POOL)
    taken = await stacks.take_spare(new_stack(), claim=claim())
    assert taken is not None
    assert (taken.node_ports, taken.spare, taken.labels) == (one.node_ports, False, new_stack().labels)
    for number in range(3):  # it is a stack now; it is to be removed; there is none
        assert await stacks.take_spare(new_stack(number, labels={})) is None
    assert (store.ports.used, len(store.ports.spare)) == (1, 1)
    assert stacks.get(ZERO) == taken


async def test_it_is_in_no_list_until_it_is_assigned_with_labels_and_times_of_now(path: Path) -> None:
    store = await open_store(path)
    before = await pooled(store)
    store = await reopened(store)
    assert (len(store.stacks), len(store.assigned), store.ports.used, store.assigned.version) == (1, 0, 1, 0)
    changes: list[tuple[Stack | None, Stack | None]] = []
    store.assigned.subscribe(lambda was, now: changes.append((was, now)))
    assigned = await store.stacks.assign(wanted(labels={"team": "7"}))
    assert assigned is not None
    times: dict[str, Any] = {"created_at": LATER, "updated_at": LATER, "ttl_expires_at": LATER + 5}
    assert replace(assigned, updated_at=LATER) == replace(before, unassigned=False, labels={"team": "7"}, **times)
    assert changes == [(None, assigned)]
    lines = [line for line in await store.timeline.read(ZERO) if line.kind is EventKind.ACCEPTED]
    assert [line.by for line in lines] == [ALICE]
    store = await reopened(store)
    assert store.assigned.get(ZERO) == assigned
    await store.close()


async def test_none_is_assigned_that_neither_runs_nor_starts_or_is_of_another_template(store: Store) -> None:
    for number, status in enumerate((StackStatus.STOPPED, StackStatus.FAILED, StackStatus.NODE_DELETED)):
        await pooled(store, number, status)
    for number in (3, 4, 5):
        await pooled(store, number)
    await store.stacks.observe([replace(seen(3), ended=True)])
    await store.stacks.mark_deleting([stack_id(4)], DeleteReason.POOL)
    assert [await store.stacks.assign(wanted(number)) for number in range(5)] == [None] * 5
    assert await store.stacks.assign(wanted(5, digest="of another")) is None
    assert len(store.assigned) == 0
    assert await store.stacks.assign(wanted(5)) is not None


async def test_a_pool_deletes_only_what_is_nobodys_and_leaves_no_trace_of_it(store: Store) -> None:
    await pooled(store)
    await accepted(store, 1)
    marked = await store.stacks.mark_deleting([ZERO, stack_id(1)], DeleteReason.POOL)
    assert [stack.stack_id for stack in marked] == [ZERO]
    assert await store.timeline.read(ZERO) != []
    assert await store.stacks.remove([ZERO]) == 1
    assert (await store.timeline.read(ZERO), store.ports.used) == ([], 1)
    assert await store.stacks.removed_among([ZERO]) == {ZERO}


# ---- a record that says less or more than the row


async def test_what_was_assigned_since_a_file_was_copied_is_so_again(store: Store) -> None:
    row = await pooled(store)
    times: dict[str, Any] = {"created_at": LATER, "updated_at": LATER, "ttl_expires_at": LATER + 5}
    record = replace(row, unassigned=False, labels={"team": "7"}, **times)
    assert await store.stacks.update([record]) == []
    assert store.assigned.get(ZERO) == record
    with pytest.raises(LabelLimitReached):
        await store.stacks.check({"team": "7"}, ports=1, limits=CreateLimits(labels={"team": 1}))
    again = await reopened(store)
    assert again.assigned.get(ZERO) == record
    await again.close()


async def test_rows_that_have_exchanged_a_port_since_the_copy_are_renewed(store: Store) -> None:
    one, two = await accepted(store, 1), await accepted(store, 2)
    moved = replace(two.ports[0], node_port=31000)
    records = [replace(one, ports=two.ports), replace(two, ports=(moved,))]
    assert await store.stacks.update(records) == []
    assert [store.stacks.get(record.stack_id) for record in records] == records
    contradiction = replace(one, ports=(moved,))
    assert await store.stacks.update([contradiction]) == [(one.stack_id, "the node port is held by another stack")]


# ---- what the row of a restored file takes over from a pod's record, and what it keeps

NOW = START + 60
ROW = replace(
    new_stack(1, accepted=True, status=StackStatus.RUNNING, pod_uid="pod", service_uid="service"),
    ports=(PortMapping(container_port=80, protocol="TCP", node_port=31001),),
)
RECORD = replace(ROW, status=StackStatus.CREATING)
STOPPED = replace(ROW, status=StackStatus.STOPPED, desired=Desired.STOPPED, pod_uid=None)
ENDED = replace(ROW, status=StackStatus.FAILED, ended=True, ports_held=False)
NEXT: dict[str, Any] = {"generation": 1, "pod_uid": "next", "service_uid": "next"}
EXTENDED = ROW.ttl_expires_at + 1


@pytest.mark.parametrize(
    ("row", "record"),
    [
        (ROW, RECORD),
        (ROW, replace(RECORD, ttl_expires_at=ROW.ttl_expires_at - 1)),
        (replace(ROW, generation=1, pod_uid=None), RECORD),  # the record is of an earlier pod
        (
            replace(ROW, deleting_since=NOW, delete_reason=DeleteReason.REQUEST),
            replace(RECORD, **NEXT, ttl_expires_at=EXTENDED),
        ),
        (ENDED, RECORD),
        (STOPPED, RECORD),  # its stop is not done yet
        (ROW, replace(RECORD, unassigned=True, ttl_expires_at=EXTENDED)),  # it was assigned since
    ],
)
def test_a_row_that_is_no_older_than_its_pod_stays_as_it_is(row: Stack, record: Stack) -> None:
    assert updated(row, record) == row


@pytest.mark.parametrize("row", [ROW, STOPPED, ENDED])
def test_an_extension_or_start_since_the_copy_counts_whatever_else_the_row_says(row: Stack) -> None:
    extended = replace(RECORD, ttl_expires_at=EXTENDED)
    assert updated(row, extended) == replace(row, ttl_expires_at=EXTENDED)
    after = updated(row, replace(RECORD, **NEXT))
    started = (Desired.RUNNING, False, True, StackStatus.CREATING, "next", 1)
    assert (after.desired, after.ended, after.ports_held, after.status, after.pod_uid, after.generation) == started


@pytest.mark.parametrize("undo", [{}, {"deleting_since": NOW, "delete_reason": DeleteReason.UNDO}])
def test_a_create_that_the_file_has_not_seen_to_its_end_or_has_undone_was_one(undo: dict[str, Any]) -> None:
    """Another owner has adopted what was left of the undone one since: its clients may use the stack now."""
    after = updated(replace(ROW, accepted=False, pod_uid=None, service_uid=None, **undo), RECORD)
    assert after == replace(RECORD, accepted=True)


def test_an_end_and_another_port_since_the_copy_are_taken_over() -> None:
    """Another stack may have the ports now, and its row could not be created otherwise."""
    ended = replace(RECORD, ended=True, status=StackStatus.FAILED, status_reason="Error", ports_held=False)
    assert updated(ROW, ended) == ended
    assert not updated(replace(ENDED, ports_held=True), ended).ports_held
    moved = tuple(replace(port, node_port=port.node_port + 1) for port in ROW.ports)
    after = updated(ROW, replace(RECORD, ports=moved, service_uid="another"))
    assert after == replace(ROW, ports=moved, service_uid="another")
    deleting = replace(ROW, deleting_since=NOW, delete_reason=DeleteReason.REQUEST)
    assert updated(deleting, ended) == replace(deleting, ports_held=False)
    assert updated(deleting, replace(RECORD, ports=moved)) == replace(deleting, ports=moved)


@pytest.mark.parametrize("generation", [0, 1], ids=["a new pod since", "the same pod"])
def test_a_renewed_row_has_the_pod_that_its_service_selects(generation: int) -> None:
    record = replace(RECORD, serving=1, generation=1)
    assert updated(replace(ROW, serving=0, generation=generation), record).serving == 1
