"""Creates and deletes beside the raw requests that they consist of. The floor and stackd take turns going first."""

from __future__ import annotations

from typing import Any

from benchmarks.arena import NAMESPACE
from benchmarks.figures import Goal, percentile
from benchmarks.orders import BODY
from benchmarks.rows.bench import Bench

ALONE = Goal(name="create, one at a time", text="p50 to the raw pod + service + watch", bound=1.3, at_most=True)
TOGETHER = Goal(name="create, 20 at once", text="throughput to the raw one", bound=0.9, at_most=False)
DELETE = Goal(name="batch delete, sequential", text="deletes/s to two raw DELETEs in a row", bound=0.9, at_most=False)


def create_alone(bench: Bench) -> None:
    """One create at a time: p50."""
    count = bench.amounts.creates_alone
    floor = bench.floor("create", count=count, concurrency=1)
    ours = _creates(bench, count, 1)
    _add(bench, ALONE, percentile(ours["latencies"], 0.5) * 1e3, percentile(floor["latencies"], 0.5) * 1e3, of="ms")
    bench.results.distribution("create, one at a time" + bench.suffix, "raw", floor["latencies"])
    bench.results.distribution("create, one at a time" + bench.suffix, "stackd", ours["latencies"])
    _forget(bench, floor["names"])


def create_together(bench: Bench) -> None:
    """Twenty at a time: creates a second, and what each costs in CPU."""
    count = bench.amounts.creates_together
    cluster = bench.cluster.cpu()
    floor = bench.floor("create", count=count, concurrency=20)
    cluster_floor = bench.cluster.cpu() - cluster
    used, cluster = bench.daemon.usage().cpu, bench.cluster.cpu()
    ours = _creates(bench, count, 20)
    cluster_ours, used = bench.cluster.cpu() - cluster, bench.daemon.usage().cpu - used
    _add(bench, TOGETHER, count / ours["seconds"], count / floor["seconds"], of="/s")
    bench.results.distribution("create, 20 at once" + bench.suffix, "raw", floor["latencies"])
    bench.results.distribution("create, 20 at once" + bench.suffix, "stackd", ours["latencies"])
    each = 1e3 / count
    bench.results.cost(f"CPU per create, stackd (ms){bench.suffix}", used * each)
    bench.results.cost(f"CPU per create, raw client (ms){bench.suffix}", floor["cpu"] * each)
    if bench.cluster.process is not None:
        bench.results.cost(f"CPU per create, embedded cluster under stackd (ms){bench.suffix}", cluster_ours * each)
        bench.results.cost(f"CPU per create, embedded cluster under the raw client (ms){bench.suffix}", cluster_floor * each)
    _forget(bench, floor["names"])


def delete_many(bench: Bench) -> None:
    """A batch delete, against the raw deletes of as many."""
    count = bench.amounts.deletes
    names = bench.floor("create", count=count, concurrency=20)["names"]
    cluster = bench.cluster.cpu()
    floor = bench.floor("delete", names=names)
    cluster_floor = bench.cluster.cpu() - cluster
    bench.daemon.fill(count)
    ids = bench.daemon.ids()[:count]
    used, cluster = bench.daemon.usage().cpu, bench.cluster.cpu()
    seconds, job = bench.daemon.batch_delete(ids)
    used, cluster_ours = bench.daemon.usage().cpu - used, bench.cluster.cpu() - cluster
    if job["deleted"] != len(ids):
        raise RuntimeError(f"the job did not delete all: {job}")
    _add(bench, DELETE, count / seconds, count / floor["seconds"], of="/s")
    each = 1e3 / count
    bench.results.cost(f"CPU per delete, stackd (ms){bench.suffix}", used * each)
    bench.results.cost(f"CPU per delete, raw client (ms){bench.suffix}", floor["cpu"] * each)
    if bench.cluster.process is not None:
        bench.results.cost(f"CPU per delete, embedded cluster under stackd (ms){bench.suffix}", cluster_ours * each)
        bench.results.cost(f"CPU per delete, embedded cluster under the raw client (ms){bench.suffix}", cluster_floor * each)


def _creates(bench: Bench, count: int, connections: int) -> dict[str, Any]:
    ours: dict[str, Any] = bench.daemon.load("POST", ["/stacks"], body=BODY, count=count, connections=connections)
    if ours["statuses"] != {"201": count}:
        raise RuntimeError(f"not all were created in {NAMESPACE}: {ours['statuses']}")
    bench.daemon.process.until(bench.daemon.settled, 600.0, every=0.1)
    return ours


def _add(bench: Bench, goal: Goal, measured: float, floor: float, *, of: str) -> None:
    named = Goal(name=goal.name + bench.suffix, text=goal.text, bound=goal.bound, at_most=goal.at_most)
    bench.results.add(named, measured, floor, of=of)


def _forget(bench: Bench, names: list[str]) -> None:
    """Take away what the raw client made, and what stackd made meanwhile."""
    bench.floor("delete", names=names)
    if ids := bench.daemon.ids():
        bench.daemon.batch_delete(ids)
