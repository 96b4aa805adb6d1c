"""The plan as a table of situations: what a pass would do about one stack, or about an object without a row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from stackd.clock import NANOSECONDS
from stackd.kube.objects import PodState, ServiceState
from stackd.kube.records import StoppedRecord
from stackd.lifecycle.plan import (
    PODS,
    SERVICES,
    ActionKind,
    Orphan,
    PlanInput,
    Repair,
    RepairKind,
    is_kept,
    make_plan,
)
from stackd.model import DeleteReason, Desired, Stack, StackStatus
from tests.unit.lifecycle.situations import NAME, NOW, OTHER, SERVICE, STACK, STOPPED, pod, record, service, stack

GRACE = 120 * NANOSECONDS
POD_ORPHAN = Orphan(resource=PODS, name=OTHER, uid="pod")
SERVICE_ORPHAN = Orphan(resource=SERVICES, name=f"svc-{OTHER}", uid="service")
DELETING = stack(deleting_since=NOW, delete_reason=DeleteReason.REQUEST)
ENDED = stack(status=StackStatus.FAILED, ended=True, ports_held=False)
STARTING = stack(status=StackStatus.CREATING, pod_uid=None, generation=1)
ASKED: dict[str, Any] = {"looked_up": {OTHER}}
GONE = ASKED | {"removed": {OTHER}}
RECORDED = {"stopped": [record()]}
LIVES = {"pods": [pod()], "services": [service()]}


def seen(
    *rows: Stack,
    pods: Iterable[PodState] = (),
    services: Iterable[ServiceState] = (),
    stopped: Iterable[StoppedRecord] = (),
    **more: Any,
) -> PlanInput:
    return PlanInput(
        now=NOW,
        orphan_grace=GRACE,
        stacks=rows,
        pods={one.name: one for one in pods},
        services={one.name: one for one in services},
        stopped={one.name: one for one in stopped},
        **more,
    )


def kinds(snapshot: PlanInput) -> list[tuple[str, str]]:
    return sorted((action.kind.value, action.name) for action in make_plan(snapshot).actions)


@pytest.mark.parametrize(
    ("row", "around", "kind"),
    [
        # a living stack
        (STACK, LIVES, None),
        (STACK, {}, "end"),
        (STACK, {"services": [service()]}, "end"),
        (replace(STACK, generation=1), {"pods": [pod(uid="earlier")], "services": [service()]}, "end"),
        (replace(STACK, generation=1), LIVES, None),  # the annotation was removed from its own pod
        (replace(STACK, generation=1), {"pods": [pod(generation=1)], "services": [service()]}, None),
        # its Service is deleted or changed
        (STACK, {"pods": [pod()]}, "repair"),
        (STACK, {"pods": [pod()], "locked": {NAME}}, None),
        (STACK, {"pods": [pod()], "repairs": {Repair(kind=RepairKind.SERVICE, stack_id=NAME)}}, None),
        (STACK, LIVES | {"services": [service(node_ports=(31002,))]}, "repair"),
        (STACK, LIVES | {"services": [service(node_ports=())]}, "repair"),
        (STACK, LIVES | {"services": [service(type="LoadBalancer")]}, "repair"),
        (STACK, LIVES | {"services": [service(selects="")]}, "repair"),
        # its expiry is on its pod
        (STACK, LIVES | {"pods": [pod(expires_at=STACK.ttl_expires_at)]}, None),
        (STACK, LIVES | {"pods": [pod(expires_at=STACK.ttl_expires_at - 1)]}, "annotate"),
        (STACK, LIVES | {"pods": [pod(expires_at=1)], "locked": {NAME}}, None),
        (
            STACK,
            LIVES | {"pods": [pod(expires_at=1)], "repairs": {Repair(kind=RepairKind.ANNOTATE, stack_id=NAME)}},
            None,
        ),
        # the record is on its pod
        (STACK, LIVES | {"pods": [pod(recorded=False)]}, "annotate"),
        (
            stack(unassigned=True),
            LIVES | {"pods": [pod(recorded=False, pool="web-1")], "services": [service(once_assigned=True)]},
            "annotate",
        ),
        (STACK, LIVES | {"pods": [pod(recorded=False)], "unrecordable": {"pod"}}, None),
        # it expires
        (stack(ttl_expires_at=NOW + 1), LIVES, None),
        (stack(ttl_expires_at=NOW), LIVES, "expire"),
        (stack(ttl_expires_at=NOW), {}, "expire"),
        (stack(ttl_expires_at=NOW), LIVES | {"clock_trusted": False}, None),
        (stack(ttl_expires_at=NOW), {"clock_trusted": False}, "end"),
        (replace(ENDED, ttl_expires_at=NOW), {}, "expire"),
        (replace(STOPPED, ttl_expires_at=NOW), {}, "expire"),
        (replace(DELETING, ttl_expires_at=NOW), {}, "delete"),
        # an unfinished create that no client was told of
        (stack(accepted=False), LIVES, "undo"),
        (stack(accepted=False), {}, "undo"),
        (stack(accepted=False), LIVES | {"creating": {NAME}}, None),
        (stack(accepted=False, ttl_expires_at=NOW), {}, "undo"),
        # a delete that is committed, and whoever carries it out
        (DELETING, LIVES, "delete"),
        (DELETING, {}, "delete"),
        (DELETING, LIVES | {"removals": {NAME}}, None),
        (DELETING, LIVES | {"creating": {NAME}}, None),
        (DELETING, LIVES | {"locked": {NAME}}, None),
        (DELETING, LIVES | {"being_deleted": {NAME}}, None),
        (replace(DELETING, accepted=False), {}, "delete"),
        # it has ended
        (ENDED, {}, None),
        (replace(ENDED, ports_held=True), {}, "release"),
        (ENDED, {"services": [service()]}, "release"),
        (ENDED, {"services": [service()], "removals": {NAME}}, None),
        (ENDED, {"pods": [pod()]}, None),
        (ENDED, {"pods": [pod(uid="late")]}, "remove-pod"),
        (ENDED, {"pods": [pod(uid="late")], "removals": {Orphan(resource=PODS, name=NAME, uid="late")}}, None),
        (replace(ENDED, pod_uid=None), {"pods": [pod()]}, None),
        # a stop, a start, and what is left of them
        (STOPPED, RECORDED, None),
        (STOPPED, {}, "record"),
        (STOPPED, {"stopped": [record(going=True)]}, "record"),
        (STOPPED, {"stopped": [record(expires_at=1)]}, "record"),
        (STOPPED, {"locked": {NAME}}, None),
        (STOPPED, {"repairs": {Repair(kind=RepairKind.RECORD, stack_id=NAME)}}, None),
        (STACK, LIVES | RECORDED, "record"),
        (STARTING, RECORDED, "resume"),
        (STOPPED, {"pods": [pod()]}, "resume"),
        (STOPPED, {"services": [service()]}, "resume"),
        (stack(desired=Desired.STOPPED), LIVES, "resume"),
        (stack(desired=Desired.STOPPED), LIVES | {"locked": {NAME}}, None),
        (STARTING, {}, "resume"),
        (STARTING, LIVES, "resume"),
        (STARTING, {"locked": {NAME}}, None),
        (STARTING, {"repairs": {Repair(kind=RepairKind.RESUME, stack_id=NAME)}}, None),
        (STARTING, {"repairs": {Repair(kind=RepairKind.ANNOTATE, stack_id=NAME)}}, "resume"),
    ],
)
def test_what_is_to_be_done_about_a_stack(row: Stack, around: dict[str, Any], kind: str | None) -> None:
    assert kinds(seen(row, **around)) == ([] if kind is None else [(kind, NAME)])


@pytest.mark.parametrize(
    ("around", "actions"),
    [
        # the file says that it deleted the stack: whatever is left of it is deleted, however young
        (GONE | {"pods": [pod(OTHER)]}, [("remove-pod", OTHER)]),
        (GONE | {"services": [service(f"svc-{OTHER}")]}, [("remove-service", f"svc-{OTHER}")]),
        # while the clock is not trusted, nothing counts as old
        (ASKED | {"pods": [pod(OTHER)], "clock_trusted": False}, []),
        (GONE | {"pods": [pod(OTHER)], "clock_trusted": False}, [("remove-pod", OTHER)]),
        (
            GONE | {"pods": [pod(OTHER)], "services": [service(f"svc-{OTHER}")]},
            [("remove-pod", OTHER), ("remove-service", f"svc-{OTHER}")],
        ),
        (GONE | {"pods": [pod(OTHER, created_at=NOW)]}, [("remove-pod", OTHER)]),
        (GONE | {"pods": [pod(OTHER, deleting=True)]}, [("remove-pod", OTHER)]),
        (GONE | {"pods": [pod(OTHER)], "incomplete": True}, [("remove-pod", OTHER)]),
        # the file does not know whether the stack was deleted: a pod is adopted with its Service; nothing is deleted
        (ASKED | {"pods": [pod(OTHER)]}, [("adopt", OTHER)]),
        (ASKED | {"pods": [pod(OTHER)], "services": [service(f"svc-{OTHER}")]}, [("adopt", OTHER)]),
        (ASKED | {"services": [service(f"svc-{OTHER}")]}, []),
        (ASKED | {"pods": [pod(OTHER, created_at=NOW - GRACE + 1)]}, []),
        (ASKED | {"pods": [pod(OTHER, created_at=NOW - GRACE)]}, [("adopt", OTHER)]),
        (ASKED | {"pods": [pod(OTHER, created_at=NOW)], "incomplete": True}, [("adopt", OTHER)]),
        (ASKED | {"pods": [pod(OTHER, deleting=True)]}, []),
        (ASKED | {"pods": [pod(OTHER)], "unadoptable": {"pod": "no record"}}, []),
        (ASKED | {"pods": [pod(OTHER, uid="next")], "unadoptable": {"pod": "no record"}}, [("adopt", OTHER)]),
        (ASKED | {"pods": [pod(OTHER)], "creating": {OTHER}}, []),
        # the same for a record of a stopped stack; if there is a pod as well, the pod is adopted, whichever of the two
        # is later
        (GONE | {"stopped": [record(OTHER)]}, [("remove-record", OTHER)]),
        (GONE | {"stopped": [record(OTHER)], "removals": {OTHER}}, []),
        (ASKED | {"stopped": [record(OTHER)]}, [("adopt", OTHER)]),
        (ASKED | {"stopped": [record(OTHER, created_at=NOW)]}, []),
        (ASKED | {"stopped": [record(OTHER, created_at=NOW)], "incomplete": True}, [("adopt", OTHER)]),
        (ASKED | {"stopped": [record(OTHER, going=True)]}, []),
        (ASKED | {"stopped": [record(OTHER)], "unadoptable": {"record": "no record"}}, []),
        (ASKED | {"stopped": [record(OTHER)], "pods": [pod(OTHER)]}, [("adopt", OTHER)]),
        (ASKED | {"stopped": [record(OTHER)], "pods": [pod(OTHER, deleting=True)]}, [("adopt", OTHER)]),
        (ASKED | {"stopped": [record(OTHER)], "services": [service(f"svc-{OTHER}")]}, [("adopt", OTHER)]),
        ({"stopped": [record(OTHER)]}, []),
        # the file was not asked yet
        ({"pods": [pod(OTHER)]}, []),
        ({"pods": [pod(OTHER)], "incomplete": True}, []),
        ({"services": [service(f"svc-{OTHER}")]}, []),
        (GONE | {"services": [service(f"svc-{OTHER}", created_at=NOW)]}, [("remove-service", f"svc-{OTHER}")]),
        (GONE | {"pods": [pod(OTHER)], "creating": {OTHER}}, []),
        (GONE | {"services": [service(f"svc-{OTHER}")], "creating": {OTHER}}, []),
        (GONE | {"pods": [pod(OTHER)], "removals": {POD_ORPHAN}}, []),
        (GONE | {"pods": [pod(OTHER, uid="next")], "removals": {POD_ORPHAN}}, [("remove-pod", OTHER)]),
        (GONE | {"services": [service(f"svc-{OTHER}")], "removals": {SERVICE_ORPHAN}}, []),
        (GONE | {"pods": [pod(OTHER)], "removals": {SERVICE_ORPHAN}}, [("remove-pod", OTHER)]),
        (GONE | {"pods": [pod(OTHER)], "removals": {OTHER}}, []),
        ({"services": [service("of-no-stack")], "looked_up": {"of-no-stack"}}, []),
        ({"services": [service("range-1")]}, [("remove-service", "range-1")]),
        ({"services": [service("range-1", created_at=NOW)]}, []),
        (
            {"services": [service("range-1")], "removals": {Orphan(resource=SERVICES, name="range-1", uid="service")}},
            [],
        ),
        ({"services": [service(NAME)], "looked_up": {NAME}}, []),
    ],
)
def test_what_is_to_be_done_about_objects_that_no_row_knows(
    around: dict[str, Any], actions: list[tuple[str, str]]
) -> None:
    mine = {"pods": [pod(), *around.get("pods", ())], "services": [service(), *around.get("services", ())]}
    assert kinds(seen(STACK, **(around | mine))) == actions


@pytest.mark.parametrize(
    ("around", "unknown"),
    [
        (GONE | {"pods": [pod(OTHER)], "services": [service(f"svc-{OTHER}")]}, []),
        ({"pods": [pod(OTHER)], "services": [service(f"svc-{OTHER}")]}, []),
        # what is adopted, or is deleted together with its pod, is not unknown
        (ASKED | {"pods": [pod(OTHER)], "services": [service(f"svc-{OTHER}")]}, []),
        (ASKED | {"pods": [pod(OTHER, deleting=True)], "services": [service(f"svc-{OTHER}")]}, []),
        (ASKED | {"services": [service(f"svc-{OTHER}", deleting=True)]}, []),
        (ASKED | {"services": [service(f"svc-{OTHER}")]}, [f"svc-{OTHER}"]),
        (ASKED | {"services": [service(f"svc-{OTHER}", created_at=NOW)]}, []),
        (ASKED | {"services": [service(f"svc-{OTHER}")], "removals": {SERVICE_ORPHAN}}, []),
        (ASKED | {"pods": [pod(OTHER)], "unadoptable": {"pod": "no record"}}, [OTHER]),
        (
            ASKED | {"pods": [pod(OTHER)], "services": [service(f"svc-{OTHER}")], "unadoptable": {"pod": "no record"}},
            [OTHER, f"svc-{OTHER}"],
        ),
        ({"services": [service(NAME)], "looked_up": {NAME}}, [NAME]),
        (ASKED | {"stopped": [record(OTHER)], "unadoptable": {"record": "no record"}}, [OTHER]),
        (ASKED | {"stopped": [record(OTHER)], "services": [service(f"svc-{OTHER}")]}, []),
    ],
)
def test_what_can_neither_be_taken_over_nor_proven_dead_is_left_alone_and_named(
    around: dict[str, Any], unknown: list[str]
) -> None:
    plan = make_plan(seen(**around))
    assert [one.object.name for one in plan.unknown] == unknown
    assert not {action.name for action in plan.actions} & set(unknown)


def test_an_orphan_is_named_by_the_very_object_and_counts_as_its_stack() -> None:
    actions = make_plan(seen(**GONE, pods=[pod(OTHER)], services=[service(f"svc-{OTHER}")])).actions
    assert len(actions) == 2
    for action in actions:
        assert action.orphan in (POD_ORPHAN, SERVICE_ORPHAN)
        assert action.stack_id == OTHER


@pytest.mark.parametrize(
    ("orphan", "row", "kept"),
    [
        (Orphan(resource=PODS, name=NAME, uid="pod"), None, False),
        (Orphan(resource=PODS, name=NAME, uid="pod"), STACK, True),
        (Orphan(resource=PODS, name=NAME, uid="another"), STACK, True),
        (Orphan(resource=PODS, name=NAME, uid="pod"), ENDED, True),
        (Orphan(resource=PODS, name=NAME, uid="late"), ENDED, False),
        (Orphan(resource=PODS, name=NAME, uid="late"), replace(ENDED, pod_uid=None), True),
        (Orphan(resource=SERVICES, name=SERVICE, uid="service"), None, False),
        (Orphan(resource=SERVICES, name=SERVICE, uid="service"), STACK, True),
        (Orphan(resource=SERVICES, name=SERVICE, uid="service"), ENDED, True),
        (Orphan(resource=SERVICES, name=NAME, uid="service"), STACK, False),
    ],
)
def test_whose_row_is_reason_enough_to_let_an_object_be(orphan: Orphan, row: Stack | None, kept: bool) -> None:
    assert is_kept(orphan, row) is kept


@pytest.mark.parametrize(
    ("row", "around", "served_again"),
    [
        (STACK, LIVES, False),
        (STACK, {"pods": [pod()]}, True),
        (STACK, {}, False),
        (stack(accepted=False), {"pods": [pod()]}, False),
        (ENDED, {"pods": [pod()]}, False),
        (DELETING, {"pods": [pod()]}, False),
        (STOPPED, {"pods": [pod()]}, False),
        (STARTING, {"pods": [pod()]}, False),
    ],
)
def test_only_a_living_stack_gets_its_service_back_and_within_one_pass(
    row: Stack, around: dict[str, Any], served_again: bool
) -> None:
    found = {action.kind for action in make_plan(seen(row, **around)).actions}
    assert (ActionKind.REPAIR in found) is served_again


def test_a_plan_that_is_made_again_is_the_same() -> None:
    snapshot = seen(STACK, pods=[pod(), pod(OTHER)], services=[])
    assert make_plan(snapshot) == make_plan(snapshot)
