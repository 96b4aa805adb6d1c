"""What one seed means: operations and faults, each with its time and its parameters.

Owns: the probabilities. A plan depends only on its seed. Which stack a delete means is decided when it is done:
``pick`` is a position, from 0 to 1, in the list of the stacks that are known by then.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import stackd

_SOURCE = "".join(path.read_text() for path in Path(stackd.__file__).parent.rglob("*.py"))
POINTS = sorted(set(re.findall(r'crash_point\("([^"]+)"\)', _SOURCE)))
"""The names of all points in the code at which it can be killed."""

ROUND_SECONDS = 1.2
IMAGES = ("app/stays",) * 8 + ("app/exit0", "app/fail", "app/nopull", "app/crashloop")


@dataclass(slots=True, kw_only=True)
class Theme:
    """The troubles that may come, how likely each is, and how many there are."""

    name: str
    troubles: dict[str, int]
    count: tuple[int, int] = (2, 5)
    crashes: float = 0.3
    operations: dict[str, int] = field(default_factory=dict)
    machines: int = 1
    turns: dict[str, int] = field(default_factory=dict)
    rounds: tuple[int, ...] = (1, 1, 2)
    """The number of rounds is drawn from these."""


def pick(random: Random) -> dict[str, Any]:
    """The position of a stack in the list of those that are known by then."""
    return {"pick": round(random.random(), 4)}


def lasting(random: Random) -> dict[str, Any]:
    """A random duration."""
    return {"seconds": round(random.uniform(0.05, 0.9), 3)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that is done ``at`` this many seconds after the beginning of its round."""

    at: float
    what: str
    how: dict[str, Any]

    def __str__(self) -> str:
        how = " ".join(f"{key}={value}" for key, value in self.how.items())
        return f"{self.at:6.3f} {self.what} {how}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``starts``: the crash point at which each start of the daemon ends; after them, starts have none.

    ``late``: calls may take effect after they were given up, so that objects appear whose row is already deleted.
    ``machines``: how many run a daemon. ``turns``: what happens to the owner after each round, when all is quiet.
    """

    seed: int
    theme: str
    settings: dict[str, str]
    starts: tuple[str, ...]
    rounds: tuple[tuple[Step, ...], ...]
    small_disk: bool = False
    tls: bool = False
    late: bool = False
    pool: int = 0
    machines: int = 1
    turns: tuple[Step, ...] = ()

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {self.theme}; crash points of the starts: {', '.join(self.starts) or 'none'}"]
        for number, steps in enumerate(self.rounds):
            lines += [f"round {number}:", *(f"  {step}" for step in steps)]
            lines += [f"and then {turn}" for turn in self.turns[number : number + 1]]
        return "\n".join(lines)


OPERATIONS = {
    "create": 20,
    "create_with_key": 14,
    "create_and_leave": 6,
    "create_of_template": 0,
    "create_elsewhere": 0,
    "delete": 16,
    "delete_and_leave": 4,
    "batch": 5,
    "batch_with_key": 4,
    "stop": 4,
    "start": 4,
    "restart": 4,
    "extend": 3,
    "read": 20,
    "delete_pod_by_hand": 2,
    "delete_service_by_hand": 3,
    "usurp": 1,
    "confirm": 1,
}

THEMES = (
    Theme(name="crashes", troubles={"kill": 6, "terminate": 1, "status": 2, "forbid": 2, "latency": 2}, crashes=0.9),
    Theme(
        name="lost replies",
        troubles={"lost_reply": 8, "cut": 3, "page": 6, "spoil": 6, "drop_watches": 2, "compact": 2, "kill": 2, "latency": 1},
        count=(5, 10),
    ),
    Theme(name="outages", troubles={"refuse": 4, "pause": 3, "status": 4, "hang": 1, "overload": 2, "kill": 1}),
    Theme(name="watches", troubles={"drop_watches": 4, "compact": 4, "malformed": 3, "freeze_watches": 2, "kill": 1}),
    Theme(name="ports", troubles={"take_ports": 6, "lost_reply": 3, "kill": 2}, operations={"create": 40}),
    Theme(name="nodes", troubles={"remove_node": 4, "cordon": 3, "drop_watches": 1, "kill": 1}),
    Theme(name="disk", troubles={"full_disk": 4, "write_error": 3, "lock": 3, "kill": 2}, count=(1, 3)),
    Theme(name="clock", troubles={"clock": 5, "kill": 2, "status": 2}, count=(1, 4)),
    Theme(
        name="batches",
        troubles={"kill": 3, "status": 3, "forbid": 3, "lost_reply": 2},
        operations={"batch": 25, "create": 40},
    ),
    Theme(
        name="changes",
        troubles={"kill": 4, "lost_reply": 3, "status": 2, "forbid": 3, "take_ports": 1},
        operations={"stop": 14, "start": 14, "restart": 14, "extend": 8, "create": 40},
        crashes=0.6,
    ),
    Theme(
        name="pools",
        troubles={
            "kill": 5, "terminate": 1, "lost_reply": 4, "status": 2, "cut": 1, "drop_watches": 1, "remove_node": 2,
            "clock": 1, "take_ports": 1, "write_error": 1,
        },
        operations={"create_of_template": 60},
        count=(2, 6),
        crashes=0.6,
    ),
    Theme(name="late", troubles={"late": 6, "kill": 2}, crashes=0.1),
    Theme(
        name="everything",
        troubles={
            "kill": 3, "terminate": 1, "status": 3, "lost_reply": 3, "cut": 2, "latency": 2, "refuse": 1, "pause": 1,
            "overload": 1, "drop_watches": 1, "compact": 1, "malformed": 1, "take_ports": 1, "remove_node": 1,
            "cordon": 1, "lock": 1, "write_error": 1, "clock": 1, "conflict": 2,
        },
        count=(4, 9),
    ),
)  # fmt: skip


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


CHANGES = {"create": 40, "stop": 8, "start": 8, "restart": 6, "extend": 6}
"""Operations whose results an earlier file does not know."""

OWNER_THEMES = (
    Theme(
        name="lost file",
        troubles={"lose_file": 5, "kill": 2, "mistake": 1, "lost_reply": 2, "status": 2, "latency": 1, "cut": 1},
        turns={"lose_file": 1, "mistake": 1},
        operations=CHANGES,
        count=(2, 4),
    ),
    Theme(
        name="two daemons",
        troubles={"hand_over": 5, "kill": 2, "lost_reply": 2, "status": 1, "latency": 1},
        turns={"hand_over": 1},
        operations=CHANGES | {"create_elsewhere": 8},
        count=(2, 4),
        machines=2,
    ),
    Theme(
        name="paused owner",
        troubles={"freeze": 5, "kill": 1, "lost_reply": 1, "latency": 1},
        turns={"freeze": 1},
        operations=CHANGES | {"create_elsewhere": 4},
        count=(1, 3),
        machines=2,
    ),
    Theme(
        name="restored backup",
        troubles={"back_up": 5, "restore": 3, "kill": 2, "mistake": 1, "lost_reply": 2, "status": 1},
        turns={"restore": 2, "mistake": 1},
        operations=CHANGES,
        count=(3, 6),
    ),
)
"""Where the owner of the stacks, or its file, changes."""

LEASE_SECONDS = 1.0
"""The duration of the daemons' Lease in these themes."""


