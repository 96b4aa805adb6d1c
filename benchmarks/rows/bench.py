"""What a row gets: the cluster, the daemon, the results to add to, and the amounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks import processes
from benchmarks.arena import NAMESPACE, Cluster, Daemon, Http
from benchmarks.figures import Results


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """How many stacks, requests and seconds each row takes; ``quick`` is for a look, not for numbers to quote."""

    stacks: int = 1700
    creates_alone: int = 100
    creates_together: int = 600
    deletes: int = 1000
    read_seconds: float = 5.0
    idle_seconds: float = 60.0
    burst: int = 200
    holding: int = 2000
    scale: tuple[int, ...] = (10, 100, 1000, 1700, 5000)
    bursts: tuple[int, ...] = (300, 600)
    sizes: tuple[int, ...] = ()
    pool_rate: int = 45
    paced_seconds: float = 60.0

    @property
    def pools(self) -> tuple[int, ...]:
        """The sizes of the pools: the requested ``sizes``, or else each burst and a third of it."""
        return self.sizes or tuple(sorted({size for burst in self.bursts for size in (burst, burst // 3)}))

    @classmethod
    def quick(cls) -> Amounts:
        """Enough to see that it works."""
        return cls(
            stacks=200, creates_alone=30, creates_together=120, deletes=100,
            read_seconds=2.0, idle_seconds=10.0, scale=(10, 100, 500), holding=500, bursts=(60,), paced_seconds=5.0,
        )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Bench:
    """One run on one arena. The names of its figures end with ``suffix``; ``peer`` is another server with this API."""

    cluster: Cluster
    daemon: Daemon
    results: Results
    amounts: Amounts
    suffix: str = ""
    peer: Http | None = None
    _ports: int = 0

    def floor(self, do: str, cpu: int = processes.MEASURED, **plan: Any) -> Any:
        """Let the raw client carry out a plan; returns its result."""
        return processes.ask("benchmarks.floor", self.floor_plan(do, **plan), cpu)

    def floor_plan(self, do: str, **plan: Any) -> dict[str, Any]:
        """A plan for the raw client."""
        first = self._ports
        self._ports += plan.get("count", 0)
        where = {"kubeconfig": self.cluster.kubeconfig, "namespace": NAMESPACE, "first_port": first}
        return {"do": do, **where, **plan}

    def bodies(self, stack_id: str) -> tuple[bytes, bytes]:
        """The bytes for the bare handler's answers: a status and the list."""
        return self.daemon.call("GET", f"/stacks/{stack_id}/status")[1], self.daemon.call("GET", "/stacks")[1]
