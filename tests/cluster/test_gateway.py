"""Through a gateway that follows the routes in the API, a name reaches the program of its own stack, and no other.

The gateway is a stand-in for an implementation of the Gateway API: HAProxy, configured from the routes. It terminates TLS
for ``http`` and ``https`` listeners and passes ``tls`` through by SNI, to the programs of the pods behind the routes'
Services, which run on this machine. Where no controller writes the routes' status, it does.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec import json

from stackd.errors import StackdError
from stackd.kube.wire import MERGE_PATCH, JsonObject
from tests.certificates import HAVE_OPENSSL, Pair, authority, issued
from tests.cluster.conftest import daemon_on
from tests.cluster.real import ROUTES, Real
from tests.harness import until
from tests.ports import free_port
from tests.routes import asking

HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin") or ""
pytestmark = pytest.mark.skipif(not (HAVE_OPENSSL and HAPROXY), reason="it needs haproxy, and openssl for certificates")
DOMAIN = "stacks.example.org"
LISTENERS = ("http", "https", "tls")
SETTINGS = {
    "routes__domain": DOMAIN,
    "routes__gateway": "gateways/public",
    **{f"routes__{name}_listener": name for name in LISTENERS},
}
ADDRESS = "127.0.0.1"
NOBODY = 9
"""A port on which nothing listens."""

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


@dataclass(slots=True, kw_only=True)
class Gateway:
    """The stand-in, its certificate's ``authority``, and the ports of the pods' ``programs``."""

    real: Real
    folder: Path
    authority: Pair
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in LISTENERS})
    programs: dict[str, int] = field(default_factory=dict)
    servers: list[asyncio.Server] = field(default_factory=list)
    _config: str = ""
    _proxy: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Follow the routes; runs for ever."""
        while True:
            routes = [(kind, route) for kind in ROUTES for route in (await self.real.objects(kind)).values()]
            for kind, route in routes:
                await self._accept(kind, route)
            await self._configure(await self._render([route for _, route in routes]))
            await asyncio.sleep(0.05)

    async def _accept(self, kind: str, route: JsonObject) -> None:
        """Write the status that a controller would, unless one has."""
        generation = route["metadata"]["generation"]
        parents = (route.get("status") or {}).get("parents") or []
        seen = [one.get("observedGeneration", 0) for entry in parents for one in entry.get("conditions", ())]
        if seen and min(seen) >= generation:
            return
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        about = {"status": "True", "message": "", "lastTransitionTime": now, "observedGeneration": generation}
        conditions = [{"type": kind, "reason": kind} | about for kind in ("Accepted", "ResolvedRefs")]
        parent = {"parentRef": route["spec"]["parentRefs"][0], "controllerName": "example.org/stand-in"}
        body = json.encode({"status": {"parents": [parent | {"conditions": conditions}]}})
        name, cluster = route["metadata"]["name"], self.real.outside
        call = cluster.on("patch", f"{kind}/status", name, body=body, content_type=MERGE_PATCH)
        await cluster.connection._send(call)  # it may be gone by now

    async def _render(self, routes: list[JsonObject]) -> str:
        """HAProxy's configuration."""
        services, pods = await self.real.objects("services"), await self.real.objects("pods")
        frontends = {name: [self._bind(name)] for name in LISTENERS}
        backends = []
        for route in routes:
            name, spec = route["metadata"]["name"], route["spec"]
            listener, service = spec["parentRefs"][0]["sectionName"], spec["rules"][0]["backendRefs"][0]["name"]
            by = "req.ssl_sni" if listener == "tls" else "req.hdr(host),field(1,:)"
            frontends[listener] += [f"  use_backend {name} if {{ {by} -i {host} }}" for host in spec["hostnames"]]
            selector = services[service]["spec"]["selector"] if service in services else {"nobody": ""}
            servers = [
                f"  server s{number} {ADDRESS}:{self.programs.get(pod['metadata']['name'], NOBODY)}"
                for number, pod in enumerate(pods.values())
                if selector.items() <= pod["metadata"]["labels"].items() and is_ready(pod)
            ]
            backends.append("\n".join([f"backend {name}", f"  mode {mode_of(listener)}", *servers]))
        for name in ("http", "https"):
            frontends[name].append("  default_backend nobody")
        return "\n".join([HEAD, *("\n".join(lines) for lines in frontends.values()), *backends, ""])

    def _bind(self, listener: str) -> str:
        tls = f" ssl crt {self.folder}/wildcard.pem" if listener == "https" else ""
        hello = "\n  tcp-request inspect-delay 2s\n  tcp-request content accept if { req.ssl_hello_type 1 }"
        bind = f"frontend {listener}\n  mode {mode_of(listener)}\n  bind {ADDRESS}:{self.ports[listener]}{tls}"
        return bind + (hello if listener == "tls" else "")

    async def _configure(self, config: str) -> None:
        """Replace the HAProxy by one with this configuration, if it is another."""
        if config == self._config:
            return
        self._config, before = config, self._proxy
        path = self.folder / "haproxy.cfg"
        path.write_text(config)
        finish = ("-sf", str(before.pid)) if before is not None else ()
        self._proxy = await asyncio.create_subprocess_exec(HAPROXY, "-db", "-f", str(path), *finish)
        if before is not None:
            await before.wait()

    async def close(self) -> None:
        for server in self.servers:
            server.close()
        if self._proxy is not None:
            with suppress(ProcessLookupError):
                self._proxy.kill()
            await self._proxy.wait()

    # ---- clients, and the pods' programs

    async def create(self, route: str) -> tuple[str, str]:
        """The id and the name of a new stack whose program answers with that id."""
        stack = await self.real.create(asking(route))
        (port,), stack_id = stack["ports"], stack["stack_id"]
        assert "node_port" not in port
        name = (port.get("url") or port["host"]).removeprefix(f"{route}://").partition(":")[0]
        pair = issued(self.folder, self.authority, name=stack_id, host=f"DNS:{name}") if route == "tls" else None

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(stack_id)}\r\n\r\n{stack_id}".encode())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, ADDRESS, 0, ssl=pair.server_context() if pair else None)
        self.servers.append(server)
        self.programs[stack_id] = server.sockets[0].getsockname()[1]
        return stack_id, name

    async def ask(self, listener: str, name: str) -> str:
        """What the gateway answers for the name: the body, or the status, or why there is no answer."""
        context = None if listener == "http" else ssl.create_default_context(cafile=str(self.authority.cert))
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection(
                    ADDRESS, self.ports[listener], ssl=context, server_hostname=name if context else None
                )
                writer.write(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
                answer = (await reader.read()).decode()
                writer.close()
        except (OSError, TimeoutError) as error:
            return type(error).__name__
        head, _, body = answer.partition("\r\n\r\n")
        return body if head.startswith("HTTP/1.1 200") else head.partition("\r\n")[0]

    async def until_answers(self, listener: str, name: str, answer: str) -> None:
        """Return once the gateway answers so."""
        await until(lambda: self.ask(listener, name), lambda seen: answer in seen)


def mode_of(listener: str) -> str:
    """What HAProxy understands of a connection to this listener."""
    return "tcp" if listener == "tls" else "http"


def is_ready(pod: JsonObject) -> bool:
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", ())}
    return conditions.get("Ready") == "True"


@asynccontextmanager
async def following(gateway: Gateway) -> AsyncIterator[None]:
    """The gateway works within this block."""
    work = asyncio.create_task(gateway.run())
    try:
        yield
        assert not work.done(), work
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
        await gateway.close()


@pytest.fixture
async def gateway(kubeconfig: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    by = authority(tmp_path)
    wildcard = issued(tmp_path, by, name="wildcard", host=f"DNS:*.{DOMAIN}")
    (tmp_path / "wildcard.pem").write_bytes(wildcard.cert.read_bytes() + wildcard.key.read_bytes())
    async with daemon_on(kubeconfig, tmp_path, **SETTINGS) as real:
        try:
            await real.objects(ROUTES[0])
        except StackdError as error:  # a cluster without the CRDs of the Gateway API
            pytest.skip(str(error))
        gateway = Gateway(real=real, folder=tmp_path, authority=by)
        async with following(gateway):
            yield gateway


async def test_each_name_reaches_only_its_own_stack(gateway: Gateway) -> None:
    stacks = {listener: [await gateway.create(listener) for _ in range(2)] for listener in LISTENERS}
    for listener, created in stacks.items():
        for stack_id, name in created:
            await gateway.until_answers(listener, name, stack_id)
        assert "404" in await gateway.ask(listener, f"stack-aaaaaaaaaaaaaaaa.{DOMAIN}") or listener == "tls"
    (_, (_, http)), ((https_id, https), _) = stacks["http"], stacks["https"]
    assert "404" in await gateway.ask("https", http), "a name is served by its own listener only"
    errors = ("ConnectionResetError", "SSLError", "ConnectionAbortedError", "SSLEOFError")
    assert await gateway.ask("tls", https) in errors
    for verb, answer in (("stop", "503"), ("start", https_id)):
        await gateway.real.do(verb, https_id)
        await gateway.until_answers("https", https, answer)
    for stack_id in await gateway.real.listed():
        await gateway.real.delete(stack_id)
    assert [await gateway.real.objects(kind) for kind in ROUTES] == [{}, {}]
    await gateway.until_answers("http", http, "404")
    await gateway.until_answers("https", https, "404")
