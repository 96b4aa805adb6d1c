"""What one seed means: operations and faults, each with its time and its parameters.

A plan depends only on its seed. ``pick`` is the position, from 0 to 1, of a stack in the list of those that exist by then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import stackd

_SOURCE = "".join(path.read_text() for path in Path(stackd.__file__).parent.rglob("*.py"))
POINTS = sorted(set(re.findall(r'crash_point\("([^"]+)"\)', _SOURCE)))
"""The names of all points in the code at which it can be killed."""

ROUND_SECONDS = 1.2

Parameters = Mapping[str, Any]
"""What is drawn for each parameter: one of a tuple, a number of a Span, or a constant."""


class Span(NamedTuple):
    low: float = 0.0
    high: float = 1.0


def draw(random: Random, parameters: Parameters) -> dict[str, Any]:
    drawn = {}
    for name, choices in parameters.items():
        if isinstance(choices, Span):
            drawn[name] = round(random.uniform(*choices), 4)
        else:
            drawn[name] = random.choice(choices) if isinstance(choices, tuple) else choices
    return drawn


# ---- what can be done


class Operation(NamedTuple):
    """``weight`` is its share, unless a theme says another one."""

    weight: int
    method: str
    parameters: Parameters


IMAGES = ("app/stays",) * 8 + ("app/exit0", "app/fail", "app/nopull", "app/crashloop")
LEAVES = {"image": IMAGES, "patience": (0.003, 0.01, 0.03, 0.1)}
PICK = {"pick": Span()}
BATCH = {
    "pick": Span(), "several": (0, 1, 2, 3, 4, 5), "unknown": (0, 1, 2, 60), "patience": (None, None, 0.01),
    "action": ("delete", "delete", "delete", "restart", "extend"),
}  # fmt: skip

OPERATIONS = {
    "create": Operation(20, "create", {"image": IMAGES, "ttl": (None,) * 7 + ("1s",)}),
    "create with key": Operation(14, "create", LEAVES | {"keyed": True}),
    "create and leave": Operation(6, "create", LEAVES),
    "create of template": Operation(
        0, "create", {"template": "pooled", "patience": (None, None, None, 0.002, 0.01), "keyed": (True, False)}
    ),
    "delete": Operation(16, "delete", PICK),
    "delete and leave": Operation(4, "delete", PICK | {"patience": (0.002, 0.01, 0.05)}),
    "batch": Operation(5, "batch", BATCH),
    "batch with key": Operation(4, "batch", BATCH | {"keyed": True}),
    "batch of template": Operation(
        0, "create_many", {"several": (1, 2, 5, 20), "patience": (None, None, 0.01), "keyed": (True, False)}
    ),
    "stop": Operation(4, "change", PICK | {"verb": "stop"}),
    "start": Operation(4, "change", PICK | {"verb": "start"}),
    "restart": Operation(4, "change", PICK | {"verb": "restart"}),
    "extend": Operation(3, "extend", PICK | {"ttl": ("1s", "10m", "3h"), "keyed": (True, False)}),
    "delete pod by hand": Operation(2, "lose_pod", PICK),
    "delete service by hand": Operation(3, "lose_service", PICK),
    "confirm": Operation(1, "confirm", {}),
}

# ---- what can go wrong


VERBS = ("create", "delete", "patch", "create|delete|patch", "get", ".*")
CALL = {"verb": VERBS, "resource": ("pods", "services", "pods|services"), "count": (1, 1, 2, 3, 6)}
ANY_CALL = {
    "verb": ("create", "delete", "delete", "patch", "create|delete", "get", "list", "watch", ".*"),
    "resource": ("pods", "services", "pods|services", "namespaces", ".*"),
    "count": (1, 2, 3, 6),
}
"""For something that answers in the API server's place."""

