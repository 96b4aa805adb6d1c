"""Creates and deletes beside the raw requests for the same work, and beside a peer."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.arena import BODY, Bench, Http
from benchmarks.results import Goal, milliseconds

ALONE = Goal("create, one at a time", "p50 to the raw pod + service + watch", 1.3)
TOGETHER = Goal("create, 20 at once", "throughput to the raw one", 0.9, at_most=False)
DELETE = Goal("batch delete, sequential", "deletes/s to two raw DELETEs in a row", 0.9, at_most=False)
BESIDE_PEER = (
    (Goal("create, 20 at once, beside the peer", "creates/s to the peer's", 1.0, at_most=False), "/s"),
    (Goal("list, beside the peer", "p50 to the peer's", 1.0), "ms"),
    (Goal("delete, one at a time, beside the peer", "deletes/s to the peer's", 1.0, at_most=False), "/s"),
)


@dataclass(slots=True)
class Side:
    """The creates of stackd or of the raw client: latencies, seconds in all, CPU seconds, also of the cluster."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0
    cluster: float = 0.0


def create_alone(bench: Bench) -> None:
    ours, floor = _take_turns(bench, bench.amounts.creates_alone, 1, rounds=6)
    bench.results.add(ALONE, milliseconds(ours.latencies, 0.5), milliseconds(floor.latencies, 0.5), of="ms")
    bench.results.draw(ALONE.name, stackd=ours.latencies, floor=floor.latencies)


def create_together(bench: Bench) -> None:
    """Twenty creates at a time: creates a second, and the CPU of each."""
    ours, floor = _take_turns(bench, bench.amounts.creates_together, 20, rounds=4)
    rates = (len(side.latencies) / side.seconds for side in (ours, floor))
    bench.results.add(TOGETHER, *rates, of="/s")
    bench.results.draw(TOGETHER.name, stackd=ours.latencies, floor=floor.latencies)
    for name, side in (("stackd", ours), ("raw client", floor)):
        bench.results.cost(f"CPU per create, {name} (ms)", side.cpu / len(side.latencies) * 1e3)
        if bench.cluster is not None:
            bench.results.cost(f"CPU per create, cluster under {name} (ms)", side.cluster / len(side.latencies) * 1e3)


def delete_many(bench: Bench) -> None:
    """A batch delete, and raw deletes of the same number: half of them before it, half after."""
    count = bench.amounts.deletes // (4 if bench.results.suffix else 1)  # with a latency they take long
    names = bench.floor("create", count=count, concurrency=20)["names"]
    ids = bench.daemon.fill(count)[:count]
    before = bench.floor("delete", names=names[: count // 2])
    used = bench.daemon.process.cpu()
    seconds = bench.daemon.delete(ids)
    used = bench.daemon.process.cpu() - used
    after = bench.floor("delete", names=names[count // 2 :])
    bench.results.add(DELETE, count / seconds, count / (before["seconds"] + after["seconds"]), of="/s")
    bench.results.cost("CPU per delete, stackd (ms)", used / count * 1e3)
    bench.results.cost("CPU per delete, raw client (ms)", (before["cpu"] + after["cpu"]) / count * 1e3)


def _take_turns(bench: Bench, count: int, concurrency: int, *, rounds: int) -> tuple[Side, Side]:
    """stackd and the floor in turn, each first every other time; deletes everything at the end.

    So both are equally affected by other load on the machine, and by the cluster's remaining work after the other's
    turn.
    """
    ours, floor, names = Side(), Side(), []
    for turn in range(2 * rounds):
        raw = turn % 4 in (0, 3)
        side = floor if raw else ours
        used, cluster = bench.daemon.process.cpu(), _cluster_cpu(bench)
        if raw:
            done = bench.floor("create", count=count // rounds, concurrency=concurrency)
            names += done["names"]
            side.cpu += done["cpu"]
        else:
            done = bench.daemon.load("POST", ["/stacks"], body=BODY, count=count // rounds, connections=concurrency)
            bench.daemon.settle()
            side.cpu += bench.daemon.process.cpu() - used
        side.cluster += _cluster_cpu(bench) - cluster
        side.seconds += done["seconds"]
        side.latencies += done["latencies"]
    bench.floor("delete", names=names)
    bench.daemon.delete(bench.daemon.ids())
    return ours, floor


def _cluster_cpu(bench: Bench) -> float:
    return bench.cluster.cpu() if bench.cluster is not None else 0.0


def beside_peer(bench: Bench) -> None:
    """Creates, lists and deletes of the same number of stacks, by stackd and by the peer; nothing without a peer."""
    if bench.peer is not None:
        ours, theirs = (_turn(server, bench.amounts.deletes) for server in (bench.daemon, bench.peer))
        for (goal, of), one, other in zip(BESIDE_PEER, ours, theirs, strict=True):
            bench.results.add(goal, one, other, of=of)


def _turn(http: Http, count: int) -> tuple[float, float, float]:
    """Creates a second, the median of a list in milliseconds, and deletes a second. Other stacks stay."""
    before = set(http.ids())
    created = http.load("POST", ["/stacks"], body=BODY, count=count, connections=20)
    paths = [f"/stacks/{stack_id}" for stack_id in sorted(set(http.ids()) - before)]
    listed = http.load("GET", ["/stacks"], count=10, connections=1)
    deleted = http.load("DELETE", paths, count=count, connections=1)
    return count / created["seconds"], milliseconds(listed["latencies"], 0.5), count / deleted["seconds"]
