"""The decision as a table of situations: what is next about one stack, and about objects without a row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from stackd.clock import NANOSECONDS
from stackd.kube.objects import NodeState, PodState, ServiceState
from stackd.kube.records import STARTING, STOPPED
from stackd.kube.routes import RouteState, WantedRoute
from stackd.lifecycle.next_step import (
    LATE_CREATE_NANOSECONDS,
    CreateProgress,
    ReconcilePlan,
    SeenRoute,
    StepKind,
    Surroundings,
    next_step,
    of_orphans,
    orphans,
    replacement_step,
    replacement_waits,
)
from stackd.lifecycle.steps import EXECUTORS
from stackd.model import DeleteReason, Desired, Stack, StackStatus
from tests.unit.lifecycle.situations import NAME, NOW, OTHER, STACK, pod, service, stack
from tests.unit.lifecycle.situations import STOPPED as AT_REST


def route(name: str = f"{NAME}-80", **changes: Any) -> RouteState:
    made = RouteState(
        resource="httproutes", name=name, uid="route", resource_version="1", instance="default", deleting=False,
        created_at=0, content=b"as wanted",
    )  # fmt: skip
    return replace(made, **changes)


GRACE = 120 * NANOSECONDS
DELETING = stack(deleting_since=NOW, delete_reason=DeleteReason.REQUEST)
ENDED = stack(status=StackStatus.FAILED, ended=True, ports_held=False)
TO_START = stack(status=StackStatus.CREATING, pod_uid=None, generation=1)
POOLED = stack(unassigned=True, template="web-1")
RELEASED = service(type="ClusterIP", node_ports=())
KEPT = service(desired=STOPPED)
CLOSED = service(once_assigned=True, pool="web-1")
WAITS = pod(pool="web-1")


@pytest.mark.parametrize(
    ("row", "its_pod", "its_service", "kind"),
    [
        # a living stack
        (STACK, pod(), service(), None),
        (STACK, None, None, "end"),
        (replace(STACK, generation=1), pod(uid="earlier"), service(generation=1), "end"),
        (replace(STACK, generation=1), pod(), service(generation=1), "label"),  # its own pod has lost the annotation
        (replace(STACK, generation=1), pod(generation=1), service(generation=1), None),
        # its Service is deleted or changed
        (STACK, pod(), None, "repair"),
        (STACK, pod(), service(node_ports=()), "repair"),
        (STACK, pod(), service(type="LoadBalancer"), "repair"),
        (STACK, pod(), service(selects=""), "repair"),
        # the record on its Service
        (STACK, pod(), service(recorded=False), "annotate"),
        (STACK, pod(), service(expires_at=STACK.ttl_expires_at - 1), "annotate"),
        (STACK, pod(), service(generation=1), "annotate"),
        (STACK, pod(), service(desired=STARTING), "annotate"),
        # its pod's labels
        (STACK, pod(stack_id=""), service(), "label"),
        (STACK, pod(stack_id="", deleting=True), service(), "label"),
        (STACK, pod(pool="x", deleting=True), service(), None),
        # a stack in a pool, and one that was just given away
        (POOLED, WAITS, CLOSED, None),
        (POOLED, WAITS, replace(CLOSED, expires_at=1), None),
        (POOLED, WAITS, replace(CLOSED, once_assigned=False), "annotate"),
        (POOLED, WAITS, replace(CLOSED, recorded=False), "annotate"),
        (POOLED, pod(), CLOSED, "label"),
        (STACK, WAITS, service(once_assigned=True), "annotate"),
        (STACK, WAITS, service(), "label"),
        # it expires
        (stack(ttl_expires_at=NOW), pod(), service(), "expire"),
        (replace(POOLED, ttl_expires_at=NOW), WAITS, CLOSED, None),
        (replace(ENDED, ttl_expires_at=NOW), None, RELEASED, "expire"),
        (replace(AT_REST, ttl_expires_at=NOW), None, KEPT, "expire"),
        (replace(DELETING, ttl_expires_at=NOW), None, None, "delete"),
        # an unfinished create that no client was told of
        (stack(accepted=False), pod(), service(), "undo"),
        (stack(accepted=False, ttl_expires_at=NOW), None, None, "undo"),
        # a delete that is committed
        (DELETING, pod(), service(), "delete"),
        (replace(DELETING, accepted=False), None, None, "delete"),
        # it has ended: its Service stays, without node ports
        (ENDED, None, RELEASED, None),
        (ENDED, pod(), RELEASED, None),
        (replace(ENDED, ports_held=True), None, service(), "release"),
        (replace(ENDED, ports_held=True), None, None, "release"),
        (ENDED, None, service(), "release"),
        (ENDED, None, None, "repair"),
        (ENDED, pod(uid="late"), RELEASED, "remove-pod"),
        (replace(ENDED, pod_uid=None), pod(), RELEASED, None),
        # a stop, a start, and what is left of them
        (AT_REST, None, KEPT, None),
        (AT_REST, None, None, "repair"),
        (AT_REST, None, replace(KEPT, expires_at=1), "annotate"),
        (AT_REST, None, service(), "annotate"),
        (AT_REST, pod(), KEPT, "stop"),
        (stack(desired=Desired.STOPPED), None, KEPT, "stop"),
        (TO_START, None, service(desired=STARTING, generation=1), "start"),
        (TO_START, pod(), service(desired=STARTING, generation=1), "start"),
        # what is intended is recorded before the pod goes
        (TO_START, pod(), service(), "annotate"),
        (stack(desired=Desired.STOPPED), pod(), service(), "annotate"),
    ],
)
def test_what_is_next_about_a_stack(
    row: Stack, its_pod: PodState | None, its_service: ServiceState | None, kind: str | None
) -> None:
    step = next_step(row, its_pod, its_service, NOW)
    assert (step and step.kind.value) == kind
    assert step is None or step.why


MADE, WAITING = CreateProgress(made=True), CreateProgress(made=True, reachable=False)


@pytest.mark.parametrize(
    ("its_pod", "create", "kind"),
    [
        (None, CreateProgress(made=False), "make"),
        (pod(node_name=None, scheduled=None), MADE, None),
        (pod(node_name=None, scheduled=False), MADE, None),
        (pod(node_name=None, scheduled=False), replace(MADE, placeable=False), "refuse"),
        (pod(scheduled=True), MADE, "accept"),
        (pod(scheduled=True), WAITING, None),
        (None, MADE, "end"),
    ],
)
def test_what_is_next_about_a_create_that_somebody_waits_for(
    its_pod: PodState | None, create: CreateProgress, kind: str | None
) -> None:
    step = next_step(stack(accepted=False), its_pod, service(), NOW, (), create)
    assert (step and step.kind.value) == kind
    for late, then in ((0, kind), (LATE_CREATE_NANOSECONDS, kind or "expire")):
        expired = next_step(stack(accepted=False, ttl_expires_at=NOW - late), its_pod, service(), NOW, (), create)
        assert (expired and expired.kind.value) == then


WANTED = WantedRoute(resource="httproutes", name=f"{NAME}-80", manifest={}, content=b"as wanted")
AS_WANTED = SeenRoute(resource="httproutes", wanted=WANTED, seen=route())
GONE_ROUTE = replace(AS_WANTED, seen=None)
LEFT_ROUTE = replace(AS_WANTED, wanted=None)


@pytest.mark.parametrize(
    ("row", "its_pod", "its_service", "routes", "kind"),
    [
        (STACK, pod(), service(), [AS_WANTED], None),
        (STACK, pod(), service(), [AS_WANTED, GONE_ROUTE], "route"),
        (STACK, pod(), service(), [replace(AS_WANTED, seen=route(content=b"edited"))], "route"),
        (STACK, pod(stack_id=""), service(), [GONE_ROUTE], "route"),
        (STACK, pod(), None, [GONE_ROUTE], "repair"),
        (AT_REST, None, KEPT, [GONE_ROUTE], "route"),
        (ENDED, None, RELEASED, [LEFT_ROUTE], "release"),
        (ENDED, None, RELEASED, [replace(LEFT_ROUTE, seen=None)], None),
        (DELETING, pod(), service(), [GONE_ROUTE], "delete"),
    ],
)
def test_what_is_next_about_its_routes(
    row: Stack, its_pod: PodState | None, its_service: ServiceState | None, routes: list[SeenRoute], kind: str | None
) -> None:
    step = next_step(row, its_pod, its_service, NOW, routes)
    assert (step and step.kind.value) == kind


def test_nothing_expires_while_the_clock_cannot_be_trusted() -> None:
    assert next_step(stack(ttl_expires_at=1), pod(), service(expires_at=1), None) is None


def test_each_step_of_a_stack_has_one_executor() -> None:
    others = {"adopt", "remove-service", "remove-route"}
    assert {*EXECUTORS} == {kind for kind in StepKind if kind not in others}


# ---- objects without a row


GONE: dict[str, Any] = {"removed": {OTHER}}
ITS_SERVICE = f"svc-{OTHER}"
MINUTE = 60 * NANOSECONDS
LONG_AGO = NOW - 3600 * NANOSECONDS


def cut_short(**changes: Any) -> PodState:
    return pod(OTHER, **({"annotated": True, "created_at": LONG_AGO} | changes))


CUT_SHORT: dict[str, Any] = {"pods": [cut_short()], "unadoptable": {OTHER: "no record"}, "succeeded_at": LONG_AGO}


def plan(
    *,
    pods: Iterable[PodState] = (),
    services: Iterable[ServiceState] = (),
    routes: Iterable[RouteState] = (),
    **around: Any,
) -> ReconcilePlan:
    seen = {one.name: one for one in (pod(), *pods)}, {one.name: one for one in (service(), *services)}
    return of_orphans(orphans({NAME}, *seen, routes), Surroundings(orphan_grace=GRACE, **({"now": NOW} | around)))


@pytest.mark.parametrize(
    ("around", "actions"),
    [
        # the file says that it deleted the stack: whatever is left of it is deleted, however young
        (GONE | {"pods": [pod(OTHER)]}, [("remove-pod", OTHER)]),
        (GONE | {"services": [service(ITS_SERVICE, created_at=NOW)]}, [("remove-service", ITS_SERVICE)]),
        (GONE | {"pods": [pod(OTHER)], "now": None}, [("remove-pod", OTHER)]),
        (GONE | {"pods": [pod(OTHER)], "busy": {OTHER}}, []),
        (GONE | {"routes": [route(f"{OTHER}-80")]}, [("remove-route", f"{OTHER}-80")]),
        (GONE | {"routes": [route(f"rt-{OTHER}", resource="services")]}, [("remove-route", f"rt-{OTHER}")]),
        # the file does not know: the stack is adopted from its Service, and nothing is deleted
        ({"services": [service(ITS_SERVICE)]}, [("adopt", OTHER)]),
        ({"services": [service(ITS_SERVICE)], "now": None}, []),
        ({"services": [service(ITS_SERVICE, created_at=NOW - GRACE + 1)]}, []),
        ({"services": [service(ITS_SERVICE, created_at=NOW)], "incomplete": True}, [("adopt", OTHER)]),
        ({"services": [service(ITS_SERVICE, deleting=True)]}, []),
        ({"services": [service(ITS_SERVICE)], "busy": {OTHER}}, []),
        # a pod without a Service: the version before had its record there
        ({"pods": [pod(OTHER)]}, [("adopt", OTHER)]),
        ({"pods": [pod(OTHER, deleting=True)]}, []),
        # the owner before ended between the pod and the Service of a create
        (CUT_SHORT, [("remove-pod", OTHER)]),
        (CUT_SHORT | {"pods": [cut_short(created_at=LONG_AGO + MINUTE)]}, [("remove-pod", OTHER)]),
        (CUT_SHORT | {"pods": [cut_short(created_at=LONG_AGO + MINUTE + 1)]}, []),
        (CUT_SHORT | {"pods": [cut_short(created_at=LONG_AGO - MINUTE - 1)]}, []),
        (CUT_SHORT | {"pods": [cut_short(annotated=False)]}, []),
        (CUT_SHORT | {"pods": [cut_short(deleting=True)]}, []),
        (CUT_SHORT | {"succeeded_at": None}, []),
        (CUT_SHORT | {"services": [service(ITS_SERVICE)]}, []),
        (CUT_SHORT | {"unadoptable": {}}, [("adopt", OTHER)]),
        ({"routes": [route(f"{OTHER}-80")]}, [("adopt", OTHER)]),
        ({"routes": [route()]}, []),  # it has a row
        # what is left of a question for the range of node ports
        ({"services": [service("range-1")]}, [("remove-service", "range-1")]),
        ({"services": [service("range-1", created_at=NOW)]}, []),
        ({"services": [service("range-1")], "busy": {"range-1"}}, []),
    ],
)
def test_what_is_to_be_done_about_objects_without_a_row(around: dict[str, Any], actions: list[tuple[str, str]]) -> None:
    planned = plan(**around).actions
    assert sorted((action.kind.value, action.name) for action in planned) == actions
    removed = [action.orphan for action in planned if action.kind is not StepKind.ADOPT]
    assert {one.seen.uid for one in removed if one} <= {"pod", "service", "route"}, "it means this very object"


@pytest.mark.parametrize("age", [0, GRACE])
@pytest.mark.parametrize("kind", ["services", "pods"])
def test_what_can_neither_be_taken_over_nor_proven_dead_is_left_alone_and_named(kind: str, age: int) -> None:
    """However young: after the file was complete, a pass tries again what could not be taken over."""
    made = {"created_at": NOW - age}
    one = service(ITS_SERVICE, **made) if kind == "services" else pod(OTHER, **made)
    around: dict[str, Any] = {kind: [one], "unadoptable": {OTHER: "no record"}}
    planned = plan(**around)
    assert [(action.orphan and action.orphan.seen.name, action.why) for action in planned.unknown] == [
        (one.name, "no record")
    ]
    assert not planned.actions


WORKER = NodeState(
    name="worker",
    uid="worker",
    labels={},
    addresses=(),
    ready=True,
    unschedulable=False,
    cpu_milli=1,
    memory_bytes=1,
    pods=1,
)
NEW, EARLIER = pod(f"{NAME}-1", uid="new", generation=1), pod(node_name="lost")


@pytest.mark.parametrize(
    ("new", "lost", "served"),
    [
        (NEW, None, True), (replace(NEW, ready=False), None, True), (NEW, replace(WORKER, name="lost"), False),
        (NEW, replace(WORKER, name="lost", ready=False), True),
        (replace(NEW, ready=False), replace(WORKER, name="lost", ready=False), False),
    ],
    ids=["node gone", "node gone, not ready yet", "all well", "node silent", "node silent, not ready yet"],
)  # fmt: skip
def test_the_new_pod_of_a_shared_stack_serves_at_once_where_the_earlier_one_cannot(
    new: PodState, lost: NodeState | None, served: bool
) -> None:
    row = stack(generation=1, serving=0, pod_uid="new", updated_at=NOW)
    nodes = {"worker": WORKER} | ({"lost": lost} if lost is not None else {})
    step = replacement_step(row, new, NOW, [EARLIER], nodes)
    assert (step is not None and step.kind is StepKind.SERVE) is served


@pytest.mark.parametrize(("since", "waits"), [(0, 5), (4, 1), (7, 3), (12, 8), (25, 0), (-3600, 0)])
def test_a_shared_stack_is_looked_at_when_its_waits_end_and_never_waits_for_a_clock_that_was_set_back(
    since: int, waits: int
) -> None:
    row = stack(updated_at=NOW - since * NANOSECONDS)
    assert replacement_waits(row, NOW) == waits * NANOSECONDS