SEEDS_APART = 1000
CATALOGUES = (THEMES, WIRE_THEMES, OWNER_THEMES, RESET_THEMES)
"""The first belongs to the seeds below 1000, and so on, so that a seed keeps its theme when a catalogue is added."""

ALL = os.environ.get("STACKD_TEST_SCHEDULES") == "all"
"""Whether the tests run all schedules of the fixed set, or only the first ones of each theme."""

OWNERS_FROM, RESETS_FROM = 2 * SEEDS_APART, 3 * SEEDS_APART


def theme_of(seed: int) -> Theme:
    """The theme of a seed; seeds above the catalogues draw from all themes."""
    number, place = divmod(seed, SEEDS_APART)
    themes = CATALOGUES[number] if number < len(CATALOGUES) else [one for themes in CATALOGUES for one in themes]
    return themes[place % len(themes)]


def make_plan(seed: int) -> Plan:
    """The plan of a seed; always the same."""
    random = Random(seed)
    theme = theme_of(seed)
    rounds = tuple(_round(random, theme) for _ in range(random.choice(theme.rounds)))
    starts = tuple(
        f"{random.choice(POINTS)}:{random.choice((1, 1, 1, 2))}" if random.random() < theme.crashes else ""
        for _ in range(random.choice((1, 2, 3)))
    )
    settings = {
        "STACKD_BATCH_DELETE__CONCURRENCY": str(random.choice((1, 1, 4))),
        "STACKD_STACKS__NODE_PORT_MIN": "31001",
        "STACKD_STACKS__NODE_PORT_MAX": str(31000 + (400 if theme.name == "pools" else random.choice((12, 40, 400)))),
    }
    turns: tuple[Step, ...] = ()
    if theme.turns:
        settings["STACKD_CLUSTER__LEASE_DURATION"] = f"{LEASE_SECONDS:.0f}s"
        settings["STACKD_RECONCILE__ORPHAN_GRACE"] = "15s"  # so long that a stack that is not adopted at once is missed
        names, chances = list(theme.turns), list(theme.turns.values())
        turns = tuple(_step(random, random.choices(names, chances)[0]) for _ in rounds)
    return Plan(
        seed=seed,
        theme=theme.name,
        settings=settings,
        starts=starts,
        rounds=rounds,
        small_disk=theme.name == "disk",
        tls=theme.name == "resets",
        late=theme.name == "late",
        pool=3 if theme.name == "pools" else 0,
        machines=theme.machines,
        turns=turns,
    )


