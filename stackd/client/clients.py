"""``Client`` for ordinary code and ``AsyncClient`` for asyncio: two thin shells over the steps of ``operations``.

Owns: the connections, which are httpx2's. No type of httpx2 is part of the interface; it is loaded with the first request.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack, overload
from urllib.parse import SplitResult, urlencode, urlsplit

from stackd.client import operations
from stackd.client.attempts import (
    BadAnswer,
    Busy,
    ClientError,
    Event,
    EventReader,
    NotFound,
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
from stackd.client.follow import AsyncFollow, Follow
from stackd.client.operations import CreateOptions, Filters, Length, LogTail, Page
from stackd.contract import Stack
from stackd.files import can_be_sent
from stackd.proxies import proxy_for, without_password
from stackd.version import VERSION

if TYPE_CHECKING:
    import socket
    import ssl

    import httpx2

P = ParamSpec("P")
T = TypeVar("T")
HANDSHAKE_SECONDS = 5.0
PORTS = {"http": 80, "https": 443}
OK = 200
CONNECTED = "connection.connect_tcp.complete"

# httpx2's pool looks at all of its connections for each request: with a thousand of them, that is two milliseconds of CPU.
MOST_IN_A_POOL = 32


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


class Paged(Generic[P, T]):
    """A method of both clients that goes through all pages; ``AsyncClient``'s for an ``async for``."""

    def __init__(self, steps: Callable[Concatenate[str, P], Steps[Page[T]]]) -> None:
        self._steps = steps
        self.__doc__ = steps.__doc__

    @overload
    def __get__(self, client: None, kind: type) -> Self: ...
    @overload
    def __get__(self, client: Client, kind: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, client: AsyncClient, kind: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, client: Client | AsyncClient | None, kind: type) -> Any:
        if client is None:
            return self

        @functools.wraps(self._steps)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.pages(lambda cursor: self._steps(cursor, *args, **kwargs))

        return method


class Operations:
    """stackd at an address, with an API key."""

    def __init__(  # noqa: PLR0913 - keywords, which read better at a call than an object of options
        self,
        url: str,
        key: str,
        *,
        retries: Retries | None = None,
        ssl_context: ssl.SSLContext | None = None,
        check_peer: Callable[[], None] | None = None,
        timeout: float | None = None,
        user_agent: str = "",
    ) -> None:
        """``timeout``: the longest that one request may take, in seconds; by default it depends on the operation. The time
        for which ``wait`` asks stackd to wait does not count.

        ``check_peer`` is called with each new connection, before anything is sent; what it raises ends the request.
        ``user_agent`` names your program, such as ``"platform/2.1"``.

        Raises ValueError for a wrong address, a proxy that cannot be used, or a key or name that no header can carry.
        """
        self._address = _address_of(url)
        # Over plain HTTP, a proxy would read the key; and a peer that is to be checked is on this machine.
        by_proxy = self._address.scheme == "https" and check_peer is None
        self._proxy = proxy_for(url, ("http", "https")) if by_proxy else None
        if not can_be_sent(key):
            raise ValueError("the API key has characters that no header can carry; copy it again")
        if not (user_agent.isascii() and user_agent.isprintable()):
            raise ValueError("user_agent has characters that no header can carry; use letters, digits and spaces")
        self.url = url.rstrip("/")
        self._key = key
        self._retries = retries or Retries()
        self._ssl = ssl_context
        self._check_peer = check_peer
        self._timeout = timeout
        self._user_agent = user_agent
        self._answered = False
        self._lock = threading.Lock()

    _trace: Callable[[str, Any], Any]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _arguments(self, request: Request) -> dict[str, Any]:
        """A request, as httpx2 is called with it."""
        headers = {"User-Agent": f"{self._user_agent} stackd/{VERSION}".lstrip()}
        if self._key:
            headers["X-API-KEY"] = self._key
        body = request.body
        if body is not None:
            headers["Content-Type"] = "application/yaml" if isinstance(body, bytes) else "application/json"
        return {
            "method": request.method,
            "url": self.url + request.path + (f"?{urlencode(request.query)}" if request.query else ""),
            "content": body if body is None or isinstance(body, bytes) else json.dumps(body).encode(),
            "headers": {**headers, **request.headers},
            "timeout": request.seconds,
            "extensions": {} if self._check_peer is None else {"trace": self._trace},
        }

    def _options(self) -> dict[str, Any]:
        """What httpx2's client is made with. It does not read the environment itself, where it knows no networks."""
        import ssl

        import httpx2

        if self._ssl is None and self._address.scheme == "https":
            self._ssl = ssl.create_default_context()
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        return {"verify": self._ssl or False, "trust_env": False, "limits": limits, "proxy": self._proxy}

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Raise Unreachable if no whole answer comes."""
        import httpx2

        unsent = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
        through = f" through the proxy {without_password(self._proxy)}" if self._proxy else ""
        try:
            yield
        except (TimeoutError, httpx2.TimeoutException) as error:
            sentence = f"{self.url} did not answer in time{through}"
            raise Unreachable(sentence, sent=not isinstance(error, unsent), timed_out=True) from error
        except httpx2.RequestError as error:
            sentence = f"{self.url} cannot be reached{through}: {_root(error)}"
            raise Unreachable(sentence, sent=not isinstance(error, unsent)) from error

    def _explained(self, error: ClientError) -> ClientError:
        """The error, or that the server speaks TLS: it closes the connection on which HTTP is spoken to it."""
        closed = isinstance(error, Unreachable) and error.sent and not error.timed_out
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
    label = Operation(operations.label)
    check = Operation(operations.check)
    stop = Operation(operations.stop)
    start = Operation(operations.start)
    restart = Operation(operations.restart)
    renew = Operation(operations.renew)
    timeline = Operation(operations.timeline)
    activity = Operation(operations.activity)
    iter_stacks = Paged(operations.iter_stacks)
    iter_links = Paged(operations.iter_links)
    iter_activity = Paged(operations.iter_activity)
    logs = Operation(operations.logs)
    templates = Operation(operations.templates)
    template_problems = Operation(operations.template_problems)
    template = Operation(operations.template)
    put_template = Operation(operations.put_template)
    delete_template = Operation(operations.delete_template)
    find_value = Operation(operations.find_value)
    values = Operation(operations.values)
    create_link = Operation(operations.create_link)
    links = Operation(operations.links)
    revoke_link = Operation(operations.revoke_link)
    send_message = Operation(operations.send_message)
    messages = Operation(operations.messages)
    delete_message = Operation(operations.delete_message)
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
        _ = address.port
        if not address.path.isascii() or not url.isprintable() or " " in url:
            raise ValueError("it has other characters than those of an address")
    except ValueError as error:
        raise ValueError(f"the address {url!r} is wrong: {error}") from error
    return address


def _root(error: BaseException) -> str:
    """What the operating system or the protocol says, below the libraries' own sentences."""
    while inner := [*filter(lambda one: isinstance(one, BaseException), (error.__cause__, *error.args))]:
        error = inner[0]
    if isinstance(error, BaseExceptionGroup):
        return _root(error.exceptions[0])
    return str(error) or type(error).__name__


