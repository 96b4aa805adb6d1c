"""The load of one client must not delay others: bursts of creates, long lists, readers that stall."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from dataclasses import replace
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from msgspec import json

from benchmarks import processes
from benchmarks.arena import BODY, KEY, PORTS, Bench
from benchmarks.loader import request
from benchmarks.processes import LOADING
from benchmarks.reads import status_paths
from benchmarks.results import Goal, milliseconds
from stackd.web.examples import POD_SPEC

READS_PER_SECOND = 500
AT_ONCE = 200
STALLED = 50
BURST = Goal("status reads in a burst of creates, p99", f"{AT_ONCE} creates at once", 50.0, "ms")
HOLD = Goal("one request holds the loop", "CPU, the median of five", 20.0, "ms")
STALL = Goal("memory of stalled readers", f"{STALLED} of the longest list", 50.0, "MB")


def burst(bench: Bench) -> None:
    """Status reads at a fixed rate during 200 creates at once."""
    ids = bench.daemon.fill(bench.amounts.stacks)
    reading = bench.daemon.plan("GET", status_paths(ids), connections=32, rate=READS_PER_SECOND, seconds=4.0)
    reads = processes.begin("benchmarks.loader", reading, LOADING)
    time.sleep(1.0)
    done = bench.daemon.load("POST", ["/stacks"], body=BODY, count=AT_ONCE, connections=AT_ONCE)
    latencies = reads()["latencies"]
    note = f"{READS_PER_SECOND} reads/s for 4 s; the burst took {done['seconds']:.1f} s"
    bench.results.add(BURST, milliseconds(latencies, 0.99), note=note)
    bench.results.draw(BURST.name, stackd=latencies)
    bench.daemon.delete(bench.daemon.ids()[bench.amounts.stacks :])


LABELS = "&".join(f"label=a{number}" for number in range(16))
FIELDS = "stack_id,node_id,pod_spec,ports,status,ttl_expires_at,created_at,updated_at,labels,ended,status_message"
LONG_SPEC = POD_SPEC + "\n".join(["", "      env:", *(f"      - {{name: v{n}, value: x}}" for n in range(2000))])
TWICE = "&".join(["label=a"] * 1800)  # as many as a request line may have
READS = (
    f"/stacks?{LABELS}", f"/stacks?{TWICE}", f"/stacks?fields={FIELDS}", f"/stacks?limit=1000&fields={FIELDS}", "/stacks",
    "/stacks?status=creating&status=running&status=stopped&status=failed&fields=stack_id", "/stats", "/metrics",
    "/templates?history=true", "/reconcile", "/capacity",
)  # fmt: skip
REQUESTS: tuple[tuple[str, str, Any], ...] = (
    *(("GET", path, None) for path in READS),
    ("POST", "/capacity", {"target_port": PORTS, "pod_spec": POD_SPEC}),
    ("DELETE", f"/stacks?{LABELS}", None),
    ("POST", "/stacks/batch-delete", {"stack_ids": [f"stack-{number:016x}" for number in range(10_000)]}),
    ("POST", "/stacks", {"target_port": [[]] * 300_000}),
    ("POST", "/stacks?dry_run=true", {"target_port": PORTS, "pod_spec": LONG_SPEC}),
)
"""What a client may ask that costs the most."""


def holds(bench: Bench) -> None:
    """The most CPU that one request uses in one turn of the loop: the others wait for so long."""
    bench.daemon.fill(bench.amounts.holding)
    for method, path, body in REQUESTS:
        used, text = [], None if body is None else json.encode(body).decode()
        for _ in range(5):
            bench.daemon.longest_lag()
            bench.daemon.call(method, path, text)
            used.append(bench.daemon.longest_lag()[1])
        goal = replace(HOLD, name=f"{HOLD.name}: {method} {path[:40]}")
        bench.results.add(goal, median(used) * 1e3, note=f"{bench.amounts.holding} stacks")


def slow_readers(bench: Bench) -> None:
    """Memory for readers that request the longest list, each in another version, and stop reading."""
    stacks = bench.amounts.scale[-1]
    ids = bench.daemon.fill(stacks)
    bench.daemon.call("GET", "/stacks")
    before = bench.daemon.process.memory()
    where = urlsplit(bench.daemon.url)
    with ExitStack() as readers:
        for stack_id in ids[:: len(ids) // STALLED][:STALLED]:
            reader = readers.enter_context(socket.create_connection((where.hostname, where.port)))
            reader.sendall(request(bench.daemon.url, "GET", "/stacks", KEY))
            bench.daemon.call("DELETE", f"/stacks/{stack_id}")
        time.sleep(0.5)
        more = max(0, bench.daemon.process.memory() - before)
    bench.results.add(STALL, more / 1e6, note=f"{stacks} stacks; a stack goes between any two readers")
