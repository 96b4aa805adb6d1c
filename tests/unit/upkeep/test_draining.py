"""A stop with sockets that outlive the process: accepted clients are served, later ones wait for the next one."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aiohttp

from stackd.config import load
from stackd.daemon import running
from stackd.embedded import EmbeddedCluster, Fault
from stackd.upkeep.systemd import ProcessContext
from stackd.web.api import Api
from tests.harness import KEY, eventually, fast_cluster, harness, seed


def listening() -> socket.socket:
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.listen(64)
    made.setblocking(False)
    return made


def environment(folder: Path, cluster: EmbeddedCluster, port: int) -> dict[str, str]:
    cluster.write_kubeconfig(folder / "kubeconfig")
    return {
        "STACKD_AUTH__KEY": KEY,
        "STACKD_SERVER__PORT": str(port),
        "STACKD_STATE__PATH": str(folder / "stackd.db"),
        "STACKD_CLUSTER__KUBECONFIG": str(folder / "kubeconfig"),
        "STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "false",
    }


async def ask(port: int, *, path: str = "/healthz") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-KEY: {KEY}\r\nConnection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 30.0)
    writer.close()
    return answer


async def test_a_connection_made_while_nobody_serves_is_served_by_the_next_daemon(tmp_path: Path) -> None:
    listener = listening()
    port = listener.getsockname()[1]
    async with EmbeddedCluster(fast_cluster()) as cluster:
        loaded = load(None, environment(tmp_path, cluster, port))
        early = asyncio.create_task(ask(port))
        for _ in range(2):
            async with running(loaded, process=ProcessContext(inherited=(listener.dup(),), can_keep=True)):
                assert (await early).startswith(b"HTTP/1.1 200")
            early = asyncio.create_task(ask(port))
            await asyncio.sleep(0)
        early.cancel()
    listener.close()


async def test_a_request_on_an_open_connection_is_served_during_the_drain_and_ends_it(tmp_path: Path) -> None:
    listener = listening()
    port = listener.getsockname()[1]
    async with EmbeddedCluster(fast_cluster()) as cluster:
        loaded = load(None, environment(tmp_path, cluster, port))
        process = ProcessContext(inherited=(listener.dup(),), can_keep=True)
        request = f"GET /healthz HTTP/1.1\r\nHost: x\r\nX-API-KEY: {KEY}\r\n\r\n".encode()
        async with running(loaded, process=process) as daemon:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            first = await reader.readuntil(b'"ok"}')
            sending = asyncio.create_task(_when_draining(daemon.api, writer, request))
        await sending
        second = await reader.read()
        writer.close()
        assert b"Connection: close" not in first
        assert second.startswith(b"HTTP/1.1 200")
        assert b"Connection: close" in second
    listener.close()


async def test_sockets_at_another_address_than_configured_are_replaced(tmp_path: Path) -> None:
    old, new = listening(), listening()
    wanted = new.getsockname()[1]
    new.close()
    async with EmbeddedCluster(fast_cluster()) as cluster:
        loaded = load(None, environment(tmp_path, cluster, wanted))
        process = ProcessContext(inherited=(old,), can_keep=True)
        async with running(loaded, process=process) as daemon:
            assert daemon.port == wanted
            assert old.fileno() == -1
            assert (await ask(wanted)).startswith(b"HTTP/1.1 200")


async def test_a_create_in_flight_is_finished_by_a_stop(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        async with harness(tmp_path) as at:
            at.cluster.faults.add(Fault(action="latency", verb="create", resource="services", seconds=0.3))
            headers = {"X-API-KEY": KEY}
            creating = asyncio.create_task(session.post(at.url + "/stacks", json=seed(), headers=headers))
            await eventually(lambda: at.daemon.context.creating)
        assert (await creating).status == 201


async def _when_draining(api: Api, writer: asyncio.StreamWriter, request: bytes) -> None:
    await eventually(lambda: api.draining)
    writer.write(request)
