"""From the first installation to the purge, on a machine with its own systemd."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aiohttp
import pytest

from stackd.embedded import NodeSpec, User, everything
from stackd.embedded.cluster import render_kubeconfig
from tests.cluster.players import Players
from tests.harness import Client
from tests.package.debian import NEWER, field
from tests.systemd.machine import Machine, Ran
from tests.systemd.service import UNIT, Service

pytestmark = pytest.mark.systemd

APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "--allow-downgrades")
KEEP = ("--option", "Dpkg::Options::=--force-confold")
CONFIG = "/etc/stackd/config.toml"
STATE = "/var/lib/stackd/stackd.db"
SET_FORMAT = (
    "import sqlite3, sys; file = sqlite3.connect(sys.argv[1]); "
    "file.execute(f'PRAGMA user_version = {int(sys.argv[2])}'); file.close()"
)
GET_FORMAT = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version').fetchone())"
PLANTING = """
import ctypes, os
words = [b"/usr/bin/stackd", b"serve", b"--config", b"/etc/stackd/config.toml"]
entries = [b"/var/lib/stackd/planted", *(name + b"=" + value for name, value in os.environb.items())]
of = lambda texts: (ctypes.c_char_p * (len(texts) + 1))(*texts, None)
ctypes.CDLL(None).execve(words[0], of(words), of(entries))
"""
"""Starts stackd with an entry in its environment that is no variable."""


def version(machine: Machine) -> str:
    return machine.run("dpkg-query", "--show", "--showformat=${db:Status-Abbrev}${Version}", "stackd").out.strip()


def of_user(machine: Machine, name: str) -> str:
    return machine.must("bash", "-c", f"stat -c '%U:%G %a' {name}").strip()


async def install(service: Service, deb: Path) -> Ran:
    """Give the file to apt, as the README says."""
    return await asyncio.to_thread(service.machine.run, *APT, *KEEP, "install", f"/{deb.name}")


async def pid(service: Service) -> str:
    return (await service.state())["MainPID"]


async def test_setup_leads_from_the_package_to_a_first_stack(service: Service) -> None:
    """Only the package, its unchanged configuration and an administrator's kubeconfig are used, as by an operator."""
    nodes = (NodeSpec(name="worker", labels={}),)
    users = (User(token="admin", name="admin", rules=(everything(),)),)
    cluster = await service.start_cluster(nodes=nodes, users=users)
    await service.run("sed", "-i", "/require_ingress/d", CONFIG)
    administrator = render_kubeconfig(cluster.url, "admin")
    await asyncio.to_thread(service.machine.write, "/root/admin.kubeconfig", administrator, "0600")

    async def setup(*options: str) -> tuple[Ran, dict[str, str]]:
        words = ("stackd", "setup", "--yes", "--admin-kubeconfig", "/root/admin.kubeconfig", *options)
        ran = await asyncio.to_thread(service.machine.run, *words)
        return ran, steps(ran)

    with socket.socket() as other:
        other.bind(("127.0.0.1", service.api_port))
        other.listen()
        ran, results = await setup()
        await service.run("systemctl", "stop", UNIT)  # it would be restarted as soon as the port is free
    assert (ran.code, "address already in use" in " ".join(ran.out.split())) == (1, True)
    assert results == dict.fromkeys(("key", "links", "cluster", "kubeconfig", "nodes"), "done") | {"service": "failed"}
    ran, results = await setup("--image", "registry.example/run")
    assert (ran.code, results["service"], results["first stack"]) == (0, "done", "done"), ran.out + ran.err
    assert "0 failures" in ran.out
    state = await service.until(lambda state: state["StatusText"].startswith("ready: 1 stack, "))
    assert state["ActiveState"] == "active"
    service.key = (await service.run("cat", "/etc/stackd/api-key")).strip()
    assert [stack["status"] for stack in await service.stacks()] == ["running"]
    await service.run("rm", "/etc/stackd/kubeconfig")
    ran, results = await setup("--no-first-stack")
    assert (ran.code, results["kubeconfig"], results["service"]) == (0, "done", "done"), ran.out + ran.err
    assert await pid(service) == state["MainPID"], "a running service takes a fresh kubeconfig"
    await service.run("rm", "-f", "/root/admin.kubeconfig")
    removed = await service.run("dpkg", "--remove", "stackd")
    commands = [line.strip() for line in removed.splitlines() if line.startswith("  kubectl ")]
    assert (len(commands), commands[-1]) == (7, "kubectl label node worker role-")


def steps(ran: Ran) -> dict[str, str]:
    """The result of each step."""
    results = {}
    for line in ran.out.partition("stackd doctor:")[0].splitlines():
        for state in ("ok", "done", "by hand", "failed"):
            if line.startswith(state):
                results[line.removeprefix(state).strip().split("  ")[0]] = state
    return results


