"""What can stop a request before it is sent: the fence, and the circuit breaker for a Kubernetes that does not answer. And
whether the cluster behind the connection is known to be the right one.

``Fence``    until when this process may change anything in the cluster; checked last before each changing request. Does
             not know who sets the moment: until somebody does, everything is allowed.
``Contact``  whether Kubernetes answers (a circuit breaker): when it was last heard, which requests wait, and how many
             in a row got no answer. Once it does not answer, waiting requests fail at once, and new ones are refused.
``Identity`` whether what answers is still the cluster whose identity was confirmed. Does not know who confirms it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter

from stackd.clock import boottime
from stackd.errors import AnswerTooLarge, ClusterRefused, ClusterTimeout, ClusterUnavailable, NotOwner, StackdError
from stackd.kube.wire import LEASES, KubeRequest
from stackd.tasks import set_within

log = logging.getLogger(__name__)

# Kubernetes counts as not answering after so many failed requests in a row, over at least so many seconds: as long as one
# request may take by default, so that the election of an etcd leader, or an API server that restarts, is no outage.
FAILURES, FAILING_SECONDS = 3, 5.0
# A probe is sent when a request has waited for so long, or nothing was heard: five times a minute when nothing happens.
CHECK_SECONDS, WAITING_SECONDS, QUIET_SECONDS = 0.2, 0.3, 12.0
AGAIN_SECONDS = 0.5  # between the ends of two probes


class Fence:
    """Until when changes are allowed. ``valid_until`` is on the clock ``now``, in seconds; infinite until it is set.

    The clock goes on while the machine is suspended.
    """

    def __init__(self, now: Callable[[], float] = boottime) -> None:
        self.now = now
        self.valid_until = math.inf
        self._why = ""
        self._changes = 0
        self._idle = asyncio.Event()

    @property
    def open(self) -> bool:
        return self.now() < self.valid_until

    @property
    def left(self) -> float:
        """For how many more seconds changes are allowed; 0 if they are not."""
        return max(0.0, self.valid_until - self.now())

    def close(self, why: str) -> None:
        """Forbid changes from now on; ``why`` is the error text for clients."""
        self.allow_until(-math.inf, why)

    def allow_until(self, moment: float, why_not_later: str) -> None:
        """Allow changes until ``moment``; after it, the error text is ``why_not_later``."""
        self.valid_until, self._why = moment, why_not_later

    def require(self) -> None:
        """Raise NotOwner unless changes are allowed now."""
        if not self.open:
            raise NotOwner(self._why)

    @contextmanager
    def change(self) -> Iterator[None]:
        """Count a change as running within the block. Raises NotOwner unless changes are allowed now."""
        self.require()
        self._changes += 1
        try:
            yield
        finally:
            self._changes -= 1
            if not self._changes:
                self._idle.set()

    async def nothing_under_way(self, until: float) -> None:
        """Return when no change is running any more, or at ``until``, on the fence's clock."""
        while self._changes and (remaining := until - self.now()) > 0:
            self._idle.clear()
            await set_within(self._idle, remaining)


class FencedBody(aiohttp.BytesPayload):
    """A request's body that checks the fence when it is written, after the wait for a connection: the process may have been
    suspended meanwhile. The headers are written with the body, so nothing of a request that is refused here was sent.
    """

    def __init__(self, body: bytes, fence: Fence) -> None:
        super().__init__(body)
        self._fence = fence
        self._transport: asyncio.Transport | None = None

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write the body, up to a length. Raises NotOwner if the fence has closed."""
        self._fence.require()
        self._transport = writer.transport if isinstance(writer, StreamWriter) else None
        await super().write_with_length(writer, content_length)

    def cut_if_given_up(self, error: object, *_: object) -> None:
        """Reset the connection of a request that was given up with ``error``, so that the rest of it is never delivered.

        Otherwise the kernel resends its buffered data for minutes, when another stackd may own the stacks.
        """
        if error is None or self._transport is None:
            return
        # A connection that is closed already raises one of these: it depends on the event loop, and on TLS.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            at_once = struct.pack("ii", 1, 0)  # linger for no time: close resets the connection
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self._transport.abort()


class Contact:
    """Whether Kubernetes answers; times on the monotonic clock, in seconds.

    ``lost_at``: when it stopped last. ``tried``: set once the cluster was reached, or a try to reach it has failed.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.heard_at = self.answered_at = now()
        self.failures = 0
        self.lost_since: float | None = None
        self.lost_at = -math.inf
        self.why = ""
        self.tried = asyncio.Event()
        self._subscribers: list[Callable[[bool], None]] = []
        self._failing_since = 0.0
        self._waiting: dict[asyncio.Timeout, float] = {}
        self._back = asyncio.Event()

    def subscribe(self, callback: Callable[[bool], None]) -> None:
        """Call ``callback`` when Kubernetes stops answering (with True), and when it answers again (False)."""
        self._subscribers.append(callback)

    def _tell(self, *, lost: bool) -> None:
        for callback in self._subscribers:
            callback(lost)

    @property
    def lost(self) -> bool:
        return self.lost_since is not None

    @property
    def silence(self) -> float:
        """Seconds since Kubernetes last sent anything: a response, or an event of a watch."""
        return self.now() - self.heard_at

    @property
    def in_question(self) -> bool:
        """Whether to probe: there is no answer, a request waits for longer than usual, or nothing was heard for long."""
        oldest = min(self._waiting.values(), default=math.inf)
        return self.lost or self.now() - oldest > WAITING_SECONDS or self.silence > QUIET_SECONDS

    def error(self) -> ClusterUnavailable:
        """The error that Kubernetes does not answer, with the duration, and the reason if known."""
        since = min(self.heard_at, self._failing_since) if self.failures else self.heard_at
        return ClusterUnavailable(f"Kubernetes has not answered for {self.now() - since:.0f} s", detail=self.why)

    @contextmanager
    def waiting(self, limit: asyncio.Timeout) -> Iterator[None]:
        """Count a request as running; ``lose`` ends it by its ``limit``."""
        self._waiting[limit] = self.now()
        try:
            yield
        finally:
            del self._waiting[limit]

    def heard(self) -> None:
        """Note that Kubernetes has sent something: an event of a watch, or a part of it."""
        self.heard_at = self.now()

    def answered(self) -> None:
        self.heard_at = self.answered_at = self.now()
        self.failures = 0
        if self.lost_since is not None:
            log.info("Kubernetes answers again after %.1f s", self.heard_at - self.lost_since)
            self.lost_since, self.why = None, ""
            self._back.set()
            self._back = asyncio.Event()
            self._tell(lost=False)

    async def pause(self, seconds: float) -> None:
        """Sleep before another try, but no longer than until Kubernetes answers again."""
        await set_within(self._back, seconds)

    def failed(self, sent: float, why: str) -> None:
        """Note that a request sent at ``sent`` got no answer. Ignored if another one was answered since then."""
        if self.lost or sent < self.answered_at:
            return
        if not self.failures:
            self._failing_since = sent
        self.failures += 1
        if self.failures >= FAILURES and self.now() - self._failing_since >= FAILING_SECONDS:
            self.lose(why)

    def lose(self, why: str) -> None:
        """Note that Kubernetes does not answer, and make all waiting requests time out at once."""
        self.why = why
        if self.lost_since is not None:
            return
        self.lost_since = self.lost_at = self.now()
        log.warning("Kubernetes does not answer, and nothing is created until it does: %s", why)
        now = asyncio.get_running_loop().time()
        for limit in self._waiting:
            if not limit.expired():
                limit.reschedule(now)
        self._tell(lost=True)


