"""A rehearsal from its first press to its last delete.

Owns: the order of its phases, the tasks beside the players (they follow the event stream, and extend stacks), the
delete of all stacks with the rehearsal's label, and what an interruption means in each phase. The first one
(``rehearsal.stop``) ends the load and deletes the stacks. If the task is cancelled, nothing more is done, and the
stacks expire.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from stackd.client.records import Event
from stackd.clock import to_nanoseconds
from stackd.rehearse.connection import NoAnswer
from stackd.rehearse.measure import Attempt, DaemonMetrics, Stage, ended, read_metrics, seen, without_ids
from stackd.rehearse.plan import LABEL, Arrival
from stackd.rehearse.player import Phase, Rehearsal, StatusSeen, arrive, stay
from stackd.tasks import set_within

FOLLOW_SECONDS = 5.0
LINGER_SECONDS = 30.0
"""How long the end waits for creates under way, because their stacks have to be deleted, too."""

GATHER_SECONDS = 120.0
HURRIED_SECONDS = 10.0
READS_AT_ONCE = 16
AGAIN_SECONDS = 1.0
POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The daemon's metrics before and after; None if it does not tell them."""

    before: DaemonMetrics | None
    after: DaemonMetrics | None


async def run(rehearsal: Rehearsal) -> Measured:
    """Run all phases, and clean up. Raises CancelledError if it was cancelled: then stacks may be left."""
    try:
        following = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(follow(rehearsal, following), name="events"),
                group.create_task(keep_alive(rehearsal), name="keep alive"),
                group.create_task(rehearsal.own.sample(), name="own load"),
            ]
            try:
                await set_within(following, FOLLOW_SECONDS)
                measured = await _measured(rehearsal)
            finally:
                for task in beside:
                    task.cancel()
    except Exception:
        await clean(rehearsal)
        raise
    rehearsal.phase = Phase.CLEANING
    await clean(rehearsal)
    rehearsal.phase = Phase.DONE
    rehearsal.interrupted = rehearsal.stop.is_set()
    return measured


async def _measured(rehearsal: Rehearsal) -> Measured:
    before = await _metrics(rehearsal)
    rehearsal.start()
    await _load(rehearsal)
    rehearsal.seconds = rehearsal.now()
    after = await _metrics(rehearsal)
    rehearsal.phase = Phase.GATHERING
    timelines = gather_timelines(rehearsal)
    if rehearsal.stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(timelines, HURRIED_SECONDS)
    else:
        await _or_stopped(rehearsal, timelines, GATHER_SECONDS)
    return Measured(before=before, after=after)


async def _load(rehearsal: Rehearsal) -> None:
    """Let the players arrive and hold, and at the end wait for those with a request under way."""
    settled = asyncio.Event()
    arrivals = rehearsal.plan.arrivals()
    undecided = len(arrivals)

    async def play(arrival: Arrival) -> None:
        nonlocal undecided
        attempt = await arrive(rehearsal, arrival)
        undecided -= 1
        if not undecided:
            settled.set()
        if attempt is not None:
            await stay(rehearsal, arrival, attempt)

    async with asyncio.TaskGroup() as group:
        players = [group.create_task(play(one), name=f"player {one.player}") for one in arrivals]
        leavers = [player for player, one in zip(players, arrivals, strict=True) if one.again is not None]
        await _phases(rehearsal, arrivals, settled, leavers)
        rehearsal.finish()
        await asyncio.wait(players, timeout=LINGER_SECONDS)
        for player in players:
            player.cancel()


async def _phases(
    rehearsal: Rehearsal, arrivals: Sequence[Arrival], settled: asyncio.Event, leavers: Sequence[asyncio.Task[None]]
) -> None:
    rehearsal.phase = Phase.ARRIVING
    await _or_stopped(rehearsal, settled.wait(), arrivals[-1].due - rehearsal.now())
    rehearsal.phase = Phase.SETTLING
    await _or_stopped(rehearsal, settled.wait())
    rehearsal.phase = Phase.HOLDING
    rehearsal.begin_hold()
    await _or_stopped(rehearsal, asyncio.sleep(rehearsal.plan.hold))
    if leavers:
        await _or_stopped(rehearsal, asyncio.wait(leavers))


