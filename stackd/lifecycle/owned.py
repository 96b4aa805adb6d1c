"""What a template owns and what is to be done about it now: the stacks of its pool, its shared stack, its check, and its images
on nodes. Pure.

Owns: ``decide_template``. It is taken from the template, from the rows, and from what is remembered of the pool, of checks and
of pulls. The loop for templates (``refill``) does what it says, and looks again when it says so, or when a row changes.
"""

from __future__ import annotations

import enum
import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from stackd.clock import NANOSECONDS
from stackd.lifecycle.desired import has_pod
from stackd.lifecycle.pools import Pool, has_failed, has_lost_readiness, is_ready
from stackd.model import CHECK_FAILED, Desired, Stack, StackStatus
from stackd.templates import Template
from stackd.timing import CROWDED_SECONDS, PROVEN_SECONDS, UNREADY_SECONDS

TEMPLATE_CHANGED = "TemplateChanged"
# How many creates for an empty pool run at a time, of ``loop.CREATES_AT_ONCE``: what it cannot give, the cluster has to make for
# clients anyway. The fuller it is, the fewer: what it can give is not slowed down by what is made.
AT_ONCE = 24
# So many checks run at a time that no client waits for, and so many pulls: kubelets pull one image after the other, and stacks
# wait behind them.
CHECKS_AT_ONCE, PULLS_AT_ONCE = 4, 2


class ImageOnNode(NamedTuple):
    """One image on one node."""

    node: str
    image: str

    def __str__(self) -> str:
        return f"{self.image} on {self.node}"


class PullState(enum.StrEnum):
    """The state of an image's pull on a node."""

    WAITING = "waiting"
    PULLING = "pulling"
    PULLED = "pulled"
    FAILING = "failing"


@dataclass(slots=True, kw_only=True)
class Pull:
    """What is known of an image on a node. ``due``: when (monotonic seconds) to pull it next; ``pod``: the name of the pod that
    pulls it now; ``failures`` in a row."""

    state: PullState = PullState.WAITING
    reason: str = ""
    due: float = 0.0
    pod: str = ""
    failures: int = 0


