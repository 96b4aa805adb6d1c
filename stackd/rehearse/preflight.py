"""Asks the daemon, before anything is created, whether this rehearsal may begin and whether it fits.

Owns: the objections, and which limit is reached first. Objections to the plan itself (a refused pod spec, a missing
template) need another plan; the others can be overruled.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stackd.printable import some_of
from stackd.rehearse.connection import Answer, Connection, NoAnswer
from stackd.rehearse.plan import LABEL, Plan

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

    ``fits`` is how many stacks of the plan's mix fit, None if that is unknown; ``limited_by`` is what runs out first.
    """

    wrong: Sequence[str] = ()
    anyway: Sequence[str] = ()
    with_others: Sequence[str] = ()
    fits: int | None = None
    limited_by: str = ""
    key_refused: bool = False


@dataclass(slots=True, kw_only=True)
class _Bound:
    """The share of one limit that the whole plan takes: above 1 it does not fit."""

    taken: float = 0.0
    notes: list[str] = field(default_factory=list)


async def inspect(connection: Connection, plan: Plan, ident: str) -> Preflight:
    """Collect everything that can be known before the start. Raises NoAnswer."""
    ready = await connection.ask("GET", "/readyz")
    if ready.status in (401, 403):
        return Preflight(wrong=[ready.reason], key_refused=True)
    wrong = await _refusals(connection, plan, ident)
    anyway = [] if ready.good else [f"the daemon is not ready: {ready.reason}"]
    others = await _others(connection)
    if wrong:
        return Preflight(wrong=wrong, anyway=anyway, with_others=others)
    answers = [await connection.ask("POST", "/capacity", dict(kind.body)) for kind, count in plan.counts() if count]
    if trouble := next((answer for answer in answers if not answer.good), None):
        return Preflight(anyway=[*anyway, f"the capacity is unknown: {trouble.reason}"], with_others=others)
    counts = [count for _, count in plan.counts() if count]
    fits, limited_by, sentence = fit(list(zip(counts, (answer.body for answer in answers), strict=True)))
    if fits < plan.stacks:
        anyway.append(f"{plan.stacks} stacks do not fit: {sentence}")
    return Preflight(anyway=anyway, with_others=others, fits=fits, limited_by=limited_by)


def fit(asked: Sequence[tuple[int, Mapping[str, Any]]]) -> tuple[int, str, str]:
    """How many stacks of a mix fit, which limit is reached first, and a sentence about it.

    ``asked`` has the number of stacks of each kind, and the API's capacity for that kind.
    """
    total = sum(count for count, _ in asked)
    bounds: dict[str, _Bound] = {}
    for count, capacity in asked:
        for name, fits, note in _limits(capacity):
            bound = bounds.setdefault(name, _Bound())
            bound.taken += count / fits if fits else math.inf
            if note and note not in bound.notes:
                bound.notes.append(note)
    tightest = max(bounds, key=lambda name: bounds[name].taken)
    bound = bounds[tightest]
    fits = math.floor(total / bound.taken + 1e-9) if bound.taken else total
    notes = f" ({'; '.join(bound.notes)})" if bound.notes else ""
    return fits, tightest, f"{fits} do, limited by {WORDS.get(tightest, tightest)}{notes}"


def _limits(capacity: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """How many stacks of one kind fit under each limit, and a note on it."""
    nodes: Mapping[str, int] = capacity["nodes"]
    limited_by = str(capacity["limited_by"])
    resource = limited_by if limited_by not in (PORTS, QUOTA, MAX_STACKS) else NODES
    limits = [(NODES, sum(nodes.values()), _of_nodes(nodes, resource)), (PORTS, int(capacity["ports"]), "")]
    if capacity["quota"] is not None:
        limits.append((QUOTA, int(capacity["quota"]), str(capacity["quota_limited_by"])))
    if capacity["stacks"] is not None:
        limits.append((MAX_STACKS, int(capacity["stacks"]), ""))
    return limits


def _of_nodes(nodes: Mapping[str, int], resource: str) -> str:
    if not nodes:
        return "none is ready"
    scarce = sorted(nodes.items(), key=lambda one: one[1])
    shown = some_of([f"{name} {count}" for name, count in scarce], SHOWN_NODES)
    return f"{'' if resource == NODES else f'{WORDS.get(resource, resource)}: '}{shown}"


async def _refusals(connection: Connection, plan: Plan, ident: str) -> list[str]:
    """The API's refusals of a dry run for each kind of stack."""
    found = []
    for kind, count in plan.counts():
        if not count:
            continue
        answer = await connection.ask("POST", "/stacks", create_body(plan, kind.body, 0, ident), [("dry_run", "true")])
        if not answer.good:
            found.append(f"{kind.name}: {_sentence(answer)}")
    return found


def create_body(plan: Plan, body: Mapping[str, Any], player: int, ident: str) -> dict[str, Any]:
    """The request body of one player's create."""
    labels = {**body.get("labels", {}), **plan.labels_of(player), LABEL: ident}
    return {**body, "ttl": f"{plan.ttl:g}s", "labels": labels}


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


def _sentence(answer: Answer) -> str:
    sentence = answer.get("error")
    return str(sentence) if sentence else f"the API answers {answer.status}"


__all__ = ["NoAnswer", "Preflight", "create_body", "delete_command", "fit", "inspect"]