async def test_an_upgrade_loses_no_request(service: Service, deb: Path, newer: Path) -> None:
    await service.start_on_a_cluster()
    before, edited = await pid(service), await service.run("cat", CONFIG)

    async with aiohttp.ClientSession() as session:
        client = Client(session=session, url=service.url, key=service.key)
        players = Players(real=client, verbs=("read", "read", "create", "delete"))
        async with players.pressing("upgrade"):
            ran = await install(service, newer)
        assert ran.code == 0, ran.out + ran.err
    assert (players.lost, players.longest < 30.0) == ([], True)
    assert version(service.machine) == f"ii {NEWER}"
    after, stacks = await pid(service), await service.listed()
    assert after != before
    assert await service.run("cat", CONFIG) == edited
    assert of_user(service.machine, CONFIG) == "root:stackd 640"
    await service.run("tee", "-a", CONFIG, stdin="prot = 8082\n")
    ran = await install(service, deb)
    assert ran.code == 0, ran.out + ran.err
    assert "prot: unknown key" in ran.out + ran.err
    assert (await pid(service), await service.listed()) == (after, stacks)
    await service.run("tee", CONFIG, stdin=edited)
    older = "runs an older build: systemctl restart stackd"
    await service.until(lambda state: older in state["StatusText"])
    await service.run("systemctl", "restart", UNIT)
    assert await service.listed() == stacks
    await service.until(lambda state: state["StatusText"].startswith("ready") and older not in state["StatusText"])


async def test_an_upgrade_reads_the_services_environment_and_an_older_package_is_refused_over_a_newer_file(
    service: Service, deb: Path, newer: Path
) -> None:
    """A process chooses the text of its environment; an entry without ``=`` is no variable, but may look like a command."""
    await service.credentials()
    await service.start_cluster()
    await service.run("dpkg", "--force-confold", "--install", f"/{newer.name}")
    assert (await service.state())["ActiveState"] == "inactive"
    await service.run("rm", "/etc/stackd/api-key")
    planted = "#!/bin/sh\nid -un >>/var/tmp/planted\n"
    await asyncio.to_thread(service.machine.write, "/var/lib/stackd/planted", planted, "0755")
    await asyncio.to_thread(service.machine.write, "/usr/local/lib/planting.py", PLANTING)
    start = "ExecStart=\nExecStart=/usr/bin/python3 /usr/local/lib/planting.py"
    await service.drop_in(f"[Service]\nEnvironment=STACKD_AUTH__KEY={service.key}\n{start}\n")
    await service.start()
    await service.create()
    before = await pid(service)
    assert "planted" in await service.run("cat", f"/proc/{before}/environ")
    # the newer format is only in the WAL so far, as after a conversion
    known = int(await service.run("/usr/bin/python3", "-c", GET_FORMAT, STATE))
    await set_format(service, known + 1)
    ran = await install(service, deb)
    assert ran.code != 0
    assert f"{STATE} has format {known + 1}" in ran.out + ran.err
    assert (version(service.machine), await pid(service)) == (f"ii {NEWER}", before)
    await set_format(service, known)
    ran = await install(service, deb)
    assert ran.code == 0, ran.out + ran.err
    assert version(service.machine) == f"ii {field(deb, 'Version')}"
    assert await service.try_to("cat", "/var/tmp/planted") != 0, "it ran"
    assert await pid(service) != before
    assert len(await service.stacks()) == 1
    await service.run("rm", "-r", f"/etc/systemd/system/{UNIT}.d")


async def set_format(service: Service, number: int) -> None:
    as_service = ("setpriv", "--reuid=stackd", "--regid=stackd", "--clear-groups")
    await service.run(*as_service, "/usr/bin/python3", "-c", SET_FORMAT, STATE, str(number))


async def test_a_purge_leaves_nothing_but_the_user(service: Service, deb: Path) -> None:
    await service.credentials()
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "COLUMNS=200")
    ran = await asyncio.to_thread(service.machine.run, *nobody, "stackd", "setup")
    assert (ran.code, "run this as root" in ran.err) == (1, True)
    for command in ("stackd key new --plain", "stackd manifests | ssh ADMIN", "systemctl enable --now stackd.service"):
        assert command in ran.out
    await service.start_cluster()
    await service.start()
    stack = await service.create()
    await service.run("systemctl", "reload", UNIT)
    state = await service.until(lambda state: state["StatusText"].startswith("ready: 1 stack, "))
    assert (state["ActiveState"], state["NRestarts"]) == ("active", "0")
    await service.run("dpkg", "--remove", "stackd")
    await service.run("ls", CONFIG, "/etc/stackd/api-key", "/etc/stackd/kubeconfig", STATE)
    for gone in ("/usr/bin/stackd", "/usr/lib/stackd", "/usr/lib/systemd/system/stackd.service", "/run/stackd"):
        assert await service.try_to("test", "-e", gone) != 0, gone
    assert service.machine.show(UNIT, "LoadState") == {"LoadState": "not-found"}
    await service.run("dpkg", "--install", f"/{deb.name}")
    await service.run("systemctl", "enable", "--now", UNIT)
    assert await service.listed() == [stack["stack_id"]]
    await asyncio.to_thread(service.machine.write, "/etc/stackd/tls/key.pem", "as the manual puts it there", "0640")
    await service.run("dpkg", "--purge", "stackd")
    found = await service.run(
        "find", "/etc", "/usr", "/var/lib", "/run", "-xdev", "-name", "*stackd*", "-not", "-path", "/run/share/*"
    )
    assert found == ""
    await service.run("getent", "passwd", "stackd")