class Subject(NamedTuple):
    """What there is to check: this pod of a shared stack, or a stack of the pool with this digest."""

    stack_id: str = ""
    generation: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What else the decision rests on. ``cordoned``: the nodes that take no new stacks; ``unhealthy``: the stacks that fail their
    check; ``longest_life``: of a stack, in nanoseconds; ``paused``: for how many seconds nothing is tried after failures.
    ``missing``: the template is not there, although nobody has removed it. ``making``: how many creates run for all templates;
    ``crowded``: clients wait for theirs.

    ``checked``: what of the template was checked last, ``recheck``: when that is to be checked again (seconds, as ``clock``), and
    ``checking``: how many checks on schedule run. ``images``: those that are wanted on nodes, with the
    first template that has each; ``pulls``: what is known of such."""

    cordoned: Collection[str] = ()
    unhealthy: Collection[str] = ()
    longest_life: int = 0
    paused: float = 0.0
    missing: bool = False
    making: int = 0
    crowded: bool = False
    clock: float = 0.0
    checked: Subject | None = None
    recheck: float = 0.0
    checking: int = 0
    images: Mapping[ImageOnNode, Template] = field(default_factory=dict)
    pulls: Mapping[ImageOnNode, Pull] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Work:
    """What is to be done: of the stacks that are ``missing``, how many to ``begin`` now; which to delete: ``failing`` at once,
    ``unwanted`` as fast as others are made. ``failed`` says why the first of the current template failed by itself; empty if
    none has.

    Of shared stacks, ``kept`` are those whose end is put off, and until when (nanoseconds), ``restarts`` those that get a new
    pod, and why.

    ``check``: what to check now; ``check_waits``: once another check has ended. ``pulls``: which images to begin to pull now,
    ``dropped`` those that nobody wants any more. ``again``: in how many seconds to look again if nothing changes.
    """

    missing: int = 0
    begin: int = 0
    failing: list[Stack] = field(default_factory=list)
    unwanted: list[Stack] = field(default_factory=list)
    failed: str = ""
    kept: list[tuple[Stack, int]] = field(default_factory=list)
    restarts: list[tuple[Stack, str]] = field(default_factory=list)
    check: Subject | None = None
    check_waits: bool = False
    pulls: list[ImageOnNode] = field(default_factory=list)
    dropped: list[ImageOnNode] = field(default_factory=list)
    again: float = math.inf

    def is_over(self, now: int, since: int, seconds: float) -> bool:
        """Whether so much time has passed since then (nanoseconds); if not, look again when it has. If the clock was set back
        further than that, it has."""
        left = round(seconds * NANOSECONDS) - abs(now - since)
        if left > 0:
            self.again = min(self.again, left / NANOSECONDS)
        return left <= 0


def decide_template(pool: Pool, template: Template | None, now: int, seen: Seen | None = None) -> Work:
    """What is to be done about what the template owns; ``now`` in nanoseconds. Without a template, which somebody has removed,
    all of it is deleted; of one that is missing, it stays."""
    seen, work = seen or Seen(), Work()
    if seen.paused > 0:
        work.again = seen.paused
    if not seen.missing:
        _of_pool(work, pool, template, now, seen)
    for row in pool.shared.values():
        if row.accepted and row.deleting_since is None:
            _of_shared(work, pool, template, row, now, seen)
    for row in pool.proofs():
        work.is_over(now, row.updated_at, PROVEN_SECONDS)
    if template is not None and template.shared and not pool.shared and not pool.making:
        work.missing += template.hours.is_open(now)
    if template is not None:
        changes = (at - now for at in (template.hours.opens, template.hours.closes) if at > now)
        work.again = min(work.again, *(left / NANOSECONDS for left in changes), math.inf)
        _begin(work, pool, template, seen)
        _of_check(work, pool, template, seen)
    _of_images(work, seen)
    return work


def _begin(work: Work, pool: Pool, template: Template, seen: Seen) -> None:
    """Of the missing stacks, few are begun at a time, and after a failure one."""
    if not work.missing or work.failed or seen.paused > 0:
        return
    if seen.crowded:
        work.again = min(work.again, CROWDED_SECONDS)
        return
    fill = min(1.0, sum(map(is_ready, pool.waits.values())) / template.pool) if template.pool else 1.0
    work.begin = min(work.missing, may_begin(fill, seen.making))
    if pool.failures:
        starting = pool.making or any(row.status is StackStatus.CREATING for row in pool.waits.values())
        work.begin = 0 if starting or pool.since_crash() else min(1, work.begin)
    elif work.begin < work.missing and seen.making > pool.making:  # others are made
        work.again = min(work.again, CROWDED_SECONDS)


# ---- the pool


def _of_pool(work: Work, pool: Pool, template: Template | None, now: int, seen: Seen) -> None:
    """A stack of an outdated template counts as present until its delete is intended, so a pool is replaced bit by bit; one
    that is not ready counts for PROVEN_SECONDS, since it may soon be ready again."""
    digest, wanted = (template.digest, template.pool) if template is not None else (None, 0)
    if template is not None and template.hours.is_over(now):
        wanted = 0
    outdated, good = list[Stack](), list[Stack]()
    for row in pool.waits.values():
        if not row.accepted or row.deleting_since is not None:
            continue
        if has_failed(row) or (has_lost_readiness(row) and work.is_over(now, row.updated_at, PROVEN_SECONDS)):
            work.failing.append(row)
            if row.digest == digest and row.status is not StackStatus.NODE_DELETED:
                work.failed = work.failed or _why(row)
        else:
            (outdated if row.digest != digest or row.node_id in seen.cordoned else good).append(row)
    surplus = sorted(good, key=lambda row: (is_ready(row), -row.created_at))[: max(0, len(good) - wanted)]
    work.unwanted = [*outdated, *surplus]
    work.missing = max(0, wanted - len(good) - len(outdated) - pool.making)


def _why(stack: Stack) -> str:
    reason = stack.status_reason or str(stack.status)
    return f"{reason}: {stack.status_message}" if stack.status_message else reason


def may_begin(fill: float, making: int) -> int:
    """How many creates may begin for a pool that is ``fill`` full (0 to 1), while ``making`` run for all pools."""
    return max(0, max(2, round(AT_ONCE * (1 - fill) ** 2)) - making)


# ---- the shared stack


def _of_shared(work: Work, pool: Pool, template: Template | None, row: Stack, now: int, seen: Seen) -> None:
    if not seen.missing and (
        template is None or not fits(row, template) or not (template.shared and template.hours.is_open(now))
    ):
        work.failing.append(row)
        return
    until = min(now + seen.longest_life, (template.hours.closes if template is not None else 0) or sys.maxsize)
    left = (row.ttl_expires_at - now - seen.longest_life // 2) / NANOSECONDS
    if left <= 0 and row.ttl_expires_at < until:
        work.kept.append((row, until))
    work.again = min(work.again, left if left > 0 else math.inf)
    if row.desired is Desired.STOPPED or row.lacks_a_pod:
        return
    reason = CHECK_FAILED if row.stack_id in seen.unhealthy else ""
    if template is not None and row.digest != template.digest:
        reason = TEMPLATE_CHANGED
    elif row.ended or row.status in (StackStatus.FAILED, StackStatus.NODE_DELETED):
        reason = row.status_reason or str(row.status)
    elif row.status_reason == "Terminating" or (
        has_lost_readiness(row) and work.is_over(now, row.updated_at, UNREADY_SECONDS)
    ):
        reason = row.status_reason
    if reason and seen.paused <= 0:
        work.restarts.append((row, reason))


def fits(row: Stack, template: Template) -> bool:
    """Whether a pod of the template can stand behind the stack's Service and names."""
    wanted, there = (
        [(port.container_port, port.protocol, getattr(port, "route", None)) for port in ports]
        for ports in (template.target_ports, row.ports)
    )
    if wanted != there:
        return False
    names = {port.container_port: port.hostname.partition(".")[0] for port in row.routed}
    ports = {port.container_port: port.node_port for port in row.ports}
    return template.hostnames.items() <= names.items() and template.node_ports.items() <= ports.items()


