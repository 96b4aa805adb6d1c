"""What a create gets: a new stack with its node ports, or one from a pool; and the operations on node ports.

Owns: a stack is reserved with all of its node ports, or not at all. A stack of a pool is assigned once, alive and from the
right template (invariant 11), by one UPDATE that matches the row or not. Owns, too, the limits of stacks in all and of
living stacks with the same label, and which ports may be handed out: the table ``node_ports`` says which of them stacks
hold; what is set aside because somebody else in the cluster uses it, and what is outside the cluster's own range, are
facts in memory. The caller must know whether a pod can be relied on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from msgspec import json

from stackd.errors import LabelCostReached, LabelLimitReached, MaxStacksReached, NoNodePort
from stackd.model import (
    NO_LABELS,
    NO_LIMITS,
    EventKind,
    LabelQuota,
    PortMapping,
    PortRange,
    Principal,
    RoutedPort,
    Stack,
    TimelineEvent,
)
from stackd.store import history, rows
from stackd.store.node_ports import NodePorts
from stackd.store.rows import Claim
from stackd.store.transaction import Submit, Table, Transaction, operation

FROM_POOL = "FromPool"
PORT_REPLACED = "NodePortReplaced"


class _Living(NamedTuple):
    """What limits of labels have to know of a living stack; ``labels`` as JSON, ``failed`` as SQLite has a truth."""

    stack_id: str
    labels: str
    template: str | None
    cost: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateLimits:
    """The most stacks in all (None: any number), the most living ones with the same value of a label, and what those may cost.

    Only stacks that have all labels of ``among``, and not all of one of ``others``, count for a label, and are named: those
    that the caller may see. ``quotas`` count, too.
    """

    max_stacks: int | None = None
    labels: Mapping[str, int] = field(default_factory=lambda: NO_LIMITS)
    costs: Mapping[str, int] = field(default_factory=lambda: NO_LIMITS)
    among: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    others: tuple[Mapping[str, str], ...] = ()
    quotas: tuple[LabelQuota, ...] = ()


NO_CREATE_LIMITS = CreateLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A request for the stack of this id in a pool, for ``by``: as a create would make it, if its template is still that."""

    stack: Stack
    by: Principal
    limits: CreateLimits = NO_CREATE_LIMITS


def reserve(
    tx: Transaction, new: Stack, *, claim: Claim | None = None, limits: CreateLimits = NO_CREATE_LIMITS
) -> Stack:
    """Insert a row, with a random free node port for each port that has neither a name nor a node port, or no row at all.

    Raises ``NoNodePort``; ``Conflict`` if the claim's key, a fixed port or a fixed name is in use; ``MaxStacksReached`` or
    ``LabelLimitReached`` at a limit.
    """
    _check_limits(tx, new, limits)
    free = iter(_find_free(tx, sum(not _has_place(port) for port in new.ports)))
    ports = tuple(port if _has_place(port) else replace(port, node_port=next(free)) for port in new.ports)
    stack = rows.insert(tx, replace(new, ports=ports))
    if claim is not None:
        rows.insert_claim(tx, replace(claim, stack_id=new.stack_id))
    return stack


def take_spare(
    tx: Transaction, new: Stack, *, claim: Claim | None = None, limits: CreateLimits = NO_CREATE_LIMITS
) -> Stack | None:
    """Turn the spare of this id into a row as ``reserve`` makes one, with the spare's node port. None if there is
    no such spare any more. Raises as ``reserve``."""
    spare = rows.find(tx, new.stack_id)
    if spare is None or not spare.spare or spare.deleting_since is not None:
        return None
    _check_limits(tx, new, limits)
    port = replace(new.ports[0], node_port=spare.ports[0].node_port)
    stack = replace(new, ports=(port,))
    rows.insert_labels(tx, stack)
    if claim is not None:
        rows.insert_claim(tx, replace(claim, stack_id=stack.stack_id))
    return rows.save_one(tx, stack, spec=True)


