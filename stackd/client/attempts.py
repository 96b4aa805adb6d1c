"""Requests, answers, pauses, jobs and events as values; what the client raises; and when a request is sent again.

After a lost answer, only ``repeatable`` requests are sent again. A request that was never sent, or was refused with 429,
may always be sent again. Each error has a ``player_message``, what a platform can show to a player.

ClientError
├── Unreachable      no answer of stackd's came; ``sent``: stackd may have carried out the request; ``timed_out``
├── BadAnswer        the answer is not stackd's
├── ApiError         stackd refused: ``status``, ``code``, ``sentence``, ``reasons``, ``fields``, ``request_id``
│   ├── KeyRefused   401, 403
│   ├── NotFound     404
│   ├── Conflict     409  ``stack_id`` names the stack that is in the way, if there is one
│   └── Busy         429, 503  ``retry_after`` in seconds
├── StackEnded       the stack came to another status than the awaited one; ``stack`` tells why
└── TimedOut         the awaited status did not come in time
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from stackd import contract
from stackd.codes import LATER, for_players
from stackd.contract import NOTHING, EventName, Job, Stack
from stackd.errors import StackdError

T = TypeVar("T")
log = logging.getLogger("stackd.client")
TOO_MANY, UNAVAILABLE = 429, 503
OF_PROXIES = (502, 504)
SECONDS = 60.0
NOT_NOW = "This does not work right now. Ask the organisers."
NO_ANSWER = "There is no answer right now. Try again in a moment."
SLOW = "This takes longer than usual. Look again in a moment."


class ClientError(StackdError):
    """The root of all errors of the client. ``code`` is stackd's (``docs/errors.md``); empty if stackd did not refuse."""

    code: str = ""  # type: ignore[assignment]  # a later stackd may have more codes
    player_message: str = NOT_NOW


class Unreachable(ClientError):
    """No answer of stackd's came: it restarts, or cannot be reached."""

    player_message = NO_ANSWER

    def __init__(self, sentence: str, *, sent: bool, timed_out: bool = False) -> None:
        super().__init__(sentence)
        self.sent = sent
        self.timed_out = timed_out


class BadAnswer(ClientError):
    """The answer is not stackd's."""

    player_message = for_players(LATER)


class ApiError(ClientError):
    """stackd refused the request. ``request_id`` finds the request in stackd's log."""

    def __init__(
        self, status: int, sentence: str, fields: Mapping[str, Any], retry_after: float = 0.0, request_id: str = ""
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.request_id = request_id
        self.fields = fields
        self.code = fields.get("code") or ""
        self.detail = fields.get("detail") or ""
        self.retry_after = retry_after
        self.reasons: list[Mapping[str, Any]] = list(fields.get("reasons") or ())
        self.stack_id: str = fields.get("stack_id") or ""
        self.player_message = fields.get("player_message") or NOT_NOW

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.status})"


class KeyRefused(ApiError):
    """The API key is missing, wrong, or may not do this."""


class NotFound(ApiError):
    """There is no such stack or job."""


class Conflict(ApiError):
    """The stack is not in a state for this, or a label has as many stacks as it may have."""


class Busy(ApiError):
    """Too many requests, no capacity, or no cluster now; a later attempt may succeed."""


class StackEnded(ClientError):
    """The stack came to another status than the awaited one."""

    def __init__(self, stack: Stack) -> None:
        why = ": ".join(filter(None, (stack.status, stack.status_reason, stack.status_message)))
        super().__init__(f"{stack.stack_id} is {why}")
        self.stack = stack
        self.player_message = stack.problem.player_message if stack.problem else NOT_NOW


class TimedOut(ClientError):
    """The awaited status did not come in time."""

    player_message = SLOW


