"""A client of the daemon that also sees its cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget
from tests.daemons import Daemon
from tests.harness import Client, eventually

MADE_ALREADY, GONE = 409, 404


@dataclass(slots=True, kw_only=True)
class Real(Client):
    """The daemon under test and its cluster, seen from outside of the daemon."""

    outside: Cluster

    async def create_many(self, count: int, **more: Any) -> list[dict[str, Any]]:
        return await asyncio.gather(*(self.create(**more) for _ in range(count)))

    async def objects(self, kind: str) -> dict[str, dict[str, Any]]:
        return {raw["metadata"]["name"]: raw for raw in await self.outside.list_raw(kind)}

    async def uids(self) -> dict[str, str]:
        every = {**await self.objects("pods"), **await self.objects("services")}
        return {name: one["metadata"]["uid"] for name, one in every.items()}

    async def agreed(self) -> None:
        """Return once the cluster has the objects of the listed stacks alone."""

        async def do() -> bool:
            stacks = {stack["stack_id"]: stack["status"] for stack in await self.stacks()}
            pods, services = set(await self.objects("pods")), set(await self.objects("services"))
            running = {stack_id for stack_id, status in stacks.items() if status != "stopped"}
            return pods == running and services == {f"svc-{stack_id}" for stack_id in stacks}

        await eventually(do, lambda: "the cluster has other objects than the file", pause=0.1)

    async def remove_everything(self) -> None:
        """Delete all objects that the test has left in the cluster, but not the namespace."""
        for kind in ("pods", "services"):
            for name in await self.objects(kind):
                await self.outside.delete(kind, name)


@asynccontextmanager
async def outside_of(environment: Mapping[str, str]) -> AsyncIterator[Cluster]:
    """A client of the cluster beside that of the daemon with these settings."""
    cluster = await Cluster.connect(
        ClusterTarget(
            kubeconfig=environment["STACKD_CLUSTER__KUBECONFIG"],
            instance=environment["STACKD_CLUSTER__INSTANCE"],
            namespace=environment["STACKD_STACKS__NAMESPACE"],
        )
    )
    try:
        yield cluster
    finally:
        await cluster.close()


Process = Daemon[Real]


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
        """Delete or evict the pod, or kill it: its object is gone at once, and the kubelet gives the process a second or so."""
        path, name = f"/api/v1/namespaces/{self.namespace}/pods/{pod}", {"name": pod, "namespace": self.namespace}
        if how == "evicted":
            eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": name}
            status, answer = await self.call("POST", f"{path}/eviction", eviction)
        else:
            status, answer = await self.call("DELETE", path, {"gracePeriodSeconds": 0} if how == "killed" else {})
        assert status in (200, 201, 202), answer


def _is_ready(pod: dict[str, Any]) -> bool:
    return ("Ready", "True") in [(one["type"], one["status"]) for one in pod["status"].get("conditions", ())]
