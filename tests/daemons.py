"""Daemons as processes of their own, beside an embedded cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from stackd.embedded import EmbeddedCluster
from stackd.embedded.resources import LEASES
from tests.harness import Client, until, variables
from tests.ports import free_port
from tests.process import Daemon


@asynccontextmanager
async def daemon(folder: Path, environment: Mapping[str, str]) -> AsyncIterator[Daemon[Client]]:
    """A daemon that is ready; it is killed at the end."""
    port = free_port()
    async with aiohttp.ClientSession() as session:
        client = Client(session=session, url=f"http://127.0.0.1:{port}")
        process = Daemon(client, {**environment, "STACKD_SERVER__PORT": str(port)}, folder)
        try:
            await process.start()
            yield process
        finally:
            process.kill()


def on(cluster: EmbeddedCluster, folder: Path) -> dict[str, str]:
    """The environment of a stackd on this cluster."""
    cluster.write_kubeconfig(folder / "kubeconfig")
    return variables(folder, folder / "kubeconfig")


def replace_owner(cluster: EmbeddedCluster) -> None:
    """Let vm9 take the Lease, which it never renews."""
    lease = cluster.store.of(LEASES).get("stacks", "stackd-default")
    spec = lease.obj["spec"] | {"holderIdentity": "vm9/0123456789abcdef"}
    cluster.store.update(lease, metadata=lease.obj["metadata"] | {"annotations": {}}, spec=spec)


async def until_leaving(at: Client) -> None:
    """Return once the daemon begins no change any more: an id that it cannot know is not looked for."""
    await until(lambda: at.call("DELETE", "/stacks/none"), lambda reply: "shutting down" in reply.error)
