"""The plan: how many players press start, when, for which stacks, and what they do until the end. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stackd.model import NO_LABELS
from stackd.units import parse_frequency

LABEL = "stackd.rehearsal"
"""The label of every stack that a rehearsal creates; its value is the rehearsal's id."""

PLAYER = "{player}"
"""The placeholder for the player's number in the value of a label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackKind:
    """One kind of stack: its name for people, the body of its create, and its weight among the kinds."""

    name: str
    body: Mapping[str, Any]
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A player who presses start ``due`` seconds after the beginning.

    ``again`` is when the player deletes the stack and starts another, as a share of the hold; None for no second start.
    """

    player: int
    kind: StackKind
    due: float
    again: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole rehearsal; times are in seconds.

    ``rate``      presses a second; None means all at once
    ``hold``      how long the stacks are kept once each one runs or has failed
    ``churn``     the share of players who, during the hold, delete their stack and start another
    ``poll``      the pause between a player's status reads while the stack is creating; five times that later
    ``ttl``       the time to live of each stack, extended while the rehearsal runs
    ``patience``  how long to wait for an answer, for a stack to run, for an address to answer, for an absent daemon
    """

    kinds: Sequence[StackKind]
    stacks: int
    rate: float | None = None
    hold: float = 0.0
    churn: float = 0.0
    poll: float = 2.0
    probe: str = "none"
    ttl: float = 600.0
    patience: float = 120.0
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    connections: int = 1000
    seed: int = 1

    def arrivals(self) -> list[Arrival]:
        """Each player's press, in order of time. The same plan always returns the same arrivals."""
        chance = random.Random(self.seed)
        kinds = [kind for kind, count in self.counts() for _ in range(count)]
        chance.shuffle(kinds)
        renewing = round(self.stacks * self.churn)
        leavers = chance.sample(range(self.stacks), renewing)
        moments = {player: (place + 0.5) / renewing for place, player in enumerate(leavers)}
        return [
            Arrival(
                player=player,
                kind=kind,
                due=player / self.rate if self.rate else 0.0,
                again=moments.get(player),
            )
            for player, kind in enumerate(kinds)
        ]

    def counts(self) -> list[tuple[StackKind, int]]:
        """The number of stacks of each kind, by weight: the whole parts first, then the largest remainders."""
        total = sum(kind.weight for kind in self.kinds)
        exact = [self.stacks * kind.weight / total for kind in self.kinds]
        counts = [int(share) for share in exact]
        by_remainder = sorted(range(len(exact)), key=lambda place: counts[place] - exact[place])
        for place in by_remainder[: self.stacks - sum(counts)]:
            counts[place] += 1
        return list(zip(self.kinds, counts, strict=True))


def create_body(plan: Plan, body: Mapping[str, Any], player: int, ident: str) -> dict[str, Any]:
    """The request body of one player's create."""
    labels = {name: value.replace(PLAYER, str(player)) for name, value in plan.labels.items()}
    return {**body, "ttl": f"{plan.ttl:g}s", "labels": {**body.get("labels", {}), **labels, LABEL: ident}}


def parse_rate(text: str) -> float:
    """Presses a second from ``20/s`` or ``300/min``. Raises ValueError with what is wrong."""
    frequency = parse_frequency(text)
    return frequency.count / frequency.seconds


def parse_share(text: str) -> float:
    """A share from ``10%`` or ``0.1``. Raises ValueError with what is wrong."""
    number = text.strip()
    try:
        share = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        raise ValueError(f'"{text}" is not a share such as 10%') from None
    if not 0 <= share <= 1:
        raise ValueError(f'"{text}" must be from 0% to 100%')
    return share


def parse_weighted(text: str) -> tuple[str, float]:
    """A name and its weight from ``web-1=3``; 1 if no weight is given. Raises ValueError with what is wrong."""
    name, equals, weight = text.rpartition("=")
    try:
        value = float(weight) if equals else 1.0
    except ValueError:
        name, value = "", 1.0
    if not 0 < value < float("inf"):
        raise ValueError(f'"{text}": a weight must be above zero')
    return name or text, value
