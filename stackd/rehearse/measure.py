"""The result of each press of "start", and its figures: percentiles, rates, failures, where a create's time was spent.

A stage's percentiles are those of the stacks that reached it, and come with their number; a goal counts all stacks that
were started (``outcome``). A create's time is the difference of the daemon's own histograms before and after. Also owns
this process' part in the times: whether this machine, and not the cluster, was the bottleneck.
"""

from __future__ import annotations

import asyncio
import enum
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

_ID = re.compile(r"\b(?:svc-)?(?:stack|job)-[0-9a-f]{16}\b")
_NUMBER = re.compile(r"\d+")
_LONGEST_REASON = 300


class Stage(enum.StrEnum):
    """The stage that a stack has reached, as the player who pressed start sees it."""

    ACCEPTED = "accepted"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    REACHABLE = "reachable"


class Address(NamedTuple):
    """Where a stack is reached; ``scheme`` is that of its name (``http``, ``https``, ``tls``), empty for a node port."""

    host: str
    port: int
    scheme: str = ""


def without_ids(reason: str) -> str:
    """A reason without ids, which differ from stack to stack."""
    return _ID.sub("a stack", reason)


@dataclass(slots=True, kw_only=True, eq=False)
class Attempt:
    """One press of start. ``due`` is when the player pressed, ``times`` when the stages were reached.

    ``again``          whether the player had a stack before
    ``started``        when the containers had started
    ``first_refused``  whether the address did not answer at the first try, although the API said that the stack runs
    ``failure``        why the stack did not reach a stage
    ``lost``           why a stack that had been running did not last until the end
    ``expires``        when the stack expires; ``extends`` says that it can be extended
    ``unanswered``     there was no answer, so the daemon may still create a stack
    ``deleting``       the player, or the end of the rehearsal, deletes the stack
    ``news``           set whenever the record changes
    """

    player: int
    kind: str
    due: float
    again: bool = False
    stack_id: str = ""
    status: str = ""
    node: str = ""
    images: tuple[str, ...] = ()
    address: Address | None = None
    expires: float = 0.0
    extends: bool = True
    times: dict[Stage, float] = field(default_factory=dict)
    started: float | None = None
    first_refused: bool = False
    failure: str = ""
    lost: str = ""
    unanswered: bool = False
    deleting: bool = False
    gone: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def reached(self, stage: Stage, at: float) -> None:
        """Record that the stack has reached a stage; the first time counts."""
        self.times.setdefault(stage, at)
        self.news.set()

    def fail(self, missed: Stage, reason: str) -> None:
        """Record that the stack cannot reach a stage, or ran and did not last; the first reason counts."""
        if missed is Stage.RUNNING and missed in self.times:
            self.lost = self.lost or reason[:_LONGEST_REASON]
        else:
            self.failure = self.failure or reason[:_LONGEST_REASON]
        self.news.set()

    def seen(self, status: str, reason: str, at: float) -> None:
        """Record a status of the stack from the API. An answer may be older than an event that came before it, so a stack
        that ran is not ``creating`` again."""
        if self.deleting or self.gone or (status == "creating" and Stage.RUNNING in self.times):
            return
        self.status = status
        if status == "running" and Stage.RUNNING not in self.times:
            self.reached(Stage.RUNNING, at)
        elif status not in ("creating", "running"):
            self.fail(Stage.RUNNING, f"{status} ({reason})" if reason else status)

    def ended(self) -> None:
        """Record that the stack is gone, as the API says."""
        self.gone = True
        if not self.deleting:
            self.fail(Stage.RUNNING, f"gone before {'its time' if Stage.RUNNING in self.times else 'it ran'}")
        self.news.set()

    def took(self, stage: Stage) -> float | None:
        """Seconds from the press to the stage; None if it was not reached."""
        at = self.times.get(stage)
        return None if at is None else max(0.0, at - self.due)

    @property
    def kept(self) -> bool:
        """Whether there is a stack, and it is neither deleted nor about to be."""
        return bool(self.stack_id) and not self.deleting and not self.gone

    @property
    def failed(self) -> bool:
        """Whether the stack failed, or ran and did not last."""
        return bool(self.failure or self.lost)

    def fields(self) -> dict[str, object]:
        """The fields for ``--json``: when start was pressed, the seconds from there to each stage, and what failed."""
        stages = {stage.value: self.took(stage) for stage in Stage}
        first = {"stack_id": self.stack_id, "player": self.player, "kind": self.kind, "node": self.node}
        return {**first, "pressed": self.due, **stages, "failed": self.failure or self.lost}


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of ``values`` (sorted) does not exceed; 0 if there are none."""
    return values[max(0, math.ceil(len(values) * share) - 1)] if values else 0.0


@dataclass(frozen=True, slots=True)
class Times:
    """How often something was measured and, in seconds, three percentiles and the longest; all 0 if it never was."""

    count: int
    p50: float
    p95: float
    p99: float
    longest: float


def summary(values: Iterable[float | None]) -> Times:
    """The percentiles of values; None does not count."""
    measured = sorted(value for value in values if value is not None)
    return Times(len(measured), *(percentile(measured, share) for share in (0.5, 0.95, 0.99, 1.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The stacks of one node, image or kind: how many were started, how many failed, and how long they took to run.

    ``starting`` is from scheduled to started containers (with pulls), ``becoming_ready`` from there to running.
    """

    name: str
    started: int
    failed: int
    running: Times
    starting: Times
    becoming_ready: Times


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReason:
    """One reason why stacks failed: how many did, and the sentence of the first."""

    count: int
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The figures of a rehearsal. ``times`` has, sorted, what ``stages``, ``reads`` and ``deletes`` summarize."""

    started: int
    failed: int
    undecided: int
    stages: Mapping[str, Times]
    times: Mapping[str, Sequence[float]] = field(repr=False)
    reasons: Sequence[FailureReason]
    first_refused: int
    accepted_rate: float
    running_rate: float
    nodes: Sequence[Group]
    images: Sequence[Group]
    kinds: Sequence[Group]
    reads: Times
    deletes: Times
    failed_reads: int = 0
    create_time: Mapping[str, float] | None = None
    daemon_lag: float = 0.0
    own: Mapping[str, float] = field(default_factory=dict)
    bottleneck: Sequence[str] = ()
    troubles: Mapping[str, int] = field(default_factory=dict)


def measure(
    attempts: Sequence[Attempt], *, reads: Sequence[float] = (), deletes: Sequence[float] = (), **beside: Any
) -> Results:
    """Calculate the figures; ``beside`` are the fields of the results that do not come from the attempts."""
    times = {stage.value: sorted(took for one in attempts if (took := one.took(stage)) is not None) for stage in Stage}
    return Results(
        started=len(attempts),
        failed=sum(attempt.failed for attempt in attempts),
        undecided=sum(not attempt.failed and Stage.RUNNING not in attempt.times for attempt in attempts),
        stages={name: summary(values) for name, values in times.items()},
        times=times | {"reads": sorted(reads), "deletes": sorted(deletes)},
        reasons=reasons(attempts),
        first_refused=sum(attempt.first_refused for attempt in attempts),
        accepted_rate=_rate(attempts, Stage.ACCEPTED),
        running_rate=_rate(attempts, Stage.RUNNING),
        nodes=_groups(attempts, lambda attempt: [attempt.node] if attempt.node else []),
        images=_groups(attempts, lambda attempt: attempt.images),
        kinds=_groups(attempts, lambda attempt: [attempt.kind]),
        reads=summary(reads),
        deletes=summary(deletes),
        **beside,
    )


def reasons(attempts: Iterable[Attempt]) -> list[FailureReason]:
    """What went wrong, the most frequent first; sentences that differ only in ids and numbers count as one."""
    groups: dict[str, list[str]] = {}
    for attempt in attempts:
        if attempt.failed:
            sentence = attempt.failure or f"ran, and was lost: {attempt.lost}"
            groups.setdefault(_NUMBER.sub("N", without_ids(sentence)), []).append(sentence)
    failures = [FailureReason(count=len(sentences), example=sentences[0]) for sentences in groups.values()]
    return sorted(failures, key=lambda one: -one.count)


def _rate(attempts: Iterable[Attempt], stage: Stage) -> float:
    """How many stacks a second reached the stage, from the first press to the last one; second starts do not count."""
    reached = [(one.due, one.times[stage]) for one in attempts if not one.again and stage in one.times]
    seconds = max((at for _, at in reached), default=0.0) - min((due for due, _ in reached), default=0.0)
    return len(reached) / seconds if seconds > 0 else 0.0


def _groups(attempts: Iterable[Attempt], names: Callable[[Attempt], Iterable[str]]) -> list[Group]:
    by_name: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        for name in dict.fromkeys(names(attempt)):
            by_name.setdefault(name, []).append(attempt)
    groups = [
        Group(
            name=name,
            started=len(members),
            failed=sum(one.failed for one in members),
            running=summary(one.took(Stage.RUNNING) for one in members),
            starting=summary(_between(one.times.get(Stage.SCHEDULED), one.started) for one in members),
            becoming_ready=summary(_between(one.started, one.times.get(Stage.RUNNING)) for one in members),
        )
        for name, members in by_name.items()
    ]
    return sorted(groups, key=lambda group: (-group.running.p95, -group.failed, group.name))


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else max(0.0, end - begin)


SAMPLE_SECONDS, WINDOW_SECONDS = 0.05, 2.0
# A delay above both this time and this share of the measured time means that this machine may be the bottleneck.
DELAY_SECONDS, DELAY_SHARE = 0.1, 0.1
BUSY = 0.9


@dataclass(slots=True, kw_only=True)
class OwnLoad:
    """Samples of this process: lags and waits in seconds; ``cpu`` is the busiest window's share of one core."""

    lags: list[float] = field(default_factory=list)
    sending: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    cpu: float = 0.0

    async def sample(self) -> None:
        """Sample until cancelled."""
        loop = asyncio.get_running_loop()
        window, used = loop.time(), time.process_time()
        while True:
            began = loop.time()
            await asyncio.sleep(SAMPLE_SECONDS)
            now = loop.time()
            self.lags.append(max(0.0, now - began - SAMPLE_SECONDS))
            if now - window >= WINDOW_SECONDS:
                used, before = time.process_time(), used
                self.cpu = max(self.cpu, (used - before) / (now - window))
                window = now

    def figures(self) -> dict[str, float]:
        """The lags, how late creates were sent, how long requests waited for a connection, CPU, and the load average."""
        lags, sending = summary(self.lags), summary(self.sending)
        return {
            "loop_lag_p99": lags.p99,
            "loop_lag_max": lags.longest,
            "sent_late_p99": sending.p99,
            "sent_late_max": sending.longest,
            "connection_wait_p99": summary(self.waits).p99,
            "cpu_busiest": self.cpu,
            "load": os.getloadavg()[0],
            "cpus": float(os.cpu_count() or 1),
        }

    def bottleneck(self, measured: float) -> list[str]:
        """Why this machine may be the bottleneck if starts took ``measured`` seconds; empty if it was not."""
        delays = (
            (summary(self.lags), "its event loop was up to {:.2f} s late"),
            (summary(self.sending), "it sent creates up to {:.2f} s after they were due"),
            (summary(self.waits), "requests waited up to {:.2f} s for one of its own connections"),
        )
        much = max(DELAY_SECONDS, measured * DELAY_SHARE)
        slow = [text.format(times.longest) for times, text in delays if times.p99 > much]
        return slow + ([f"its process used {self.cpu:.0%} of a core"] if self.cpu > BUSY else [])


