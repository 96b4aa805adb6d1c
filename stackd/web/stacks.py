"""The routes of stacks: create, read, change and delete them; their timeline and logs.

A start or restart costs the cluster as much as a create, and counts as one for the limits of a key and of a label.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from aiohttp import web
from msgspec import json

from stackd import contract
from stackd.codes import ErrorCode
from stackd.contract import DURATION
from stackd.errors import ClusterUnavailable, Conflict, InvalidRequest, StackNotFound
from stackd.lifecycle.checks import check_stack as checked
from stackd.lifecycle.context import Context, with_label_limits
from stackd.lifecycle.create import create, create_once, dry_run
from stackd.lifecycle.diagnostics import read_logs
from stackd.lifecycle.verbs import delete, extend, relabel, restart, start, stop, until_gone, until_status
from stackd.lifecycle.view import require_member
from stackd.model import Stack, StackStatus
from stackd.store import Claim, Relabelling
from stackd.units import format_duration
from stackd.web import bodies, requests
from stackd.web.api import IDEMPOTENCY_KEY, STACK_ID, Answer, ApiCall, route
from stackd.web.idempotency import Replayable, StoredResponse, check_key
from stackd.web.parameters import DRY_RUN, FIELDS, Parameter, any_of, named, number, one_of, seconds_of
from stackd.web.requests import CreateBody
from stackd.web.responses import json_response

STACKS, HISTORY = "Stacks", "History"
LARGEST_OF_PLAYER, PLAY = 16 * 1024, "/play/"
REPLAYED = {"Idempotency-Replayed": "true"}
DELETED = "deleted"
"""A value of ``wait`` beside the statuses."""

DEFAULT_WAIT = 30.0
LONGEST_WAIT = 60.0
DEFAULT_TAIL = 200
LONGEST_TAIL = 10_000
WAIT: Final = any_of(
    "wait",
    "Wait for one of these statuses, with commas between them, before answering; or until the stack is `deleted`.",
    list(StackStatus),
    alone=DELETED,
)
WAIT_CREATED: Final = any_of(
    "wait", "Wait for one of these statuses, with commas between them, before answering.", list(StackStatus)
)
WAIT_DELETED: Final = one_of(
    "wait", "Where the cluster cannot delete it at once: wait for that, instead of answering 503 now.", [DELETED]
)
TIMEOUT: Final = Parameter(
    "timeout",
    f"The longest wait: {format_duration(DEFAULT_WAIT)} if not given, at most {format_duration(LONGEST_WAIT)}.",
    seconds_of,
    DURATION,
)
TAIL: Final = number("tail", f"How many of the last lines; {DEFAULT_TAIL} if not given.", 1, LONGEST_TAIL)
CONTAINER: Final = named("container", "Of this container; the first one if not given.")
MEMBER: Final = named("member", "Of the pod of this member; the first pod if not given.")
RESTARTED: Final = named("member", "Only the pod of this member.")


DETAIL: Final = Answer("The stack.", "StackDetail")


@route(
    "POST",
    "/stacks",
    STACKS,
    Answer("The stack.", "StackCreated", status=201),
    Answer(
        "With `dry_run`: what would be created. With `if_exists=return`: the existing stack.",
        (contract.DryRun, "StackDetail"),
    ),
    query=(DRY_RUN, WAIT_CREATED, TIMEOUT),
    body=contract.Create,
    replays=True,
)
async def create_stack(call: ApiCall) -> web.Response:
    """Create a stack.

    Answers when the pod is assigned to a node; with `wait`, once the stack has that status or can no longer reach it, or at
    the timeout: the stack is there all the same. A repetition with the same Idempotency-Key gets the first answer again. A
    dry run asks the cluster, too.
    """
    _awaits(call)  # what cannot be waited for is refused before anything is created
    if call.parameters.get(DRY_RUN):
        return await unrepeated(call, partial(_tried, call))

    async def run(body: bytes, claim: Claim | None) -> StoredResponse:
        with call.api.limits.create(call.key.principal.id):
            parsed = await requests.create_body(call.view, body)
            with requests.refusals_located(parsed):
                stack, status = await made(call, parsed, claim)
        return StoredResponse(status=status, body=await _when_created(call, stack, status))

    return await first_answer(call, run)


async def _tried(call: ApiCall, body: bytes, _: Claim | None) -> StoredResponse:
    with call.api.limits.create(call.key.principal.id):
        parsed = await requests.create_body(call.view, body)
        create_request = parsed.create_request
        call.api.limits.per_label.check(create_request.labels, call.key.labels)
        with requests.refusals_located(parsed):
            await dry_run(call.api.context, create_request)
    return StoredResponse(status=200, body=bodies.dry_run_body(create_request.spec))


async def _when_created(call: ApiCall, stack: Stack, status: int) -> bytes:
    """The answer about a stack that exists, once it has the status that the request waits for."""
    statuses, seconds = _awaits(call)
    if statuses:
        try:
            stack = await until_status(call.api.context, stack.stack_id, statuses, seconds)
        except StackNotFound:
            raise _gone(f"{stack.stack_id} was created, and is gone by now") from None
    return await _rendered(call.api.context, stack, status)


def _awaits(call: ApiCall) -> tuple[list[StackStatus], float]:
    """For which statuses the create waits, and for how many seconds."""
    return [*map(StackStatus, call.parameters.get(WAIT_CREATED) or ())], patience(call)


def _gone(sentence: str) -> Conflict:
    return Conflict(sentence, code=ErrorCode.ANSWER_GONE)


async def made(call: ApiCall, parsed: CreateBody, claim: Claim | None) -> tuple[Stack, int]:
    """Create the stack, or take the existing one; return it, and the status of the answer."""
    context, create_request = call.api.context, replace(parsed.create_request, claim=claim)
    with call.api.limits.per_label.create(create_request.labels, call.key.among) as uncount:
        if parsed.return_existing:
            stack, is_new = await create_once(context, create_request)
        else:
            stack, is_new = await create(context, create_request), True
        if not is_new:
            uncount()
    call.request[STACK_ID] = stack.stack_id
    status = 201 if is_new else 200
    if claim is not None and not is_new:
        await context.store.claims.keep(replace(claim, status=status, stack_id=stack.stack_id))
    return stack, status


async def _rendered(context: Context, stack: Stack, status: int) -> bytes:
    """The answer of this status about a stack. Only the creator of a stack gets its generated values."""
    stack = await context.store.stacks.with_pod_spec(stack)
    if status != 201:
        return bodies.detail_body(stack)
    template = context.settings.templates.get(stack.template or "")
    if not (stack.env and template is not None and template.pool):
        return bodies.created_body(stack)
    warning = f"made anew, and not taken from the pool of {template.name}: pooled stacks have no env of a create"
    return bodies.created_body(stack)[:-1] + b',"warnings":%b}' % json.encode([warning])


async def _detail(call: ApiCall, stack: Stack) -> web.Response:
    return json_response(await _rendered(call.api.context, stack, 200))


@route("GET", "/stacks/{stack_id}", STACKS, Answer("The stack.", ("StackDetail", "StackEntry")), query=(FIELDS,))
async def get_stack(call: ApiCall) -> web.StreamResponse:
    """Get a stack.

    From what stackd knows: it answers while Kubernetes is away, too.
    """
    stack, fields = call.stack, call.parameters.get(FIELDS)
    if not fields:
        return json_response(await call.api.bodies.detail(stack))
    if "pod_spec" in fields:
        stack = await call.api.context.store.stacks.with_pod_spec(stack)
    return json_response(bodies.encoder(contract.Stack, fields)(stack))


@route(
    "GET",
    "/stacks/{stack_id}/status",
    STACKS,
    Answer("The status.", (contract.StackStatusAnswer, contract.Deleted)),
    query=(WAIT, TIMEOUT),
)
async def get_stack_status(call: ApiCall) -> web.StreamResponse:
    """Get a stack's status.

    With `wait`, answers as soon as the stack has that status or can no longer reach it. `wait=deleted` answers as the
    delete does once the stack is gone.
    """
    stack: Stack | None = call.stack
    if call.parameters:
        seconds, wait = patience(call), call.parameters.get(WAIT)
        if wait == frozenset({DELETED}):
            stack = await until_gone(call.api.context, call.stack_id, seconds)
        elif wait is not None:
            stack = await until_status(call.api.context, call.stack_id, [*map(StackStatus, wait)], seconds)
    if stack is None:
        return json_response(contract.Deleted(stack_id=call.stack_id))
    return json_response(call.api.bodies.status(stack))


def patience(call: ApiCall) -> float:
    """How many seconds this request may wait; 0 while stackd stops."""
    seconds = min(call.parameters.get(TIMEOUT, DEFAULT_WAIT), LONGEST_WAIT)
    return 0.0 if call.api.draining else seconds


@route(
    "DELETE",
    "/stacks/{stack_id}",
    STACKS,
    Answer("The stack is gone.", contract.Deleted),
    query=(WAIT_DELETED, TIMEOUT),
)
async def delete_stack(call: ApiCall) -> web.Response:
    """Delete a stack.

    Answers when the cluster has confirmed that pod and service are gone.
    """
    context, waits = call.api.context, call.parameters.get(WAIT_DELETED) is not None
    end = context.clock.monotonic() + patience(call)
    stack_id = call.changeable.stack_id
    try:
        await delete(context, stack_id, by=call.key.principal)
    except ClusterUnavailable:
        remaining = end - context.clock.monotonic()
        if not waits or remaining <= 0 or await until_gone(context, stack_id, remaining) is not None:
            raise
    return json_response(contract.Deleted(stack_id=stack_id))


async def read_body(call: ApiCall) -> bytes:
    """The request's body, within the limits in force; it counts among ``BodyBytes``, as the key's or as all players', until
    the task that serves the request ends. Raises RequestTooLarge, InvalidRequest, TooManyRequests, Unavailable."""
    config, counted = call.api.context.config, call.api.limits.bodies
    key = "players" if call.route.players else call.key.principal.id
    most = min(config.server.max_body, LARGEST_OF_PLAYER if call.route.path.startswith(PLAY) else sys.maxsize)
    task = asyncio.current_task()

    def count(size: int) -> None:
        counted.add(config, key, size)
        if task is not None:
            task.add_done_callback(lambda _: counted.subtract(key, size))

    return await requests.read(call.request, most, config.limits.slow_client_timeout, count)


async def require_no_body(call: ApiCall) -> None:
    """Raise InvalidRequest if the request has a body that is no empty object; as ``read_body``."""
    if body := await read_body(call):
        requests.parse(body, requests.Nothing)


Run = Callable[[bytes, Claim | None], Awaitable[StoredResponse]]


async def unrepeated(call: ApiCall, run: Run) -> web.Response:
    """The answer of ``run`` to the request's body, which changes nothing: an Idempotency-Key is checked and not used."""
    body = await read_body(call)
    idempotency_key(call)
    call.within_limits()
    answer = await run(body, None)
    return json_response(answer.body, answer.status)


