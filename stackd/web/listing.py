"""Lists of stacks, by filter and in pages, and jobs about many stacks.

Owns: the format of cursors. A cursor names the last stack of a page, so that pages neither repeat nor skip stacks while
others are created and deleted.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Final

from aiohttp import web
from msgspec import json

from stackd import contract
from stackd.codes import ErrorCode
from stackd.errors import Conflict, JobNotFound
from stackd.jobs.creating import request_of
from stackd.lifecycle.create import dry_run
from stackd.model import NO_LABELS, NO_VALUES, Job, JobAction, JobItem, JobRequest, JobStatus, Stack, list_key
from stackd.store import Claim
from stackd.web import bodies, requests
from stackd.web.api import JOB_ID, Answer, ApiCall, route
from stackd.web.bodies import RENDER_AT_ONCE, in_turns, length_of, read_entries, rendered_entries
from stackd.web.idempotency import StoredResponse
from stackd.web.parameters import (
    DRY_RUN,
    FIELDS,
    FILTERS,
    LABEL,
    Parameter,
    Parameters,
    StackSelection,
    any_of,
    flag,
    number,
)
from stackd.web.responses import json_response, streamed_list
from stackd.web.stacks import STACKS, TIMEOUT, Run, first_answer, patience, unrepeated

BATCH = "Batch jobs"
LARGEST_PAGE = 1000
DEFAULT_PAGE = 100
STREAM_ABOVE = 256 * 1024
LONGEST_PIECE = 128 * 1024
"""How much of a long list is written at a time. A reader who does not read holds as much memory."""

WOULD: Final = Answer("With `dry_run`: what it would do.", contract.JobDryRun)
WAIT: Final = any_of(
    "wait",
    "Wait for one of these statuses, with commas between them, or for the job's end, before answering.",
    [*JobStatus],
)
RESULTS: Final = flag("results", "`true` or `1`: with what became of each of its stacks.")
OPEN: Final = b'{"stacks":['
CLOSE: Final = b"]}"


def cursor_of(at: int, name: str) -> str:
    """The cursor of a page that ends with what has this time and name."""
    return base64.urlsafe_b64encode(f"{at} {name}".encode()).decode().rstrip("=")


def end_of_page(next_cursor: str | None) -> bytes:
    """The end of a page, which says where the next one begins; None: nowhere."""
    return b'],"next_cursor":%b}' % json.encode(next_cursor)


def cursor_for(path: str) -> Parameter[tuple[int, str]]:
    """The parameter for the cursor of a route: the time and the name with which the cursor's page ended."""

    def position(cursor: str) -> tuple[int, str]:
        try:
            at, name = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(" ")
            return int(at), name
        except (ValueError, binascii.Error):
            raise ValueError(f"the next_cursor of an answer of GET {path}") from None

    return Parameter("cursor", "The `next_cursor` of the previous page.", position, {"format": "stackd-cursor"})


CURSOR: Final = cursor_for("/stacks")
LIMIT: Final = number(
    "limit",
    f"Most stacks on a page ({DEFAULT_PAGE} if only a cursor is given). The answer then has `next_cursor`.",
    1,
    LARGEST_PAGE,
)


@route("GET", "/stacks", STACKS, Answer("Stacks.", contract.StackList), query=(*FILTERS, LIMIT, CURSOR, FIELDS))
async def list_stacks(call: ApiCall) -> web.StreamResponse:
    """List stacks.

    Without parameters: all stacks, with the documented fields.
    """
    parameters = call.parameters
    stacks, end = await _page(parameters, call.view.stacks())
    fields, cache = parameters.get(FIELDS), call.api.bodies
    render = bodies.encoder(contract.Stack, fields) if fields else cache.entry
    if (not fields or "pod_spec" in fields) and cache.has_unread(stacks):
        return await streamed_list(call.request, OPEN, read_entries(stacks, call.api.context.store, render), end)
    if fields and len(stacks) > RENDER_AT_ONCE:
        return await streamed_list(call.request, OPEN, rendered_entries(stacks, render), end)
    entries = list(map(render, stacks)) if fields else await cache.entries(stacks)
    if sum(map(len, entries)) <= STREAM_ABOVE:
        return json_response(OPEN + b",".join(entries) + end)
    return await streamed_list(call.request, OPEN, _pieces(entries), end, compressed=False)


