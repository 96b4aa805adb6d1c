"""What checks have said of stacks and templates; in memory only: after a start, all is checked again.

Owns: which failures count, and how many checks clients may have run at a time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from stackd.errors import TooManyRequests
from stackd.lifecycle.owned import Subject
from stackd.model import CHECK_FAILED, Stack, struct

ON_DEMAND, ON_DEMAND_OF_A_KEY = 4, 2
"""So many checks run at a time because clients asked for them."""


@struct
class CheckResult:
    """What the last check said. ``healthy`` is None until one could be run; ``trouble`` is why the last one could not be.

    ``failures`` in a row of this pod; ``at`` in nanoseconds.
    """

    stack_id: str
    generation: int
    at: int
    healthy: bool | None = None
    message: str = ""
    seconds: float = 0.0
    failures: int = 0
    trouble: str = ""


@dataclass(slots=True, kw_only=True)
class Checks:
    """The checks of one daemon.

    ``running``  the checks under way by the stack's id
    ``next``     of each template, what was checked last and when (monotonic seconds) it is to be checked again
    ``scheduled``  how many run that no client waits for; ``waiting``: the templates whose checks wait for the end of one of these
    """

    of_stack: dict[str, CheckResult] = field(default_factory=dict)
    of_template: dict[str, CheckResult] = field(default_factory=dict)
    running: dict[str, asyncio.Task[CheckResult]] = field(default_factory=dict)
    next: dict[str, tuple[Subject, float]] = field(default_factory=dict)
    scheduled: int = 0
    waiting: dict[str, None] = field(default_factory=dict)
    on_demand: Counter[str] = field(default_factory=Counter)

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Subscriber of the store: forget stacks that are gone, and pods that were replaced."""
        seen = self.of_stack.get(row.stack_id) if (row := after or before) is not None else None
        if seen is not None and (after is None or seen.generation != after.generation):
            del self.of_stack[seen.stack_id]

    def note(self, result: CheckResult) -> CheckResult:
        """Keep what a check has said of a stack; returns it with the number of failures in a row."""
        before = self.of_stack.get(result.stack_id)
        failures = 0 if result.healthy else (before.failures if before is not None else 0) + 1
        counted = self.of_stack[result.stack_id] = replace(result, failures=failures)
        return counted

    def complaint(self, stack: Stack) -> tuple[str, str]:
        """A reason and the last lines of a check that the stack did not pass; empty if it did, or was not checked."""
        seen = self.of_stack.get(stack.stack_id)
        return (CHECK_FAILED, seen.message) if seen is not None and seen.healthy is False else ("", "")

    @contextmanager
    def counted(self, caller: str) -> Iterator[None]:
        """Count as a check that a client waits for. Raises TooManyRequests."""
        if self.on_demand.total() >= ON_DEMAND or self.on_demand[caller] >= ON_DEMAND_OF_A_KEY:
            sentence = f"{ON_DEMAND_OF_A_KEY} checks of this key, or {ON_DEMAND} in all, run already; try again later"
            raise TooManyRequests(sentence, 10)
        self.on_demand[caller] += 1
        try:
            yield
        finally:
            self.on_demand[caller] -= 1
