"""The service manager's protocol, spoken to a socket in its place."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackd.config import load
from stackd.daemon import running
from stackd.embedded import EmbeddedCluster
from stackd.upkeep.systemd import Notifier, ProcessContext
from stackd.web.api import Api
from tests.harness import KEY, eventually, fast_cluster

HANDED_OVER = """
import os, socket, sys
from stackd.upkeep.systemd import KEPT, inherited
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen()
plain = socket.socket()
os.dup2(listening.fileno(), 3)
os.dup2(plain.fileno(), 4)
os.dup2(listening.fileno(), 5)
pid = str(os.getpid() if sys.argv[1] == "ours" else 1)
environ = {"LISTEN_PID": pid, "LISTEN_FDS": "3", "LISTEN_FDNAMES": f"{KEPT}:{KEPT}:another"}
found = inherited(environ)
print([each.getsockname() == listening.getsockname() for each in found], environ)
"""


class Manager:
    """Receives what stackd sends to a service manager."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.socket.settimeout(30)

    def received(self) -> dict[str, str]:
        text, _, _, _ = self.socket.recvmsg(4096)
        return dict(line.split("=", 1) for line in text.decode().splitlines())


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.socket.close()


def test_without_a_manager_or_after_its_end_nothing_fails(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "nobody")).alive()
    notifier = Notifier.from_environment({})
    notifier.ready("ready")
    assert not notifier.enabled
    assert notifier.watchdog == 0


def test_a_status_is_said_once_and_stays_on_one_line(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    notifier.status("waiting\nfor Kubernetes")
    notifier.status("waiting\nfor Kubernetes")
    notifier.status("away: \x1b[2J\udc80")
    notifier.ready("ready: 1 stacks")
    assert manager.received() == {"STATUS": "waiting for Kubernetes"}
    assert manager.received() == {"STATUS": r"away: \x1b[2J\udc80"}
    assert manager.received() == {"READY": "1", "STATUS": "ready: 1 stacks"}


def test_a_reload_carries_the_monotonic_time_at_which_it_began(manager: Manager) -> None:
    Notifier(manager.address).reloading()
    said = manager.received()
    assert said["RELOADING"] == "1"
    assert int(said["MONOTONIC_USEC"]) > 0


def test_a_socket_to_be_kept_is_handed_over(manager: Manager) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        Notifier(manager.address).keep(listening, "api")
        text, rights, _, _ = manager.socket.recvmsg(4096, socket.CMSG_SPACE(4))
        passed = array.array("i", bytes(rights[0][2]))
        with socket.socket(fileno=passed[0]) as copy:
            assert copy.getsockname() == listening.getsockname()
    assert text == b"FDSTORE=1\nFDNAME=api\nFDPOLL=0"


@pytest.mark.parametrize(("whose", "seconds"), [("nobody's", 3.0), ("ours", 3.0), ("another's", 0.0)])
def test_the_watchdog_counts_only_for_the_process_it_names(whose: str, seconds: float) -> None:
    pid = {"nobody's": "", "ours": str(os.getpid()), "another's": "1"}[whose]
    environ = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": pid, "HOME": "/"}
    assert Notifier.from_environment(environ).watchdog == seconds
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(("whose", "found"), [("ours", "[True] {}"), ("another's", "[] {}")])
def test_only_listening_sockets_handed_to_this_very_process_are_taken(whose: str, found: str) -> None:
    done = subprocess.run([sys.executable, "-c", HANDED_OVER, whose], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found


# ---- A stop with sockets that outlive the process: accepted clients are served, later ones wait for the n


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


async def _when_draining(api: Api, writer: asyncio.StreamWriter, request: bytes) -> None:
    await eventually(lambda: api.draining)
    writer.write(request)
