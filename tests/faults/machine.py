"""The machine with the daemon and its state file.

Owns: starting the daemon again after its death, as a service manager does; which deaths are allowed.
"""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stackd.crashpoints import ENVIRONMENT as CRASH_AT
from tests.faults.file import StateFile
from tests.faults.process import CLOCK, Process
from tests.harness import eventually, variables

if TYPE_CHECKING:
    from tests.faults.world import World

GATEWAY = "gateways/public"
STOP_SECONDS = 40.0
RESTART_PAUSE = 0.2
SETTINGS = {
    "PATH": "/usr/bin:/bin",
    "STACKD_SERVER__SHUTDOWN_TIMEOUT": "2s",
    "STACKD_STACKS__SCHEDULING_TIMEOUT": "4s",
    "STACKD_STACKS__IMAGE_PULL_GRACE": "1s",
    "STACKD_RECONCILE__INTERVAL": "250ms",
    "STACKD_STACKS__SPARE_SERVICES": "3",
    "STACKD_RECONCILE__ORPHAN_GRACE": "1s",
    "STACKD_ROUTES__DOMAIN": "stacks.test",
    "STACKD_ROUTES__GATEWAY": GATEWAY,
    "STACKD_ROUTES__HTTPS_LISTENER": "https",
    "STACKD_ROUTES__ACCEPT_TIMEOUT": "100ms",
    "STACKD_LOG__FORMAT": "json",
}


@dataclass(slots=True, kw_only=True)
class Machine:
    """``in_flight``: requests of clients to it; ``absent``: while this is set, no daemon is started there."""

    world: World = field(repr=False)
    folder: Path
    kubeconfig: Path
    processes: list[Process] = field(default_factory=list)
    up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while its daemon listens."""
    expect_stop: bool = False
    in_flight: int = 0
    absent: bool = False
    crash_at: str = ""
    file: StateFile = field(init=False)
    _pause: float = 0.0
    _keeper: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.file = StateFile(self.folder / "stackd.db")

    @property
    def process(self) -> Process:
        return self.processes[-1]

    def keep(self) -> None:
        self._keeper = asyncio.create_task(self._keep(), name="keeper")

    def kill(self, pause: float = 0.0) -> None:
        """``kill -9``; the keeper starts another daemon after the pause."""
        self._pause = pause
        self.process.killed = True
        self.up.clear()
        self.process.send(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM; the keeper starts another daemon when this one has stopped."""
        self.expect_stop = True
        self.process.send(signal.SIGTERM)

    async def gone(self) -> None:
        """Stop the daemon and start no other; return when all its clients have noticed."""
        self.absent = True
        if self.process.alive:
            self.stop() if self.up.is_set() else self.kill()
            await asyncio.wait([self.process.exited])
        await eventually(lambda: not self.in_flight and not self.up.is_set())

    async def shut(self) -> None:
        """Stop the daemon for good; it has to stop in time."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self.processes and self.process.alive:
            self.process.send(signal.SIGTERM)
            await asyncio.wait([self.process.exited], timeout=STOP_SECONDS)
            self.process.send(signal.SIGKILL)
            code = await self.process.exited
            self.world.checked("stops on SIGTERM", code == 0, f"SIGTERM ended it with {code}")
            self._check_log(self.process)

    async def _keep(self) -> None:
        while True:
            while self.absent:
                await asyncio.sleep(0.005)
            crash_at = self.crash_at = self.world.starts.pop(0) if self.world.starts else ""
            own = variables(self.folder, self.kubeconfig) | {CLOCK: str(self.world.folder / "clock")}
            dies = {CRASH_AT: crash_at} if crash_at else {}
            process = Process(SETTINGS | own | self.world.settings | dies, self.world.folder)
            self.processes.append(process)
            self.world.note(f"{process.pid} starts" + (f", to die at {crash_at}" if crash_at else ""))
            await asyncio.wait([process.listening])
            if process.url:
                self.up.set()
            code = await asyncio.shield(process.exited)
            self.up.clear()
            self._judge_death(process, code, crash_at)
            await asyncio.sleep(self._pause or RESTART_PAUSE * (code != -signal.SIGKILL))
            self._pause = 0.0

    def _judge_death(self, process: Process, code: int, crash_at: str) -> None:
        world = self.world
        world.note(f"{process.pid} ended with {code}")
        self._check_log(process)
        if code == -signal.SIGKILL:
            if not process.killed:
                world.counts["deaths"] += 1
                world.checked("never ends by itself", bool(crash_at), "somebody else killed it")
        elif self.expect_stop:
            self.expect_stop = False
            world.checked("stops on SIGTERM", code == 0, f"SIGTERM ended it with {code}: {process.lines[-3:]}")
        else:
            world.violated("never ends by itself", f"it ended with {code}: {process.lines[-5:]}")

    def _check_log(self, process: Process) -> None:
        """It may complain about a clock that was set, and a brake."""
        for record in process.records():
            error = record.get("level") in ("error", "critical", "raw") or "exception" in record
            if error and not str(record.get("message", "")).startswith(("brake:", "the clock of this machine is")):
                self.world.violated("no unexpected error", json.dumps(record)[:2000])
