"""Faults on demand: what goes wrong with which requests, with the server as a whole, and with a response on its way through
a load balancer. Knows no HTTP library.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from stackd.embedded.status import StatusError

Action = Literal[
    "latency", "status", "lost_reply", "cut", "hang", "late", "page", "reply", "truncate", "empty", "strip", "stale",
    "trickle", "mute", "admit", "deny", "turns",
]  # fmt: skip
Answer = tuple[int, bytes, str]
"""Code, body, content type."""
HTML = "text/html"
JSON = "application/json"
_INSTEAD = frozenset({"page", "reply"})
_SPOILING = frozenset({"truncate", "empty", "strip"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with requests that match all patterns (regular expressions for the whole word).

    latency: waits `seconds`, then goes on. status: answers `code` before any work, with Retry-After if `seconds`.
    lost_reply: does the work and cuts the connection. cut: cuts it before the work. hang: never answers.
    late: cuts the connection and does the work `seconds` later all the same, as an overloaded server may.
    turns: has requests wait for their turn, first come, first served; each takes `seconds`, as at a server that can do no
    more. All such faults share one queue, so that each kind of request may take its own time.

    What stands between a client and an API server answers in its stead, or spoils what it answers:
    page: answers `code` with a page of HTML. reply: answers `code` with `body`, called JSON. Both come instead of the
    work, or after it if it is to be `done`. truncate: does the work, and answers the first half of the body as if that were
    all. empty: does the work, and answers without a body. strip: does the work, and answers without `fields` (their
    paths, such as `metadata.uid` or `items.metadata.uid`). A watch that is spoiled ends with its first byte.
    stale: answers a list as it was when the cluster was last told to `remember`. trickle: does the work, and sends the
    answer, or each event of a watch, a few bytes at a time, over `seconds` in all. mute: opens a watch that says nothing.

    admit: an admission policy changes what is created, updated or patched by the merge patch `body` before it is stored.
    deny: an admission webhook refuses it, and quotes the environment that was sent.
    """

    action: Action
    verb: str = ".*"
    resource: str = ".*"
    name: str = ".*"
    count: int | None = None
    """How many times; None for always."""
    probability: float = 1.0
    code: int = 503
    seconds: float = 0.0
    body: str = ""
    fields: tuple[str, ...] = ()
    done: bool = False


@dataclass(slots=True, kw_only=True)
class Counts:
    """What the server has been asked. A watch counts when it begins; its verb is `watch`."""

    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """By verb, resource and code; 0 is a connection that was cut."""
    in_flight: int = 0
    peak_in_flight: int = 0

    def total(self, verb: str | None = None, resource: str | None = None) -> int:
        """Requests of the verb and resource, or of any."""
        return sum(
            count
            for (a_verb, a_resource, _), count in self.requests.items()
            if verb in {None, a_verb} and resource in {None, a_resource}
        )

    def clear(self) -> None:
        """Begin anew; what is in flight stays so."""
        self.requests.clear()
        self.peak_in_flight = self.in_flight


class _Active:
    __slots__ = ("fault", "left", "patterns")

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.left = fault.count
        self.patterns = tuple(re.compile(text) for text in (fault.verb, fault.resource, fault.name))


