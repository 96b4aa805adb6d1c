"""Requests with their times, over the connections of ``stackd.client``; nothing is sent a second time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from stackd.client import ApiError, AsyncClient, ClientError, Unreachable
from stackd.client.attempts import Request, Response, Steps
from stackd.client.both import QUIET_SECONDS
from stackd.client.operations import IDEMPOTENCY_KEY
from stackd.client.records import Event

SECONDS = 30.0
METRICS = "/metrics"  # the only answer that is text
Query = Sequence[tuple[str, str]]


class NoAnswer(Exception):
    """The daemon gave no answer; ``str()`` says why, without addresses, so that the same reasons are equal."""


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
        """From the request to its answer."""
        return self.came - self.sent

    @property
    def sentence(self) -> str:
        """The API's sentence about an error; empty without one."""
        return str(self.body.get("error") or "") if isinstance(self.body, dict) else ""

    @property
    def reason(self) -> str:
        """The status of an error, and the API's sentence."""
        return f"{self.status} {self.sentence}".rstrip()


class Connection:
    """A client without retries, and at most ``limit`` requests at a time."""

    def __init__(self, client: AsyncClient, limit: int) -> None:
        self._client = client
        self._free = asyncio.Semaphore(limit)

    async def ask(
        self, method: str, path: str, body: object = None, query: Query = (), *, key: str = "", seconds: float = SECONDS
    ) -> Answer:
        """Send one request, with the Idempotency-Key ``key`` if there is one. Raises NoAnswer."""
        headers = {IDEMPOTENCY_KEY: key} if key else {}
        request = Request(method=method, path=path, query=tuple(query), body=body, headers=headers, seconds=seconds)
        asked = time.monotonic()
        async with self._free:
            free = time.monotonic()
            try:
                response = await self._client.run(_once(request))
            except Unreachable as error:
                raise NoAnswer(_why(error, seconds)) from error
        came = time.monotonic()
        content = _content(response)
        if response.status < 400 and isinstance(content, str) and path != METRICS:
            raise NoAnswer("the answer is not stackd's")
        return Answer(status=response.status, body=content, sent=asked, came=came, waited=free - asked)

    async def events(self, after: str, label: str, fields: str) -> AsyncIterator[Event]:
        """The events of stacks with the label, after the event ``after``, until the stream ends. Raises NoAnswer."""
        try:
            async for event in self._client.events(after=after, labels=label, fields=fields, reconnect=False):
                yield event
        except ApiError as error:
            raise NoAnswer(f"no event stream ({error.status})") from error
        except ClientError as error:
            raise NoAnswer(_why(error, QUIET_SECONDS)) from error


def _once(request: Request) -> Steps[Response]:
    response: Response = yield request
    return response


def _content(response: Response) -> Any:
    try:
        return orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return response.body.decode(errors="replace")


def _why(error: ClientError, seconds: float) -> str:
    if not isinstance(error, Unreachable):
        return str(error)
    if isinstance(error.__cause__, TimeoutError):
        return f"no answer within {seconds:g} s"
    return "the connection was cut" if error.sent else "no connection"
