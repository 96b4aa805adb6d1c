"""A stand-in for a Gateway API implementation: HAProxy, configured from the routes in the API.

It terminates TLS for ``http`` and ``https`` listeners and passes ``tls`` through by SNI, to the endpoints behind the
routes' Services. Where no controller writes the routes' status, it does.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.ports import free_port

GATEWAY = "gateway.networking.k8s.io"
LISTENERS = ("http", "https", "tls")
PLURALS = ("httproutes", "tlsroutes")
CONTROLLER = "example.org/stand-in"
ADDRESS = "127.0.0.1"
POLL_SECONDS = 0.05

HEAD = """\
global
  maxconn 500
defaults
  timeout connect 2s
  timeout client 5s
  timeout server 5s
backend nobody
  mode http
  http-request return status 404 content-type text/plain string "no such name"
"""

Dial = Callable[[str, str, int], tuple[str, int]]
"""Where to connect for a pod of this name and address, and a port."""


@dataclass(slots=True, kw_only=True)
class Gateway:
    """The stand-in; ``api`` is an administrator's session, ``server`` the address of the API server."""

    api: aiohttp.ClientSession
    server: str
    namespace: str
    folder: Path
    certificate: Path
    dial: Dial
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in LISTENERS})
    _config: str = ""
    _proxy: asyncio.subprocess.Process | None = None

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON at this path of the API."""
        async with self.api.get(self.server + path) as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def routes(self) -> list[dict[str, Any]]:
        """All routes of the namespace, each with the resource that it is."""
        return [
            route | {"resource": plural}
            for plural in PLURALS
            for route in (await self.get(f"/apis/{GATEWAY}/v1/namespaces/{self.namespace}/{plural}")).get("items", [])
        ]

    async def run(self) -> None:
        """Follow the routes; runs for ever."""
        while True:
            routes = await self.routes()
            for route in routes:
                await self._accept(route)
            await self._configure("\n".join([HEAD, *await self._sections(routes), ""]))
            await asyncio.sleep(POLL_SECONDS)

    async def _accept(self, route: Mapping[str, Any]) -> None:
        """Write the status that a controller would, unless one has."""
        metadata = route["metadata"]
        parents = (route.get("status") or {}).get("parents") or []
        told = [one.get("observedGeneration", 0) for entry in parents for one in entry.get("conditions", ())]
        if told and min(told) >= metadata["generation"]:
            return
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        conditions = [
            {"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": now}
            | {"observedGeneration": metadata["generation"]}
            for kind in ("Accepted", "ResolvedRefs")
        ]
        entries = [
            {"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions}
            for parent in route["spec"]["parentRefs"]
        ]
        path = f"/apis/{GATEWAY}/v1/namespaces/{self.namespace}/{route['resource']}/{metadata['name']}/status"
        headers = {"Content-Type": "application/merge-patch+json"}
        async with self.api.patch(self.server + path, json={"status": {"parents": entries}}, headers=headers):
            pass  # it may be gone by now

    async def _sections(self, routes: list[dict[str, Any]]) -> list[str]:
        frontends = {name: [self._bind(name)] for name in LISTENERS}
        backends = []
        for route in routes:
            name, spec = route["metadata"]["name"], route["spec"]
            listener = spec["parentRefs"][0]["sectionName"]
            by = "req.ssl_sni" if listener == "tls" else "req.hdr(host),field(1,:)"
            frontends[listener] += [f"  use_backend {name} if {{ {by} -i {host} }}" for host in spec["hostnames"]]
            backend = spec["rules"][0]["backendRefs"][0]
            servers = [
                f"  server s{number} {host}:{port}"
                async for number, (host, port) in self._endpoints(backend["name"], backend["port"])
            ]
            backends.append("\n".join([f"backend {name}", f"  mode {mode_of(listener)}", *servers]))
        for name in ("http", "https"):
            frontends[name].append("  default_backend nobody")
        return ["\n".join(lines) for lines in frontends.values()] + backends

    def _bind(self, listener: str) -> str:
        tls = f" ssl crt {self.certificate}" if listener == "https" else ""
        hello = "\n  tcp-request inspect-delay 2s\n  tcp-request content accept if { req.ssl_hello_type 1 }"
        return (
            f"frontend {listener}\n  mode {mode_of(listener)}\n  bind {ADDRESS}:{self.ports[listener]}{tls}"
            f"{hello if listener == 'tls' else ''}"
        )

    async def _endpoints(self, service: str, port: int) -> AsyncIterator[tuple[int, tuple[str, int]]]:
        """The ready pods behind a Service's port."""
        found = await self.get(f"/api/v1/namespaces/{self.namespace}/services/{service}")
        selector = (found.get("spec") or {}).get("selector")
        if not selector:
            return
        query = ",".join(f"{key}={value}" for key, value in selector.items())
        async with self.api.get(
            f"{self.server}/api/v1/namespaces/{self.namespace}/pods", params={"labelSelector": query}
        ) as answer:
            pods = (await answer.json()).get("items", [])
        target = next(one["targetPort"] for one in found["spec"]["ports"] if one["port"] == port)
        for number, pod in enumerate(pods):
            ready = {one["type"]: one["status"] for one in pod["status"].get("conditions", ())}.get("Ready")
            if ready == "True":
                yield number, self.dial(pod["metadata"]["name"], pod["status"].get("podIP", ""), target)

    async def _configure(self, config: str) -> None:
        """Replace the HAProxy by one with this configuration, if it is another."""
        if config == self._config:
            return
        self._config, before = config, self._proxy
        path = self.folder / "haproxy.cfg"
        path.write_text(config)
        finish = ("-sf", str(before.pid)) if before is not None else ()
        self._proxy = await asyncio.create_subprocess_exec(program(), "-db", "-f", str(path), *finish)
        if before is not None:
            await before.wait()

    async def close(self) -> None:
        """End the HAProxy."""
        if self._proxy is not None:
            with suppress(ProcessLookupError):
                self._proxy.kill()
            await self._proxy.wait()


def mode_of(listener: str) -> str:
    """What HAProxy understands of a connection to this listener."""
    return "tcp" if listener == "tls" else "http"


def program() -> str:
    """The path of HAProxy; skips the test where there is none."""
    found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip("haproxy is not installed (Debian: apt install haproxy)")
    return found


@asynccontextmanager
async def served(gateway: Gateway) -> AsyncIterator[Gateway]:
    """The gateway while it works."""
    program()
    work = asyncio.create_task(gateway.run())
    try:
        yield gateway
        assert not work.done(), work
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
        await gateway.close()