async def first_answer(
    call: ApiCall,
    run: Run,
    render: Callable[[Claim], Awaitable[bytes]] | None = None,
    *,
    resumes: bool = False,
) -> web.Response:
    """The answer of ``run`` to the request's body; under an Idempotency-Key, its answer to the first request with that key,
    about the stack or the job as it is now (``render``: unless it is about a stack).

    The first answer is looked up before anything but the key is parsed: a policy, a limit or a request rate that has
    changed since then does not undo it.
    """
    body, key = await read_body(call), idempotency_key(call)
    if key is None and call.route.players:
        key = secrets.token_hex(8)  # what a player starts goes on if the page stops waiting: it asks for the state then
    if key is None:
        answer = await run(body, None)
        return json_response(answer.body, answer.status)

    async def first(claim: Claim) -> StoredResponse:
        call.within_limits()
        return await run(body, claim)

    scope = f"{call.key.claimant} {call.request.method} {call.request.path}"
    fingerprint = hashlib.sha256(body).digest()
    again = render or partial(_about_stack, call)
    request = Replayable(scope=scope, key=key, fingerprint=fingerprint, run=first, render=again, resumes=resumes)
    answer = await call.api.replays.once(request)
    return json_response(answer.body, answer.status, REPLAYED if answer.replayed else None)


