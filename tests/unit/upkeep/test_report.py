"""What stackd tells the service manager: never "ready" against /readyz, and READY=1 also without a cluster."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stackd import daemon as daemons
from stackd.config import load
from stackd.daemon import Daemon, running
from stackd.embedded import EmbeddedCluster, NodeSpec, User, everything
from stackd.upkeep import health
from stackd.upkeep.health import line, why_stuck
from stackd.upkeep.systemd import Notifier, ProcessContext
from tests.harness import KEY, eventually, fast_cluster, harness, seed

OLD, NEW = (User(token=name, name="stackd", rules=(everything(),)) for name in ("old", "new"))


class Manager:
    """A service manager that keeps what it was told, the latest last."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(self.address)
        self._told: list[dict[str, str]] = []

    @property
    def told(self) -> list[dict[str, str]]:
        while True:
            try:
                text = self._socket.recv(8192).decode()
            except BlockingIOError:
                return self._told
            self._told.append(dict(line.split("=", 1) for line in text.splitlines()))

    @property
    def started(self) -> bool:
        return any("READY" in one for one in self.told)

    @property
    def status(self) -> str:
        return next((one["STATUS"] for one in reversed(self.told) if "STATUS" in one), "")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    monkeypatch.setattr(daemons, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(health, "EVERY_SECONDS", 0.05)
    made = Manager(tmp_path)
    yield made
    made.close()


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
            assert [name for name in told if name != "stackd.request"] == ["stackd.lifecycle.bring_up"], (
                "once, not per try"
            )
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
        context.gate.file_trouble = "the file cannot be written"
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


# ---- The service that asks the cluster for its identity: a defect in it ends the process
