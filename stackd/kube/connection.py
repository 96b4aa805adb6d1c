"""Sends requests over one connection pool: authenticated, bounded in number and time, and counted.

Owns: the cap on requests in flight, the counters, the retries (``Deadline`` and ``poll``), the second try after a 401, and
whether Kubernetes has answered at all (``Contact``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import TypeVar

import aiohttp

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
from stackd.kube.guards import Contact, Fence, FencedBody, Identity, attempt
from stackd.kube.wire import FAILING, FORBIDDEN, JSON, LEASES, UNAUTHORIZED, KubeRequest, KubeResponse, check, error_of
from stackd.model import struct
from stackd.tasks import acquired_within
from stackd.workqueue import RetryPolicy

log = logging.getLogger(__name__)
T = TypeVar("T")
CONNECT_SECONDS = 3.0
# Long enough for an API server that restarts. If the server is down for longer, the caller gets its error soon.
CONNECT_PATIENCE = 3.0
# A page may hold megabytes. If the client gave up early, the server would only have to send the page again.
LIST_SECONDS = 30.0
# Without its list stackd sees nothing, so it does not wait longer than this, whatever a Retry-After says.
LONGEST_LIST_PAUSE = 5.0
WATCH_OPEN_SECONDS = 5.0
# An API server that works on a Service needs a small part of this: what takes longer waits for something else.
SLOW_WRITE_SECONDS = 1.0
NO_ANSWER = "none"
OBJECT_BYTES, LIST_BYTES = 8 << 20, 64 << 20
"""The most bytes of one object or error, and of one page of a list. Kubernetes limits an object to 1.5 MiB."""
_LONGEST_RETRY_AFTER = 300
_TRANSPORT_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)
OnRequest = Callable[[str, str, str, float], None]
OnDate = Callable[[str, float], None]


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


async def _as_it_is(answer: KubeResponse) -> KubeResponse:
    return answer


class KubeConnection:
    """The connection to one API server.

    ``counts``    requests by (verb, resource, code); the code is ``none`` for those without a whole response
    ``access``    the credentials, and when they expire
    ``fence``     is checked as each changing request is written; no such request runs longer than the fence allows
    ``contact``   whether Kubernetes answers
    ``identity``  is in doubt after a 401, because the next credentials may be for another cluster
    ``rights_in_doubt``  a change was refused with 403: a right may have been taken away; whoever asks for them clears it

    ``on_request(verb, resource, code, seconds)`` is called after each request; ``on_date(date, seconds)`` with each new
    ``Date`` of a successful response, and the seconds that the request took.
    """

    def __init__(
        self,
        access: Access,
        target: ClusterTarget,
        *,
        on_request: OnRequest | None = None,
        on_date: OnDate | None = None,
        fence: Fence | None = None,
    ) -> None:
        self.access = access
        self.fence = fence or Fence()
        self.contact, self.identity = Contact(), Identity()
        self.rights_in_doubt = False
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self._on_request, self._on_date = on_request, on_date
        self._attempt_seconds = target.attempt_timeout
        self._date = ""
        self._in_flight = asyncio.Semaphore(target.max_in_flight)
        self._logs_in_flight = asyncio.Semaphore(target.logs_in_flight)
        self._services_in_flight = asyncio.Semaphore(target.services_in_flight)

    async def close(self) -> None:
        await self.access.close()

    async def ask(self, call: KubeRequest, deadline: Deadline) -> KubeResponse:
        """The first response of Kubernetes that a retry would not change.

        Raises ClusterUnavailable at the deadline, and at once for a change while Kubernetes is known not to answer;
        ClusterRefused at once if the cluster refuses the credentials, or stackd does not trust its certificate;
        NoRequestSlot if so many requests wait that it was not sent; NotOwner if the fence forbids the request, or ends it
        midway. Kubernetes may have done the call more than once, or may have done it although this raises.
        """
        return await self.ask_until(call, deadline, _as_it_is)

    async def ask_until(
        self, call: KubeRequest, deadline: Deadline, read: Callable[[KubeResponse], Awaitable[T | Again]]
    ) -> T:
        """As ``ask``: what ``read`` makes of the response, which is asked for again as long as that is ``Again``."""

        async def once() -> T | Again:
            try:
                answer = await self._once(call, deadline)
            except (ClusterRefused, NoRequestSlot, AnswerTooLarge):
                raise
            except ClusterUnavailable as exc:
                refused = isinstance(exc, ClusterUnreachable) and deadline.spent >= CONNECT_PATIENCE
                if self.contact.lost or refused:
                    raise
                return Again(error=exc)
            if answer.ok or not wire.may_repeat(call, answer):
                return await read(answer)
            if self.contact.lost:
                raise error_of(call, answer)
            after = answer.retry_after or 0
            return Again(
                error=error_of(call, answer),
                at_least=min(after, LONGEST_LIST_PAUSE) if call.verb == "list" else after,
            )

        try:
            return await poll(deadline, once)
        except ClusterTimeout as exc:  # the caller has waited for all tries, not only for the last one
            silent = f"Kubernetes did not answer within {deadline.spent:.1f} s"
            raise ClusterTimeout(silent, detail=exc.detail) from exc

    async def _once(self, call: KubeRequest, deadline: Deadline) -> KubeResponse:
        """Kubernetes' answer to the request, which is sent once, even if it is a refusal."""
        contact, longest = self.contact, LIST_SECONDS if call.verb == "list" else self._attempt_seconds
        async with self._turn(call, deadline):
            sent, session = contact.now(), self.access.session
            try:
                seconds, through = max(0.5, min(longest, deadline.left)), self.access.through
                async with attempt(call, seconds, self.fence, contact, through=through):
                    answer = await self._send(call)
                    check(call, answer)
            except UnexpectedAnswer as exc:
                log.warning("%s (%s)", exc, exc.excerpt)
                raise
            except ClusterUnavailable as exc:
                if isinstance(exc.__cause__, TimeoutError) and not call.asks_node:
                    await self.access.leave(session)
                raise
            if answer.status in FAILING and not wire.is_from_node(call, answer):
                contact.failed(sent, f"it answers {answer.status}")
            else:
                contact.answered()
        if answer.ok and answer.date != self._date:
            self._date = answer.date
            if self._on_date is not None:
                self._on_date(answer.date, contact.now() - sent)
        if answer.status == FORBIDDEN and call.fenced:
            self.rights_in_doubt = True
        return answer

    def _slots_of(self, call: KubeRequest) -> asyncio.Semaphore | None:
        """The Lease needs none: it must not wait behind requests that hang."""
        if call.resource == LEASES:
            return None
        if call.resource == "services" and call.verb in ("create", "delete"):
            return self._services_in_flight
        return self._logs_in_flight if call.asks_node else self._in_flight

    @asynccontextmanager
    async def _turn(self, call: KubeRequest, deadline: Deadline) -> AsyncIterator[None]:
        """A slot among the requests of its kind; the wait for it extends the deadline. A write of a Service that is not
        answered within ``SLOW_WRITE_SECONDS`` gives its slot back meanwhile: the API server works on others then."""
        if (slots := self._slots_of(call)) is None:
            yield
            return
        if slots.locked():
            began, fenced = self.contact.now(), call.fenced
            if not await acquired_within(slots, min(deadline.seconds, self.fence.left) if fenced else deadline.seconds):
                if fenced:
                    self.fence.require()
                within = f"within {deadline.seconds:g} s"
                raise NoRequestSlot(
                    f"stackd waits for so many of Kubernetes' answers that a request could not be sent {within}"
                )
            deadline.extend(self.contact.now() - began)
        else:
            await slots.acquire()
        with ExitStack() as held:
            held.callback(slots.release)
            if slots is self._services_in_flight:
                timer = asyncio.get_running_loop().call_later(SLOW_WRITE_SECONDS, held.close)
                held.callback(timer.cancel)
            yield

    async def probe(self, call: KubeRequest, seconds: float) -> KubeResponse:
        """Kubernetes' answer within ``seconds`` over a new connection, even if it is a refusal.

        Raises ClusterTimeout if there is none; ClusterUnavailable if it cannot be reached, or the answer is 502, 503 or 504.
        """
        try:
            async with asyncio.timeout(seconds), self.access.new_session(force_close=True) as session:
                answer = await self._exchange(call, session)
        except TimeoutError as exc:
            silent = f"it did not answer within {seconds:g} s over a new connection"
            raise ClusterTimeout(silent, detail=self.access.through) from exc
        check(call, answer)
        if answer.status in FAILING:
            raise error_of(call, answer)
        self.contact.answered()
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
                    response, body = await self._open(call, stack, idle=idle)
                if response.status == UNAUTHORIZED and await self._reload_credentials(generation):
                    stack.close()
                    async with asyncio.timeout(WATCH_OPEN_SECONDS):
                        response, body = await self._open(call, stack, idle=idle)
            except _TRANSPORT_ERRORS as exc:
                if isinstance(exc, TimeoutError):
                    await self.access.leave(session)
                raise unreachable(exc, self.access.through) from exc
            if body is not None:
                answer = _answer_of(response, body)
                raise wire.unexpected(call, answer, "not a watch") if answer.ok else error_of(call, answer)
            try:
                yield response
            except TimeoutError as exc:
                raise ClusterSilent(f"Kubernetes has sent nothing for {idle:g} s") from exc
            except _TRANSPORT_ERRORS as exc:
                raise unreachable(exc, self.access.through) from exc

    async def _reload_credentials(self, generation: int) -> bool:
        self.identity.doubt()
        return await self.access.reload(generation)

    async def _send(self, call: KubeRequest) -> KubeResponse:
        """The response, whatever its status, over credentials that the API server accepts if there are."""
        generation = self.access.generation
        answer = await self._exchange(call)
        if answer.status == UNAUTHORIZED and await self._reload_credentials(generation):
            answer = await self._exchange(call)
        return answer

    async def _exchange(self, call: KubeRequest, session: aiohttp.ClientSession | None = None) -> KubeResponse:
        """Send the request over ``session``, by default the current one, and return the response."""
        try:
            with ExitStack() as stack:
                response, body = await self._open(call, stack, session)
        except _TRANSPORT_ERRORS as exc:
            if call.fenced:
                self.fence.require()
            raise unreachable(exc, self.access.through) from exc
        assert body is not None, "only a watch is left unread"
        return _answer_of(response, body)

    async def _open(
        self,
        call: KubeRequest,
        stack: ExitStack,
        session: aiohttp.ClientSession | None = None,
        *,
        idle: float | None = None,
    ) -> tuple[aiohttp.ClientResponse, bytes | None]:
        """Send the request, and count it; returns the response and its body, None for a watch that is open. ``stack`` gives
        back the session, and closes the connection unless the response was read to its end.
        """
        headers, options = await self.access.headers(), self.access.options()
        session = session or stack.enter_context(self.access.borrowed())
        data: bytes | FencedBody | None = call.body
        if call.body is not None:
            headers["Content-Type"] = call.content_type
        if call.fenced:
            data = fenced = FencedBody(call.body or b"", self.fence)
            stack.push(fenced.cut_if_given_up)
        began, code = time.perf_counter(), NO_ANSWER
        try:
            response: aiohttp.ClientResponse = await session.request(
                wire.METHODS[call.verb],
                self.access.base_url + call.path,
                params=call.params or None,
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=idle),
                allow_redirects=False,
                **options,
            )
            stack.callback(response.close)
            is_open = call.verb == "watch" and response.status == 200 and response.content_type == JSON
            body = None if is_open else await _read(response, call)
            code = str(response.status)
        finally:
            self.counts[call.verb, call.resource, code] += 1
            if self._on_request is not None:
                self._on_request(call.verb, call.resource, code, time.perf_counter() - began)
        return response, body


