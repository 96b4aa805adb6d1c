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
    instance = f"test-{secrets.token_hex(4)}"
    environment = {
        "STACKD_AUTH__KEY": KEY,
        "STACKD_SERVER__PORT": "0",
        "STACKD_STATE__PATH": str(folder / "stackd.db"),
        "STACKD_CLUSTER__MODE": "kubeconfig",
        "STACKD_CLUSTER__KUBECONFIG": kubeconfig,
        "STACKD_CLUSTER__INSTANCE": instance,
        "STACKD_STACKS__NAMESPACE": os.environ.get("STACKD_TEST_NAMESPACE", "stackd-test"),
        "STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "false",
        "STACKD_STACKS__ADDRESS_TYPES": '["ExternalIP", "InternalIP"]',
        "STACKD_RECONCILE__INTERVAL": "1s",
        **settings,
    }
    loaded = load(None, environment)
    target = ClusterTarget(
        mode="kubeconfig", kubeconfig=kubeconfig, instance=instance, namespace=loaded.config.stacks.namespace
    )
    outside = await Cluster.connect(target)
    async with running(loaded) as daemon, aiohttp.ClientSession() as session:
        await daemon.room.mirror.wait_synced(30)
        await daemon.ready.wait()
        at = Real(session=session, url=f"http://127.0.0.1:{daemon.port}", outside=outside)
        try:
            yield at
        finally:
            await at.remove_everything()
            await outside.close()
