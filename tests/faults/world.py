"""Everything around one schedule: the cluster, the disk, the clock, the daemon and whoever keeps it running.

Owns: starting the daemon again when it has died, as a service manager would, and what counts as a death that is allowed.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from stackd.embedded import EmbeddedCluster
from stackd.embedded.resources import PODS, SERVICES
from stackd.embedded.store import Record
from stackd.lifecycle.crashpoints import ENVIRONMENT as CRASH_AT
from tests.faults.disk import Disk
from tests.faults.file import StateFile
from tests.faults.foreign import Foreign
from tests.faults.ledger import Ledger
from tests.faults.nursery import CLOCK
from tests.faults.processes import Nursery, Process
from tests.faults.skew import Skew
from tests.stand import KEY, fast_cluster

START_SECONDS = 30.0
REPLY_SECONDS = 40.0
STOP_SECONDS = 40.0
RESTART_PAUSE = 0.2
NAMESPACE = "stacks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a request. ``status`` None: no answer came; then ``sent`` says whether it may have been taken."""

    status: int | None = None
    body: Any = None
    sent: bool = True
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.status is None:
            return "no answer" if self.sent else "not sent"
        error = f" {self.body['error']}" if isinstance(self.body, dict) and "error" in self.body else ""
        return f"{self.status}{error}"