async def _read(response: aiohttp.ClientResponse, call: KubeRequest) -> bytes:
    """The body of the response, unpacked. Raises AnswerTooLarge, and holds no more of it than that."""
    most = LIST_BYTES if call.verb == "list" else OBJECT_BYTES
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            raise AnswerTooLarge(
                f"the response to {call} has more than {most >> 20} MiB, as much as stackd reads",
                f"{response.status} {response.content_type}, packed as {response.headers.get('Content-Encoding')}",
            )
    return bytes(body)


def _answer_of(response: aiohttp.ClientResponse, body: bytes) -> KubeResponse:
    headers = response.headers
    after = headers.get("Retry-After", "")
    return KubeResponse(
        status=response.status,
        body=body,
        content_type=response.content_type,
        retry_after=min(int(after[:9]), _LONGEST_RETRY_AFTER) if after.isdecimal() else None,
        date=headers.get("Date", ""),
    )


def unreachable(exc: BaseException, through: str = "") -> ClusterUnavailable:
    """The error for a request without a response; its text names the cause, and the proxy that it went ``through``."""
    sentence, by_proxy = "Kubernetes cannot be reached", f" ({through})" if through else ""
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        wants = " and wants a user and a password, as in http://USER:PASSWORD@HOST:PORT" if exc.status == 407 else ""
        return ClusterUnavailable(sentence, detail=f"the proxy answered {exc.status}{wants}{by_proxy}")
    if isinstance(exc, aiohttp.ClientResponseError):
        return UnexpectedAnswer(
            f"{sentence}: what answers does not speak HTTP", exc.message.partition("\n")[0] + by_proxy
        )
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        mistrust = _mistrust(exc.certificate_error) + by_proxy
        return ClusterRefused("Kubernetes' certificate is not accepted", detail=mistrust)
    if isinstance(exc, aiohttp.ClientConnectorError):
        why = exc.os_error.strerror or str(exc.os_error) or "the connection was closed during the TLS handshake"
        why = "what answers does not speak TLS" if "WRONG_VERSION_NUMBER" in why else why
        return ClusterUnreachable(sentence, detail=why + by_proxy)
    if isinstance(exc, TimeoutError):
        why = "it did not answer in time"
    elif isinstance(exc, (aiohttp.ServerDisconnectedError, ConnectionResetError, aiohttp.ClientPayloadError)):
        why = "the connection was lost"
    else:
        why = str(exc) or type(exc).__name__
    return ClusterUnavailable(sentence, detail=why + by_proxy)


def _mistrust(exc: Exception) -> str:
    """What is wrong with the certificate, and what to change in the kubeconfig."""
    what, code = getattr(exc, "verify_message", "") or str(exc), getattr(exc, "verify_code", 0)
    if code in (9, 10):  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
        return f"{what}; renew it, or correct the clock of this machine"
    if code in (62, 64):  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
        return f"{what}; the kubeconfig's server, or its tls-server-name, must be one of the names in it"
    return f"{what}; the kubeconfig's certificate-authority-data must be that of the authority that issued it"