KINDS = {401: KeyRefused, 403: KeyRefused, 404: NotFound, 409: Conflict, TOO_MANY: Busy, UNAVAILABLE: Busy}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request; ``repeatable`` if it counts only once however often it is sent. ``body`` is sent as JSON,
    bytes as they are (YAML).

    ``waits``: for how many of its ``seconds`` stackd may wait for what the request asks for.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Any = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=lambda: NOTHING, repr=False)
    seconds: float = SECONDS
    waits: float = 0.0
    repeatable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer, with header names in lower case. ``uncertain``: an earlier answer to the same request was lost."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    uncertain: bool = False

    def json(self) -> Any:
        """The body. Raises ApiError if stackd refused the request, BadAnswer if the answer is not stackd's, Unreachable if it
        is that of a proxy that does not reach stackd.
        """
        self.check()
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise self._not_stackd() from error

    def text(self) -> str:
        """The body. Raises as ``json``."""
        self.check()
        if not self.headers.get("content-type", "").startswith("text/plain"):
            raise self._not_stackd()
        return self.body.decode(errors="replace")

    def check(self) -> None:
        """Raise as ``json`` if the status is that of an error."""
        if 200 <= self.status < 300:
            return
        if location := self.headers.get("location"):
            raise self._not_stackd(f", and leads to {location}")
        if self.of_proxy:
            raise Unreachable(f"a proxy does not reach stackd now (HTTP {self.status})", sent=True)
        fields = self._refusal
        if fields is None:
            raise self._not_stackd()
        kind, request_id = KINDS.get(self.status, ApiError), self.headers.get("x-request-id", "")
        raise kind(self.status, fields["error"], fields, self.retry_after, request_id)

    @property
    def of_proxy(self) -> bool:
        """Whether a proxy says that it does not reach stackd."""
        return self.status in OF_PROXIES or (self.status == UNAVAILABLE and self._refusal is None)

    @property
    def _refusal(self) -> dict[str, Any] | None:
        with suppress(ValueError):
            fields = json.loads(self.body)
            if isinstance(fields, dict) and isinstance(fields.get("error"), str):
                return fields
        return None

    @property
    def retry_after(self) -> float:
        """Seconds; 0 if the answer does not say."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isdecimal() else 0.0

    def _not_stackd(self, more: str = "") -> BadAnswer:
        return BadAnswer(f"the server is not stackd (HTTP {self.status}{more}); check the URL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Send nothing for ``seconds``."""

    seconds: float


Steps = Generator[Request | Pause, Any, T]
"""The steps of an operation. Its runner sends each request, and gives the answer back or throws ``Unreachable``."""

Reply = Response | ClientError | None
"""What a runner gives back: the answer to a request or why there is none, or None after a pause."""


