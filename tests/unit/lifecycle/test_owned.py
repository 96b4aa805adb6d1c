"""What a template's shared stack, its check and its images need, as tables of situations; and when to look again."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from stackd.clock import NANOSECONDS
from stackd.lifecycle.owned import (
    CHECKS_AT_ONCE,
    PULLS_AT_ONCE,
    ImageOnNode,
    Pull,
    Seen,
    Subject,
    Work,
    decide_template,
)
from stackd.lifecycle.pools import Pool
from stackd.model import Desired, PortMapping, SanitizedSpec, Stack, StackStatus, TargetPort
from stackd.podspec import Policy
from stackd.templates import Check, Template
from stackd.templates.template import Hours
from stackd.timing import PROVEN_SECONDS, UNREADY_SECONDS
from tests.unit.lifecycle.situations import NAME, NOW, stack

LIFE = 3600 * NANOSECONDS
PORTS = (PortMapping(container_port=80, protocol="TCP", node_port=31001),)


def template(**changes: Any) -> Template:
    spec = SanitizedSpec(text="", manifest={}, requested_cpu_milli=1, requested_memory_bytes=1)
    made: dict[str, Any] = {"name": "notes", "spec": spec, "policy": Policy(), "digest": "now", "shared": True}
    made |= {"target_ports": (TargetPort(container_port=80, protocol="TCP"),), "node_ports": {80: 31001}}
    return Template(**made | changes)


def shared(**changes: Any) -> Stack:
    usual = {"template": "notes", "digest": "now", "serving": 0, "ports": PORTS, "ttl_expires_at": NOW + LIFE}
    return stack(**(usual | changes))


def decided(row: Stack, of: Template | None = None, *, gone: bool = False, **seen: Any) -> Work:
    pool = Pool(shared={row.stack_id: row}, digest="now")
    return decide_template(pool, None if gone else of or template(), NOW, Seen(longest_life=LIFE, **seen))


def words(work: Work) -> list[str]:
    """What is done, in words."""
    found = [f"restart: {reason}" for _, reason in work.restarts] + ["delete"] * len(work.failing)
    return found + ["keep"] * len(work.kept) + ["make"] * work.missing


ENDED = shared(ended=True, status=StackStatus.FAILED, status_reason="Error")
LOST = shared(status_reason="NotReady", updated_at=NOW)
LATE = replace(LOST, updated_at=NOW - round(UNREADY_SECONDS * NANOSECONDS))


@pytest.mark.parametrize(
    ("row", "seen", "expected"),
    [
        (shared(), {}, []),
        # its pod has ended, is being deleted, or is not ready any more
        (ENDED, {}, ["restart: Error"]), (shared(status=StackStatus.NODE_DELETED), {}, ["restart: node_deleted"]),
        (shared(status_reason="Terminating"), {}, ["restart: Terminating"]), (LOST, {}, []), (LATE, {}, ["restart: NotReady"]),
        # it fails its check
        (shared(), {"unhealthy": [NAME]}, ["restart: CheckFailed"]),
        # its template has changed, or has gone
        (shared(digest="old"), {}, ["restart: TemplateChanged"]),
        (shared(), {"gone": True}, ["delete"]), (shared(), {"gone": True, "missing": True}, []),
        (ENDED, {"gone": True, "missing": True}, ["restart: Error"]), (shared(), {"of": template(shared=False)}, ["delete"]),
        (shared(), {"of": template(hours=Hours(closes=NOW))}, ["delete"]),
        (shared(), {"of": template(node_ports={80: 31002})}, ["delete"]),
        # not after a failure, not while it is stopped, not while it is being started, and not while it is being deleted
        (ENDED, {"paused": 4.0}, []), (replace(ENDED, desired=Desired.STOPPED), {}, []),
        (shared(pod_uid=None, status=StackStatus.CREATING), {}, []), (shared(deleting_since=NOW), {}, []),
        (shared(accepted=False), {}, []),
        # its end is put off, but not beyond the time at which its template closes
        (shared(ttl_expires_at=NOW + LIFE // 2), {}, ["keep"]),
        (shared(ttl_expires_at=NOW + LIFE // 4), {"of": template(hours=Hours(closes=NOW + LIFE // 4))}, []),
    ],
)  # fmt: skip
def test_what_a_shared_stack_needs(row: Stack, seen: dict[str, Any], expected: list[str]) -> None:
    assert words(decided(row, **seen)) == expected


def test_there_is_one() -> None:
    assert words(decide_template(Pool(), template(), NOW)) == ["make"]
    assert words(decide_template(Pool(making=1), template(), NOW)) == []
    assert words(decide_template(Pool(), template(shared=False), NOW)) == []
    assert words(decide_template(Pool(), template(hours=Hours(opens=NOW + 1)), NOW)) == []
    assert words(decide_template(Pool(), template(hours=Hours(opens=NOW, closes=NOW + 1)), NOW)) == ["make"]


FILLS = template(shared=False, pool=100, node_ports={})
ONES = {f"stack-{number:016x}": stack(digest="now", unassigned=True) for number in range(50)}


@pytest.mark.parametrize(
    ("pool", "seen", "begin"),
    [
        (Pool(), {}, 24),  # an empty pool takes what is left of the slots for creates
        (Pool(making=20), {"making": 20}, 4),
        (Pool(), {"making": 23}, 1),  # others are filled
        (Pool(waits=ONES), {}, 6),  # the fuller, the fewer
        (Pool(), {"crowded": True}, 0),  # clients wait
        (Pool(), {"paused": 4.0}, 0),
        (Pool(failures=1), {}, 1),  # after a failure one at a time
        (Pool(failures=1, making=1), {"making": 1}, 0),
    ],
)
def test_how_many_are_begun(pool: Pool, seen: dict[str, Any], begin: int) -> None:
    pool.digest = "now"
    assert decide_template(pool, FILLS, NOW, Seen(longest_life=LIFE, **seen)).begin == begin


CHECK = Check(
    image="", command=(), every=60.0, timeout=10.0, failures=2, spec=template().spec, policy=template().policy
)
CHECKED, POOLED = template(check=CHECK), replace(FILLS, pool=2, check=CHECK)
SERVES, OF_POOL = Subject(NAME, 3), Subject(digest="now")
ROW = shared(generation=3, serving=3)


def full(number: int = 2, **changes: Any) -> Pool:
    rows = [replace(row, **changes) for row in list(ONES.values())[:number]]
    return Pool(waits={row.stack_id + str(at): row for at, row in enumerate(rows)}, digest="now")


@pytest.mark.parametrize(
    ("pool", "of", "seen", "expected"),
    [
        # of a shared stack: its pod, once it serves
        (Pool(shared={NAME: ROW}), CHECKED, {}, SERVES), (Pool(shared={NAME: ROW}), template(), {}, None),
        (Pool(shared={NAME: shared(generation=3, serving=2)}), CHECKED, {}, None),
        (Pool(shared={NAME: replace(ROW, status=StackStatus.CREATING)}), CHECKED, {}, None),
        (Pool(), CHECKED, {}, None),
        # again after a while, and another pod at once
        (Pool(shared={NAME: ROW}), CHECKED, {"checked": SERVES, "recheck": 17.0}, 7.0),
        (Pool(shared={NAME: ROW}), CHECKED, {"checked": SERVES, "recheck": 10.0}, SERVES),
        (Pool(shared={NAME: ROW}), CHECKED, {"checked": Subject(NAME, 2), "recheck": 17.0}, SERVES),
        # not a pod that is to be replaced, or to go
        (Pool(shared={NAME: ROW}), CHECKED, {"unhealthy": [NAME]}, None),
        (Pool(shared={NAME: replace(ROW, digest="old")}), CHECKED, {}, None),
        (Pool(shared={NAME: ROW}), replace(CHECKED, node_ports={80: 31002}), {}, None),
        # of a pool: once it is full, and whenever the template is another one
        (full(), POOLED, {}, OF_POOL), (full(1), POOLED, {}, None), (full(digest="old"), POOLED, {}, None),
        (full(), POOLED, {"checked": OF_POOL, "recheck": 3610.0}, 3600.0),
        (full(), POOLED, {"checked": Subject(digest="old"), "recheck": 3610.0}, OF_POOL),
        # few at a time: the end of another one wakes it, and no time
        (Pool(shared={NAME: ROW}), CHECKED, {"checking": CHECKS_AT_ONCE - 1}, SERVES),
        (Pool(shared={NAME: ROW}), CHECKED, {"checking": CHECKS_AT_ONCE}, "waits"),
        (Pool(shared={NAME: ROW}), CHECKED, {"checking": 4, "checked": SERVES, "recheck": 17.0}, 7.0),
    ],
)  # fmt: skip
def test_what_is_checked_and_when(pool: Pool, of: Template, seen: dict[str, Any], expected: object) -> None:
    work = decide_template(pool, of, NOW, Seen(longest_life=LIFE // 4, clock=10.0, **seen))
    assert (work.check or ("waits" if work.check_waits else None)) == (None if type(expected) is float else expected)
    if type(expected) is float:
        assert work.again == expected


def on(node: str, image: str) -> ImageOnNode:
    return ImageOnNode(node=node, image=image)


@pytest.mark.parametrize(
    ("images", "pulls", "begun", "again"),
    [
        ([], {}, [], math.inf),
        ([on("a", "x"), on("b", "x"), on("c", "x")], {}, [on("a", "x"), on("b", "x")], math.inf),
        # a kubelet pulls one after the other, and the end of a pull has the others looked at
        ([on("a", "x"), on("a", "y")], {}, [on("a", "x")], math.inf),
        ([on("a", "x"), on("a", "y"), on("b", "y")], {on("a", "x"): Pull(pod="p")}, [on("b", "y")], math.inf),
        ([on("a", "x"), on("b", "x"), on("c", "x")], {on(n, "x"): Pull(pod="p") for n in "ab"}, [], math.inf),
        # the one that is due longest; the others when they are due
        ([on("a", "x"), on("a", "y"), on("b", "y")],
         {on("a", "x"): Pull(due=5.0), on("a", "y"): Pull(due=4.0), on("b", "y"): Pull(due=11.0)}, [on("a", "y")], 1.0),
        # a node that has joined, and one that has left
        ([on("b", "x")], {on("a", "x"): Pull(pod="p")}, [on("b", "x")], math.inf),
    ],
)  # fmt: skip
def test_few_images_are_pulled_at_a_time(
    images: list[ImageOnNode], pulls: dict[ImageOnNode, Pull], begun: list[ImageOnNode], again: float
) -> None:
    seen = Seen(clock=10.0, images=dict.fromkeys(images, template()), pulls=pulls)
    work = decide_template(Pool(), None, NOW, seen)
    assert (work.pulls, work.again) == (begun, again)
    assert set(work.dropped) == pulls.keys() - set(images)
    assert PULLS_AT_ONCE == 2


@pytest.mark.parametrize(
    ("work", "again"),
    [
        (decided(shared()), LIFE / 2 / NANOSECONDS),  # its end is put off then
        (decided(LOST), UNREADY_SECONDS), (decided(ENDED, paused=4.0), 4.0),
        (decide_template(Pool(), template(), NOW), math.inf),
        (decide_template(Pool(), template(hours=Hours(opens=NOW + 3 * NANOSECONDS)), NOW), 3.0),
        (decided(shared(), of=template(hours=Hours(closes=NOW + 3 * NANOSECONDS))), 3.0),
        (decide_template(Pool(shared={NAME: shared(updated_at=NOW)}, failures=1), None, NOW), PROVEN_SECONDS),
    ],
)  # fmt: skip
def test_when_to_look_again(work: Work, again: float) -> None:
    assert work.again == again
