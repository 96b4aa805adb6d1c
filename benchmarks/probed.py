"""``stackd serve`` with a probe of its event loop; on SIGUSR2 it writes to ``$BENCH_LAGS`` the longest lag, and the most
CPU that the loop's thread has used in one turn, which does not depend on what else the machine does.

The probe is a timer that is due every two milliseconds, and costs the daemon less than one percent of a CPU.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from stackd import daemon, logs
from stackd.cli.process import run
from stackd.config import load

EVERY_SECONDS = 0.002


class Probe:
    """Measures how late its own timer was at most, and the CPU that was used until then."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target: Path) -> None:
        self._loop = loop
        self._target = target
        self._longest = self._most = 0.0
        self._due = self._used = 0.0

    def start(self) -> None:
        self._loop.add_signal_handler(signal.SIGUSR2, self._write)

    def _tick(self) -> None:
        now = self._loop.time()
        self._longest = max(self._longest, now - self._due)
        used = time.thread_time()
        self._most, self._used = max(self._most, used - self._used), used
        self._due = now + EVERY_SECONDS
        self._loop.call_at(self._due, self._tick)

    def _write(self) -> None:
        """Write both and reset them; the first time, also start the timer."""
        fresh = self._target.with_suffix(".new")
        fresh.write_text(f"{self._longest} {self._most}")
        fresh.rename(self._target)
        self._longest = self._most = 0.0
        if not self._due:
            self._due, self._used = self._loop.time(), time.thread_time()
            self._tick()


async def _serve() -> None:
    loaded = load(None, dict(os.environ))
    logs.setup(loaded.config.log)
    Probe(asyncio.get_running_loop(), Path(os.environ["BENCH_LAGS"])).start()
    await daemon.serve(loaded)


if __name__ == "__main__":
    run(_serve())
