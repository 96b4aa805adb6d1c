"""Lists of stacks, by filter and in pages, and jobs about many stacks.

Owns: the format of cursors. A cursor names the last stack of a page, so that pages neither repeat nor skip stacks while
others are created and deleted.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Final

import orjson
from aiohttp import hdrs, web

from stackd import contract
from stackd.errors import InvalidRequest, JobNotFound
from stackd.lifecycle.idempotency import StoredResponse
from stackd.model import Job, JobAction, JobRequest, Stack, list_key
from stackd.store import Claim
from stackd.web import bodies, requests
from stackd.web.api import JOB_ID, Answer, ApiCall, route
from stackd.web.bodies import in_turns, is_unread, read_entries
from stackd.web.parameters import FIELDS, FILTERS, LABEL, Parameter, StackSelection, number
from stackd.web.responses import JSON, ReadyAnswer, json_response, streamed_json
from stackd.web.stacks import STACKS, first_answer, read_body

BATCH = "Batch jobs"
LARGEST_PAGE = 1000
DEFAULT_PAGE = 100
STREAM_ABOVE = 256 * 1024
ENTRIES_OF_PIECE = 64
OPEN: Final = b'{"stacks":['
CLOSE: Final = b"]}"


def cursor_of(at: int, name: str) -> str:
    """The cursor of a page that ends with what has this time and name."""
    return base64.urlsafe_b64encode(f"{at} {name}".encode()).decode().rstrip("=")


def cursor_for(path: str) -> Parameter[tuple[int, str]]:
    """The parameter for the cursor of a route: the time and the name with which the cursor's page ended."""

    def position(cursor: str) -> tuple[int, str]:
        try:
            at, name = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(" ")
            return int(at), name
        except (ValueError, binascii.Error):
            raise InvalidRequest(f"cursor must be the next_cursor of an answer of GET {path}") from None

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
    if call.key.tenant or (call.request.query_string and call.parameters):
        return await _list_selected(call)
    entries = await call.api.bodies.listed()
    if entries is None:
        return await _read_list(call, call.view.stacks(), call.api.bodies.entry, CLOSE)
    size = len(OPEN) + sum(map(len, entries)) + max(0, len(entries) - 1) + len(CLOSE)
    if size <= STREAM_ABOVE or call.request.method == hdrs.METH_HEAD:
        return ReadyAnswer(OPEN + b",".join(entries) + CLOSE)
    # A long list is sent in pieces, at the reader's pace.
    response = web.StreamResponse()
    response.content_type = JSON
    response.content_length = size
    await response.prepare(call.request)
    before = OPEN
    for start in range(0, len(entries), ENTRIES_OF_PIECE):
        await response.write(before + b",".join(entries[start : start + ENTRIES_OF_PIECE]))
        before = b","
    await response.write_eof(CLOSE)
    return response


