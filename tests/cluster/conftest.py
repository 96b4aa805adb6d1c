"""A stackd on the cluster that STACKD_TEST_KUBECONFIG names, in its own namespace, or else on an embedded one."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import aiohttp
import pytest
import yaml

from stackd.config import load
from stackd.daemon import running
from stackd.embedded import EmbeddedCluster
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget
from tests.cluster.real import KEY, Process, Real
from tests.cluster.site import LEASE_SECONDS, Site, Wire, held_port
from tests.harness import fast_cluster
from tests.ports import free_port

VARIABLE = "STACKD_TEST_KUBECONFIG"
STANDBY_KUBECONFIG = "STACKD_TEST_STANDBY_KUBECONFIG"
"""Other credentials for everything but the owner, so that the API server's audit log can tell the owner's requests."""

NONE: Mapping[str, str] = MappingProxyType({})


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Real]:
    """A stackd with its usual settings."""
    async with cluster_for(tmp_path) as kubeconfig, daemon_on(kubeconfig, tmp_path) as at:
        yield at


@pytest.fixture
async def roomless(tmp_path: Path) -> AsyncIterator[Real]:
    """A stackd whose stacks fit on no node, whatever the cluster's quotas and limits allow."""
    selector = {"STACKD_STACKS__NODE_SELECTOR": '{"role": "stack", "stackd.io/test": "nowhere"}'}
    async with cluster_for(tmp_path) as kubeconfig, daemon_on(kubeconfig, tmp_path, selector) as at:
        yield at


@asynccontextmanager
async def cluster_for(folder: Path) -> AsyncIterator[str]:
    if given := os.environ.get(VARIABLE):
        yield given
        return
    async with EmbeddedCluster(fast_cluster(gateway="gateways/public")) as cluster:
        cluster.write_kubeconfig(folder / "kubeconfig")
        yield str(folder / "kubeconfig")


@asynccontextmanager
async def daemon_on(kubeconfig: str, folder: Path, settings: Mapping[str, str] = NONE) -> AsyncIterator[Real]:
    """A daemon in this process."""
    environment = {**environment_of(kubeconfig, folder), **settings}
    async with outside_of(environment) as outside, running(load(None, environment)) as daemon:
        await asyncio.wait_for(daemon.context.mirror.wait_synced(), 30)
        await daemon.ready.wait()
        async with aiohttp.ClientSession() as session:
            at = Real(session=session, url=f"http://127.0.0.1:{daemon.port}", outside=outside)
            try:
                yield at
            finally:
                await at.remove_everything()


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    """A daemon that can be killed; it is not started yet."""
    port = free_port()
    async with cluster_for(tmp_path) as kubeconfig:
        environment = environment_of(kubeconfig, tmp_path) | {"STACKD_SERVER__PORT": str(port)}
        async with outside_of(environment) as outside, aiohttp.ClientSession() as session:
            at = Real(session=session, url=f"http://127.0.0.1:{port}", outside=outside)
            process = Process(at, environment, tmp_path)
            try:
                yield process
            finally:
                process.kill()
                await at.remove_everything()


@pytest.fixture
async def crowded(tmp_path: Path) -> AsyncIterator[tuple[Real, int]]:
    """A daemon with three node ports, and the first of them, which another instance's Service holds."""
    async with cluster_for(tmp_path) as kubeconfig, held_port(_target(environment_of(kubeconfig, tmp_path))) as port:
        ports = {"STACKD_STACKS__NODE_PORT_MIN": str(port), "STACKD_STACKS__NODE_PORT_MAX": str(port + 2)}
        async with daemon_on(kubeconfig, tmp_path, ports) as at:
            yield at, port


@asynccontextmanager
async def outside_of(environment: Mapping[str, str]) -> AsyncIterator[Cluster]:
    cluster = await Cluster.connect(_target(environment))
    try:
        yield cluster
    finally:
        await cluster.close()


def _target(environment: Mapping[str, str]) -> ClusterTarget:
    return ClusterTarget(
        mode="kubeconfig",
        kubeconfig=environment["STACKD_CLUSTER__KUBECONFIG"],
        instance=environment["STACKD_CLUSTER__INSTANCE"],
        namespace=environment["STACKD_STACKS__NAMESPACE"],
    )


def environment_of(kubeconfig: str, folder: Path) -> dict[str, str]:
    return {
        "STACKD_AUTH__KEY": KEY,
        "STACKD_SERVER__PORT": "0",
        "STACKD_STATE__PATH": str(folder / "stackd.db"),
        "STACKD_CLUSTER__MODE": "kubeconfig",
        "STACKD_CLUSTER__KUBECONFIG": kubeconfig,
        "STACKD_CLUSTER__INSTANCE": f"test-{secrets.token_hex(4)}",
        "STACKD_STACKS__NAMESPACE": os.environ.get("STACKD_TEST_NAMESPACE", "stackd-test"),
        "STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "false",
        "STACKD_STACKS__ADDRESS_TYPES": '["ExternalIP", "InternalIP"]',
        "STACKD_CLUSTER__LEASE_DURATION": "3s",
        "STACKD_RECONCILE__INTERVAL": "1s",
        "STACKD_RECONCILE__ORPHAN_GRACE": "1s",
    }


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Two daemons that can be killed, each with its own file; neither is started yet."""
    async with AsyncExitStack() as stack:
        kubeconfig = await stack.enter_async_context(cluster_for(tmp_path))
        common = environment_of(kubeconfig, tmp_path) | {"STACKD_CLUSTER__LEASE_DURATION": f"{LEASE_SECONDS:g}s"}
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)))
        others = os.environ.get(STANDBY_KUBECONFIG, kubeconfig)
        outside = await stack.enter_async_context(outside_of(common | {"STACKD_CLUSTER__KUBECONFIG": others}))
        document = yaml.safe_load(Path(kubeconfig).read_text())
        scheme, _, address = document["clusters"][0]["cluster"]["server"].partition("://")
        host, _, port = address.partition(":")
        wire = Wire(host, int(port))
        document["clusters"][0]["cluster"]["server"] = f"{scheme}://127.0.0.1:{await wire.listen()}"
        (tmp_path / "through-wire").write_text(yaml.safe_dump(document))
        processes = []
        for name, config in (
            ("owner", str(tmp_path / "through-wire")),
            ("standby", others),
        ):
            folder = tmp_path / name
            folder.mkdir()
            at = free_port()
            environment = common | {
                "STACKD_SERVER__PORT": str(at),
                "STACKD_STATE__PATH": str(folder / "stackd.db"),
                "STACKD_CLUSTER__KUBECONFIG": config,
            }
            processes.append(
                Process(Real(session=session, url=f"http://127.0.0.1:{at}", outside=outside), environment, folder)
            )
        made = Site(owner=processes[0], standby=processes[1], wire=wire)
        try:
            yield made
        finally:
            for process in processes:
                process.kill()
            await wire.close()
            await made.standby.real.remove_everything()
