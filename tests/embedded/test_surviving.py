"""The cluster as a process of its own, and its state file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.embedded.wire import Wire, service

PODS = "/api/v1/namespaces/rec/pods"
SERVICES = "/api/v1/namespaces/rec/services"
ROOT = Path(__file__).parent.parent.parent


class Remote:
    """A cluster in another process, with the only attribute that `Wire` uses."""

    def __init__(self, url: str) -> None:
        self.url = url


@asynccontextmanager
async def process(folder: Path, *arguments: str) -> AsyncIterator[tuple[Wire, asyncio.subprocess.Process]]:
    """The cluster in a process of its own, with the kubeconfig in the folder."""
    kubeconfig = folder / "kubeconfig"
    command = (sys.executable, "-m", "stackd.embedded", "--kubeconfig", str(kubeconfig), *arguments)
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    try:
        assert child.stdout is not None
        url = (await asyncio.wait_for(child.stdout.readline(), 60)).decode().strip()
        async with aiohttp.ClientSession() as session:
            token = json.loads(kubeconfig.read_text())["users"][0]["user"]["token"]
            yield Wire(Remote(url), session, token), child  # type: ignore[arg-type]
    finally:
        if child.returncode is None:
            child.terminate()
        await child.communicate()


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    arguments = ("--state", str(tmp_path / "cluster"), "--no-node-ports", "--start-delay", "0", "--nodes", "3")
    async with process(tmp_path, *arguments, "--writes-per-second", "100") as (wire, child):
        await wire.post("/api/v1/namespaces", {"metadata": {"name": "rec"}})
        uid = (await wire.get("/api/v1/namespaces/kube-system")).body["metadata"]["uid"]
        began = time.monotonic()
        await asyncio.gather(*(wire.make_pod(f"p{number}") for number in range(20)))
        assert time.monotonic() - began >= 20 / 100
        await wire.make_service("svc-a", node_port=31000)
        await wire.delete(f"{PODS}/p0?gracePeriodSeconds=0")
        last = (await wire.get(PODS)).body["metadata"]["resourceVersion"]
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
    async with process(tmp_path, *arguments) as (wire, child):
        assert (await wire.get("/api/v1/namespaces/kube-system")).body["metadata"]["uid"] == uid
        body = (await wire.get(PODS)).body
        assert {item["metadata"]["name"] for item in body["items"]} == {f"p{number}" for number in range(1, 20)}
        assert int(body["metadata"]["resourceVersion"]) > int(last)
        assert (await wire.post(SERVICES, service("svc-b", node_port=31000))).status == 422
        events = await wire.watch_all(f"{PODS}?watch=1&resourceVersion={last}")
        assert events[0]["object"]["code"] == 410
        assert len((await wire.get("/api/v1/nodes")).body["items"]) == 3
        assert (tmp_path / "kubeconfig").stat().st_mode & 0o077 == 0
        other = wire.as_user("other")
        assert (await other.get("/api/v1/nodes")).status == 401, "any local user reaches the port"
        assert (await other.post("/__faults__", {"do": "clear"})).status == 401
        child.terminate()
        assert await child.wait() == 0
