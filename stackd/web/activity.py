"""``GET /activity``: which key did what, when, and to how many stacks; and what concerns the operator (``lifecycle.audit``).

Owns: the order of requests and jobs. A job is one entry, with its counts. A tenant's key sees its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from aiohttp import web

from stackd import contract
from stackd.clock import NANOSECONDS, to_nanoseconds
from stackd.errors import InvalidRequest
from stackd.lifecycle.context import Context
from stackd.model import AuditEntry, AuditKind, Desired, EventKind, Job, Stack
from stackd.store import ActivityFilter, ActivityRequest
from stackd.units import parse_duration
from stackd.web.api import Answer, ApiCall, route
from stackd.web.bodies import encode, length_of, rendered_entries, time_of
from stackd.web.listing import DEFAULT_PAGE, LARGEST_PAGE, cursor_for, cursor_of, end_of_page
from stackd.web.parameters import Parameter, labels, named, number, one_of
from stackd.web.responses import streamed_list
from stackd.web.stacks import HISTORY

ACTIONS = {
    "create": EventKind.ACCEPTED,
    "extend": EventKind.EXTENDED,
    "label": EventKind.LABELLED,
    "restart": EventKind.RESTART_REQUESTED,
    "stop": EventKind.STOP_REQUESTED,
    "start": EventKind.START_REQUESTED,
    "delete": EventKind.DELETE_REQUESTED,
}
_NAMES = {kind: name for name, kind in ACTIONS.items()}
OPEN = b'{"activity":['
OF_JOBS = (
    *("action", "job_id", "labels", "total", "done", "not_found", "failed", "errors", "template", "common"),
    "outcome",
)
"""The fields of an entry that a job has, too."""

Entry = ActivityRequest | Job | AuditEntry
LARGEST = 2**63 - 1
LONGEST_PLACE = 20  # of a job's id, and of the number of a line
LONGEST_TEXT = 100
Place = tuple[int, str]
"""When, and the id of the job or the number of the line. Of one time, jobs come before lines."""


def moment(text: str, sign: int = -1) -> Callable[[int], int]:
    """Return what gives the time in nanoseconds, from the present one; a length is that long ago, or ahead."""
    with suppress(ValueError, OverflowError):
        length = round(parse_duration(text) * NANOSECONDS)
        return lambda now: max(0, now + sign * length)
    with suppress(ValueError, OverflowError):
        time = min(max(0, to_nanoseconds(text)), LARGEST)
        return lambda _: time
    raise ValueError('a duration such as "1h", or a time such as "2026-02-10T02:02:26Z"')


def _text(text: str) -> str:
    if not 0 < len(text) <= LONGEST_TEXT:
        raise ValueError(f"a text of 1 to {LONGEST_TEXT} characters")
    return text


KEY = named("key", "Of the API key with this name.")
ACTION = one_of("action", "Of this action.", contract.ACTIONS)
STACK = named("stack", "About this stack.")
LABEL = labels(
    "About stacks with this label, deleted ones too: `key=value`, or `key` for any value. If repeated, all of them.",
    "challenge=web-1",
)
FIND = Parameter(
    "find",
    "With this text, in any case, in the key's name, the action, a label (`key=value`), the id or the message. If repeated, "
    "all of them.",
    _text,
    {"minLength": 1, "maxLength": LONGEST_TEXT},
    many=True,
    example=["alice"],
)
SINCE = Parameter(
    "since",
    "Since this time (RFC 3339, in UTC), or in the last time of this length.",
    moment,
    {"format": "stackd-since"},
    example="1h",
)
LIMIT = number("limit", f"Most entries on a page; {DEFAULT_PAGE} if not given.", 1, LARGEST_PAGE)
CURSOR = cursor_for("/activity")


@route(
    "GET",
    "/activity",
    HISTORY,
    Answer("Requests.", contract.ActivityPage),
    query=(KEY, ACTION, STACK, LABEL, FIND, SINCE, LIMIT, CURSOR),
)
async def get_activity(call: ApiCall) -> web.StreamResponse:
    """Who did what?

    What API keys have asked for, the latest first. A batch job is one entry, with its counts, as long as it is kept
    (`batch_delete.keep_jobs`); a request about one stack is kept as long as the stack's timeline
    (`stacks.keep_history`). Reloads, changed keys, takeovers, sign-ins, written templates, links, and requests with
    the status 401, 403 or 429 are in it, too: the latest 1000 of each. The same refusal is counted for a minute. A tenant's
    key sees its own requests.
    """
    parameters, context = call.parameters, call.api.context
    key, action = parameters.get(KEY, ""), parameters.get(ACTION)
    limit, since = parameters.get(LIMIT, DEFAULT_PAGE), parameters.get(SINCE)
    before = _before(parameters.get(CURSOR))
    wanted = ActivityFilter(
        principal=call.key.principal.id if call.key.tenant else "",
        name=key,
        kind=ACTIONS.get(action or ""),
        stack_id=parameters.get(STACK, ""),
        labels=parameters.all(LABEL),
        texts=parameters.all(FIND),
        since=0 if since is None else since(context.clock.now()),
        at=before[0],
        seq=int(before[1]) if before[1].isdecimal() else LARGEST,
        limit=limit + 1,
    )
    lines: list[Entry] = [*await _audit(call, wanted, action)]
    if action not in contract.AUDIT:
        lines += await _jobs(context, wanted, action)
    if action is None or action in ACTIONS:
        lines += await context.store.timeline.requests(wanted)
    page = sorted((one for one in lines if _place(one) < before), key=_place, reverse=True)
    cursor = cursor_of(*_place(page[limit - 1])) if len(page) > limit else None
    outcomes = call.api.batch.outcomes
    page = [await outcomes.of(one) if isinstance(one, Job) else one for one in page[:limit]]
    # With the errors of its jobs, a page may be long.
    entries = rendered_entries(page, lambda one: encode(_entry(context, one)))
    return await streamed_list(call.request, OPEN, entries, end_of_page(cursor))


async def _audit(call: ApiCall, wanted: ActivityFilter, action: str | None) -> list[AuditEntry]:
    """What concerns the operator; a tenant, whatever its key is called, sees its own refusals, templates and links only."""
    seen = [AuditKind.REFUSED, AuditKind.TEMPLATE, AuditKind.LINK] if call.key.tenant else list(AuditKind)
    kinds = [kind for kind in seen if action in (None, kind)]
    if not kinds or wanted.stack_id or wanted.labels:
        return []
    return await call.api.context.store.audit.entries(wanted, kinds)


async def _jobs(context: Context, wanted: ActivityFilter, action: str | None) -> list[Job]:
    store = context.store
    about = await store.timeline.jobs_about(wanted) if wanted.stack_id or wanted.labels else None
    return [
        job
        for job in store.jobs
        if wanted.principal in ("", job.by.id)
        and wanted.name in ("", job.by.name)
        and action in (None, job.action)
        and job.created_at >= wanted.since
        and _says(job, wanted.texts)
        and (about is None or job.job_id in about)
    ]


def _says(job: Job, texts: Sequence[str]) -> bool:
    labels = [f"{name}={value}" for name, value in {**job.common, **job.labels}.items()]
    line = " ".join((job.by.name, job.action, length_of(job), job.job_id, job.template or "", *labels)).lower()
    return all(text.lower() in line for text in texts)


def _before(cursor: Place | None) -> Place:
    if cursor is None:
        return LARGEST, "~"
    at, name = cursor
    if not -LARGEST <= at <= LARGEST or len(name) > LONGEST_PLACE or (name.isdecimal() and int(name) > LARGEST):
        raise InvalidRequest("cursor must be the next_cursor of an answer of GET /activity")
    return at, name


def _place(one: Entry) -> Place:
    return (one.created_at, one.job_id) if isinstance(one, Job) else (one.at, f"{one.seq:020d}")


def _entry(context: Context, one: Entry) -> contract.Activity:
    if isinstance(one, Job):
        created, updated = time_of(one.created_at), time_of(one.updated_at)
        return contract.Activity(
            at=created,
            by=one.by.name,
            ttl=length_of(one),
            status=one.status.value,
            created_at=created,
            updated_at=updated,
            **{name: getattr(one, name) for name in OF_JOBS},
        )
    if isinstance(one, AuditEntry):
        return contract.Activity(
            at=time_of(one.at),
            by=one.by.name,
            action=one.kind,
            message=one.message,
            count=one.count,
            status="failed" if one.failed else "completed",
        )
    pending = _is_pending(one.kind, context.store.stacks.get(one.stack_id))
    return contract.Activity(
        at=time_of(one.at),
        by=one.by.name,
        action=_NAMES[one.kind],
        stack_id=one.stack_id,
        labels=one.labels,
        message=one.message,
        status="running" if pending else "completed",
        total=1,
        done=0 if pending else 1,
    )


def _is_pending(kind: EventKind, stack: Stack | None) -> bool:
    """Whether what was requested of the stack is not done yet."""
    if stack is None:
        return False
    if kind is EventKind.DELETE_REQUESTED:
        return True
    if kind is EventKind.STOP_REQUESTED:
        return stack.desired is Desired.STOPPED and not stack.at_rest
    starts = kind in (EventKind.START_REQUESTED, EventKind.RESTART_REQUESTED)
    return starts and stack.desired is Desired.RUNNING and stack.lacks_a_pod and not stack.ended