def _check_limits(tx: Transaction, new: Stack, limits: CreateLimits) -> None:
    check_quotas(tx, limits.quotas, new.template)
    check_labels(tx, new.labels, limits, cost=new.cost)
    _check_max_stacks(tx, limits)


def _has_place(port: PortMapping) -> bool:
    return isinstance(port, RoutedPort) or port.node_port > 0


def assign(
    tx: Transaction,
    wanted: Assignment,
    *,
    claim: Claim | None = None,
) -> Stack | None:
    """Give a stack of a pool to a client, which answers the create with this claim. None if it is gone, assigned or no
    longer usable.

    Raises ``LabelLimitReached``, ``MaxStacksReached`` and ``Conflict`` as ``reserve`` does; then the stack stays in the
    pool.
    """
    row = tx.row(
        f"UPDATE stacks SET unassigned = 0, {rows.STACKS.assignments(Stack.FROM_CREATE)}"
        " WHERE stack_id = :stack_id AND unassigned = 1 AND digest = :digest AND accepted = 1 AND ended = 0"
        " AND deleting_since IS NULL AND desired = 'running' AND status IN ('creating', 'running')"
        f" RETURNING {rows.STACKS.sql}",
        rows.STACKS.values(wanted.stack),
    )
    if row is None:
        return None
    stack = rows.STACKS.record(row)
    # In the pool, the stack had no labels: of the counts below, that of all stacks includes the stack itself by now.
    check_quotas(tx, wanted.limits.quotas, stack.template)
    check_labels(tx, stack.labels, wanted.limits, cost=stack.cost, apart_from=stack.stack_id)
    _check_max_stacks(tx, wanted.limits, itself=1)
    rows.insert_labels(tx, stack)
    if claim is not None:
        rows.insert_claim(tx, replace(claim, stack_id=stack.stack_id, status=rows.CREATED))
    why = (claim.reason if claim is not None else "") or FROM_POOL
    assigned = TimelineEvent(
        kind=EventKind.ACCEPTED, at=stack.created_at, reason=why, message="it waited in the pool", by=wanted.by
    )
    history.add(tx, [(stack.stack_id, assigned)])
    return rows.stage(tx, stack)


def check(
    tx: Transaction, labels: Mapping[str, str], *, ports: int, cost: int = 1, limits: CreateLimits = NO_CREATE_LIMITS
) -> None:
    """Raise what ``reserve`` would raise for a stack with these labels, so many ports and this cost; write nothing.

    Ports of stacks that wait in a pool count as free: a create takes such a stack, or has one deleted.
    """
    check_labels(tx, labels, limits, cost=cost)
    _check_max_stacks(tx, limits)
    try:
        _find_free(tx, ports)
    except NoNodePort:
        if not tx.row("SELECT 1 FROM stacks WHERE unassigned = 1 LIMIT 1"):
            raise


def check_labels(
    tx: Transaction, labels: Mapping[str, str], limits: CreateLimits, *, cost: int, apart_from: str = ""
) -> None:
    """Raise ``LabelLimitReached`` if as many living stacks as allowed already have one of these labels; ``LabelCostReached`` if
    they cost so much that one of this cost is too much. One that failed before it ever ran costs nothing.

    Letter case does not count, as for ``limits.creates_per_label``: another spelling of a player is the same player.
    """
    for key in dict.fromkeys((*limits.labels, *limits.costs)) if labels else ():
        for name, value in labels.items():
            if name.lower() == key.lower():
                holders = _living(tx, key, value, limits.among, limits.others, apart_from)
                same = (one.stack_id for one in holders if _folded(labels) <= _folded(json.decode(one.labels)))
                _check_count(f"{key}={value}", holders, limits.labels.get(key), same)
                _check_cost(tx, f"{key}={value}", holders, limits.costs.get(key), cost, same)


