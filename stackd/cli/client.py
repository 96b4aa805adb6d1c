"""A small client of the API for the commands.

Owns: requests, the event stream, and errors as the API's own sentences. Where the daemon is and with which key is
``address``'s to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import click
import orjson

SECONDS = 60.0
QUIET_SECONDS = 60.0
"""An event stream sends a heartbeat every 15 s; one that is silent for so long is dead."""

MAX_LINE = 16 << 20
Query = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of the stream; ``id`` is what to resume from."""

    kind: str
    id: str
    data: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Where the daemon is, and the key to it."""

    url: str
    key: str = field(repr=False)

    async def call(
        self, method: str, path: str, body: object = None, query: Query = (), seconds: float = SECONDS
    ) -> Any:
        """The answer as JSON. Raises ClickException with the API's own sentence."""
        async with self._request(method, path, body, query, aiohttp.ClientTimeout(total=seconds)) as response:
            return await self._json(response)

    async def text(self, path: str, query: Query = ()) -> str:
        """The answer as text. Raises ClickException with the API's own sentence."""
        async with self._request("GET", path, None, query, aiohttp.ClientTimeout(total=SECONDS)) as response:
            return await response.text(errors="replace")

    def ask(self, method: str, path: str, body: object = None, query: Query = (), seconds: float = SECONDS) -> Any:
        """``call``, from outside of an event loop."""
        return asyncio.run(self.call(method, path, body, query, seconds))

    async def events(self, after: str, fields: str) -> AsyncIterator[Event]:
        """The event stream until it ends, resumed behind the event ``after``; stacks have only these ``fields``."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SECONDS, sock_read=QUIET_SECONDS)
        resume = {"Last-Event-ID": after} if after else None
        async with self._request("GET", "/events", None, [("fields", fields)], timeout, resume) as response:
            lines: list[bytes] = []
            async for line in response.content:
                if text := line.rstrip(b"\r\n"):
                    lines.append(text)
                    continue
                if (event := _event(lines)) is not None:
                    yield event
                lines = []

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        body: object,
        query: Query,
        timeout: aiohttp.ClientTimeout,
        extra: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"X-API-KEY": self.key, **(extra or {})}
        data = None if body is None else orjson.dumps(body)
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, read_bufsize=MAX_LINE) as session,
                session.request(
                    method, self.url.rstrip("/") + path, data=data, params=list(query), headers=headers
                ) as response,
            ):
                if response.status >= 400:
                    raise click.ClickException(await self._complaint(response))
                yield response
        except aiohttp.InvalidURL as error:
            raise click.UsageError(f"not an address of stackd: {self.url}") from error
        except TimeoutError as error:
            raise click.ClickException(f"{self.url} did not answer in time") from error
        except aiohttp.ClientError as error:
            raise click.ClickException(f"{self.url} cannot be reached: {error}") from error

    async def _complaint(self, response: aiohttp.ClientResponse) -> str:
        answer = await self._json(response)
        sentence = answer.get("error") if isinstance(answer, dict) else None
        return f"{sentence or response.reason} ({response.status})"

    async def _json(self, response: aiohttp.ClientResponse) -> Any:
        try:
            return orjson.loads(await response.read())
        except orjson.JSONDecodeError as error:
            raise click.ClickException(f"{self.url} does not answer like stackd ({response.status})") from error


def _event(lines: list[bytes]) -> Event | None:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        fields[name] = fields[name] + b"\n" + value if name == b"data" and name in fields else value
    if b"data" not in fields:
        return None
    kind = fields.get(b"event", b"message").decode()
    return Event(kind=kind, id=fields.get(b"id", b"").decode(), data=orjson.loads(fields[b"data"] or b"null"))
