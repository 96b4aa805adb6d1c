"""Beside a peer: the same requests, in turn, to another server that speaks the API, on the same cluster."""

from __future__ import annotations

from benchmarks.arena import Http
from benchmarks.figures import Goal, percentile
from benchmarks.orders import BODY
from benchmarks.rows.bench import Bench

TOGETHER = Goal(name="create, 20 at once, beside the peer", text="creates/s to the peer's", bound=1.0, at_most=False)
LIST = Goal(name="list, beside the peer", text="p50 to the peer's", bound=1.0, at_most=True)
DELETE = Goal(name="delete, one at a time, beside the peer", text="deletes/s to the peer's", bound=1.0, at_most=False)
LISTS = 10


def beside_peer(bench: Bench) -> None:
    """Creates, lists and deletes of the same number of stacks, by stackd and by the peer; nothing without a peer.

    The peer's other stacks stay.
    """
    if bench.peer is None:
        return
    ours, theirs = _turn(bench.daemon, bench.amounts.deletes), _turn(bench.peer, bench.amounts.deletes)
    for goal, one, other, of in zip((TOGETHER, LIST, DELETE), ours, theirs, ("/s", "ms", "/s"), strict=True):
        bench.results.add(goal, one, other, of=of)


def _turn(http: Http, count: int) -> tuple[float, float, float]:
    """Creates a second, the median of a list in milliseconds, and deletes a second."""
    before = set(http.ids())
    created = http.load("POST", ["/stacks"], body=BODY, count=count, connections=20)
    made = sorted(set(http.ids()) - before)
    if len(made) != count:
        raise RuntimeError(f"{len(made)} of {count} were created: {created['statuses']}")
    listed = http.load("GET", ["/stacks"], count=LISTS, connections=1)
    deleted = http.load("DELETE", [f"/stacks/{stack_id}" for stack_id in made], count=count, connections=1)
    return count / created["seconds"], percentile(listed["latencies"], 0.5) * 1e3, count / deleted["seconds"]
