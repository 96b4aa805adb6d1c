"""The plan: how many players press start, when, for which stacks, and what they do until the end; and whether it fits.

Asks the daemon, before anything is created, whether the rehearsal may begin, and which limit is reached first. Objections
to the plan itself (a refused pod spec, a missing template) need another plan; the others can be overruled.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from stackd.printable import some_of
from stackd.rehearse.connection import Connection
from stackd.units import parse_frequency

# The label of every stack that a rehearsal creates; its value is the rehearsal's id.
LABEL = "stackd.rehearsal"
# The placeholder for the player's number in the value of a label.
PLAYER = "{player}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackKind:
    """One kind of stack: its name for people, the body of its create, and its weight among the kinds."""

    name: str
    body: Mapping[str, Any]
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A player who presses start ``due`` seconds after the beginning.

    ``again``: when the player deletes the stack and starts another, as a share of the hold; None for no second start.
    """

    player: int
    kind: StackKind
    due: float
    again: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A rehearsal; times are in seconds.

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
    labels: Mapping[str, str] = field(default_factory=dict)
    connections: int = 1000
    seed: int = 1

    def arrivals(self) -> list[Arrival]:
        """Each player's press, in order of time. The same plan always returns the same arrivals."""
        chance = random.Random(self.seed)
        kinds = [kind for kind, count in self.counts() for _ in range(count)]
        chance.shuffle(kinds)
        leavers = chance.sample(range(self.stacks), round(self.stacks * self.churn))
        again = {player: (place + 0.5) / len(leavers) for place, player in enumerate(leavers)}
        return [
            Arrival(player=player, kind=kind, due=player / self.rate if self.rate else 0.0, again=again.get(player))
            for player, kind in enumerate(kinds)
        ]

    @property
    def most_in_a_second(self) -> int:
        return self.stacks if self.rate is None else min(self.stacks, math.ceil(self.rate))

    def counts(self) -> list[tuple[StackKind, int]]:
        """The number of stacks of each kind, by weight: the integer parts first, then the largest remainders."""
        total = sum(kind.weight for kind in self.kinds)
        shares = [self.stacks * kind.weight / total for kind in self.kinds]
        counts = [int(share) for share in shares]
        by_remainder = sorted(range(len(shares)), key=lambda place: counts[place] - shares[place])
        for place in by_remainder[: self.stacks - sum(counts)]:
            counts[place] += 1
        return list(zip(self.kinds, counts, strict=True))

    def body(self, kind: StackKind, player: int, ident: str) -> dict[str, Any]:
        labels = {name: value.replace(PLAYER, str(player)) for name, value in self.labels.items()}
        return {**kind.body, "ttl": f"{self.ttl:g}s", "labels": {**kind.body.get("labels", {}), **labels, LABEL: ident}}


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
    """A name and its weight from ``web-1=3``; 1 without one. Raises ValueError with what is wrong."""
    name, equals, weight = text.rpartition("=")
    try:
        value = float(weight) if equals else 1.0
    except ValueError:
        name, value = "", 1.0
    if not 0 < value < float("inf"):
        raise ValueError(f'"{text}": a weight must be above zero')
    return name or text, value