FAULTS_OF_REQUESTS: dict[str, Parameters] = {
    "status": CALL | {"action": "status", "code": (500, 500, 503, 504, 429)},
    "conflict": CALL | {"action": "status", "verb": "create|delete|patch", "count": (1, 2), "code": 409},
    # not repeated at once: rights are lost for a moment
    "forbid": CALL | {"action": "status", "verb": ("delete", "patch"), "count": (1, 2, 4), "code": 403},
    "overload": CALL | {"action": "status", "code": 429, "seconds": 1.0},
    "retry_after": ANY_CALL | {"action": "status", "code": (503, 429), "seconds": 90.0},
    "lost_reply": CALL | {"action": "lost_reply"},
    "cut": CALL | {"action": "cut"},
    "hang": CALL | {"action": "hang", "count": 1},
    "latency": CALL | {"action": "latency", "seconds": Span(0.05, 0.9)},
    "page": ANY_CALL | {"action": "page", "code": (200, 200, 404, 404, 403, 502), "done": (True, False, False)},
    "gone_page": ANY_CALL | {"action": "page", "verb": ("delete", "delete|get", "delete|get|list"), "code": (404, 404, 200)},
    "spoil": ANY_CALL | {"action": ("truncate", "empty", "strip")},
    "trickle": ANY_CALL | {"action": "trickle", "seconds": (0.2, 1.0, 4.0)},
}  # fmt: skip

LASTING = {"seconds": Span(0.05, 0.9)}

FAULTS: dict[str, Parameters] = FAULTS_OF_REQUESTS | {
    "kill": {"pause": (0.0, 0.0, 0.3)},
    "terminate": {},
    "refuse": LASTING,
    "pause": LASTING,
    "drop_watches": {},
    "compact": {},
    "malformed": {},
    "freeze_watches": LASTING,
    "take_ports": LASTING | {"share": (0.2, 0.6, 1.0)},
    "remove_node": LASTING | {"node": (0, 1)},
    "cordon": LASTING | {"node": (0, 1)},
    "silence": {},
    "mute": {"resource": ("pods", "services", "pods|services|nodes", ".*"), "seconds": Span(0.3, 5.0)},
    "old_list": LASTING | {"resource": ("pods", "services", ".*")},
    "old_deletion": PICK | LASTING | {"kind": ("pods", "pods", "services"), "old": (True, False)},
}

# ---- which of it, how often


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """The faults that may come, with their weights, and how many there are.

    ``crashes``: the chance that a start of the daemon ends at a crash point. ``fails``: its faults may fail what a job
    has to do.
    """

    name: str
    faults: dict[str, int]
    count: tuple[int, int] = (2, 5)
    operations: dict[str, int] = field(default_factory=dict)
    rounds: tuple[int, ...] = (1, 1, 2)
    crashes: float = 0.3
    pool: int = 0
    ports: tuple[int, ...] = (12, 40, 400)
    fails: bool = True


