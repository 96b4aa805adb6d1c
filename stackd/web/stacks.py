"""The stack routes of the contract."""

from __future__ import annotations

from aiohttp import hdrs, web

from stackd.errors import JobNotFound, StackNotFound
from stackd.lifecycle.create import Order, create
from stackd.lifecycle.create_once import create_once
from stackd.lifecycle.delete import delete
from stackd.lifecycle.dry_run import dry_run
from stackd.lifecycle.replay import Answer, Replayable, check_key
from stackd.lifecycle.waiting import until_status
from stackd.model import Stack
from stackd.store import Claim
from stackd.web import answers, bodies, finding, orders
from stackd.web.api import JOB_ID, STACK_ID, Call, json_response
from stackd.web.parameters import Parameters
from stackd.web.ready import ReadyAnswer

IDEMPOTENCY_KEY = "Idempotency-Key"
REPLAYED = {"Idempotency-Replayed": "true"}
DRY_RUN = "dry_run"
ALL_ONCE = (*finding.FILTERS_ONCE, *finding.PAGING)
DEFAULT_WAIT = 30.0
LONGEST_WAIT = 60.0
STREAM_ABOVE = 256 * 1024


async def create_stack(call: Call) -> web.Response:
    """``POST /stacks``"""
    dry = bool(call.request.query_string) and Parameters(call.request, (DRY_RUN,)).flag(DRY_RUN)
    body = await read_body(call)
    with call.api.limits.create(call.key.name):
        asked = orders.parse(call, body)
        again = replayable(call, body)
        if dry:
            await dry_run(call.api.room, asked.order)
            return json_response(answers.dry_run_body(asked.order.spec))
        if again is None:
            answer = await _created(call, asked, asked.order)
            return json_response(answer.body, answer.status)

        async def run(claim: Claim) -> Answer:
            return await _created(call, asked, asked.order.under(claim, answers.created_body))

        return replayed(await call.api.replays.once(again, run))


async def _created(call: Call, asked: orders.Asked, order: Order) -> Answer:
    if asked.return_existing:
        stack, is_new = await create_once(call.api.room, order)
    else:
        stack, is_new = await create(call.api.room, order), True
    call.request[STACK_ID] = stack.stack_id
    return Answer(status=201 if is_new else 200, body=answers.created_body(stack))


async def list_stacks(call: Call) -> web.StreamResponse:
    """``GET /stacks``"""
    if call.request.query_string and Parameters(call.request, ALL_ONCE, finding.FILTERS_MANY):
        return await finding.found(call)
    pieces = await call.api.answers.everything()
    size = sum(map(len, pieces))
    if size <= STREAM_ABOVE or call.request.method == hdrs.METH_HEAD:
        return ReadyAnswer(b"".join(pieces))
    # A long list goes out piece by piece, at the reader's pace: a slow one holds references to shared bytes, no copies.
    response = web.StreamResponse()
    response.content_type = "application/json"
    response.content_length = size
    await response.prepare(call.request)
    for piece in pieces:
        await response.write(piece)
    await response.write_eof()
    return response


async def get_stack(call: Call) -> web.Response:
    """``GET /stacks/{stack_id}``"""
    return ReadyAnswer(call.api.answers.detail(stack_of(call)))


async def get_status(call: Call) -> web.Response:
    """``GET /stacks/{stack_id}/status``"""
    if call.request.query_string and (query := Parameters(call.request, ("wait", "timeout"))):
        return await _awaited_status(call, query)
    return ReadyAnswer(call.api.answers.status(stack_of(call)))


async def _awaited_status(call: Call, query: Parameters) -> web.Response:
    stack = stack_of(call)
    seconds = min(query.seconds("timeout", DEFAULT_WAIT), LONGEST_WAIT)
    if (wait := query.get("wait")) is not None:
        status = finding.status_of("wait", wait)
        stack = await until_status(call.api.room, stack.stack_id, status, 0.0 if call.api.draining else seconds)
    return ReadyAnswer(call.api.answers.status(stack))


async def delete_stack(call: Call) -> web.Response:
    """``DELETE /stacks/{stack_id}``"""
    stack_id = call.request.match_info["stack_id"]
    await delete(call.api.room, stack_id, by=call.key.name)
    return json_response(answers.deleted_body(stack_id))


async def batch_delete(call: Call) -> web.Response:
    """``POST /stacks/batch-delete``"""
    body = await read_body(call)
    fields = bodies.parse_object(body, ("stack_ids",), ("stack_ids",))
    ids = bodies.stack_ids(fields, call.api.room.config.batch_delete.max_ids)
    if (again := replayable(call, body)) is None:
        job = await call.api.batch.submit(ids, by=call.key.name)
        call.request[JOB_ID] = job.job_id
        return json_response(answers.accepted_body(job), status=202)

    async def run(claim: Claim) -> Answer:
        job = await call.api.batch.submit(ids, claim, answers.accepted_body, by=call.key.name)
        return Answer(status=202, body=answers.accepted_body(job))

    return replayed(await call.api.replays.once(again, run))


async def get_job(call: Call) -> web.Response:
    """``GET /stacks/batch-delete/{job_id}``"""
    job_id = call.request.match_info["job_id"]
    job = call.api.room.store.jobs.get(job_id)
    if job is None:
        raise JobNotFound(job_id)
    return json_response(answers.job_body(job))


def stack_of(call: Call) -> Stack:
    """The stack that the path names. Raises StackNotFound."""
    stack_id = call.request.match_info["stack_id"]
    stack = call.api.room.store.stacks.get(stack_id)
    if stack is None:
        raise StackNotFound(stack_id)
    return stack


async def read_body(call: Call) -> bytes:
    """The request's body, within the limits in force. Raises RequestTooLarge, InvalidRequest."""
    config = call.api.room.config
    return await bodies.read(call.request, config.server.max_body, config.limits.slow_client_timeout)


def replayable(call: Call, body: bytes) -> Replayable | None:
    """The request under its Idempotency-Key, None where it has none."""
    key = call.request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return None
    check_key(key)
    return Replayable(scope=f"{call.key.name} {call.request.method} {call.request.path}", key=key, body=body)


def replayed(answer: Answer) -> web.Response:
    """The answer to a request under a key, saying whether it was given before."""
    return json_response(answer.body, answer.status, REPLAYED if answer.replayed else None)
