"""What the row of a restored file takes over from a pod's record, and what it keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stackd.model import DeleteReason, Desired, Stack, StackStatus
from stackd.store.adoption import renewed
from tests.unit.lifecycle.situations import NOW, STACK, STOPPED, stack

RECORD = stack(status=StackStatus.CREATING, updated_at=STACK.created_at)
NEXT: dict[str, Any] = {"generation": 1, "pod_uid": "next", "service_uid": "next"}
LATER = STACK.ttl_expires_at + 1
ENDED = stack(status=StackStatus.FAILED, ended=True, ports_held=False)


@pytest.mark.parametrize(
    ("row", "record"),
    [
        (STACK, RECORD),
        (STACK, replace(RECORD, ttl_expires_at=STACK.ttl_expires_at - 1)),
        # the record is of an earlier pod than the row's
        (stack(generation=1, pod_uid=None), RECORD),
        # a requested delete, an ended pod, a stop that is not done yet
        (stack(deleting_since=NOW, delete_reason=DeleteReason.REQUEST), replace(RECORD, **NEXT, ttl_expires_at=LATER)),
        (ENDED, RECORD),
        (STOPPED, RECORD),
    ],
)
def test_a_row_that_is_no_older_than_its_pod_stays_as_it_is(row: Stack, record: Stack) -> None:
    assert renewed(row, record, NOW) == row


@pytest.mark.parametrize("row", [STACK, STOPPED, ENDED])
def test_an_end_that_was_put_off_counts_whatever_else_the_row_says(row: Stack) -> None:
    assert renewed(row, replace(RECORD, ttl_expires_at=LATER), NOW) == replace(row, ttl_expires_at=LATER)


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
