"""Clients that keep sending requests to a stackd, and the responses that they got."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.daemons import LOST
from tests.harness import Client, seed

CLIENTS = 8
NEW_CONNECTION = 0.2
"""The share of requests that end their connection; the others keep it."""

FEW = 4
"""With fewer stacks than these, clients only create."""


@dataclass(slots=True, kw_only=True)
class Players:
    """The responses that came, of requests with one of these ``verbs``.

    ``lost``: what was refused or got no response; ``longest``: the longest wait for a response, in seconds.
    """

    real: Client
    verbs: Sequence[str]
    created: dict[str, dict[str, Any]] = field(default_factory=dict)
    wanted: dict[str, str] = field(default_factory=dict)
    """The last request about each stack that got no response."""
    deleted: set[str] = field(default_factory=set)
    ends: dict[str, str] = field(default_factory=dict)
    stopped: dict[str, bool] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    longest: float = 0.0
    acknowledged: list[tuple[float, str]] = field(default_factory=list)
    """Each change that was acknowledged, with the time."""

    @asynccontextmanager
    async def pressing(self, seed: str) -> AsyncIterator[None]:
        """Within this block the clients send requests; each has its response, or none, at the end."""
        over = asyncio.Event()
        chances = [random.Random(f"{seed} {number}") for number in range(CLIENTS)]
        clients = [asyncio.create_task(self._press(chance, over)) for chance in chances]
        try:
            yield
        finally:
            over.set()
            done, _ = await asyncio.wait(clients, timeout=60)
        for client in done:
            client.result()

    async def _press(self, chance: random.Random, over: asyncio.Event) -> None:
        while not over.is_set():
            usable = [one for one in self.created if one not in self.deleted and one not in self.wanted]
            verb = chance.choice(self.verbs) if len(usable) >= FEW else "create"
            began = time.monotonic()
            try:
                await self._do(verb, "" if verb == "create" else chance.choice(usable), chance)
            except LOST as error:
                self.lost.append(f"{verb}: {error!r}")
                await asyncio.sleep(0.05)
            self.longest = max(self.longest, time.monotonic() - began)

    async def _do(self, verb: str, stack_id: str, chance: random.Random) -> None:
        headers = {"Connection": "close"} if chance.random() < NEW_CONNECTION else {}
        if verb == "read":
            reply = await self.real.call("GET", f"/stacks/{stack_id}/status", headers=headers)
            assert reply.status in (200, 404, 503), reply  # another client may have deleted it
            self.lost += [f"read: {reply}"] if reply.status == 503 else []
            return
        if verb == "create":
            reply = await self.real.call("POST", "/stacks", seed(), headers=headers)
        else:
            self.wanted[stack_id] = verb
            method, path = ("DELETE", "") if verb == "delete" else ("POST", f"/{verb}")
            body = {"ttl": "10s"} if verb == "extend" else None
            reply = await self.real.call(method, f"/stacks/{stack_id}{path}", body, headers=headers)
        if reply.status >= 300:
            self.lost.append(f"{verb}: {reply}")
            # A 404 to a delete: the client's HTTP library has sent it again, after a connection that was lost.
            assert reply.status in (409, 503) or (verb, reply.status) == ("delete", 404), (verb, stack_id, reply)
            if reply.status == 409:
                self.wanted.pop(stack_id, None)
            return
        self.acknowledged.append((time.monotonic(), f"{verb} {stack_id}"))
        self.wanted.pop(stack_id, None)
        if verb == "create":
            assert reply.json["stack_id"] not in self.created, "a stack was given twice"
            self.created[reply.json["stack_id"]] = reply.json
        elif verb == "delete":
            self.deleted.add(stack_id)
        else:
            self.ends[stack_id] = reply.json["ttl_expires_at"]
            if verb != "extend":
                self.stopped[stack_id] = verb == "stop"

    async def verify(self, real: Client) -> None:
        """Check that this stackd has everything that was acknowledged."""
        assert not self.deleted & set(await real.listed()), "deleted stacks came back"
        for stack_id, created in self.created.items():
            wanted = self.wanted.get(stack_id)
            if stack_id in self.deleted or wanted == "delete":
                continue
            stack, ends = await real.stack(stack_id), self.ends.get(stack_id, created["ttl_expires_at"])
            assert stack["ttl_expires_at"] == ends or (wanted == "extend" and stack["ttl_expires_at"] > ends)
            if wanted is None and stack_id in self.stopped:
                assert (stack["status"] == "stopped") is self.stopped[stack_id], stack
            assert (stack["ports"], stack["pod_spec"]) == (created["ports"], created["pod_spec"])