PHASES = "stackd_create_phase_duration_seconds"
HTTP = "stackd_http_request_duration_seconds"
KUBERNETES = "stackd_kubernetes_request_duration_seconds"
LAG = "stackd_event_loop_lag_seconds"

# The daemon's histograms by name and label values: the sum of seconds, and the count.
Totals = Mapping[tuple[str, str], tuple[float, float]]


def read_metrics(text: str) -> Totals:
    """The histograms in Prometheus' text format. Raises ValueError if the text is something else."""
    parts: dict[str, dict[tuple[str, str], float]] = {"_sum": {}, "_count": {}}
    for family in text_string_to_metric_families(text):
        if family.name in (PHASES, HTTP, KUBERNETES, LAG):
            for sample in family.samples:
                label = " ".join(value for name, value in sorted(sample.labels.items()) if name != "le")
                parts.get(sample.name.removeprefix(family.name), {})[family.name, label] = sample.value
    return {key: (parts["_sum"].get(key, 0.0), count) for key, count in parts["_count"].items()}


def difference(before: Totals, after: Totals) -> Totals:
    """What was added in between."""
    old = {key: before.get(key, (0.0, 0.0)) for key in after}
    return {key: (seconds - old[key][0], count - old[key][1]) for key, (seconds, count) in after.items()}


