"""What plans are made from: themes, and probabilities that many details share."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any


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
