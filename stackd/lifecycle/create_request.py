"""What a create is asked for, and whether whoever asked has left meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from stackd.config import LimitsSection
from stackd.errors import ClusterUnavailable
from stackd.model import NO_LABELS, RoutedTarget, SanitizedSpec, Stack, TargetPort
from stackd.store import Claim, CreateLimits
from stackd.templates import Template

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """What is requested, and by whom; ``ttl`` in seconds, None for the configured default.

    ``template`` is the source of ``spec`` and ``target_ports``, None if the client sent them.
    ``claim`` is the client's Idempotency-Key, if it sent one, and ``answer`` renders the response that is kept under
    it. ``among``: limits of labels count only the stacks with these labels. ``may_use``: which
    templates' pools may serve it. ``unassigned``: the stack is for the pool of its template, and belongs to nobody yet.
    """

    spec: SanitizedSpec
    target_ports: tuple[TargetPort, ...]
    ttl: float | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    among: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    may_use: Callable[[str], bool] = lambda _: True
    by: str = "stackd"
    claim: Claim | None = None
    answer: Callable[[Stack], bytes] | None = None
    template: Template | None = None
    unassigned: bool = False

    @property
    def node_ports(self) -> int:
        """How many node ports the stack will hold."""
        return sum(not isinstance(port, RoutedTarget) for port in self.target_ports)

    def limits(self, config: LimitsSection) -> CreateLimits:
        """What the reservation of the stack checks; a stack for a pool does not count against the limit of all."""
        most = None if self.unassigned else config.max_stacks or None
        return CreateLimits(max_stacks=most, labels=config.stacks_per_label, among=self.among)

    def under(self, claim: Claim, answer: Callable[[Stack], bytes]) -> CreateRequest:
        """The same request under an Idempotency-Key."""
        return dataclasses.replace(self, claim=claim, answer=answer)


class Abandon:
    """Whether a create was abandoned, and a way to cancel what it waits for."""

    __slots__ = ("_on_set", "abandoned")

    def __init__(self) -> None:
        self.abandoned = False
        self._on_set: Callable[[], object] | None = None

    def set(self) -> None:
        """Abandon the create: it undoes itself at its next step."""
        self.abandoned = True
        if self._on_set is not None:
            self._on_set()

    def check(self) -> None:
        """Raise ClusterUnavailable if the create was abandoned."""
        if self.abandoned:
            raise ClusterUnavailable("the create was abandoned")

    async def unless_abandoned(self, task: asyncio.Task[T]) -> T:
        """The result of ``task``; CancelledError as soon as the create is abandoned."""
        self._on_set = task.cancel
        try:
            if self.abandoned:
                task.cancel()
            return await task
        finally:
            self._on_set = None