async def _pieces(entries: Sequence[bytes]) -> AsyncGenerator[bytes, None]:
    step, comma = max(1, LONGEST_PIECE // max(map(len, entries))), b""
    for start in range(0, len(entries), step):
        yield comma + b",".join(entries[start : start + step])
        comma = b","


async def _page(parameters: Parameters, stacks: tuple[Stack, ...]) -> tuple[Sequence[Stack], bytes]:
    """The stacks that the request selects, of all that the key may see, and the end of their list."""
    selection, cursor, limit = StackSelection(parameters), parameters.get(CURSOR), parameters.get(LIMIT)
    if not selection and cursor is None and limit is None:
        return stacks, CLOSE
    limit = limit or (None if cursor is None else DEFAULT_PAGE)
    start = 0 if cursor is None else bisect_right(stacks, cursor, key=list_key)
    page: list[Stack] = []
    async for stack in in_turns(islice(stacks, start, None)):
        if selection.matches(stack):
            page.append(stack)
            if limit is not None and len(page) > limit:
                break
    if limit is None:
        return page, CLOSE
    next_cursor = cursor_of(*list_key(page[limit - 1])) if len(page) > limit else None
    return page[:limit], end_of_page(next_cursor)


@route(
    "DELETE",
    "/stacks",
    BATCH,
    Answer("The job.", contract.JobOfMany, status=202, job="getBatchDelete"),
    WOULD,
    query=(replace(LABEL, required=True), *FILTERS[1:], DRY_RUN),
)
async def delete_stacks(call: ApiCall) -> web.Response:
    """Delete all stacks with a label.

    Starts a batch-delete job for all stacks that match. At least one `label` is required.
    """
    parameters = call.parameters
    selection = StackSelection(parameters)
    ids = [stack.stack_id async for stack in in_turns(call.view.stacks()) if selection.matches(stack)]
    answer = await _begun(call, ids, JobRequest(by=call.key.principal), None, bodies.accepted_many_body)
    return json_response(answer.body, answer.status)


@route(
    "POST",
    "/stacks/batch-delete",
    BATCH,
    Answer("The job.", contract.JobAccepted, status=202, job="getBatchDelete"),
    WOULD,
    query=(DRY_RUN,),
    body=contract.BatchDelete,
    replays=True,
)
async def batch_delete(call: ApiCall) -> web.Response:
    """Delete many stacks.

    Answers at once. Ask for the job's progress with its id.
    """

    async def run(body: bytes, claim: Claim | None) -> StoredResponse:
        max_ids = call.api.context.config.batch_delete.max_ids
        ids = requests.stack_ids(requests.parse_many(body, contract.BatchDelete, max_ids).stack_ids)
        return await _begun(call, ids, JobRequest(by=call.key.principal), claim, bodies.accepted_body)

    return await _answered(call, run, bodies.accepted_body)


@route(
    "POST",
    "/stacks/batch",
    BATCH,
    Answer("The job.", contract.JobOfMany, status=202, job="getBatch"),
    WOULD,
    query=(DRY_RUN,),
    body=contract.Batch,
    replays=True,
)
async def batch(call: ApiCall) -> web.Response:
    """Do something with many stacks.

    Extends, restarts, stops, starts or deletes them, or creates many from a template. Answers at once; ask for the job's
    progress with its id. Labels
    choose their stacks in the moment in which the job is accepted: a stack that is created later is not in the job,
    nor, unless the job deletes, one that is being created or deleted. Each stack is extended or restarted once, even if
    stackd dies in the middle. A job that extends does not wait for other jobs. Restarts and starts of a job do not
    count for `limits.creates_per_second` and `limits.creates_per_label`; at most 8 are under way.

    A job that creates makes each of its stacks once, or counts it as failed, with the error that a create would answer; at
    most 16 are under way. Pools serve them first. They count for `limits.creates_per_label` when the job is accepted, and
    not for `limits.creates_per_second`.
    """

    async def run(body: bytes, claim: Claim | None) -> StoredResponse:
        ids, request = await requests.batch(call.view, body)
        counted = () if call.parameters.get(DRY_RUN) else request.each
        with call.api.limits.per_label.create_all((one.labels for one in counted), call.key.labels):
            return await _begun(call, ids, request, claim, bodies.accepted_many_body)

    return await _answered(call, run, bodies.accepted_many_body)


async def _answered(call: ApiCall, run: Run, render: Callable[[Job], bytes]) -> web.Response:
    if call.parameters.get(DRY_RUN):
        return await unrepeated(call, run)
    return await first_answer(call, run, partial(_about_job, call, render))


async def _begun(
    call: ApiCall, ids: list[str], request: JobRequest, claim: Claim | None, render: Callable[[Job], bytes]
) -> StoredResponse:
    if call.parameters.get(DRY_RUN):
        return await _tried(call, call.view.of_job(ids), request)
    job = await call.api.batch.submit(call.view.of_job(ids), request, claim)
    call.request[JOB_ID] = job.job_id
    return StoredResponse(status=202, body=render(job))


async def _tried(call: ApiCall, ids: list[str], request: JobRequest) -> StoredResponse:
    context = call.api.context
    total, found = await context.store.jobs.chosen(ids, request)
    if request.each:
        await _check_creates(call, request)
        total, found = len(request.each), []
    body = contract.JobDryRun(
        action=request.action.value,
        ttl=length_of(request),
        total=total,
        not_found=0 if request.each else total - len(found),
        stack_ids=tuple(found),
    )
    return StoredResponse(status=200, body=bodies.encode(body))


async def _check_creates(call: ApiCall, request: JobRequest) -> None:
    """Raise what one of the creates would raise now; the cluster checks the first one of each template, which stands for all
    of it."""
    context = call.api.context
    wanted = [request_of(context, request, one) for one in request.each]
    for one in wanted:
        call.api.limits.per_label.check(one.labels, call.key.labels)
        ports = one.node_ports * len(wanted)
        limits = one.limits(context.config.limits)
        await context.store.stacks.check(one.labels, ports=ports, cost=one.cost, limits=limits)
    firsts = {one.template.name: one for one in reversed(wanted) if one.template is not None}
    for one in firsts.values():
        await dry_run(context, one)


async def _about_job(call: ApiCall, render: Callable[[Job], bytes], claim: Claim) -> bytes:
    job = call.api.context.store.jobs.get(claim.job_id or "")
    if job is None:
        sentence = f"the first request with this Idempotency-Key has started {claim.job_id}, which is no longer kept"
        raise Conflict(sentence, code=ErrorCode.ANSWER_GONE)
    return render(job)


@route("GET", "/stacks/batch-delete/{job_id}", BATCH, Answer("The job.", contract.Job), query=(WAIT, TIMEOUT))
async def get_batch_delete(call: ApiCall) -> web.Response:
    """Get a batch-delete job.

    Until `batch_delete.keep_jobs` after its end.
    """
    job = _job(call)
    if job.action is not JobAction.DELETE:
        raise JobNotFound(job.job_id)
    return json_response(bodies.job_body(await _awaited(call, job)))


@route("GET", "/stacks/batch/{job_id}", BATCH, Answer("The job.", "BatchJob"), query=(RESULTS, WAIT, TIMEOUT))
async def get_batch(call: ApiCall) -> web.StreamResponse:
    """Get a batch job.

    A job of any action, until `batch_delete.keep_jobs` after its end.
    """
    job = await call.api.batch.outcomes.of(await _awaited(call, _job(call)))
    if not call.parameters.get(RESULTS):
        return json_response(bodies.batch_body(job))
    results = [_result(call, job, item) for item in await call.api.context.store.jobs.items(job.job_id)]
    begin = bodies.batch_body(job)[:-1] + b',"results":['
    return await streamed_list(call.request, begin, rendered_entries(results, bodies.encode), CLOSE)


def _result(call: ApiCall, job: Job, item: JobItem) -> contract.JobResult:
    """What became of an item; the values of a stack that it has created are its creator's."""
    of_create = item.wanted is not None and item.stack_id and job.by.id == call.key.principal.id
    stack = call.view.get(item.stack_id) if of_create else None
    return contract.JobResult(
        index=item.index,
        stack_id=item.stack_id,
        outcome=item.state,
        error=item.error or "",
        code=item.code or "",
        labels=item.wanted.labels if item.wanted is not None else NO_LABELS,
        values=stack.values if stack is not None else NO_VALUES,
    )


async def _awaited(call: ApiCall, job: Job) -> Job:
    wanted, seconds = call.parameters.get(WAIT), patience(call)
    return await call.api.batch.until(job, [*map(JobStatus, wanted)], seconds) if wanted else job


def _job(call: ApiCall) -> Job:
    return call.view.job(call.parts["job_id"])
