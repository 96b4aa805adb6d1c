"""The rows: name → what is measured. Each gets a run's ``Bench`` and adds to its results.

``WRITES`` begin with no stacks, ``STANDING`` with the full number of them; ``SCALE`` is measured once.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.rows.bench import Bench
from benchmarks.rows.fairness import burst, long_list, slow_readers
from benchmarks.rows.reads import busy_status, list_all, status
from benchmarks.rows.scale import scale
from benchmarks.rows.standing import idle, restart
from benchmarks.rows.writes import create_alone, create_together, delete_many

Row = Callable[[Bench], None]

WRITES: dict[str, Row] = {"create": create_alone, "create20": create_together, "delete": delete_many}
STANDING: dict[str, Row] = {
    "status": status,
    "busy": busy_status,
    "list": list_all,
    "burst": burst,
    "idle": idle,
    "restart": restart,
}
SCALE: dict[str, Row] = {"scale": scale, "longlist": long_list, "slowreaders": slow_readers}
ALL = (*WRITES, *STANDING, *SCALE)
"""The names, in the order in which they are run."""

__all__ = ["ALL", "SCALE", "STANDING", "WRITES", "Bench", "Row"]
