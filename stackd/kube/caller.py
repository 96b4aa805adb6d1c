"""Requests that are repeated until they have an answer, or until their time is up.

Owns the retries: a lost answer, one that is not Kubernetes', an overloaded server and the moments in which a namespace or
a quota is not ready are all waited out within the request's deadline. Knows nothing of what is created or deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from stackd.errors import (
    ClusterRefused,
    ClusterTimeout,
    ClusterUnavailable,
    ClusterUnreachable,
    StackdError,
    UnexpectedAnswer,
    VersionExpired,
)
from stackd.kube import labels
from stackd.kube.connection import KubeConnection
from stackd.kube.credentials import ClusterTarget
from stackd.kube.guards import is_fenced
from stackd.kube.responses import NOT_FOUND, check, error_of, is_from_node, may_repeat, readable, unexpected
from stackd.kube.wire import FAILING, JsonObject, KubeRequest, KubeResponse, core
from stackd.workqueue import RetryPolicy

log = logging.getLogger(__name__)
T = TypeVar("T")
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
_SHORTEST_ATTEMPT = 0.5
# A restarting API server is waited for, one that is away is not: whoever asked is told soon.
CONNECT_PATIENCE = 3.0
PAGE = 500
# A page may hold megabytes; cutting it off early would only make it be sent again.
LIST_SECONDS = 30.0
# A list is what a blind stackd waits for: it is asked for again, whatever a Retry-After says.
LONGEST_LIST_PAUSE = 5.0


class Deadline:
    """A point in time, ``seconds`` from its making, on the event loop's clock."""

    __slots__ = ("_at", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = asyncio.get_running_loop().time() + seconds

    @property
    def spent(self) -> float:
        """Seconds since its making."""
        return self.seconds - (self._at - asyncio.get_running_loop().time())

    @property
    def left(self) -> float:
        """Seconds until then; 0 when it has passed."""
        return max(0.0, self._at - asyncio.get_running_loop().time())


class Backoff:
    """Pauses that double, with jitter, so that many clients do not come back at once."""

    __slots__ = ("_retries", "_tries")

    def __init__(self, *, first: float, most: float) -> None:
        self._retries = RetryPolicy(first=first, longest=most)
        self._tries = 0

    def pause(self, at_least: float = 0.0) -> float:
        """The next pause in seconds; between half of its bound and all of it, and ``at_least`` so long."""
        self._tries += 1
        return max(at_least, self._retries.delay(self._tries))

    def reset(self) -> None:
        """Start again with the first pause."""
        self._tries = 0


class Caller:
    """A connection together with the target's namespace, instance and time limits.

    ``belongs_to`` is what ``cluster_uid`` has to answer before anything may be made anew; empty while that is not known.
    """

    def __init__(self, target: ClusterTarget, connection: KubeConnection) -> None:
        self.target = target
        self.connection = connection
        self.belongs_to = ""

    @property
    def instance(self) -> str:
        """The name of this stackd among those that share the cluster."""
        return self.target.instance

    @property
    def namespace_name(self) -> str:
        """The namespace of the stacks."""
        return self.target.namespace

    @property
    def counts(self) -> Counter[tuple[str, str, str]]:
        """Requests sent so far by (verb, resource, code); code ``none`` where no answer came."""
        return self.connection.counts

    def deadline(self, seconds: float | None = None) -> Deadline:
        """The deadline of a call that begins now."""
        return Deadline(self.target.timeout if seconds is None else seconds)

    def backoff(self) -> Backoff:
        """The pauses between the repetitions of one call."""
        return Backoff(first=FIRST_PAUSE, most=LONGEST_PAUSE)

    async def ask(self, call: KubeRequest, deadline: Deadline) -> KubeResponse:
        """The first answer of Kubernetes to this call that repeating it would not change. Raises ClusterUnavailable at the
        deadline, and at once where Kubernetes is known not to answer and something is to be changed; ClusterRefused at once
        where the cluster does not accept the credentials, or its certificate is not accepted.

        The call may have been done more than once, or done without its answer having arrived.
        """
        backoff = self.backoff()
        while True:
            failure: StackdError
            retry_after: float = 0
            try:
                answer = await self._try(call, deadline)
            except ClusterRefused:
                raise
            except ClusterUnreachable as exc:
                if deadline.spent >= CONNECT_PATIENCE:
                    raise
                failure = exc
            except ClusterUnavailable as exc:
                failure = exc
            else:
                if not may_repeat(call, answer):
                    return answer
                failure, retry_after = error_of(call, answer), answer.retry_after or 0
                if call.verb == "list":
                    retry_after = min(retry_after, LONGEST_LIST_PAUSE)
            pause = backoff.pause(retry_after)
            if pause >= deadline.left or self.connection.contact.lost:
                if isinstance(
                    failure, ClusterTimeout
                ):  # what the last try had left says nothing to who has waited for all
                    raise ClusterTimeout(f"Kubernetes did not answer within {deadline.spent:.1f} s") from failure
                raise failure
            await asyncio.sleep(pause)

    async def _try(self, call: KubeRequest, deadline: Deadline) -> KubeResponse:
        """Send it once, and tell the contact what became of it. Raises ClusterUnavailable where Kubernetes gave no answer."""
        contact = self.connection.contact
        if contact.lost and is_fenced(call):
            raise contact.error()
        sent = contact.now()
        try:
            answer = await self.connection.once(call, self._attempt(call, deadline))
            check(call, answer)
        except ClusterRefused:
            raise
        except ClusterUnavailable as exc:
            if isinstance(exc, UnexpectedAnswer):
                log.warning("%s (%s)", exc, exc.shown)
            if not call.asks_node:
                contact.failed(sent, str(exc))
            raise
        if answer.status in FAILING and not is_from_node(call, answer):
            contact.failed(sent, f"it answers {answer.status}")
        else:
            contact.heard(answer=True)
        return answer

    async def answer(self, call: KubeRequest, deadline: Deadline | None = None) -> JsonObject:
        """The JSON of a call that was done. Raises what the answer means otherwise."""
        return document_of(call, await self.ask(call, deadline or self.deadline()))

    async def find(self, resource: str, name: str, deadline: Deadline) -> JsonObject | None:
        """The object of that name in the stacks' namespace as JSON, whoever made it; None where there is none."""
        call = self.on("get", resource, name)
        answer = await self.ask(call, deadline)
        return None if answer.status == NOT_FOUND else document_of(call, answer)

    async def everything(self, call: KubeRequest, read: Callable[[JsonObject], T]) -> tuple[list[T], str]:
        """What ``read`` makes of each item of a list, and the list's version.

        A list whose pages expire while it is read (the API server answers 410: etcd was compacted) is begun again, in
        one piece. Raises ClusterUnavailable if that expires, too.
        """
        for page in (PAGE, 0):
            items: list[T] = []
            version = ""
            try:
                async with aclosing(self._pages(call, page)) as pages:
                    async for document in pages:
                        items.extend(readable(call.resource, read, raw) for raw in document["items"])
                        version = document["metadata"]["resourceVersion"]
            except VersionExpired:
                continue
            return items, version
        raise ClusterUnavailable(f"the list of {call.resource} expired while it was read")

    async def _pages(self, call: KubeRequest, page: int) -> AsyncGenerator[JsonObject, None]:
        token = ""
        while True:
            paged = {**call.params, **({"limit": str(page)} if page else {}), **({"continue": token} if token else {})}
            document = await self.answer(replace(call, params=paged), self.deadline(LIST_SECONDS))
            yield document
            token = document["metadata"].get("continue") or ""
            if not token:
                return

    def on(self, verb: str, resource: str, name: str = "", **more: Any) -> KubeRequest:
        """A call about a resource in the stacks' namespace."""
        path = core(resource, namespace=self.namespace_name, name=name)
        return KubeRequest(verb=verb, resource=resource, path=path, namespace=self.namespace_name, name=name, **more)

    def ours(self) -> dict[str, str]:
        """The parameters that narrow a list or watch to our objects."""
        return {"labelSelector": labels.selector(self.instance)}

    def _attempt(self, call: KubeRequest, deadline: Deadline) -> float:
        longest = LIST_SECONDS if call.verb == "list" else self.target.attempt_timeout
        return max(_SHORTEST_ATTEMPT, min(longest, deadline.left))


def document_of(call: KubeRequest, answer: KubeResponse) -> JsonObject:
    """The JSON of an answer that was checked. Raises what the answer means where it is a refusal."""
    if not answer.ok:
        raise error_of(call, answer)
    if answer.document is None:
        raise unexpected(call, answer, "no JSON")
    return answer.document
