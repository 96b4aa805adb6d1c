"""A rehearsal from its first press to its last delete.

Owns: the order of its phases, the tasks beside the players (they follow the event stream, and extend stacks), the
delete of all stacks with the rehearsal's label, and what an interruption means in each phase. The first one
(``rehearsal.stop``) ends the load and deletes the stacks. If the task is cancelled, nothing more is done, and the
stacks expire.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any

from stackd.client import ClientError
from stackd.client.operations import CHECK_SECONDS
from stackd.clock import to_nanoseconds
from stackd.rehearse.connection import METRICS, no_answer
from stackd.rehearse.measure import Attempt, Stage, Totals, difference, read_metrics, without_ids
from stackd.rehearse.plan import LABEL, Arrival
from stackd.rehearse.player import Phase, Rehearsal, arrive, stay
from stackd.tasks import set_within

FOLLOW_SECONDS = 5.0
# How long the end waits for creates under way, because their stacks have to be deleted, too.
LINGER_SECONDS = 30.0
GATHER_SECONDS, STOPPED_GATHER_SECONDS = 120.0, 10.0
READS_AT_ONCE, EXTENDS_AT_ONCE = 16, 8
AGAIN_SECONDS, FOLLOW_AGAIN_SECONDS = 1.0, 0.5
POLL_SECONDS = 0.25
FIELDS = "stack_id,status,status_reason,node_id,ports,addresses"
# How many times in a stack's time to live ``_keep_alive`` checks whether to extend it.
CHECKS = 8


async def run(rehearsal: Rehearsal) -> None:
    """Run all phases, and clean up. Raises CancelledError if it was cancelled: then stacks may remain."""
    try:
        following = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(_follow(rehearsal, following), name="events"),
                group.create_task(_keep_alive(rehearsal), name="keep alive"),
                group.create_task(rehearsal.own.sample(), name="own load"),
            ]
            try:
                await set_within(following, FOLLOW_SECONDS)
                await _measure(rehearsal)
            finally:
                for task in beside:
                    task.cancel()
    except Exception:
        await _clean(rehearsal)
        raise
    rehearsal.phase = Phase.CLEANING
    await _clean(rehearsal)
    rehearsal.phase = Phase.DONE


async def _measure(rehearsal: Rehearsal) -> None:
    before = await _metrics(rehearsal)
    rehearsal.began, rehearsal.wall = time.monotonic(), time.time()
    await _load(rehearsal)
    rehearsal.seconds = rehearsal.now()
    after = await _metrics(rehearsal)
    rehearsal.added = difference(before, after) if before and after else {}
    rehearsal.phase = Phase.GATHERING
    timelines = _gather_timelines(rehearsal)
    if rehearsal.stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(timelines, STOPPED_GATHER_SECONDS)
    else:
        await _or_stopped(rehearsal, timelines, GATHER_SECONDS)
        await _or_stopped(rehearsal, _gather_checks(rehearsal))


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
        await _or_stopped(rehearsal, settled.wait(), arrivals[-1].due - rehearsal.now())
        rehearsal.phase = Phase.SETTLING
        await _or_stopped(rehearsal, settled.wait())
        rehearsal.phase = Phase.HOLDING
        rehearsal.hold_began = rehearsal.now()
        rehearsal.wake()
        await _or_stopped(rehearsal, asyncio.sleep(rehearsal.plan.hold))
        if leavers:
            await _or_stopped(rehearsal, asyncio.wait(leavers))
        rehearsal.finished.set()
        rehearsal.wake()
        await asyncio.wait(players, timeout=LINGER_SECONDS)
        for player in players:
            player.cancel()


async def _or_stopped(rehearsal: Rehearsal, work: Coroutine[Any, Any, Any], seconds: float | None = None) -> None:
    """Wait for ``work``, until ``rehearsal.stop`` is set, or for at most ``seconds``."""
    tasks = {asyncio.create_task(one) for one in (work, rehearsal.stop.wait())}
    limit = None if seconds is None else max(0.0, seconds)
    try:
        done, _ = await asyncio.wait(tasks, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


async def _metrics(rehearsal: Rehearsal) -> Totals:
    answer = await rehearsal.ask("metrics", "GET", METRICS)
    try:
        return {} if answer is None else read_metrics(str(answer.body))
    except ValueError as error:
        rehearsal.problems[f"metrics: {error}"] += 1
        return {}


async def _gather_timelines(rehearsal: Rehearsal) -> None:
    """Take from the timelines when each stack was scheduled, started and ran; a time that they lack stays as seen."""
    at_once = asyncio.Semaphore(READS_AT_ONCE)
    began = rehearsal.wall + (rehearsal.clock_ahead or 0.0)  # by the daemon's clock

    async def gather(attempt: Attempt) -> None:
        async with at_once:
            answer = await rehearsal.ask("timeline", "GET", f"/stacks/{attempt.stack_id}/timeline")
        if answer is not None:
            first: dict[str, float] = {}
            for line in answer.body["events"]:
                first.setdefault(line["kind"], to_nanoseconds(line["at"]) / 1e9 - began)
            _take_times(attempt, first)

    await asyncio.gather(*(gather(attempt) for attempt in rehearsal.attempts if attempt.stack_id))


def _take_times(attempt: Attempt, first: Mapping[str, float]) -> None:
    """Take the times of a timeline; ``first`` has the time of the first event of each kind.

    A player knows that a stack runs only after its create is answered (one from a pool ran long before), and a stack
    whose address has answered runs. So the times are limited to that: the clocks are compared to some milliseconds
    only.
    """
    accepted, reachable = attempt.times.get(Stage.ACCEPTED, 0.0), attempt.times.get(Stage.REACHABLE, float("inf"))
    attempt.started = first.get("started", attempt.started)
    if (scheduled := first.get("scheduled")) is not None:
        attempt.times[Stage.SCHEDULED] = min(max(scheduled, attempt.due), accepted)
    if Stage.RUNNING in attempt.times and (ready := first.get("ready")) is not None:
        attempt.times[Stage.RUNNING] = min(max(ready, accepted), reachable)


async def _gather_checks(rehearsal: Rehearsal) -> None:
    """Take what the checks of the plan's templates say; one without a result runs on a stack of the rehearsal."""
    counts = rehearsal.plan.counts()
    templates = {kind.name: str(kind.body["template"]) for kind, count in counts if count and "template" in kind.body}
    answer = await rehearsal.connection.ask("GET", "/templates") if templates else no_answer("")
    if not answer.good:
        rehearsal.checks.update({name: {"healthy": None, "trouble": answer.reason} for name in templates.values()})
        return
    for one in answer.body["templates"]:
        if one["check"] is not None and (name := one["name"]) in templates.values():
            result = one["checked"] or {"healthy": None}
            stacks = (
                at.stack_id for at in rehearsal.attempts if at.status == "running" and templates.get(at.kind) == name
            )
            if result["healthy"] is None and (stack_id := next(stacks, "")):
                seen = await rehearsal.connection.ask("POST", f"/stacks/{stack_id}/check", {}, seconds=CHECK_SECONDS)
                result = seen.body if seen.good else {"healthy": None, "trouble": seen.reason}
            rehearsal.checks[name] = result