PORTS, QUOTA, MAX_STACKS, NODES = "ports", "quota", "max_stacks", "nodes"
SHOWN_NODES = 6
WORDS = {
    PORTS: "free node ports",
    QUOTA: "the namespace's ResourceQuota",
    MAX_STACKS: "limits.max_stacks",
    NODES: "the nodes",
    "cpu": "CPU",
    "ephemeral_storage": "disk",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """The objections. ``wrong`` cannot be overruled; ``anyway`` and ``with_others`` can, by the options of these names.

    ``fits`` is how many stacks of the plan's mix fit, and ``spares`` how many spare Services there are; None if that is
    unknown. ``refused`` is the status if the key is, 0 if the daemon does not answer.
    """

    wrong: Sequence[str] = ()
    anyway: Sequence[str] = ()
    with_others: Sequence[str] = ()
    fits: int | None = None
    spares: int | None = None
    refused: int | None = None


async def inspect(connection: Connection, plan: Plan, ident: str) -> Preflight:
    ready = await connection.ask("GET", "/readyz")
    if ready.status in (0, 401, 403):
        return Preflight(wrong=[ready.reason], refused=ready.status)
    wrong = []
    kinds = [(kind, count) for kind, count in plan.counts() if count]
    for kind, _ in kinds:
        answer = await connection.ask("POST", "/stacks", plan.body(kind, 0, ident), [("dry_run", "true")])
        if not answer.good:
            wrong.append(f"{kind.name}: {answer.sentence or f'the API answers {answer.status}'}")
    anyway = [] if ready.good else [f"the daemon is not ready: {ready.reason}"]
    others, fits, spares = await _others(connection), None, None
    if not wrong:
        answers = [await connection.ask("POST", "/capacity", dict(kind.body)) for kind, _ in kinds]
        if failed := next((answer for answer in answers if not answer.good), None):
            anyway.append(f"the capacity is unknown: {failed.reason}")
        else:
            fits, sentence = _fit([(count, answer.body) for (_, count), answer in zip(kinds, answers, strict=True)])
            anyway += [f"{plan.stacks} stacks do not fit: {sentence}"] if fits < plan.stacks else []
            spares = answers[0].body.get("spare_services")
    return Preflight(wrong=tuple(wrong), anyway=anyway, with_others=others, fits=fits, spares=spares)


def _fit(asked: Sequence[tuple[int, Mapping[str, Any]]]) -> tuple[int, str]:
    """How many stacks of a mix fit, and a sentence about the limit that is reached first.

    ``asked`` has the number of stacks of each kind, and the API's capacity for that kind.
    """
    taken: dict[str, float] = {}  # the share of each limit that the plan takes: above 1 it does not fit
    notes: dict[str, dict[str, None]] = {}
    for count, capacity in asked:
        for name, fits, note in _limits(capacity):
            taken[name] = taken.get(name, 0.0) + (count / fits if fits else math.inf)
            notes.setdefault(name, {}).update({note: None} if note else {})
    tightest, share = max(taken.items(), key=itemgetter(1))
    total = sum(count for count, _ in asked)
    fitting = math.floor(total / share + 1e-9) if share else total
    note = f" ({'; '.join(notes[tightest])})" if notes[tightest] else ""
    return fitting, f"{fitting} do, limited by {WORDS[tightest]}{note}"


def _limits(capacity: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    """How many stacks of one kind fit under each limit, and a note on it."""
    nodes: Mapping[str, int] = capacity["nodes"]
    scarce = capacity["limited_by"]
    shown = some_of([f"{name} {count}" for name, count in sorted(nodes.items(), key=lambda one: one[1])], SHOWN_NODES)
    word = "" if scarce in (PORTS, QUOTA, MAX_STACKS, NODES) else f"{WORDS.get(scarce, scarce)}: "
    yield NODES, sum(nodes.values()), f"{word}{shown}" if nodes else "none is ready"
    yield PORTS, capacity["ports"], ""
    if capacity["quota"] is not None:
        yield QUOTA, capacity["quota"], capacity["quota_limited_by"]
    if capacity["stacks"] is not None:
        yield MAX_STACKS, capacity["stacks"], ""


async def _others(connection: Connection) -> list[str]:
    """Sentences about stacks that others have here, shared ones apart, and about those of earlier rehearsals, by their ids."""
    answer = await connection.ask("GET", "/stacks", query=[("fields", "stack_id,labels,shared")])
    if not answer.good:
        return [f"the stacks cannot be listed: {answer.reason}"]
    owners = Counter(stack["labels"].get(LABEL) for stack in answer.body["stacks"] if not stack.get("shared"))
    others = owners.pop(None, 0)
    return [
        *([f"others have stacks here ({others}), which a rehearsal would disturb"] if others else []),
        *(
            f"rehearsal {name} still has stacks here ({count}); if it is over, delete them: {delete_command(str(name))}"
            for name, count in owners.items()
        ),
    ]


def delete_command(ident: str) -> str:
    return f"stackd stacks delete --label {LABEL}={ident}"
