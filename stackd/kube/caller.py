"""Calls that are repeated until they have an answer, or until their time is up.

Owns the retries: a lost answer, an overloaded server and the moments in which a namespace or a quota is not ready are
all waited out within the call's deadline. Knows nothing of what is created or deleted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from stackd.errors import ClusterRefused, ClusterUnavailable, ClusterUnreachable, StackdError, VersionExpired
from stackd.kube import labels
from stackd.kube.answers import error_of, may_repeat
from stackd.kube.backoff import Backoff, Deadline
from stackd.kube.calls import Answer, Call, core
from stackd.kube.connection import Connection
from stackd.kube.credentials import ClusterTarget
from stackd.kube.objects import JsonObject

T = TypeVar("T")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
_SHORTEST_ATTEMPT = 0.5
# A restarting API server is waited for, one that is away is not: whoever asked is told soon.
CONNECT_PATIENCE = 3.0
PAGE = 500
# A page may hold megabytes; cutting it off early would only make it be sent again.
LIST_SECONDS = 30.0


class Caller:
    """A connection together with the target's namespace, instance and time limits."""

    def __init__(self, target: ClusterTarget, connection: Connection) -> None:
        self.target = target
        self.connection = connection

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

    async def ask(self, call: Call, deadline: Deadline) -> Answer:
        """The first answer that repeating the call would not change. Raises ClusterUnavailable at the deadline, and
        ClusterRefused at once where there are no credentials to be had that the cluster may accept.

        The call may have been done more than once, or done without its answer having arrived.
        """
        backoff = self.backoff()
        while True:
            failure: StackdError
            retry_after: float = 0
            try:
                answer = await self.connection.once(call, self._attempt(call, deadline))
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
            pause = backoff.pause(retry_after)
            if pause >= deadline.left:
                raise failure
            await asyncio.sleep(pause)

    async def answer(self, call: Call, deadline: Deadline | None = None) -> JsonObject:
        """The JSON of a call that was done. Raises what the answer means otherwise."""
        answer = await self.ask(call, deadline or self.deadline())
        if not answer.ok:
            raise error_of(call, answer)
        return answer.json()

    async def everything(self, call: Call, read: Callable[[JsonObject], T]) -> tuple[list[T], str]:
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
                        items.extend(read(raw) for raw in document.get("items") or ())
                        version = document["metadata"]["resourceVersion"]
            except VersionExpired:
                continue
            return items, version
        raise ClusterUnavailable(f"the list of {call.resource} expired while it was read")

    async def _pages(self, call: Call, page: int) -> AsyncGenerator[JsonObject, None]:
        token = ""
        while True:
            paged = {**call.params, **({"limit": str(page)} if page else {}), **({"continue": token} if token else {})}
            document = await self.answer(replace(call, params=paged), self.deadline(LIST_SECONDS))
            yield document
            token = document["metadata"].get("continue") or ""
            if not token:
                return

    def on(self, verb: str, resource: str, name: str = "", **more: Any) -> Call:
        """A call about a resource in the stacks' namespace."""
        path = core(resource, namespace=self.namespace_name, name=name)
        return Call(verb=verb, resource=resource, path=path, namespace=self.namespace_name, name=name, **more)

    def ours(self) -> dict[str, str]:
        """The parameters that narrow a list or watch to our objects."""
        return {"labelSelector": labels.selector(self.instance)}

    def _attempt(self, call: Call, deadline: Deadline) -> float:
        longest = LIST_SECONDS if call.verb == "list" else self.target.attempt_timeout
        return max(_SHORTEST_ATTEMPT, min(longest, deadline.left))
