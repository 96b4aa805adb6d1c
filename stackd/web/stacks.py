"""The routes of stacks: create, read, change and delete them; their timeline and logs.

A start or restart costs the cluster as much as a create, and counts as one for the limits of a key and of a label.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol
from urllib.parse import quote

import orjson
from aiohttp import hdrs, web

from stackd.clock import from_nanoseconds
from stackd.errors import ClusterUnavailable, InvalidRequest, JobNotFound, StackNotFound
from stackd.lifecycle.context import Context
from stackd.lifecycle.create import create, create_once, dry_run
from stackd.lifecycle.create_request import CreateRequest
from stackd.lifecycle.delete import delete
from stackd.lifecycle.diagnostics import read_logs
from stackd.lifecycle.idempotency import Replayable, StoredResponse, check_key
from stackd.lifecycle.observe import until_gone, until_status
from stackd.lifecycle.restart import restart, start, stop
from stackd.lifecycle.ttl import extend
from stackd.model import Job, JobAction, JobRequest, Stack, TimelineEvent
from stackd.store import Claim, Store
from stackd.web import bodies, listing, requests
from stackd.web.api import IDEMPOTENCY_KEY, JOB_ID, STACK_ID, ApiCall
from stackd.web.requests import CreateBody, Parameters
from stackd.web.responses import JSON, ReadyAnswer, json_response, streamed_json
from stackd.web.stack_fields import FILTERS_MANY, FILTERS_ONCE, status_named

REPLAYED = {"Idempotency-Replayed": "true"}
DRY_RUN = "dry_run"
ALL_ONCE = (*FILTERS_ONCE, *listing.PAGING)
DELETED = "deleted"
"""A value of ``wait`` beside the statuses."""

DEFAULT_WAIT = 30.0
LONGEST_WAIT = 60.0
STREAM_ABOVE = 256 * 1024
EXTEND_FIELDS = ("ttl",)
DEFAULT_TAIL = 200
LONGEST_TAIL = 10_000


async def create_stack(call: ApiCall) -> web.Response:
    """``POST /stacks``"""
    dry = bool(call.request.query_string) and Parameters(call.request, (DRY_RUN,)).flag(DRY_RUN)
    body = await read_body(call)
    if dry:
        return await _tried(call, body)

    async def run(claim: Claim | None) -> StoredResponse:
        with call.api.limits.create(call.key.name):
            parsed = await requests.create_body(call.view, body)
            rendered = CreatedBody(bodies.created_body)
            create_request = parsed.create_request
            if claim is not None:
                create_request = create_request.under(claim, rendered)
            with requests.refusals_located(parsed):
                return await _created(call, parsed, create_request, rendered)

    return await first_answer(call, body, run)


async def _tried(call: ApiCall, body: bytes) -> web.Response:
    idempotency_key(call)
    call.within_limits()
    with call.api.limits.create(call.key.name):
        parsed = await requests.create_body(call.view, body)
        create_request = parsed.create_request
        call.api.limits.per_label.check(create_request.labels, call.key.labels)
        with requests.refusals_located(parsed):
            await dry_run(call.api.context, create_request)
    return json_response(bodies.dry_run_body(create_request.spec))


class CreatedBody:
    """Renders the answer to a create once, so that the same bytes are kept under its Idempotency-Key and sent."""

    def __init__(self, render: Callable[[Stack], bytes]) -> None:
        self._render = render
        self._kept: tuple[str, bytes] | None = None

    def __call__(self, stack: Stack) -> bytes:
        """Render the answer that is kept under the key (on the store's thread)."""
        body = self._render(stack)
        self._kept = (stack.stack_id, body)
        return body

    async def of(self, store: Store, stack: Stack) -> bytes:
        """The answer for the new stack."""
        if self._kept is not None and self._kept[0] == stack.stack_id:
            return self._kept[1]
        return self._render(await store.stacks.whole(stack))


async def _created(
    call: ApiCall, parsed: CreateBody, create_request: CreateRequest, rendered: CreatedBody
) -> StoredResponse:
    with call.api.limits.per_label.create(create_request.labels, call.key.labels) as not_made:
        if parsed.return_existing:
            stack, is_new = await create_once(call.api.context, create_request)
        else:
            stack, is_new = await create(call.api.context, create_request), True
        if not is_new:
            not_made()
    call.request[STACK_ID] = stack.stack_id
    if is_new:
        return StoredResponse(status=201, body=await rendered.of(call.api.context.store, stack))
    # Only the creator of a stack gets its generated values.
    body = await _detail(call.api.context, stack)
    if create_request.claim is not None:
        await call.api.context.store.claims.keep(replace(create_request.claim, status=200, answer=body))
    return StoredResponse(status=200, body=body)


async def list_stacks(call: ApiCall) -> web.StreamResponse:
    """``GET /stacks``"""
    if call.key.tenant or (call.request.query_string and Parameters(call.request, ALL_ONCE, FILTERS_MANY)):
        return await listing.list_matching(call)
    parts = await call.api.bodies.everything()
    pieces = [part for part in parts if not isinstance(part, tuple)]
    if len(pieces) < len(parts):
        return await streamed_json(call.request, bodies.read_late(parts, call.api.context.store, bodies.listed_body))
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


async def get_stack(call: ApiCall) -> web.StreamResponse:
    """``GET /stacks/{stack_id}``"""
    return ReadyAnswer(await call.api.bodies.detail(stack_of(call)))


async def get_status(call: ApiCall) -> web.StreamResponse:
    """``GET /stacks/{stack_id}/status``"""
    if call.request.query_string and (query := Parameters(call.request, ("wait", "timeout"))):
        return await _awaited_status(call, query)
    return ReadyAnswer(call.api.bodies.status(stack_of(call)))


async def _awaited_status(call: ApiCall, query: Parameters) -> web.StreamResponse:
    stack = stack_of(call)
    seconds, wait = _patience(call, query), query.get("wait")
    if wait == DELETED:
        left = await until_gone(call.api.context, stack.stack_id, seconds)
        if left is None:
            return json_response(bodies.deleted_body(stack.stack_id))
        stack = left
    elif wait is not None:
        status = status_named("wait", wait, DELETED)
        stack = await until_status(call.api.context, stack.stack_id, status, seconds)
    return ReadyAnswer(call.api.bodies.status(stack))


def _patience(call: ApiCall, query: Parameters) -> float:
    """How many seconds this request may wait; 0 while stackd stops."""
    seconds = min(query.seconds("timeout", DEFAULT_WAIT), LONGEST_WAIT)
    return 0.0 if call.api.draining else seconds


async def delete_stack(call: ApiCall) -> web.Response:
    """``DELETE /stacks/{stack_id}``; with ``wait=deleted`` it also waits for a cluster that needs a while."""
    context = call.api.context
    query = Parameters(call.request, ("wait", "timeout"))
    if query.get("wait") not in (None, DELETED):
        raise InvalidRequest(f"wait must be {DELETED}, not {query.get('wait')!r}")
    end = context.clock.monotonic() + _patience(call, query)
    stack_id = stack_of(call).stack_id
    try:
        await delete(context, stack_id, by=call.key.name)
    except ClusterUnavailable:
        left = end - context.clock.monotonic() if "wait" in query else 0.0
        if left <= 0 or await until_gone(context, stack_id, left) is not None:
            raise
    return json_response(bodies.deleted_body(stack_id))


async def batch_delete(call: ApiCall) -> web.Response:
    """``POST /stacks/batch-delete``"""
    body = await read_body(call)

    async def run(claim: Claim | None) -> StoredResponse:
        max_ids = call.api.context.config.batch_delete.max_ids
        fields = requests.parse_object(body, ("stack_ids",), ("stack_ids",), requests.MOST_PARTS + max_ids)
        ids = requests.stack_ids(fields, max_ids)
        return await _begun(call, ids, JobRequest(by=call.key.name), claim, bodies.accepted_body)

    return await first_answer(call, body, run)


async def batch(call: ApiCall) -> web.Response:
    """``POST /stacks/batch``"""
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


async def get_job(call: ApiCall) -> web.Response:
    """``GET /stacks/batch-delete/{job_id}``: of the jobs that delete."""
    job = _job(call)
    if job.action is not JobAction.DELETE:
        raise JobNotFound(job.job_id)
    return json_response(bodies.job_body(job))


async def get_batch(call: ApiCall) -> web.Response:
    """``GET /stacks/batch/{job_id}``: of all jobs."""
    return json_response(bodies.batch_body(_job(call)))


def _job(call: ApiCall) -> Job:
    return call.view.job(call.request.match_info["job_id"])


def stack_of(call: ApiCall) -> Stack:
    """The stack that the path names. Raises StackNotFound."""
    return call.view.stack(call.request.match_info["stack_id"])


async def read_body(call: ApiCall) -> bytes:
    """The request's body, within the limits in force. Raises RequestTooLarge, InvalidRequest."""
    config = call.api.context.config
    return await requests.read(call.request, config.server.max_body, config.limits.slow_client_timeout)


async def first_answer(
    call: ApiCall, body: bytes, run: Callable[[Claim | None], Awaitable[StoredResponse]], *, resumes: bool = False
) -> web.Response:
    """The answer of ``run``; under an Idempotency-Key, its answer to the first request with that key.

    The first answer is looked up before anything but the key is parsed: a policy, a limit or a request rate that has
    changed since then does not undo it.
    """
    key = idempotency_key(call)
    if key is None:
        answer = await run(None)
        return json_response(answer.body, answer.status)

    async def first(claim: Claim) -> StoredResponse:
        call.within_limits()
        return await run(claim)

    # The name is quoted: with blanks in it, it could pass for another key's name and route.
    scope = f"{quote(call.key.name, safe='')} {call.request.method} {call.request.path}"
    answer = await call.api.replays.once(Replayable(scope=scope, key=key, body=body), first, resumes=resumes)
    return json_response(answer.body, answer.status, REPLAYED if answer.replayed else None)


def idempotency_key(call: ApiCall) -> str | None:
    """The request's Idempotency-Key, or None. Raises InvalidRequest."""
    keys = call.request.headers.getall(IDEMPOTENCY_KEY, ())
    if len(keys) > 1:
        raise InvalidRequest(f"Idempotency-Key must be given once, not {len(keys)} times")
    for key in keys:
        check_key(key)
    return keys[0] if keys else None


class Beginning(Protocol):
    """``start`` or ``restart``."""

    def __call__(self, context: Context, stack_id: str, *, by: str) -> Awaitable[Stack]:
        """Return the stack as soon as its fresh pod is on its way."""


async def extend_stack(call: ApiCall) -> web.Response:
    """``POST /stacks/{stack_id}/extend``"""
    body = await read_body(call)
    context = call.api.context

    async def run(claim: Claim | None) -> StoredResponse:
        fields = requests.parse_object(body, EXTEND_FIELDS, EXTEND_FIELDS)
        seconds = requests.ttl_of(fields, context.config.stacks.max_ttl)
        stack = await extend(context, stack_of(call).stack_id, seconds, by=call.key.name, claim=claim)
        answer = StoredResponse(status=200, body=await _detail(context, stack))
        if claim is not None:
            await context.store.claims.answer(claim, answer.status, answer.body)
        return answer

    return await first_answer(call, body, run, resumes=True)


async def stop_stack(call: ApiCall) -> web.Response:
    """``POST /stacks/{stack_id}/stop``"""
    stack = await stop(call.api.context, stack_of(call).stack_id, by=call.key.name)
    return json_response(await _detail(call.api.context, stack))


async def start_stack(call: ApiCall) -> web.Response:
    """``POST /stacks/{stack_id}/start``"""
    return await _fresh(call, start)


async def restart_stack(call: ApiCall) -> web.Response:
    """``POST /stacks/{stack_id}/restart``"""
    return await _fresh(call, restart)


async def _fresh(call: ApiCall, begin: Beginning) -> web.Response:
    limits = call.api.limits
    with limits.create(call.key.name):
        before = stack_of(call)
        with limits.per_label.create(before.labels, call.key.labels) as not_made:
            stack = await begin(call.api.context, before.stack_id, by=call.key.name)
            if stack.generation == before.generation:
                not_made()
    return json_response(await _detail(call.api.context, stack))


async def _detail(context: Context, stack: Stack) -> bytes:
    return bodies.detail_body(await context.store.stacks.whole(stack))


async def timeline(call: ApiCall) -> web.Response:
    """``GET /stacks/{stack_id}/timeline``: also of a deleted stack, for ``stacks.keep_history``."""
    stack_id = call.request.match_info["stack_id"]
    await call.view.require_history(stack_id)
    store = call.api.context.store
    events = [] if store.stacks.waits_in_pool(stack_id) else await store.timeline.read(stack_id)
    if not events and stack_id not in store.assigned:
        raise StackNotFound(stack_id)
    return json_response(orjson.dumps({"stack_id": stack_id, "events": [_event_fields(one) for one in events]}))


async def logs(call: ApiCall) -> web.Response:
    """``GET /stacks/{stack_id}/logs``: from the cluster while the pod exists, else the last lines that stackd kept."""
    parameters = Parameters(call.request, ("tail", "container"))
    tail = parameters.number("tail", 1, LONGEST_TAIL) or DEFAULT_TAIL
    stack_id = call.request.match_info["stack_id"]
    await call.view.require_history(stack_id)
    text = await read_logs(call.api.context, stack_id, tail=tail, container=parameters.get("container") or "")
    return web.Response(text=text, content_type="text/plain", headers={"X-Content-Type-Options": "nosniff"})


def _event_fields(one: TimelineEvent) -> dict[str, object]:
    fields = {
        "at": from_nanoseconds(one.at),
        "kind": one.kind,
        "reason": one.reason,
        "message": one.message,
        "by": one.by,
    }
    return fields | ({"count": one.count} if one.count > 1 else {})
