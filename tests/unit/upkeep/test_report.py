"""What stackd tells the service manager: never "ready" against /readyz, and READY=1 also without a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stackd.config import load
from stackd.embedded import EmbeddedCluster, User, everything
from stackd.kube import guards
from stackd.lifecycle import bring_up
from stackd.upkeep import health
from stackd.upkeep.systemd import Notifier, ProcessContext
from stackd.web.serving import listen
from stackd.workqueue import RetryPolicy
from tests.harness import KEY, Harness, eventually, fast_cluster, harness, seed
from tests.ports import free_port

OLD, NEW = (User(token=name, name="stackd", rules=(everything(),)) for name in ("old", "new"))


class Manager:
    """A service manager that keeps what it receives, the latest last."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self._messages: list[dict[str, str]] = []

    @property
    def messages(self) -> list[dict[str, str]]:
        while select.select([self.socket], [], [], 0)[0]:
            lines = self.socket.recv(8192).decode().splitlines()
            self._messages.append(dict(line.split("=", 1) for line in lines))
        return self._messages

    @property
    def fed(self) -> int:
        """How often the watchdog was fed."""
        return sum("WATCHDOG" in one for one in self.messages)

    @property
    def status(self) -> str:
        return next((one["STATUS"] for one in reversed(self.messages) if "STATUS" in one), "")


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    monkeypatch.setattr("stackd.timing.START_SECONDS", 0.3)
    monkeypatch.setattr(guards, "FAILING_SECONDS", 0.3)
    monkeypatch.setattr(bring_up, "CONTACT_RETRIES", RetryPolicy(first=0.2, longest=0.2))
    monkeypatch.setattr(health, "EVERY_SECONDS", 0.05)
    made = Manager(tmp_path)
    yield made
    made.socket.close()


async def waits(at: Harness, manager: Manager, why: str) -> None:
    """It is started, says everywhere what it waits for, and refuses reads and creates: its file is new, and may lack stacks."""
    await eventually(lambda: any("READY" in one for one in manager.messages) and why in manager.status)
    assert manager.status.startswith("waiting for the cluster: ")
    reply = await at.call("GET", "/readyz")
    assert (reply.status, reply.json["reasons"]) == (503, [manager.status])
    for method, body in (("GET", None), ("POST", seed())):
        reply = await at.call(method, "/stacks", body)
        assert (reply.status, why in reply.text) == (503, True)