async def _or_stopped(rehearsal: Rehearsal, work: Coroutine[Any, Any, Any], seconds: float | None = None) -> None:
    """Wait for ``work``, until ``rehearsal.stop`` is set, or for at most ``seconds``."""
    doing = asyncio.create_task(work, name="phase")
    stopping = asyncio.create_task(rehearsal.stop.wait(), name="stop")
    limit = None if seconds is None else max(0.0, seconds)
    try:
        await asyncio.wait({doing, stopping}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
    finally:
        doing.cancel()
        stopping.cancel()


async def _metrics(rehearsal: Rehearsal) -> DaemonMetrics | None:
    answer = await rehearsal.ask("metrics", "GET", "/metrics")
    try:
        return read_metrics(answer.body) if answer is not None and isinstance(answer.body, str) else None
    except ValueError as error:
        rehearsal.trouble(f"metrics: {error}")
        return None


async def gather_timelines(rehearsal: Rehearsal) -> None:
    """Take from the timelines when each stack was scheduled, started and ran; a time that they lack stays as seen."""
    at_once = asyncio.Semaphore(READS_AT_ONCE)
    await asyncio.gather(*(_timeline(rehearsal, attempt, at_once) for attempt in rehearsal.attempts))


async def _timeline(rehearsal: Rehearsal, attempt: Attempt, at_once: asyncio.Semaphore) -> None:
    if not attempt.stack_id:
        return
    async with at_once:
        answer = await rehearsal.ask("timeline", "GET", f"/stacks/{attempt.stack_id}/timeline")
    if answer is not None:
        first: dict[str, float] = {}
        for line in answer.body["events"]:
            first.setdefault(line["kind"], rehearsal.of_daemon(to_nanoseconds(line["at"]) / 1e9))
        take(attempt, first)


def take(attempt: Attempt, first: Mapping[str, float]) -> None:
    """Take the times of a timeline; ``first`` has the time of the first event of each kind.

    A player knows that a stack runs only after its create is answered (one from a pool ran long before), and a stack
    whose address has answered runs. So the times are limited to that: the clocks are compared to some milliseconds
    only.
    """
    accepted, reachable = attempt.times.get(Stage.ACCEPTED, 0.0), attempt.times.get(Stage.REACHABLE, float("inf"))
    if (scheduled := first.get("scheduled")) is not None:
        attempt.times[Stage.SCHEDULED] = min(max(scheduled, attempt.due), accepted)
    if (started := first.get("started")) is not None:
        attempt.started = started
    if Stage.RUNNING in attempt.times and (ready := first.get("ready")) is not None:
        attempt.times[Stage.RUNNING] = min(max(ready, accepted), reachable)


async def clean(rehearsal: Rehearsal) -> None:
    """Delete by label until nothing is left; gives up if nothing has changed for the plan's ``patience``.

    Sets ``rehearsal.left`` to how many are left then, if that is known.
    """
    for attempt in rehearsal.attempts:
        attempt.leaving = True
    changed = rehearsal.now()
    while rehearsal.left != 0:
        remaining = await _delete_all(rehearsal)
        if remaining is not None and remaining != rehearsal.left:
            rehearsal.left, changed = remaining, rehearsal.now()
        if rehearsal.left == 0 or rehearsal.now() - changed > rehearsal.plan.patience:
            return
        await asyncio.sleep(AGAIN_SECONDS)


async def _delete_all(rehearsal: Rehearsal) -> int | None:
    """Delete all stacks with one job. Returns how many remain, or None if the API does not tell."""
    mine = ("label", f"{LABEL}={rehearsal.ident}")
    answer = await rehearsal.ask("clean-up", "DELETE", "/stacks", query=[mine])
    if answer is not None:
        await _finished(rehearsal, answer.body["job_id"])
    answer = await rehearsal.ask("clean-up", "GET", "/stacks", query=[mine, ("fields", "stack_id")])
    return None if answer is None else len(answer.body["stacks"])


async def _finished(rehearsal: Rehearsal, job_id: str) -> None:
    while (answer := await rehearsal.ask("clean-up", "GET", f"/stacks/batch-delete/{job_id}")) is not None:
        job: Mapping[str, Any] = answer.body
        rehearsal.left = job["total"] - job["deleted"] - job["not_found"] - job["failed"] or None
        for error in job.get("errors", ()):
            rehearsal.trouble(f"clean-up: {without_ids(error['error'])}")
        if job["status"] in ("completed", "failed"):
            return
        await asyncio.sleep(POLL_SECONDS)


def last_end(attempts: Iterable[Attempt], ttl: float, now: float) -> float:
    """When the last stack that may be left expires, in the rehearsal's time."""
    ends = (now + ttl if attempt.unanswered else attempt.expires for attempt in attempts)
    return max(ends, default=now)


FIELDS = "stack_id,status,status_reason,node_id,node_public_ip,ports"
FOLLOW_AGAIN_SECONDS = 0.5
CHECKS = 8
"""How many times in a stack's time to live ``keep_alive`` checks whether to extend it."""

EXTENDS_AT_ONCE = 8


async def follow(rehearsal: Rehearsal, following: asyncio.Event) -> None:
    """Follow the event stream until cancelled, and reconnect after each cut; ``following`` is set once it is open."""
    last, label = "", f"{LABEL}={rehearsal.ident}"
    while True:
        asked, fresh = time.monotonic(), not last
        try:
            async for event in rehearsal.connection.events(last, label, FIELDS):
                if event.kind == "hello":
                    _greeted(rehearsal, event.data, asked if fresh else None)
                    following.set()
                _take(rehearsal, event)
                last = event.id or last
        except NoAnswer as error:
            rehearsal.trouble(f"events: {error}")
        await asyncio.sleep(FOLLOW_AGAIN_SECONDS)


def _greeted(rehearsal: Rehearsal, hello: Mapping[str, Any], asked: float | None) -> None:
    """Take the daemon's version, and how far its clock is ahead, to within half of the answer's time."""
    rehearsal.version = str(hello.get("version", ""))
    if asked is None or rehearsal.clock_ahead is not None:
        return
    came = time.monotonic()
    here = rehearsal.wall + (asked + came) / 2 - rehearsal.began
    ahead, error = to_nanoseconds(hello["now"]) / 1e9 - here, (came - asked) / 2
    rehearsal.clock_ahead, rehearsal.clock_error = (0.0 if abs(ahead) <= error else ahead), error


def _take(rehearsal: Rehearsal, event: Event) -> None:
    if event.kind not in ("stack", "deleted"):
        return
    stack, at = event.data, rehearsal.now()
    attempt = rehearsal.by_stack.get(stack["stack_id"])
    if event.kind == "deleted":
        if attempt is not None:
            ended(attempt, at)
        return
    reason = stack["status_reason"]
    if attempt is not None:
        attempt.node = stack["node_id"] or attempt.node
        seen(attempt, stack["status"], reason, at)
    else:
        rehearsal.early[stack["stack_id"]] = StatusSeen(status=stack["status"], reason=reason, at=at)


async def keep_alive(rehearsal: Rehearsal) -> None:
    """Extend each stack when half of its time to live is over, until cancelled."""
    at_once = asyncio.Semaphore(EXTENDS_AT_ONCE)
    while True:
        await asyncio.sleep(rehearsal.plan.ttl / CHECKS)
        half = rehearsal.now() + rehearsal.plan.ttl / 2
        due = [attempt for attempt in rehearsal.attempts if attempt.kept and attempt.extends and attempt.expires < half]
        await asyncio.gather(*(_extend(rehearsal, attempt, at_once) for attempt in due))


async def _extend(rehearsal: Rehearsal, attempt: Attempt, at_once: asyncio.Semaphore) -> None:
    more = rehearsal.plan.ttl / 2
    key, path = f"rehearsal-{attempt.stack_id}-{attempt.expires:.3f}", f"/stacks/{attempt.stack_id}/extend"
    async with at_once:
        if not attempt.kept:
            return
        answer = await rehearsal.ask("extend", "POST", path, {"ttl": f"{more:g}s"}, key=key, accept=(404, 409))
    if answer is None:
        return
    attempt.extends = answer.good
    if answer.good:
        attempt.expires += more
    else:
        rehearsal.trouble(f"extend: {without_ids(answer.reason)}")