async def _about_stack(call: ApiCall, claim: Claim) -> bytes:
    stack = call.view.get(claim.stack_id or "")
    if stack is None:
        raise _gone(f"the first request with this Idempotency-Key was about {claim.stack_id}, which is gone by now")
    return await _when_created(call, stack, claim.status or 200)


def idempotency_key(call: ApiCall) -> str | None:
    """The request's Idempotency-Key, or None. Raises InvalidRequest."""
    keys = call.request.headers.getall(IDEMPOTENCY_KEY, ())
    if len(keys) > 1:
        raise InvalidRequest(f"Idempotency-Key must be given once, not {len(keys)} times")
    for key in keys:
        check_key(key)
    return keys[0] if keys else None


@route("POST", "/stacks/{stack_id}/extend", STACKS, DETAIL, body=contract.Extend, replays=True)
async def extend_stack(call: ApiCall) -> web.Response:
    """Extend a stack's time to live.

    Adds to its end; the whole life may be `stacks.max_ttl` at most. A stack whose pod has ended is not extended.
    """
    context = call.api.context

    async def run(body: bytes, claim: Claim | None) -> StoredResponse:
        given = requests.parse(body, contract.Extend)
        seconds = requests.ttl_of(given.ttl, context.config.stacks.max_ttl)
        stack = await extend(context, call.changeable.stack_id, seconds, by=call.key.principal, claim=claim)
        answer = StoredResponse(status=200, body=await _rendered(context, stack, 200))
        if claim is not None:
            await context.store.claims.answer(claim, answer.status)
        return answer

    return await first_answer(call, run, resumes=True)