def _speaks_tls(address: SplitResult) -> bool:
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


def _response(answer: httpx2.Response) -> Response:
    return Response(status=answer.status_code, headers=dict(answer.headers), body=answer.content)


class Client(Operations):
    """The operations for ordinary code. Several threads may use one client."""

    _http: httpx2.Client | None = None

    @property
    def has_key(self) -> bool:
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
            user_agent=self._user_agent,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; the next operation opens a new one."""
        with self._lock:
            if self._http is not None:
                self._http.close()
            self._http = None

    def run(self, steps: Steps[T]) -> T:
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

    def pages(self, page: Callable[[str], Steps[Page[T]]]) -> Iterator[T]:
        """All that is on the page at the cursor and on the next ones."""
        more, cursor = True, ""
        while more:
            found, cursor = self.run(page(cursor))
            yield from found
            more = bool(cursor)

    @contextmanager
    def stack(
        self, what: Mapping[str, Any] | str, *, timeout: Length = 300.0, **options: Unpack[CreateOptions]
    ) -> Iterator[Stack]:
        """A stack that runs, for a ``with``: created from a template's name or a request body, and deleted at the end.

        Raises what ``create_from`` and ``wait`` raise. If the create itself is interrupted, its time to live ends it.
        """
        created = self.run(operations.create_from(operations.body_for(what, options)))
        try:
            yield self.wait(created, timeout=timeout)
        finally:
            with suppress(NotFound):
                self.delete(created)

    def follow_logs(self, stack: str | Stack, *, tail: int = 0, container: str = "", member: str = "") -> Iterator[str]:
        """What a container writes, as it comes, from the last ``tail`` lines on; ends with the stack."""
        log = LogTail(stack=stack, container=container, member=member, tail=tail)
        while not log.ended:
            if text := self.run(log.poll()):
                yield text

    def follow(self, *, fields: Iterable[str] = (), **filters: Unpack[Filters]) -> Follow:
        """The stacks that ``stacks`` would return, kept current over restarts and outages: use it in a ``with``.

        ``fields`` selects those of each stack; by default all but the pod spec. Raises at the beginning what ``stacks``
        raises; later errors are in ``error`` until the stacks are current again.
        """
        return Follow(self, fields, filters, self._retries)

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

    def _events(self, reader: EventReader, opened: Callable[[socket.socket], None] = lambda _: None) -> Iterator[Event]:
        with self._losing(), self._connections().stream(**self._arguments(reader.request())) as answer:
            opened(answer.extensions["network_stream"].get_extra_info("socket"))
            if answer.status_code != OK:
                answer.read()
                _response(answer).check()
            for data in answer.iter_bytes():
                yield from reader.feed(data)

    def _exchange(self, request: Request | Pause) -> Reply:
        if isinstance(request, Pause):
            time.sleep(request.seconds)
            return None
        with self._losing():
            return _response(self._connections().request(**self._arguments(request)))

    def _connections(self) -> httpx2.Client:
        with self._lock:
            if self._http is None:
                import httpx2

                self._http = httpx2.Client(**self._options())
            return self._http

    def _trace(self, what: str, about: Any) -> None:
        if what == CONNECTED and self._check_peer is not None:
            try:
                self._check_peer()
            except BaseException:
                about["return_value"].close()
                raise


@dataclass(slots=True)
class _Pool:
    """Some connections of an ``AsyncClient``, and how many requests are under way on them."""

    http: httpx2.AsyncClient
    busy: int = 0


class AsyncClient(Operations):
    """The operations for asyncio; ``async with`` keeps connections from one operation to the next."""

    _pools: tuple[_Pool, ...] = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; the next operation opens a new one."""
        before, self._pools = self._pools, ()
        for pool in before:
            await pool.http.aclose()

    async def run(self, steps: Steps[T]) -> T:
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

    async def pages(self, page: Callable[[str], Steps[Page[T]]]) -> AsyncIterator[T]:
        more, cursor = True, ""
        while more:
            found, cursor = await self.run(page(cursor))
            for one in found:
                yield one
            more = bool(cursor)

    @asynccontextmanager
    async def stack(
        self, what: Mapping[str, Any] | str, *, timeout: Length = 300.0, **options: Unpack[CreateOptions]
    ) -> AsyncIterator[Stack]:
        """As ``Client.stack``, for an ``async with``."""
        created = await self.run(operations.create_from(operations.body_for(what, options)))
        try:
            yield await self.wait(created, timeout=timeout)
        finally:
            with suppress(NotFound):
                await self.delete(created)

    async def follow_logs(
        self, stack: str | Stack, *, tail: int = 0, container: str = "", member: str = ""
    ) -> AsyncIterator[str]:
        """As ``Client.follow_logs``."""
        log = LogTail(stack=stack, container=container, member=member, tail=tail)
        while not log.ended:
            if text := await self.run(log.poll()):
                yield text

    def follow(self, *, fields: Iterable[str] = (), **filters: Unpack[Filters]) -> AsyncFollow:
        """As ``Client.follow``, for an ``async with``."""
        return AsyncFollow(self, fields, filters, self._retries)

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
        with self._losing():
            async with self._connections() as http, http.stream(**self._arguments(reader.request())) as answer:
                if answer.status_code != OK:
                    await answer.aread()
                    _response(answer).check()
                async for data in answer.aiter_bytes():
                    for event in reader.feed(data):
                        yield event

    async def _exchange(self, request: Request | Pause) -> Reply:
        import asyncio

        if isinstance(request, Pause):
            await asyncio.sleep(request.seconds)
            return None
        with self._losing():
            async with self._connections() as http, asyncio.timeout(request.seconds):
                return _response(await http.request(**self._arguments(request)))

    @asynccontextmanager
    async def _connections(self) -> AsyncIterator[httpx2.AsyncClient]:
        """The first pool with a free place, for one request. One that is idle is closed when half of another is free."""
        pool = next((one for one in self._pools if one.busy < MOST_IN_A_POOL), None)
        if pool is None:
            import httpx2

            pool = _Pool(httpx2.AsyncClient(**self._options()))
            self._pools += (pool,)
        pool.busy += 1
        try:
            yield pool.http
        finally:
            pool.busy -= 1
            others = [one for one in self._pools if one is not pool]
            if not pool.busy and any(one.busy < MOST_IN_A_POOL // 2 for one in others):
                self._pools = tuple(others)
                await pool.http.aclose()

    async def _trace(self, what: str, about: Any) -> None:
        if what == CONNECTED and self._check_peer is not None:
            try:
                self._check_peer()
            except BaseException:
                await about["return_value"].aclose()
                raise
