"""Asks the daemon, before anything is created, whether this rehearsal may begin and whether it fits.

Owns: the objections, and which limit is reached first. Objections to the plan itself (a refused pod spec, a missing
template) need another plan; the others can be overruled.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stackd.printable import some_of
from stackd.rehearse.connection import Connection
from stackd.rehearse.plan import LABEL, Plan, create_body

PORTS, QUOTA, MAX_STACKS, NODES = "ports", "quota", "max_stacks", "nodes"
SHOWN_NODES = 6
WORDS = {
    PORTS: "free node ports",
    QUOTA: "the namespace's ResourceQuota",
    MAX_STACKS: "limits.max_stacks",
    NODES: "the nodes",
    "cpu": "CPU",
    "memory": "memory",
    "ephemeral_storage": "disk",
    "pods": "pods",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """The objections. ``wrong`` cannot be overruled; ``anyway`` and ``with_others`` can, by the options of these names.

    ``fits`` is how many stacks of the plan's mix fit, None if that is unknown.
    """

    wrong: Sequence[str] = ()
    anyway: Sequence[str] = ()
    with_others: Sequence[str] = ()
    fits: int | None = None
    key_refused: bool = False


async def inspect(connection: Connection, plan: Plan, ident: str) -> Preflight:
    """Collect everything that can be known before the start. Raises NoAnswer."""
    ready = await connection.ask("GET", "/readyz")
    if ready.status in (401, 403):
        return Preflight(wrong=[ready.reason], key_refused=True)
    wrong = []
    kinds = [(kind, count) for kind, count in plan.counts() if count]
    for kind, _ in kinds:
        body = create_body(plan, kind.body, 0, ident)
        answer = await connection.ask("POST", "/stacks", body, [("dry_run", "true")])
        if not answer.good:
            wrong.append(f"{kind.name}: {answer.sentence or f'the API answers {answer.status}'}")
    anyway = [] if ready.good else [f"the daemon is not ready: {ready.reason}"]
    others, fits = await _others(connection), None
    if not wrong:
        answers = [await connection.ask("POST", "/capacity", dict(kind.body)) for kind, _ in kinds]
        if failed := next((answer for answer in answers if not answer.good), None):
            anyway.append(f"the capacity is unknown: {failed.reason}")
        else:
            counts = [count for _, count in kinds]
            fits, sentence = fit(list(zip(counts, (answer.body for answer in answers), strict=True)))
            anyway += [f"{plan.stacks} stacks do not fit: {sentence}"] if fits < plan.stacks else []
    return Preflight(wrong=tuple(wrong), anyway=anyway, with_others=others, fits=fits)


def fit(asked: Sequence[tuple[int, Mapping[str, Any]]]) -> tuple[int, str]:
    """How many stacks of a mix fit, and a sentence about the limit that is reached first.

    ``asked`` has the number of stacks of each kind, and the API's capacity for that kind.
    """
    taken: dict[str, float] = {}  # the share of each limit that the plan takes: above 1 it does not fit
    notes: dict[str, dict[str, None]] = {}
    for count, capacity in asked:
        for name, fits, note in _limits(capacity):
            taken[name] = taken.get(name, 0.0) + (count / fits if fits else math.inf)
            notes.setdefault(name, {}).update({note: None} if note else {})
    tightest = max(taken, key=lambda name: taken[name])
    total = sum(count for count, _ in asked)
    fitting = math.floor(total / taken[tightest] + 1e-9) if taken[tightest] else total
    note = f" ({'; '.join(notes[tightest])})" if notes[tightest] else ""
    return fitting, f"{fitting} do, limited by {WORDS.get(tightest, tightest)}{note}"


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
    """Sentences about stacks that others have here, and about those of earlier rehearsals, by their ids."""
    answer = await connection.ask("GET", "/stacks", query=[("fields", "stack_id,labels")])
    if not answer.good:
        return [f"the stacks cannot be listed: {answer.reason}"]
    owners = Counter(stack["labels"].get(LABEL) for stack in answer.body["stacks"])
    others = owners.pop(None, 0)
    found = [f"others have stacks here ({others}), which a rehearsal would disturb"] if others else []
    return found + [
        f"rehearsal {name} still has stacks here ({count}); if it is over, delete them: {delete_command(str(name))}"
        for name, count in owners.items()
    ]


def delete_command(ident: str) -> str:
    """The command that deletes what a rehearsal has left."""
    return f"stackd stacks batch-delete --label {LABEL}={ident}"
