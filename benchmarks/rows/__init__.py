"""The rows: name → the function that measures it. It gets a run's ``Bench`` and adds to its results.

``WRITES`` begin with no stacks, ``STANDING`` with the full number of them, ``POOLS`` with full pools, ``BURSTS`` also
with larger pools. ``SCALE`` is measured once.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.rows.bench import Bench
from benchmarks.rows.fairness import burst, holds, long_list, slow_readers
from benchmarks.rows.peer import beside_peer
from benchmarks.rows.pools import give_alone, give_bursts, give_steadily, pools_idle
from benchmarks.rows.reads import busy_status, list_all, status
from benchmarks.rows.scale import scale
from benchmarks.rows.standing import idle, restart
from benchmarks.rows.writes import create_alone, create_together, delete_many

Row = Callable[[Bench], None]

WRITES: dict[str, Row] = {
    "create": create_alone,
    "create20": create_together,
    "delete": delete_many,
    "peer": beside_peer,
}
STANDING: dict[str, Row] = {
    "status": status,
    "busy": busy_status,
    "list": list_all,
    "burst": burst,
    "idle": idle,
    "restart": restart,
}
POOLS: dict[str, Row] = {"give": give_alone, "steady": give_steadily, "poolsidle": pools_idle}
BURSTS: dict[str, Row] = {"bursts": give_bursts}
SCALE: dict[str, Row] = {"scale": scale, "longlist": long_list, "slowreaders": slow_readers, "holds": holds}
ALL = (*WRITES, *STANDING, *POOLS, *BURSTS, *SCALE)
"""The names, in the order in which they are run."""

__all__ = ["ALL", "BURSTS", "POOLS", "SCALE", "STANDING", "WRITES", "Bench", "Row"]
