"""Requests with their times, over the connections of ``stackd.client``; nothing is sent a second time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import json

from stackd.client import AsyncClient, Unreachable
from stackd.client.attempts import Event, Request, Response, Steps
from stackd.client.operations import IDEMPOTENCY_KEY

SECONDS = 30.0
METRICS = "/metrics"  # the only answer that is text
Query = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer, or with the status 0 why there is none, in a sentence without addresses.

    ``sent`` and ``came`` are by the loop's clock; ``waited`` seconds of it were for a free connection.
    """

    status: int
    body: Any
    sent: float = 0.0
    came: float = 0.0
    waited: float = 0.0

    @property
    def good(self) -> bool:
        """Whether there is an answer, and it is not an error."""
        return 0 < self.status < 400

    @property
    def seconds(self) -> float:
        """From the request to its answer."""
        return self.came - self.sent

    @property
    def sentence(self) -> str:
        """The API's sentence about an error, or why there is no answer; else empty."""
        return str(self.body.get("error") or "") if isinstance(self.body, dict) else ""

    @property
    def reason(self) -> str:
        """The status of an error, if there is one, and the sentence."""
        return f"{self.status or ''} {self.sentence}".strip()


class Connection:
    """A client without retries, and at most ``limit`` requests at a time."""

    def __init__(self, client: AsyncClient, limit: int) -> None:
        self._client = client
        self._free = asyncio.Semaphore(limit)

    async def ask(
        self, method: str, path: str, body: object = None, query: Query = (), *, key: str = "", seconds: float = SECONDS
    ) -> Answer:
        """Send one request, with the Idempotency-Key ``key`` if there is one."""
        headers = {IDEMPOTENCY_KEY: key} if key else {}
        request = Request(method=method, path=path, query=tuple(query), body=body, headers=headers, seconds=seconds)
        asked = time.monotonic()
        async with self._free:
            free = time.monotonic()
            try:
                response = await self._client.run(_once(request))
            except Unreachable as error:
                lost = "the connection was cut" if error.sent else "no connection"
                return no_answer(f"no answer within {seconds:g} s" if error.timed_out else lost)
        came = time.monotonic()
        try:
            content = json.decode(response.body)
        except (ValueError, RecursionError):
            if response.status < 400 and path != METRICS:
                return no_answer("the answer is not stackd's")
            content = response.body.decode(errors="replace")
        return Answer(status=response.status, body=content, sent=asked, came=came, waited=free - asked)

    def events(self, after: str, label: str, fields: str) -> AsyncIterator[Event]:
        """The events of stacks with the label, after the event ``after``, until the stream ends. Raises ClientError."""
        return self._client.events(after=after, labels=label, fields=fields, reconnect=False)


def no_answer(why: str) -> Answer:
    """What is returned instead of an answer."""
    return Answer(status=0, body={"error": why})


def _once(request: Request) -> Steps[Response]:
    response: Response = yield request
    return response
