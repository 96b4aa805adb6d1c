"""Two stackds behind the shipped configuration of keepalived, over TLS, when the owner loses the API server.

Each stackd runs in a network namespace with two links: one for callers, and one for the API server, which the test cuts.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from stackd.embedded import EmbeddedCluster
from tests.certificates import authority, issued
from tests.daemons import LOST, STACKD, on
from tests.harness import METRICS_KEY, Client, eventually, fast_cluster, key_for_checks, seed
from tests.ports import free_port

EXAMPLES = Path(__file__).parents[2] / "examples" / "two-vms"
NAME = "stackd.example.org"
LEASE = "4s"
VMS = (1, 2)
PROGRAMS = ("ip", "keepalived", "curl", "openssl")
PATH = f"{os.environ['PATH']}:/usr/sbin"
NETWORK = 0x40000000  # CLONE_NEWNET


def ip(*words: object) -> None:
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True, env={"PATH": PATH})


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Two bridges, for callers and for the API server. On each, this process has the address that ends with 254, and
    each machine, ``n``, one that ends with ``n``."""

    tag: str
    front: str
    api: str

    def machine(self, n: int) -> str:
        return f"{self.tag}m{n}"

    def link_api(self, n: int, state: str) -> None:
        """Cut a machine off from the API server (``down``), or connect it (``up``)."""
        ip("-n", self.machine(n), "link", "set", "eth1", state)


@pytest.fixture
def network() -> Iterator[Network]:
    if os.geteuid() != 0 or (missing := [name for name in PROGRAMS if not shutil.which(name, path=PATH)]):
        pytest.skip(
            f"needs root, and {' '.join(PROGRAMS)}" + (f" (not installed: {missing})" if os.geteuid() == 0 else "")
        )
    octet = os.getpid() % 250
    made = Network(tag=f"sd{os.getpid()}", front=f"10.201.{octet}", api=f"10.202.{octet}")
    with namespace(), network_of(made):
        yield made


@contextmanager
def namespace() -> Iterator[None]:
    """This thread, and all that it begins, in a network namespace of its own: when an address changes in that of a browser, it
    gives up its requests, and the tests of the pages run beside this one."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before:
        if libc.unshare(NETWORK):
            raise OSError(ctypes.get_errno(), "there is no network namespace")
        try:
            ip("link", "set", "lo", "up")
            yield
        finally:
            libc.setns(before.fileno(), NETWORK)


@contextmanager
def network_of(made: Network) -> Iterator[None]:
    bridges = {"f": made.front, "a": made.api}
    try:
        for kind, prefix in bridges.items():
            ip("link", "add", f"{made.tag}{kind}", "type", "bridge")
            ip("addr", "add", f"{prefix}.254/24", "dev", f"{made.tag}{kind}")
            ip("link", "set", f"{made.tag}{kind}", "up")
        for n in VMS:
            ip("netns", "add", made.machine(n))
            ip("-n", made.machine(n), "link", "set", "lo", "up")
            for number, (kind, prefix) in enumerate(bridges.items()):
                outside, inside = f"{made.tag}{kind}{n}", f"eth{number}"
                ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", made.machine(n))
                ip("link", "set", outside, "master", f"{made.tag}{kind}", "up")
                ip("-n", made.machine(n), "addr", "add", f"{prefix}.{n}/24", "dev", inside)
                ip("-n", made.machine(n), "link", "set", inside, "up")
        yield
    finally:
        for n in VMS:
            subprocess.run(
                ["ip", "netns", "del", made.machine(n)], check=False, capture_output=True, env={"PATH": PATH}
            )
        for kind in bridges:
            subprocess.run(
                ["ip", "link", "del", f"{made.tag}{kind}"], check=False, capture_output=True, env={"PATH": PATH}
            )


class Resolver(AbstractResolver):
    """Resolves every name to one address."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        one = ResolveResult(hostname=host, host=self.address, port=port, family=socket.AF_INET, proto=0, flags=0)
        return [one]

    async def close(self) -> None:
        pass


