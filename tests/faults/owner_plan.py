"""The themes in which the owner of the stacks, or its file, changes, and what happens then."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.faults.theme import Theme

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
