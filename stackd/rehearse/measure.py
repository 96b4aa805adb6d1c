"""The figures of a rehearsal: the sums and percentiles of its attempts, and where a create's time goes.

Owns: the meaning of each figure. A percentile of a stage is over the stacks that reached it, and comes with their
number; a goal counts all stacks that were started (``goals``). A create's time is the difference of the daemon's own
histograms before and after, so nothing is guessed here. Also owns this process' part in the times: how late its event
loop was, and whether this machine, and not the cluster, was the bottleneck.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from stackd.rehearse.attempts import Attempt, Stage, reasons

SHARES = (("p50", 0.50), ("p95", 0.95), ("p99", 0.99))
SAMPLE_SECONDS = 0.05
WINDOW_SECONDS = 2.0
LATE_SECONDS = 0.1
LATE_SHARE = 0.1
"""A delay above both this time and this share of the measured time means that this machine may be the bottleneck."""
BUSY = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How often something was measured and, in seconds, three percentiles and the longest; all 0 if it never was."""

    count: int
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    longest: float = 0.0


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
class Sample:
    """One start: when it was pressed, the seconds from there to each stage (None: not reached), and what failed."""

    stack_id: str
    player: int
    kind: str
    node: str
    pressed: float
    accepted: float | None
    scheduled: float | None
    running: float | None
    reachable: float | None
    failed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that a rehearsal has measured; times are in seconds."""

    started: int
    failed: int
    undecided: int
    stages: Mapping[str, Times]
    all_times: Mapping[str, Sequence[float]] = field(repr=False)
    reasons: Sequence[FailureReason]
    first_refused: int
    accepted_rate: float
    running_rate: float
    reads: Times
    failed_reads: int
    deletes: Times
    nodes: Sequence[Group]
    images: Sequence[Group]
    kinds: Sequence[Group]
    create_time: CreateTime | None
    daemon_lag: float
    own: Mapping[str, float]
    bottleneck: Sequence[str]
    troubles: Mapping[str, int]
    samples: Sequence[Sample] = field(repr=False)

    def times_of(self, name: str) -> Sequence[float]:
        """The times of a stage, of status reads or of deletes, sorted, without those that never reached it."""
        return self.all_times.get(name, ())

    def fields(self) -> dict[str, object]:
        """The fields for ``--json``: the figures, and each start as ``stacks``."""
        whole = asdict(self)
        del whole["all_times"]
        whole["stacks"] = whole.pop("samples")
        return whole


@dataclass(frozen=True, slots=True, kw_only=True)
class SideResults:
    """Measurements beside the attempts."""

    reads: Sequence[float] = ()
    failed_reads: int = 0
    deletes: Sequence[float] = ()
    create_time: CreateTime | None = None
    daemon_lag: float = 0.0
    own: Mapping[str, float] = field(default_factory=dict)
    bottleneck: Sequence[str] = ()
    troubles: Mapping[str, int] = field(default_factory=dict)


def measure(attempts: Sequence[Attempt], beside: SideResults) -> Results:
    """Calculate the figures."""
    times: dict[str, list[float]] = {
        stage.value: sorted(took for attempt in attempts if (took := attempt.took(stage)) is not None)
        for stage in Stage
    }
    times |= {"reads": sorted(beside.reads), "deletes": sorted(beside.deletes)}
    return Results(
        started=len(attempts),
        failed=sum(map(has_failed, attempts)),
        undecided=sum(not has_failed(attempt) and Stage.RUNNING not in attempt.times for attempt in attempts),
        stages={stage.value: summary(times[stage.value]) for stage in Stage},
        all_times=times,
        reasons=[FailureReason(count=len(found), example=found[0]) for found in reasons(attempts).values()],
        first_refused=sum(attempt.first_refused for attempt in attempts),
        accepted_rate=_rate(attempts, Stage.ACCEPTED),
        running_rate=_rate(attempts, Stage.RUNNING),
        reads=summary(times["reads"]),
        failed_reads=beside.failed_reads,
        deletes=summary(times["deletes"]),
        nodes=_groups(attempts, lambda attempt: [attempt.node] if attempt.node else []),
        images=_groups(attempts, lambda attempt: attempt.images),
        kinds=_groups(attempts, lambda attempt: [attempt.kind]),
        create_time=beside.create_time,
        daemon_lag=beside.daemon_lag,
        own=beside.own,
        bottleneck=beside.bottleneck,
        troubles=beside.troubles,
        samples=[_sample(attempt) for attempt in attempts],
    )


def has_failed(attempt: Attempt) -> bool:
    """Whether the stack failed, or ran and did not last."""
    return attempt.failure is not None or bool(attempt.lost)


def summary(values: Sequence[float]) -> Times:
    """The percentiles of sorted values."""
    if not values:
        return Times(count=0)
    p50, p95, p99 = (percentile(values, share) for _, share in SHARES)
    return Times(count=len(values), p50=p50, p95=p95, p99=p99, longest=values[-1])


def _rate(attempts: Iterable[Attempt], stage: Stage) -> float:
    """How many stacks a second reached the stage, from the first press to the last one; renewed starts do not count."""
    first = [attempt for attempt in attempts if not attempt.again]
    reached = [(attempt.due, attempt.times[stage]) for attempt in first if stage in attempt.times]
    if not reached:
        return 0.0
    seconds = max(at for _, at in reached) - min(due for due, _ in reached)
    return len(reached) / seconds if seconds > 0 else 0.0


def _groups(attempts: Iterable[Attempt], names: Callable[[Attempt], Iterable[str]]) -> list[Group]:
    """The groups by name, the slowest first."""
    by_name: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        for name in dict.fromkeys(names(attempt)):
            by_name.setdefault(name, []).append(attempt)
    groups = [_group(name, members) for name, members in by_name.items()]
    return sorted(groups, key=lambda group: (-group.running.p95, -group.failed, group.name))


def _group(name: str, members: Sequence[Attempt]) -> Group:
    return Group(
        name=name,
        started=len(members),
        failed=sum(map(has_failed, members)),
        running=summary(sorted(took for one in members if (took := one.took(Stage.RUNNING)) is not None)),
        starting=summary(_between(members, lambda one: one.times.get(Stage.SCHEDULED), lambda one: one.started)),
        becoming_ready=summary(_between(members, lambda one: one.started, lambda one: one.times.get(Stage.RUNNING))),
    )


def _between(
    members: Iterable[Attempt], begin: Callable[[Attempt], float | None], end: Callable[[Attempt], float | None]
) -> list[float]:
    pairs = ((begin(one), end(one)) for one in members)
    return sorted(max(0.0, last - first) for first, last in pairs if first is not None and last is not None)


def _sample(attempt: Attempt) -> Sample:
    return Sample(
        stack_id=attempt.stack_id,
        player=attempt.player,
        kind=attempt.kind,
        node=attempt.node,
        pressed=attempt.due,
        accepted=attempt.took(Stage.ACCEPTED),
        scheduled=attempt.took(Stage.SCHEDULED),
        running=attempt.took(Stage.RUNNING),
        reachable=attempt.took(Stage.REACHABLE),
        failed=attempt.failure.reason if attempt.failure is not None else attempt.lost,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of ``values`` (sorted, not empty) does not exceed."""
    return values[max(0, math.ceil(len(values) * share) - 1)]


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
        """The lags (p99 and longest), how late creates were sent, how long requests waited for a connection, and CPU.

        ``load`` is the machine's load average of the last minute.
        """
        return {
            "loop_lag_p99": _p99(self.lags),
            "loop_lag_max": max(self.lags, default=0.0),
            "sent_late_p99": _p99(self.sending),
            "sent_late_max": max(self.sending, default=0.0),
            "connection_wait_p99": _p99(self.waits),
            "cpu_busiest": self.cpu,
            "load": os.getloadavg()[0],
            "cpus": float(os.cpu_count() or 1),
        }

    def bottleneck(self, measured: float) -> list[str]:
        """Why this machine may be the bottleneck if starts took ``measured`` seconds; empty if it was not."""
        found, figures, much = [], self.figures(), max(LATE_SECONDS, measured * LATE_SHARE)
        if figures["loop_lag_p99"] > much:
            found.append(f"its event loop was up to {figures['loop_lag_max']:.2f} s late")
        if figures["sent_late_p99"] > much:
            found.append(f"it sent creates up to {figures['sent_late_max']:.2f} s after they were due")
        if figures["connection_wait_p99"] > much:
            found.append(f"requests waited up to {max(self.waits):.2f} s for one of its own connections")
        if self.cpu > BUSY:
            found.append(f"its process used {self.cpu:.0%} of a core")
        return found


