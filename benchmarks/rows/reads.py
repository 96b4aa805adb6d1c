"""Status reads and the list, beside a bare handler that answers the same bytes. Both have the same CPU, in turn."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import processes, wrk
from benchmarks.arena import KEY, bare
from benchmarks.figures import Goal, percentile
from benchmarks.orders import BODY
from benchmarks.processes import LOADING
from benchmarks.rows.bench import Bench

CONNECTIONS = 32
CREATES_PER_SECOND = 20
STATUS = Goal(name="status reads", text="requests/s to the bare handler's", bound=0.7, at_most=False)
STATUS_TAIL = Goal(name="status reads, p99", text="p99 to the bare handler's", bound=5.0, at_most=True)
BUSY = Goal(
    name="status reads while 20 creates/s run", text="the same, both beside 20 creates/s", bound=0.7, at_most=False
)
BUSY_TAIL = Goal(name="status reads while 20 creates/s run, p99", text="p99 to the bare one's", bound=5.0, at_most=True)
LIST = Goal(name="list", text="time to the bare handler's for the same bytes", bound=2.0, at_most=True)
LIST_CALLS = Goal(name="list, Kubernetes calls", text="requests while listing", bound=0.0, at_most=True)


def status_paths(ids: Sequence[str]) -> list[str]:
    """The paths of the stacks' statuses."""
    return [f"/stacks/{stack_id}/status" for stack_id in ids]


def status(bench: Bench) -> None:
    """Status reads over 32 connections."""
    ids = bench.daemon.fill(bench.amounts.stacks)
    with bare(*bench.bodies(ids[0])) as handler:
        used, floor_used = bench.daemon.usage().cpu, handler.usage().cpu
        ours, floor = _take_turns(bench, handler.url, status_paths(ids), CONNECTIONS)
        used, floor_used = bench.daemon.usage().cpu - used, handler.usage().cpu - floor_used
    bench.results.cost("CPU per status read, stackd (µs)", used / ours.requests * 1e6)
    bench.results.cost("CPU per status read, bare handler (µs)", floor_used / floor.requests * 1e6)
    _add(bench, STATUS, STATUS_TAIL, ours, floor)
    bench.results.distribution(STATUS.name, "bare handler", floor.latencies)
    bench.results.distribution(STATUS.name, "stackd", ours.latencies)


def busy_status(bench: Bench) -> None:
    """Status reads during creates. The bare handler is read while the raw client creates as many."""
    ids = bench.daemon.fill(bench.amounts.stacks)
    paths, seconds = status_paths(ids), bench.amounts.read_seconds
    count = round(CREATES_PER_SECOND * (seconds + 1))
    creating = bench.daemon.plan("POST", ["/stacks"], body=BODY, count=count, connections=8, rate=CREATES_PER_SECOND)
    raw_creating = bench.floor_plan("create", count=count, concurrency=8, rate=CREATES_PER_SECOND)
    with bare(*bench.bodies(ids[0])) as handler:
        raw = processes.begin("benchmarks.floor", raw_creating, LOADING)
        floor = wrk.read(handler.url, paths, KEY, connections=CONNECTIONS, seconds=seconds)
        bench.floor("delete", names=raw()["names"])
    creates = processes.begin("benchmarks.loader", creating, LOADING)
    ours = wrk.read(bench.daemon.url, paths, KEY, connections=CONNECTIONS, seconds=seconds)
    done = creates()
    if done["statuses"] != {"201": count}:
        raise RuntimeError(f"not all were created: {done['statuses']}")
    _add(bench, BUSY, BUSY_TAIL, ours, floor)
    bench.results.distribution(BUSY.name, "bare handler", floor.latencies)
    bench.results.distribution(BUSY.name, "stackd", ours.latencies)
    bench.results.cost("create beside status reads that saturate, p50 (ms)", percentile(done["latencies"], 0.5) * 1e3)
    bench.daemon.batch_delete(bench.daemon.ids()[bench.amounts.stacks :])


def list_all(bench: Bench) -> None:
    """The list of all stacks with one reader, and the number of requests to Kubernetes meanwhile."""
    ids = bench.daemon.fill(bench.amounts.stacks)
    asked = bench.daemon.asked_beside_watches()
    with bare(*bench.bodies(ids[0])) as handler:
        ours, floor = _take_turns(bench, handler.url, ["/stacks"], 1)
    asked = bench.daemon.asked_beside_watches() - asked
    bench.results.add(LIST, ours.at(0.5) * 1e3, floor.at(0.5) * 1e3, of="ms", note=f"{len(ids)} stacks, p50")
    bench.results.add(LIST_CALLS, asked)


def _take_turns(bench: Bench, url: str, paths: Sequence[str], connections: int) -> tuple[wrk.Reads, wrk.Reads]:
    """Read from the bare handler at ``url`` and from the daemon in turn, about a second each."""
    rounds = max(1, round(bench.amounts.read_seconds))
    seconds = bench.amounts.read_seconds / rounds
    ours: list[wrk.Reads] = []
    floor: list[wrk.Reads] = []
    for _ in range(rounds):
        floor.append(wrk.read(url, paths, KEY, connections=connections, seconds=seconds))
        ours.append(wrk.read(bench.daemon.url, paths, KEY, connections=connections, seconds=seconds))
    return wrk.together(ours), wrk.together(floor)


def _add(bench: Bench, rate: Goal, tail: Goal, ours: wrk.Reads, floor: wrk.Reads) -> None:
    if ours.failed or floor.failed:
        raise RuntimeError(f"{ours.failed} and {floor.failed} reads failed")
    note = f"{CONNECTIONS} connections, {ours.tool}"
    bench.results.add(rate, ours.per_second, floor.per_second, of="/s", note=note)
    bench.results.add(tail, ours.at(0.99) * 1e3, floor.at(0.99) * 1e3, of="ms", note=note)
