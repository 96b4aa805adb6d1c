"""Creates from pools: one at a time, at a steady rate, and all at once.

The rates, the bursts and the pools are those of agent-sandbox 1.0's published figures (92 ms median and 376 ms p99 at 45
claims/s; 1.3 to 1.5 s median and 3.2 s p90 in a burst of 300), so that both can be compared.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import orjson

from benchmarks.figures import Goal, percentile
from benchmarks.orders import POD
from benchmarks.rows.bench import Bench

CPU = Goal(name="CPU per create from a pool", text="without the refill", bound=0.5, at_most=True, unit="ms")
STEADY_LIVES = "50s"
"""Time to live of stacks at the steady rate: the stacks of a whole minute would need more node ports than there are."""

PUBLISHED = {"steady p50": "92 ms", "steady p99": "376 ms", "burst p50": "1.3 to 1.5 s", "burst p90": "3.2 s"}
PUBLISHED_RATE, PUBLISHED_BURST = 45, 300
"""The rate (claims/s) and the burst for which agent-sandbox 1.0 has published figures."""

REAL_PORTS = "30001-32767"
"""All node ports of a cluster but one: pools, and the stacks created from them, take many."""

ALONE = Goal(name="create from a pool, one at a time", text="p50", bound=10.0, at_most=True, unit="ms")
PACED = "create from a pool of {pool}, {rate}/s"
BURST = "create from a pool of {pool}, {burst} at once"
IDLE = Goal(
    name="idle pools, Kubernetes requests", text="a minute, beside the watches", bound=12.0, at_most=True, unit="/min"
)
FILL_SECONDS = 300.0
ROUNDS = 6


def settings(folder: Path, sizes: tuple[int, ...]) -> dict[str, str]:
    """A template for each size of pool, and the settings that name them."""
    for size in sizes:
        template = {"target_port": [{"container_port": 80, "protocol": "TCP"}], "pool": size, "pod": POD}
        (folder / f"pool-{size}.yaml").write_bytes(orjson.dumps(template))
    return {"STACKD_TEMPLATES__DIRECTORY": str(folder), "STACKD_TEMPLATES__REFILL_PER_SECOND": "60"}


def node_port_settings(ports: str) -> dict[str, str]:
    """The settings for node ports `FIRST-LAST`."""
    first, last = ports.split("-")
    return {"STACKD_STACKS__NODE_PORT_MIN": first, "STACKD_STACKS__NODE_PORT_MAX": last}


def give_alone(bench: Bench) -> None:
    """One create at a time: p50. Also the time to running with and without a pool."""
    size = min(bench.amounts.pools)
    _filled(bench)
    ours: list[float] = []
    count = bench.amounts.creates_alone // ROUNDS
    for _ in range(ROUNDS):
        ours += _load(bench, size, count=count, connections=1)["latencies"]
        _again(bench)
    bench.results.add(ALONE, percentile(ours, 0.5) * 1e3)
    bench.results.distribution(ALONE.name, "stackd", ours)
    bench.results.cost("create to running, from a pool, p50 (ms)", percentile(ours, 0.5) * 1e3)
    bench.results.cost("create to running, without a pool, p50 (ms)", percentile(_cold(bench, count), 0.5) * 1e3)
    _again(bench)


def give_steadily(bench: Bench) -> None:
    """Creates at a steady rate for a while: p50, p99, and how many were answered with a running stack."""
    for size in bench.amounts.pools:
        _filled(bench)
        rate = bench.amounts.pool_rate
        seconds = bench.amounts.paced_seconds
        made = _load(bench, size, rate=rate, seconds=seconds, connections=200, body=_body(size, ttl=STEADY_LIVES))
        name = PACED.format(pool=size, rate=rate)
        bounds = (("p50", 0.5, 10.0), ("p99", 0.99, 40.0))
        _say(bench, name, made, bounds)
        for word, share, _ in bounds:
            if rate == PUBLISHED_RATE:
                value = percentile(made["latencies"], share) * 1e3
                bench.results.beside(f"{name}, {word}", value, PUBLISHED[f"steady {word}"])
        _again(bench)


def give_bursts(bench: Bench) -> None:
    """Creates all at once, from pools of the burst's size and of a third of it: p50, p90."""
    for burst in bench.amounts.bursts:
        for size in (burst, burst // 3):
            _filled(bench)
            before, pid = bench.daemon.usage().cpu, bench.daemon.process.pid
            made = _load(bench, size, count=burst, connections=burst, cpu_of=pid)
            if size == burst:
                # the refill begins when the burst is over
                bench.results.add(CPU, made["cpu"] / burst * 1e3)
                _filled(bench)
                used = bench.daemon.usage().cpu - before
                bench.results.cost("CPU per create from a pool, with its refill (ms)", used / burst * 1e3)
            bounds = (("p50", 0.5, 150.0), ("p90", 0.9, 400.0)) if size == burst == 300 else ()
            name = BURST.format(pool=size, burst=burst)
            _say(bench, name, made, bounds or (("p90", 0.9, 5000.0),))
            if burst == PUBLISHED_BURST:
                for word, share in (("p50", 0.5), ("p90", 0.9)):
                    value = percentile(made["latencies"], share) * 1e3
                    bench.results.beside(f"{name}, {word}", value, PUBLISHED[f"burst {word}"])
            _again(bench)


def pools_idle(bench: Bench) -> None:
    """Requests to Kubernetes while the pools are full and no client sends a request."""
    _filled(bench)
    time.sleep(2.0)
    asked, began = bench.daemon.asked_beside_watches(), time.perf_counter()
    time.sleep(bench.amounts.idle_seconds)
    minutes = (time.perf_counter() - began) / 60
    bench.results.add(
        IDLE, (bench.daemon.asked_beside_watches() - asked) / minutes, note=f"{sum(bench.amounts.pools)} wait"
    )


def _say(bench: Bench, name: str, made: dict[str, Any], bounds: tuple[tuple[str, float, float], ...]) -> None:
    running = sum('"status":"running"' in body for body in made["bodies"])
    note = f"{running} of {len(made['bodies'])} answered with a running stack"
    for word, share, bound in bounds:
        goal = Goal(name=f"{name}, {word}", text="to a running stack", bound=bound, at_most=True, unit="ms")
        bench.results.add(goal, percentile(made["latencies"], share) * 1e3, note=note)
    bench.results.distribution(name, "stackd", made["latencies"])


def _body(size: int, **more: str) -> str:
    return orjson.dumps({"template": f"pool-{size}", **more}).decode()


def _load(bench: Bench, size: int, **plan: Any) -> dict[str, Any]:
    plan = {"body": _body(size), "keep": True} | plan
    made: dict[str, Any] = bench.daemon.load("POST", ["/stacks"], **plan)
    if set(made["statuses"]) != {"201"}:
        raise RuntimeError(f"not all were created: {made['statuses']}")
    return made


def _cold(bench: Bench, count: int) -> list[float]:
    """Seconds from a create without a pool until the stack runs."""
    seconds = []
    ports = [{"container_port": 80, "protocol": "TCP"}]
    for number in range(count):
        spec = POD | {"metadata": {"name": f"cold-{number}"}}
        body: dict[str, object] = {"target_port": ports, "pod_spec": orjson.dumps(spec).decode()}
        began = time.perf_counter()
        stack_id = bench.daemon.json("POST", "/stacks", orjson.dumps(body).decode())["stack_id"]
        bench.daemon.json("GET", f"/stacks/{stack_id}/status?wait=running")
        seconds.append(time.perf_counter() - began)
    return seconds


def _again(bench: Bench) -> None:
    """Delete the created stacks, and wait until the pools are full."""
    if ids := bench.daemon.ids():
        bench.daemon.batch_delete(ids)
    _filled(bench)


def _filled(bench: Bench) -> None:
    def filled() -> bool:
        return all(one["ready"] >= one["pool"] for one in bench.daemon.json("GET", "/templates")["templates"])

    bench.daemon.process.until(filled, FILL_SECONDS, every=0.1)