def _round(random: Random, theme: Theme) -> tuple[Step, ...]:
    operations = OPERATIONS | theme.operations
    steps = [
        _step(random, random.choices(list(operations), list(operations.values()))[0])
        for _ in range(random.randint(15, 40))
    ]
    steps += [
        _step(random, random.choices(list(theme.troubles), list(theme.troubles.values()))[0])
        for _ in range(random.randint(*theme.count))
    ]
    return tuple(sorted(steps, key=lambda step: step.at))


def _step(random: Random, what: str) -> Step:
    at = round(random.uniform(0, ROUND_SECONDS), 3)
    make = DETAILS.get(what)
    return Step(at=at, what=what, how=make(random) if make is not None else {})


def _create(random: Random) -> dict[str, Any]:
    return {"image": random.choice(IMAGES), "ttl": random.choice((None,) * 7 + ("1s",))}


def _leaving(random: Random) -> dict[str, Any]:
    return {"image": random.choice(IMAGES), "patience": round(random.choice((0.003, 0.01, 0.03, 0.1)), 4)}


def _batch(random: Random) -> dict[str, Any]:
    return {
        "picks": [round(random.random(), 4) for _ in range(random.randint(0, 5))],
        "unknown": random.choice((0, 1, 2, 60)),
        "patience": random.choice((None, None, 0.01)),
    }


def _fault(random: Random) -> dict[str, Any]:
    return {
        "verb": random.choice(("create", "delete", "patch", "create|delete|patch", "get", ".*")),
        "resource": random.choice(("pods", "services", "pods|services")),
        "count": random.choice((1, 1, 2, 3, 6)),
    }


def _status(random: Random) -> dict[str, Any]:
    return _fault(random) | {"code": random.choice((500, 500, 503, 504, 429))}


def _forbid(random: Random) -> dict[str, Any]:
    """A request that is not repeated at once: rights are lost for a moment."""
    resource = random.choice(("pods", "services", "pods|services"))
    verb = random.choice(("delete", "patch"))
    return {"verb": verb, "resource": resource, "count": random.choice((1, 2, 4)), "code": 403}


def _conflict(random: Random) -> dict[str, Any]:
    return {"verb": "create|delete|patch", "resource": "pods|services", "count": random.choice((1, 2)), "code": 409}


def _latency(random: Random) -> dict[str, Any]:
    return _fault(random) | lasting(random)


