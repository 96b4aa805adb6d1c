"""The cost of operations with ten stacks and with thousands: it should grow with the size of the answer at most."""

from __future__ import annotations

from benchmarks import wrk
from benchmarks.arena import KEY
from benchmarks.figures import percentile
from benchmarks.orders import BODY
from benchmarks.rows.bench import Bench
from benchmarks.rows.reads import CONNECTIONS, status_paths


def scale(bench: Bench) -> None:
    """Measure one point of each line for each number of stacks."""
    for stacks in bench.amounts.scale:
        ids = bench.daemon.fill(stacks)
        _reads(bench, stacks, ids)
        done = bench.daemon.load("POST", ["/stacks"], body=BODY, count=30, connections=1, keep=True)
        bench.results.at_scale("create, p50 (ms)", stacks, percentile(done["latencies"], 0.5) * 1e3)
        bench.daemon.batch_delete(bench.daemon.ids()[stacks:])
        bench.results.at_scale("restart (s)", stacks, bench.daemon.restart())
        bench.daemon.call("GET", "/stacks")
        bench.results.at_scale("memory (MB)", stacks, bench.daemon.usage().rss / 1e6)


def _reads(bench: Bench, stacks: int, ids: list[str]) -> None:
    seconds = min(2.0, bench.amounts.read_seconds)
    used = bench.daemon.usage().cpu
    reads = wrk.read(bench.daemon.url, status_paths(ids), KEY, connections=CONNECTIONS, seconds=seconds)
    used = bench.daemon.usage().cpu - used
    bench.results.at_scale("CPU per status read (µs)", stacks, used / max(1, reads.requests) * 1e6)
    lists = wrk.read(bench.daemon.url, ["/stacks"], KEY, connections=1, seconds=seconds)
    bench.results.at_scale("list per stack (µs)", stacks, lists.at(0.5) / stacks * 1e6)
