"""stackd as a Deployment, as ``stackd manifests --run`` prints it, on a cluster whose nodes have its image."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.cluster.conftest import VARIABLE
from tests.cluster.real import Kubectl
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