def resume(steps: Steps[Any], reply: Reply) -> Request | Pause:
    """Give the reply to the steps; the next one. Raises StopIteration with the result."""
    return steps.throw(reply) if isinstance(reply, ClientError) else steps.send(reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often a request is sent again, and how long the client waits before: ``first`` seconds, doubled each time.

    It waits at most ``longest`` seconds, or as long as stackd asks for. ``busy``: it also repeats when stackd is busy
    (429, 503), unless stackd asks for more than ``longest`` seconds. The default outlasts a restart of stackd.
    """

    times: int = 8
    first: float = 0.2
    longest: float = 10.0
    busy: bool = True

    def pause(self, attempt: int, asked: float) -> float:
        """Seconds before the attempt after this one, at random, so that clients do not come back all at once."""
        own: float = min(self.longest, self.first * 2**attempt)
        return max(asked, own * random.uniform(0.5, 1.0))


NO_RETRIES = Retries(times=0)


def with_retries(steps: Steps[T], retries: Retries, timeout: float | None = None) -> Steps[T]:
    """The same steps, with each request sent again as ``retries`` says, and cut off after ``timeout`` seconds.

    While stackd waits for what a request asks for, the time does not count.
    """
    reply: Reply = None
    while True:
        try:
            wanted = resume(steps, reply)
        except StopIteration as end:
            result: T = end.value
            return result
        if isinstance(wanted, Pause):
            reply = yield wanted
            continue
        if timeout is not None:
            wanted = replace(wanted, seconds=min(wanted.seconds, wanted.waits + timeout))
        try:
            reply = yield from _attempts(wanted, retries)
        except ClientError as error:
            reply = error


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
            uncertain, why = uncertain or error.sent, error.sentence
        else:
            uncertain, asked, why = uncertain or response.of_proxy, response.retry_after, f"HTTP {response.status}"
            if last or not _again(request, response, retries):
                return replace(response, uncertain=uncertain)
        pause = retries.pause(attempt, asked)
        log.debug("%s %s: %s; sent again in %.1f s", request.method, request.path, why, pause)
        yield Pause(seconds=pause)
    raise AssertionError("the last attempt returns or raises")


def _again(request: Request, response: Response, retries: Retries) -> bool:
    if response.of_proxy:
        return request.repeatable
    if not retries.busy or response.retry_after > retries.longest:
        return False
    return response.status == TOO_MANY or (response.status == UNAVAILABLE and request.repeatable)


# ---- what operations and streams return beside the bodies of ``stackd.contract``

QUIET_SECONDS = 60.0
"""A stream sends something at least every 15 s; after this long without any data it is dead."""

LONGEST_LINE = 16 << 20

AGAIN_SECONDS = 1.0
"""After so long a stream that has ended is opened again."""


B = TypeVar("B", bound=contract.Body)


def decode(kind: type[B], raw: Any) -> B:
    """The body in the JSON of an answer. Raises BadAnswer."""
    try:
        return kind.of(raw)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadAnswer(f"the answer is not that of stackd: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of the stream; resume from its ``id``.

    ``kind`` is ``hello`` (a connection begins), ``stack`` (new or changed), ``deleted``, ``left`` (the filters no
    longer match the stack), ``job``, ``reset`` (missed changes are no longer known: list the stacks again), or
    ``dropped`` (stackd ends this connection).
    """

    kind: EventName
    id: str = ""
    data: Any = field(default=None, repr=False)

    @property
    def stack_id(self) -> str:
        """The id of the stack that the event is about, or an empty text."""
        return str(self.data.get("stack_id", "")) if isinstance(self.data, dict) else ""

    @property
    def stack(self) -> Stack | None:
        """The stack as it is now; None unless ``kind`` is ``stack``."""
        return decode(Stack, self.data) if self.kind == "stack" else None

    @property
    def job(self) -> Job | None:
        """The job as it is now; None unless ``kind`` is ``job``."""
        return decode(Job, self.data) if self.kind == "job" else None


@dataclass(slots=True)
class EventReader:
    """Reads server-sent events over one connection after the other; ``last`` is the id of the last event."""

    query: tuple[tuple[str, str], ...]
    last: str = ""
    failures: int = 0
    _begun: bytes = b""
    _lines: list[bytes] = field(default_factory=list)

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that are complete with these bytes."""
        *lines, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > LONGEST_LINE:
            raise BadAnswer(f"the stream has a line of more than {LONGEST_LINE >> 20} MiB")
        for line in lines:
            if text := line.rstrip(b"\r"):
                self._lines.append(text)
                continue
            event, self._lines = _event(self._lines), []
            if event is not None:
                self.last, self.failures = event.id or self.last, 0 if event.id else self.failures
                yield event

    def pause(self, error: Unreachable | Busy | None, retries: Retries) -> float:
        """For how many seconds to wait before the stream is opened again; without an ``error`` it has ended. Raises the error
        if no event has come yet, and ``retries`` allow no further attempt.
        """
        asked = error.retry_after if isinstance(error, Busy) else 0.0
        self.failures += 1
        if self.last or error is None:
            return max(asked, AGAIN_SECONDS)
        if self.failures > retries.times or asked > retries.longest or (isinstance(error, Busy) and not retries.busy):
            raise error
        return retries.pause(self.failures - 1, asked)

    def request(self) -> Request:
        """The request that opens the stream after the last event. An incomplete event of the last connection is dropped."""
        self._begun, self._lines = b"", []
        headers = {"Last-Event-ID": self.last} if self.last else {}
        return Request(method="GET", path="/events", query=self.query, headers=headers, seconds=QUIET_SECONDS)


def _event(lines: list[bytes]) -> Event | None:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        fields[name] = fields[name] + b"\n" + value if name == b"data" and name in fields else value
    if b"data" not in fields:
        return None
    kind: Any = fields.get(b"event", b"message").decode()
    data = json.loads(fields[b"data"] or b"null")
    return Event(kind=kind, id=fields.get(b"id", b"").decode(), data=data)
