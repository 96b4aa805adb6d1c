"""When a request is sent again, and after how long.

Owns: requests, answers and pauses as values, and the rules. After a lost answer, only ``repeatable`` requests are sent
again. A request that was never sent, or was refused with 429, may always be sent again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

from stackd.client.failures import KINDS, ApiError, BadAnswer, ClientError, Unreachable

T = TypeVar("T")
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
TOO_MANY, UNAVAILABLE = 429, 503
OF_PROXIES = (502, 504)
SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request; ``repeatable`` if it counts only once however often it is sent. ``body`` is sent as JSON."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    seconds: float = SECONDS
    repeatable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer, with header names in lower case. ``uncertain``: an earlier answer to the same request was lost."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    uncertain: bool = False

    def json(self) -> Any:
        """The body. Raises ApiError if stackd refused the request, BadAnswer if the answer is not stackd's."""
        self.check()
        return self._parsed()

    def text(self) -> str:
        """The body. Raises as ``json``."""
        self.check()
        return self.body.decode(errors="replace")

    def check(self) -> None:
        """Raise ApiError if stackd refused the request, BadAnswer if the refusal is not stackd's."""
        if self.status < 400:
            return
        fields = self._parsed()
        sentence = fields.get("error") if isinstance(fields, dict) else None
        if not isinstance(sentence, str):
            raise BadAnswer(f"the server is not stackd (HTTP {self.status}); check the URL")
        raise KINDS.get(self.status, ApiError)(self.status, sentence, fields, self.retry_after)

    @property
    def retry_after(self) -> float:
        """Seconds; 0 if the answer does not say."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isdecimal() else 0.0

    def _parsed(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise BadAnswer(f"the server is not stackd (HTTP {self.status}); check the URL") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Send nothing for ``seconds``."""

    seconds: float


Steps = Generator[Request | Pause, Any, T]
"""The steps of an operation. Its runner sends each request, and gives the answer back or throws ``Unreachable``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often a request is sent again, and how long the client waits before: ``first`` seconds, doubled each time.

    It waits at most ``longest`` seconds, or as long as stackd asks for. ``busy``: it also repeats when stackd is busy
    (429, 503), unless stackd asks for more than ``longest`` seconds.
    """

    times: int = 4
    first: float = 0.2
    longest: float = 10.0
    busy: bool = True

    def pause(self, attempt: int, asked: float) -> float:
        """Seconds before the attempt after this one, at random, so that clients do not come back all at once."""
        own: float = min(self.longest, self.first * 2**attempt)
        return max(asked, own * random.uniform(0.5, 1.0))


NO_RETRIES = Retries(times=0)


def with_retries(steps: Steps[T], retries: Retries, timeout: float | None = None) -> Steps[T]:
    """The same steps, with each request sent again as ``retries`` says, and cut off after ``timeout`` seconds."""
    try:
        wanted = next(steps)
        while True:
            if timeout is not None and isinstance(wanted, Request):
                wanted = replace(wanted, seconds=min(wanted.seconds, timeout))
            try:
                got = (yield wanted) if isinstance(wanted, Pause) else (yield from _attempts(wanted, retries))
            except ClientError as error:
                wanted = steps.throw(error)
            else:
                wanted = steps.send(got)
    except StopIteration as end:
        result: T = end.value
        return result


def _attempts(request: Request, retries: Retries) -> Steps[Response]:
    uncertain = False
    for attempt in range(retries.times + 1):
        last = attempt == retries.times
        asked = 0.0
        try:
            response: Response = yield request
        except Unreachable as error:
            if last or (error.sent and not request.repeatable):
                raise
            uncertain = uncertain or error.sent
        else:
            asked = response.retry_after
            if last or not _again(request, response, retries):
                return replace(response, uncertain=uncertain or response.uncertain)
        yield Pause(seconds=retries.pause(attempt, asked))
    raise AssertionError("the last attempt returns or raises")


def _again(request: Request, response: Response, retries: Retries) -> bool:
    if response.status in OF_PROXIES:
        return request.repeatable
    if not retries.busy or response.retry_after > retries.longest:
        return False
    return response.status == TOO_MANY or (response.status == UNAVAILABLE and request.repeatable)
