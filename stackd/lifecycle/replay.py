"""Idempotency keys: the same request again gets the first answer, and what runs is waited for.

Owns: what is under way for which key. What has been answered is in the file, written in the same transaction as the
thing itself, so that the answer is there after a crash exactly if the thing is.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from stackd.errors import IdempotencyKeyReused, InvalidRequest
from stackd.lifecycle.crashpoints import reached
from stackd.lifecycle.purge import KEEP_CLAIMS, purge
from stackd.lifecycle.retire import retire
from stackd.lifecycle.room import Room
from stackd.model import DeleteReason
from stackd.store import Claim

KEY_LIMIT = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayable:
    """A request under a key: ``scope`` is the caller and the route, ``body`` what was sent."""

    scope: str
    key: str
    body: bytes

    @property
    def fingerprint(self) -> bytes:
        """What tells one body from another."""
        return hashlib.sha256(self.body).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer, and whether it was given before."""

    status: int
    body: bytes
    replayed: bool = False


class Replays:
    """The requests under way, by key."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._running: dict[tuple[str, str], tuple[bytes, asyncio.Task[Answer]]] = {}

    async def once(self, request: Replayable, run: Callable[[Claim], Awaitable[Answer]]) -> Answer:
        """The answer to the first request with this key; ``run`` makes it where there was none, or only failures.

        Goes on if the caller leaves. Raises IdempotencyKeyReused for another body, and whatever ``run`` raises.
        """
        check_key(request.key)
        name = (request.scope, request.key)
        running = self._running.get(name)
        if running is None:
            task = self._room.tasks.errand(f"idempotent {request.key}", self._run(request, run))
            self._running[name] = (request.fingerprint, task)
            task.add_done_callback(lambda _: self._running.pop(name, None))
            return await asyncio.shield(task)
        fingerprint, task = running
        _same(fingerprint, request)
        answer = await asyncio.shield(task)
        return Answer(status=answer.status, body=answer.body, replayed=True)

    async def _run(self, request: Replayable, run: Callable[[Claim], Awaitable[Answer]]) -> Answer:
        room = self._room
        known = await room.store.find_claim(request.scope, request.key)
        now = room.clock.now()
        if known is not None and now - known.created_at >= KEEP_CLAIMS:
            await purge(room)
        elif known is not None:
            _same(known.fingerprint, request)
            if known.answer is not None and known.status is not None:
                return Answer(status=known.status, body=known.answer, replayed=True)
            if known.stack_id is not None:
                await self._take_back(known.stack_id)
        return await run(Claim(scope=request.scope, key=request.key, fingerprint=request.fingerprint, created_at=now))

    async def _take_back(self, stack_id: str) -> None:
        """A create under this key was cut short by the end of the process: undo it before it is made again."""
        await self._room.store.mark_deleting([stack_id], DeleteReason.UNDO)
        reached("replay.undo_marked")
        await retire(self._room, stack_id)
        reached("replay.undone")


def check_key(key: str) -> None:
    """Raise InvalidRequest unless this may be an Idempotency-Key."""
    if not 1 <= len(key) <= KEY_LIMIT or not key.isascii() or not key.isprintable():
        raise InvalidRequest(f"Idempotency-Key must be 1 to {KEY_LIMIT} printable ASCII characters")


def _same(fingerprint: bytes, request: Replayable) -> None:
    if fingerprint != request.fingerprint:
        raise IdempotencyKeyReused(f"the Idempotency-Key {request.key!r} was used with another body before")
