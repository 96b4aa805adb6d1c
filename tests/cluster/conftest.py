"""A stackd on the cluster that STACKD_TEST_KUBECONFIG names, in its own namespace; a takeover also on an embedded one."""

from __future__ import annotations

import os
import secrets
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import yaml

from stackd.config import load
from stackd.daemon import running
from stackd.embedded import EmbeddedCluster
from tests.cluster.real import GONE, Kubectl, Process, Real, outside_of
from tests.gate import Gate, gate
from tests.harness import fast_cluster, until, variables
from tests.ports import free_port

VARIABLE = "STACKD_TEST_KUBECONFIG"
STANDBY_KUBECONFIG = "STACKD_TEST_STANDBY_KUBECONFIG"
"""Other credentials for everything but the owner, so that the API server's audit log can tell the owner's requests."""

LEASE_SECONDS = float(os.environ.get("STACKD_TEST_LEASE", "3" if VARIABLE in os.environ else "1.5"))


@pytest.fixture
async def kubeconfig(tmp_path: Path) -> AsyncIterator[str]:
    if given := os.environ.get(VARIABLE):
        yield given
        return
    async with EmbeddedCluster(fast_cluster()) as cluster:
        cluster.write_kubeconfig(tmp_path / "kubeconfig")
        yield str(tmp_path / "kubeconfig")


def environment_of(kubeconfig: str, folder: Path) -> dict[str, str]:
    return variables(folder, kubeconfig) | {
        "STACKD_CLUSTER__INSTANCE": f"test-{secrets.token_hex(4)}",
        "STACKD_STACKS__NAMESPACE": os.environ.get("STACKD_TEST_NAMESPACE", "stackd-test"),
        "STACKD_STACKS__ADDRESS_TYPES": '["ExternalIP", "InternalIP"]',
        "STACKD_CLUSTER__LEASE_DURATION": f"{LEASE_SECONDS:g}s",
        "STACKD_RECONCILE__INTERVAL": "500ms",
        "STACKD_RECONCILE__ORPHAN_GRACE": "1s",
    }


@asynccontextmanager
async def daemon_on(kubeconfig: str, folder: Path, **settings: str) -> AsyncIterator[Real]:
    """A daemon in this process."""
    environment = environment_of(kubeconfig, folder) | {f"STACKD_{key.upper()}": each for key, each in settings.items()}
    async with outside_of(environment) as outside, running(load(None, environment)) as daemon:
        await daemon.ready.wait()
        async with aiohttp.ClientSession() as session:
            at = Real(session=session, url=f"http://127.0.0.1:{daemon.port}", outside=outside)
            try:
                yield at
            finally:
                await at.remove_everything()


@pytest.fixture
async def real(kubeconfig: str, tmp_path: Path) -> AsyncIterator[Real]:
    """A stackd with its usual settings, on a real cluster."""
    if VARIABLE not in os.environ:
        pytest.skip("tests/api shows it on the embedded cluster")
    async with daemon_on(kubeconfig, tmp_path) as at:
        yield at


@asynccontextmanager
async def process_on(kubeconfig: str, folder: Path, environment: Mapping[str, str]) -> AsyncIterator[Process]:
    """A daemon that can be killed; it is not started yet."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    settings = {
        **environment,
        "STACKD_SERVER__PORT": str(port),
        "STACKD_STATE__PATH": str(folder / "stackd.db"),
        "STACKD_CLUSTER__KUBECONFIG": kubeconfig,
    }
    timeout = aiohttp.ClientTimeout(total=60)
    async with outside_of(environment) as outside, aiohttp.ClientSession(timeout=timeout) as session:
        real = Real(session=session, url=f"http://127.0.0.1:{port}", outside=outside)
        process = Process(real, settings, folder)
        try:
            yield process
        finally:
            process.kill()
            await real.remove_everything()


@pytest.fixture
async def both(kubeconfig: str, tmp_path: Path) -> AsyncIterator[tuple[Process, Process, Gate]]:
    """Two daemons of one instance that can be killed, each with its own file, and the first one's way to the cluster.

    Neither is started yet.
    """
    others = os.environ.get(STANDBY_KUBECONFIG, kubeconfig)
    document = yaml.safe_load(Path(kubeconfig).read_text())
    scheme, _, address = document["clusters"][0]["cluster"]["server"].partition("://")
    async with AsyncExitStack() as stack:
        host, _, port = address.rpartition(":")
        way = await stack.enter_async_context(gate(int(port), host=host))
        document["clusters"][0]["cluster"]["server"] = f"{scheme}://127.0.0.1:{way.port}"
        (tmp_path / "through-gate").write_text(yaml.safe_dump(document))
        environment = environment_of(others, tmp_path)
        owner, standby = [
            await stack.enter_async_context(process_on(config, tmp_path / name, environment))
            for name, config in (("owner", str(tmp_path / "through-gate")), ("standby", others))
        ]
        yield owner, standby, way


@pytest.fixture
async def kubectl() -> AsyncIterator[Kubectl]:
    config = yaml.safe_load(Path(os.environ[VARIABLE]).read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    trust = ssl.create_default_context(cafile=cluster.get("certificate-authority"))
    headers = {"Authorization": f"Bearer {user['token']}"}
    connector = aiohttp.TCPConnector(ssl=trust)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        at = Kubectl(session=session, url=cluster["server"], namespace=f"stackd-test-{secrets.token_hex(3)}")
        await at.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": at.namespace}}])
        try:
            yield at
        finally:
            namespace = f"/api/v1/namespaces/{at.namespace}"
            for kind in ("clusterroles", "clusterrolebindings"):
                await at.call("DELETE", f"/apis/rbac.authorization.k8s.io/v1/{kind}/stackd-{at.namespace}")
            await at.call("DELETE", namespace)
            await until(lambda: at.call("GET", namespace), lambda answer: answer[0] == GONE, 120)