def _check_count(label: str, holders: Sequence[_Living], most: int | None, same: Iterator[str]) -> None:
    if most is not None and len(holders) >= most:
        named = ", ".join(one.stack_id for one in holders[:5])
        sentence = f"label {label} has {len(holders)} of {most} stacks (limits.stacks_per_label): {named}"
        raise LabelLimitReached(sentence, holders[0].stack_id, same=next(same, ""))


def _check_cost(
    tx: Transaction, label: str, holders: Sequence[_Living], most: int | None, cost: int, same: Iterator[str]
) -> None:
    if most is None:
        return
    costs = {one.stack_id: one.cost for one in holders if not one.failed or _has_run(tx, one.stack_id)}
    used = sum(costs.values())
    if used + cost > most:
        enough = next((stack_id for stack_id, each in costs.items() if used - each + cost <= most), "")
        raise LabelCostReached(label, used=used, limit=most, cost=cost, stack_id=enough, same=next(same, ""))


def _has_run(tx: Transaction, stack_id: str) -> bool:
    return bool(tx.row("SELECT 1 FROM timeline WHERE stack_id = ? AND kind = 'ready' LIMIT 1", (stack_id,)))


def _living(
    tx: Transaction,
    key: str,
    value: str,
    among: Mapping[str, str],
    others: tuple[Mapping[str, str], ...],
    apart_from: str = "",
) -> list[_Living]:
    """The living stacks with this label that have all labels of ``among``, and not all of one of ``others``; the oldest
    first."""
    found = tx.rows(
        "SELECT s.stack_id, s.labels, s.template, coalesce(json_extract(s.offer, '$.cost'), 1), s.status = 'failed'"
        " FROM stack_labels AS l CROSS JOIN stacks AS s ON s.stack_id = l.stack_id"
        " WHERE l.key = ? AND l.value = ? AND s.stack_id <> ? AND s.deleting_since IS NULL AND s.ended = 0"
        " AND s.ttl_expires_at > ? ORDER BY s.created_at, s.stack_id",
        (key.lower(), value.lower(), apart_from, tx.now),
    )
    holders = [_Living(*row) for row in found]
    if among or others:
        own = ((holder, json.decode(holder.labels).items()) for holder in holders)
        holders = [
            holder
            for holder, has in own
            if among.items() <= has and not any(theirs.items() <= has for theirs in others)
        ]
    return holders


def check_quotas(tx: Transaction, quotas: Iterable[LabelQuota], template: str | None) -> None:
    """Raise ``LabelLimitReached`` if a quota is used up; ``MaxStacksReached`` if it is a shared one."""
    for quota in quotas:
        name, value = next(iter(quota.labels.items()))
        holders = [
            one
            for one in _living(tx, name, value, quota.labels, quota.others)
            if quota.template in (None, one.template)
        ]
        if len(holders) < quota.most:
            continue
        if quota.shared:
            raise MaxStacksReached(f"all visitors of the link have {len(holders)} of {quota.most} stacks")
        same = next((one.stack_id for one in holders if one.template == template), "")
        sentence = f"the player has {len(holders)} of {quota.most} stacks"
        raise LabelLimitReached(sentence, holders[0].stack_id, same=same)


def _folded(labels: Mapping[str, str]) -> set[tuple[str, str]]:
    return {(key.lower(), value.lower()) for key, value in labels.items()}


def _check_max_stacks(tx: Transaction, limits: CreateLimits, *, itself: int = 0) -> None:
    """Raise ``MaxStacksReached`` if clients have as many stacks as allowed, not counting ``itself``."""
    if limits.max_stacks is None:
        return
    count = (
        "SELECT (SELECT count(*) FROM stacks) - (SELECT count(*) FROM stacks WHERE unassigned = 1)"
        " - (SELECT count(*) FROM stacks WHERE serving IS NOT NULL AND deleting_since IS NULL)"
    )
    if tx.rows(count)[0][0] - itself >= limits.max_stacks:
        sentence = f"the limit of {limits.max_stacks} stacks in all is reached (limits.max_stacks)"
        raise MaxStacksReached(sentence)


