"""stackd as a Deployment, as ``stackd manifests --run`` prints it, on a cluster whose nodes have its image."""

from __future__ import annotations

import asyncio
import os
import secrets
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.cluster.conftest import VARIABLE
from tests.harness import KEY, Client, eventually, until
from tests.provisioning import printed

IMAGE = os.environ.get("STACKD_TEST_IMAGE", "")
pytestmark = [
    pytest.mark.skipif(
        not IMAGE or VARIABLE not in os.environ, reason=f"needs {VARIABLE}, and STACKD_TEST_IMAGE on its nodes"
    ),
    pytest.mark.timeout(300),
]
STACKS = 5
BACK_SECONDS = 45
MADE_ALREADY, GONE = 409, 404


@dataclass(slots=True, kw_only=True)
class Kubectl:
    """An administrator's requests, and the namespace of the test."""

    session: aiohttp.ClientSession
    url: str
    namespace: str

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self.session.request(method, self.url + path, json=body) as answer:
            return answer.status, await answer.json()

    async def apply(self, documents: list[dict[str, Any]]) -> None:
        for one in documents:
            kind, version = one["kind"].lower(), one["apiVersion"]
            where = f"/namespaces/{one['metadata']['namespace']}" if "namespace" in one["metadata"] else ""
            plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
            root = "apis" if "/" in version else "api"
            status, answer = await self.call("POST", f"/{root}/{version}{where}/{plural}", one)
            assert status in (201, MADE_ALREADY), answer

    async def pods(self, *, ready: bool) -> list[dict[str, Any]]:
        """The pods of stackd that are not being deleted."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=app.kubernetes.io/name%3Dstackd"
        pods = [one for one in (await self.call("GET", path))[1]["items"] if "deletionTimestamp" not in one["metadata"]]
        return [one for one in pods if not ready or _is_ready(one)]

    async def remove(self, pod: str, how: str) -> None:
        """Delete, evict or kill the pod; the last does not let it give its Lease back."""
        path, name = f"/api/v1/namespaces/{self.namespace}/pods/{pod}", {"name": pod, "namespace": self.namespace}
        if how == "evicted":
            eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": name}
            status, answer = await self.call("POST", f"{path}/eviction", eviction)
        else:
            status, answer = await self.call("DELETE", path, {"gracePeriodSeconds": 0} if how == "killed" else {})
        assert status in (200, 201, 202), answer


def _is_ready(pod: dict[str, Any]) -> bool:
    return ("Ready", "True") in [(one["type"], one["status"]) for one in pod["status"].get("conditions", ())]


@pytest.fixture
async def kubectl() -> AsyncIterator[Kubectl]:
    config = yaml.safe_load(Path(os.environ[VARIABLE]).read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    trust = ssl.create_default_context(cafile=cluster.get("certificate-authority"))
    headers = {"Authorization": f"Bearer {user['token']}"}
    connector = aiohttp.TCPConnector(ssl=trust)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        at = Kubectl(session=session, url=cluster["server"], namespace=f"in-cluster-{secrets.token_hex(3)}")
        await at.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": at.namespace}}])
        try:
            yield at
        finally:
            namespace = f"/api/v1/namespaces/{at.namespace}"
            for kind in ("clusterroles", "clusterrolebindings"):
                await at.call("DELETE", f"/apis/rbac.authorization.k8s.io/v1/{kind}/stackd-{at.namespace}")
            await at.call("DELETE", namespace)
            await until(lambda: at.call("GET", namespace), lambda answer: answer[0] == GONE, 120)


@asynccontextmanager
async def serving(at: Kubectl) -> AsyncIterator[tuple[Client, str]]:
    """The daemon to which the Service leads, once there is one, and its pod."""
    found = (await until(lambda: at.pods(ready=True), lambda ready: len(ready) == 1, 120))[0]
    async with aiohttp.ClientSession() as session:
        yield Client(session=session, url=f"http://{found['status']['podIP']}:8081"), found["metadata"]["name"]


async def run(at: Kubectl, folder: Path, *options: str, rights: str = "cluster") -> None:
    """Apply what is printed for a stackd whose stacks are in the namespace of the test, as it is itself."""
    (folder / "config.toml").write_text(
        f'[cluster]\nrights = "{rights}"\n[stacks]\nnamespace = "{at.namespace}"\nspare_services = 0\n'
        'public_ips = { "*" = "203.0.113.9" }\n'
    )
    (folder / "api-key").write_text(KEY)
    site = ("--account-namespace", at.namespace, "--no-ephemeral-storage", "--no-admission-policy", "--no-volume")
    await at.apply(printed("--config", str(folder / "config.toml"), "--run", IMAGE, *site, *options))


@pytest.mark.parametrize(
    ("replicas", "how", "rights"),
    [(1, "deleted", "cluster"), (1, "evicted", "namespace"), (2, "evicted", "cluster"), (2, "killed", "cluster")],
)
async def test_a_pod_that_goes_takes_no_stack_along(
    kubectl: Kubectl, tmp_path: Path, replicas: int, how: str, rights: str
) -> None:
    await run(kubectl, tmp_path, "--replicas", str(replicas), rights=rights)
    async with serving(kubectl) as (client, owner):
        created = await asyncio.gather(*(client.create() for _ in range(STACKS)))
        for stack in created:
            seen = await client.until_status(stack["stack_id"], "running")
            assert seen["node_public_ip"] == "203.0.113.9"
        before = sorted(await client.listed())
    running = lambda: kubectl.pods(ready=False)  # noqa: E731
    await until(running, lambda pods: len(pods) == replicas and all(pod["status"].get("podIP") for pod in pods), 60)
    began = time.monotonic()
    await kubectl.remove(owner, how)
    await eventually(lambda: _is_gone(kubectl, owner), deadline=60)
    async with serving(kubectl) as (client, _):
        await until(client.listed, lambda ids: sorted(ids) == before, 60)
        back = time.monotonic() - began
        assert back < BACK_SECONDS, f"back after {back:.0f} s"
        await client.create()
    print(f"{replicas} replicas, {how}, rights {rights}: back after {back:.1f} s")


async def _is_gone(at: Kubectl, name: str) -> bool:
    return name not in [one["metadata"]["name"] for one in await at.pods(ready=False)]
