"""The stack routes of the contract."""

from __future__ import annotations

from aiohttp import hdrs, web

from stackd.errors import InvalidRequest, JobNotFound, StackNotFound
from stackd.lifecycle.create import Order, create
from stackd.lifecycle.delete import delete
from stackd.lifecycle.replay import Answer, Replayable
from stackd.metrics import INVALID
from stackd.model import Stack
from stackd.podspec import parse_target_ports
from stackd.store import Claim
from stackd.web import answers, bodies
from stackd.web.api import JOB_ID, STACK_ID, Call, json_response
from stackd.web.ready import ReadyAnswer

IDEMPOTENCY_KEY = "Idempotency-Key"
REPLAYED = {"Idempotency-Replayed": "true"}
CREATE_FIELDS = ("target_port", "pod_spec")
STREAM_ABOVE = 256 * 1024


async def create_stack(call: Call) -> web.Response:
    """``POST /stacks``"""
    body = await _body(call)
    order = _order(call, body)
    with call.api.limits.create(call.key.name):
        if (replayable := _replayable(call, body)) is None:
            stack = await create(call.api.room, order)
            call.request[STACK_ID] = stack.stack_id
            return json_response(answers.created_body(stack), status=201)

        async def run(claim: Claim) -> Answer:
            stack = await create(call.api.room, order.under(claim, answers.created_body))
            call.request[STACK_ID] = stack.stack_id
            return Answer(status=201, body=answers.created_body(stack))

        return _replayed(await call.api.replays.once(replayable, run))


async def list_stacks(call: Call) -> web.StreamResponse:
    """``GET /stacks``"""
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
    return ReadyAnswer(call.api.answers.detail(_stack(call)))


async def get_status(call: Call) -> web.Response:
    """``GET /stacks/{stack_id}/status``"""
    return ReadyAnswer(call.api.answers.status(_stack(call)))


async def delete_stack(call: Call) -> web.Response:
    """``DELETE /stacks/{stack_id}``"""
    stack_id = call.request.match_info["stack_id"]
    await delete(call.api.room, stack_id)
    return json_response(answers.deleted_body(stack_id))


async def batch_delete(call: Call) -> web.Response:
    """``POST /stacks/batch-delete``"""
    body = await _body(call)
    fields = bodies.parse_object(body, ("stack_ids",), ("stack_ids",))
    ids = bodies.stack_ids(fields, call.api.room.config.batch_delete.max_ids)
    if (replayable := _replayable(call, body)) is None:
        job = await call.api.batch.submit(ids)
        call.request[JOB_ID] = job.job_id
        return json_response(answers.accepted_body(job), status=202)

    async def run(claim: Claim) -> Answer:
        job = await call.api.batch.submit(ids, claim, answers.accepted_body)
        return Answer(status=202, body=answers.accepted_body(job))

    return _replayed(await call.api.replays.once(replayable, run))


async def get_job(call: Call) -> web.Response:
    """``GET /stacks/batch-delete/{job_id}``"""
    job_id = call.request.match_info["job_id"]
    job = call.api.room.store.jobs.get(job_id)
    if job is None:
        raise JobNotFound(job_id)
    return json_response(answers.job_body(job))


def _stack(call: Call) -> Stack:
    stack_id = call.request.match_info["stack_id"]
    stack = call.api.room.store.stacks.get(stack_id)
    if stack is None:
        raise StackNotFound(stack_id)
    return stack


async def _body(call: Call) -> bytes:
    config = call.api.room.config
    return await bodies.read(call.request, config.server.max_body, config.limits.slow_client_timeout)


def _order(call: Call, body: bytes) -> Order:
    measured = call.api.room.metrics
    laps = measured.laps()
    try:
        fields = bodies.parse_object(body, CREATE_FIELDS, CREATE_FIELDS)
        ports = parse_target_ports(fields["target_port"])
        spec = call.api.room.sanitizer.sanitize(bodies.text(fields, "pod_spec"), ports)
    except InvalidRequest:
        measured.creates[INVALID] += 1
        raise
    finally:
        laps.end("validate")
    return Order(spec=spec, target_ports=ports)


def _replayable(call: Call, body: bytes) -> Replayable | None:
    key = call.request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return None
    return Replayable(scope=f"{call.key.name} {call.request.method} {call.request.path}", key=key, body=body)


def _replayed(answer: Answer) -> web.Response:
    return json_response(answer.body, answer.status, REPLAYED if answer.replayed else None)
