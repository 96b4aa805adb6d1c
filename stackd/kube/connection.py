"""Sends requests over one connection pool: authenticated, bounded in number and time, and counted.

Owns: the cap on requests in flight, the counters, the second try after a 401, and whether Kubernetes has answered at all
(``Contact``); and what retries are made of: ``Deadline`` and ``poll``. Retries nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, nullcontext
from typing import TypeVar

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
    StackdError,
    UnexpectedAnswer,
)
from stackd.kube import wire
from stackd.kube.credentials import Access, ClusterTarget
from stackd.kube.guards import Contact, Fence, FencedBody, is_fenced
from stackd.kube.wire import FAILING, FORBIDDEN, JSON, LEASES, UNAUTHORIZED, KubeRequest, KubeResponse, check, error_of
from stackd.model import struct
from stackd.tasks import acquired_within
from stackd.workqueue import RetryPolicy

log = logging.getLogger(__name__)
T = TypeVar("T")
CONNECT_SECONDS = 3.0
WATCH_OPEN_SECONDS = 5.0
NO_ANSWER = "none"
OBJECT_BYTES, LIST_BYTES = 8 << 20, 64 << 20
"""The most bytes of one object or error, and of one page of a list. Kubernetes limits an object to 1.5 MiB."""
_LONGEST_RETRY_AFTER = 300
_TRANSPORT_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)
OnRequest = Callable[[str, str, str, float], None]


class Deadline:
    """A point in time on the event loop's clock, ``seconds`` after the object is created."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._now = asyncio.get_running_loop().time
        self._at = self._now() + seconds

    @property
    def left(self) -> float:
        """Seconds until the deadline; 0 when it has passed."""
        return max(0.0, self._at - self._now())

    @property
    def spent(self) -> float:
        """Seconds since the deadline was created, without the waits for a turn."""
        return self.seconds - (self._at - self._now())

    def extend(self, seconds: float) -> None:
        """Put the deadline off by the time that was spent on waiting for a turn, and not for Kubernetes."""
        self._at += seconds


RETRIES = RetryPolicy(first=0.05, longest=1.0)
"""Of one call. The pauses double, with jitter, so that many clients do not retry at once."""


@struct
class Again:
    """A try that may have another outcome in ``at_least`` seconds or later; ``error`` says why it has none yet."""

    error: StackdError
    at_least: float = 0.0


async def poll(deadline: Deadline, attempt: Callable[[], Awaitable[T | Again]]) -> T:
    """The first result of ``attempt`` other than ``Again``; raises that one's error if there is none by the deadline."""
    tries = 0
    while isinstance(result := await attempt(), Again):
        tries += 1
        pause = max(result.at_least, RETRIES.delay(tries))
        if pause >= deadline.left:
            raise result.error
        await asyncio.sleep(pause)
    return result