async def _read_list(
    call: ApiCall, stacks: Sequence[Stack], render: Callable[[Stack], bytes], end: bytes
) -> web.StreamResponse:
    """Stream the list of these stacks, of which some pod specs have to be read."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield OPEN
        async with aclosing(read_entries(stacks, call.api.context.store, render)) as entries:
            async for piece in entries:
                yield piece
        yield end

    return await streamed_json(call.request, pieces())


async def _list_selected(call: ApiCall) -> web.StreamResponse:
    parameters = call.parameters
    selection, fields = StackSelection(parameters), parameters.get(FIELDS)
    cursor = parameters.get(CURSOR)
    limit = parameters.get(LIMIT) or (None if cursor is None else DEFAULT_PAGE)
    stacks = call.view.stacks()
    start = 0 if cursor is None else bisect_right(stacks, cursor, key=list_key)
    page: list[Stack] = []
    async for stack in in_turns(islice(stacks, start, None)):
        if selection.matches(stack):
            page.append(stack)
            if limit is not None and len(page) > limit:
                break
    shown, end = page[:limit], CLOSE
    if limit is not None:
        next_cursor = cursor_of(*list_key(shown[-1])) if len(page) > limit else None
        end = b'],"next_cursor":%b}' % orjson.dumps(next_cursor)
    render = bodies.encoder(contract.Stack, fields) if fields else call.api.bodies.entry
    if (not fields or "pod_spec" in fields) and any(map(is_unread, shown)):
        return await _read_list(call, shown, render, end)
    return json_response(OPEN + b",".join([render(stack) async for stack in in_turns(shown)]) + end)


@route(
    "DELETE",
    "/stacks",
    BATCH,
    Answer("The job.", contract.JobOfMany, status=202, job="getBatchDelete"),
    query=FILTERS,
    required=LABEL,
)
async def delete_stacks(call: ApiCall) -> web.Response:
    """Delete all stacks with a label.

    Starts a batch-delete job for all stacks that match. At least one `label` is required.
    """
    parameters = call.parameters
    selection = StackSelection(parameters)
    if LABEL not in parameters:
        raise InvalidRequest("a label is required to delete by, such as DELETE /stacks?label=team=7")
    ids = [stack.stack_id async for stack in in_turns(call.view.stacks()) if selection.matches(stack)]
    job = await call.api.batch.submit(ids, JobRequest(by=call.key.name))
    call.request[JOB_ID] = job.job_id
    return json_response(bodies.accepted_many_body(job), status=202)


@route(
    "POST",
    "/stacks/batch-delete",
    BATCH,
    Answer("The job.", contract.JobAccepted, status=202, job="getBatchDelete"),
    body=contract.BatchDelete,
    replays=True,
)
async def batch_delete(call: ApiCall) -> web.Response:
    """Delete many stacks.

    Answers at once. Ask for the job's progress with its id.
    """
    body = await read_body(call)

    async def run(claim: Claim | None) -> StoredResponse:
        max_ids = call.api.context.config.batch_delete.max_ids
        fields = requests.parse_object(body, contract.BatchDelete, requests.MOST_PARTS + max_ids)
        ids = requests.stack_ids(fields, max_ids)
        return await _begun(call, ids, JobRequest(by=call.key.name), claim, bodies.accepted_body)

    return await first_answer(call, body, run)


@route(
    "POST",
    "/stacks/batch",
    BATCH,
    Answer("The job.", contract.JobOfMany, status=202, job="getBatch"),
    body=contract.Batch,
    replays=True,
)
async def batch(call: ApiCall) -> web.Response:
    """Do something with many stacks.

    Extends, restarts, stops, starts or deletes them. Answers at once; ask for the job's progress with its id. Labels
    choose their stacks in the moment in which the job is accepted: a stack that is created later is not in the job,
    nor, unless the job deletes, one that is being created or deleted. Each stack is extended or restarted once, even if
    stackd dies in the middle. A job that extends does not wait for other jobs. Restarts and starts of a job do not
    count for `limits.creates_per_second` and `limits.creates_per_label`; at most 8 are under way.
    """
    body = await read_body(call)

    async def run(claim: Claim | None) -> StoredResponse:
        ids, request = requests.batch(body, call.api.context.config, call.key)
        return await _begun(call, ids, request, claim, bodies.accepted_many_body)

    return await first_answer(call, body, run)


async def _begun(
    call: ApiCall, ids: list[str], request: JobRequest, claim: Claim | None, render: Callable[[Job], bytes]
) -> StoredResponse:
    job = await call.api.batch.submit(call.view.of_job(ids), request, claim, render)
    call.request[JOB_ID] = job.job_id
    return StoredResponse(status=202, body=render(job))


@route("GET", "/stacks/batch-delete/{job_id}", BATCH, Answer("The job.", contract.Job))
async def get_batch_delete(call: ApiCall) -> web.Response:
    """Get a batch-delete job.

    Until `batch_delete.keep_jobs` after its end.
    """
    job = _job(call)
    if job.action is not JobAction.DELETE:
        raise JobNotFound(job.job_id)
    return json_response(bodies.job_body(job))


@route("GET", "/stacks/batch/{job_id}", BATCH, Answer("The job.", contract.BatchJob))
async def get_batch(call: ApiCall) -> web.Response:
    """Get a batch job.

    A job of any action, until `batch_delete.keep_jobs` after its end.
    """
    return json_response(bodies.batch_body(_job(call)))


def _job(call: ApiCall) -> Job:
    return call.view.job(call.request.match_info["job_id"])
