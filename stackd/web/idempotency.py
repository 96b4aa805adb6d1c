"""Idempotency keys: a repeated request gets the first response, and waits for it while the first request still runs.

Owns: which request runs under which key. That it was answered is written in the same transaction as the change itself, so
that after a crash the file has both or neither. The response itself is not kept, because it may hold a long pod spec: it is
rendered again, from what the request has created.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from stackd.codes import ErrorCode
from stackd.errors import InvalidRequest, StackdError
from stackd.lifecycle.assign import until_reachable
from stackd.lifecycle.context import Context
from stackd.lifecycle.create import take_back
from stackd.lifecycle.passes import purge
from stackd.store import Claim
from stackd.timing import KEEP_CLAIMS

KEY_LIMIT = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """A response, and whether it was given before."""

    status: int
    body: bytes = field(repr=False)
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayable:
    """A request under a key: ``scope`` is the caller and the route, ``fingerprint`` the hash by which bodies are compared.

    ``run`` makes the first response, and ``render`` its body again from the claim; ``resumes``: ``run`` also finishes what
    an earlier request with the key has begun, which otherwise is undone first.
    """

    scope: str
    key: str
    fingerprint: bytes
    run: Callable[[Claim], Awaitable[StoredResponse]]
    render: Callable[[Claim], Awaitable[bytes]]
    resumes: bool = False


class Replays:
    """The requests under way, by key."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._running: dict[tuple[str, str], tuple[bytes, asyncio.Task[StoredResponse]]] = {}

    async def once(self, request: Replayable) -> StoredResponse:
        """The response to the first request with this key; ``run`` makes it if there is none, or only failures.

        Goes on if the caller leaves. Raises StackdError for another body, and whatever ``run`` or ``render`` raises.
        """
        check_key(request.key)
        name = (request.scope, request.key)
        running = self._running.get(name)
        if running is None:
            task = self._context.tasks.spawn(f"idempotent {request.key}", self._run(request))
            self._running[name] = (request.fingerprint, task)
            task.add_done_callback(lambda _: self._running.pop(name, None))
            return await self._context.tasks.result_of(task)
        fingerprint, task = running
        _same(fingerprint, request)
        answer = await self._context.tasks.result_of(task)
        return StoredResponse(status=answer.status, body=answer.body, replayed=True)

    async def _run(self, request: Replayable) -> StoredResponse:
        context = self._context
        earlier = await context.store.claims.find(request.scope, request.key)
        now = context.wall_clock.now()
        if earlier is not None and context.wall_clock.trusted and now - earlier.created_at >= KEEP_CLAIMS:
            await purge(context)
        elif earlier is not None:
            _same(earlier.fingerprint, request)
            if earlier.status is not None:
                await until_reachable(context, earlier.stack_id or "")
                return StoredResponse(status=earlier.status, body=await request.render(earlier), replayed=True)
            if request.resumes:
                return await request.run(earlier)
            if earlier.stack_id is not None:
                await take_back(context, earlier.stack_id)
        claim = Claim(scope=request.scope, key=request.key, fingerprint=request.fingerprint, created_at=now)
        return await request.run(claim)


def check_key(key: str) -> None:
    """Raise InvalidRequest unless ``key`` is valid as an Idempotency-Key."""
    if not 1 <= len(key) <= KEY_LIMIT or not key.isascii() or not key.isprintable():
        raise InvalidRequest(f"Idempotency-Key must be 1 to {KEY_LIMIT} printable ASCII characters")


def _same(fingerprint: bytes, request: Replayable) -> None:
    if fingerprint != request.fingerprint:
        sentence = f"the Idempotency-Key {request.key!r} was used with another body before"
        raise StackdError(sentence, code=ErrorCode.IDEMPOTENCY_KEY_REUSED)
