"""Creates with spare Services beside the raw client's: alone, many at once, at a pace, and in one second.

A second daemon on the same cluster has no spares, so that both are measured in the same run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.arena import BODY, Bench, Daemon
from benchmarks.results import Goal, milliseconds

KEPT = 200
SETTINGS = {
    "STACKD_STACKS__SPARE_SERVICES": str(KEPT),
    "STACKD_STACKS__NODE_PORT_MIN": "31001",
    "STACKD_STACKS__NODE_PORT_MAX": "31900",
}
WITHOUT = {
    "STACKD_STACKS__SPARE_SERVICES": "0",
    "STACKD_STACKS__NODE_PORT_MIN": "31901",
    "STACKD_CLUSTER__INSTANCE": "bench-plain",
}
FILL_SECONDS, REST_SECONDS = 120.0, 1.0
CASES: dict[str, dict[str, float]] = {
    "one at a time": {"count": 40, "connections": 1, "rate": 8},
    "20 at once": {"count": 160, "connections": 20},
    "200 in 10 s": {"count": 200, "connections": 40, "rate": 20},
    "200 in 1 s": {"count": 200, "connections": 200, "rate": 200},
}
# How much later than the raw client's stacks ours may run, by share.
BOUNDS = {"200 in 10 s": {0.5: 1.05, 0.95: 1.0}, "200 in 1 s": {0.5: 0.8, 0.95: 1.0}}


@dataclass(slots=True)
class Side:
    """What one side has done: the seconds until each answer and until each stack ran, and those of all turns."""

    latencies: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0

    def add(self, done: dict[str, Any], cpu: float) -> None:
        self.latencies += done["latencies"]
        self.ready += done["ready"]
        self.seconds += done["seconds"]
        self.cpu += cpu

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds


def spares(bench: Bench) -> None:
    """Each case in turn by the raw client, with spares and without; who is first changes from turn to turn."""
    _filled(bench.daemon, KEPT)
    with _plain(bench) as plain:
        for case, plan in CASES.items():
            sides = Side(), Side(), Side()
            for turn in range(3 * bench.amounts.turns):
                which = (turn + turn // 3) % 3
                if which == 0:
                    sides[which].add(*_raw(bench, plan))
                else:
                    sides[which].add(*_ours((bench.daemon, plain)[which - 1], plan, KEPT if which == 1 else 0))
            _report(bench, case, *sides)


def _report(bench: Bench, case: str, raw: Side, kept: Side, none: Side) -> None:
    add = bench.results.add
    for side, name in ((kept, "spares"), (none, "no spares")):
        has, row = side is kept, f"{case}, {name}"
        if case == "one at a time":
            goal = Goal(row, "answer, p50 to the raw pod + service + watch", 1.0 if has else 1.4)
            add(goal, milliseconds(side.latencies, 0.5), milliseconds(raw.latencies, 0.5), of="ms")
        elif case == "20 at once":
            goal = Goal(row, "throughput to the raw one", 1.4 if has else 0.8, at_most=False)
            add(goal, side.rate, raw.rate, of="/s")
        for share, bound in BOUNDS.get(case, {}).items():
            p = f"p{share * 100:g}"
            goal = Goal(f"{row}, to running, {p}", f"{p} to the raw one", bound if has else 1.3)
            add(goal, milliseconds(side.ready, share), milliseconds(raw.ready, share), of="ms")
        bench.results.cost(f"CPU per create, {row}, with the refill (ms)", side.cpu / len(side.latencies) * 1e3)
    bench.results.cost(f"CPU per create, {case}, raw client (ms)", raw.cpu / len(raw.latencies) * 1e3)
    bench.results.draw(case, spares=kept.ready, without=none.ready, floor=raw.ready)


def _raw(bench: Bench, plan: dict[str, float]) -> tuple[dict[str, Any], float]:
    done = bench.floor("create", count=plan["count"], concurrency=plan["connections"], rate=plan.get("rate"))
    bench.floor("delete", names=done["names"])
    time.sleep(REST_SECONDS)
    return done, done["cpu"]


def _ours(daemon: Daemon, plan: dict[str, float], kept: int) -> tuple[dict[str, Any], float]:
    """Creates of one daemon, and its CPU until there are as many spares again; then its stacks are deleted."""
    used = daemon.process.cpu()
    # One connection that waited for each stack to run would begin the next one late.
    done = daemon.load("POST", ["/stacks"], body=BODY, wait=plan["connections"] > 20, **plan)
    daemon.settle()
    _filled(daemon, kept)
    used = daemon.process.cpu() - used
    daemon.delete(daemon.ids())
    time.sleep(REST_SECONDS)
    return done, used


def _filled(daemon: Daemon, kept: int) -> None:
    """Return once there are so many spares."""
    daemon.process.until(lambda: daemon.json("GET", "/stats")["spare_services"] >= kept, FILL_SECONDS, every=1.0)


@contextmanager
def _plain(bench: Bench) -> Iterator[Daemon]:
    """A daemon without spares on the same cluster."""
    with tempfile.TemporaryDirectory(prefix="stackd-bench-") as name:
        daemon = Daemon(Path(name), bench.kubeconfig, WITHOUT)
        try:
            yield daemon
        finally:
            daemon.delete(daemon.ids())
            daemon.process.stop()
