"""Through a gateway that follows the routes in the API, a name reaches the program of its own stack, and no other."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import yaml

from tests.api.test_routes import asking
from tests.certificates import HAVE_OPENSSL, Pair, authority, issued
from tests.cluster.conftest import daemon_on
from tests.cluster.gateway import ADDRESS, GATEWAY, LISTENERS, Gateway, program, served
from tests.cluster.real import ROUTES, Real
from tests.harness import until

pytestmark = pytest.mark.skipif(not HAVE_OPENSSL, reason="openssl makes the certificates")
DOMAIN = "stacks.example.org"
NAMESPACE = os.environ.get("STACKD_TEST_NAMESPACE", "stackd-test")
SETTINGS = {
    "routes__domain": DOMAIN,
    "routes__gateway": "gateways/public",
    **{f"routes__{name}_listener": name for name in LISTENERS},
}


@dataclass(slots=True, kw_only=True)
class Site:
    """A stackd, a gateway, and programs on this machine that stand for those in the pods."""

    real: Real
    gateway: Gateway
    folder: Path
    authority: Pair
    programs: dict[str, int] = field(default_factory=dict)
    servers: list[asyncio.Server] = field(default_factory=list)

    async def create(self, route: str) -> tuple[str, str]:
        """The id and the name of a new stack whose program answers with that id."""
        stack = await self.real.create(asking(route))
        (port,) = stack["ports"]
        assert "node_port" not in port
        name = (port.get("url") or port["host"]).removeprefix(f"{route}://").partition(":")[0]
        context = None
        if route == "tls":
            context = issued(self.folder, self.authority, name=stack["stack_id"], host=f"DNS:{name}").server_context()
        await self._serve(stack["stack_id"], context)
        return stack["stack_id"], name

    async def _serve(self, stack_id: str, context: ssl.SSLContext | None) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(stack_id)}\r\n\r\n{stack_id}".encode())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, ADDRESS, 0, ssl=context)
        self.servers.append(server)
        self.programs[stack_id] = server.sockets[0].getsockname()[1]

    async def ask(self, listener: str, name: str) -> str:
        """What the gateway answers for the name: the body, or the status, or why there is no answer."""
        context = None
        if listener != "http":
            context = ssl.create_default_context(cafile=str(self.authority.cert))
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection(
                    ADDRESS, self.gateway.ports[listener], ssl=context, server_hostname=name if context else None
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


@pytest.fixture
async def site(kubeconfig: str, tmp_path: Path) -> AsyncIterator[Site]:
    program()
    async with AsyncExitStack() as stack:
        document = yaml.safe_load(Path(kubeconfig).read_text())
        about, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        trusted: ssl.SSLContext | bool = True
        if file := about.get("certificate-authority"):
            trusted = ssl.create_default_context(cafile=file)
        api = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=trusted), headers={"Authorization": f"Bearer {user.get('token')}"}
            )
        )
        async with api.get(f"{about['server']}/apis/{GATEWAY}/v1/namespaces/{NAMESPACE}/tlsroutes") as answer:
            if answer.status != 200:
                pytest.skip("the cluster does not have the Gateway API (its CRDs)")
        by = authority(tmp_path)
        wildcard = issued(tmp_path, by, name="wildcard", host=f"DNS:*.{DOMAIN}")
        (tmp_path / "wildcard.pem").write_bytes(wildcard.cert.read_bytes() + wildcard.key.read_bytes())
        programs: dict[str, int] = {}
        gateway = Gateway(
            api=api,
            server=about["server"],
            namespace=NAMESPACE,
            folder=tmp_path,
            certificate=tmp_path / "wildcard.pem",
            dial=lambda pod, address, port: (ADDRESS, programs.get(pod, 9)),
        )
        await stack.enter_async_context(served(gateway))
        real = await stack.enter_async_context(daemon_on(kubeconfig, tmp_path, **SETTINGS))
        made = Site(real=real, gateway=gateway, folder=tmp_path, authority=by, programs=programs)
        yield made
        for server in made.servers:
            server.close()


async def test_each_name_reaches_its_own_stack_and_no_other_name_reaches_any(site: Site) -> None:
    stacks = {listener: [await site.create(listener) for _ in range(2)] for listener in LISTENERS}
    for listener, created in stacks.items():
        for stack_id, name in created:
            await site.until_answers(listener, name, stack_id)
        assert "404" in await site.ask(listener, f"stack-aaaaaaaaaaaaaaaa.{DOMAIN}") or listener == "tls"
    (_, (_, http)), ((_, https), _) = stacks["http"], stacks["https"]
    assert "404" in await site.ask("https", http), "a name is served by its own listener only"
    assert await site.ask("tls", https) in ("ConnectionResetError", "SSLError", "ConnectionAbortedError", "SSLEOFError")
    for found in (await site.real.objects("services")).values():
        assert found["spec"]["type"] == "ClusterIP"

    for stack_id in await site.real.listed():
        await site.real.delete(stack_id)
    assert not [await site.real.objects(kind) for kind in ROUTES if await site.real.objects(kind)]
    await site.until_answers("http", http, "404")
    await site.until_answers("https", https, "404")


async def test_a_name_stays_through_stop_and_start(site: Site) -> None:
    stack_id, name = await site.create("https")
    for verb, answer in (("stop", "503"), ("start", stack_id)):
        await site.real.do(verb, stack_id)
        await site.until_answers("https", name, answer)
