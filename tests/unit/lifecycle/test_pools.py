"""Which stack of a pool may be given, which of several creates gets it, and what a pool needs."""

from __future__ import annotations

from typing import Any

import pytest

from stackd.kube.objects import NodeState
from stackd.lifecycle.assign import may_be_given
from stackd.lifecycle.pools import FIRST_PAUSE, PROVEN_SECONDS, Pool, Pools
from stackd.lifecycle.refill import Work, work_for
from stackd.model import DeleteReason, Desired, SanitizedSpec, Stack, StackStatus, TargetPort
from stackd.podspec import Policy
from stackd.templates import Template
from tests.unit.lifecycle.situations import NAME, NOW, OTHER, pod, service, stack
from tests.unit.lifecycle.test_plan import kinds, seen

NODE = NodeState(
    name="worker",
    uid="n",
    labels={},
    addresses=(),
    ready=True,
    unschedulable=False,
    cpu_milli=1,
    memory_bytes=1,
    pods=1,
)
UNREADY = NodeState(
    name="worker",
    uid="n",
    labels={},
    addresses=(),
    ready=False,
    unschedulable=False,
    cpu_milli=1,
    memory_bytes=1,
    pods=1,
)


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


def test_one_that_runs_and_can_be_reached_may_be_given() -> None:
    assert may_be_given(waits(), pod(), service(), NODE)


@pytest.mark.parametrize(
    "changed",
    [
        waits(status=StackStatus.CREATING),
        waits(status=StackStatus.FAILED),
        waits(ended=True),
        waits(accepted=False),
        waits(deleting_since=NOW, delete_reason=DeleteReason.POOL),
        waits(desired=Desired.STOPPED),
        waits(pod_uid="another"),
    ],
)
def test_none_whose_row_says_otherwise(changed: Stack) -> None:
    assert not may_be_given(changed, pod(), service(), NODE)


@pytest.mark.parametrize(
    ("seen", "leads", "node"),
    [
        (None, service(), NODE),
        (pod(ready=False), service(), NODE),
        (pod(phase="Pending"), service(), NODE),
        (pod(phase="Failed"), service(), NODE),
        (pod(deleting=True), service(), NODE),
        (pod(uid="another"), service(), NODE),
        (pod(), None, NODE),
        (pod(), service(deleting=True), NODE),
        (pod(), service(node_ports=(31002,)), NODE),
        (pod(), service(selects=OTHER), NODE),
        (pod(), service(), None),
        (pod(), service(), UNREADY),
    ],
)
def test_none_that_is_not_seen_to_be_in_order(seen: Any, leads: Any, node: Any) -> None:
    assert not may_be_given(waits(), seen, leads, node)


def test_the_oldest_is_taken_first_and_no_two_take_the_same() -> None:
    pools = Pools()
    rows = numbered(1, 2, 3)
    pools.load(rows)
    assert [pools.take("now") for _ in range(4)] == [*rows, None]
    pools.put_back(row.stack_id for row in rows[1:])
    assert [pools.take("now"), pools.take("now"), pools.take("now")] == [rows[1], rows[2], None]


def test_what_was_given_or_ended_or_changed_while_it_was_taken_is_not_taken_again() -> None:
    pools = Pools()
    rows = numbered(1, 2, 3)
    pools.load(rows)
    for _ in rows:
        pools.take("now")
    pools.row_changed(rows[0], stack(stack_id=rows[0].stack_id, digest="now"))
    pools.row_changed(rows[1], None)
    pools.row_changed(rows[2], waits(rows[2].stack_id, status=StackStatus.FAILED))
    pools.put_back(row.stack_id for row in rows)
    assert pools.take("now") is None


def test_none_of_another_template_or_of_nobody_knows_which_is_taken() -> None:
    pools = Pools()
    pools.load([*numbered(1, digest="old"), *numbered(2, digest=None)])
    assert pools.take("now") is None


def test_what_changes_keeps_its_place() -> None:
    pools = Pools()
    first, second = numbered(1, 2)
    pools.load([first, second])
    changed = waits(first.stack_id, status_message="it was put right")
    pools.row_changed(first, changed)
    assert pools.take("now") == changed


@pytest.mark.parametrize(
    ("pool", "missing"),
    [
        (pool_of(), 3),
        (pool_of(making=2), 1),
        (pool_of(*numbered(1, 2)), 1),
        (pool_of(*numbered(1, 2, 3)), 0),
        (pool_of(*numbered(1, 2, status=StackStatus.CREATING)), 1),
        (pool_of(*numbered(1, accepted=False), making=1), 2),
        (pool_of(*numbered(1, 2, digest="old")), 1),
        (pool_of(*numbered(1, deleting_since=NOW), *numbered(2)), 2),
        (pool_of(*numbered(1, status=StackStatus.FAILED)), 3),
    ],
)
def test_so_many_are_missing(pool: Pool, missing: int) -> None:
    assert work_for(pool, web(), NOW).missing == missing


