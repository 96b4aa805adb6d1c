"""What ``Client`` and ``AsyncClient`` share: their options, the table of operations, and the form of requests and events."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload
from urllib.parse import SplitResult, urlsplit

from stackd.client import operations
from stackd.client.attempts import Request, Retries, Steps
from stackd.client.records import Event
from stackd.files import can_be_sent

if TYPE_CHECKING:
    import ssl

    from stackd.client.blocking import Client
    from stackd.client.concurrent import AsyncClient

P = ParamSpec("P")
T = TypeVar("T")
QUIET_SECONDS = 60.0
"""A stream sends something at least every 15 s; after this long without any data it is dead."""

AGAIN_SECONDS = 1.0
LONGEST_LINE = 16 << 20


class Operation(Generic[P, T]):
    """A method of both clients that runs these steps; ``AsyncClient``'s returns a coroutine."""

    def __init__(self, steps: Callable[P, Steps[T]]) -> None:
        self._steps = steps

    @overload
    def __get__(self, client: None, kind: type) -> Callable[P, Steps[T]]: ...
    @overload
    def __get__(self, client: Client, kind: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncClient, kind: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Client | AsyncClient | None, kind: type) -> Callable[P, Any]:
        if client is None:
            return self._steps

        @functools.wraps(self._steps)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.run(self._steps(*args, **kwargs))

        return method


class Operations:
    """stackd at an address, with an API key."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        retries: Retries | None = None,
        ssl_context: ssl.SSLContext | None = None,
        check_peer: Callable[[], None] | None = None,
        timeout: float | None = None,
    ) -> None:
        """``timeout``: the longest that one request may take, in seconds; by default it depends on the operation.

        ``check_peer`` is called with each new connection, before anything is sent; what it raises ends the request.

        Raises ValueError for a wrong address, or a key that no header can carry.
        """
        self._address = parsed(url)
        if not can_be_sent(key):
            raise ValueError("the API key has characters that no header can carry; copy it again")
        self.url = url.rstrip("/")
        self._key = key
        self._retries = retries or Retries()
        self._ssl = ssl_context
        self._check_peer = check_peer
        self._timeout = timeout
        self._kept = threading.local()
        """``Client``'s open connection, one for each thread."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    call = Operation(operations.call)
    create = Operation(operations.create)
    create_from_template = Operation(operations.create_from_template)
    create_from = Operation(operations.create_from)
    dry_run = Operation(operations.dry_run)
    dry_run_from = Operation(operations.dry_run_from)
    stacks = Operation(operations.stacks)
    get = Operation(operations.get)
    wait = Operation(operations.wait)
    delete = Operation(operations.delete)
    batch_delete = Operation(operations.batch_delete)
    batch_delete_matching = Operation(operations.batch_delete_matching)
    batch = Operation(operations.batch)
    batch_job = Operation(operations.batch_job)
    wait_batch = Operation(operations.wait_batch)
    job = Operation(operations.job)
    wait_job = Operation(operations.wait_job)
    extend = Operation(operations.extend)
    stop = Operation(operations.stop)
    start = Operation(operations.start)
    restart = Operation(operations.restart)
    timeline = Operation(operations.timeline)
    activity = Operation(operations.activity)
    logs = Operation(operations.logs)
    templates = Operation(operations.templates)
    stats = Operation(operations.stats)
    capacity = Operation(operations.capacity)
    ready = Operation(operations.ready)
    metrics = Operation(operations.metrics)
    owner = Operation(operations.owner)
    takeover = Operation(operations.takeover)
    reconcile = Operation(operations.reconcile)


def parsed(url: str) -> SplitResult:
    """The address of stackd. Raises ValueError if it is not valid."""
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError(f"the address must begin with http:// or https:// and have a host, not {url!r}")
    _ = address.port  # raises ValueError itself
    return address


def encoded(request: Request, key: str) -> tuple[bytes | None, dict[str, str]]:
    """The body and all headers of a request."""
    headers = {**({"X-API-KEY": key} if key else {}), **request.headers}
    if request.body is None:
        return None, headers
    return json.dumps(request.body).encode(), {**headers, "Content-Type": "application/json"}


@dataclass(slots=True)
class EventReader:
    """Reads server-sent events over one connection after the other; ``last`` is the id of the last event."""

    query: tuple[tuple[str, str], ...]
    last: str = ""
    _lines: list[bytes] = field(default_factory=list)

    def line(self, line: bytes) -> Event | None:
        """The event that this line completes, or None."""
        if text := line.rstrip(b"\r\n"):
            self._lines.append(text)
            return None
        event, self._lines = _event(self._lines), []
        if event is not None and event.id:
            self.last = event.id
        return event

    def request(self) -> Request:
        """The request that opens the stream after the last event. An incomplete event of the last connection is dropped."""
        self._lines = []
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


def reader_of(after: str, fields: Iterable[str], filters: operations.Filters) -> EventReader:
    """The reader of the changes after that event, of the stacks that the filters select, with these fields of each."""
    return EventReader((*operations.filter_query(**filters), *operations.of_fields(fields)), last=after)
