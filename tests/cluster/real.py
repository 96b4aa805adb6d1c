"""A client of the daemon, and a client of its own for the same cluster."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import aiohttp

from stackd.errors import StackdError
from stackd.kube.client import Cluster
from stackd.kube.wire import HTTP_ROUTES, TLS_ROUTES
from tests.harness import lose_file, seed

KEY = "sk-cluster-0123456789abcdef0123456789"
DEADLINE = 120.0
AT_ONCE = 20


@dataclass(slots=True, kw_only=True)
class Real:
    """The daemon under test and its cluster, seen from outside of the daemon."""

    session: aiohttp.ClientSession
    url: str
    outside: Cluster

    lost: ClassVar = (aiohttp.ClientError, OSError, TimeoutError)
    """What a request raises when no response comes."""

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the response to one request."""
        data = None if body is None else json.dumps(body).encode()
        async with self.session.request(method, self.url + path, data=data, headers={"X-API-KEY": KEY}) as answer:
            return answer.status, await answer.json()

    async def stacks(self) -> list[dict[str, Any]]:
        """All stacks as the list returns them."""
        status, answer = await self.call("GET", "/stacks")
        assert status == 200, answer
        stacks: list[dict[str, Any]] = answer["stacks"]
        return stacks

    async def create(self, count: int, **more: object) -> list[dict[str, Any]]:
        """Create ``count`` stacks, up to twenty at once."""
        stacks: list[dict[str, Any]] = []
        while (left := count - len(stacks)) > 0:
            asked = (self.call("POST", "/stacks", seed() | more) for _ in range(min(AT_ONCE, left)))
            answers = await asyncio.gather(*asked)
            assert {status for status, _ in answers} == {201}, answers
            stacks += [stack for _, stack in answers]
        return stacks

    async def finished(self, job_id: str) -> dict[str, Any]:
        """The job once it has finished."""
        job: dict[str, Any] = {}

        async def at_its_end() -> bool:
            job.update((await self.call("GET", f"/stacks/batch-delete/{job_id}"))[1])
            return job["status"] in ("completed", "failed")

        await self.until(at_its_end, "the job's end")
        return job

    async def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        (value,) = (line.rsplit(" ", 1)[1] for line in await self._metrics() if line.startswith(f"{name} "))
        return float(value)

    async def requests(self) -> dict[str, str]:
        """How often the daemon has sent each kind of request to the cluster, without watches and the Lease."""
        lines = await self._metrics()
        counted = (line.rsplit(" ", 1) for line in lines if line.startswith("stackd_kubernetes_requests_total{"))
        return {
            what: count for what, count in counted if 'verb="watch"' not in what and 'resource="leases"' not in what
        }

    async def _metrics(self) -> list[str]:
        async with self.session.get(f"{self.url}/metrics", headers={"X-API-KEY": KEY}) as answer:
            return (await answer.text()).splitlines()

    async def objects(self, kind: str) -> dict[str, dict[str, Any]]:
        """The objects of the test's stackd, as the API server has them."""
        return {raw["metadata"]["name"]: raw for raw in await self.outside.list_raw(kind)}

    async def until(self, check: Callable[[], Awaitable[bool]], what: str) -> None:
        """Return when ``check`` returns true."""
        end = time.monotonic() + DEADLINE
        while not await check():
            assert time.monotonic() < end, f"{what} did not come true within {DEADLINE:g} s"
            await asyncio.sleep(0.1)

    async def remove_everything(self) -> None:
        """Delete all objects that the test has left in the cluster, but not the namespace."""
        for kind in (HTTP_ROUTES, TLS_ROUTES):
            with suppress(StackdError):  # a cluster without the Gateway API
                for name in await self.objects(kind):
                    await self.outside.delete_route(kind, name)
        for name in await self.objects("pods"):
            await self.outside.delete_pod(name)
        for name in await self.objects("services"):
            await self.outside.delete_service(name)
        for name in await self.objects("configmaps"):
            await self.outside.delete("configmaps", name)


# ---- ``stackd serve`` as a process of its own, so that it can be killed


ROOT = Path(__file__).parents[2]
STACKD = [sys.executable, str(ROOT / "stackd.py")]


class Process:
    """One daemon with one file; a test may start and kill it several times."""

    def __init__(self, real: Real, environment: Mapping[str, str], folder: Path) -> None:
        self.real = real
        self._environment = {**os.environ, **environment}
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, **settings: str) -> None:
        """Use these settings from the next start on."""
        self._environment.update(settings)

    async def start(self, *, standing_by: bool = False) -> None:
        """Start the daemon; return when it is ready, or stands by."""
        with (self.folder / "daemon.log").open("ab") as log:
            self._process = subprocess.Popen([*STACKD, "serve"], env=self._environment, stdout=log, stderr=log)
        await (self.real.until(self._stands_by, "standing by") if standing_by else self.until_ready())

    async def until_ready(self) -> None:
        """Return when the daemon is ready."""
        await self.real.until(self._ready, "readiness")

    async def _stands_by(self) -> bool:
        try:
            status, answer = await self.real.call("GET", "/owner")
        except self.real.lost:
            return False
        return status == 200 and answer["role"] == "standby" and bool(answer["owner"])

    def send(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "daemon.log").read_text()[-2000:]
        try:
            status, _ = await self.real.call("GET", "/readyz")
        except self.real.lost:
            return False
        return status == 200

    def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def lose_file(self) -> None:
        """Move all state files away."""
        lose_file(self.folder)

    def restore(self, copy: Path) -> None:
        """Put the copy in the place of the file, as an operator does; nothing else remains beside it."""
        for suffix in ("-wal", "-shm"):
            (self.folder / f"stackd.db{suffix}").unlink(missing_ok=True)
        shutil.copy(copy, self.folder / "stackd.db")

    async def command(self, *words: str) -> str:
        """Run a command of ``stackd`` with the daemon's configuration; return its output."""
        code, said = await self.run(*words)
        assert code == 0, said
        return said

    async def run(self, *words: str, **settings: str) -> tuple[int, str]:
        """The exit code and output of a command; ``settings`` override the daemon's."""
        run = await asyncio.create_subprocess_exec(
            *STACKD, *words, env=self._environment | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said, _ = await run.communicate()
        return run.returncode or 0, said.decode()
