"""What clients were answered: the model that the oracle compares the daemon with.

Owns: acknowledgements, refusals, and requests without a response, whose result is unknown. Nothing in it comes from the
daemon's file or from the cluster.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

RUNS_ON = "app/stays"
EARLY = 61 * 10**9
"""Nanoseconds by which a stack may expire early: stackd trusts a clock this close to the API server's."""


@dataclass(slots=True, kw_only=True)
class Create:
    """One wish for one stack, however often it was sent.

    ``marker`` is in its pod spec and in no other, unless it is for a stack of a ``template``. ``route``: its port has a
    name (``only``), or it has another port with one (``both``); or it has ``members``. ``open``: attempts whose effect is
    unknown.
    """

    marker: str
    image: str
    template: str = ""
    route: str = ""
    key: str | None = None
    ttl: str | None = None
    asked_at: int = 0
    open: int = 0
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ids(self) -> set[str]:
        """The stack ids in its answers: a single one, if all is well."""
        return {answer["stack_id"] for answer in self.answers}


@dataclass(slots=True)
class Ending:
    """What was requested and answered about the end of one stack; ``promised``: it has to go; ``gone``: it is gone."""

    asked: int = 0
    promised: bool = False
    gone: bool = False


@dataclass(slots=True)
class Wish:
    """The states that the stack's user may want now; requests ``under_way`` may change them."""

    possible: set[str] = field(default_factory=lambda: {"running"})
    under_way: int = 0
    asked: int = 0


@dataclass(slots=True, kw_only=True)
class Batch:
    """A wish for a batch job; ``job_id`` once it was answered.

    One that creates has no ids: its stacks have the label ``op`` with this ``marker``, and there are ``creates`` of them.
    """

    ids: list[str]
    creates: int = 0
    marker: str = ""
    unknown: frozenset[str]
    key: str | None = None
    job_id: str | None = None
    action: str = "delete"

    @property
    def route(self) -> str:
        return "/stacks/batch-delete" if self.action == "delete" else "/stacks/batch"

    @property
    def size(self) -> int:
        return self.creates or len(self.ids)

    @property
    def body(self) -> dict[str, Any]:
        if self.creates:
            each = [{"labels": {"op": self.marker, "player": f"seat-{number}"}} for number in range(self.creates)]
            return {"action": "create", "template": "pooled", "each": each}
        ttl = {"ttl": "10m"} if self.action == "extend" else {}
        return {"stack_ids": self.ids} | ({} if self.action == "delete" else {"action": self.action, **ttl})


@dataclass(slots=True, kw_only=True)
class Ledger:
    """Everything of one schedule.

    ``touched``: stacks whose pod somebody else has ended, by hand or with its node. ``expires``: when each stack may
    expire at the earliest, in nanoseconds of the true time.
    """

    creates: list[Create] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    endings: defaultdict[str, Ending] = field(default_factory=lambda: defaultdict(Ending))
    wishes: defaultdict[str, Wish] = field(default_factory=lambda: defaultdict(Wish))
    touched: set[str] = field(default_factory=set)
    expires: dict[str, int] = field(default_factory=dict)

    def accepted(self, stack_id: str, expires: int) -> None:
        self.expires[stack_id] = expires - EARLY

    def extended(self, stack_id: str, by: int) -> None:
        if stack_id in self.expires:
            self.expires[stack_id] += by

    def by_id(self) -> dict[str, Create]:
        """The creates that were answered with 201, by stack id, in the order of their creation."""
        return {answer["stack_id"]: create for create in self.creates for answer in create.answers}

    def expired(self, stack_id: str, now: int) -> bool:
        return self.expires.get(stack_id, now + 1) <= now

    def may_be_gone(self, stack_id: str, now: int) -> bool:
        return self.endings[stack_id].asked > 0 or self.expired(stack_id, now)
