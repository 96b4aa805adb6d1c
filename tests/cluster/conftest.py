"""A stackd on the cluster that STACKD_TEST_KUBECONFIG names, in a namespace of its own; without one, on an embedded one."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import aiohttp
import pytest

from stackd.config import load
from stackd.daemon import running
from stackd.embedded import EmbeddedCluster
from stackd.kube.client import Cluster, ClusterTarget
from tests.cluster.holder import held_port
from tests.cluster.process import Process, free_port
from tests.cluster.real import KEY, Real
from tests.stand import fast_cluster

VARIABLE = "STACKD_TEST_KUBECONFIG"
NONE: Mapping[str, str] = MappingProxyType({})


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Real]:
    """A stackd as it usually is."""
    async with _cluster(tmp_path) as kubeconfig, _real(kubeconfig, tmp_path) as at:
        yield at


@pytest.fixture
async def roomless(tmp_path: Path) -> AsyncIterator[Real]:
    """One whose stacks no node may take, whatever the cluster's quotas and limits allow."""
    selector = {"STACKD_STACKS__NODE_SELECTOR": '{"role": "stack", "stackd.io/test": "nowhere"}'}
    async with _cluster(tmp_path) as kubeconfig, _real(kubeconfig, tmp_path, selector) as at:
        yield at


@asynccontextmanager
async def _cluster(folder: Path) -> AsyncIterator[str]:
    if given := os.environ.get(VARIABLE):
        yield given
        return
    async with EmbeddedCluster(fast_cluster()) as cluster:
        cluster.write_kubeconfig(folder / "kubeconfig")
        yield str(folder / "kubeconfig")


@asynccontextmanager
async def _real(kubeconfig: str, folder: Path, settings: Mapping[str, str] = NONE) -> AsyncIterator[Real]:
    """A daemon in this process."""
    environment = {**_environment(kubeconfig, folder), **settings}
    async with _outside(environment) as outside, running(load(None, environment)) as daemon:
        await daemon.room.mirror.wait_synced(30)
        await daemon.ready.wait()
        async with aiohttp.ClientSession() as session:
            at = Real(session=session, url=f"http://127.0.0.1:{daemon.port}", outside=outside)
            try:
                yield at
            finally:
                await at.remove_everything()


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    """One that can be killed; it is not started yet."""
    port = free_port()
    async with _cluster(tmp_path) as kubeconfig:
        environment = _environment(kubeconfig, tmp_path) | {"STACKD_SERVER__PORT": str(port)}
        async with _outside(environment) as outside, aiohttp.ClientSession() as session:
            at = Real(session=session, url=f"http://127.0.0.1:{port}", outside=outside)
            process = Process(at, environment, tmp_path)
            try:
                yield process
            finally:
                process.kill()
                await at.remove_everything()


@pytest.fixture
async def crowded(tmp_path: Path) -> AsyncIterator[tuple[Real, int]]:
    """One with three node ports, of which somebody else holds the first; and that one."""
    async with _cluster(tmp_path) as kubeconfig, held_port(_target(_environment(kubeconfig, tmp_path))) as port:
        ports = {"STACKD_STACKS__NODE_PORT_MIN": str(port), "STACKD_STACKS__NODE_PORT_MAX": str(port + 2)}
        async with _real(kubeconfig, tmp_path, ports) as at:
            yield at, port


@asynccontextmanager
async def _outside(environment: Mapping[str, str]) -> AsyncIterator[Cluster]:
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


def _environment(kubeconfig: str, folder: Path) -> dict[str, str]:
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
        "STACKD_RECONCILE__INTERVAL": "1s",
        "STACKD_RECONCILE__ORPHAN_GRACE": "1s",
    }