THEMES = (
    Theme(
        name="crashes", crashes=0.9, operations={"create": 40, "stop": 8, "start": 8, "restart": 6, "extend": 6, "batch": 15},
        faults={"kill": 6, "terminate": 1, "status": 2, "forbid": 3, "latency": 2, "lost_reply": 2, "conflict": 1},
    ),
    Theme(
        name="answers", count=(6, 12), operations={"create": 40, "delete": 40, "batch": 10, "stop": 8},
        faults={
            "lost_reply": 8, "cut": 3, "page": 6, "gone_page": 8, "spoil": 6, "trickle": 2, "drop_watches": 2, "compact": 3,
            "kill": 2, "latency": 1, "retry_after": 1,
        },
    ),
    Theme(
        name="outages", count=(3, 7),
        faults={
            "refuse": 3, "pause": 3, "status": 3, "hang": 1, "overload": 2, "drop_watches": 3, "compact": 3, "malformed": 2,
            "freeze_watches": 2, "silence": 2, "mute": 2, "trickle": 2, "retry_after": 2, "kill": 2,
        },
    ),
    Theme(
        name="ports and nodes", count=(3, 6), operations={"create": 40},
        faults={"take_ports": 6, "remove_node": 4, "cordon": 3, "lost_reply": 3, "drop_watches": 1, "kill": 2},
    ),
    Theme(
        name="pools", count=(2, 6), crashes=0.6, pool=3, ports=(400,),
        operations={"create of template": 60, "batch of template": 15},
        faults={
            "kill": 5, "terminate": 1, "lost_reply": 4, "status": 2, "cut": 1, "drop_watches": 1, "remove_node": 2,
            "take_ports": 1,
        },
    ),
    Theme(
        name="graceful stops", count=(3, 6), rounds=(2, 3), pool=2, crashes=0.0, ports=(400,), fails=False,
        operations={"create": 40, "batch": 24, "batch with key": 12, "batch of template": 12},
        faults={"terminate": 10, "latency": 4, "lost_reply": 2, "kill": 1},
    ),
    Theme(
        name="old answers", count=(6, 11), rounds=(2,), operations={"create": 40, "delete": 8},
        faults={"old_list": 6, "old_deletion": 8, "drop_watches": 2, "compact": 2, "lost_reply": 1, "kill": 1},
    ),
    Theme(
        name="everything", count=(6, 12), crashes=0.6,
        faults=dict.fromkeys(FAULTS, 1) | {"kill": 4, "lost_reply": 3, "status": 3},
    ),
)  # fmt: skip


# ---- the plan


class Step(NamedTuple):
    """Something that is done ``at`` this many seconds after the beginning of its round."""

    at: float
    what: str
    how: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.at:6.3f} {self.what} {' '.join(f'{key}={value}' for key, value in self.how.items())}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``starts``: the crash point at which each start of the daemon ends; after them, starts have none."""

    seed: int
    theme: Theme
    settings: dict[str, str]
    starts: tuple[str, ...]
    rounds: tuple[tuple[Step, ...], ...]

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {self.theme.name}; crash points of the starts: {', '.join(self.starts) or 'none'}"]
        for number, steps in enumerate(self.rounds):
            lines += [f"round {number}:", *(f"  {step}" for step in steps)]
        return "\n".join(lines)


def make_plan(seed: int) -> Plan:
    random, theme = Random(seed), THEMES[seed % len(THEMES)]
    rounds = tuple(_round(random, theme) for _ in range(random.choice(theme.rounds)))
    points = [
        f"{random.choice(POINTS)}:{random.choice((1, 1, 1, 2))}" if random.random() < theme.crashes else ""
        for _ in range(random.choice((1, 2, 3)))
    ]
    settings = {
        "STACKD_BATCH_DELETE__CONCURRENCY": str(random.choice((1, 1, 4))),
        "STACKD_STACKS__NODE_PORT_MIN": "31001",
        "STACKD_STACKS__NODE_PORT_MAX": str(31000 + random.choice(theme.ports)),
    }
    return Plan(seed=seed, theme=theme, settings=settings, starts=tuple(points), rounds=rounds)


def _round(random: Random, theme: Theme) -> tuple[Step, ...]:
    operations = {name: operation.weight for name, operation in OPERATIONS.items()} | theme.operations
    steps = [_step(random, _one(random, operations)) for _ in range(random.randint(15, 40))]
    steps += [_step(random, _one(random, theme.faults)) for _ in range(random.randint(*theme.count))]
    return tuple(sorted(steps, key=lambda step: step.at))


def _one(random: Random, weights: Mapping[str, int]) -> str:
    return random.choices(list(weights), list(weights.values()))[0]


def _step(random: Random, what: str) -> Step:
    parameters = OPERATIONS[what].parameters if what in OPERATIONS else FAULTS[what]
    return Step(at=round(random.uniform(0, ROUND_SECONDS), 3), what=what, how=draw(random, parameters))
