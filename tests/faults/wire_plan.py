"""Themes and details of troubles between stackd and Kubernetes, by other users of the cluster, and of the clock.

They have their own seeds (``plan.theme_of``).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.faults.theme import Theme, lasting, pick

YEARS = 12 * 365 * 86_400.0
HOUR = 3600.0

TWO = (2,)
"""The second round begins with existing stacks."""

WIRE_THEMES = (
    Theme(
        name="pages",
        troubles={
            "page": 5, "gone_page": 12, "spoil": 5, "trickle": 3, "retry_after": 1, "drop_watches": 2, "compact": 3, "kill": 1
        },
        count=(8, 14),
        operations={"create": 40, "delete": 40, "batch": 10, "stop": 8},
        rounds=TWO,
    ),
    Theme(
        name="silence",
        troubles={"silence": 4, "mute": 4, "trickle": 3, "retry_after": 3, "pause": 1, "drop_watches": 2, "kill": 1},
        count=(3, 6),
    ),
    Theme(
        name="old answers",
        troubles={"old_list": 6, "old_deletion": 8, "drop_watches": 2, "compact": 2, "lost_reply": 1, "kill": 1},
        count=(6, 11),
        operations={"create": 40, "delete": 8},
        rounds=TWO,
    ),
    Theme(
        name="other hands",
        troubles={"strip": 6, "strip_policy": 4, "drift": 6, "drift_policy": 3, "lost_reply": 2, "kill": 2},
        count=(8, 14),
        operations={"create": 40, "delete": 20, "stop": 6, "restart": 6},
        rounds=TWO,
    ),
    Theme(
        name="wrong clocks",
        troubles={"wrong_clock": 6, "wrong_start": 3, "clock_step": 4, "status": 1, "kill": 1},
        count=(2, 4),
        operations={"extend": 8, "create": 30, "delete": 8},
        rounds=TWO,
    ),
    Theme(
        name="all of it",
        troubles={
            "page": 2, "gone_page": 3, "spoil": 2, "trickle": 2, "retry_after": 2, "silence": 1, "mute": 1, "old_list": 2,
            "old_deletion": 3, "strip": 3, "strip_policy": 1, "drift": 3, "drift_policy": 1, "wrong_clock": 1,
            "clock_step": 1, "status": 2, "lost_reply": 2, "drop_watches": 1, "compact": 1, "kill": 3, "terminate": 1,
            "latency": 1, "take_ports": 1, "remove_node": 1, "write_error": 1,
        },
        count=(6, 12),
        crashes=0.6,
    ),
)  # fmt: skip

RESET_THEMES = (
    Theme(
        name="resets",
        troubles={"resets": 6, "reset_all": 12, "status": 1, "drop_watches": 1, "kill": 1},
        count=(10, 16),
        operations={"create": 30, "stop": 8, "restart": 8, "extend": 8, "delete_service_by_hand": 6},
        rounds=(2,),
    ),
)


def _call(random: Random, *verbs: str) -> dict[str, Any]:
    return {
        "verb": random.choice(verbs),
        "resource": random.choice(("pods", "services", "pods|services", ".*")),
        "count": random.choice((1, 2, 3, 6)),
    }


def _change(random: Random) -> dict[str, Any]:
    return {"change": random.choice(("port", "port", "type", "selector"))}


def _wrong(random: Random) -> dict[str, Any]:
    return {
        "by": random.choice((YEARS, YEARS, 30 * HOUR, 3 * HOUR, -HOUR, -3 * HOUR, -30 * HOUR, -YEARS)),
        "seconds": round(random.uniform(1.0, 3.0), 3),
    }


WIRE_DETAILS: dict[str, Callable[[Random], dict[str, Any]]] = {
    "resets": lambda random: lasting(random) | {"share": random.choice((0.04, 0.2, 0.5))},
    "mute": lambda random: {
        "resource": random.choice(("pods", "services", "pods|services|nodes", ".*")),
        "seconds": round(random.uniform(0.3, 5.0), 3),
    },
    "trickle": lambda random: (
        _call(random, "create", "delete", "patch", "get", "list", "watch", ".*") | {"seconds": random.choice((0.2, 1.0, 4.0))}
    ),
    "retry_after": lambda random: (
        _call(random, "watch", "watch", "list", "create", "delete", "patch", "get", ".*") | {"code": random.choice((503, 429))}
    ),
    "gone_page": lambda random: (
        _call(random, "delete", "delete|get", "delete|get|list") | {"code": random.choice((404, 404, 200))}
    ),
    "old_list": lambda random: lasting(random) | {"resource": random.choice(("pods", "services", ".*")), "count": 2},
    "old_deletion": lambda random: (
        pick(random) | lasting(random) | {"kind": random.choice(("pods", "pods", "services")), "old": random.random() < 0.4}
    ),
    "strip": lambda random: (
        pick(random)
        | {"kind": random.choice(("pods", "services")), "annotations": random.random() < 0.5}
    ),
    "strip_policy": lambda random: (
        lasting(random)
        | {"verb": random.choice(("create", "patch", "create|patch")), "kind": random.choice(("pods", "services"))}
    ),
    "drift": lambda random: pick(random) | _change(random),
    "drift_policy": lambda random: lasting(random) | _change(random),
    "wrong_clock": _wrong,
    "wrong_start": _wrong,
    "clock_step": lambda random: {"by": random.choice((-40.0, -4.0, -0.5, 0.5, 4.0, 40.0))},
}  # fmt: skip
