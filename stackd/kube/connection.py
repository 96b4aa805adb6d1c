"""One request at a time over one connection pool: authenticated, bounded, counted.

Owns the cap on requests in flight, the counters, and the second try after a 401. Knows no retries beyond that, and
nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
from yarl import URL

from stackd.errors import ClusterSilent, ClusterUnavailable, ClusterUnreachable
from stackd.kube.answers import error_of
from stackd.kube.calls import METHODS, Answer, Call
from stackd.kube.credentials import Access

CONNECT_SECONDS = 3.0
WATCH_OPEN_SECONDS = 10.0
NO_ANSWER = "none"
_UNAUTHORIZED = 401
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
_LONGEST_RETRY_AFTER = 300

Observer = Callable[[str, str, str, float], None]
_TRANSPORT_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)


class Connection:
    """The way to one API server. ``counts`` holds requests by (verb, resource, code); code ``none``: no answer.

    ``refused`` is called when the credentials are not accepted; those that come next may lead to another cluster.
    """

    def __init__(self, access: Access, *, max_in_flight: int, observer: Observer | None = None) -> None:
        self._access = access
        self._room = asyncio.Semaphore(max_in_flight)
        self._observer = observer
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.refused: Callable[[], None] = lambda: None

    async def once(self, call: Call, seconds: float) -> Answer:
        """The answer, whatever its status, within ``seconds``. Raises ClusterUnavailable if there is none."""
        try:
            async with asyncio.timeout(seconds), self._room:
                generation = self._access.generation
                answer = await self._send(call)
                if answer.status == _UNAUTHORIZED and await self._renewed(generation):
                    answer = await self._send(call)
                return answer
        except TimeoutError as exc:
            raise ClusterUnavailable(f"Kubernetes did not answer within {seconds:.1f} s") from exc

    @asynccontextmanager
    async def stream(self, call: Call, *, idle: float) -> AsyncIterator[aiohttp.ClientResponse]:
        """An open watch; reading from it raises ClusterSilent after ``idle`` seconds without a byte.

        Raises the error that the answer is when it is not 200, ClusterUnavailable when there is none.
        """
        generation = self._access.generation
        with ExitStack() as held:
            response = await self._open(call, idle, held)
            if response.status == _UNAUTHORIZED and await self._renewed(generation):
                held.close()
                response = await self._open(call, idle, held)
            try:
                if response.status != 200:
                    raise error_of(call, await _said(response))
                yield response
            except TimeoutError as exc:
                raise ClusterSilent(f"Kubernetes has said nothing for {idle:g} s") from exc
            except _TRANSPORT_ERRORS as exc:
                raise unreachable(exc) from exc

    async def close(self) -> None:
        """Close all connections; calls under way fail."""
        await self._access.close()

    async def _renewed(self, generation: int) -> bool:
        self.refused()
        return await self._access.reload(generation)

    async def _send(self, call: Call) -> Answer:
        began = time.perf_counter()
        code = NO_ANSWER
        try:
            headers = await self._access.headers()
            with self._access.borrowed() as session:
                async with self._request(session, call, _TIMEOUT, headers) as response:
                    answer = await _answer(response)
            code = str(answer.status)
            return answer
        except _TRANSPORT_ERRORS as exc:
            raise unreachable(exc) from exc
        finally:
            self._count(call, code, time.perf_counter() - began)

    async def _open(self, call: Call, idle: float, held: ExitStack) -> aiohttp.ClientResponse:
        """The beginning of an answer; its connection is closed, and its pool given back, with ``held``."""
        began = time.perf_counter()
        code = NO_ANSWER
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=idle)
        try:
            async with asyncio.timeout(WATCH_OPEN_SECONDS):
                headers = await self._access.headers()
                session = held.enter_context(self._access.borrowed())
                response: aiohttp.ClientResponse = await self._request(session, call, timeout, headers)
            # Not released: a watch's connection has no end that could be waited for.
            held.callback(response.close)
            code = str(response.status)
            return response
        except _TRANSPORT_ERRORS as exc:
            raise unreachable(exc) from exc
        finally:
            self._count(call, code, time.perf_counter() - began)

    def _request(
        self, session: aiohttp.ClientSession, call: Call, timeout: aiohttp.ClientTimeout, headers: Mapping[str, str]
    ) -> Any:
        extra = {} if call.body is None else {"Content-Type": call.content_type}
        return session.request(
            METHODS[call.verb],
            URL(self._access.base_url + call.path, encoded=True),
            params=call.params or None,
            data=call.body,
            headers={**headers, **extra},
            timeout=timeout,
            allow_redirects=False,
            **self._access.options(),
        )

    def _count(self, call: Call, code: str, seconds: float) -> None:
        self.counts[call.verb, call.resource, code] += 1
        if self._observer is not None:
            self._observer(call.verb, call.resource, code, seconds)


async def _said(response: aiohttp.ClientResponse) -> Answer:
    """What was answered instead of a watch. Raises ClusterUnavailable where it does not come to its end."""
    try:
        async with asyncio.timeout(WATCH_OPEN_SECONDS):
            return await _answer(response)
    except _TRANSPORT_ERRORS as exc:
        raise unreachable(exc) from exc


def unreachable(exc: BaseException) -> ClusterUnavailable:
    """The error for a request that got no answer, in words that name the cause."""
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        why = f"its certificate is not accepted ({exc.certificate_error})"
    elif isinstance(exc, aiohttp.ClientConnectorError):
        why = exc.os_error.strerror or str(exc.os_error)
    elif isinstance(exc, TimeoutError):
        why = "it did not answer in time"
    elif isinstance(exc, (aiohttp.ServerDisconnectedError, ConnectionResetError, aiohttp.ClientPayloadError)):
        why = "the connection was lost"
    else:
        why = str(exc) or type(exc).__name__
    kind = ClusterUnreachable if isinstance(exc, aiohttp.ClientConnectorError) else ClusterUnavailable
    return kind(f"Kubernetes cannot be reached: {why}")


async def _answer(response: aiohttp.ClientResponse) -> Answer:
    answer = Answer(status=response.status, body=await response.read(), date=response.headers.get("Date", ""))
    after = response.headers.get("Retry-After", "")
    return replace(answer, retry_after=min(int(after), _LONGEST_RETRY_AFTER)) if after.isdecimal() else answer