@route("PATCH", "/stacks/{stack_id}", STACKS, DETAIL, body=contract.StackChange, errors=(409,))
async def change_stack(call: ApiCall) -> web.Response:
    """Change a stack's labels.

    A label that is new to the stack counts for `limits.stacks_per_label` and `limits.cost_per_label`, and as a create for
    `limits.creates_per_label`. A label of `limits.required_labels` stays. Nobody changes a label by which a tenant's stacks are
    told from others' (a 400), or those of a shared stack (a 409). The same request again changes nothing.
    """
    given = requests.parse(await read_body(call), contract.StackChange).labels
    stack, view = call.changeable, call.view
    if stack.shared:
        sentence = f"{stack.stack_id} is shared by everybody: its labels are its template's"
        raise Conflict(sentence, code=ErrorCode.SHARED_TEMPLATE)
    labels = partial(requests.relabelled, given=given, config=view.context.config)
    limits = with_label_limits(view.limits(stack.template), view.context.config.limits)
    change = Relabelling(labels=labels, by=call.key.principal, limits=limits)
    new = dict(labels(stack.labels).items() - stack.labels.items())
    with call.api.limits.per_label.create(new, call.key.among):
        stack = await relabel(call.api.context, stack.stack_id, change)
    return await _detail(call, stack)


@route("POST", "/stacks/{stack_id}/stop", STACKS, DETAIL, errors=(409,))
async def stop_stack(call: ApiCall) -> web.Response:
    """Stop a stack: remove its pod.

    Answers when the pod is gone. The stack keeps its node ports until it starts again or ends.
    """
    return await _detail(call, await stop(call.api.context, call.changeable.stack_id, by=call.key.principal))


@route("POST", "/stacks/{stack_id}/start", STACKS, DETAIL, errors=(409,))
async def start_stack(call: ApiCall) -> web.Response:
    """Give a stopped stack a fresh pod.

    Node ports and time to live stay the same.
    """
    return await _detail(call, await fresh(call, start))


