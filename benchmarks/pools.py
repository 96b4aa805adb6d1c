"""Creates from pools: one at a time, at a steady rate, and all at once.

The rates, the bursts and the pools are those of agent-sandbox 1.0's published figures (92 ms median and 376 ms p99 at 45
claims/s; 1.3 to 1.5 s median and 3.2 s p90 in a burst of 300), so that both can be compared.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import yaml
from msgspec import json

from benchmarks.arena import PORTS, Bench
from benchmarks.reads import watch_idle
from benchmarks.results import Goal, milliseconds
from stackd.web.examples import POD_SPEC

POD: dict[str, Any] = yaml.safe_load(POD_SPEC)
STEADY_LIVES = "50s"
"""Time to live of stacks at the steady rate: the stacks of a whole minute would need more node ports than there are."""

PUBLISHED = {("45/s", 0.5): "92 ms", ("45/s", 0.99): "376 ms", ("300", 0.5): "1.3 to 1.5 s", ("300", 0.9): "3.2 s"}
"""What agent-sandbox 1.0 has published, by rate or burst, and share."""

REAL_PORTS = "30001-32767"
"""All node ports of a cluster but one: pools, and the stacks created from them, take many."""

ALONE = Goal("create from a pool, one at a time", "p50", 10.0, "ms")
CPU = Goal("CPU per create from a pool", "without the refill", 0.5, "ms")
IDLE = Goal("idle pools, Kubernetes requests", "a minute, beside the watches", 12.0, "/min")
FILL_SECONDS = 300.0
ROUNDS = 6


def settings(folder: Path, sizes: tuple[int, ...], ports: str | None) -> dict[str, str]:
    """A template for each size of pool, and the settings that name them and the node ports ``FIRST-LAST``."""
    for size in sizes:
        (folder / f"pool-{size}.yaml").write_bytes(json.encode({"target_port": PORTS, "pool": size, "pod": POD}))
    environment = {"STACKD_TEMPLATES__DIRECTORY": str(folder), "STACKD_TEMPLATES__REFILL_PER_SECOND": "60"}
    if ports is not None:
        first, _, last = ports.partition("-")
        environment |= {"STACKD_STACKS__NODE_PORT_MIN": first, "STACKD_STACKS__NODE_PORT_MAX": last}
    return environment


def give_alone(bench: Bench) -> None:
    """One create at a time: p50. Also the time to running with and without a pool."""
    _filled(bench)
    ours: list[float] = []
    count = bench.amounts.creates_alone // ROUNDS
    for _ in range(ROUNDS):
        ours += _load(bench, min(bench.amounts.pools), count=count, connections=1)["latencies"]
        _delete_all(bench)
    bench.results.add(ALONE, milliseconds(ours, 0.5))
    bench.results.draw(ALONE.name, stackd=ours)
    bench.results.cost("create to running, from a pool, p50 (ms)", milliseconds(ours, 0.5))
    bench.results.cost("create to running, without a pool, p50 (ms)", milliseconds(_cold(bench, count), 0.5))
    _delete_all(bench)


def give_steadily(bench: Bench) -> None:
    """Creates at a steady rate for a while: p50, p99, and how many were answered with a running stack."""
    rate, seconds = bench.amounts.pool_rate, bench.amounts.paced_seconds
    for size in bench.amounts.pools:
        _filled(bench)
        result = _load(bench, size, rate=rate, seconds=seconds, connections=200, ttl=STEADY_LIVES)
        _add(bench, size, f"{rate}/s", result, {0.5: 10.0, 0.99: 40.0})
        _delete_all(bench)


def give_bursts(bench: Bench) -> None:
    """Creates all at once, from pools of the burst's size and of a third of it: p50, p90."""
    cpu = bench.daemon.process.cpu
    for burst in bench.amounts.bursts:
        for size in (burst, burst // 3):
            _filled(bench)
            used = cpu()
            result = _load(bench, size, count=burst, connections=burst, cpu_of=bench.daemon.process.pid)
            if size == burst:
                bench.results.add(CPU, result["cpu"] / burst * 1e3)  # the refill begins when the burst is over
                _filled(bench)
                bench.results.cost("CPU per create from a pool, with its refill (ms)", (cpu() - used) / burst * 1e3)
            _add(bench, size, str(burst), result, {0.5: 150.0, 0.9: 400.0} if size == burst == 300 else {0.9: 5000.0})
            _delete_all(bench)


def pools_idle(bench: Bench) -> None:
    """Requests to Kubernetes while the pools are full and no client sends a request."""
    _filled(bench)
    watch_idle(bench, IDLE, f"{sum(bench.amounts.pools)} wait")


def _add(bench: Bench, size: int, pace: str, result: Any, bounds: dict[float, float]) -> None:
    running = sum('"status":"running"' in body for body in result["bodies"])
    name = f"create from a pool of {size}, {pace}{'' if '/' in pace else ' at once'}"
    for share, bound in bounds.items():
        published = f"; agent-sandbox 1.0: {PUBLISHED[pace, share]}" if (pace, share) in PUBLISHED else ""
        note = f"{running} of {len(result['bodies'])} answered with a running stack{published}"
        goal = Goal(f"{name}, p{share * 100:g}", "to a running stack", bound, "ms")
        bench.results.add(goal, milliseconds(result["latencies"], share), note=note)
    bench.results.draw(name, stackd=result["latencies"])


def _load(bench: Bench, size: int, ttl: str = "2h", **plan: Any) -> Any:
    body = json.encode({"template": f"pool-{size}", "ttl": ttl}).decode()
    return bench.daemon.load("POST", ["/stacks"], body=body, keep=True, **plan)


def _cold(bench: Bench, count: int) -> list[float]:
    """Seconds from a create without a pool until the stack runs."""
    seconds = []
    for number in range(count):
        spec = POD | {"metadata": {"name": f"cold-{number}"}}
        body = {"target_port": PORTS, "pod_spec": json.encode(spec).decode()}
        began = time.perf_counter()
        stack_id = bench.daemon.json("POST", "/stacks", body)["stack_id"]
        bench.daemon.json("GET", f"/stacks/{stack_id}/status?wait=running")
        seconds.append(time.perf_counter() - began)
    return seconds


def _delete_all(bench: Bench) -> None:
    """Delete the created stacks, and wait until the pools are full."""
    bench.daemon.delete(bench.daemon.ids())
    _filled(bench)


def _filled(bench: Bench) -> None:
    def filled() -> bool:
        return all(one["ready"] >= one["pool"] for one in bench.daemon.json("GET", "/templates")["templates"])

    bench.daemon.process.until(filled, FILL_SECONDS, every=0.1)
