"""Faults on demand, for single requests, for all of the server, and for responses that a load balancer would change.

``Faults`` also controls ports and nodes of a running cluster in tests and benchmarks: in process, or over `/__faults__`.
Uses no HTTP library.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from msgspec import json

from stackd.embedded.nodes import NodeSpec
from stackd.embedded.request import read_target
from stackd.embedded.resources import ALL, JSON, NODES, Json, StatusError, merged
from stackd.embedded.store import Collection, stamped, timestamp, watch_line

if TYPE_CHECKING:
    from stackd.embedded.cluster import EmbeddedCluster

Action = Literal[
    "latency", "status", "lost_reply", "cut", "hang", "late", "page", "reply", "truncate", "empty", "strip", "stale",
    "trickle", "mute", "admit", "deny", "turns", "no_query",
]  # fmt: skip
Answer = tuple[int, bytes, str]
"""Code, body, content type."""
_INSTEAD = frozenset({"page", "reply"})
_SPOILING = frozenset({"truncate", "empty", "strip"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with requests that match all patterns (regular expressions for all of the text).

    latency: waits `seconds`, then continues. status: answers `code` before any work, with Retry-After if `seconds`.
    lost_reply: does the work and cuts the connection. cut: cuts it before the work. hang: never answers.
    late: cuts the connection, but does the work `seconds` later, as an overloaded server may.
    turns: makes requests wait in a queue; each takes `seconds`, as on a server at its limit. All such faults share one
    queue, but each kind of request can take its own time.

    A proxy between client and API server answers instead of the server, or changes its response:
    page: answers `code` with a page of HTML. reply: answers `code` with `body`, declared as JSON. Both skip the work,
    or come after it if `done`. truncate: does the work, and answers the first half of the body as if it were complete.
    empty: does the work, and answers without a body. strip: does the work, and answers without `fields` (paths such as
    `metadata.uid` or `items.metadata.uid`). A watch with one of these faults ends at once. stale: answers a list as it
    was at the last `remember`. trickle: does the work, and sends the response, or each event of a watch, a few bytes
    at a time, over `seconds` in all. mute: opens a watch that sends nothing. no_query: does the work for the request
    without its query string.

    admit: an admission policy applies the merge patch `body` to created, updated or patched objects before they are
    stored. deny: an admission webhook refuses the pod, and quotes its containers' environment.
    """

    action: Action
    verb: str = ".*"
    resource: str = ".*"
    name: str = ".*"
    count: int | None = None
    """How many times the fault occurs; None for always."""
    probability: float = 1.0
    code: int = 503
    seconds: float = 0.0
    body: str = ""
    fields: tuple[str, ...] = ()
    done: bool = False


@dataclass(slots=True, kw_only=True)
class Counts:
    """Counts of requests. A watch is counted when it begins; its verb is `watch`."""

    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """By verb, resource and code; code 0 is a cut connection."""
    in_flight: int = 0
    peak_in_flight: int = 0

    def total(self, verb: str | None = None, resource: str | None = None) -> int:
        """The number of requests with this verb and resource; None for any."""
        return sum(
            count
            for (a_verb, a_resource, _), count in self.requests.items()
            if verb in {None, a_verb} and resource in {None, a_resource}
        )

    def clear(self) -> None:
        """Reset the counts, except that of requests in flight."""
        self.requests.clear()
        self.peak_in_flight = self.in_flight


@dataclass(slots=True)
class _Active:
    fault: Fault
    remaining: int | None


