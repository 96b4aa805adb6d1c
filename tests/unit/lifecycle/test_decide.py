"""The decision as a table of situations: what is to be done about one stack, and about objects without a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from stackd.clock import NANOSECONDS
from stackd.config import RoutesSection
from stackd.errors import ClusterUnavailable, NoRoom
from stackd.kube.objects import NodeState, PodState, ServiceState
from stackd.kube.records import ENDED as HAS_ENDED
from stackd.kube.records import STARTING, STOPPED
from stackd.kube.routes import RouteState, WantedRoute
from stackd.lifecycle.decide import Creating, Decision, ReconcilePlan, Seen, Surroundings, decide, of_orphans, orphans
from stackd.lifecycle.desired import desired
from stackd.model import DeleteReason, Desired, Route, RoutedPort, Stack, StackStatus
from stackd.timing import (
    LATE_CREATE_NANOSECONDS,
    LINGER_NANOSECONDS,
    PLACING_NANOSECONDS,
    PROVEN_NANOSECONDS,
    ROOM_NANOSECONDS,
)
from tests.unit.lifecycle.situations import NAME, NOW, OTHER, STACK, pod, service, stack
from tests.unit.lifecycle.situations import STOPPED as AT_REST


def route(name: str = f"{NAME}-80", **changes: Any) -> RouteState:
    made = RouteState(
        resource="httproutes", name=name, uid="route", resource_version="1", instance="default", deleting=False,
        created_at=0, content=b"as wanted",
    )  # fmt: skip
    return replace(made, **changes)


def decided(row: Stack, seen: Seen, now: int | None = NOW, named: Sequence[WantedRoute] = ()) -> Decision:
    objects = desired(row, RoutesSection(), "default")
    return decide(row, objects if not named else replace(objects, named=tuple(named)), seen, now)


def what(decision: Decision) -> list[str]:
    """The change of the row, or the requests that go out together."""
    return sorted(map(str, decision.changes)) or [str(decision.kind)] if decision.kind else []


GRACE = 120 * NANOSECONDS
DELETING = stack(deleting_since=NOW, delete_reason=DeleteReason.REQUEST)
ENDED = stack(status=StackStatus.FAILED, ended=True, ports_held=False)
TO_START = stack(status=StackStatus.CREATING, pod_uid=None, generation=1)
TO_STOP = stack(desired=Desired.STOPPED)
POOLED = stack(unassigned=True, template="web-1")
RELEASED = service(type="ClusterIP", node_ports=(), desired=HAS_ENDED)
KEPT = service(desired=STOPPED)
STARTED_NOW = replace(TO_START, updated_at=NOW)
STARTS = service(desired=STARTING, generation=1)
CLOSED = service(once_assigned=True, pool="web-1")
WAITS = pod(pool="web-1")
POD, SERVICE = ("pods", NAME), ("services", f"svc-{NAME}")
NO_POD, NOTHING_LEFT = frozenset({POD}), frozenset({POD, SERVICE})


@pytest.mark.parametrize(
    ("row", "seen", "expected"),
    [
        # a living stack
        (STACK, Seen(pod=pod(), service=service()), []),
        # the mirror lacks its pod: an absence is no proof
        (STACK, Seen(service=service()), ["ask-pod"]),
        (replace(STACK, generation=1), Seen(pod=pod(uid="earlier"), service=service(generation=1)), ["ask-pod"]),
        (STACK, Seen(service=service(), gone=NO_POD), ["end"]),
        # the brake holds it: its record is written all the same
        (stack(status=StackStatus.STOPPED), Seen(service=service(expires_at=1), gone=NO_POD), ["patch-service"]),
        (STACK, Seen(), ["ask-pod", "update-service"]),
        # its Service is deleted or changed
        (STACK, Seen(pod=pod()), ["update-service"]),
        (STACK, Seen(pod=pod(), service=service(node_ports=())), ["update-service"]),
        (STACK, Seen(pod=pod(), service=service(selects="")), ["update-service"]),
        # the record on its Service
        (STACK, Seen(pod=pod(), service=service(recorded=False)), ["update-service"]),
        (STACK, Seen(pod=pod(), service=service(expires_at=STACK.ttl_expires_at - 1)), ["patch-service"]),
        (STACK, Seen(pod=pod(), service=service(generation=1)), ["update-service"]),
        (STACK, Seen(pod=pod(), service=service(desired=STARTING)), ["update-service"]),
        # its pod's labels
        (replace(STACK, generation=1), Seen(pod=pod(), service=service(generation=1)), ["patch-pod"]),
        (STACK, Seen(pod=pod(stack_id=""), service=service()), ["patch-pod"]),
        (STACK, Seen(pod=pod(stack_id="", deleting=True), service=service()), ["patch-pod"]),
        (STACK, Seen(pod=pod(pool="x", deleting=True), service=service()), []),
        # what can go out together does
        (STACK, Seen(pod=pod(stack_id=""), service=service(selects="")), ["patch-pod", "update-service"]),
        # a stack in a pool, and one that was just given away
        (POOLED, Seen(pod=WAITS, service=CLOSED), []),
        (POOLED, Seen(pod=WAITS, service=replace(CLOSED, expires_at=1)), []),
        (POOLED, Seen(pod=WAITS, service=replace(CLOSED, once_assigned=False)), ["update-service"]),
        (POOLED, Seen(pod=pod(), service=CLOSED), ["patch-pod"]),
        (STACK, Seen(pod=WAITS, service=service(once_assigned=True)), ["patch-pod", "update-service"]),
        (STACK, Seen(pod=WAITS, service=service()), ["patch-pod"]),
        # it expires
        (stack(ttl_expires_at=NOW), Seen(pod=pod(), service=service()), ["expire"]),
        (replace(POOLED, ttl_expires_at=NOW), Seen(pod=WAITS, service=CLOSED), []),
        (replace(ENDED, ttl_expires_at=NOW), Seen(service=RELEASED), ["expire"]),
        (replace(DELETING, ttl_expires_at=NOW), Seen(), ["remove-pod"]),
        # an unfinished create that no client was told of
        (stack(accepted=False), Seen(pod=pod(), service=service()), ["undo"]),
        (stack(accepted=False, ttl_expires_at=NOW), Seen(), ["undo"]),
        # a delete that is committed: the Service, which has the record, goes last
        (DELETING, Seen(pod=pod(), service=service()), ["remove-pod"]),
        (DELETING, Seen(service=service()), ["remove-pod"]),
        (DELETING, Seen(service=service(), gone=NO_POD), ["remove-service"]),
        (DELETING, Seen(gone=NOTHING_LEFT), ["removed"]),
        # something holds up its pod: Service and ports are given back all the same
        (DELETING, Seen(pod=pod(deleting=True), service=service(), held={POD}), ["remove-service"]),
        (DELETING, Seen(pod=pod(deleting=True), held={POD}, gone={SERVICE}), ["released"]),
        (replace(DELETING, ports_held=False), Seen(pod=pod(), held={POD}, gone={SERVICE}), ["remove-pod"]),
        # it has ended: its Service stays, without node ports
        (ENDED, Seen(service=RELEASED), []),
        (replace(ENDED, ports_held=True), Seen(service=service()), ["update-service"]),
        (replace(ENDED, ports_held=True), Seen(service=RELEASED), ["released"]), (ENDED, Seen(), ["update-service"]),
        (ENDED, Seen(pod=pod(uid="late"), service=RELEASED), ["remove-pod"]),
        (replace(ENDED, pod_uid=None), Seen(pod=pod(), service=RELEASED), []),
        # a stop: what is intended is recorded before the pod goes
        (TO_STOP, Seen(pod=pod(), service=service()), ["update-service"]),
        (TO_STOP, Seen(pod=pod(), service=KEPT), ["remove-pod"]), (TO_STOP, Seen(service=KEPT), ["remove-pod"]),
        (TO_STOP, Seen(service=KEPT, gone=NO_POD), ["stopped"]), (AT_REST, Seen(service=KEPT), []),
        (AT_REST, Seen(), ["update-service"]),
        (AT_REST, Seen(service=service()), ["update-service"]),
        (AT_REST, Seen(pod=pod(), service=KEPT), ["remove-pod"]),
        # a start, and what is left of an earlier one
        (TO_START, Seen(pod=pod(), service=service()), ["update-service"]),
        (TO_START, Seen(service=STARTS), ["create-pod"]),
        (TO_START, Seen(pod=pod(), service=STARTS), ["remove-pod"]),
        (TO_START, Seen(pod=pod(generation=1, stack_id=""), service=STARTS), ["remove-pod"]),
        (TO_START, Seen(pod=pod(generation=1), service=STARTS), ["accept"]),
        # usually a node has the new pod at once, and the row says both; but nobody waits for long
        (STARTED_NOW, Seen(pod=pod(generation=1), service=STARTS), ["accept"]),
        (STARTED_NOW, Seen(pod=pod(generation=1, scheduled=None), service=STARTS), []),
        (STARTED_NOW, Seen(pod=pod(generation=1, scheduled=False), service=STARTS), ["accept"]),
        (TO_START, Seen(pod=pod(generation=1, scheduled=None), service=STARTS), ["accept"]),
    ],
)  # fmt: skip
def test_what_is_to_be_done_about_a_stack(row: Stack, seen: Seen, expected: list[str]) -> None:
    decision = decided(row, seen)
    assert what(decision) == expected
    assert bool(decision.why) == bool(expected)


def test_a_new_pod_waits_for_a_node_by_a_clock_that_can_be_trusted() -> None:
    seen = Seen(pod=pod(generation=1, scheduled=None), service=STARTS)
    assert decided(STARTED_NOW, seen).again == PLACING_NANOSECONDS / NANOSECONDS
    assert what(decided(STARTED_NOW, seen, now=None)) == ["accept"]


@pytest.mark.parametrize(
    ("seen", "uid"), [(pod(uid="seen"), "seen"), (None, None), (pod(uid="other", stack_id=""), None)]
)
def test_a_removal_means_the_object_that_was_seen_if_that_is_certainly_the_stacks(
    seen: PodState | None, uid: str | None
) -> None:
    (change,) = decided(DELETING, Seen(pod=seen, service=service())).changes
    assert change.uid == uid


def test_the_brake_is_asked_only_about_what_the_cluster_does_not_explain() -> None:
    missing = Seen(service=service(), gone=NO_POD)
    assert decided(STACK, missing).brake
    assert not decided(STACK, replace(missing, explained=True)).brake


@pytest.mark.parametrize(("end", "now", "again"), [(NOW + 7 * NANOSECONDS, NOW, 7.0), (1, None, None)])
def test_a_stack_expires_by_a_clock_that_can_be_trusted(end: int, now: int | None, again: float | None) -> None:
    decision = decided(stack(ttl_expires_at=end), Seen(pod=pod(), service=service(expires_at=end)), now)
    assert (decision.kind, decision.again) == (None, again)


# ---- a create that somebody waits for

MADE, NOT_PLACED = Creating(made=True, uids={NAME: "pod"}), pod(node_name=None, scheduled=False)


@pytest.mark.parametrize(
    ("seen", "expected", "error"),
    [
        (Seen(creating=Creating(made=False)), ["create-pod", "create-service"], None),
        (Seen(creating=MADE, pod=pod(node_name=None, scheduled=None)), [], None),
        (Seen(creating=replace(MADE, placeable=2.0), pod=NOT_PLACED), [], None),
        (Seen(creating=MADE, pod=NOT_PLACED), ["undo"], NoRoom), (Seen(creating=MADE, pod=pod()), ["accept"], None),
        (Seen(creating=MADE), ["ask-pod"], None),
        (Seen(creating=MADE, gone=NO_POD), ["undo"], ClusterUnavailable),
        (Seen(creating=MADE, pod=pod(uid="another"), gone=NO_POD), ["undo"], ClusterUnavailable),
    ],
)  # fmt: skip
def test_what_is_to_be_done_about_a_create(seen: Seen, expected: list[str], error: type[Exception] | None) -> None:
    row = stack(accepted=False, pod_uid=None)
    decision = decided(row, seen)
    assert what(decision) == expected
    assert type(decision.error) is (error or type(None))
    for late, then in ((0, expected), (LATE_CREATE_NANOSECONDS, expected or ["expire"])):
        assert what(decided(replace(row, ttl_expires_at=NOW - late), seen)) == then


def test_a_create_waits_for_room_and_for_the_gateway_as_long_as_it_is_told() -> None:
    new = stack(accepted=False, pod_uid=None)
    assert decided(new, Seen(creating=replace(MADE, placeable=2.0), pod=NOT_PLACED)).again == 2.0
    waiting = Seen(creating=replace(MADE, reachable=1.5), pod=pod(), named={WANTED_NAME: route(ready=False)})
    assert decided(new, waiting, named=[WANTED]).again == 1.5
    ready = replace(waiting, named={WANTED_NAME: route()})
    assert what(decided(new, ready, named=[WANTED])) == ["accept"]


# ---- names

WANTED = WantedRoute(resource="httproutes", name=f"{NAME}-80", manifest={}, content=b"as wanted")
WANTED_NAME = WANTED.resource, WANTED.name
AS_WANTED, GONE_ROUTE = {WANTED_NAME: route()}, {WANTED_NAME: None}
ROUTED = (RoutedPort(container_port=80, protocol="TCP", route=Route.HTTP, host="x.example.org"),)


@pytest.mark.parametrize(
    ("row", "seen", "expected"),
    [
        (STACK, Seen(pod=pod(), service=service(), named=AS_WANTED), []),
        (STACK, Seen(pod=pod(), service=service(), named=GONE_ROUTE), ["update-route"]),
        (STACK, Seen(pod=pod(), service=service(), named={WANTED_NAME: route(content=b"edited")}), ["update-route"]),
        (STACK, Seen(pod=pod(), service=service()), []),  # routes are not watched now
        (STACK, Seen(pod=pod(), named=GONE_ROUTE), ["update-route", "update-service"]),
        (AT_REST, Seen(service=KEPT, named=GONE_ROUTE), ["update-route"]),
    ],
)
def test_what_is_to_be_done_about_its_names(row: Stack, seen: Seen, expected: list[str]) -> None:
    assert what(decided(row, seen, named=[WANTED])) == expected


def test_names_go_with_the_pod_and_before_the_service() -> None:
    row = replace(DELETING, ports=ROUTED)
    seen = Seen(pod=pod(), service=service(), named=AS_WANTED)
    assert what(decided(row, seen)) == ["remove-pod", "remove-route"]
    assert what(decided(row, replace(seen, gone={POD, WANTED_NAME}))) == ["remove-service"]


def test_the_names_of_a_stack_that_has_ended_are_removed_even_if_they_are_not_watched() -> None:
    row = replace(ENDED, ports=ROUTED, ports_held=True)
    assert what(decided(row, Seen(service=RELEASED))) == ["remove-route"]
    assert what(decided(row, Seen(service=RELEASED, gone={WANTED_NAME}))) == ["released"]


# ---- a shared stack, which gets its new pod beside the earlier one

SHARED = stack(serving=0, generation=1, pod_uid="new", updated_at=NOW - PROVEN_NANOSECONDS)
NEW = pod(f"{NAME}-1", uid="new", stack_id=NAME, generation=1, created_at=NOW)
OLD = pod(uid="old")
SWITCHED = replace(SHARED, serving=1)
OF_OLD, OF_NEW = service(serving=0, generation=1), service(serving=1, generation=1)
WORKER = NodeState(
    name="worker", uid="worker", labels={}, addresses=(), ready=True, unschedulable=False, cpu_milli=1, memory_bytes=1,
    pods=1,
)  # fmt: skip
BESIDE = Seen(pod=NEW, earlier=(OLD,), service=OF_OLD, nodes={"worker": WORKER})
SILENT = replace(BESIDE, nodes={"worker": replace(WORKER, ready=False)})


@pytest.mark.parametrize(
    ("row", "seen", "expected"),
    [
        (SHARED, BESIDE, ["serve"]),
        (replace(SHARED, updated_at=NOW - PROVEN_NANOSECONDS + NANOSECONDS), BESIDE, []),
        (replace(SHARED, status=StackStatus.CREATING), BESIDE, []),
        (replace(SHARED, status_reason="NotReady"), BESIDE, []),
        # nobody is served: there is nothing to wait for
        (replace(SHARED, updated_at=NOW), replace(BESIDE, nodes={}), ["serve"]),
        (replace(SHARED, updated_at=NOW), replace(BESIDE, earlier=()), ["serve"]),
        (replace(SHARED, updated_at=NOW), replace(BESIDE, earlier=(replace(OLD, phase="Failed"),)), ["serve"]),
        # the earlier one serves nobody any more, and the new one could
        (replace(SHARED, updated_at=NOW), SILENT, ["serve"]),
        (replace(SHARED, updated_at=NOW), replace(SILENT, pod=replace(NEW, ready=False)), []),
        (replace(SHARED, updated_at=NOW), replace(BESIDE, earlier=(replace(OLD, ready=False),)), ["serve"]),
        # nobody waits for a clock that was set back
        (replace(SHARED, updated_at=NOW + 3600 * NANOSECONDS), BESIDE, ["serve"]),
        # the earlier one lingers, and goes
        (replace(SWITCHED, updated_at=NOW), replace(BESIDE, service=OF_NEW), []),
        (replace(SWITCHED, updated_at=NOW - LINGER_NANOSECONDS), replace(BESIDE, service=OF_NEW), ["remove-pod"]),
        (replace(SWITCHED, updated_at=NOW, status=StackStatus.FAILED), replace(BESIDE, service=OF_NEW), ["remove-pod"]),
        # no node has room for the new one: the earlier one has to go
        (replace(SHARED, status=StackStatus.CREATING, updated_at=NOW - ROOM_NANOSECONDS),
         replace(BESIDE, pod=replace(NEW, node_name=None, scheduled=False)), ["remove-pod"]),
        # no quota for two
        (replace(SHARED, pod_uid=None), replace(BESIDE, pod=None, crowded=True, service=replace(OF_OLD, desired=STARTING)),
         ["remove-pod"]),
        (replace(SHARED, pod_uid=None), replace(BESIDE, pod=None, service=replace(OF_OLD, desired=STARTING)), ["create-pod"]),
        # it keeps its ports when it has ended, because it is started again
        (replace(SHARED, ended=True), replace(BESIDE, pod=None, service=replace(OF_OLD, desired=HAS_ENDED)), []),
        # its record says that it has ended, also if it holds no node port
        (ENDED, Seen(service=replace(RELEASED, desired="running")), ["update-service"]),
    ],
)  # fmt: skip
def test_what_is_to_be_done_about_a_shared_stack(row: Stack, seen: Seen, expected: list[str]) -> None:
    assert what(decided(row, seen)) == expected


@pytest.mark.parametrize(
    ("row", "seen", "again"),
    [
        (replace(SHARED, updated_at=NOW), BESIDE, PROVEN_NANOSECONDS),
        (replace(SWITCHED, updated_at=NOW), replace(BESIDE, service=OF_NEW), LINGER_NANOSECONDS),
        (replace(SHARED, status=StackStatus.CREATING, updated_at=NOW),
         replace(BESIDE, pod=replace(NEW, node_name=None, scheduled=False)), ROOM_NANOSECONDS),
    ],
)  # fmt: skip
def test_a_shared_stack_is_looked_at_again_when_its_wait_is_over(row: Stack, seen: Seen, again: int) -> None:
    assert decided(row, seen).again == again / NANOSECONDS


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
        # a pod or a route without a Service: nothing says what the stack was
        ({"pods": [pod(OTHER)]}, []), ({"routes": [route(f"{OTHER}-80")]}, []),
        # the owner before ended between the pod and the Service of a create
        (CUT_SHORT, [("remove-pod", OTHER)]),
        (CUT_SHORT | {"pods": [cut_short(created_at=LONG_AGO + MINUTE)]}, [("remove-pod", OTHER)]),
        (CUT_SHORT | {"pods": [cut_short(created_at=LONG_AGO + MINUTE + 1)]}, []),
        (CUT_SHORT | {"pods": [cut_short(created_at=LONG_AGO - MINUTE - 1)]}, []),
        (CUT_SHORT | {"pods": [cut_short(annotated=False)]}, []),
        (CUT_SHORT | {"pods": [cut_short(deleting=True)]}, []), (CUT_SHORT | {"succeeded_at": None}, []),
        (CUT_SHORT | {"services": [service(ITS_SERVICE)]}, []),
        (CUT_SHORT | {"unadoptable": {}}, []),  # only the mirror lacks the Service
        ({"routes": [route()]}, []),  # it has a row
        # what is left of a question for the range of node ports
        ({"services": [service("range-1")]}, [("remove-service", "range-1")]),
        ({"services": [service("range-1", created_at=NOW)]}, []),
    ],
)  # fmt: skip
def test_what_is_to_be_done_about_objects_without_a_row(around: dict[str, Any], actions: list[tuple[str, str]]) -> None:
    planned = plan(**around).actions
    assert sorted((action.decision.action, action.name) for action in planned) == actions
    removed = [change for action in planned for change in action.decision.changes]
    assert {one.uid for one in removed} <= {"pod", "service", "route"}, "it means this very object"


@pytest.mark.parametrize(
    ("around", "why"),
    [
        ({}, ["no Service carries its record"]),
        (CUT_SHORT | {"unadoptable": {}}, ["no Service carries its record"]), ({"now": NOW - GRACE}, []),
        ({"now": NOW - GRACE, "incomplete": True}, ["no Service carries its record"]),
        ({"services": [service(ITS_SERVICE)]}, []),  # it comes along with its Service
        ({"pods": [pod(OTHER, deleting=True)]}, []),
    ],
)  # fmt: skip
def test_a_pod_without_its_service_is_named_and_never_adopted(around: dict[str, Any], why: list[str]) -> None:
    planned = plan(**({"pods": [pod(OTHER, created_at=NOW - GRACE)]} | around)).unknown
    assert [action.decision.why for action in planned] == why


@pytest.mark.parametrize("age", [0, GRACE])
@pytest.mark.parametrize("kind", ["services", "pods"])
def test_what_can_neither_be_taken_over_nor_proven_dead_is_left_alone_and_named(kind: str, age: int) -> None:
    """However young: after the file was complete, a pass tries again what could not be taken over."""
    made = {"created_at": NOW - age}
    one = service(ITS_SERVICE, **made) if kind == "services" else pod(OTHER, **made)
    around: dict[str, Any] = {kind: [one], "unadoptable": {OTHER: "no record"}}
    planned = plan(**around)
    assert [(action.orphan and action.orphan.seen.name, action.decision.why) for action in planned.unknown] == [
        (one.name, "no record")
    ]
    assert not planned.actions