async def _clean(rehearsal: Rehearsal) -> None:
    """Delete by label until nothing remains; gives up if nothing has changed for the plan's ``patience``."""
    for attempt in rehearsal.attempts:
        attempt.deleting = True
    changed, listed = rehearsal.now(), -1
    while rehearsal.remaining != 0:
        remaining = await _delete_all(rehearsal)
        if remaining is not None:
            if remaining != listed:
                changed = rehearsal.now()
            rehearsal.remaining = listed = remaining  # the job does not count those that it could not delete
        if rehearsal.remaining == 0 or rehearsal.now() - changed > rehearsal.plan.patience:
            return
        await asyncio.sleep(AGAIN_SECONDS)


async def _delete_all(rehearsal: Rehearsal) -> int | None:
    """Delete all stacks with one job. Returns how many remain, or None if the API does not tell."""
    mine = ("label", f"{LABEL}={rehearsal.ident}")
    answer = await rehearsal.ask("clean-up", "DELETE", "/stacks", query=[mine])
    path = "" if answer is None else f"/stacks/batch-delete/{answer.body['job_id']}"
    while path and (answer := await rehearsal.ask("clean-up", "GET", path)) is not None:
        job: Mapping[str, Any] = answer.body
        rehearsal.remaining = job["total"] - job["deleted"] - job["not_found"] - job["failed"] or None
        for error in job.get("errors", ()):
            rehearsal.problems[f"clean-up: {without_ids(error['error'])}"] += 1
        if job["status"] in ("completed", "failed"):
            break
        await asyncio.sleep(POLL_SECONDS)
    answer = await rehearsal.ask("clean-up", "GET", "/stacks", query=[mine, ("fields", "stack_id")])
    return None if answer is None else len(answer.body["stacks"])


async def _follow(rehearsal: Rehearsal, following: asyncio.Event) -> None:
    """Follow the event stream until cancelled, and reconnect after each cut; ``following`` is set once it is open."""
    last, label = "", f"{LABEL}={rehearsal.ident}"
    while True:
        asked, fresh = time.monotonic(), not last
        try:
            async for event in rehearsal.connection.events(last, label, FIELDS):
                if event.kind == "hello":
                    _greeted(rehearsal, event.data, asked if fresh else None)
                    following.set()
                elif event.kind in ("stack", "deleted"):
                    _take(rehearsal, event.kind, event.data)
                last = event.id or last
        except ClientError as error:
            rehearsal.problems[f"events: {error}"] += 1
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


def _take(rehearsal: Rehearsal, kind: str, stack: Mapping[str, Any]) -> None:
    attempt = rehearsal.by_stack.get(stack["stack_id"])
    if kind == "deleted":
        if attempt is not None:
            attempt.ended()
        return
    seen = stack["status"], stack["status_reason"], rehearsal.now()
    if attempt is not None:
        attempt.node = stack["node_id"] or attempt.node
        attempt.seen(*seen)
    else:
        rehearsal.early[stack["stack_id"]] = seen


async def _keep_alive(rehearsal: Rehearsal) -> None:
    """Extend each stack when half of its time to live is over, until cancelled."""
    at_once, ttl = asyncio.Semaphore(EXTENDS_AT_ONCE), rehearsal.plan.ttl
    while True:
        await asyncio.sleep(ttl / CHECKS)
        half = rehearsal.now() + ttl / 2
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
        rehearsal.problems[f"extend: {without_ids(answer.reason)}"] += 1
