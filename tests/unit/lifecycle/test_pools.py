"""Which stack of a pool may be given, which of several creates gets it, and what a pool needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stackd.clock import NANOSECONDS
from stackd.config import RoutesSection
from stackd.kube.objects import PodState, ServiceState, node_state
from stackd.lifecycle.assign import may_be_assigned
from stackd.lifecycle.desired import desired
from stackd.lifecycle.owned import Work, decide_template
from stackd.lifecycle.pools import Pool, Pools
from stackd.model import DeleteReason, Desired, SanitizedSpec, Stack, StackStatus, TargetPort
from stackd.podspec import Policy
from stackd.templates import Template
from stackd.timing import PROVEN_SECONDS
from tests.unit.lifecycle.situations import NAME, NOW, OTHER, pod, service, stack

READY = {"type": "Ready", "status": "True"}
NODE = node_state({"metadata": {"name": "worker", "uid": "n"}, "status": {"conditions": [READY]}})
UNREADY = replace(NODE, ready=False)


def in_order(row: Stack, seen: Any, leads: Any, node: Any) -> bool:
    wanted = desired(row, RoutesSection(), "default").service
    return wanted is not None and may_be_assigned(row, seen, leads, node, wanted)


def waits(name: str = NAME, **changes: Any) -> Stack:
    return stack(**({"stack_id": name, "unassigned": True, "template": "web-1", "digest": "now"} | changes))


def numbered(*numbers: int, **changes: Any) -> list[Stack]:
    return [waits(f"stack-{number:016x}", created_at=NOW + number, **changes) for number in numbers]


def web(pool: int = 3) -> Template:
    spec = SanitizedSpec(text="", manifest={}, requested_cpu_milli=1, requested_memory_bytes=1)
    ports = (TargetPort(container_port=80, protocol="TCP"),)
    return Template(name="web-1", spec=spec, target_ports=ports, policy=Policy(), digest="now", pool=pool)


def pool_of(*rows: Stack, making: int = 0) -> Pool:
    return Pool(waits={row.stack_id: row for row in rows}, making=making)


def pooled(**changes: Any) -> PodState:
    return pod(**({"pool": "web-1"} | changes))


def shut(**changes: Any) -> ServiceState:
    """The Service of a stack in a pool, which selects its pod once that is assigned."""
    return service(**({"once_assigned": True} | changes))


def test_one_that_runs_or_starts_and_can_be_reached_once_given_in_order() -> None:
    assert in_order(waits(), pooled(), shut(), NODE)
    assert in_order(waits(status=StackStatus.CREATING), pooled(phase="Pending", ready=False), shut(), NODE)


@pytest.mark.parametrize(
    ("row", "seen", "leads", "node"),
    [
        # its row says otherwise
        (waits(status=StackStatus.CREATING, status_reason="ErrImagePull"), pooled(), shut(), NODE),
        (waits(status=StackStatus.FAILED), pooled(), shut(), NODE), (waits(ended=True), pooled(), shut(), NODE),
        (waits(accepted=False), pooled(), shut(), NODE), (waits(desired=Desired.STOPPED), pooled(), shut(), NODE),
        (waits(deleting_since=NOW, delete_reason=DeleteReason.POOL), pooled(), shut(), NODE),
        # it is not seen to be in order
        (waits(), None, shut(), NODE), (waits(), pooled(ready=False), shut(), NODE), (waits(), pooled(), shut(), None),
        (waits(), pooled(phase="Pending"), shut(), NODE), (waits(), pooled(phase="Failed"), shut(), NODE),
        (waits(), pooled(deleting=True), shut(), NODE), (waits(), pooled(uid="another"), shut(), NODE),
        (waits(), pooled(stack_id=""), shut(), NODE), (waits(), pooled(instance="other"), shut(), NODE),
        (waits(), pooled(assigned=True), shut(), NODE), (waits(), pooled(pool=""), shut(), NODE),
        (waits(), pooled(), None, NODE), (waits(), pooled(), shut(deleting=True), NODE),
        (waits(), pooled(), shut(node_ports=(31002,)), NODE), (waits(), pooled(), shut(selects=OTHER), NODE),
        (waits(), pooled(), shut(once_assigned=False), NODE), (waits(), pooled(), shut(), UNREADY),
    ],
)  # fmt: skip
def test_none_that_is_not_in_order_is_given(row: Stack, seen: Any, leads: Any, node: Any) -> None:
    assert not in_order(row, seen, leads, node)


def test_no_two_take_the_same() -> None:
    pools, rows = Pools(), numbered(1, 2, 3)
    pools.load(rows)
    assert [pools.pick("now") for _ in range(4)] == [*rows, None]
    pools.release(row.stack_id for row in rows[1:])
    assert [pools.pick("now"), pools.pick("now"), pools.pick("now")] == [rows[1], rows[2], None]
    pools.release(row.stack_id for row in rows)
    changed = waits(rows[0].stack_id, status_message="it was put right")
    pools.row_changed(rows[0], changed)
    assert pools.pick("now") == changed, "what changes keeps its place"


def test_where_none_runs_the_oldest_is_taken_that_comes_to_run_unless_the_pool_fails() -> None:
    creating, pools = StackStatus.CREATING, Pools()
    old, young = numbered(2, 3, status=creating)
    (runs,) = numbered(4)
    stuck = numbered(1, status=creating, status_reason="ErrImagePull")
    others = [*numbered(0, status=creating, digest="old"), *numbered(5, status=creating, accepted=False)]
    others += [*numbered(6, digest="old"), *numbered(7, digest=None)]
    pools.load([young, old, runs, *stuck, *others])
    assert [pools.pick("now") for _ in range(4)] == [runs, old, young, None]
    pools.release([old.stack_id])
    pools.of("web-1").failed("why", 0.0)
    assert pools.pick("now") is None


def test_what_was_given_or_ended_or_changed_while_it_was_taken_is_not_taken_again() -> None:
    pools = Pools()
    rows = numbered(1, 2, 3)
    pools.load(rows)
    for _ in rows:
        pools.pick("now")
    pools.row_changed(rows[0], stack(stack_id=rows[0].stack_id, digest="now"))
    pools.row_changed(rows[1], None)
    pools.row_changed(rows[2], waits(rows[2].stack_id, status=StackStatus.FAILED))
    pools.release(row.stack_id for row in rows)
    assert pools.pick("now") is None


@pytest.mark.parametrize(
    ("pool", "missing"),
    [
        (pool_of(), 3), (pool_of(making=2), 1), (pool_of(*numbered(1, 2)), 1), (pool_of(*numbered(1, 2, 3)), 0),
        (pool_of(*numbered(1, 2, status=StackStatus.CREATING)), 1),
        (pool_of(*numbered(1, accepted=False), making=1), 2), (pool_of(*numbered(1, 2, digest="old")), 1),
        (pool_of(*numbered(1, deleting_since=NOW), *numbered(2)), 2),
        (pool_of(*numbered(1, status=StackStatus.FAILED)), 3),
    ],
)  # fmt: skip
def test_so_many_are_missing(pool: Pool, missing: int) -> None:
    assert decide_template(pool, web(), NOW).missing == missing


def test_what_has_failed_or_is_of_an_earlier_template_or_too_much_goes() -> None:
    failed, stale, young = numbered(1, status=StackStatus.FAILED), numbered(2, digest="old"), numbered(9)
    work = decide_template(pool_of(*failed, *stale, *numbered(3, 4, 5), *young), web(), NOW)
    assert (work.failing, work.unwanted) == (failed, [*stale, *young])
    rows = numbered(1, 2)
    assert decide_template(pool_of(*rows), None, NOW).unwanted == rows, "without a template all of it goes"
    assert decide_template(pool_of(*rows), web(pool=0), NOW).unwanted == rows[::-1]


def test_a_node_that_goes_is_not_the_templates_fault() -> None:
    assert decide_template(pool_of(*numbered(1, status=StackStatus.NODE_DELETED)), web(), NOW).failed == ""
    failed = numbered(1, status=StackStatus.FAILED, status_reason="ErrImagePull", status_message="no such image")
    assert decide_template(pool_of(*failed), web(), NOW).failed == "ErrImagePull: no such image"
    before = numbered(1, status=StackStatus.FAILED, digest="before")
    assert decide_template(pool_of(*before), web(), NOW) == Work(missing=3, begin=3, failing=before), (
        "the template has changed since"
    )


PROVEN = round(PROVEN_SECONDS * NANOSECONDS)


def test_one_that_is_not_ready_is_replaced_unless_it_soon_is_again() -> None:
    """A program may hang, or its node be silent: the pod runs on, and nobody can be given it."""
    (lost,), ready = numbered(1, status_reason="NotReady", updated_at=NOW), numbered(2, 3)
    pools = Pools()
    pools.load([lost, *ready])
    figures = pools.figures(web())
    assert (figures.ready, figures.starting, figures.failing) == (2, 0, 1)
    assert [pools.pick("now") for _ in range(3)] == [*ready, None]
    pool = pools.of("web-1")
    assert decide_template(pool, web(), NOW + PROVEN - 1) == Work(again=1e-9), "it may be ready again in a moment"
    assert decide_template(pool, web(), NOW + PROVEN) == Work(missing=1, failing=[lost], failed="NotReady")


@pytest.mark.parametrize(
    ("runs", "after", "proven"),
    [
        (waits(updated_at=NOW), PROVEN, True), (waits(updated_at=NOW), PROVEN - 1, False),
        (waits(updated_at=NOW - 1), PROVEN, False),  # it ran before the crash
        (waits(updated_at=NOW, digest="old"), PROVEN, False), (waits(updated_at=NOW, ended=True), PROVEN, False),
        (waits(updated_at=NOW, status=StackStatus.CREATING), PROVEN, False),
        (waits(updated_at=NOW, status_reason="NotReady"), PROVEN, False),
    ],
)  # fmt: skip
def test_after_a_crash_one_has_to_run_for_a_while(runs: Stack, after: int, proven: bool) -> None:
    """A program may start, be ready, and exit a second later: being ready proves nothing then."""
    pool = replace(pool_of(runs), digest="now", crashed_at=NOW, failures=1, reason="why")
    pool.forget_failures(NOW + after, "now")
    assert (pool.failures, pool.reason, pool.crashed_at) == ((0, "", 0) if proven else (1, "why", NOW))