class Identity:
    """Whether the cluster that answers is known to be the file's own; times on the clock ``now``, in seconds.

    ``confirmed``  set while it is known which cluster answers; ``due``: set while it has to be asked
    ``epoch``      how often it was in doubt: an answer from an earlier epoch may be another cluster's
    ``doubted_at`` since when it is in doubt; None before the first doubt
    """

    def __init__(self, now: Callable[[], float] = boottime) -> None:
        self.confirmed, self.due = asyncio.Event(), asyncio.Event()
        self.epoch = 0
        self.doubted_at: float | None = None
        self._now = now

    def doubt(self) -> None:
        """The cluster may be another one: trust nothing until its identity was asked for again."""
        if self.confirmed.is_set() or self.doubted_at is None:
            self.doubted_at = self._now()
        self.confirmed.clear()
        self.epoch += 1
        self.due.set()

    @property
    def doubted_for(self) -> float:
        """For how many seconds it has been in doubt."""
        return 0.0 if self.doubted_at is None else self._now() - self.doubted_at


@asynccontextmanager
async def attempt(
    call: KubeRequest, seconds: float, fence: Fence, contact: Contact, *, through: str = ""
) -> AsyncIterator[None]:
    """One try of the request, of at most ``seconds``; a change ends no later than the fence allows. ``through`` names a proxy.

    Raises NotOwner if the fence forbids the request, or ends it midway, when it may have been done; ClusterTimeout; and
    ClusterUnavailable, for a change also before it is sent, while Kubernetes is known not to answer.
    """
    if call.fenced and contact.lost:
        raise contact.error()
    sent = contact.now()
    try:
        async with asyncio.timeout(min(seconds, fence.left) if call.fenced else seconds) as limit:
            # Requests for the Lease have their own timeout, and go on when the contact is lost: they show when it is back.
            waiting = nullcontext() if call.resource == LEASES else contact.waiting(limit)
            with fence.change() if call.fenced else nullcontext(), waiting:
                yield
    except TimeoutError as exc:
        if call.fenced:
            fence.require()
        if contact.lost:
            raise contact.error() from exc
        silent = ClusterTimeout(f"Kubernetes did not answer within {seconds:.1f} s", detail=through)
        if not call.asks_node:
            contact.failed(sent, str(silent))
        raise silent from exc
    except (ClusterRefused, AnswerTooLarge):
        raise
    except ClusterUnavailable as exc:
        if not call.asks_node:
            contact.failed(sent, str(exc))
        raise


async def watch_over(contact: Contact, probe: Callable[[float], Awaitable[object]], limit: Callable[[], float]) -> None:
    """Call ``probe`` whenever it is unclear whether Kubernetes answers, forever.

    A probe gets as many seconds as any request (``limit``): what is slower than usual still answers. Without an answer
    by then, Kubernetes does not answer.
    """
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        if not contact.in_question:
            continue
        heard_at, began, seconds = contact.heard_at, contact.now(), limit()
        try:
            await probe(seconds)
        except ClusterTimeout as error:
            # After more than its limit this process itself has not run, and the answer may be waiting to be read.
            if contact.heard_at == heard_at and contact.now() - began < seconds + CHECK_SECONDS:
                contact.lose(str(error))
        except StackdError as error:
            if contact.lost:
                contact.lose(str(error))  # for another reason than before
            else:
                contact.failed(began, str(error))
        await asyncio.sleep(AGAIN_SECONDS - CHECK_SECONDS)
