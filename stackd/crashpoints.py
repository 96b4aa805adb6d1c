"""Named points between every two writes and calls, at which the fault tests kill the process.

In production the hook is unset and a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

ENVIRONMENT = "STACKD_TEST_CRASH_AT"

hook: Callable[[str], None] | None = None


def crash_point(name: str) -> None:
    """Mark the point ``name``: a fault test may kill the process here."""
    if hook is not None:
        hook(name)


def arm(environ: Mapping[str, str]) -> None:
    """Let the process kill itself at the point named by ``STACKD_TEST_CRASH_AT=NAME[:N]``, the N-th time it is reached."""
    wanted = environ.get(ENVIRONMENT)
    if not wanted:
        return
    name, _, count = wanted.partition(":")
    remaining = int(count or "1")

    def die(reached_name: str) -> None:
        nonlocal remaining
        if reached_name == name:
            remaining -= 1
            if remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    global hook  # noqa: PLW0603 - one process, one way to die
    hook = die