# ---- its check, and its images


def _of_check(work: Work, pool: Pool, template: Template, seen: Seen) -> None:
    """A new subject is checked at once; a pod that is to be replaced is none."""
    subject = _subject(pool, template)
    if subject is None or work.restarts or (template.shared and work.failing):
        return
    if subject == seen.checked and seen.recheck > seen.clock:
        work.again = min(work.again, seen.recheck - seen.clock)
    elif seen.checking >= CHECKS_AT_ONCE:
        work.check_waits = True
    else:
        work.check = subject


def _subject(pool: Pool, template: Template) -> Subject | None:
    if template.check is None:
        return None
    if template.shared:
        served = (row for row in pool.shared.values() if is_ready(row) and has_pod(row))
        there = (Subject(row.stack_id, row.generation) for row in served if row.serving == row.generation)
        return next(there, None)
    ready = sum(is_ready(row) and row.digest == template.digest for row in pool.waits.values())
    return Subject(digest=template.digest) if template.pool and ready >= template.pool else None


def _of_images(work: Work, seen: Seen) -> None:
    """Few at a time, and on each node one after the other: what is due waits for the end of another pull."""
    pulls = {image: seen.pulls.get(image, Pull()) for image in seen.images}
    work.dropped = [image for image in seen.pulls if image not in pulls]
    busy = {image.node for image, pull in pulls.items() if pull.pod}
    for image, pull in sorted(pulls.items(), key=lambda item: item[1].due):
        if pull.due > seen.clock:
            work.again = min(work.again, pull.due - seen.clock)
        elif len(busy) < PULLS_AT_ONCE and image.node not in busy:
            busy.add(image.node)
            work.pulls.append(image)
