"""What stackd tells the service manager: never "ready" against /readyz, and READY=1 also without a cluster."""

from __future__ import annotations

import array
import asyncio
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stackd import daemon as daemons
from stackd.config import load
from stackd.config.credentials import STAMP
from stackd.daemon import Daemon, running
from stackd.embedded import EmbeddedCluster, NodeSpec, User, everything
from stackd.upkeep import health, reload
from stackd.upkeep.health import line, why_stuck
from stackd.upkeep.reload import HandOver, KeyFile
from stackd.upkeep.systemd import Notifier, ProcessContext
from stackd.web.api import Api
from tests.harness import KEY, READ_KEY, eventually, fast_cluster, harness, seed

OLD, NEW = (User(token=name, name="stackd", rules=(everything(),)) for name in ("old", "new"))


class Manager:
    """A service manager that keeps what it was told, the latest last."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.socket.settimeout(30)
        self._told: list[dict[str, str]] = []

    def received(self) -> dict[str, str]:
        """Wait for the next message."""
        return dict(line.split("=", 1) for line in self.socket.recv(8192).decode().splitlines())

    @property
    def told(self) -> list[dict[str, str]]:
        while select.select([self.socket], [], [], 0)[0]:
            self._told.append(self.received())
        return self._told

    @property
    def started(self) -> bool:
        return any("READY" in one for one in self.told)

    @property
    def status(self) -> str:
        return next((one["STATUS"] for one in reversed(self.told) if "STATUS" in one), "")


@pytest.fixture
def service_manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.socket.close()


@pytest.fixture
def manager(service_manager: Manager, monkeypatch: pytest.MonkeyPatch) -> Manager:
    monkeypatch.setattr(daemons, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(health, "EVERY_SECONDS", 0.05)
    return service_manager


@asynccontextmanager
async def started(folder: Path, manager: Manager, kubeconfig: Path) -> AsyncIterator[Daemon]:
    environment = {
        "STACKD_AUTH__KEY": KEY,
        "STACKD_SERVER__PORT": "0",
        "STACKD_STATE__PATH": str(folder / "stackd.db"),
        "STACKD_CLUSTER__KUBECONFIG": str(kubeconfig),
        "STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "false",
    }
    async with running(load(None, environment), process=ProcessContext(notifier=Notifier(manager.address))) as daemon:
        yield daemon


async def asked(daemon: Daemon, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    url = f"http://127.0.0.1:{daemon.port}{path}"
    async with (
        aiohttp.ClientSession(headers={"X-API-KEY": KEY}) as session,
        session.request(method, url, json=body) as answer,
    ):
        return answer.status, await answer.json()


async def waits(daemon: Daemon, manager: Manager, why: str) -> None:
    """Check that the daemon is started, says everywhere what it waits for, and refuses reads and creates of stacks.

    Its file is new, so it may lack stacks.
    """
    await eventually(lambda: manager.started and why in manager.status, lambda: manager.status)
    assert manager.status.startswith("waiting for the cluster: ")
    status, answer = await asked(daemon, "GET", "/readyz")
    assert (status, answer["reasons"]) == (503, [manager.status])
    for method, body in (("GET", None), ("POST", seed())):
        status, answer = await asked(daemon, method, "/stacks", body)
        assert status == 503
        assert why in f"{answer['error']}: {answer.get('detail', '')}"


async def becomes_ready(daemon: Daemon, manager: Manager) -> None:
    await eventually(lambda: manager.status == "ready: 0 stacks, 2 nodes", lambda: manager.status)
    assert (await asked(daemon, "GET", "/readyz"))[0] == 200


async def test_a_start_without_the_cluster_is_soon_over_and_says_what_it_waits_for(
    tmp_path: Path, manager: Manager
) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        kubeconfig = tmp_path / "kubeconfig"
        cluster.write_kubeconfig(kubeconfig)
        await cluster.faults.refuse()
        async with started(tmp_path, manager, kubeconfig) as daemon:
            await waits(daemon, manager, "cannot be reached: Connect")
            await cluster.faults.listen()
            await becomes_ready(daemon, manager)
    assert next(one for one in manager.told if "READY" in one)["STATUS"].startswith("waiting for the cluster: ")


async def test_credentials_that_are_refused_are_said_once_and_new_ones_are_taken(
    tmp_path: Path, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with EmbeddedCluster(fast_cluster(users=(NEW,))) as cluster:
        kubeconfig = tmp_path / "kubeconfig"
        cluster.write_kubeconfig(kubeconfig, token=OLD.token)
        async with started(tmp_path, manager, kubeconfig) as daemon:
            await waits(daemon, manager, "its credentials are not accepted (401)")
            await eventually(lambda: daemon.context.cluster.counts["get", "namespaces", "401"] >= 3)
            told = [r.name for r in caplog.records if "its credentials are not accepted" in r.getMessage()]
            assert [name for name in told if name != "stackd.request"] == ["stackd.lifecycle.gate"], "once, not per try"
            cluster.write_kubeconfig(kubeconfig, token=NEW.token)
            await becomes_ready(daemon, manager)


async def test_the_status_is_not_ready_for_each_reason_that_readyz_has(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_RECONCILE__INTERVAL": "1h"}) as at:
        await at.create()
        context, ready = at.daemon.context, at.daemon.ready
        assert line(context, ready) == "ready: 1 stack, 2 nodes"
        endings = {f"stack-{n}": "end" for n in range(20)}
        context.brake.hold_back(endings, endings, 0.2)
        reasons = (await at.call("GET", "/readyz")).json["reasons"]
        assert line(context, ready) == f"not ready: {'; '.join(reasons)}; 1 stack, 2 nodes"
        assert "20 stacks would be ended" in line(context, ready)
        context.brake.confirm()
        context.brake.forget({f"stack-{n}" for n in range(20)})
        context.gate.file_error = "the file cannot be written"
        assert line(context, ready).startswith("not ready: the file cannot be written; ")
        assert (await at.call("GET", "/readyz")).status == 200
        assert line(context, ready) == "ready: 1 stack, 2 nodes"


async def test_a_cluster_that_is_away_is_said_beside_what_is_ready(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        await at.cluster.faults.refuse()
        context, ready = at.daemon.context, at.daemon.ready
        await eventually(lambda: "Kubernetes away for some seconds: " in line(context, ready))
        assert line(context, ready).startswith("ready: 0 stacks, 2 nodes; ")


async def test_a_first_start_on_nodes_that_take_no_stacks_says_so_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "EVERY_SECONDS", 0.05)
    specs = (NodeSpec(name="a", labels={}), NodeSpec(name="b", labels={}))
    async with EmbeddedCluster(fast_cluster(nodes=specs)) as cluster, harness(tmp_path, cluster=cluster) as at:
        context, ready = at.daemon.context, at.daemon.ready
        said = "no node takes stacks: none of 2 has role=stack; kubectl label node NAME role=stack"
        assert line(context, ready) == f"ready: 0 stacks, 0 of 2 nodes take stacks; {said}"
        await eventually(lambda: said in caplog.messages)
        patch = {"metadata": {"labels": {"role": "stack"}}}
        headers = {"Content-Type": "application/merge-patch+json"}
        async with at.session.patch(f"{cluster.url}/api/v1/nodes/a", json=patch, headers=headers) as answer:
            assert answer.status == 200
        await eventually(lambda: line(context, ready) == "ready: 0 stacks, 1 of 2 nodes take stacks")
        cluster.faults.cordon("a")
        await eventually(lambda: "1 of 2 has role=stack, and none is ready and takes pods" in line(context, ready))
        assert caplog.messages.count(said) == 1


async def test_a_first_start_on_nodes_without_an_address_says_so_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "EVERY_SECONDS", 0.05)
    specs = tuple(NodeSpec(name=f"n{number}", external_ip=None) for number in range(7))
    said = (
        "no public address (ExternalIP) for n0, n1, n2, n3, n4 and 2 more: their stacks have node_public_ip: null; "
        "name them in stacks.public_ips, or add a kind that they have to stacks.address_types"
    )
    async with EmbeddedCluster(fast_cluster(nodes=specs)) as cluster:
        async with harness(tmp_path, cluster=cluster) as at:
            assert line(at.daemon.context, at.daemon.ready) == f"ready: 0 stacks, 7 nodes; {said}"
            await eventually(lambda: said in caplog.messages)
        async with harness(tmp_path, {"STACKD_STACKS__ADDRESS_TYPES": "ExternalIP,InternalIP"}, cluster=cluster) as at:
            assert line(at.daemon.context, at.daemon.ready) == "ready: 0 stacks, 7 nodes"


# ---- What the watchdog takes for a hanging daemon, and what not


async def test_a_file_that_does_not_answer_is_stuck(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        store = at.daemon.context.store
        begun, hold = threading.Event(), threading.Event()

        def operation(_: object) -> None:
            begun.set()
            hold.wait(10.0)

        holding = asyncio.create_task(store._writer.submit(operation, writes=False))
        await eventually(begun.is_set)
        assert await why_stuck(at.daemon.context, 0.2) == "the state file has not answered within 0.2 s"
        hold.set()
        await holding
        assert await why_stuck(at.daemon.context, 5.0) == ""


# ---- the service manager's protocol, spoken to a socket in its place


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


def test_without_a_manager_or_after_its_end_nothing_fails(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "nobody")).alive()
    notifier = Notifier.from_environment({})
    notifier.ready("ready")
    assert not notifier.enabled
    assert notifier.watchdog == 0


def test_a_status_is_said_once_and_stays_on_one_line(service_manager: Manager) -> None:
    notifier = Notifier(service_manager.address)
    notifier.status("waiting\nfor Kubernetes")
    notifier.status("waiting\nfor Kubernetes")
    notifier.status("away: \x1b[2J\udc80")
    notifier.ready("ready: 1 stacks")
    assert service_manager.received() == {"STATUS": "waiting for Kubernetes"}
    assert service_manager.received() == {"STATUS": r"away: \x1b[2J\udc80"}
    assert service_manager.received() == {"READY": "1", "STATUS": "ready: 1 stacks"}


def test_a_reload_carries_the_monotonic_time_at_which_it_began(service_manager: Manager) -> None:
    Notifier(service_manager.address).reloading()
    said = service_manager.received()
    assert said["RELOADING"] == "1"
    assert int(said["MONOTONIC_USEC"]) > 0


def test_a_socket_to_be_kept_is_handed_over(service_manager: Manager) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        Notifier(service_manager.address).keep(listening, "api")
        text, rights, _, _ = service_manager.socket.recvmsg(4096, socket.CMSG_SPACE(4))
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


# ---- a stop with sockets that outlive the process


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


# ---- the key file is watched: new content is in force a moment later, and an unusable file changes nothing


NEW_KEY = "sk-new-0123456789abcdef0123456789"


async def test_a_key_is_rotated_by_writing_the_key_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(KEY)
    file.chmod(0o600)
    config = tmp_path / "config.toml"
    config.write_text(f'[auth]\nkey_file = "{file}"\n')
    async with harness(tmp_path, {"STACKD_AUTH__KEY": READ_KEY}, config=config) as at:
        context = at.daemon.context
        environment = {"STACKD_AUTH__KEY": READ_KEY, "STACKD_CLUSTER__MODE": "embedded"}
        follower = KeyFile(context, at.daemon.api.keys, lambda: load(config, environment))

        async def valid(key: str) -> bool:
            return (await at.call("GET", "/healthz", key=key)).status == 200

        file.write_text(f"{KEY}\n{NEW_KEY}\n")
        assert not await valid(NEW_KEY)
        await follower.check()
        assert await valid(KEY)
        assert await valid(NEW_KEY)
        file.write_text("")
        await follower.check()
        assert await valid(NEW_KEY)
        (tmp_path / "next").write_text(NEW_KEY)
        os.replace(tmp_path / "next", file)
        await follower.check()
        assert not await valid(KEY)
        assert await valid(NEW_KEY)
        assert await valid(READ_KEY)
        file.unlink()
        await follower.check()
        assert await valid(NEW_KEY)


# ---- A reload waits for the credentials that are passed with it, but not for ever


def put(folder: Path) -> None:
    fresh = folder / "new"
    fresh.touch()
    fresh.replace(folder / STAMP)


async def test_a_reload_goes_on_as_soon_as_they_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "HAND_OVER_SECONDS", 60.0)
    waiting = HandOver(tmp_path)
    for _ in range(2):
        arrival = asyncio.create_task(waiting.arrived())
        await asyncio.sleep(0.1)
        assert not arrival.done()
        put(tmp_path)
        await asyncio.wait_for(arrival, 30.0)


async def test_those_that_came_before_the_signal_was_looked_at_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "HAND_OVER_SECONDS", 60.0)
    waiting = HandOver(tmp_path)
    put(tmp_path)
    await asyncio.wait_for(waiting.arrived(), 30.0)


async def test_without_any_it_goes_on_after_a_while_and_where_none_come_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "HAND_OVER_SECONDS", 0.1)
    await HandOver(tmp_path).arrived()
    monkeypatch.setattr(reload, "HAND_OVER_SECONDS", 60.0)
    began = time.monotonic()
    await HandOver(None).arrived()
    assert time.monotonic() - began < 30