def _p99(values: Sequence[float]) -> float:
    return percentile(sorted(values), 0.99) if values else 0.0


PHASES = "stackd_create_phase_duration_seconds"
HTTP = "stackd_http_request_duration_seconds"
KUBERNETES = "stackd_kubernetes_request_duration_seconds"
LAG = "stackd_event_loop_lag_seconds"
ROUTE = "POST /stacks"
AT_THE_API_SERVER = ("pods", "services")


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonMetrics:
    """The daemon's histograms at one moment: by name and label values, the sum of seconds and the count.

    The values are in the order of their labels' names.
    """

    totals: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def since(self, before: DaemonMetrics, name: str, label: str) -> tuple[float, float]:
        """The seconds and the count added since ``before``."""
        seconds, count = self.totals.get((name, label), (0.0, 0.0))
        seconds_before, count_before = before.totals.get((name, label), (0.0, 0.0))
        return seconds - seconds_before, count - count_before


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTime:
    """The average time of an accepted create in seconds, by where it was spent; ``creates`` is their number.

    ``turn``        waiting for its turn among the daemon's creates under way
    ``api_server``  waiting for the API server's answers to the requests that create the pod and the Service
    ``scheduler``   waiting for a node
    ``file``        writing the daemon's file
    ``daemon``      the rest: the daemon's own work
    ``requests``    requests to the API server in that time, all of them
    """

    creates: int
    turn: float
    api_server: float
    scheduler: float
    file: float
    daemon: float
    requests: int

    def parts(self) -> dict[str, float]:
        """Each part by its name, in chronological order."""
        return {
            "waiting for its turn": self.turn,
            "API server": self.api_server,
            "scheduler": self.scheduler,
            "stackd's file": self.file,
            "stackd itself": self.daemon,
        }

    @property
    def total(self) -> float:
        """The mean time of a create, as the daemon measures it."""
        return sum(self.parts().values())


