"""Status reads and the list beside a bare handler that answers the same bytes; and the cost of standing stacks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks import processes
from benchmarks.arena import BODY, Bench, Http
from benchmarks.processes import LOADING
from benchmarks.results import Goal, milliseconds

CONNECTIONS = 32
CREATES_PER_SECOND = 20
STATUS = Goal("status reads", "requests/s to the bare handler's", 0.5, at_most=False)
BUSY = Goal("status reads while 20 creates/s run", "the same, both beside 20 creates/s", 0.5, at_most=False)
LIST = Goal("list", "time to the bare handler's for the same bytes", 2.0)
LIST_CALLS = Goal("list, Kubernetes calls", "requests while listing", 0.0)
ASKED = Goal("idle, Kubernetes requests", "a minute, beside the watches", 12.0, "/min")
CPU = Goal("idle, CPU", "of a core", 1.0, "%")
RSS = Goal("idle, memory", "resident", 150.0, "MB")
LAG = Goal("loop lag while listing, most", "nothing rendered yet", 20.0, "ms")
RESTART = Goal("restart", "from the start to ready", 2.0, "s")


def status_paths(ids: Sequence[str]) -> list[str]:
    return [f"/stacks/{stack_id}/status" for stack_id in ids]


def status(bench: Bench) -> None:
    ids = bench.daemon.fill(bench.amounts.stacks)
    with bench.bare(ids[0]) as (handler, url):
        used, floor_used = bench.daemon.process.cpu(), handler.cpu()
        ours, floor = _take_turns(bench, url, status_paths(ids), CONNECTIONS)
        used, floor_used = bench.daemon.process.cpu() - used, handler.cpu() - floor_used
    bench.results.cost("CPU per status read, stackd (µs)", used / len(ours["latencies"]) * 1e6)
    bench.results.cost("CPU per status read, bare handler (µs)", floor_used / len(floor["latencies"]) * 1e6)
    _compare(bench, STATUS, ours, floor)


def busy_status(bench: Bench) -> None:
    """Status reads during creates. The bare handler is read while the raw client creates as many."""
    ids, seconds = bench.daemon.fill(bench.amounts.stacks), bench.amounts.read_seconds
    count = round(CREATES_PER_SECOND * (seconds + 1))
    raw_creating = bench.floor_plan("create", count=count, concurrency=8, rate=CREATES_PER_SECOND)
    creating = bench.daemon.plan("POST", ["/stacks"], body=BODY, count=count, connections=8, rate=CREATES_PER_SECOND)
    with bench.bare(ids[0]) as (_, url):
        raw = processes.begin("benchmarks.floor", raw_creating, LOADING)
        floor = _read(Http(url, ""), status_paths(ids), CONNECTIONS, seconds)
        bench.floor("delete", names=raw()["names"])
    creates = processes.begin("benchmarks.loader", creating, LOADING)
    ours = _read(bench.daemon, status_paths(ids), CONNECTIONS, seconds)
    done = creates()
    if done["statuses"] != {"201": count}:
        raise RuntimeError(f"not all were created: {done['statuses']}")
    _compare(bench, BUSY, ours, floor)
    bench.results.cost("create beside status reads that saturate, p50 (ms)", milliseconds(done["latencies"], 0.5))
    bench.daemon.delete(bench.daemon.ids()[bench.amounts.stacks :])


def list_all(bench: Bench) -> None:
    """The list of all stacks with one reader, and the number of requests to Kubernetes meanwhile."""
    ids = bench.daemon.fill(bench.amounts.stacks)
    asked = bench.daemon.asked()
    with bench.bare(ids[0]) as (_, url):
        ours, floor = (milliseconds(side["latencies"], 0.5) for side in _take_turns(bench, url, ["/stacks"], 1))
    bench.results.add(LIST_CALLS, bench.daemon.asked() - asked)
    bench.results.add(LIST, ours, floor, of="ms", note=f"{len(ids)} stacks, p50")


def _take_turns(bench: Bench, url: str, paths: Sequence[str], connections: int) -> tuple[Any, Any]:
    """Read from the daemon and from the bare handler at ``url`` in turn, about a second each."""
    floor: dict[str, Any] = {"latencies": [], "seconds": 0.0}
    ours = {"latencies": [], "seconds": 0.0}
    for _ in range(max(1, round(bench.amounts.read_seconds))):
        for side, http in ((floor, Http(url, "")), (ours, bench.daemon)):
            done = _read(http, paths, connections, 1.0)
            side |= {part: side[part] + done[part] for part in side}
    return ours, floor


def _read(http: Http, paths: Sequence[str], connections: int, seconds: float) -> Any:
    return http.load("GET", paths, connections=connections, seconds=seconds)


def _compare(bench: Bench, goal: Goal, ours: Any, floor: Any) -> None:
    note = f"{CONNECTIONS} connections"
    rates = (len(side["latencies"]) / side["seconds"] for side in (ours, floor))
    bench.results.add(goal, *rates, of="/s", note=note)
    tails = (milliseconds(side["latencies"], 0.99) for side in (ours, floor))
    bench.results.add(Goal(f"{goal.name}, p99", "p99 to the bare one's", 5.0), *tails, of="ms", note=note)
    bench.results.draw(goal.name, stackd=ours["latencies"], floor=floor["latencies"])


def idle(bench: Bench) -> None:
    """Requests to Kubernetes, CPU and memory while no client sends a request."""
    bench.daemon.fill(bench.amounts.stacks)
    used = bench.daemon.process.cpu()
    minutes = watch_idle(bench, ASKED, f"{bench.amounts.stacks} stacks")
    bench.results.add(CPU, (bench.daemon.process.cpu() - used) / minutes / 60 * 100)
    bench.results.add(RSS, bench.daemon.process.memory() / 1e6, note="after all rows before")


def watch_idle(bench: Bench, goal: Goal, note: str) -> float:
    """Add the requests to Kubernetes in a minute without requests of clients; returns the minutes."""
    time.sleep(2.0)
    asked, began = bench.daemon.asked(), time.perf_counter()
    time.sleep(bench.amounts.idle_seconds)
    minutes = (time.perf_counter() - began) / 60
    bench.results.add(goal, (bench.daemon.asked() - asked) / minutes, note=note)
    return minutes


def restart(bench: Bench) -> None:
    """The time of a restart with all stacks in the file and in the cluster."""
    bench.daemon.fill(bench.amounts.stacks)
    bench.results.add(RESTART, bench.daemon.restart(), note=f"{bench.amounts.stacks} stacks, interpreter included")
    bench.results.cost("memory after a restart (MB)", bench.daemon.process.memory() / 1e6)


def scale(bench: Bench) -> None:
    """The cost of operations with ten stacks and with thousands: it should grow with the size of the answer at most."""
    daemon, at_scale = bench.daemon, bench.results.at_scale
    seconds = min(2.0, bench.amounts.read_seconds)
    for stacks in bench.amounts.scale:
        ids, used = daemon.fill(stacks), daemon.process.cpu()
        reads = _read(daemon, status_paths(ids), CONNECTIONS, seconds)["latencies"]
        at_scale("CPU per status read (µs)", stacks, (daemon.process.cpu() - used) / max(1, len(reads)) * 1e6)
        lists = _read(daemon, ["/stacks"], 1, seconds)["latencies"]
        at_scale("list per stack (µs)", stacks, milliseconds(lists, 0.5) / stacks * 1e3)
        done = daemon.load("POST", ["/stacks"], body=BODY, count=30, connections=1)
        at_scale("create, p50 (ms)", stacks, milliseconds(done["latencies"], 0.5))
        daemon.delete(daemon.ids()[stacks:])
        at_scale("restart (s)", stacks, daemon.restart())
        daemon.longest_lag()
        time.sleep(0.5)
        daemon.longest_lag()
        daemon.call("GET", "/stacks")
        lag = daemon.longest_lag()[0] * 1e3
        at_scale("memory (MB)", stacks, daemon.process.memory() / 1e6)
        if stacks == bench.amounts.scale[-1]:
            bench.results.add(LAG, lag, note=f"{stacks} stacks, first list after a start")
