"""A Service of another instance on a node port."""

from __future__ import annotations

import dataclasses
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stackd.errors import NodePortTaken
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget
from stackd.kube.manifests import service_manifest
from stackd.model import PortMapping, Stack, StackStatus

USUAL = range(31001, 32765)


@asynccontextmanager
async def held_port(target: ClusterTarget) -> AsyncIterator[int]:
    """A node port that another instance's Service holds; the two after it are free."""
    cluster = await Cluster.connect(dataclasses.replace(target, instance=f"other-{secrets.token_hex(4)}"))
    try:
        await cluster.ensure_namespace()
        names = [f"svc-other-{secrets.token_hex(6)}" for _ in range(3)]
        while True:
            first = random.choice(USUAL)
            try:
                for number, name in enumerate(names):
                    await cluster.create_service(_manifest(name, first + number, cluster))
            except NodePortTaken:
                await _remove(cluster, names)
            else:
                break
        await _remove(cluster, names[1:])
        yield first
        await _remove(cluster, names)
    finally:
        await cluster.close()


async def _remove(cluster: Cluster, names: list[str]) -> None:
    for name in names:
        await cluster.delete_service(name)


def _manifest(name: str, port: int, cluster: Cluster) -> dict[str, object]:
    stack = Stack(
        stack_id=name.removeprefix("svc-"),
        namespace=cluster.namespace_name,
        pod_spec="",
        ports=(PortMapping(container_port=80, protocol="TCP", node_port=port),),
        status=StackStatus.CREATING,
        created_at=0,
        updated_at=0,
        ttl_expires_at=0,
        requested_cpu_milli=0,
        requested_memory_bytes=0,
    )
    return service_manifest(stack, cluster.instance)
