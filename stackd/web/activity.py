"""``GET /activity``: which key did what, when, and to how many stacks.

Owns: the parameters, and the order of requests and jobs. A job is one entry, with its counts. A tenant's key sees its own.
"""

from __future__ import annotations

from functools import partial

import orjson
from aiohttp import web

from stackd.clock import NANOSECONDS, to_nanoseconds
from stackd.clock import from_nanoseconds as rfc3339
from stackd.errors import InvalidRequest
from stackd.lifecycle.context import Context
from stackd.model import Desired, EventKind, Job, JobStatus, Stack
from stackd.store import ActivityFilter, ActivityRequest
from stackd.units import parse_duration
from stackd.web.api import ApiCall
from stackd.web.bodies import progress_of, what_of
from stackd.web.listing import DEFAULT_PAGE, LARGEST_PAGE, cursor_of, position_of
from stackd.web.requests import Parameters
from stackd.web.responses import json_response

ACTIONS = {
    "create": EventKind.ACCEPTED,
    "extend": EventKind.EXTENDED,
    "restart": EventKind.RESTART_REQUESTED,
    "stop": EventKind.STOP_REQUESTED,
    "start": EventKind.START_REQUESTED,
    "delete": EventKind.DELETE_REQUESTED,
}
_NAMES = {kind: name for name, kind in ACTIONS.items()}
LARGEST = 2**63 - 1
Place = tuple[int, str]
"""When, and the id of the job or the number of the line. Of one time, jobs come before lines."""


async def activity(call: ApiCall) -> web.Response:
    """``GET /activity``"""
    parameters = Parameters(call.request, ("key", "action", "stack", "since", "limit", "cursor"), ("label",))
    context, key, action = call.api.context, _name(parameters, "key"), parameters.get("action")
    if action is not None and action not in ACTIONS:
        raise InvalidRequest(f"action must be one of {', '.join(ACTIONS)}, not {action[:64]!r}")
    limit = parameters.number("limit", 1, LARGEST_PAGE) or DEFAULT_PAGE
    before = _before(parameters.get("cursor"))
    if call.key.tenant and key not in ("", call.key.name):
        return json_response(orjson.dumps({"activity": [], "next_cursor": None}))
    wanted = ActivityFilter(
        by=call.key.name if call.key.tenant else key,
        kind=None if action is None else ACTIONS[action],
        stack_id=_name(parameters, "stack"),
        labels=[_label(given) for given in parameters.all("label")],
        since=_since(parameters.get("since"), context.clock.now()),
        at=before[0],
        seq=int(before[1]) if before[1].isdecimal() else LARGEST,
        limit=limit + 1,
    )
    found: list[ActivityRequest | Job] = [
        *await _jobs(context, wanted, action),
        *await context.store.activity.requests(wanted),
    ]
    page = sorted((one for one in found if _place(one) < before), key=_place, reverse=True)
    more = len(page) > limit
    entries = list(map(partial(_entry, context), page[:limit]))
    cursor = cursor_of(*_place(page[limit - 1])) if more else None
    return json_response(orjson.dumps({"activity": entries, "next_cursor": cursor}))


async def _jobs(context: Context, wanted: ActivityFilter, action: str | None) -> list[Job]:
    store = context.store
    about = await store.activity.jobs_about(wanted) if wanted.stack_id or wanted.labels else None
    return [
        job
        for job in store.jobs.all()
        if wanted.by in ("", job.by)
        and action in (None, job.action)
        and job.created_at >= wanted.since
        and (about is None or job.job_id in about)
    ]


def _before(cursor: str | None) -> Place:
    if cursor is None:
        return LARGEST, "~"
    at, name = position_of(cursor, "GET /activity")
    if not -LARGEST <= at <= LARGEST or (name.isdecimal() and int(name) > LARGEST):
        raise InvalidRequest("cursor must be the next_cursor of an answer of GET /activity")
    return at, name


def _name(parameters: Parameters, name: str) -> str:
    given = parameters.get(name)
    if given == "":
        raise InvalidRequest(f"{name} is empty")
    return given or ""


def _label(given: str) -> tuple[str, str | None]:
    key, with_value, value = given.partition("=")
    if not key:
        raise InvalidRequest("label must be key=value, or key for any value")
    return key, value if with_value else None


def _since(text: str | None, now: int) -> int:
    if text is None:
        return 0
    try:
        return max(0, now - round(parse_duration(text) * NANOSECONDS))
    except (ValueError, OverflowError):
        pass
    try:
        return max(0, to_nanoseconds(text))
    except (ValueError, OverflowError):
        raise InvalidRequest(
            'since must be a duration such as "1h", or a time such as "2026-02-10T02:02:26Z"'
        ) from None


def _place(one: ActivityRequest | Job) -> Place:
    return (one.created_at, one.job_id) if isinstance(one, Job) else (one.at, f"{one.seq:020d}")


def _entry(context: Context, one: ActivityRequest | Job) -> dict[str, object]:
    if isinstance(one, Job):
        what = {"job_id": one.job_id, "labels": dict(one.labels), "message": ""}
        return {"at": rfc3339(one.created_at), "by": one.by, **what_of(one), **what, **progress_of(one)}
    pending = _is_pending(one.kind, context.store.stacks.get(one.stack_id))
    return {
        "at": rfc3339(one.at),
        "by": one.by,
        "action": _NAMES[one.kind],
        "stack_id": one.stack_id,
        "labels": dict(one.labels),
        "message": one.message,
        "status": JobStatus.RUNNING if pending else JobStatus.COMPLETED,
        "total": 1,
        "done": 0 if pending else 1,
        "not_found": 0,
        "failed": 0,
    }


def _is_pending(kind: EventKind, stack: Stack | None) -> bool:
    """Whether what was requested of the stack is not done yet."""
    if stack is None:
        return False
    if kind is EventKind.DELETE_REQUESTED:
        return True
    if kind is EventKind.STOP_REQUESTED:
        return stack.desired is Desired.STOPPED and not stack.at_rest
    starts = kind in (EventKind.START_REQUESTED, EventKind.RESTART_REQUESTED)
    return starts and stack.desired is Desired.RUNNING and stack.pod_uid is None and not stack.ended
