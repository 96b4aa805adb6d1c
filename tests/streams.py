"""Event streams of the API, read one event after the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.harness import DEADLINE, Client


@dataclass(frozen=True, slots=True)
class Event:
    kind: str
    data: Any
    id: str


class Stream:
    """An open stream, read one event after the other; comments are counted and left out."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.comments = 0

    async def next(self) -> Event | None:
        """The next event, or None at the end of the stream."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(DEADLINE):
            while True:
                line = (await self.answer.content.readline()).decode()
                if not line:
                    return None
                if line == "\n":
                    if fields:
                        return Event(fields["event"], json.loads(fields["data"]), fields.get("id", ""))
                    continue
                name, _, value = line.rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                else:
                    self.comments += 1

    async def expect(self, kind: str) -> Event:
        """The next event, which must be of this kind."""
        event = await self.next()
        assert event is not None, "the stream has ended"
        assert event.kind == kind, event
        return event

    async def until(self, kind: str, **fields: Any) -> Event:
        """The first event from here on with this kind and these fields in its data."""
        while True:
            event = await self.next()
            assert event is not None, "the stream has ended"
            if event.kind == kind and fields.items() <= event.data.items():
                return event


@asynccontextmanager
async def follow(at: Client, path: str = "/events", last: str = "", key: str = "") -> AsyncIterator[Stream]:
    headers = {"X-API-KEY": key or at.key} | ({"Last-Event-ID": last} if last else {})
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout, read_bufsize=1 << 20) as session,
        session.get(at.url + path, headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        yield Stream(answer)
