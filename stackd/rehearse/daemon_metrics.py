"""Where a create's time goes, from the daemon's own metrics before and after.

Owns: which histograms are read and how their differences are put together. The daemon measures; nothing is guessed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

PHASES = "stackd_create_phase_duration_seconds"
HTTP = "stackd_http_request_duration_seconds"
KUBERNETES = "stackd_kubernetes_request_duration_seconds"
LAG = "stackd_event_loop_lag_seconds"
ROUTE = "POST /stacks"
AT_THE_API_SERVER = ("pods", "services")


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonMetrics:
    """What the daemon had counted at one moment: by histogram and label values, the sum of seconds and the count.

    The values are in the order of their labels' names.
    """

    totals: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def since(self, before: DaemonMetrics, name: str, label: str) -> tuple[float, float]:
        """Seconds and count that were added."""
        seconds, count = self.totals.get((name, label), (0.0, 0.0))
        seconds_before, count_before = before.totals.get((name, label), (0.0, 0.0))
        return seconds - seconds_before, count - count_before


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTime:
    """The time of an accepted create on average, in seconds, by where it was spent; ``creates`` is how many there were.

    ``turn``        waiting for its turn among the creates that the daemon has under way
    ``api_server``  waiting for the API server's answers to the requests that make the pod and the Service
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
        """Each part by its name, in the order of time."""
        return {
            "waiting for its turn": self.turn,
            "API server": self.api_server,
            "scheduler": self.scheduler,
            "stackd's file": self.file,
            "stackd itself": self.daemon,
        }

    @property
    def total(self) -> float:
        """The mean time to the create's answer, at the daemon."""
        return sum(self.parts().values())


def read(text: str) -> DaemonMetrics:
    """The metrics in Prometheus' text form. Raises ValueError where it is something else."""
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
    """The time of a create that was accepted, on average, between two moments; what was spent on others counts, too.

    None where none was accepted, or the daemon began to count anew meanwhile.
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
    """How late the daemon's event loop was on average, in seconds; 0 where it does not tell."""
    seconds, count = after.since(before, LAG, "")
    return seconds / count if count > 0 else 0.0


def _all_of(before: DaemonMetrics, after: DaemonMetrics, name: str) -> list[tuple[float, float]]:
    return [after.since(before, family, label) for family, label in after.totals if family == name]
