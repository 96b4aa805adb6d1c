"""What a plan is made from: a theme, and the chances that many details share."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any


@dataclass(slots=True, kw_only=True)
class Theme:
    """Which troubles come, how likely each is, and how many."""

    name: str
    troubles: dict[str, int]
    count: tuple[int, int] = (2, 5)
    crashes: float = 0.3
    operations: dict[str, int] = field(default_factory=dict)
    machines: int = 1
    turns: dict[str, int] = field(default_factory=dict)
    rounds: tuple[int, ...] = (1, 1, 2)
    """Of these chances is one for so many rounds."""


def pick(random: Random) -> dict[str, Any]:
    """One of those that are known by then."""
    return {"pick": round(random.random(), 4)}


def lasting(random: Random) -> dict[str, Any]:
    """So long."""
    return {"seconds": round(random.uniform(0.05, 0.9), 3)}
