"""``Client`` for ordinary code, over ``http.client``, and ``AsyncClient`` for asyncio, over aiohttp.

Owns: the connections. Both run the steps of ``operations``, from one table. aiohttp is loaded with the first request.
"""

from __future__ import annotations

import functools
import http.client
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, Unpack, overload
from urllib.parse import SplitResult, urlencode, urlsplit
from weakref import WeakSet

from stackd.client import operations
from stackd.client.attempts import (
    BadAnswer,
    Busy,
    ClientError,
    Event,
    EventReader,
    Pause,
    Reply,
    Request,
    Response,
    Retries,
    Steps,
    Unreachable,
    resume,
    with_retries,
)
from stackd.client.operations import Filters
from stackd.files import can_be_sent

if TYPE_CHECKING:
    import ssl

    import aiohttp

P = ParamSpec("P")
T = TypeVar("T")
HANDSHAKE_SECONDS = 5.0
LONGEST_LINE = 16 << 20
PORTS = {"http": 80, "https": 443}


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
        """``timeout``: the longest that one request may take, in seconds; by default it depends on the operation. The time
        for which ``wait`` asks stackd to wait does not count.

        ``check_peer`` is called with each new connection, before anything is sent; what it raises ends the request.

        Raises ValueError for a wrong address, or a key that no header can carry.
        """
        self._address = _address_of(url)
        if not can_be_sent(key):
            raise ValueError("the API key has characters that no header can carry; copy it again")
        self.url = url.rstrip("/")
        self._key = key
        self._retries = retries or Retries()
        self._ssl = ssl_context
        self._check_peer = check_peer
        self._timeout = timeout
        self._answered = False
        self._kept = threading.local()
        """``Client``'s open connection, one for each thread."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _encoded(self, request: Request) -> tuple[bytes | None, dict[str, str]]:
        """The body and all headers of a request."""
        headers = {**({"X-API-KEY": self._key} if self._key else {}), **request.headers}
        if request.body is None:
            return None, headers
        if isinstance(request.body, bytes):
            return request.body, {**headers, "Content-Type": "application/yaml"}
        return json.dumps(request.body).encode(), {**headers, "Content-Type": "application/json"}

    def _lost(self, error: Exception, *, sent: bool) -> Unreachable:
        timed_out = isinstance(error, TimeoutError)
        return Unreachable(
            f"{self.url} did not answer in time" if timed_out else f"{self.url} cannot be reached: {error}", sent=sent
        )

    def _explained(self, error: ClientError) -> ClientError:
        """The error, or that the server speaks TLS: it closes the connection on which HTTP is spoken to it."""
        closed = isinstance(error, Unreachable) and error.sent and not isinstance(error.__cause__, TimeoutError)
        if closed and not self._answered and self._address.scheme == "http" and _speaks_tls(self._address):
            return BadAnswer(f"{self.url} speaks TLS: the address must begin with https://")
        return error

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
    batch_create = Operation(operations.batch_create)
    batch_job = Operation(operations.batch_job)
    wait_batch = Operation(operations.wait_batch)
    job = Operation(operations.job)
    wait_job = Operation(operations.wait_job)
    extend = Operation(operations.extend)
    check = Operation(operations.check)
    stop = Operation(operations.stop)
    start = Operation(operations.start)
    restart = Operation(operations.restart)
    renew = Operation(operations.renew)
    timeline = Operation(operations.timeline)
    activity = Operation(operations.activity)
    logs = Operation(operations.logs)
    templates = Operation(operations.templates)
    template_problems = Operation(operations.template_problems)
    template = Operation(operations.template)
    put_template = Operation(operations.put_template)
    delete_template = Operation(operations.delete_template)
    create_link = Operation(operations.create_link)
    links = Operation(operations.links)
    revoke_link = Operation(operations.revoke_link)
    stats = Operation(operations.stats)
    capacity = Operation(operations.capacity)
    ready = Operation(operations.ready)
    metrics = Operation(operations.metrics)
    key = Operation(operations.key)
    owner = Operation(operations.owner)
    takeover = Operation(operations.takeover)
    reconcile = Operation(operations.reconcile)
    release = Operation(operations.release)


def _address_of(url: str) -> SplitResult:
    """The parts of the address. Raises ValueError for one that no request can have."""
    try:
        address = urlsplit(url)
        host = address.hostname
    except ValueError as error:
        raise ValueError(f"the address {url!r} is wrong: {error}") from error
    if address.scheme not in PORTS or not host or address.query or address.fragment or "@" in address.netloc:
        raise ValueError(f"the address must begin with http:// or https:// and have a host and no query, not {url!r}")
    try:
        host.encode("idna")
        http.client.HTTPConnection(host, address.port or PORTS[address.scheme])
        if not address.path.isascii() or not address.path.isprintable() or " " in url:
            raise ValueError("its path has other characters than those of an address")
    except (ValueError, http.client.InvalidURL) as error:
        raise ValueError(f"the address {url!r} is wrong: {error}") from error
    return address


def _speaks_tls(address: SplitResult) -> bool:
    """Whether there is a server that answers the beginning of TLS."""
    import socket
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        at = address.hostname, address.port or PORTS["http"]
        with socket.create_connection(at, timeout=HANDSHAKE_SECONDS) as connection:
            context.wrap_socket(connection).close()
    except OSError:
        return False
    return True


class Client(Operations):
    """The operations for ordinary code. Several threads may use one client."""

    @property
    def has_key(self) -> bool:
        """Whether the client has a key."""
        return bool(self._key)

    def concurrent(self) -> AsyncClient:
        """An ``AsyncClient`` for the same stackd, with the same key and options."""
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

    def run(self, steps: Steps[T]) -> T:
        """Run the steps of an operation."""
        steps, reply = with_retries(steps, self._retries, self._timeout), None
        while True:
            try:
                step = resume(steps, reply)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                reply = self._exchange(step)
                self._answered = self._answered or reply is not None
            except ClientError as error:
                reply = self._explained(error)

    def events(
        self, *, after: str = "", fields: Iterable[str] = (), reconnect: bool = True, **filters: Unpack[Filters]
    ) -> Iterator[Event]:
        """Changes, as they happen; after the event with the id ``after``. A lost connection is opened again, also while stackd
        restarts or is busy.

        With filters: only changes of stacks that ``stacks`` would return for them. ``fields`` selects the fields of
        each. Raises ApiError, and without ``reconnect`` Unreachable and Busy; otherwise these only before the first event,
        after as many attempts as other requests have.
        """
        reader = EventReader(operations.selection_query(fields, filters), last=after)
        while True:
            error: Unreachable | Busy | None = None
            try:
                yield from self._events(reader)
            except (Unreachable, Busy) as lost:
                if not reconnect:
                    raise
                error = lost
            if not reconnect:
                return
            time.sleep(reader.pause(error, self._retries))

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
            raise self._lost(error, sent=True) from error
        finally:
            connection.close()

    def _exchange(self, request: Request | Pause) -> Reply:
        """Send one request, or wait. The kept connection may be closed by now, so only repeatable requests use it."""
        if isinstance(request, Pause):
            time.sleep(request.seconds)
            return None
        kept: http.client.HTTPConnection | None = getattr(self._kept, "connection", None)
        if kept is None or kept.sock is None or not request.repeatable:
            self.close()
            return self._round_trip(self._connection(request.seconds), request)
        kept.sock.settimeout(request.seconds)
        try:
            return self._round_trip(kept, request)
        except Unreachable as error:
            if isinstance(error.__cause__, TimeoutError):
                raise
        return replace(self._round_trip(self._connection(request.seconds), request), uncertain=True)

    def _round_trip(self, connection: http.client.HTTPConnection, request: Request) -> Response:
        self._kept.connection = None
        try:
            answer = self._sent(connection, request)
            response = _response(answer)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._lost(error, sent=True) from error
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
                raise self._lost(error, sent=False) from error
            if self._check_peer is not None:
                self._check_peer()
        path = self._address.path.rstrip("/") + request.path
        if request.query:
            path += "?" + urlencode(request.query)
        body, headers = self._encoded(request)
        connection.request(request.method, path, body=body, headers=headers)
        return connection.getresponse()

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        host, port = self._address.hostname or "", self._address.port or PORTS[self._address.scheme]
        if self._address.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=seconds, context=self._ssl)
        return http.client.HTTPConnection(host, port, timeout=seconds)


def _response(answer: http.client.HTTPResponse) -> Response:
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return Response(status=answer.status, headers=headers, body=answer.read())


class AsyncClient(Operations):
    """The operations for asyncio; ``async with`` keeps connections from one operation to the next."""

    _session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def run(self, steps: Steps[T]) -> T:
        """Run the steps of an operation."""
        import asyncio

        steps, reply = with_retries(steps, self._retries, self._timeout), None
        while True:
            try:
                step = resume(steps, reply)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                reply = await self._exchange(step)
                self._answered = self._answered or reply is not None
            except ClientError as error:
                reply = await asyncio.to_thread(self._explained, error)

    async def events(
        self, *, after: str = "", fields: Iterable[str] = (), reconnect: bool = True, **filters: Unpack[Filters]
    ) -> AsyncIterator[Event]:
        """As ``Client.events``."""
        import asyncio

        reader = EventReader(operations.selection_query(fields, filters), last=after)
        while True:
            error: Unreachable | Busy | None = None
            try:
                async for event in self._events(reader):
                    yield event
            except (Unreachable, Busy) as lost:
                if not reconnect:
                    raise
                error = lost
            if not reconnect:
                return
            await asyncio.sleep(reader.pause(error, self._retries))

    async def _events(self, reader: EventReader) -> AsyncIterator[Event]:
        import aiohttp

        request = reader.request()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=request.seconds, sock_read=request.seconds)
        try:
            async with self._request(request, timeout) as answer:
                if answer.status != http.client.OK:
                    (await _read(answer)).check()
                async for line in answer.content:
                    if (event := reader.line(line)) is not None:
                        yield event
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._lost(error, sent=True) from error

    async def _exchange(self, request: Request | Pause) -> Reply:
        import asyncio

        import aiohttp

        if isinstance(request, Pause):
            await asyncio.sleep(request.seconds)
            return None
        try:
            async with self._request(request, aiohttp.ClientTimeout(total=request.seconds)) as answer:
                return await _read(answer)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._lost(error, sent=not isinstance(error, aiohttp.ClientConnectorError)) from error

    def _request(self, request: Request, timeout: aiohttp.ClientTimeout) -> Any:
        import aiohttp

        if self._session is None:
            own = connector(self._check_peer, ssl=self._ssl if self._ssl is not None else True, limit=0)
            self._session = aiohttp.ClientSession(connector=own, read_bufsize=LONGEST_LINE)
            # Only ``with_retries`` sends requests again. If aiohttp silently sent a DELETE twice, the answer would be
            # that there is no such stack.
            self._session._retry_connection = False  # noqa: SLF001 - there is no other way to say so
        body, headers = self._encoded(request)
        return self._session.request(
            request.method,
            self.url + request.path,
            data=body,
            params=list(request.query),
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        )


def connector(check_peer: Callable[[], None] | None, **options: Any) -> aiohttp.TCPConnector:
    """A connector of aiohttp that calls ``check_peer`` with each new connection, before anything is sent over it."""
    import aiohttp

    checked: WeakSet[Any] = WeakSet()

    class Connector(aiohttp.TCPConnector):
        async def connect(self, *args: Any, **kwargs: Any) -> Any:
            connection = await super().connect(*args, **kwargs)
            if check_peer is not None and connection.protocol not in checked:
                try:
                    check_peer()
                except BaseException:
                    connection.close()
                    raise
                checked.add(connection.protocol)
            return connection

    return Connector(**options)


async def _read(answer: aiohttp.ClientResponse) -> Response:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Response(status=answer.status, headers=headers, body=await answer.read())
