"""What clients were told: the model that the oracle holds the daemon to.

Owns: acknowledgements, refusals, and what nobody knows because no answer came. Nothing here is asked of the daemon's file
or of the cluster.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RUNS_ON = "app/stays"
EARLY = 61 * 10**9
"""By so much a stack may end too early: a clock that differs from the API server's by no more than that is believed."""


@dataclass(slots=True, kw_only=True)
class Create:
    """One wish for one stack, however often it was sent; ``marker`` is in its pod spec and in no other's, unless it is
    one for a stack of a ``template``.

    ``open``: attempts that may still take effect or whose effect is not known. ``since``: so many answers are of a file that is
    another one by now, which has forgotten them; ``loose``: what became of an attempt may have been forgotten with it.
    """

    marker: str
    image: str
    template: str = ""
    key: str | None = None
    ttl: str | None = None
    attempts: int = 0
    asked_at: int = 0
    open: int = 0
    refused: int = 0
    since: int = 0
    loose: bool = False
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def told(self) -> set[str]:
        """The stacks that its answers named: one, if all is well."""
        return {answer["stack_id"] for answer in self.answers}

    @property
    def stays(self) -> bool:
        """Whether its pod runs until somebody ends it."""
        return self.image == RUNS_ON


@dataclass(slots=True, kw_only=True)
class Ending:
    """What was asked and said about the end of one stack. ``promised``: it has to go; ``gone``: it is gone."""

    asked: int = 0
    promised: bool = False
    gone: bool = False


@dataclass(slots=True, kw_only=True)
class Wish:
    """What a stack's user may want of it by now, as far as anybody can know; ``under_way`` requests may change it."""

    possible: set[str] = field(default_factory=lambda: {"running"})
    under_way: int = 0
    asked: int = 0


@dataclass(slots=True, kw_only=True)
class Batch:
    """A wish for a batch delete; ``job_id`` once one was answered. ``forgotten``: of a file that is another one by now."""

    ids: list[str]
    unknown: frozenset[str]
    key: str | None = None
    job_id: str | None = None
    forgotten: bool = False


@dataclass(slots=True, kw_only=True)
class Ledger:
    """All of one schedule."""

    creates: list[Create] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    endings: dict[str, Ending] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    """Stacks whose pod somebody else ended: by hand, or with its node."""
    usurped: set[str] = field(default_factory=set)
    """Stacks of whose pod somebody else has taken the name."""
    wishes: dict[str, Wish] = field(default_factory=dict)
    expires: dict[str, int] = field(default_factory=dict)
    """No stack may end before that, in nanoseconds; the clock of the daemon may be wrong, this is not."""
    lives: dict[str, int] = field(default_factory=dict)
    """For how many nanoseconds each is to live."""
    fleeting: set[str] = field(default_factory=set)
    """Stacks of which the cluster may have had nothing any more when the file became another one."""
    files: int = 1
    """So many files have been the owner's, one after the other."""

    def forget(self) -> None:
        """The owner's file is another one, which knows of earlier promises only what stands in the cluster.

        What that is not: jobs, answers under a key, deletes that were not done, and stacks without a pod (docs/operate.md).
        """
        self.files += 1
        self.fleeting |= self.touched | self.usurped
        for create in self.creates:
            create.since = len(create.answers)
            create.loose = create.loose or create.attempts > len(create.answers)
        for batch in self.batches:
            batch.forgotten = True
        for ending in self.endings.values():
            ending.promised = False

    def accepted(self, stack_id: str, asked_at: int, lives: int) -> None:
        """A create that was asked for then was answered."""
        self.expires[stack_id], self.lives[stack_id] = asked_at + lives - EARLY, lives

    def extended(self, stack_id: str, by: int) -> None:
        """It lives longer."""
        if stack_id in self.expires:
            self.expires[stack_id] += by
            self.lives[stack_id] += by

    def set_back(self, now: int) -> None:
        """It is earlier for everybody: each lives on for no longer than it was to live in all."""
        for stack_id, ends in self.expires.items():
            self.expires[stack_id] = min(ends, now + self.lives[stack_id] - EARLY)

    def ending(self, stack_id: str) -> Ending:
        """What is known about the end of a stack."""
        return self.endings.setdefault(stack_id, Ending())

    def wish(self, stack_id: str) -> Wish:
        """What is wanted of a stack."""
        return self.wishes.setdefault(stack_id, Wish())

    def told(self) -> dict[str, Create]:
        """The creates that were answered with 201, by stack id."""
        return {answer["stack_id"]: create for create in self.creates for answer in create.answers}

    def known(self) -> list[str]:
        """The ids of all stacks that a client was told of, in the order of their creation."""
        return list(dict.fromkeys(a["stack_id"] for create in self.creates for a in create.answers))

    def expired(self, stack_id: str, now: int) -> bool:
        """Whether the stack's time was up by then."""
        return self.expires.get(stack_id, now + 1) <= now

    def may_be_gone(self, stack_id: str, now: int) -> bool:
        """Whether a stack that was acknowledged need not be there."""
        asked = self.endings.get(stack_id)
        return (asked is not None and asked.asked > 0) or stack_id in self.fleeting or self.expired(stack_id, now)

    def must_be_gone(self, stack_id: str) -> bool:
        """Whether nothing of the stack may be left once all is quiet."""
        asked = self.endings.get(stack_id)
        return asked is not None and (asked.gone or asked.promised)