class Faults:
    """The active faults of a cluster, and operations outside its Kubernetes API; `cluster.faults`.

    All changes take effect with the next request, unless stated otherwise.
    """

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._cluster = cluster
        self._active: list[_Active] = []
        self._random = random.Random(0)
        self._running = asyncio.Event()
        self._running.set()
        self._turns_taken_until = 0.0
        self._refusal: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        """Ends what waits because of a fault."""
        self.past: dict[str, tuple[Collection, int]] = {}
        """The lists at the last `remember`, with their revision."""
        self.unauthorized_tokens: set[str | None] = set()

    async def stop(self) -> None:
        """Cancel the timer of a temporary `refuse`, and end what waits."""
        self._over.set()
        if self._refusal is not None:
            self._refusal.cancel()
            await asyncio.gather(self._refusal, return_exceptions=True)

    def add(self, fault: Fault) -> None:
        """Activate a fault, after the active ones."""
        self._active.append(_Active(fault, fault.count))

    def add_fault(self, **fault: Any) -> None:
        """As `add`; the arguments are the fields of `Fault`."""
        self.add(Fault(**fault))

    def clear(self) -> None:
        """End all faults, pauses, delayed starts, expired tokens and half-open watches."""
        self._active.clear()
        self._end_waits()
        self.unauthorized_tokens.clear()
        self._turns_taken_until = 0.0
        self.resume()
        self.let_start()
        self._thaw_watches()

    def end(self, action: str) -> None:
        """End the faults of this action; for `mute`, also end half-open watches."""
        self._active = [one for one in self._active if one.fault.action != action]
        if action in ("hang", "latency"):
            self._end_waits()
        if action == "mute":
            self._thaw_watches()

    def _thaw_watches(self) -> None:
        for watch in self._cluster.server.watches:
            watch.thaw()

    def _end_waits(self) -> None:
        self._over.set()
        self._over = asyncio.Event()

    async def wait(self, seconds: float | None) -> None:
        """Return after so many seconds, if any, or as soon as the fault is ended."""
        over = self._over
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await over.wait()

    def seed(self, number: int) -> None:
        """Seed the random numbers, to make faults repeatable from now on."""
        self._random.seed(number)

    def matching(self, verb: str, resource: str, name: str) -> list[Fault]:
        """The faults that match this request; each of them counts as used once."""
        hit = []
        for active in list(self._active):
            fault = active.fault
            asked = ((fault.verb, verb), (fault.resource, resource), (fault.name, name))
            if not all(re.fullmatch(pattern, text) for pattern, text in asked):
                continue
            if fault.probability < 1 and self._random.random() >= fault.probability:
                continue
            hit.append(fault)
            if active.remaining is not None:
                active.remaining -= 1
                if active.remaining <= 0:
                    self._active.remove(active)
        return hit

    async def turn(self, seconds: float) -> None:
        """Return when all earlier requests in the queue and this one, which takes ``seconds``, have had their turns."""
        now = asyncio.get_running_loop().time()
        self._turns_taken_until = max(now, self._turns_taken_until) + seconds
        await asyncio.sleep(self._turns_taken_until - now)

    def pause(self) -> None:
        """Make all requests wait, including open watches."""
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    async def running(self) -> None:
        """Return once there is no pause."""
        if not self._running.is_set():
            await self._running.wait()

    def expire_token(self, token: str | None = None) -> None:
        """Refuse this bearer token with 401; None stands for requests without one."""
        self.unauthorized_tokens.add(token)

    async def refuse(self, seconds: float | None = None) -> None:
        """Close all connections and accept none, until `listen` or for ``seconds``."""
        await self._cluster.server.refuse()
        if seconds is not None:
            self._refusal = asyncio.create_task(self._listen_after(seconds), name="embedded refusal")

    async def _listen_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.listen()

    async def listen(self) -> None:
        await self._cluster.server.listen()

    def drop_watches(self) -> None:
        self._cluster.server.drop_watches()

    def set_back(self, revision: int) -> None:
        """Set all resourceVersions back, as after restoring a backup of etcd, and cut all watches."""
        self._cluster.store.set_back(revision)
        self.drop_watches()

    def freeze_watches(self) -> None:
        """Make all open watches half-open: connected, but silent."""
        for watch in self._cluster.server.watches:
            watch.frozen = True

    def silence(self) -> None:
        """Make all existing connections silent, as if a load balancer had forgotten them; new ones work."""
        self._cluster.server.silent.update(self._cluster.server.transports)
        self.freeze_watches()

    def replay(self, resource: str, kind: str, obj: Json) -> None:
        """Send an event of that kind with an earlier state of an object to the watches of the resource."""
        for watch in self._cluster.server.watches:
            if watch.collection.resource.qualified == resource:
                watch.inject(watch_line(kind, json.encode(obj)))

    def replay_deletion(self, resource: str, name: str) -> None:
        """Send a DELETED event for existing objects of that name to the watches of the resource."""
        store = self._cluster.store
        kind = next(one for one in ALL if one.qualified == resource)
        for record in store.of(kind).records.values():
            if record.key[1] == name:
                obj = {"kind": kind.kind, "apiVersion": kind.api_version} | stamped(record.obj, store.revision)
                self.replay(resource, "DELETED", obj)

    def remember(self) -> None:
        """Keep a copy of all lists as they are now; the fault `stale` answers with them."""
        store = self._cluster.store
        self.past = {one.qualified: (store.of(one).as_it_is(), store.revision) for one in ALL}

    def change(self, path: str, patch: Json) -> None:
        """Apply a merge patch to the object at that path, bypassing all faults. Raises StatusError."""
        self._cluster.api.patch(read_target("PATCH", path, {}), {}, json.encode(patch))

    def malformed(self, line: str = '{"type":"MODIFIED","object":{"kind":\n') -> None:
        """Send a line that is not an event to all open watches."""
        for watch in self._cluster.server.watches:
            watch.inject(line.encode())

    def compact(self) -> None:
        """Forget history: resuming a watch or a list from before now fails with 410."""
        self._cluster.store.forget_history()

    def take_port(self, port: int) -> None:
        """Mark a node port as taken by an invisible Service of somebody else."""
        self._cluster.ports.take(port)

    def give_back_port(self, port: int) -> None:
        self._cluster.ports.give_back(port)

    def add_node(self, **node: Any) -> None:
        """Add a node with a kubelet; the arguments are the fields of `NodeSpec`."""
        self._cluster.nodes.add(NodeSpec(**node))

    def remove_node(self, name: str) -> None:
        store = self._cluster.store
        store.remove(store.of(NODES).get("", name))

    def cordon(self, name: str, *, on: bool = True) -> None:
        """Mark the node unschedulable, or schedulable again. Raises StatusError 404."""
        node = self._cluster.store.of(NODES).get("", name)
        spec = node.obj["spec"] | {"unschedulable": True}
        self._cluster.store.update(node, spec=spec if on else {k: v for k, v in spec.items() if k != "unschedulable"})

    def lose_kubelet(self, name: str, *, on: bool = True) -> None:
        """Mark the node as one whose kubelet does not answer, or answers again. Raises StatusError 404."""
        node = self._cluster.store.of(NODES).get("", name)
        ready = {"status": "Unknown" if on else "True", "reason": "NodeStatusUnknown" if on else "KubeletReady"}
        ready["lastTransitionTime"] = timestamp(self._cluster.store.clock.now())
        status = node.obj["status"]
        conditions = [one | (ready if one["type"] == "Ready" else {}) for one in status["conditions"]]
        self._cluster.store.update(node, status=status | {"conditions": conditions})

    def hold_starts(self) -> None:
        """Keep pods that are not running yet from starting, until `let_start`."""
        self._cluster.kubelet.may_start.clear()

    def let_start(self) -> None:
        """Start the pods that `hold_starts` has kept."""
        self._cluster.kubelet.may_start.set()

    def reset_counts(self) -> None:
        self._cluster.counts.clear()

    async def call(self, body: bytes) -> Answer:
        """Call the method in `{"do": method, …arguments}`."""
        try:
            order: Json = json.decode(body)
            name = order.pop("do")
            result = _ORDERS[name](self, **order)
            if asyncio.iscoroutine(result):
                await result
        except StatusError as exc:
            return exc.code, exc.body(), JSON
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            return 400, json.encode({"error": f"not an order: {exc!r}"}), JSON
        return 200, b"{}", JSON