def read_metrics(text: str) -> DaemonMetrics:
    """The metrics from Prometheus' text format. Raises ValueError if the text is something else."""
    sums: dict[tuple[str, str], float] = {}
    counts: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        if family.name not in (PHASES, HTTP, KUBERNETES, LAG):
            continue
        for sample in family.samples:
            label = " ".join(value for name, value in sorted(sample.labels.items()) if name != "le")
            if sample.name.endswith("_sum"):
                sums[family.name, label] = sample.value
            elif sample.name.endswith("_count"):
                counts[family.name, label] = sample.value
    return DaemonMetrics(totals={key: (sums.get(key, 0.0), count) for key, count in counts.items()})


def create_time(before: DaemonMetrics, after: DaemonMetrics) -> CreateTime | None:
    """The average time of an accepted create between two moments, including the time for creates that failed.

    None if no create was accepted, or if the daemon was restarted meanwhile.
    """
    seconds, _ = after.since(before, HTTP, ROUTE)
    _, accepted = after.since(before, PHASES, "accept")
    if accepted <= 0 or seconds < 0:
        return None
    phase = {
        name: max(0.0, after.since(before, PHASES, name)[0]) / accepted
        for name in ("validate", "reserve", "pod", "service", "schedule", "accept")
    }
    asked = (after.since(before, KUBERNETES, f"{kind} create")[0] for kind in AT_THE_API_SERVER)
    api_server = sum(max(0.0, one) for one in asked) / accepted
    file, at_cluster = phase["reserve"] + phase["accept"], phase["pod"] + phase["service"]
    return CreateTime(
        creates=round(accepted),
        turn=max(0.0, seconds / accepted - max(at_cluster, api_server) - file - phase["schedule"] - phase["validate"]),
        api_server=api_server,
        scheduler=phase["schedule"],
        file=file,
        daemon=phase["validate"] + max(0.0, at_cluster - api_server),
        requests=round(sum(count for _, count in _all_of(before, after, KUBERNETES))),
    )


def mean_lag(before: DaemonMetrics, after: DaemonMetrics) -> float:
    """How late the daemon's event loop was on average, in seconds; 0 if the metrics do not tell."""
    seconds, count = after.since(before, LAG, "")
    return seconds / count if count > 0 else 0.0


def _all_of(before: DaemonMetrics, after: DaemonMetrics, name: str) -> list[tuple[float, float]]:
    return [after.since(before, family, label) for family, label in after.totals if family == name]
