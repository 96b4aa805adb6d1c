"""What a template's shared stack needs, as a table of situations; and when to look again."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from stackd.clock import NANOSECONDS
from stackd.lifecycle.owned import Seen, Work, decide_template
from stackd.lifecycle.pools import Pool
from stackd.model import Desired, PortMapping, SanitizedSpec, Stack, StackStatus, TargetPort
from stackd.podspec import Policy
from stackd.templates import Template
from stackd.templates.template import Hours
from stackd.timing import PROVEN_SECONDS, UNREADY_SECONDS
from tests.unit.lifecycle.situations import NAME, NOW, stack

LIFE = 3600 * NANOSECONDS
PORTS = (PortMapping(container_port=80, protocol="TCP", node_port=31001),)


def template(**changes: Any) -> Template:
    spec = SanitizedSpec(text="", manifest={}, requested_cpu_milli=1, requested_memory_bytes=1)
    ports = (TargetPort(container_port=80, protocol="TCP"),)
    made = Template(
        name="notes", spec=spec, target_ports=ports, policy=Policy(), digest="now", shared=True, node_ports={80: 31001}
    )
    return replace(made, target_ports=ports, **changes)


def shared(**changes: Any) -> Stack:
    usual = {"template": "notes", "digest": "now", "serving": 0, "ports": PORTS, "ttl_expires_at": NOW + LIFE}
    return stack(**(usual | changes))


def decided(row: Stack, of: Template | None = None, *, gone: bool = False, **seen: Any) -> Work:
    pool = Pool(shared={row.stack_id: row}, digest="now")
    return decide_template(pool, None if gone else of or template(), NOW, Seen(longest_life=LIFE, **seen))


def words(work: Work) -> list[str]:
    """What is done, in words."""
    found = [f"restart: {reason}" for _, reason in work.restarts] + ["delete" for _ in work.failing]
    return found + ["keep" for _ in work.kept] + ["make"] * work.missing


ENDED = shared(ended=True, status=StackStatus.FAILED, status_reason="Error")
LOST = shared(status_reason="NotReady", updated_at=NOW)
LATE = replace(LOST, updated_at=NOW - round(UNREADY_SECONDS * NANOSECONDS))


@pytest.mark.parametrize(
    ("row", "seen", "expected"),
    [
        (shared(), {}, []),
        # its pod has ended, is being deleted, or is not ready any more
        (ENDED, {}, ["restart: Error"]),
        (shared(status=StackStatus.NODE_DELETED), {}, ["restart: node_deleted"]),
        (shared(status_reason="Terminating"), {}, ["restart: Terminating"]),
        (LOST, {}, []),
        (LATE, {}, ["restart: NotReady"]),
        # it fails its check
        (shared(), {"unhealthy": [NAME]}, ["restart: CheckFailed"]),
        # its template has changed, or has gone
        (shared(digest="old"), {}, ["restart: TemplateChanged"]),
        (replace(ENDED, digest="old"), {}, ["restart: TemplateChanged"]),
        (shared(), {"gone": True}, ["delete"]),
        (shared(), {"gone": True, "missing": True}, []),
        (ENDED, {"gone": True, "missing": True}, ["restart: Error"]),
        (shared(), {"of": template(shared=False)}, ["delete"]),
        (shared(), {"of": template(hours=Hours(closes=NOW))}, ["delete"]),
        (shared(), {"of": template(node_ports={80: 31002})}, ["delete"]),
        # not after a failure, not while it is stopped, and not while it is being started
        (ENDED, {"paused": 4.0}, []),
        (replace(ENDED, desired=Desired.STOPPED), {}, []),
        (shared(pod_uid=None, status=StackStatus.CREATING), {}, []),
        # its end is put off
        (shared(ttl_expires_at=NOW + LIFE // 2), {}, ["keep"]),
        # but not beyond the time at which its template closes
        (shared(ttl_expires_at=NOW + LIFE // 4), {"of": template(hours=Hours(closes=NOW + LIFE // 4))}, []),
        # it is being deleted
        (shared(deleting_since=NOW), {}, []),
        (shared(accepted=False), {}, []),
    ],
)
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


@pytest.mark.parametrize(
    ("work", "again"),
    [
        (decided(shared()), LIFE / 2 / NANOSECONDS),  # its end is put off then
        (decided(LOST), UNREADY_SECONDS),
        (decided(ENDED, paused=4.0), 4.0),
        (decide_template(Pool(), template(), NOW), math.inf),
        (decide_template(Pool(), template(hours=Hours(opens=NOW + 3 * NANOSECONDS)), NOW), 3.0),
        (decided(shared(), of=template(hours=Hours(closes=NOW + 3 * NANOSECONDS))), 3.0),
        (decide_template(Pool(shared={NAME: shared(updated_at=NOW)}, failures=1), None, NOW), PROVEN_SECONDS),
    ],
)
def test_when_to_look_again(work: Work, again: float) -> None:
    assert work.again == again
