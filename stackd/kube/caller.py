"""Sends requests to a cluster and retries them until they are answered or their deadline passes.

Owns: the retries within a request's deadline, after a lost response, a response that is not from Kubernetes, an
overloaded server, or a namespace or quota that is not ready yet. Owns, too, all requests that are not about the stacks'
own objects, for start-up, ``doctor``, ``rebuild``, and the logs and events of one stack: the cluster's identity, what
it allows, what happened to a pod. No read of stackd's API waits for any of them. Does not know what is created or
deleted for a stack.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any, Self, TypeVar

import orjson

from stackd.errors import (
    AnswerTooLarge,
    ClusterRefused,
    ClusterTimeout,
    ClusterUnavailable,
    ClusterUnreachable,
    NoRequestSlot,
    ObjectExists,
    ObjectNotFound,
    StackdError,
    UnexpectedAnswer,
    VersionExpired,
)
from stackd.kube import labels
from stackd.kube.access import Access
from stackd.kube.connection import UNAUTHORIZED, KubeConnection, OnRequest
from stackd.kube.credentials import ClusterTarget
from stackd.kube.guards import Fence, is_fenced
from stackd.kube.objects import NodeState, PodEvent, node_state, pod_event
from stackd.kube.responses import NOT_FOUND, check, error_of, is_from_node, may_repeat, readable, unexpected
from stackd.kube.rights import CLUSTER_IDENTITY, AccessReview
from stackd.kube.wire import (
    FAILING,
    GATEWAYS,
    KINDS,
    LOG,
    NAMESPACES,
    REVIEWS,
    VERSION,
    JsonObject,
    KubeRequest,
    KubeResponse,
)
from stackd.structs import struct
from stackd.workqueue import RetryPolicy

log = logging.getLogger(__name__)
T = TypeVar("T")
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
_SHORTEST_ATTEMPT = 0.5
# Long enough for an API server that restarts. If the server is down for longer, the caller gets its error soon.
CONNECT_PATIENCE = 3.0
PAGE, SMALL_PAGE = 500, 25
# A page may hold megabytes. If the client gave up early, the server would only have to send the page again.
LIST_SECONDS = 30.0
# Without its list stackd sees nothing, so it does not wait longer than this, whatever a Retry-After says.
LONGEST_LIST_PAUSE = 5.0
_LOG_BYTES = 1024 * 1024
_VERSION = KubeRequest(verb="get", resource=VERSION)
_IDENTITY = KubeRequest(verb="get", resource=NAMESPACES, name=CLUSTER_IDENTITY)


class Deadline:
    """A point in time on the event loop's clock, ``seconds`` after the object is created."""

    __slots__ = ("_at", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = asyncio.get_running_loop().time() + seconds

    @property
    def spent(self) -> float:
        """Seconds since the deadline was created."""
        return self.seconds - (self._at - asyncio.get_running_loop().time())

    def extend(self, seconds: float) -> None:
        """Put the deadline off by the time that was spent on waiting for a turn, and not for Kubernetes."""
        self._at += seconds

    @property
    def left(self) -> float:
        """Seconds until the deadline; 0 when it has passed."""
        return max(0.0, self._at - asyncio.get_running_loop().time())


class Backoff:
    """Pauses that double, with jitter, so that many clients do not retry at once; by default those between the tries of
    one call."""

    __slots__ = ("_retries", "_tries")

    def __init__(self, *, first: float = FIRST_PAUSE, most: float = LONGEST_PAUSE) -> None:
        self._retries = RetryPolicy(first=first, longest=most)
        self._tries = 0

    def pause(self, at_least: float = 0.0) -> float:
        """The next pause in seconds: between half of its upper bound and all of it, and not less than ``at_least``."""
        self._tries += 1
        return max(at_least, self._retries.delay(self._tries))

    def reset(self) -> None:
        """Start again with the first pause."""
        self._tries = 0


@struct
class Again:
    """A try that may have another outcome in ``at_least`` seconds or later; ``error`` says why it has none yet."""

    error: StackdError
    at_least: float = 0.0


async def poll(deadline: Deadline, attempt: Callable[[], Awaitable[T | Again]]) -> T:
    """The first result of ``attempt`` other than ``Again``; raises that one's error if there is none by the deadline."""
    backoff = Backoff()
    while isinstance(result := await attempt(), Again):
        pause = backoff.pause(result.at_least)
        if pause >= deadline.left:
            raise result.error
        await asyncio.sleep(pause)
    return result


class Caller:
    """A connection together with the target's namespace, instance and time limits.

    ``belongs_to`` is the ``cluster_uid`` of the cluster that holds the stacks; empty while it is not known. The
    namespace is created only in that cluster. Each request raises ClusterUnavailable when the cluster cannot answer.
    """

    def __init__(self, target: ClusterTarget, connection: KubeConnection) -> None:
        self.target = target
        self.connection = connection
        self.belongs_to = ""

    @classmethod
    async def connect(
        cls, target: ClusterTarget, *, on_request: OnRequest | None = None, fence: Fence | None = None
    ) -> Self:
        """Load the credentials. Nothing is sent, so the cluster need not be reachable.

        ``on_request(verb, resource, code, seconds)`` is called after each request. ``fence`` says until when changes
        are allowed; without a fence they always are. Raises ConfigError.
        """
        access = await Access.open(target)
        return cls(target, KubeConnection(access, target, on_request=on_request, fence=fence))

    async def close(self) -> None:
        """Close all connections; running requests and watches fail."""
        await self.connection.close()

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
        """Requests sent so far by (verb, resource, code); the code is ``none`` for those without a response."""
        return self.connection.counts

    def deadline(self, seconds: float | None = None) -> Deadline:
        """The deadline of a call that starts now; by default after the target's ``timeout``."""
        return Deadline(self.target.timeout if seconds is None else seconds)

    async def ask(self, call: KubeRequest, deadline: Deadline) -> KubeResponse:
        """Send the call, retrying it; returns the first response of Kubernetes that a retry would not change.

        Raises ClusterUnavailable at the deadline; at once for a change while Kubernetes is known not to answer.
        Time that the call waits for its turn does not count; NoRequestSlot ends a wait as long as the deadline.
        Raises ClusterRefused at once if the cluster refuses the credentials, or stackd does not trust its certificate.
        Kubernetes may have done the call more than once, or may have done it although this raises.
        """
        try:
            return await poll(deadline, lambda: self._answer_or_again(call, deadline))
        except ClusterTimeout as exc:  # the caller has waited for all tries, not only for the last one
            raise ClusterTimeout(f"Kubernetes did not answer within {deadline.spent:.1f} s") from exc

    async def _answer_or_again(self, call: KubeRequest, deadline: Deadline) -> KubeResponse | Again:
        contact = self.connection.contact
        try:
            answer = await self._try(call, deadline)
        except (ClusterRefused, NoRequestSlot, AnswerTooLarge):
            raise
        except ClusterUnavailable as exc:
            if contact.lost or (isinstance(exc, ClusterUnreachable) and deadline.spent >= CONNECT_PATIENCE):
                raise
            return Again(error=exc)
        if not may_repeat(call, answer):
            return answer
        error, after = error_of(call, answer), answer.retry_after or 0
        if contact.lost:
            raise error
        return Again(error=error, at_least=min(after, LONGEST_LIST_PAUSE) if call.verb == "list" else after)

    async def _try(self, call: KubeRequest, deadline: Deadline) -> KubeResponse:
        """Send the call once, when it is its turn. Raises ClusterUnavailable without an answer."""
        async with self.connection.turn(call, deadline.seconds) as waited:
            deadline.extend(waited)
            if self.connection.contact.lost and is_fenced(call):
                raise self.connection.contact.error()
            return await self._send(call, deadline)

    async def _send(self, call: KubeRequest, deadline: Deadline) -> KubeResponse:
        """Send the call now, and report the outcome to the contact."""
        contact = self.connection.contact
        sent = contact.now()
        try:
            answer = await self.connection.once(call, self._attempt(call, deadline))
            check(call, answer)
        except ClusterRefused:
            raise
        except ClusterUnavailable as exc:
            if isinstance(exc, UnexpectedAnswer):
                log.warning("%s (%s)", exc, exc.excerpt)
            if not call.asks_node and not isinstance(exc, AnswerTooLarge):
                contact.failed(sent, str(exc))
            raise
        if answer.status in FAILING and not is_from_node(call, answer):
            contact.failed(sent, f"it answers {answer.status}")
        else:
            contact.heard(answer=True)
        return answer

    async def answer(self, call: KubeRequest, deadline: Deadline | None = None) -> JsonObject:
        """Send the call, retrying it; returns the JSON of a success. Raises the error that a refusal means."""
        return document_of(call, await self.ask(call, deadline or self.deadline()))

    async def find(self, resource: str, name: str, deadline: Deadline) -> JsonObject | None:
        """The object of that name in the stacks' namespace as JSON, whoever created it; None if there is none."""
        call = self.on("get", resource, name)
        answer = await self.ask(call, deadline)
        return None if answer.status == NOT_FOUND else document_of(call, answer)

    async def everything(self, call: KubeRequest, read: Callable[[JsonObject], T]) -> tuple[list[T], str]:
        """All items of a list, each converted by ``read``, and the list's resourceVersion.

        If the pages expire while they are read (the API server answers 410 because etcd was compacted), the list is
        read again without paging; if a page is larger than stackd reads, in smaller pages. Raises ClusterUnavailable if
        that does not help.
        """
        page: int | None = PAGE
        while page is not None:
            items: list[T] = []
            version = ""
            try:
                async with aclosing(self._pages(call, page)) as pages:
                    async for document in pages:
                        items.extend(readable(call.resource, read, raw) for raw in document["items"])
                        version = document["metadata"]["resourceVersion"]
            except VersionExpired:
                page = 0 if page else None
            except AnswerTooLarge:
                if page != PAGE:
                    raise
                page = SMALL_PAGE
            else:
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
        return KubeRequest(verb=verb, resource=resource, namespace=self.namespace_name, name=name, **more)

    def ours(self) -> dict[str, str]:
        """The parameters that limit a list or watch to our objects."""
        return {"labelSelector": labels.selector(self.instance)}

    async def version(self) -> str:
        """The API server's version, such as ``v1.36.2``."""
        return str((await self.answer(_VERSION))["gitVersion"])

    async def cluster_uid(self) -> str:
        """The identity of the cluster: the uid of its kube-system namespace."""
        document = await self.answer(_IDENTITY)
        return str(document["metadata"]["uid"])

    async def probe(self, seconds: float) -> KubeResponse:
        """Kubernetes' answer over a new connection within ``seconds``, or ``attempt_timeout`` if that is less.

        Raises ClusterUnavailable.
        """
        # Unlike /version, this namespace is read from etcd; and stackd has the right to read it.
        return await self.connection.probe(_IDENTITY, min(seconds, self.target.attempt_timeout))

    async def look_again(self) -> bool:
        """Load the credentials again, and use them if they have changed; returns whether they have.

        Raises ConfigError if they cannot be loaded, or Kubernetes refuses them (401), or its certificate is not accepted
        with them. If there is no answer, they are used.
        """
        return await self.connection.access.look_again(self._accepted)

    async def _accepted(self, access: Access) -> None:
        try:
            answer = await KubeConnection(access, self.target).probe(_IDENTITY, self.target.attempt_timeout)
        except ClusterRefused:
            raise
        except ClusterUnavailable as error:
            log.warning("the new credentials for the cluster could not be tried: %s", error)
        else:
            if answer.status == UNAUTHORIZED:
                raise error_of(_IDENTITY, answer)

    async def namespace(self) -> JsonObject | None:
        """The stacks' namespace as JSON; None if there is none."""
        try:
            return await self.answer(KubeRequest(verb="get", resource=NAMESPACES, name=self.namespace_name))
        except ObjectNotFound:
            return None

    async def ensure_namespace(self) -> None:
        """Create the stacks' namespace if it does not exist.

        Raises ClusterUnavailable while it is being terminated, and if this is not the stacks' cluster (``belongs_to``).
        """
        existing = await self.namespace()
        if existing is None:
            await self._must_be_ours()
            await self._create_namespace()
        elif (existing.get("status") or {}).get("phase") == "Terminating":
            raise ClusterUnavailable(f"the namespace {self.namespace_name} is being terminated")

    async def time(self) -> float | None:
        """The API server's clock in whole seconds since the epoch; None if its response has no readable ``Date``."""
        answer = await self.ask(_VERSION, self.deadline())
        try:
            return parsedate_to_datetime(answer.date).timestamp()
        except (ValueError, OverflowError):
            return None

    async def may(self, ask: AccessReview) -> bool:
        """Whether the cluster allows stackd what ``ask`` describes (SelfSubjectAccessReview)."""
        names = ("verb", "resource", "group", "namespace", "subresource", "name")
        review = {
            **KINDS[REVIEWS].type_meta,
            "spec": {"resourceAttributes": {key: value for key in names if (value := getattr(ask, key))}},
        }
        document = await self.answer(KubeRequest(verb="create", resource=REVIEWS, body=orjson.dumps(review)))
        return bool(document["status"]["allowed"])

    async def network_policies(self, namespace: str = "") -> list[JsonObject]:
        """The NetworkPolicies of a namespace (by default the stacks'), as JSON."""
        where = namespace or self.namespace_name
        return await self._all(KubeRequest(verb="list", resource="networkpolicies", namespace=where))

    async def gateway(self, namespace: str, name: str) -> JsonObject:
        """A Gateway as JSON. Raises ObjectNotFound."""
        return await self.answer(KubeRequest(verb="get", resource=GATEWAYS, namespace=namespace, name=name))

    async def resource_quotas(self) -> list[JsonObject]:
        """The ResourceQuotas of the stacks' namespace, as JSON."""
        return await self._all(self.on("list", "resourcequotas"))

    async def limit_ranges(self) -> list[JsonObject]:
        """The LimitRanges of the stacks' namespace, as JSON."""
        return await self._all(self.on("list", "limitranges"))

    async def list_raw(self, resource: str) -> list[JsonObject]:
        """Our ``pods``, ``services`` or ``configmaps``, as JSON."""
        listed = await self._all(self.on("list", resource, params=self.ours()))
        # As in the mirror: what counts is what an object says, not what was asked for.
        return [raw for raw in listed if labels.is_ours(raw, self.instance)]

    async def list_prepulls(self) -> list[JsonObject]:
        """The pods of this instance that only pull images, as JSON."""
        wanted = labels.prepull_labels(self.instance).items()
        params = {"labelSelector": ",".join(f"{key}={value}" for key, value in wanted)}
        listed = await self._all(self.on("list", "pods", params=params))
        return [raw for raw in listed if labels.is_prepull(raw, self.instance)]

    async def list_nodes(self) -> list[NodeState]:
        """All nodes."""
        nodes, _ = await self.everything(KubeRequest(verb="list", resource="nodes"), node_state)
        return nodes

    async def pod_json(self, name: str) -> JsonObject | None:
        """The pod as JSON; None if there is none of that name."""
        return await self.find("pods", name, self.deadline())

    async def pod_log(self, name: str, *, tail: int, container: str = "") -> str:
        """The last ``tail`` lines of a pod's log, at most 1 MiB.

        Raises ObjectNotFound; Conflict, with the reason, when there is no log yet.
        """
        params = {"tailLines": str(tail), "limitBytes": str(_LOG_BYTES)}
        call = self.on("get", LOG, name, params=params | ({"container": container} if container else {}))
        answer = await self.ask(call, self.deadline())
        if not answer.ok:
            raise error_of(call, answer)
        return answer.body.decode(errors="replace")

    async def pod_events(self, name: str, uid: str = "") -> list[PodEvent]:
        """The Kubernetes events about the pod (of that uid, if given), oldest first."""
        fields = f"involvedObject.name={name}" + (f",involvedObject.uid={uid}" if uid else "")
        listed = await self._all(self.on("list", "events", params={"fieldSelector": fields}))
        about = [raw for raw in listed if _is_about(raw.get("involvedObject") or {}, name, uid)]
        return sorted((readable("events", pod_event, raw) for raw in about), key=lambda event: event.at)

    async def _all(self, call: KubeRequest) -> list[JsonObject]:
        items, _ = await self.everything(call, lambda raw: raw)
        return items

    async def _must_be_ours(self) -> None:
        """A missing namespace can mean that this is another cluster. Raises ClusterUnavailable if it is."""
        if self.belongs_to and await self.cluster_uid() != self.belongs_to:
            self.connection.on_doubt()
            raise ClusterUnavailable("another cluster answers; nothing is created there")

    async def _create_namespace(self) -> None:
        name = self.namespace_name
        metadata = {"name": name, "labels": {labels.MANAGED_BY: labels.MANAGER}}
        body = orjson.dumps({**KINDS[NAMESPACES].type_meta, "metadata": metadata})
        call = KubeRequest(verb="create", resource=NAMESPACES, name=name, body=body)
        try:
            await self.answer(call)
        except ObjectExists:
            return

    def _attempt(self, call: KubeRequest, deadline: Deadline) -> float:
        longest = LIST_SECONDS if call.verb == "list" else self.target.attempt_timeout
        return max(_SHORTEST_ATTEMPT, min(longest, deadline.left))


def _is_about(involved: JsonObject, name: str, uid: str) -> bool:
    return involved.get("name") == name and uid in ("", involved.get("uid"))


def document_of(call: KubeRequest, answer: KubeResponse) -> JsonObject:
    """The JSON of a checked response. Raises the error that a refusal means."""
    if not answer.ok:
        raise error_of(call, answer)
    if answer.document is None:
        raise unexpected(call, answer, "no JSON")
    return answer.document
