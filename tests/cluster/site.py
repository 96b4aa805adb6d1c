"""Two stackds of one instance on a real cluster, clients that keep sending requests, and what they were told."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from stackd.errors import NodePortTaken
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget
from stackd.kube.manifests import service_manifest
from stackd.model import PortMapping, Stack, StackStatus
from tests.cluster.real import Process, Real
from tests.harness import seed

LEASE_SECONDS = float(os.environ.get("STACKD_TEST_LEASE", "3"))
STACKS = int(os.environ.get("STACKD_TEST_STACKS", "8"))


@dataclass(slots=True)
class Wire:
    """A proxy between one stackd and the API server, which can be cut."""

    host: str
    port: int
    whole: bool = True
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def listen(self) -> int:
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection(self.host, self.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pump(reader, upstream[1]), self._pump(upstream[0], writer), return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while data := await reader.read(1 << 16):
                while not self.whole:
                    await asyncio.sleep(0.02)
                if reader.exception() is not None:
                    return  # the sender has reset the connection: what the network still held is lost
                writer.write(data)
                await writer.drain()
        finally:
            self._open.discard(writer)
            writer.close()

    async def close(self) -> None:
        self.whole = True
        for writer in list(self._open):
            writer.transport.abort()
        if self._server is not None:
            self._server.close()


@dataclass(slots=True)
class Ledger:
    """What clients were told of each stack: its state when the response came, or that it is deleted."""

    created: dict[str, dict[str, Any]] = field(default_factory=dict)
    wanted: dict[str, str] = field(default_factory=dict)
    """The last request that got no response: ``delete``, ``stop``, ``start`` or ``extend``."""
    deleted: set[str] = field(default_factory=set)
    ends: dict[str, str] = field(default_factory=dict)
    stopped: dict[str, bool] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Site:
    """Two stackds of one instance, each with its own file."""

    owner: Process
    standby: Process
    wire: Wire
    ledger: Ledger = field(default_factory=Ledger)
    late: list[tuple[float, str]] = field(default_factory=list)
    """Acknowledgements of the first owner, with the times at which they came."""

    async def press(self, chance: random.Random, until: asyncio.Event) -> None:
        """A client that sends requests of random kinds."""
        real, ledger = self.owner.real, self.ledger
        while not until.is_set():
            known = [s for s in ledger.created if s not in ledger.deleted and s not in ledger.wanted]
            what = chance.choice(["create", "create", "delete", "stop", "start", "extend"])
            stack_id = chance.choice(known) if known else ""
            if what == "create" or not stack_id or len(known) < STACKS // 2:
                what, stack_id = "create", ""
            try:
                await self._do(real, what, stack_id)
            except Real.lost:
                await asyncio.sleep(0.05)

    async def _do(self, real: Real, what: str, stack_id: str) -> None:
        ledger = self.ledger
        if what != "create":
            ledger.wanted[stack_id] = what
        method, path = ("DELETE", f"/stacks/{stack_id}") if what == "delete" else ("POST", f"/stacks/{stack_id}/{what}")
        body: Any = {"ttl": "10s"} if what == "extend" else None
        if what == "create":
            path, body = "/stacks", seed()
        status, answer = await real.call(method, path, body)
        if status >= 300:
            # A 404 to a delete: the client's HTTP library has sent it again, after a connection that was lost.
            assert status in (409, 503) or (what, status) == ("delete", 404), (what, stack_id, status, answer)
            if status == 409:
                ledger.wanted.pop(stack_id, None)
            return
        self.late.append((time.monotonic(), f"{what} {stack_id}"))
        ledger.wanted.pop(stack_id, None)
        if what == "create":
            ledger.created[answer["stack_id"]] = answer
        elif what == "delete":
            ledger.deleted.add(stack_id)
        else:
            ledger.ends[stack_id] = answer["ttl_expires_at"]
            if what != "extend":
                ledger.stopped[stack_id] = what == "stop"


# ---- a Service of another instance on a node port


USUAL = range(31001, 32765)


@asynccontextmanager
async def held_port(target: ClusterTarget) -> AsyncIterator[int]:
    """A node port that another instance's Service holds; the two after it are free."""
    cluster = await Cluster.connect(dataclasses.replace(target, instance=f"other-{secrets.token_hex(4)}"))
    try:
        await cluster.ensure_namespace()
        names = [f"svc-other-{secrets.token_hex(6)}" for _ in range(3)]
        while True:
            first = random.choice(USUAL)
            try:
                for number, name in enumerate(names):
                    await cluster.create_service(_manifest(name, first + number, cluster))
            except NodePortTaken:
                await _remove(cluster, names)
            else:
                break
        await _remove(cluster, names[1:])
        yield first
        await _remove(cluster, names)
    finally:
        await cluster.close()


async def _remove(cluster: Cluster, names: list[str]) -> None:
    for name in names:
        await cluster.delete_service(name)


def _manifest(name: str, port: int, cluster: Cluster) -> dict[str, object]:
    stack = Stack(
        stack_id=name.removeprefix("svc-"),
        namespace=cluster.namespace_name,
        pod_spec="",
        ports=(PortMapping(container_port=80, protocol="TCP", node_port=port),),
        status=StackStatus.CREATING,
        created_at=0,
        updated_at=0,
        ttl_expires_at=0,
        requested_cpu_milli=0,
        requested_memory_bytes=0,
    )
    return service_manifest(stack, cluster.instance)
