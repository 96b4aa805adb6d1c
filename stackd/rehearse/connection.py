"""The wire to the daemon: requests with their times, and the event stream.

Owns: the pool of connections, and how long each request waited for a free connection. Unlike ``stackd.client``, which
follows the events, this module never retries and measures all of the time.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson

from stackd.client import ApiError, AsyncClient, ClientError
from stackd.client.attempts import NO_RETRIES
from stackd.client.concurrent import connector
from stackd.client.records import Event
from stackd.client.stream import QUIET_SECONDS

if TYPE_CHECKING:
    import ssl

SECONDS = 30.0
Query = Sequence[tuple[str, str]]


class NoAnswer(Exception):
    """The daemon gave no complete answer; ``str()`` says why, without addresses, so that the same reasons are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer. ``sent`` and ``came`` are by the loop's clock; ``waited`` seconds of it were for a free connection."""

    status: int
    body: Any
    sent: float
    came: float
    waited: float = 0.0

    @property
    def good(self) -> bool:
        """Whether the answer is not an error."""
        return self.status < 400

    @property
    def seconds(self) -> float:
        """From the request to its whole answer."""
        return self.came - self.sent

    @property
    def reason(self) -> str:
        """The status of an error, and the API's sentence."""
        return f"{self.status} {self.sentence}".rstrip()

    @property
    def sentence(self) -> str:
        """The API's sentence about an error; empty without one."""
        return str(self.body.get("error") or "") if isinstance(self.body, dict) else ""


class Connection:
    """The daemon of a client, over the connections of a session; the events are the client's."""

    def __init__(self, session: aiohttp.ClientSession, client: AsyncClient) -> None:
        self._session = session
        self._client = client

    async def ask(
        self, method: str, path: str, body: object = None, query: Query = (), *, key: str = "", seconds: float = SECONDS
    ) -> Answer:
        """Send one request, with the Idempotency-Key ``key`` if it is given. Raises NoAnswer."""
        data = None if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
        headers = {} if data is None else {"Content-Type": "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        own = SimpleNamespace(queued=0.0, waited=0.0)
        sent = time.monotonic()
        try:
            async with self._session.request(
                method,
                self._client.url + path,
                data=data,
                params=list(query),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=seconds),
                trace_request_ctx=own,
            ) as response:
                text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NoAnswer(_why(error, seconds)) from error
        came = time.monotonic()
        return Answer(status=response.status, body=_content(response, text), sent=sent, came=came, waited=own.waited)

    async def events(self, after: str, label: str, fields: str) -> AsyncIterator[Event]:
        """The events of stacks with the label, until the stream ends; resumed after the event ``after``. Raises NoAnswer."""
        try:
            async for event in self._client.events(after=after, labels=label, fields=fields, reconnect=False):
                yield event
        except ApiError as error:
            raise NoAnswer(f"no event stream ({error.status})") from error
        except ClientError as error:
            raise NoAnswer(_why(error.__cause__ or error, QUIET_SECONDS)) from error


@asynccontextmanager
async def connected(
    url: str,
    key: str,
    limit: int,
    *,
    ssl_context: ssl.SSLContext | None = None,
    check_peer: Callable[[], None] | None = None,
) -> AsyncIterator[Connection]:
    """A connection pool of at most ``limit`` connections, closed on leaving; the rest as for ``stackd.client``."""
    trace = aiohttp.TraceConfig()
    trace.on_connection_queued_start.append(_queued)
    trace.on_connection_queued_end.append(_connected)
    async with (
        aiohttp.ClientSession(
            connector=connector(check_peer, limit=limit, ttl_dns_cache=300, ssl=ssl_context or True),
            headers={"X-API-KEY": key} if key else {},
            trace_configs=[trace],
        ) as session,
        AsyncClient(url, key, retries=NO_RETRIES, ssl_context=ssl_context, check_peer=check_peer) as client,
    ):
        yield Connection(session, client)


async def _queued(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    context.trace_request_ctx.queued = time.monotonic()


async def _connected(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    own = context.trace_request_ctx
    own.waited = time.monotonic() - own.queued


def _content(response: aiohttp.ClientResponse, text: bytes) -> Any:
    if response.content_type != "application/json":
        return text.decode(errors="replace")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise NoAnswer("the answer is not stackd's") from error


def _why(error: BaseException, seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {seconds:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "no connection"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError | aiohttp.ClientPayloadError):
        return "the connection was cut"
    return f"no answer ({type(error).__name__})"