@route(
    "POST",
    "/stacks/{stack_id}/restart",
    STACKS,
    DETAIL,
    body=contract.Restart,
    body_optional=True,
    query=(RESTARTED,),
    errors=(409,),
)
async def restart_stack(call: ApiCall) -> web.Response:
    """Give a stack a fresh pod.

    Node ports and time to live stay the same. The node may change. With `{"template": "latest"}`, the stack gets the pod of
    the newest version of its template; a 409 if that has other ports or members. With `member`, the other pods go on.
    """
    body, member = await read_body(call), call.parameters.get(RESTARTED, "")
    renew = bool(body) and requests.parse(body, contract.Restart).template is not None
    if renew and member:
        require_member(call.changeable, member)
        raise requests.wrong("template", "the pods of a stack are renewed together; leave member out")
    return await _detail(call, await fresh(call, partial(restart, renew=renew, member=member)))


@route(
    "POST",
    "/stacks/{stack_id}/check",
    STACKS,
    Answer("What the check says.", contract.Checked),
    errors=(409, 429),
    asks=True,
)
async def check_stack(call: ApiCall) -> web.Response:
    """Does a stack work?

    Runs the program of the template's author (`check`) as a pod of its own, and answers at its end, at most the time of the
    check and that of an image's pull later. 503 where it could not be run: that says nothing about the stack.
    """
    stack_id = call.stack.stack_id
    with call.api.context.checks.counted(call.key.principal.id), call.api.limits.create(call.key.principal.id):
        seen = await checked(call.api.context, stack_id)
    return json_response(
        contract.Checked(stack_id=stack_id, healthy=bool(seen.healthy), message=seen.message, seconds=seen.seconds)
    )


async def fresh(call: ApiCall, begin: Callable[..., Awaitable[Stack]]) -> Stack:
    """The stack as soon as its fresh pod is on its way; ``begin`` is ``start`` or ``restart``."""
    limits = call.api.limits
    with limits.create(call.key.principal.id):
        before = call.changeable
        with limits.per_label.create(before.labels, call.key.among) as uncount:
            stack = await begin(
                call.api.context, before.stack_id, by=call.key.principal, limits=call.view.limits(before.template)
            )
            if stack.generation == before.generation:
                uncount()
    return stack


@route("GET", "/stacks/{stack_id}/timeline", HISTORY, Answer("The timeline.", contract.Timeline))
async def get_timeline(call: ApiCall) -> web.Response:
    """What happened to a stack?

    Available until `stacks.keep_history` after the stack is gone.
    """
    stack_id = call.stack_id
    await call.view.require_history(stack_id)
    store = call.api.context.store
    events: Any = () if store.stacks.waits_in_pool(stack_id) else await store.timeline.read(stack_id)
    if not events and stack_id not in store.assigned:
        raise StackNotFound(stack_id)
    return json_response(contract.Timeline(stack_id=stack_id, events=events))


@route(
    "GET",
    "/stacks/{stack_id}/logs",
    HISTORY,
    Answer("The tenant's own text.", media="text/plain"),
    query=(TAIL, CONTAINER, MEMBER),
    errors=(409,),
)
async def get_logs(call: ApiCall) -> web.Response:
    """What did a stack write?

    From the cluster while the pod exists (no other read asks the cluster). Later, the last lines that stackd kept: of
    containers that failed, and of those that ran when their stack was deleted on its own or expired, as far as the
    cluster delivered them. Generated values are hidden.
    """
    parameters = call.parameters
    tail = parameters.get(TAIL, DEFAULT_TAIL)
    await call.view.require_history(call.stack_id)
    container, member = parameters.get(CONTAINER, ""), parameters.get(MEMBER, "")
    lines = await read_logs(call.api.context, call.stack_id, tail=tail, container=container, member=member)
    return web.Response(text=lines, content_type="text/plain", headers={"X-Content-Type-Options": "nosniff"})
