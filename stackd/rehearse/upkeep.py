"""What goes on beside the players: following the event stream, and keeping the stacks alive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from stackd.client.records import Event
from stackd.clock import to_nanoseconds
from stackd.rehearse.attempts import Attempt, ended, seen
from stackd.rehearse.connection import NoAnswer
from stackd.rehearse.plan import LABEL
from stackd.rehearse.rehearsal import Rehearsal, StatusSeen

FIELDS = "stack_id,status,status_reason,node_id,node_public_ip,ports,labels"
AGAIN_SECONDS = 0.5
LOOKS = 8
"""How often in a stack's time to live it is looked whether its end has to be put off."""

EXTENDS_AT_ONCE = 8


async def follow(rehearsal: Rehearsal, following: asyncio.Event) -> None:
    """Follow the event stream for ever, through every cut; ``following`` is set once it is open."""
    last = ""
    while True:
        asked, fresh = time.monotonic(), not last
        try:
            async for event in rehearsal.connection.events(last, FIELDS):
                if event.kind == "hello":
                    _greeted(rehearsal, event.data, asked if fresh else None)
                    following.set()
                _take(rehearsal, event)
                last = event.id or last
        except NoAnswer as error:
            rehearsal.trouble(f"events: {error}")
        await asyncio.sleep(AGAIN_SECONDS)


def _greeted(rehearsal: Rehearsal, hello: Mapping[str, Any], asked: float | None) -> None:
    """The daemon's version, and from its time how far its clock is ahead: to half of the time that the answer took."""
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
    if stack["labels"].get(LABEL) != rehearsal.ident:
        return
    reason = stack["status_reason"]
    if attempt is not None:
        attempt.node = stack["node_id"] or attempt.node
        seen(attempt, stack["status"], reason, at)
    else:
        rehearsal.early[stack["stack_id"]] = StatusSeen(status=stack["status"], reason=reason, at=at)


async def keep_alive(rehearsal: Rehearsal) -> None:
    """Put the end of each stack off when half of its time is over, for ever."""
    at_once = asyncio.Semaphore(EXTENDS_AT_ONCE)
    while True:
        await asyncio.sleep(rehearsal.plan.ttl / LOOKS)
        half = rehearsal.now() + rehearsal.plan.ttl / 2
        due = [attempt for attempt in rehearsal.attempts if attempt.kept and attempt.extends and attempt.expires < half]
        await asyncio.gather(*(_extend(rehearsal, attempt, at_once) for attempt in due))


async def _extend(rehearsal: Rehearsal, attempt: Attempt, at_once: asyncio.Semaphore) -> None:
    more = rehearsal.plan.ttl / 2
    key = f"rehearsal-{attempt.stack_id}-{attempt.expires:.3f}"
    async with at_once:
        if not attempt.kept:
            return
        try:
            answer = await rehearsal.connection.ask(
                "POST", f"/stacks/{attempt.stack_id}/extend", {"ttl": f"{more:g}s"}, key=key
            )
        except NoAnswer as error:
            rehearsal.trouble(f"extend: {error}")
            return
    if answer.good:
        attempt.expires += more
    else:
        rehearsal.trouble(f"extend: {answer.reason.replace(attempt.stack_id, 'a stack')}")
        attempt.extends = answer.status not in (404, 409)
