"""Named points between every two writes and calls, at which the fault tests kill the process.

Owns: the names. In production the hook is unset and a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

POINTS = (
    "create.before_reserve",
    "create.reserved",
    "create.pod_created",
    "create.service_created",
    "create.route_created",
    "create.scheduled",
    "create.accepted",
    "create.undo_marked",
    "replay.undo_marked",
    "replay.undone",
    "service.port_replaced",
    "service.put",
    "route.put",
    "delete.marked",
    "delete.service_deleted",
    "delete.pod_deleted",
    "delete.route_deleted",
    "delete.confirmed",
    "delete.removed",
    "release.service_changed",
    "release.released",
    "stop.intended",
    "stop.recorded",
    "stop.stopped",
    "restart.intended",
    "restart.recorded",
    "restart.cleared",
    "restart.pod_created",
    "restart.started",
    "extend.extended",
    "extend.recorded",
    "assign.picked",
    "assign.assigned",
    "assign.opened",
    "pool.delete_marked",
    "pool.preempted",
    "expire.marked",
    "batch.queued",
    "batch.begun",
    "batch.confirmed",
    "batch.counted",
    "repair.labels_put_back",
    "orphan.removed",
    "upgrade.config_map_deleted",
    "bring_up.identified",
)

ENVIRONMENT = "STACKD_TEST_CRASH_AT"

hook: Callable[[str], None] | None = None


def crash_point(name: str) -> None:
    """Mark the point ``name``: a fault test may kill the process here."""
    if hook is not None:
        hook(name)


def arm(environ: Mapping[str, str]) -> None:
    """Let the process kill itself at the point named by ``STACKD_TEST_CRASH_AT=NAME[:N]``, the N-th time it is reached.

    Raises ValueError for a name that does not exist, so that a test cannot silently test nothing.
    """
    wanted = environ.get(ENVIRONMENT)
    if not wanted:
        return
    name, _, count = wanted.partition(":")
    if name not in POINTS:
        raise ValueError(f"{ENVIRONMENT}: there is no crash point {name!r}")
    left = int(count or "1")

    def die(reached_name: str) -> None:
        nonlocal left
        if reached_name == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    global hook  # noqa: PLW0603 - one process, one way to die
    hook = die
