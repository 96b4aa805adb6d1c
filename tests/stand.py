"""A whole stackd on an embedded cluster, over real HTTP and a real file: what most tests stand on."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from stackd.config import load
from stackd.daemon import Daemon, running
from stackd.embedded import EmbeddedCluster, EmbeddedOptions

KEY = "sk-test-0123456789abcdef0123456789"
READ_KEY = "sk-read-0123456789abcdef0123456789"
SPEC_FOLDER = Path(__file__).parent / "unit" / "podspec"
DEADLINE = 10.0


def seed() -> dict[str, Any]:
    """The request of the API document's own example."""
    return request_for("nginx:stable")


def request_for(image: str, **resources: str) -> dict[str, Any]:
    """A create request for a pod of one container; ``cpu`` and ``memory`` as limits."""
    cpu, memory = resources.get("cpu", "100m"), resources.get("memory", "128Mi")
    spec = f"""apiVersion: v1
kind: Pod
metadata:
  name: challenge
spec:
  containers:
    - name: app
      image: {image}
      ports:
        - containerPort: 80
          protocol: TCP
      resources:
        requests:
          cpu: "{cpu}"
          memory: "{memory}"
        limits:
          cpu: "{cpu}"
          memory: "{memory}\""""
    return {"target_port": [{"container_port": 80, "protocol": "TCP"}], "pod_spec": spec}


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, read whole."""

    status: int
    text: str
    headers: dict[str, str] = field(repr=False)

    @property
    def json(self) -> Any:
        """The body as JSON, key order kept."""
        return json.loads(self.text)

    @property
    def error(self) -> str:
        """The one sentence that an error answer consists of."""
        body = self.json
        assert list(body) == ["error"], body
        return str(body["error"])


@dataclass(slots=True, kw_only=True)
class Stand:
    """The daemon, its cluster, and a client with a key."""

    daemon: Daemon
    cluster: EmbeddedCluster
    session: aiohttp.ClientSession
    url: str
    admin: str | None = None

    @property
    def as_admin(self) -> dict[str, str]:
        """The headers of somebody who may do everything to the cluster."""
        return {"Authorization": f"Bearer {self.admin}"} if self.admin else {}

    async def call(self, method: str, path: str, body: object = None, key: str | None = KEY, **options: Any) -> Reply:
        """One request; ``body`` is sent as JSON unless it is bytes."""
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers["X-API-KEY"] = key
        data = None if body is None else io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        async with self.session.request(method, self.url + path, data=data, headers=headers, **options) as answer:
            return Reply(answer.status, await answer.text(), dict(answer.headers))

    async def create(self, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """A stack, created."""
        reply = await self.call("POST", "/stacks", body or seed())
        assert reply.status == 201, reply.text
        stack: dict[str, Any] = reply.json
        return stack

    async def stack(self, stack_id: str) -> dict[str, Any]:
        """The stack as it reads now."""
        reply = await self.call("GET", f"/stacks/{stack_id}")
        assert reply.status == 200, reply.text
        stack: dict[str, Any] = reply.json
        return stack

    async def until_status(self, stack_id: str, status: str) -> dict[str, Any]:
        """The stack as soon as it has that status."""
        found: dict[str, Any] = {}

        async def check() -> bool:
            found.update(await self.stack(stack_id))
            return bool(found["status"] == status)

        await eventually(check, lambda: f"{stack_id} is {found.get('status')}, not {status}")
        return found

    async def finished_job(self, job_id: str) -> dict[str, Any]:
        """The batch-delete job when it has finished."""
        job: dict[str, Any] = {}

        async def check() -> bool:
            job.clear()
            job.update((await self.call("GET", f"/stacks/batch-delete/{job_id}")).json)
            return job["status"] in ("completed", "failed")

        await eventually(check, lambda: f"the job is {job}")
        return job

    async def objects(self, kind: str) -> dict[str, Any]:
        """What the cluster itself holds, by name: ``pods``, ``services`` (in the stacks' namespace) or ``nodes``."""
        path = "/api/v1/nodes" if kind == "nodes" else f"/api/v1/namespaces/stacks/{kind}"
        async with self.session.get(self.cluster.url + path, headers=self.as_admin) as answer:
            return {item["metadata"]["name"]: item for item in (await answer.json())["items"]}

    async def kubectl(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """A request of somebody else to the cluster."""
        async with self.session.request(method, self.cluster.url + path, json=body, headers=self.as_admin) as answer:
            result: dict[str, Any] = await answer.json()
            return result

    async def delete_object(self, kind: str, name: str) -> None:
        """Delete a pod or a service by hand."""
        path = f"/api/v1/namespaces/stacks/{kind}/{name}"
        await self.kubectl("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})


async def eventually(check: Callable[[], Any], why: Callable[[], str] = lambda: "", deadline: float = DEADLINE) -> None:
    """Return as soon as the condition holds; fail with ``why`` after the deadline."""
    end = time.monotonic() + deadline
    while True:
        result = check()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert time.monotonic() < end, why() or "the condition did not come true in time"
        await asyncio.sleep(0.005)


def fast_cluster(**options: Any) -> EmbeddedOptions:
    """An embedded cluster without the waiting of a real one."""
    quick: dict[str, Any] = {
        "start_delay": 0.01,
        "run_time": 0.02,
        "stop_delay": 0.01,
        "backoff": 0.02,
        "gc_delay": 0.02,
        "pod_gc_delay": 0.1,
        "bookmark_interval": 0.5,
        "serve_node_ports": False,
    }
    return EmbeddedOptions(**(quick | options))


@asynccontextmanager
async def stand(
    folder: Path,
    settings: dict[str, str] | None = None,
    *,
    cluster: EmbeddedCluster | None = None,
    wait: bool = True,
    config: Path | None = None,
    token: str | None = None,
    admin: str | None = None,
) -> AsyncIterator[Stand]:
    """A stand with its state in ``folder``; ``settings`` are ``STACKD_…`` variables; ``wait`` for the daemon's readiness.

    ``config`` is a file beside the settings; ``token`` is who the daemon is to the cluster, ``admin`` who the test is.
    """
    async with AsyncExitStack() as stack:
        if cluster is None:
            cluster = await stack.enter_async_context(EmbeddedCluster(fast_cluster()))
        kubeconfig = folder / "kubeconfig"
        cluster.write_kubeconfig(kubeconfig, token=token)
        environment = {
            "STACKD_AUTH__KEY": KEY,
            "STACKD_SERVER__PORT": "0",
            "STACKD_SERVER__SHUTDOWN_TIMEOUT": "2s",
            "STACKD_STATE__PATH": str(folder / "stackd.db"),
            "STACKD_CLUSTER__MODE": "kubeconfig",
            "STACKD_CLUSTER__KUBECONFIG": str(kubeconfig),
            "STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "false",
            "STACKD_RECONCILE__INTERVAL": "200ms",
            **(settings or {}),
        }
        daemon = await stack.enter_async_context(running(load(config, environment)))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        if wait:
            async with asyncio.timeout(DEADLINE):
                await daemon.ready.wait()
        url = f"http://127.0.0.1:{daemon.port}"
        yield Stand(daemon=daemon, cluster=cluster, session=session, url=url, admin=admin)