# The parts of a create's time in chronological order, with their names for people.
PARTS = {
    "turn": "waiting for its turn",
    "api_server": "API server",
    "scheduler": "scheduler",
    "file": "stackd's file",
    "daemon": "stackd itself",
}


def create_time(added: Totals) -> dict[str, float] | None:
    """The average seconds of an accepted create by ``PARTS``, including the time for creates that failed.

    Also ``creates``, their number, and ``requests``, all requests to the API server in that time. None if no create was
    accepted, or if the daemon was restarted meanwhile.
    """
    seconds, _ = added.get((HTTP, "POST /stacks"), (0.0, 0.0))
    _, accepted = added.get((PHASES, "accept"), (0.0, 0.0))
    if accepted <= 0 or seconds <= 0:
        return None

    def each(name: str, *labels: str) -> float:
        return sum(max(0.0, added.get((name, label), (0.0, 0.0))[0]) for label in labels) / accepted

    validate, schedule = each(PHASES, "validate"), each(PHASES, "schedule")
    api_server = each(KUBERNETES, "pods create", "services create")
    file, at_cluster = each(PHASES, "reserve", "accept"), each(PHASES, "pod", "service")
    return {
        "creates": round(accepted),
        "turn": max(0.0, seconds / accepted - max(at_cluster, api_server) - file - schedule - validate),
        "api_server": api_server,
        "scheduler": schedule,
        "file": file,
        "daemon": validate + max(0.0, at_cluster - api_server),
        "requests": round(sum(count for (name, _), (_, count) in added.items() if name == KUBERNETES)),
    }


def spent_in_all(spent: Mapping[str, float]) -> float:
    """The mean time of a create, as the daemon measures it; above 0."""
    return sum(spent[part] for part in PARTS)


def mean_lag(added: Totals) -> float:
    """How late the daemon's event loop was on average, in seconds; 0 if the metrics do not tell."""
    seconds, count = added.get((LAG, ""), (0.0, 0.0))
    return seconds / count if count > 0 else 0.0
