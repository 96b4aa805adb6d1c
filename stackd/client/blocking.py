"""``Client``: the operations for ordinary code, over ``http.client``. Several threads may use one."""

from __future__ import annotations

import functools
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar
from urllib.parse import SplitResult, urlencode, urlsplit

from stackd.client import operations, stream
from stackd.client.attempts import Pause, Request, Response, Retries, Steps, with_retries
from stackd.client.failures import ClientError, Unreachable
from stackd.client.records import Event
from stackd.files import can_be_sent

if TYPE_CHECKING:
    import ssl

    from stackd.client.concurrent import AsyncClient

P = ParamSpec("P")
T = TypeVar("T")


def _operation(steps: Callable[P, Steps[T]]) -> Callable[Concatenate[Client, P], T]:
    @functools.wraps(steps)
    def method(client: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return client.run(steps(*args, **kwargs))

    return method


class Client:
    """stackd at an address, with an API key."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        retries: Retries | None = None,
        ssl_context: ssl.SSLContext | None = None,
        check_peer: Callable[[], None] | None = None,
    ) -> None:
        """``check_peer`` is called with each new connection, before anything is sent; what it raises ends the request."""
        self._address = parsed(url, key)
        self.url = url.rstrip("/")
        self._key = key
        self._retries = retries or Retries()
        self._ssl = ssl_context
        self._check_peer = check_peer
        self._kept = threading.local()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    @property
    def has_key(self) -> bool:
        """Whether the client has a key."""
        return bool(self._key)

    def concurrent(self) -> AsyncClient:
        """An ``AsyncClient`` for the same stackd, with the same key."""
        from stackd.client.concurrent import AsyncClient

        return AsyncClient(
            self.url, self._key, retries=self._retries, ssl_context=self._ssl, check_peer=self._check_peer
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close this thread's connection; the next operation opens a new one."""
        kept: http.client.HTTPConnection | None = getattr(self._kept, "connection", None)
        if kept is not None:
            kept.close()
            self._kept.connection = None

    call = _operation(operations.call)
    create = _operation(operations.create)
    create_from_template = _operation(operations.create_from_template)
    create_from = _operation(operations.create_from)
    dry_run = _operation(operations.dry_run)
    dry_run_from = _operation(operations.dry_run_from)
    stacks = _operation(operations.stacks)
    get = _operation(operations.get)
    wait = _operation(operations.wait)
    delete = _operation(operations.delete)
    batch_delete = _operation(operations.batch_delete)
    batch_delete_matching = _operation(operations.batch_delete_matching)
    job = _operation(operations.job)
    wait_job = _operation(operations.wait_job)
    extend = _operation(operations.extend)
    stop = _operation(operations.stop)
    start = _operation(operations.start)
    restart = _operation(operations.restart)
    timeline = _operation(operations.timeline)
    logs = _operation(operations.logs)
    templates = _operation(operations.templates)
    stats = _operation(operations.stats)
    capacity = _operation(operations.capacity)

    def events(  # noqa: PLR0913  the filters of the API
        self,
        *,
        after: str = "",
        labels: operations.Labels = (),
        statuses: operations.Statuses = (),
        node: str = "",
        template: str = "",
        fields: Iterable[str] = (),
        reconnect: bool = True,
    ) -> Iterator[Event]:
        """Changes, as they happen; after the event with the id ``after``. A lost connection is opened again.

        With filters: only changes of stacks that ``stacks`` would return for them. ``fields`` selects the fields of
        each. Raises ApiError; Unreachable without ``reconnect``, or if there is no event to resume after.
        """
        reader = stream.EventReader(last=after)
        chosen = operations.chosen(labels=labels, statuses=statuses, node=node, template=template)
        query = (*chosen, *operations.of_fields(fields))
        while True:
            try:
                yield from self._events(stream.request_of("/events", query, reader.last), reader)
            except Unreachable:
                if not reconnect or not reader.last:
                    raise
            if not reconnect:
                return
            reader.restarted()
            time.sleep(stream.AGAIN_SECONDS)

    def run(self, steps: Steps[T]) -> T:
        """Run the steps of an operation."""
        steps = with_retries(steps, self._retries)
        try:
            wanted = next(steps)
            while True:
                if isinstance(wanted, Pause):
                    time.sleep(wanted.seconds)
                    wanted = steps.send(None)
                    continue
                try:
                    response = self._exchange(wanted)
                except ClientError as error:
                    wanted = steps.throw(error)
                else:
                    wanted = steps.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    def _events(self, request: Request, reader: stream.EventReader) -> Iterator[Event]:
        connection = self._connection(request.seconds)
        try:
            answer = self._sent(connection, request)
            if answer.status != http.client.OK:
                _response(answer).check()
            while line := answer.readline(stream.LONGEST_LINE):
                if (event := reader.line(line)) is not None:
                    yield event
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self.url}: the event stream was cut: {error}", sent=True) from error
        finally:
            connection.close()

    def _exchange(self, request: Request) -> Response:
        """Send one request. The kept connection may be closed by now, so only repeatable requests use it."""
        kept: http.client.HTTPConnection | None = getattr(self._kept, "connection", None)
        if kept is not None and kept.sock is not None and request.repeatable:
            kept.sock.settimeout(request.seconds)
            try:
                return self._over(kept, request)
            except Unreachable as error:
                if isinstance(error.__cause__, TimeoutError):
                    raise
            return replace(self._over(self._connection(request.seconds), request), uncertain=True)
        self.close()
        return self._over(self._connection(request.seconds), request)

    def _over(self, connection: http.client.HTTPConnection, request: Request) -> Response:
        self._kept.connection = None
        try:
            answer = self._sent(connection, request)
            response = _response(answer)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unreachable(self._lost(error), sent=True) from error
        except BaseException:
            connection.close()
            raise
        if answer.will_close:
            connection.close()
        else:
            self._kept.connection = connection
        return response

    def _sent(self, connection: http.client.HTTPConnection, request: Request) -> http.client.HTTPResponse:
        if connection.sock is None:
            try:
                connection.connect()
            except OSError as error:
                connection.close()
                raise Unreachable(self._lost(error), sent=False) from error
            if self._check_peer is not None:
                self._check_peer()
        path = self._address.path.rstrip("/") + request.path
        if request.query:
            path += "?" + urlencode(request.query)
        body, headers = encoded(request, self._key)
        connection.request(request.method, path, body=body, headers=headers)
        return connection.getresponse()

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        host, port = self._address.hostname or "", self._address.port
        if self._address.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=seconds, context=self._ssl)
        return http.client.HTTPConnection(host, port, timeout=seconds)

    def _lost(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"{self.url} did not answer in time"
        return f"{self.url} cannot be reached: {error}"


def parsed(url: str, key: str) -> SplitResult:
    """The address of stackd. Raises ValueError if it is not valid, or if no header can carry the key."""
    if not can_be_sent(key):
        raise ValueError("the API key has characters that no header can carry; copy it again")
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError(f"the address must begin with http:// or https:// and have a host, not {url!r}")
    _ = address.port  # raises ValueError itself
    return address


def encoded(request: Request, key: str) -> tuple[bytes | None, dict[str, str]]:
    """The body and all headers of a request."""
    headers = {"X-API-KEY": key, **request.headers}
    if request.body is None:
        return None, headers
    return json.dumps(request.body).encode(), {**headers, "Content-Type": "application/json"}


def _response(answer: http.client.HTTPResponse) -> Response:
    headers: dict[str, Any] = {name.lower(): value for name, value in answer.getheaders()}
    return Response(status=answer.status, headers=headers, body=answer.read())
