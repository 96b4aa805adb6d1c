"""Sends one request at a time over one connection pool: authenticated, bounded, counted.

Owns: the cap on requests in flight, the counters, and the second try after a 401. Does no other retries, and does not
know what a request means.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, nullcontext
from typing import Any

import aiohttp
from yarl import URL

from stackd.errors import (
    AnswerTooLarge,
    ClusterRefused,
    ClusterSilent,
    ClusterTimeout,
    ClusterUnavailable,
    ClusterUnreachable,
    NoRequestSlot,
    UnexpectedAnswer,
)
from stackd.kube.access import Access
from stackd.kube.credentials import ClusterTarget
from stackd.kube.guards import Contact, Fence, FencedBody, is_fenced
from stackd.kube.responses import check, error_of, unexpected, what
from stackd.kube.wire import FAILING, JSON, LEASES, METHODS, KubeRequest, KubeResponse
from stackd.tasks import acquired_within

CONNECT_SECONDS = 3.0
WATCH_OPEN_SECONDS = 5.0
NO_ANSWER = "none"
OBJECT_BYTES, LIST_BYTES = 8 << 20, 64 << 20
"""The most bytes of one object or error, and of one page of a list. Kubernetes limits an object to 1.5 MiB."""

_OK, UNAUTHORIZED = 200, 401
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
_LONGEST_RETRY_AFTER = 300

OnRequest = Callable[[str, str, str, float], None]
_TIME_CODES = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_NAME_CODES = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_TRANSPORT_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)


class KubeConnection:
    """The connection to one API server.

    ``counts``    requests by (verb, resource, code); the code is ``none`` for those without a response
    ``access``    the credentials, and when they expire
    ``fence``     is checked as each changing request is written; no such request runs longer than the fence allows
    ``on_doubt``  is called when this may be another cluster: after a 401 (the next credentials may be for another one),
                  and when the namespace of the stacks is gone
    ``on_date``   is called with the ``Date`` of each successful JSON response, and the seconds that the request took
    """

    def __init__(
        self, access: Access, target: ClusterTarget, *, on_request: OnRequest | None = None, fence: Fence | None = None
    ) -> None:
        self.access = access
        self.fence = fence or Fence()
        self._in_flight = asyncio.Semaphore(target.max_in_flight)
        self._logs_in_flight = asyncio.Semaphore(target.logs_in_flight)
        self._on_request = on_request
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.on_doubt: Callable[[], None] = lambda: None
        self.contact = Contact()
        self.on_date: Callable[[str, float], None] = lambda date, seconds: None

    async def once(self, call: KubeRequest, seconds: float) -> KubeResponse:
        """Send the request once, in its ``turn``; returns the response, whatever its status.

        Raises ClusterUnavailable if none arrives within ``seconds``; NotOwner if the fence forbids the request, or ends
        it midway, when it may have been done.
        """
        session, fenced = self.access.session, is_fenced(call)
        try:
            async with asyncio.timeout(min(seconds, self.fence.left) if fenced else seconds) as limit:
                # Requests for the Lease have their own timeout, and go on when the contact is lost: they show when it
                # is back.
                waiting = nullcontext() if call.resource == LEASES else self.contact.waiting(limit)
                with self.fence.change() if fenced else nullcontext(), waiting:
                    return await self._authenticated(call)
        except TimeoutError as exc:
            if fenced:
                self.fence.require()
            if not call.asks_node:
                await self.access.leave(session)
            if self.contact.lost:
                raise self.contact.error() from exc
            raise ClusterTimeout(f"Kubernetes did not answer within {seconds:.1f} s") from exc

    @asynccontextmanager
    async def turn(self, call: KubeRequest, seconds: float) -> AsyncIterator[float]:
        """A slot among the requests in flight; yields for how many seconds the request has waited for it.

        The Lease needs none: it must not wait behind requests that hang. Raises NoRequestSlot after ``seconds``, and
        NotOwner once the fence forbids the request.
        """
        if call.resource == LEASES:
            yield 0.0
            return
        began = self.contact.now()
        slots, fenced = self._logs_in_flight if call.asks_node else self._in_flight, is_fenced(call)
        if not await acquired_within(slots, min(seconds, self.fence.left) if fenced else seconds):
            if fenced:
                self.fence.require()
            raise NoRequestSlot(
                f"stackd waits for so many of Kubernetes' answers that a request could not be sent within {seconds:g} s"
            )
        try:
            yield self.contact.now() - began
        finally:
            slots.release()

    async def probe(self, call: KubeRequest, seconds: float) -> KubeResponse:
        """Kubernetes' answer within ``seconds`` over a new connection, even if it is a refusal.

        Raises ClusterUnavailable if there is none, or if it is 502, 503 or 504.
        """
        try:
            async with asyncio.timeout(seconds), self.access.new_session() as session:
                answer = await self._send(call, session)
        except TimeoutError as exc:
            raise ClusterUnavailable(f"it did not answer within {seconds:g} s over a new connection") from exc
        check(call, answer)
        if answer.status in FAILING:
            raise error_of(call, answer)
        self.contact.heard(answer=True)
        return answer

    async def _authenticated(self, call: KubeRequest) -> KubeResponse:
        generation = self.access.generation
        answer = await self._send(call)
        if answer.status == UNAUTHORIZED and await self._renewed(generation):
            answer = await self._send(call)
        return answer

    @asynccontextmanager
    async def stream(self, call: KubeRequest, *, idle: float) -> AsyncIterator[aiohttp.ClientResponse]:
        """An open watch; reading from it raises ClusterSilent after ``idle`` seconds without a byte.

        Raises the error that a refusal means, and ClusterUnavailable without a response.
        """
        generation = self.access.generation
        with ExitStack() as held:
            response = await self._open(call, idle, held)
            if response.status == UNAUTHORIZED and await self._renewed(generation):
                held.close()
                response = await self._open(call, idle, held)
            try:
                if response.status != _OK:
                    raise error_of(call, await _said(response, call))
                if response.content_type != JSON:
                    raise unexpected(call, await _said(response, call), "not a watch")
                yield response
            except TimeoutError as exc:
                raise ClusterSilent(f"Kubernetes has said nothing for {idle:g} s") from exc
            except _TRANSPORT_ERRORS as exc:
                raise unreachable(exc) from exc

    async def close(self) -> None:
        """Close all connections; running requests fail."""
        await self.access.close()

    async def _renewed(self, generation: int) -> bool:
        self.on_doubt()
        return await self.access.reload(generation)

    async def _send(self, call: KubeRequest, session: aiohttp.ClientSession | None = None) -> KubeResponse:
        """Send the request over ``session``, by default the current one, and return the response."""
        began = time.perf_counter()
        code = NO_ANSWER
        body = self._body(call)
        try:
            headers = await self.access.headers()
            if is_fenced(call):
                self.fence.require()
            with self.access.borrowed() if session is None else nullcontext(session) as connections:
                try:
                    async with self._request(connections, call, _TIMEOUT, headers, body) as response:
                        answer = await _answer(response, call)
                except BaseException:
                    if isinstance(body, FencedBody):
                        body.cut()  # so that the request cannot arrive later
                    raise
            code = str(answer.status)
            if answer.ok and answer.document is not None:
                self.on_date(answer.date, time.perf_counter() - began)
            return answer
        except _TRANSPORT_ERRORS as exc:
            if is_fenced(call):
                self.fence.require()
            raise unreachable(exc) from exc
        finally:
            self._count(call, code, time.perf_counter() - began)

    async def _open(self, call: KubeRequest, idle: float, held: ExitStack) -> aiohttp.ClientResponse:
        """Open a watch; returns the response, unread. ``held`` closes its connection and gives back the session."""
        began = time.perf_counter()
        code = NO_ANSWER
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=idle)
        before = self.access.session
        try:
            async with asyncio.timeout(WATCH_OPEN_SECONDS):
                headers = await self.access.headers()
                session = held.enter_context(self.access.borrowed())
                response: aiohttp.ClientResponse = await self._request(session, call, timeout, headers)
            # Close instead of release: a watch has no end to wait for, so its connection cannot be reused.
            held.callback(response.close)
            code = str(response.status)
            return response
        except TimeoutError as exc:
            await self.access.leave(before)
            raise unreachable(exc) from exc
        except _TRANSPORT_ERRORS as exc:
            raise unreachable(exc) from exc
        finally:
            self._count(call, code, time.perf_counter() - began)

    def _request(
        self,
        session: aiohttp.ClientSession,
        call: KubeRequest,
        timeout: aiohttp.ClientTimeout,
        headers: Mapping[str, str],
        body: bytes | FencedBody | None = None,
    ) -> Any:
        extra = {} if call.body is None else {"Content-Type": call.content_type}
        return session.request(
            METHODS[call.verb],
            URL(self.access.base_url + call.path, encoded=True),
            params=call.params or None,
            data=body,
            headers={**headers, **extra},
            timeout=timeout,
            allow_redirects=False,
            **self.access.options(),
        )

    def _body(self, call: KubeRequest) -> bytes | FencedBody | None:
        return FencedBody(call.body, self.fence) if call.body is not None and is_fenced(call) else call.body

    def _count(self, call: KubeRequest, code: str, seconds: float) -> None:
        self.counts[call.verb, call.resource, code] += 1
        if self._on_request is not None:
            self._on_request(call.verb, call.resource, code, seconds)


_UNREACHABLE = "Kubernetes cannot be reached"


async def _said(response: aiohttp.ClientResponse, call: KubeRequest) -> KubeResponse:
    """The complete response that came instead of a watch. Raises ClusterUnavailable if it is cut short."""
    try:
        async with asyncio.timeout(WATCH_OPEN_SECONDS):
            return await _answer(response, call)
    except _TRANSPORT_ERRORS as exc:
        raise unreachable(exc) from exc


def unreachable(exc: BaseException) -> ClusterUnavailable:
    """The error for a request without a response; its text names the cause."""
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return ClusterUnavailable(_UNREACHABLE, detail=f"the proxy answered {exc.status}")
    if isinstance(exc, aiohttp.ClientResponseError):
        return UnexpectedAnswer(
            "Kubernetes cannot be reached: what answers does not speak HTTP", exc.message.partition("\n")[0]
        )
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return ClusterRefused("Kubernetes' certificate is not accepted", detail=_mistrust(exc.certificate_error))
    if isinstance(exc, aiohttp.ClientConnectorError):
        why = exc.os_error.strerror or str(exc.os_error) or "the connection was closed during the TLS handshake"
        if "WRONG_VERSION_NUMBER" in why:
            why = "what answers does not speak TLS"
        return ClusterUnreachable(_UNREACHABLE, detail=why)
    if isinstance(exc, TimeoutError):
        why = "it did not answer in time"
    elif isinstance(exc, (aiohttp.ServerDisconnectedError, ConnectionResetError, aiohttp.ClientPayloadError)):
        why = "the connection was lost"
    else:
        why = str(exc) or type(exc).__name__
    return ClusterUnavailable(_UNREACHABLE, detail=why)


def _mistrust(exc: Exception) -> str:
    """What is wrong with the certificate, and what to change in the kubeconfig."""
    what = getattr(exc, "verify_message", "") or str(exc)
    code = getattr(exc, "verify_code", 0)
    if code in _TIME_CODES:
        return f"{what}; renew it, or correct the clock of this machine"
    if code in _NAME_CODES:
        return f"{what}; the kubeconfig's server, or its tls-server-name, must be one of the names in it"
    return f"{what}; the kubeconfig's certificate-authority-data must be that of the authority that issued it"


async def _read(response: aiohttp.ClientResponse, call: KubeRequest) -> bytes:
    """The body, unpacked. Raises AnswerTooLarge, and holds no more of it than that."""
    most = LIST_BYTES if call.verb == "list" else OBJECT_BYTES
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            raise AnswerTooLarge(
                f"the response to {what(call)} has more than {most >> 20} MiB, as much as stackd reads",
                f"{response.status} {response.content_type}, packed as {response.headers.get('Content-Encoding')}",
            )
    return bytes(body)


async def _answer(response: aiohttp.ClientResponse, call: KubeRequest) -> KubeResponse:
    after = response.headers.get("Retry-After", "")
    return KubeResponse(
        status=response.status,
        body=await _read(response, call),
        content_type=response.content_type,
        retry_after=min(int(after), _LONGEST_RETRY_AFTER) if after.isdecimal() else None,
        date=response.headers.get("Date", ""),
    )