def _odd(random: Random) -> dict[str, Any]:
    """Parameters for something that answers in the API server's place: it does so to requests of any kind."""
    return {
        "verb": random.choice(("create", "delete", "delete", "patch", "create|delete", "get", "list", "watch", ".*")),
        "resource": random.choice(("pods", "services", "pods|services", "namespaces", ".*")),
        "count": random.choice((1, 2, 3, 6)),
    }


def _page(random: Random) -> dict[str, Any]:
    return _odd(random) | {"code": random.choice((200, 200, 404, 404, 403, 502)), "done": random.random() < 0.3}


def _spoil(random: Random) -> dict[str, Any]:
    return _odd(random) | {"how": random.choice(("truncate", "empty", "strip"))}


def _hang(random: Random) -> dict[str, Any]:
    return _fault(random) | {"count": 1}


def _overload(random: Random) -> dict[str, Any]:
    return _fault(random) | {"code": 429, "seconds": 1.0}


def _node(random: Random) -> dict[str, Any]:
    return {"node": random.randint(0, 1)} | lasting(random)


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

OWNER_DETAILS: dict[str, Callable[[Random], dict[str, Any]]] = {
    "lose_file": lambda random: {"kill": random.random() < 0.7, "pause": random.choice((0.0, 0.0, 0.4))},
    "hand_over": lambda random: {"how": random.choice(("kill", "kill", "stop", "takeover", "takeover"))},
    "freeze": lambda random: {"seconds": round(random.uniform(1.6, 2.6), 3)},
    "back_up": lambda random: {"snapshot": random.random() < 0.7},
    "restore": lambda random: {"pick": round(random.random(), 4), "kill": random.random() < 0.7},
    "mistake": lambda random: {
        "key": random.choice(("STACKD_STACKS__NAMESPACE", "STACKD_CLUSTER__INSTANCE")),
        "kill": random.random() < 0.5,
    },
}

DETAILS: dict[str, Callable[[Random], dict[str, Any]]] = (
    {
        "create": _create,
        "create_with_key": _leaving,
        "create_of_template": lambda random: {
            "patience": random.choice((None, None, None, 0.002, 0.01)),
            "keyed": random.random() < 0.4,
        },
        "create_elsewhere": lambda random: {"image": random.choice(IMAGES)},
        "create_and_leave": _leaving,
        "delete": pick,
        "delete_and_leave": lambda random: pick(random) | {"patience": random.choice((0.002, 0.01, 0.05))},
        "batch": _batch,
        "batch_with_key": _batch,
        "read": lambda random: (
            pick(random) | {"route": random.choice(("one", "one", "status", "list", "stats", "job"))}
        ),
        "stop": pick,
        "start": pick,
        "restart": pick,
        "extend": lambda random: (
            pick(random) | {"ttl": random.choice(("1s", "10m", "3h")), "keyed": random.random() < 0.5}
        ),
        "delete_pod_by_hand": pick,
        "delete_service_by_hand": pick,
        "usurp": pick,
        "kill": lambda random: {"pause": random.choice((0.0, 0.0, 0.3))},
        "terminate": lambda random: {"pause": 0.0},
        "status": _status,
        "conflict": _conflict,
        "forbid": _forbid,
        "lost_reply": _fault,
        "cut": _fault,
        "hang": _hang,
        "late": lambda random: _fault(random) | {"verb": "create", "seconds": random.choice((0.3, 2.0))},
        "latency": _latency,
        "page": _page,
        "spoil": _spoil,
        "overload": _overload,
        "refuse": lasting,
        "pause": lasting,
        "freeze_watches": lasting,
        "take_ports": lambda random: lasting(random) | {"share": random.choice((0.2, 0.6, 1.0))},
        "remove_node": _node,
        "cordon": _node,
        "full_disk": lasting,
        "write_error": lasting,
        "lock": lambda random: {"seconds": random.choice((0.3, 1.0, 2.6))},
        "clock": lambda random: {"seconds": random.choice((-86400.0, -3600.0, 60.0, 1800.0, 7300.0))},
    }
    | WIRE_DETAILS
    | OWNER_DETAILS
)