# ---- node ports


def _find_free(tx: Transaction, wanted: int) -> list[int]:
    """So many random free ports. Raises ``NoNodePort`` if there are fewer.

    The table decides. All of it is read only once the ports that were free then have been tried: in a range that is
    almost full, few guesses are free.
    """
    free: list[int] = []
    while len(free) < wanted:
        if not tx.ports.to_try:
            ((held,),) = tx.rows("SELECT json_group_array(node_port) FROM node_ports")  # faster than a row for each
            tx.ports.refill([*json.decode(held), *free])
        if not tx.ports.to_try:
            raise NoNodePort(tx.ports.why_none())
        port = tx.ports.to_try.pop()
        if not tx.row("SELECT 1 FROM node_ports WHERE node_port = ?", (port,)):
            free.append(port)
    return free


def replace_port(tx: Transaction, stack_id: str, taken: int) -> Stack:
    """Set ``taken`` aside for a while and hold another port instead. If the stack is accepted, its timeline says so.

    A stack that does not hold ``taken`` is returned unchanged. Raises ``NoNodePort`` (the stack keeps ``taken``);
    ``StackNotFound`` if the stack is gone or being deleted.
    """
    stack = rows.find_live(tx, stack_id)
    tx.ports.set_aside(taken)
    if taken not in stack.held_ports:
        return stack  # already replaced: a repeated call changes nothing
    (other,) = _find_free(tx, 1)
    tx.run("UPDATE node_ports SET node_port = ? WHERE node_port = ?", (other, taken))
    ports = tuple(replace(port, node_port=other) if port.node_port == taken else port for port in stack.ports)
    after = replace(stack, ports=ports)
    if stack.accepted:
        message = ports_replaced(stack.ports, after.ports)
        history.note(tx, stack_id, EventKind.WARNING, reason=PORT_REPLACED, message=message)
        after = rows.touched(tx, after)
    return rows.save_one(tx, after)


def ports_replaced(before: Sequence[PortMapping], after: Sequence[PortMapping]) -> str:
    """A sentence about the node ports of a stack that have changed; empty if none has."""
    changed = [
        f"node port {old.node_port} is not available any more; {new.node_port} replaces it"
        for old, new in zip(before, after, strict=True)
        if old.node_port != new.node_port
    ]
    return "; ".join(changed)


def release(tx: Transaction, ids: Collection[str]) -> list[Stack]:
    """Free the ports of stacks that have ended or are being deleted, once their Services have none any more. Others are
    skipped.

    Returns the stacks that changed; their ``ports`` still show what they had.
    """
    holders = [stack for stack in rows.find_all(tx, ids).values() if stack.ports_held]
    over = [stack for stack in holders if stack.ended or stack.deleting_since is not None]
    if not over:
        return []
    rows.give_back_ports(tx, (stack.stack_id for stack in over))
    return rows.save(tx, [replace(stack, ports_held=False) for stack in over])


class Ports(NodePorts, Table):
    """The node ports, with the operations on them."""

    def __init__(
        self, configured: PortRange, monotonic: Callable[[], float], stacks: Iterable[Stack], submit: Submit
    ) -> None:
        NodePorts.__init__(self, configured, monotonic, stacks)
        Table.__init__(self, submit)

    async def set_aside_all(self, ports: Iterable[int]) -> None:
        def write(tx: Transaction) -> None:
            for port in ports:
                self.set_aside(port)

        await self._submit(write)

    async def fix(self, ports: frozenset[int]) -> None:
        """Hand out these ports to nobody: templates give them to their shared stacks."""

        def fix(_: Transaction) -> None:
            self.fixed, self.to_try = ports, []

        if ports != self.fixed:
            await self._submit(fix)

    async def limit(self, cluster: PortRange) -> None:
        """Hand out only ports of the cluster's own range from now on."""
        await self._submit(lambda tx: self.restrict(cluster))

    replace = operation(replace_port)
    release = operation(release)
