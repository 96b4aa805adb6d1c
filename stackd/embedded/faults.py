"""Troubles on demand: what goes wrong with which requests, and the server as a whole. Knows no HTTP library."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Action = Literal["latency", "status", "lost_reply", "cut", "hang", "late"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with requests that match all patterns (regular expressions for the whole word).

    latency: waits `seconds`, then goes on. status: answers `code` before any work, with Retry-After if `seconds`.
    lost_reply: does the work and cuts the connection. cut: cuts it before the work. hang: never answers.
    late: cuts the connection and does the work `seconds` later all the same, as an overloaded server may.
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
        self.unauthorized_tokens: set[str | None] = set()

    def add(self, fault: Fault) -> None:
        """Put it in force, behind those that are."""
        self._active.append(_Active(fault))

    def clear(self) -> None:
        """End all faults, pauses and expired tokens."""
        self._active.clear()
        self.unauthorized_tokens.clear()
        self.resume()

    def seed(self, number: int) -> None:
        """Make what is left to chance repeatable from here on."""
        self._random.seed(number)

    @property
    def any(self) -> bool:
        """Whether a request has to be matched at all."""
        return bool(self._active)

    def strike(self, verb: str, resource: str, name: str) -> list[Fault]:
        """The faults that hit this request; each counts as used."""
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