class KubeConnection:
    """The connection to one API server.

    ``counts``    requests by (verb, resource, code); the code is ``none`` for those without a whole response
    ``access``    the credentials, and when they expire
    ``fence``     is checked as each changing request is written; no such request runs longer than the fence allows
    ``on_unverified``  is called when this may be another cluster: after a 401, because the next credentials may be for another
    ``on_forbidden``  is called when a change was refused with 403: a right may have been taken away
    ``on_date``   is called with the ``Date`` of each successful JSON response, and the seconds that the request took
    """

    def __init__(
        self, access: Access, target: ClusterTarget, *, on_request: OnRequest | None = None, fence: Fence | None = None
    ) -> None:
        self.access = access
        self.fence = fence or Fence()
        self.contact = Contact()
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.on_unverified: Callable[[], None] = lambda: None
        self.on_forbidden: Callable[[], None] = lambda: None
        self.on_date: Callable[[str, float], None] = lambda date, seconds: None
        self._on_request = on_request
        self._in_flight = asyncio.Semaphore(target.max_in_flight)
        self._logs_in_flight = asyncio.Semaphore(target.logs_in_flight)

    async def close(self) -> None:
        """Close all connections; running requests fail."""
        await self.access.close()

    async def ask(self, call: KubeRequest, deadline: Deadline, longest: float) -> KubeResponse:
        """Kubernetes' answer to the request, even if it is a refusal; sends it once, for at most ``longest`` seconds.

        Raises ClusterUnavailable without an answer, NoRequestSlot if so many requests wait that it was not sent, and
        NotOwner if the fence forbids the request, or ends it midway, when it may have been done.
        """
        contact = self.contact
        async with self._turn(call, deadline):
            if contact.lost and is_fenced(call):
                raise contact.error()
            sent = contact.now()
            try:
                answer = await self._within(max(0.5, min(longest, deadline.left)), call)
                check(call, answer)
            except ClusterRefused:
                raise
            except ClusterUnavailable as exc:
                if isinstance(exc, UnexpectedAnswer):
                    log.warning("%s (%s)", exc, exc.excerpt)
                if not call.asks_node and not isinstance(exc, AnswerTooLarge):
                    contact.failed(sent, str(exc))
                raise
        if answer.status in FAILING and not wire.is_from_node(call, answer):
            contact.failed(sent, f"it answers {answer.status}")
        else:
            contact.heard(answer=True)
        if answer.status == FORBIDDEN and is_fenced(call):
            self.on_forbidden()
        return answer

    @asynccontextmanager
    async def _turn(self, call: KubeRequest, deadline: Deadline) -> AsyncIterator[None]:
        """A slot among the requests in flight; the wait for it extends the deadline. The Lease needs none: it must not wait
        behind requests that hang.
        """
        if call.resource == LEASES:
            yield
            return
        began, fenced = self.contact.now(), is_fenced(call)
        slots = self._logs_in_flight if call.asks_node else self._in_flight
        if not await acquired_within(slots, min(deadline.seconds, self.fence.left) if fenced else deadline.seconds):
            if fenced:
                self.fence.require()
            within = f"within {deadline.seconds:g} s"
            raise NoRequestSlot(
                f"stackd waits for so many of Kubernetes' answers that a request could not be sent {within}"
            )
        try:
            deadline.extend(self.contact.now() - began)
            yield
        finally:
            slots.release()

    async def _within(self, seconds: float, call: KubeRequest) -> KubeResponse:
        """The response to the request, whatever its status, over credentials that the API server accepts if there are."""
        session, fenced, generation = self.access.session, is_fenced(call), self.access.generation
        try:
            async with asyncio.timeout(min(seconds, self.fence.left) if fenced else seconds) as limit:
                # Requests for the Lease have their own timeout, and go on when the contact is lost: they show when it
                # is back.
                waiting = nullcontext() if call.resource == LEASES else self.contact.waiting(limit)
                with self.fence.change() if fenced else nullcontext(), waiting:
                    answer = await self._send(call)
                    if answer.status == UNAUTHORIZED and await self._renewed(generation):
                        answer = await self._send(call)
                    return answer
        except TimeoutError as exc:
            if fenced:
                self.fence.require()
            if not call.asks_node:
                await self.access.leave(session)
            if self.contact.lost:
                raise self.contact.error() from exc
            raise ClusterTimeout(f"Kubernetes did not answer within {seconds:.1f} s") from exc

    async def probe(self, call: KubeRequest, seconds: float) -> KubeResponse:
        """Kubernetes' answer within ``seconds`` over a new connection, even if it is a refusal.

        Raises ClusterTimeout if there is none; ClusterUnavailable if it cannot be reached, or the answer is 502, 503 or 504.
        """
        try:
            async with asyncio.timeout(seconds), self.access.new_session(force_close=True) as session:
                answer = await self._send(call, session)
        except TimeoutError as exc:
            raise ClusterTimeout(f"it did not answer within {seconds:g} s over a new connection") from exc
        check(call, answer)
        if answer.status in FAILING:
            raise error_of(call, answer)
        self.contact.heard(answer=True)
        return answer

    @asynccontextmanager
    async def stream(self, call: KubeRequest, *, idle: float) -> AsyncIterator[aiohttp.ClientResponse]:
        """An open watch; reading from it raises ClusterSilent after ``idle`` seconds without a byte.

        Raises the error that a refusal means, and ClusterUnavailable without a response.
        """
        session, generation = self.access.session, self.access.generation
        with ExitStack() as stack:
            try:
                async with asyncio.timeout(WATCH_OPEN_SECONDS):
                    response = await self._open(call, stack, idle=idle)
                if response.status == UNAUTHORIZED and await self._renewed(generation):
                    stack.close()
                    async with asyncio.timeout(WATCH_OPEN_SECONDS):
                        response = await self._open(call, stack, idle=idle)
            except _TRANSPORT_ERRORS as exc:
                if isinstance(exc, TimeoutError):
                    await self.access.leave(session)
                raise unreachable(exc) from exc
            if isinstance(response, KubeResponse):
                if response.ok:
                    raise wire.unexpected(call, response, "not a watch")
                raise error_of(call, response)
            try:
                yield response
            except TimeoutError as exc:
                raise ClusterSilent(f"Kubernetes has sent nothing for {idle:g} s") from exc
            except _TRANSPORT_ERRORS as exc:
                raise unreachable(exc) from exc

    async def _renewed(self, generation: int) -> bool:
        self.on_unverified()
        return await self.access.reload(generation)

    async def _send(self, call: KubeRequest, session: aiohttp.ClientSession | None = None) -> KubeResponse:
        """Send the request over ``session``, by default the current one, and return the response."""
        began = time.perf_counter()
        try:
            with ExitStack() as stack:
                answer = await self._open(call, stack, session)
        except _TRANSPORT_ERRORS as exc:
            if is_fenced(call):
                self.fence.require()
            raise unreachable(exc) from exc
        assert isinstance(answer, KubeResponse)
        if answer.ok and answer.document is not None:
            self.on_date(answer.date, time.perf_counter() - began)
        return answer

    async def _open(
        self,
        call: KubeRequest,
        stack: ExitStack,
        session: aiohttp.ClientSession | None = None,
        *,
        idle: float | None = None,
    ) -> KubeResponse | aiohttp.ClientResponse:
        """Send the request, and count it; returns the response, or a watch that is open. ``stack`` gives back the session,
        and closes the connection unless the response was read to its end.
        """
        headers = await self.access.headers()
        data: bytes | FencedBody | None = call.body
        if call.body is not None:
            headers["Content-Type"] = call.content_type
        session = session or stack.enter_context(self.access.borrowed())
        if is_fenced(call):
            data = body = FencedBody(call.body or b"", self.fence)
            stack.push(body.cut_if_given_up)
        began, code = time.perf_counter(), NO_ANSWER
        try:
            response: aiohttp.ClientResponse = await session.request(
                wire.METHODS[call.verb],
                URL(self.access.base_url + call.path, encoded=True),
                params=call.params or None,
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=idle),
                allow_redirects=False,
                **self.access.options(),
            )
            stack.callback(response.close)
            is_open = call.verb == "watch" and response.status == 200 and response.content_type == JSON
            answer = response if is_open else await _read(response, call)
            code = str(response.status)
        finally:
            self.counts[call.verb, call.resource, code] += 1
            if self._on_request is not None:
                self._on_request(call.verb, call.resource, code, time.perf_counter() - began)
        return answer