@dataclass(slots=True, kw_only=True)
class World:
    """``starts`` holds the crash points of the next starts of the daemon, one each; empty strings are none."""

    folder: Path
    cluster: EmbeddedCluster
    foreign: Foreign
    nursery: Nursery
    session: aiohttp.ClientSession
    disk: Disk
    skew: Skew
    settings: dict[str, str]
    starts: list[str] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    processes: list[Process] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    file: StateFile = field(init=False)
    up: asyncio.Event = field(default_factory=asyncio.Event)
    expect_stop: bool = False
    _pause: float = 0.0
    _keeper: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.file = StateFile(self.disk.folder / "stackd.db")

    @property
    def process(self) -> Process:
        """The daemon of now, or the last one."""
        return self.processes[-1]

    @property
    def url(self) -> str:
        """Where it listens; empty before it does."""
        return self.process.url if self.processes else ""

    def note(self, text: str) -> None:
        """Remember what happened, for the trace."""
        self.trace.append(f"{time.monotonic() - self.began:7.3f}  {text}")

    def violated(self, invariant: str, text: str) -> None:
        """An invariant does not hold."""
        self.note(f"VIOLATION {invariant}: {text}")
        self.violations.append(f"{invariant}: {text}")

    def checked(self, invariant: str, holds: bool, text: str = "") -> bool:
        """Count a check; record the violation."""
        self.counts[f"checked {invariant}"] += 1
        if not holds:
            self.violated(invariant, text)
        return holds

    # ---- the daemon

    async def keep_running(self) -> None:
        """Start the daemon, and again whenever it dies; return when it listens."""
        self._keeper = asyncio.create_task(self._keep(), name="keeper")
        await self.listening()

    async def listening(self) -> None:
        """Return when a daemon listens."""
        async with asyncio.timeout(START_SECONDS):
            await self.up.wait()

    async def ready(self) -> None:
        """Return when a daemon has seen the cluster, too."""
        async with asyncio.timeout(START_SECONDS):
            while (await self.call("GET", "/readyz")).status != 200:
                await asyncio.sleep(0.02)

    def kill(self, pause: float = 0.0) -> None:
        """``kill -9``; the keeper starts another one after the pause."""
        self._pause = pause
        self.process.killed = True
        self.up.clear()
        self.process.send(signal.SIGKILL)

    def stop(self, pause: float = 0.0) -> None:
        """SIGTERM; the keeper starts another one when it has stopped."""
        self._pause = pause
        self.expect_stop = True
        self.counts["stopped"] += 1
        self.process.send(signal.SIGTERM)

    async def shut(self) -> None:
        """Stop the daemon for good; what it holds must be given back in time."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if not self.processes or not self.process.alive:
            return
        self.process.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                code = await asyncio.shield(self.process.exited)
            self.checked("stops when told", code == 0, f"SIGTERM ended it with {code}")
        except TimeoutError:
            self.violated("stops when told", "it does not stop on SIGTERM")
            self.process.send(signal.SIGKILL)
            await self.process.exited
        self._listen_to(self.process)

    async def _keep(self) -> None:
        while True:
            crash_at = self.starts.pop(0) if self.starts else ""
            process = self.nursery.start(self._environment(crash_at), self.folder)
            self.processes.append(process)
            self.counts["starts"] += 1
            self.note(f"daemon {process.pid} starts" + (f", to die at {crash_at}" if crash_at else ""))
            await asyncio.wait([process.listening])
            if process.url:
                self.up.set()
            code = await asyncio.shield(process.exited)
            self.up.clear()
            self._judge_death(process, code, crash_at)
            await asyncio.sleep(self._pause or RESTART_PAUSE * (code != -signal.SIGKILL))
            self._pause = 0.0

    def _judge_death(self, process: Process, code: int, crash_at: str) -> None:
        self.note(f"daemon {process.pid} ended with {code}")
        self._listen_to(process)
        if code == -signal.SIGKILL:
            self.counts["crashes"] += 1
            if not process.killed:
                self.counts["crashes at a point"] += 1
                self.counts[f"died at {crash_at.split(':', maxsplit=1)[0]}"] += 1
                self.checked("never ends by itself", bool(crash_at), "somebody else killed it")
            return
        if self.expect_stop:
            self.expect_stop = False
            self.checked("stops when told", code == 0, f"SIGTERM ended it with {code}: {process.lines[-3:]}")
            return
        excused = not process.url and self.disk.in_trouble
        self.checked("never ends by itself", excused, f"it ended with {code}: {process.lines[-5:]}")

    def _listen_to(self, process: Process) -> None:
        """Nothing that it says may be an error that nobody planned."""
        for record in process.said():
            message = str(record.get("message", ""))
            loud = record.get("level") in ("error", "critical", "raw") or "exception" in record
            if loud and not self._planned(message):
                self.violated("no unexpected error", json.dumps(record)[:2000])

    def _planned(self, message: str) -> bool:
        return message.startswith("brake:") or (
            self.disk.was_in_trouble and message.startswith("stackd: the state file")
        )

    def _environment(self, crash_at: str) -> dict[str, str]:
        environment = {
            "PATH": "/usr/bin:/bin",
            "STACKD_AUTH__KEY": KEY,
            "STACKD_SERVER__PORT": "0",
            "STACKD_SERVER__SHUTDOWN_TIMEOUT": "2s",
            "STACKD_STATE__PATH": str(self.file.path),
            "STACKD_CLUSTER__MODE": "kubeconfig",
            "STACKD_CLUSTER__KUBECONFIG": str(self.folder / "kubeconfig"),
            "STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "false",
            "STACKD_STACKS__SCHEDULING_TIMEOUT": "4s",
            "STACKD_STACKS__IMAGE_PULL_GRACE": "1s",
            "STACKD_RECONCILE__INTERVAL": "250ms",
            "STACKD_RECONCILE__ORPHAN_GRACE": "1s",
            "STACKD_LOG__FORMAT": "json",
            CLOCK: str(self.folder / "clock"),
        }
        environment |= self.settings
        return environment | ({CRASH_AT: crash_at} if crash_at else {})

    # ---- clients

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        patience: float | None = None,
    ) -> Outcome:
        """One request on a connection of its own; a client whose ``patience`` (seconds) is over goes away."""
        if not self.url:
            return Outcome(sent=False)
        headers = {"X-API-KEY": KEY} | ({"Idempotency-Key": key} if key else {})
        began = time.monotonic()
        self.counts["requests"] += 1
        try:
            async with asyncio.timeout(patience if patience is not None else REPLY_SECONDS):
                async with self.session.request(method, self.url + path, json=body, headers=headers) as answer:
                    text = await answer.text()
            return Outcome(status=answer.status, body=json.loads(text), seconds=time.monotonic() - began)
        except aiohttp.ClientConnectorError:
            return Outcome(sent=False)
        except TimeoutError:
            if patience is None:
                self.violated("every request is answered", f"{method} {path}: nothing within {REPLY_SECONDS:.0f} s")
            return Outcome()
        except (aiohttp.ClientError, OSError):
            return Outcome()

    # ---- the cluster, as it is

    def record(self, kind: str, name: str) -> Record:
        """One of the namespace. Raises ApiError if it is not there."""
        return self.cluster.store.of(PODS if kind == "pods" else SERVICES).get(NAMESPACE, name)

    def objects(self, kind: str) -> dict[str, dict[str, Any]]:
        """All ``pods`` or ``services`` of the namespace, by name, without asking the API."""
        resource = PODS if kind == "pods" else SERVICES
        return {record.key[1]: record.obj for record in self.cluster.store.of(resource).in_namespace(NAMESPACE)}

    def ours(self, kind: str) -> dict[str, dict[str, Any]]:
        """Those that carry our labels and our instance."""
        return {name: obj for name, obj in self.objects(kind).items() if is_ours(obj)}


def is_ours(obj: dict[str, Any]) -> bool:
    """Whether an object carries the labels of the daemon under test."""
    labels = obj["metadata"].get("labels") or {}
    return labels.get("app.kubernetes.io/managed-by") == "stackd" and labels.get("stackd.io/instance") == "default"


@asynccontextmanager
async def world(
    folder: Path, nursery: Nursery, settings: dict[str, str], *, small_disk: bool = False
) -> AsyncIterator[World]:
    """A cluster and an empty folder; no daemon yet."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(EmbeddedCluster(fast_cluster(pod_gc_delay=0.4)))
        cluster.write_kubeconfig(folder / "kubeconfig")
        disk = stack.enter_context(Disk.make(folder, small=small_disk))
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        made = World(
            folder=folder,
            cluster=cluster,
            foreign=Foreign(cluster),
            nursery=nursery,
            session=session,
            disk=disk,
            skew=Skew(folder / "clock"),
            settings=settings,
        )
        made.foreign.settle()
        stack.push_async_callback(made.shut)
        yield made
