"""The cost of many standing stacks: while idle, and at a restart."""

from __future__ import annotations

import time

from benchmarks.figures import Goal
from benchmarks.rows.bench import Bench

ASKED = Goal(
    name="idle, Kubernetes requests", text="a minute, beside the watches", bound=12.0, at_most=True, unit="/min"
)
CPU = Goal(name="idle, CPU", text="of a core", bound=1.0, at_most=True, unit="%")
RSS = Goal(name="idle, memory", text="resident", bound=150.0, at_most=True, unit="MB")
RESTART = Goal(name="restart", text="from the start to ready", bound=2.0, at_most=True, unit="s")


def idle(bench: Bench) -> None:
    """Requests to Kubernetes, CPU and memory while no client sends a request."""
    bench.daemon.fill(bench.amounts.stacks)
    time.sleep(2.0)
    asked, used, began = bench.daemon.asked_beside_watches(), bench.daemon.usage().cpu, time.perf_counter()
    time.sleep(bench.amounts.idle_seconds)
    usage, seconds = bench.daemon.usage(), time.perf_counter() - began
    asked = bench.daemon.asked_beside_watches() - asked
    note = f"{bench.amounts.stacks} stacks, {bench.amounts.idle_seconds:g} s"
    bench.results.add(ASKED, asked * 60 / seconds, note=note)
    bench.results.add(CPU, (usage.cpu - used) / seconds * 100, note=note)
    bench.results.add(RSS, usage.rss / 1e6, note="after all rows before")


def restart(bench: Bench) -> None:
    """The time of a restart with all stacks in the file and in the cluster."""
    bench.daemon.fill(bench.amounts.stacks)
    bench.results.add(RESTART, bench.daemon.restart(), note=f"{bench.amounts.stacks} stacks, interpreter included")
    bench.results.cost("memory after a restart (MB)", bench.daemon.usage().rss / 1e6)
