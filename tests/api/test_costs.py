"""The cost of each operation, counted and not timed: Kubernetes requests, SQL statements, disk syncs, Python calls."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import stackd
from stackd.timing import COUNT_EVERY_SECONDS
from tests.brakes import running
from tests.harness import KEY, Harness, eventually

GETS = (
    "/healthz", "/stats", "/stacks", "/stacks/{id}", "/stacks/{id}/status", "/reconcile", "/metrics",
    "/stacks/stack-none", "/no/such/route", "/stacks/{id}/status?wait=running", "/capacity",
    "/stacks?label=team=7", "/stacks?limit=5",
)  # fmt: skip
FOLDER = str(Path(stackd.__file__).parent)
MOST_OF_AIOHTTP = 100
"""Python calls outside of stackd for one status read: in aiohttp and the event loop."""

pytestmark = pytest.mark.stackd(reconcile__interval="1h")


@dataclass(slots=True)
class Cost:
    """What was spent within a ``spent`` block; the Kubernetes requests by verb and resource, without those that come with
    time: watches, renewals of the Lease, and the probe of a cluster that has been silent because this machine stalled.
    """

    kubernetes: Counter[tuple[str, str]] = field(default_factory=Counter)
    statements: int = 0
    commits: int = 0
    disk_waits: int = 0


@contextmanager
def spent(at: Harness) -> Iterator[Cost]:
    cost, counters, requests = Cost(), at.store_counters, Counter(at.counts.requests)
    before = (counters.statements, counters.commits, counters.disk_waits)
    yield cost
    for (verb, resource, _), count in (at.counts.requests - requests).items():
        if verb != "watch" and (verb, resource) not in (("update", "leases"), ("get", "namespaces")):
            cost.kubernetes[verb, resource] += count
    after = (counters.statements, counters.commits, counters.disk_waits)
    cost.statements, cost.commits, cost.disk_waits = (b - a for a, b in zip(before, after, strict=True))


async def created(at: Harness, count: int) -> list[str]:
    """The ids of ``count`` new stacks; all of them run, and nothing is left to write."""
    ids = await running(at, count)
    await settled(at)
    return ids


async def settled(at: Harness) -> None:
    """Return when the store has no work and gets none; what a start writes once the clock is trusted is written."""
    seen = -1

    def still() -> bool:
        nonlocal seen
        before, seen = seen, at.store_counters.operations
        return before == seen and not at.is_writing

    await eventually(still)


async def test_a_create_and_a_delete_cost_two_requests_and_two_waits_for_the_disk_each(at: Harness) -> None:
    """Guards the time of a create and the rate of deletes: each further request or disk sync adds to it."""
    await created(at, 1)
    with spent(at) as cost:
        (stack_id,) = await created(at, 1)
    assert cost.kubernetes == {("create", "pods"): 1, ("create", "services"): 1}
    assert cost.disk_waits == 2, "the intent before the cluster is asked, and the stack before it is answered"
    assert (cost.commits <= 4, cost.statements <= 10) == (True, True), "those, and one for each status seen then"
    with spent(at) as cost:
        await at.delete(stack_id)
        await settled(at)
    assert cost.kubernetes == {("delete", "pods"): 1, ("delete", "services"): 1, ("get", "pods/log"): 1}
    assert cost.disk_waits == 2, "the intent, and that it is done; nothing waits for the last log lines"
    assert (cost.commits <= 3, cost.statements <= 8 + 3) == (True, True)


async def test_a_batch_delete_costs_two_deletes_a_stack_and_waits_for_the_disk_by_the_chunk(at: Harness) -> None:
    """Guards the rate of a job with a thousand stacks: to wait for each stack would halve it on a slow disk."""
    ids = await asyncio.gather(*(at.running() for _ in range(60)))
    await settled(at)
    began = time.monotonic()
    with spent(at) as cost:
        assert (await at.finished_job(await at.batch_delete(*ids)))["deleted"] == 60
        await settled(at)
    counted = 2 + (time.monotonic() - began) // COUNT_EVERY_SECONDS
    cost.kubernetes.pop(("get", "namespaces"), None)  # the probe of a silent cluster, if this machine stalls meanwhile
    assert cost.kubernetes == {("delete", "pods"): 60, ("delete", "services"): 60, ("get", "pods/log"): 60}
    assert cost.disk_waits <= 1 + 2 * 2 + counted, "the job, twice for each chunk of fifty, and the counts meanwhile"
    assert cost.statements <= 12 * 60, "each is to be deleted once it is its turn"


async def test_no_read_asks_kubernetes_or_writes(at: Harness) -> None:
    """Guards that reads only read (invariant 6), and that frequent probes of /readyz cost the API server nothing."""
    (stack_id,) = await created(at, 1)
    with spent(at) as cost:
        for path in GETS:
            await at.call("GET", path.replace("{id}", stack_id))
    assert (cost.kubernetes, cost.statements, cost.commits) == ({}, 0, 0)
    with spent(at) as cost:
        await at.timeline(stack_id)
    assert (cost.kubernetes, cost.statements, cost.commits) == ({}, 1, 0)
    with spent(at) as cost:
        await at.get("/readyz")
    assert (cost.kubernetes, cost.statements, cost.commits) == ({}, 1, 1), "it tries the disk each time"


@pytest.mark.stackd(reconcile__interval="100ms")
async def test_reconcile_passes_with_nothing_to_do_cost_nothing(at: Harness) -> None:
    """Guards the idle daemon (12 requests a minute whatever the number of stacks, less than 1 % of a core)."""
    await created(at, 3)
    with spent(at) as cost:
        await at.passes(5)
    assert (cost.kubernetes, cost.statements, cost.commits) == ({}, 0, 0)


async def test_a_status_read_takes_few_steps(at: Harness) -> None:
    """Guards the rate of status reads (0.7 of a bare handler); a timing would depend on the machine."""
    (stack_id,) = await created(at, 1)
    request = f"GET /stacks/{stack_id}/status HTTP/1.1\r\nHost: x\r\nX-API-KEY: {KEY}\r\n\r\n".encode()
    calls, rounds = Counter[str](), 200

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            calls[frame.f_code.co_qualname if frame.f_code.co_filename.startswith(FOLDER) else ""] += 1

    def read(client: socket.socket, times: int) -> None:
        for _ in range(times):
            client.sendall(request)
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")  # it is short enough to arrive in one piece

    with socket.create_connection(("127.0.0.1", at.port)) as client:
        await asyncio.to_thread(read, client, 1)
        sys.setprofile(count)  # for this thread only, which runs the server; the client has its own
        try:
            await asyncio.to_thread(read, client, rounds)
        finally:
            sys.setprofile(None)
    assert calls.pop("") / rounds <= MOST_OF_AIOHTTP
    # watches and scheduled tasks add less than one call per read
    each = {name: round(count / rounds) for name, count in sorted(calls.items())}
    assert sum(each.values()) <= 35, each
