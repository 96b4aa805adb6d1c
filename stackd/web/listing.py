"""Lists of stacks, by filter and in pages, and jobs about many stacks.

Owns: the format of cursors. A cursor names the last stack of a page, so that pages neither repeat nor skip stacks while
others are created and deleted.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

import orjson
from aiohttp import hdrs, web

from stackd import contract
from stackd.errors import InvalidRequest, JobNotFound
from stackd.lifecycle.idempotency import StoredResponse
from stackd.model import Job, JobAction, JobRequest, Stack, list_key
from stackd.store import Claim
from stackd.web import bodies, examples, requests
from stackd.web.api import JOB_ID, Answer, ApiCall, route
from stackd.web.bodies import CLOSE, OPEN, in_turns, is_unread, listed_body, read_missing, rendered
from stackd.web.parameters import Parameter, number
from stackd.web.responses import JSON, ReadyAnswer, json_response, streamed_json
from stackd.web.selection import FIELDS, FILTERS, LABEL, StackSelection
from stackd.web.stacks import STACKS, WRITTEN_ONCE, first_answer, read_body

BATCH = "Batch jobs"
LARGEST_PAGE = 1000
DEFAULT_PAGE = 100
STREAM_ABOVE = 256 * 1024


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


def _job_answer(body: type[contract.Body], job: str, *, replayed: bool = True) -> dict[int, Answer]:
    example: dict[str, Any] = {"job_id": examples.JOB_ID} | ({"total": 3} if body is contract.JobOfMany else {})
    return {202: Answer(about="The job.", body=body, examples={"accepted": example}, job=job, replayed=replayed)}


@route(
    "GET",
    "/stacks",
    id="listStacks",
    tag=STACKS,
    summary="List stacks",
    about="Without parameters: all stacks, with the documented fields.",
    query=(*FILTERS, LIMIT, CURSOR, FIELDS),
    answers={
        200: Answer(about="Stacks.", body=contract.StackList, examples={"one": {"stacks": [examples.LISTED_STACK]}})
    },
)
async def list_stacks(call: ApiCall) -> web.StreamResponse:
    """List all stacks, or those that the parameters select."""
    if call.key.tenant or (call.request.query_string and call.parameters):
        return await _list_selected(call)
    parts = await call.api.bodies.everything()
    pieces = [part for part in parts if not isinstance(part, tuple)]
    if len(pieces) < len(parts):
        return await streamed_json(call.request, read_missing(parts, call.api.context.store, listed_body))
    size = sum(map(len, pieces))
    if size <= STREAM_ABOVE or call.request.method == hdrs.METH_HEAD:
        return ReadyAnswer(b"".join(pieces))
    # A long list is sent piece by piece, at the reader's pace: a slow one holds references to shared bytes, no copies.
    response = web.StreamResponse()
    response.content_type = JSON
    response.content_length = size
    await response.prepare(call.request)
    for piece in pieces:
        await response.write(piece)
    await response.write_eof()
    return response


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
    render = bodies.encoder(contract.Stack, fields) if fields else listed_body
    if (not fields or "pod_spec" in fields) and any(map(is_unread, shown)):
        pieces = [OPEN, *rendered(shown, render), end]
        return await streamed_json(call.request, read_missing(pieces, call.api.context.store, render))
    return json_response(OPEN + b",".join([render(stack) async for stack in in_turns(shown)]) + end)


@route(
    "DELETE",
    "/stacks",
    id="deleteStacks",
    tag=BATCH,
    summary="Delete all stacks with a label",
    about="Starts a batch-delete job for all stacks that match. At least one `label` is required.",
    query=FILTERS,
    required=LABEL,
    answers=_job_answer(contract.JobOfMany, "getBatchDelete", replayed=False),
)
async def delete_matching(call: ApiCall) -> web.Response:
    """Start a job that deletes all stacks that match."""
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
    id="batchDelete",
    tag=BATCH,
    summary="Delete many stacks",
    about="Answers at once. Ask for the job's progress with its id.",
    query=(WRITTEN_ONCE,),
    body=contract.BatchDelete,
    examples={"three": {"stack_ids": ["stack-1", "stack-2", "stack-3"]}},
    answers=_job_answer(contract.JobAccepted, "getBatchDelete"),
    errors=(409, 422),
    replays=True,
)
async def batch_delete(call: ApiCall) -> web.Response:
    """Start a job that deletes these stacks."""
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
    id="batch",
    tag=BATCH,
    summary="Do something with many stacks",
    about="Extends, restarts, stops, starts or deletes them. Answers at once; ask for the job's progress with its id. Labels "
    "choose their stacks in the moment in which the job is accepted: a stack that is created later is not in the job, nor, "
    "unless the job deletes, one that is being created or deleted. Each stack is extended or restarted once, even if stackd "
    "dies in the middle. A job that extends does not wait for other jobs. Restarts and starts of a job do not count for "
    "`limits.creates_per_second` and `limits.creates_per_label`; at most 8 are under way.",
    query=(WRITTEN_ONCE,),
    body=contract.Batch,
    examples=examples.BATCHES,
    answers=_job_answer(contract.JobOfMany, "getBatch"),
    errors=(409, 422),
    replays=True,
)
async def batch(call: ApiCall) -> web.Response:
    """Start a job that does something with many stacks."""
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


@route(
    "GET",
    "/stacks/batch-delete/{job_id}",
    id="getBatchDelete",
    tag=BATCH,
    summary="Get a batch-delete job",
    about="Until `batch_delete.keep_jobs` after its end.",
    answers={200: Answer(about="The job.", body=contract.Job, examples={"finished": examples.JOB})},
)
async def get_job(call: ApiCall) -> web.Response:
    """Read a job that deletes."""
    job = _job(call)
    if job.action is not JobAction.DELETE:
        raise JobNotFound(job.job_id)
    return json_response(bodies.job_body(job))


@route(
    "GET",
    "/stacks/batch/{job_id}",
    id="getBatch",
    tag=BATCH,
    summary="Get a batch job",
    about="A job of any action, until `batch_delete.keep_jobs` after its end.",
    answers={200: Answer(about="The job.", body=contract.BatchJob, examples={"finished": examples.BATCH_JOB})},
)
async def get_batch(call: ApiCall) -> web.Response:
    """Read any job."""
    return json_response(bodies.batch_body(_job(call)))


def _job(call: ApiCall) -> Job:
    return call.view.job(call.request.match_info["job_id"])
