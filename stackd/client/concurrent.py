"""``AsyncClient``: the operations for asyncio, over aiohttp; both are loaded when the first request is made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack
from weakref import WeakSet

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
    import aiohttp

T = TypeVar("T")


class AsyncClient(Operations):
    """stackd at an address, with an API key; ``async with`` keeps connections from one operation to the next."""

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

    async def events(
        self, *, after: str = "", fields: Iterable[str] = (), reconnect: bool = True, **filters: Unpack[Filters]
    ) -> AsyncIterator[Event]:
        """Changes, as they happen; after the event with the id ``after``. A lost connection is opened again.

        With filters: only changes of stacks that ``stacks`` would return for them. ``fields`` selects the fields of
        each. Raises ApiError; Unreachable without ``reconnect``, or if there is no event to resume after.
        """
        import asyncio

        reader = reader_of(after, fields, filters)
        while True:
            try:
                async for event in self._events(reader):
                    yield event
            except Unreachable:
                if not reconnect or not reader.last:
                    raise
            if not reconnect:
                return
            await asyncio.sleep(AGAIN_SECONDS)

    async def run(self, steps: Steps[T]) -> T:
        """Run the steps of an operation."""
        import asyncio

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
                await asyncio.sleep(wanted.seconds)
                continue
            try:
                reply = await self._exchange(wanted)
            except ClientError as error:
                reply = error

    async def _events(self, reader: EventReader) -> AsyncIterator[Event]:
        import aiohttp

        request = reader.request()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=request.seconds, sock_read=request.seconds)
        try:
            async with self._request(request, timeout) as answer:
                if answer.status != 200:
                    (await _response(answer)).check()
                async for line in answer.content:
                    if (event := reader.line(line)) is not None:
                        yield event
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._lost(error) from error

    async def _exchange(self, request: Request) -> Response:
        import aiohttp

        try:
            async with self._request(request, aiohttp.ClientTimeout(total=request.seconds)) as answer:
                return await _response(answer)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._lost(error) from error

    def _request(self, request: Request, timeout: aiohttp.ClientTimeout) -> Any:
        import aiohttp

        if self._session is None:
            own = connector(self._check_peer, ssl=self._ssl if self._ssl is not None else True, limit=0)
            self._session = aiohttp.ClientSession(connector=own, read_bufsize=LONGEST_LINE)
            # Only ``with_retries`` sends requests again. If aiohttp silently sent a DELETE twice, the answer would be
            # that there is no such stack.
            self._session._retry_connection = False  # noqa: SLF001 - there is no other way to say so
        body, headers = encoded(request, self._key)
        return self._session.request(
            request.method,
            self.url + request.path,
            data=body,
            params=list(request.query),
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        )

    def _lost(self, error: Exception) -> Unreachable:
        import aiohttp

        if isinstance(error, TimeoutError):
            return Unreachable(f"{self.url} did not answer in time", sent=True)
        sent = not isinstance(error, aiohttp.ClientConnectorError)
        return Unreachable(f"{self.url} cannot be reached: {error}", sent=sent)


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


async def _response(answer: aiohttp.ClientResponse) -> Response:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Response(status=answer.status, headers=headers, body=await answer.read())