@asynccontextmanager
async def run(*command: object, **environment: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(*map(str, command), env={**os.environ, "PATH": PATH, **environment})
    try:
        yield
        assert process.returncode is None, f"{command} has ended"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@dataclass(slots=True, kw_only=True)
class Site:
    """Two stackds on one cluster, and callers of each, and of what is in front of them."""

    network: Network
    folder: Path
    port: int
    stack: AsyncExitStack

    async def caller(self, address: str, port: int) -> Client:
        """A client of what serves TLS at this address; each request has a connection of its own."""
        trusted = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        connector = aiohttp.TCPConnector(ssl=trusted, resolver=Resolver(address), force_close=True)
        session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5))
        await self.stack.enter_async_context(session)
        return Client(session=session, url=f"https://{NAME}:{port}")

    async def role(self, of: Client) -> str:
        try:
            return await of.role()
        except LOST:
            return ""

    def adapted(self, name: str, *replaced: tuple[str, str]) -> Path:
        text = (EXAMPLES / name).read_text()
        for documented, here in replaced:
            assert documented in text, documented
            text = text.replace(documented, here)
        file = self.folder / f"{len(list(self.folder.iterdir()))}-{name}"
        file.write_text(text)
        file.chmod((EXAMPLES / name).stat().st_mode)
        return file

    async def behind_keepalived(self) -> Client:
        (self.folder / "stackd-key").write_text(METRICS_KEY)
        script = self.adapted(
            "owns-stacks",
            ("/etc/keepalived/ca.pem", str(self.folder / "ca.crt")),
            ("/etc/keepalived/stackd-key", str(self.folder / "stackd-key")),
            ("port=8081", f"port={self.port}"),
        )
        for n in VMS:
            config = self.adapted(
                "keepalived.conf",
                ("    enable_script_security\n", ""),  # a test's folder is below /tmp, which it does not trust
                ("script_user keepalived_script", "script_user root"),
                ("/etc/keepalived/owns-stacks", str(script)),
                ("192.0.2.10/24", f"{self.network.front}.10/24"),
                ("unicast_src_ip 192.0.2.1\n", f"unicast_src_ip {self.network.front}.{n}\n"),
                ("        192.0.2.2\n", f"        {self.network.front}.{3 - n}\n"),
            )
            pids = (f"--{kind}={self.folder}/{n}-{kind}" for kind in ("pid", "vrrp_pid", "checkers_pid", "bfd_pid"))
            enter = ("ip", "netns", "exec", self.network.machine(n))
            await self.stack.enter_async_context(run(*enter, "keepalived", "-n", "-l", "-P", *pids, "-f", config))
        return await self.caller(f"{self.network.front}.10", self.port)


@asynccontextmanager
async def site(network: Network, folder: Path) -> AsyncIterator[Site]:
    issued(folder, authority(folder), host=f"DNS:{NAME}")
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(EmbeddedCluster(fast_cluster(host=f"{network.api}.254")))
        made = Site(network=network, folder=folder, port=free_port(), stack=stack)
        for n in VMS:
            own = folder / f"vm{n}"
            own.mkdir()
            settings = {
                "STACKD_CONFIG": str(key_for_checks(own)),
                "STACKD_SERVER__HOST": "0.0.0.0",
                "STACKD_SERVER__PORT": str(made.port),
                "STACKD_SERVER__TLS_CERT": str(folder / "server.crt"),
                "STACKD_SERVER__TLS_KEY": str(folder / "server.key"),
                "STACKD_CLUSTER__LEASE_DURATION": LEASE,
            }
            enter = ("ip", "netns", "exec", network.machine(n))
            await stack.enter_async_context(run(*enter, *STACKD, "serve", **(on(cluster, own) | settings)))
            client, role = await made.caller(f"{network.front}.{n}", made.port), ("owner", "standby")[n - 1]
            await eventually(partial(has_role, made, client, role), pause=0.2)
        yield made


async def has_role(at: Site, client: Client, role: str) -> bool:
    return await at.role(client) == role


@dataclass(slots=True, kw_only=True)
class Answers:
    """What callers of the front have got: the status of each request, 0 without a response, by its kind."""

    front: Client
    seen: dict[str, list[int]]

    async def ask(self, kind: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        try:
            reply = await self.front.call(method, path, body)
        except LOST:
            self.seen[kind].append(0)
            return 0, None
        self.seen[kind].append(reply.status)
        return reply.status, reply.json if reply.status < 400 else None  # HAProxy's own 503 is a page

    async def created(self) -> str:
        """The id of a new stack, or nothing."""
        status, stack = await self.ask("create", "POST", "/stacks", seed())
        return str(stack["stack_id"]) if status == 201 else ""

    async def come_and_go(self) -> bool:
        """Whether callers can create and delete ten stacks, one after the other."""
        for _ in range(10):
            stack_id = await self.created()
            if not stack_id or (await self.ask("delete", "DELETE", f"/stacks/{stack_id}"))[0] != 200:
                return False
        return True

    async def read(self, stack_id: str) -> None:
        while True:
            await self.ask("read", "GET", f"/stacks/{stack_id}/status")
            await asyncio.sleep(0.1)


async def test_when_the_owner_loses_the_api_server_the_other_one_serves(network: Network, tmp_path: Path) -> None:
    async with site(network, tmp_path) as at:
        answers = Answers(front=await at.behind_keepalived(), seen={"create": [], "read": [], "delete": []})
        await eventually(answers.come_and_go, pause=0.2)
        read = await answers.created()
        vms = [await at.caller(f"{network.front}.{n}", at.port) for n in VMS]
        answers.seen |= {"create": [], "read": [], "delete": []}
        reading = asyncio.create_task(answers.read(read))
        network.link_api(1, "down")
        await eventually(lambda: has_role(at, vms[1], "owner"), deadline=90, pause=0.2)
        assert await at.role(vms[0]) == "lapsed"
        await eventually(answers.created, pause=0.2)
        await eventually(answers.come_and_go, pause=0.2)
        network.link_api(1, "up")
        await eventually(lambda: has_role(at, vms[0], "standby"), deadline=60, pause=0.2)
        await eventually(answers.come_and_go, pause=0.2)
        reading.cancel()
        for seen in answers.seen.values():
            assert set(seen) <= {0, 200, 201, 503}, "never a 404: the front asks nobody who cannot know"
        assert answers.seen["read"].count(200) > 0