async def _read(response: aiohttp.ClientResponse, call: KubeRequest) -> KubeResponse:
    """The response with its body, unpacked. Raises AnswerTooLarge, and holds no more of it than that."""
    most = LIST_BYTES if call.verb == "list" else OBJECT_BYTES
    body, headers = bytearray(), response.headers
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            raise AnswerTooLarge(
                f"the response to {call} has more than {most >> 20} MiB, as much as stackd reads",
                f"{response.status} {response.content_type}, packed as {headers.get('Content-Encoding')}",
            )
    after = headers.get("Retry-After", "")
    return KubeResponse(
        status=response.status,
        body=bytes(body),
        content_type=response.content_type,
        retry_after=min(int(after[:9]), _LONGEST_RETRY_AFTER) if after.isdecimal() else None,
        date=headers.get("Date", ""),
    )


def unreachable(exc: BaseException) -> ClusterUnavailable:
    """The error for a request without a response; its text names the cause."""
    sentence = "Kubernetes cannot be reached"
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return ClusterUnavailable(sentence, detail=f"the proxy answered {exc.status}")
    if isinstance(exc, aiohttp.ClientResponseError):
        return UnexpectedAnswer(f"{sentence}: what answers does not speak HTTP", exc.message.partition("\n")[0])
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return ClusterRefused("Kubernetes' certificate is not accepted", detail=_mistrust(exc.certificate_error))
    if isinstance(exc, aiohttp.ClientConnectorError):
        why = exc.os_error.strerror or str(exc.os_error) or "the connection was closed during the TLS handshake"
        return ClusterUnreachable(
            sentence, detail="what answers does not speak TLS" if "WRONG_VERSION_NUMBER" in why else why
        )
    if isinstance(exc, TimeoutError):
        why = "it did not answer in time"
    elif isinstance(exc, (aiohttp.ServerDisconnectedError, ConnectionResetError, aiohttp.ClientPayloadError)):
        why = "the connection was lost"
    else:
        why = str(exc) or type(exc).__name__
    return ClusterUnavailable(sentence, detail=why)


def _mistrust(exc: Exception) -> str:
    """What is wrong with the certificate, and what to change in the kubeconfig."""
    what, code = getattr(exc, "verify_message", "") or str(exc), getattr(exc, "verify_code", 0)
    if code in (9, 10):  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
        return f"{what}; renew it, or correct the clock of this machine"
    if code in (62, 64):  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
        return f"{what}; the kubeconfig's server, or its tls-server-name, must be one of the names in it"
    return f"{what}; the kubeconfig's certificate-authority-data must be that of the authority that issued it"