_ORDERS = {name: method for name, method in vars(Faults).items() if callable(method) and not name.startswith("_")}
"""The methods that can be called over HTTP: those whose arguments are JSON."""


def instead(faults: Iterable[Fault], *, done: bool) -> Answer | None:
    """The response of a proxy instead of the server's, if any: before the work, or (``done``) after it."""
    for fault in faults:
        if fault.done is done and fault.action == "page":
            page = f"<html><head><title>{fault.code}</title></head><body><h1>{fault.code}</h1><hr>balancer/1.2</body></html>\n"
            return fault.code, page.encode(), "text/html"
        if fault.done is done and fault.action == "reply":
            return fault.code, fault.body.encode(), JSON
    return None


def admitted(body: bytes, faults: Iterable[Fault], *, patch: bool) -> bytes:
    """The request's body after the admission policies; removed fields are null in a ``patch``. Raises StatusError."""
    for fault in faults:
        if fault.action == "deny":
            env = [one.get("env") for one in json.decode(body)["spec"]["containers"]]
            why = f'admission webhook "policy.example.com" denied the request: {json.encode(env).decode()}'
            raise StatusError(403, "Forbidden", why)
        if fault.action == "admit":
            body = json.encode(merged(json.decode(body), json.decode(fault.body), nulls=patch))
    return body


def spoils(faults: Iterable[Fault]) -> bool:
    """Whether the client gets another response than the server's own."""
    return any(fault.action in _SPOILING or (fault.action in _INSTEAD and fault.done) for fault in faults)


def spoiled(answer: Answer, faults: list[Fault]) -> Answer:
    """The response that the client gets instead of the server's own."""
    if (other := instead(faults, done=True)) is not None:
        return other
    code, body, kind = answer
    for fault in faults:
        if fault.action == "truncate":
            body = body[: len(body) // 2]
        elif fault.action == "empty":
            body = b""
        elif fault.action == "strip" and kind == JSON:
            with suppress(ValueError):  # another fault has already damaged it
                document = json.decode(body)
                for path in fault.fields:
                    _drop(document, path.split("."))
                body = json.encode(document)
    return code, body, kind


def _drop(node: Any, path: list[str]) -> None:
    if isinstance(node, list):
        for one in node:
            _drop(one, path)
    elif isinstance(node, dict) and path[0] in node:
        if len(path) == 1:
            del node[path[0]]
        else:
            _drop(node[path[0]], path[1:])
