"""What one seed means: operations and faults, each with its time and its parameters.

Owns: the probabilities. A plan depends only on its seed. Which stack a delete means is decided when it is done:
``pick`` is a position, from 0 to 1, in the list of the stacks that are known by then.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from stackd.lifecycle.crashpoints import POINTS
from tests.faults.owner_plan import LEASE_SECONDS, OWNER_DETAILS, OWNER_THEMES
from tests.faults.theme import Theme, lasting, pick
from tests.faults.wire_plan import RESET_THEMES, WIRE_DETAILS, WIRE_THEMES

ROUND_SECONDS = 1.2
IMAGES = ("app/stays",) * 8 + ("app/exit0", "app/fail", "app/nopull", "app/crashloop")


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