async def test_a_start_without_the_cluster_is_soon_over_and_reports_what_it_waits_for(
    tmp_path: Path, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    why = "its credentials are not accepted (401)"
    async with EmbeddedCluster(fast_cluster(users=(NEW,))) as cluster:
        await cluster.faults.refuse()
        process = ProcessContext(notifier=Notifier(manager.address, watchdog=1.5))
        async with harness(tmp_path, cluster=cluster, token=OLD.token, wait=False, process=process) as at:
            await waits(at, manager, "cannot be reached: Connect")
            fed = manager.fed
            await eventually(lambda: manager.fed > fed)
            await cluster.faults.listen()
            await waits(at, manager, why)
            await eventually(lambda: at.daemon.context.cluster.counts["get", "namespaces", "401"] >= 3)
            loggers = [r.name for r in caplog.records if why in r.getMessage() and r.name != "stackd.request"]
            assert loggers == ["stackd.lifecycle.bring_up"], "once, not per try"
            cluster.write_kubeconfig(tmp_path / "kubeconfig", token=NEW.token)
            await eventually(lambda: manager.status == "ready: 0 stacks, 2 nodes", lambda: manager.status)
            await at.get("/readyz")
    assert next(one for one in manager.messages if "READY" in one)["STATUS"].startswith("waiting for the cluster: ")


# ---- a stop with sockets that outlive the process


def listening() -> socket.socket:
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.listen(64)
    made.setblocking(False)
    return made


async def test_a_request_on_an_open_connection_is_served_during_the_drain(tmp_path: Path) -> None:
    listener = listening()
    port = listener.getsockname()[1]
    process = ProcessContext(inherited=(listener.dup(),), can_keep=True)
    request = f"GET /healthz HTTP/1.1\r\nHost: x\r\nX-API-KEY: {KEY}\r\n\r\n".encode()

    async def send_when_draining() -> None:
        await eventually(lambda: at.daemon.api.draining)
        writer.write(request)

    async with harness(tmp_path, server__port=str(port), process=process) as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        first = await reader.readuntil(b'"ok"}')
        sending = asyncio.create_task(send_when_draining())
    await sending
    second = await reader.read()
    writer.close()
    assert b"Connection: close" not in first
    assert second.startswith(b"HTTP/1.1 200")
    assert b"Connection: close" in second
    listener.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_socket_at_another_address_than_configured_is_replaced(tmp_path: Path, host: str) -> None:
    """Another port; or another host at the same one, while systemd still has the earlier socket."""
    old = listening()
    port = free_port() if host == "127.0.0.1" else old.getsockname()[1]
    with old.dup() as kept:
        process = ProcessContext(inherited=(old,), can_keep=True)
        async with harness(tmp_path, process=process, server__host=host, server__port=str(port)) as at:
            assert (at.port, old.fileno()) == (port, -1)
            await at.get("/healthz")
        assert kept.fileno() != -1


async def test_all_addresses_of_ipv6_are_those_of_ipv4_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On a socket of each, so that a caller's IPv4 address is none of IPv6."""
    caplog.set_level("INFO")
    audit = tmp_path / "audit"
    port = str(free_port())
    async with harness(tmp_path, server__host="::", server__port=port, log__audit=str(audit)) as at:
        for host in ("127.0.0.1", "[::1]"):
            async with at.session.get(f"http://{host}:{at.port}/stacks", headers={"X-API-KEY": "wrong"}) as answer:
                assert answer.status == 401
        await eventually(lambda: audit.read_text().count("401") == 2)
        assert all(f'"{address}"' in audit.read_text() for address in ("127.0.0.1", "::1"))
        assert f"listening on [::]:{port} and 0.0.0.0:{port}," in caplog.text


def test_all_addresses_are_those_of_ipv4_where_the_kernel_has_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    class Socket(socket.socket):
        def __init__(self, family: int = socket.AF_INET, *more: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *more, **options)

    monkeypatch.setattr(socket, "socket", Socket)
    settings = {"STACKD_AUTH__KEY": KEY, "STACKD_SERVER__HOST": "::", "STACKD_SERVER__PORT": "0"}
    (only,) = listen(load(None, settings).config)
    with only:
        assert only.getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize("restarts", [False, True], ids=["stop", "restart"])
async def test_clients_that_hang_do_not_delay_a_stop_beyond_its_timeout(tmp_path: Path, restarts: bool) -> None:
    loop, listener, timeout = asyncio.get_running_loop(), listening(), 1.0
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of the accepted ones, too
    port, head = listener.getsockname()[1], f"HTTP/1.1\r\nHost: x\r\nX-API-KEY: {KEY}\r\n"
    upload = f"POST /stacks {head}Expect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    process = ProcessContext(inherited=(listener,), can_keep=True, restarts=restarts)
    settings = {"STACKD_SERVER__PORT": str(port), "STACKD_SERVER__SHUTDOWN_TIMEOUT": f"{timeout:g}s"}
    with contextlib.ExitStack() as clients:
        async with harness(tmp_path, settings, process=process):
            for request in (upload, f"GET /openapi.json {head}\r\n") * 2:  # one is not sent whole, one answer not read
                client = clients.enter_context(socket.socket())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.setblocking(False)
                await loop.sock_connect(client, ("127.0.0.1", port))
                await loop.sock_sendall(client, request.encode())
                assert (await loop.sock_recv(client, 9)) == b"HTTP/1.1 "  # its handler runs
            began = loop.time()
        assert loop.time() - began < timeout + 10