class FaultRules:
    """The faults in force. Everything here takes effect with the next request, unless it says otherwise."""

    def __init__(self, *, seed: int = 0) -> None:
        self._active: list[_Active] = []
        self._random = random.Random(seed)
        self._running = asyncio.Event()
        self._running.set()
        self._turns_taken_until = 0.0
        self.unauthorized_tokens: set[str | None] = set()

    def add(self, fault: Fault) -> None:
        """Put it in force, behind those that are."""
        self._active.append(_Active(fault))

    def clear(self) -> None:
        """End all faults, pauses and expired tokens."""
        self._active.clear()
        self.unauthorized_tokens.clear()
        self._turns_taken_until = 0.0
        self.resume()

    def end(self, action: str) -> None:
        """End the faults of one kind."""
        self._active = [one for one in self._active if one.fault.action != action]

    def seed(self, number: int) -> None:
        """Make what is left to chance repeatable from here on."""
        self._random.seed(number)

    @property
    def any(self) -> bool:
        """Whether a request has to be matched at all."""
        return bool(self._active)

    def matching(self, verb: str, resource: str, name: str) -> list[Fault]:
        """The faults that match this request; each counts as used."""
        hit = []
        for active in list(self._active):
            asked = (verb, resource, name)
            if all(pattern.fullmatch(text) for pattern, text in zip(active.patterns, asked, strict=True)):
                if active.fault.probability < 1 and self._random.random() >= active.fault.probability:
                    continue
                hit.append(active.fault)
                if active.left is not None:
                    active.left -= 1
                    if active.left <= 0:
                        self._active.remove(active)
        return hit

    async def turn(self, seconds: float) -> None:
        """Return when the requests that came before have had their turns, and this one has, which takes so long."""
        now = asyncio.get_running_loop().time()
        self._turns_taken_until = max(now, self._turns_taken_until) + seconds
        await asyncio.sleep(self._turns_taken_until - now)

    def pause(self) -> None:
        """Let every request wait, open watches included."""
        self._running.clear()

    def resume(self) -> None:
        """End a pause."""
        self._running.set()

    @property
    def paused(self) -> bool:
        """Whether requests wait."""
        return not self._running.is_set()

    async def running(self) -> None:
        """Return once there is no pause."""
        await self._running.wait()

    def expire_token(self, token: str | None = None) -> None:
        """Refuse this bearer token with 401; None stands for requests without one."""
        self.unauthorized_tokens.add(token)

    def renew_token(self, token: str | None = None) -> None:
        """End what `expire_token` began."""
        self.unauthorized_tokens.discard(token)


def instead(faults: Iterable[Fault], *, done: bool) -> Answer | None:
    """The answer that is given in the server's stead, if one is: before the work, or when it is ``done``."""
    for fault in faults:
        if fault.action in _INSTEAD and fault.done is done:
            return _page(fault.code) if fault.action == "page" else (fault.code, fault.body.encode(), JSON)
    return None


def admitted(body: bytes, faults: Iterable[Fault], *, patch: bool) -> bytes:
    """What an admission policy makes of a request's body. What it takes away is null in a ``patch``. Raises StatusError."""
    for fault in faults:
        if fault.action == "deny":
            raise StatusError(
                403, "Forbidden", f'admission webhook "policy.example.com" denied the request: {_quoted(body)}'
            )
        if fault.action == "admit":
            with suppress(orjson.JSONDecodeError):  # then it is refused for that
                body = orjson.dumps(_over(orjson.loads(body), orjson.loads(fault.body), nulls=patch))
    return body


def _quoted(body: bytes) -> str:
    """The environment of a pod's containers, or all of another body."""
    with suppress(orjson.JSONDecodeError, LookupError, TypeError):
        return orjson.dumps([one["env"] for one in orjson.loads(body)["spec"]["containers"]]).decode()
    return body.decode(errors="replace")


def _over(one: Any, other: Any, *, nulls: bool) -> Any:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return other
    changed = one | {key: _over(one.get(key), value, nulls=nulls) for key, value in other.items()}
    return {key: value for key, value in changed.items() if nulls or value is not None}


def spoils(faults: Iterable[Fault]) -> bool:
    """Whether the server's own answer does not arrive as it is."""
    return any(fault.action in _SPOILING or (fault.action in _INSTEAD and fault.done) for fault in faults)


def spoiled(answer: Answer, faults: Iterable[Fault]) -> Answer:
    """What is left of the server's answer."""
    faults = list(faults)
    if (other := instead(faults, done=True)) is not None:
        return other
    code, body, kind = answer
    for fault in faults:
        match fault.action:
            case "truncate":
                body = body[: len(body) // 2]
            case "empty":
                body = b""
            case "strip" if kind == JSON:
                body = _without(body, fault.fields)
            case _:
                continue
    return code, body, kind


def _page(code: int) -> Answer:
    text = f"<html><head><title>{code}</title></head><body><h1>{code}</h1><hr>balancer/1.2</body></html>\n"
    return code, text.encode(), HTML


def _without(body: bytes, fields: Iterable[str]) -> bytes:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body  # another fault has spoiled it before
    for path in fields:
        _drop(document, path.split("."))
    return orjson.dumps(document)


def _drop(node: Any, path: list[str]) -> None:
    if isinstance(node, list):
        for one in node:
            _drop(one, path)
    elif isinstance(node, dict) and path[0] in node:
        if len(path) == 1:
            del node[path[0]]
        else:
            _drop(node[path[0]], path[1:])
