"""``Client``: the operations for ordinary code, over ``http.client``. Several threads may use one."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack
from urllib.parse import urlencode

from stackd.client.attempts import (
    ClientError,
    Pause,
    Reply,
    Request,
    Response,
    Steps,
    Unreachable,
    resume,
    with_retries,
)
from stackd.client.both import AGAIN_SECONDS, LONGEST_LINE, EventReader, Operations, encoded, reader_of
from stackd.client.operations import Filters
from stackd.client.records import Event

if TYPE_CHECKING:
    from stackd.client.concurrent import AsyncClient

T = TypeVar("T")


class Client(Operations):
    """stackd at an address, with an API key."""

    @property
    def has_key(self) -> bool:
        """Whether the client has a key."""
        return bool(self._key)

    def concurrent(self) -> AsyncClient:
        """An ``AsyncClient`` for the same stackd, with the same key and options."""
        from stackd.client.concurrent import AsyncClient

        return AsyncClient(
            self.url,
            self._key,
            retries=self._retries,
            ssl_context=self._ssl,
            check_peer=self._check_peer,
            timeout=self._timeout,
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

    def events(
        self, *, after: str = "", fields: Iterable[str] = (), reconnect: bool = True, **filters: Unpack[Filters]
    ) -> Iterator[Event]:
        """Changes, as they happen; after the event with the id ``after``. A lost connection is opened again.

        With filters: only changes of stacks that ``stacks`` would return for them. ``fields`` selects the fields of
        each. Raises ApiError; Unreachable without ``reconnect``, or if there is no event to resume after.
        """
        reader = reader_of(after, fields, filters)
        while True:
            try:
                yield from self._events(reader)
            except Unreachable:
                if not reconnect or not reader.last:
                    raise
            if not reconnect:
                return
            time.sleep(AGAIN_SECONDS)

    def run(self, steps: Steps[T]) -> T:
        """Run the steps of an operation."""
        steps = with_retries(steps, self._retries, self._timeout)
        reply: Reply = None
        while True:
            try:
                wanted = resume(steps, reply)
            except StopIteration as end:
                result: T = end.value
                return result
            reply = None
            if isinstance(wanted, Pause):
                time.sleep(wanted.seconds)
                continue
            try:
                reply = self._exchange(wanted)
            except ClientError as error:
                reply = error

    def _events(self, reader: EventReader) -> Iterator[Event]:
        request = reader.request()
        connection = self._connection(request.seconds)
        try:
            answer = self._sent(connection, request)
            if answer.status != http.client.OK:
                _response(answer).check()
            while line := answer.readline(LONGEST_LINE):
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


def _response(answer: http.client.HTTPResponse) -> Response:
    headers: dict[str, Any] = {name.lower(): value for name, value in answer.getheaders()}
    return Response(status=answer.status, headers=headers, body=answer.read())