def ends(work: Work) -> tuple[Stack, ...]:
    return (*work.failing, *work.stale, *work.surplus)


def test_what_has_failed_or_is_of_an_earlier_template_or_too_much_goes() -> None:
    failed, stale, young = numbered(1, status=StackStatus.FAILED), numbered(2, digest="old"), numbered(9)
    work = work_for(pool_of(*failed, *stale, *numbered(3, 4, 5), *young), web(), NOW)
    assert (work.failing, work.stale, work.surplus) == (tuple(failed), tuple(stale), tuple(young))


@pytest.mark.parametrize("template", [web(), web(pool=0), None])
def test_what_somebody_may_have_been_given_stays_until_its_time_is_up_and_is_missed_in_the_pool(
    template: Template | None,
) -> None:
    (held,) = numbered(1, digest=None, ttl_expires_at=NOW + 10)
    before = work_for(pool_of(held), template, NOW + 9)
    assert (ends(before), before.missing) == ((), template.pool if template is not None else 0)
    assert ends(work_for(pool_of(held), template, NOW + 10)) == (held,)
    assert ends(work_for(pool_of(held), template, None)) == ()  # by a clock that may be wrong, nothing expires
    (ended,) = numbered(1, digest=None, ended=True)
    assert ends(work_for(pool_of(ended), template, NOW)) == (ended,)


def test_without_a_template_all_of_it_goes() -> None:
    rows = numbered(1, 2)
    assert ends(work_for(pool_of(*rows), None, NOW)) == tuple(rows)
    assert ends(work_for(pool_of(*rows), web(pool=0), NOW)) == tuple(reversed(rows))


def test_a_node_that_goes_is_not_the_templates_fault() -> None:
    assert work_for(pool_of(*numbered(1, status=StackStatus.NODE_DELETED)), web(), NOW).failed == ""
    failed = numbered(1, status=StackStatus.FAILED, status_reason="ErrImagePull", status_message="no such image")
    assert work_for(pool_of(*failed), web(), NOW).failed == "ErrImagePull: no such image"
    before = numbered(1, status=StackStatus.FAILED, digest="before")
    assert work_for(pool_of(*before), web(), NOW) == Work(missing=3, failing=tuple(before)), (
        "the template has changed since"
    )


def test_a_pool_that_fails_is_tried_again_later_each_time_until_one_runs() -> None:
    pools, pauses = Pools(), []
    pool = pools.of("web-1")
    pool.changed_to("now")
    for _ in range(12):
        pool.failed("why", 0.0)
        pauses.append(pool.not_before)
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == pauses[-2] == 300.0
    pools.row_changed(waits(status=StackStatus.CREATING), waits())
    assert (pool.failures, pool.reason, pool.not_before) == (0, "", 0.0)


def test_where_stacks_have_ended_by_themselves_one_has_to_run_for_a_while() -> None:
    """A program may start, be ready, and exit a second later: being ready proves nothing then."""
    now = 100.0
    pools = Pools(lambda: now)
    pool = pools.of("web-1")
    pool.changed_to("now")

    def start(name: str) -> None:
        pools.row_changed(waits(name, status=StackStatus.CREATING), waits(name))

    pool.crashed = True
    pool.failed("why", now)
    start("ends")
    now += PROVEN_SECONDS - 0.1
    pools.row_changed(waits("ends"), waits("ends", status=StackStatus.FAILED, ended=True))
    start("given")
    pools.row_changed(waits("given"), stack(stack_id="given", template="web-1", digest="now"))
    start("stays")
    now += PROVEN_SECONDS - 0.1
    pool.settle(now)
    assert (pool.failures, pool.reason) == (1, "why")
    now += 0.1
    pool.settle(now)
    assert (pool.failures, pool.reason, pool.not_before, pool.crashed) == (0, "", 0.0, False)


def test_a_pass_has_a_given_stacks_pod_told_and_lets_what_waits_live_beyond_its_time() -> None:
    given = stack(digest="now", template="web-1")
    told = pod(pool="web-1", expires_at=given.ttl_expires_at)
    assert kinds(seen(given, pods=[told], services=[service()])) == [("annotate", NAME)]
    late = waits(ttl_expires_at=NOW - 1)
    assert kinds(seen(late, pods=[pod(pool="web-1")], services=[service()])) == []
