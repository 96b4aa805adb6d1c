"""Named points between every two writes and calls, where the fault tests let the process die.

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
    "create.port_replaced",
    "create.scheduled",
    "create.accepted",
    "create.undo_marked",
    "replay.undo_marked",
    "replay.undone",
    "delete.marked",
    "retire.service_deleted",
    "retire.pod_deleted",
    "retire.confirmed",
    "retire.removed",
    "release.service_deleted",
    "release.released",
    "stop.intended",
    "stop.cleared",
    "stop.stopped",
    "restart.intended",
    "restart.cleared",
    "restart.pod_created",
    "restart.service_created",
    "restart.started",
    "extend.extended",
    "expire.marked",
    "batch.queued",
    "batch.begun",
    "batch.confirmed",
    "batch.counted",
    "reconcile.undo_marked",
    "reconcile.removed",
    "repair.port_replaced",
    "repair.service_created",
    "sweep.deleted",
    "bring_up.identified",
)

ENVIRONMENT = "STACKD_TEST_CRASH_AT"

hook: Callable[[str], None] | None = None


def reached(name: str) -> None:
    """The process has come to the point ``name``."""
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
