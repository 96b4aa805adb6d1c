"""Counters and histograms: plain numbers, cheap enough for the hottest path.

Owns: the instruments, and the numbers that no other part keeps. ``web.exposition`` names and formats them for
Prometheus. An observation costs well under a microsecond.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import monotonic, perf_counter, time_ns
from typing import Final

from stackd.errors import StackdError
from stackd.model import Stack, StackStatus

FAST: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds in seconds, for durations from a fraction of a millisecond to some seconds."""

SLOW: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)
"""Bounds in seconds, for durations that depend on the cluster."""

HOUR: Final = 3600.0
MOST_STARTS: Final = 1000
CREATED: Final = "created"
INVALID: Final = "invalid"
PHASES: Final = ("validate", "reserve", "pod", "service", "schedule", "accept")
_WORD: Final = re.compile(r"(?<!^)(?=[A-Z])")


class Histogram:
    """Counts by upper bound, in seconds; the last count is for values above all bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = FAST) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by bound, as Prometheus expects them."""
        cumulative, count = [], 0
        for bound, here in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            count += here
            cumulative.append((bound, float(count)))
        return cumulative


@dataclass(slots=True)
class RouteMeter:
    """The requests of one route."""

    codes: Counter[int] = field(default_factory=Counter)
    durations: Histogram = field(default_factory=Histogram)

    def record(self, code: int, seconds: float) -> None:
        self.codes[code] += 1
        self.durations.observe(seconds)


@dataclass(slots=True)
class PhaseTimer:
    """A stopwatch for the phases of one create."""

    _phases: dict[str, Histogram]
    _since: float = field(default_factory=perf_counter)

    def lap(self, phase: str) -> None:
        """Observe ``phase``, which began with the present one and runs beside others."""
        self._phases[phase].observe(perf_counter() - self._since)

    def restart(self) -> None:
        """The next phase starts now."""
        self._since = perf_counter()

    def end(self, phase: str) -> None:
        """End ``phase``; the next phase starts now."""
        now = perf_counter()
        self._phases[phase].observe(now - self._since)
        self._since = now


@dataclass(slots=True, kw_only=True)
class Reloads:
    """How the latest reload went: ``refused`` says why, ``at`` is in seconds since the epoch, 0 before the first.

    ``waiting`` names the changed configuration keys that need a restart.
    """

    refused: str = ""
    waiting: tuple[str, ...] = ()
    at: float = 0.0


ADOPTED_NANOSECONDS = 1_000_000_000
"""A stack that is accepted and so old when its row is new was adopted, and not assigned from a pool."""


@dataclass(slots=True, kw_only=True)
class Metrics:
    """The numbers of one daemon. Keys are route (method, path), phase, outcome, and Kubernetes' (verb, resource)."""

    routes: dict[tuple[str, str], RouteMeter] = field(default_factory=dict)
    creates: Counter[str] = field(default_factory=Counter)
    phases: dict[str, Histogram] = field(default_factory=lambda: {phase: Histogram() for phase in PHASES})
    time_to_running: Histogram = field(default_factory=lambda: Histogram(SLOW))
    kubernetes: defaultdict[tuple[str, str], Histogram] = field(default_factory=lambda: defaultdict(Histogram))
    starts: defaultdict[str | None, deque[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=MOST_STARTS))
    )
    assignments: Histogram = field(default_factory=Histogram)
    loop_lag: Histogram = field(default_factory=Histogram)
    reloads: Reloads = field(default_factory=Reloads)
    older_build: bool = False
    certificate_ends: Callable[[], float] = lambda: 0.0
    backup_left: Callable[[], float] = lambda: 0.0
    _adopted: set[str] = field(default_factory=set)

    def route(self, method: str, path: str) -> RouteMeter:
        return self.routes.setdefault((method, path), RouteMeter())

    def phase_timer(self) -> PhaseTimer:
        return PhaseTimer(self.phases)

    def create_ended(self, error: BaseException | None) -> None:
        self.creates[CREATED if error is None else outcome(error)] += 1

    def assigned(self, seconds: float, template: str | None) -> None:
        """Observe a create that was answered from a pool; ``seconds`` is also its time to running."""
        self.assignments.observe(seconds)
        self._runs(seconds, template)

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Observe the time to running when a row changes; a subscriber of the store."""
        if before is None or after is None:
            if before is not None:
                self._adopted.discard(before.stack_id)
            elif after is not None and after.accepted and time_ns() - after.created_at > ADOPTED_NANOSECONDS:
                self._adopted.add(after.stack_id)  # nobody has seen when it came to run
            return
        if after.generation or after.stack_id in self._adopted:
            return  # a restarted stack was created long before
        if before.status is StackStatus.CREATING and after.status is StackStatus.RUNNING:
            self._runs((time_ns() - after.created_at) / 1e9, after.template)

    def _runs(self, seconds: float, template: str | None) -> None:
        self.time_to_running.observe(seconds)
        self.starts[template].append((monotonic(), max(0.0, seconds)))

    def add_starts(self, starts: Iterable[tuple[str, int, int]], now: int) -> None:
        """Add the starts of an earlier process: template, when the stack ran, and when it was created (nanoseconds)."""
        for template, ran_at, created_at in starts:
            ago, seconds = (now - ran_at) / 1e9, (ran_at - created_at) / 1e9
            self.starts[template].append((monotonic() - ago, seconds))

    def median_seconds_to_running(self, template: str) -> float | None:
        """Of the stacks of one template that ran within the last hour; None if none did."""
        recent = [seconds for at, seconds in self.starts[template] if at > monotonic() - HOUR]
        return round(median(recent), 3) if recent else None

    def kubernetes_request(self, verb: str, resource: str, code: str, seconds: float) -> None:
        """Observe a finished request to Kubernetes; ``kube`` itself counts the codes."""
        self.kubernetes[verb, resource].observe(seconds)


def outcome(error: BaseException) -> str:
    """The code of an error as a label value; for another exception its name, as ``cancelled_error``."""
    if isinstance(error, StackdError):
        return error.code
    return _WORD.sub("_", type(error).__name__).lower()
