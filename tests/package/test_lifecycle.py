"""From the first installation to the purge, on a machine with its own systemd."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from stackd.embedded import NodeSpec, User, everything
from tests.package.debian import NEWER, field
from tests.systemd.machine import Machine, Ran
from tests.systemd.service import UNIT, Service, under_load

pytestmark = pytest.mark.systemd

APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "--allow-downgrades")
KEEP = ("--option", "Dpkg::Options::=--force-confold")
STATE = "/var/lib/stackd/stackd.db"
SET_FORMAT = (
    "import sqlite3, sys; file = sqlite3.connect(sys.argv[1]); "
    "file.execute(f'PRAGMA user_version = {int(sys.argv[2])}'); file.close()"
)


def version(machine: Machine) -> str:
    return machine.run("dpkg-query", "--show", "--showformat=${db:Status-Abbrev}${Version}", "stackd").out.strip()


def of_user(machine: Machine, name: str) -> str:
    return machine.must("bash", "-c", f"stat -c '%U:%G %a' {name}").strip()


async def install(service: Service, deb: Path) -> Ran:
    """Give the file to apt, as the README says."""
    return await asyncio.to_thread(service.machine.run, *APT, *KEEP, "install", f"/{deb.name}")


async def test_an_installation_starts_nothing_and_says_what_is_next(machine: Machine, deb: Path) -> None:
    machine.must("dpkg", "--purge", "stackd")
    said = machine.must(*APT, "install", f"/as-built/{deb.name}")
    assert "stackd is installed, and not started. Next: stackd setup" in said
    assert "policy-rc.d" not in said
    assert machine.run("systemctl", "is-enabled", UNIT).out.strip() == "disabled"
    assert machine.show(UNIT, "ActiveState", "ExecMainStartTimestamp") == {
        "ActiveState": "inactive",
        "ExecMainStartTimestamp": "",
    }
    assert machine.must("stackd", "--version") == f"stackd, version {field(deb, 'Version')}\n"
    assert of_user(machine, "/etc/stackd/config.toml") == "root:stackd 640"
    assert of_user(machine, "/var/lib/stackd") == "stackd:stackd 700"


async def test_a_first_start_without_configuration_says_in_one_line_what_is_missing(service: Service) -> None:
    before = len(await service.said())
    assert await service.try_to("systemctl", "start", UNIT) != 0
    said = [line for line in (await service.said())[before:] if "no API key is configured" in line]
    assert len(said) == 1
    assert "/etc/stackd/api-key" in said[0]


async def test_configured_it_starts_reloads_and_serves(service: Service) -> None:
    await service.credentials()
    await service.start_cluster()
    await service.start()
    await service.create()
    await service.do("systemctl", "reload", UNIT)
    state = await service.until(lambda state: state["StatusText"].startswith("ready: 1 stack, "))
    assert (state["ActiveState"], state["NRestarts"]) == ("active", "0")
    verified = service.machine.run("systemd-analyze", "verify", UNIT)
    assert (verified.code, verified.out, verified.err) == (0, "", "")


async def test_setup_leads_from_the_package_to_a_first_stack(service: Service, tmp_path: Path) -> None:
    """Only the package, its unchanged configuration and an administrator's kubeconfig are used, as by an operator."""
    nodes = (NodeSpec(name="worker", labels={}),)
    users = (User(token="admin", name="admin", rules=(everything(),)),)
    cluster = await service.start_cluster(nodes=nodes, users=users)
    await service.do("sed", "-i", "/require_ingress/d", "/etc/stackd/config.toml")
    administrator = cluster.kubeconfig(token="admin")
    await asyncio.to_thread(service.machine.write, "/root/admin.kubeconfig", administrator, "0600")
    words = ("stackd", "setup", "--yes", "--admin-kubeconfig", "/root/admin.kubeconfig")
    first = await asyncio.to_thread(service.machine.run, *words, "--image", "registry.example/run")
    assert first.code == 0, first.out + first.err
    assert steps(first) == dict.fromkeys(("key", "cluster", "kubeconfig", "nodes", "service", "first stack"), "done")
    assert "0 failures" in first.out
    state = await service.until(lambda state: state["StatusText"].startswith("ready: 1 stack, "))
    assert (state["ActiveState"], state["NRestarts"]) == ("active", "0")
    assert (await service.do("systemctl", "is-enabled", UNIT)).strip() == "enabled"
    service.key = (await service.do("cat", "/etc/stackd/api-key")).strip()
    (stack,) = await service.stacks()
    assert stack["status"] == "running"
    again = await asyncio.to_thread(service.machine.run, *words)
    assert again.code == 0, again.out + again.err
    assert set(steps(again).values()) == {"ok"}
    assert (await service.state())["MainPID"] == state["MainPID"]
    await service.do("rm", "-f", "/root/admin.kubeconfig")


async def test_setup_has_a_running_service_take_a_fresh_kubeconfig(service: Service) -> None:
    users = (User(token="admin", name="admin", rules=(everything(),)),)
    await service.credentials(token="admin")
    cluster = await service.start_cluster(users=users)
    await service.do("systemctl", "enable", "--now", UNIT)
    before = (await service.state())["MainPID"]
    await asyncio.to_thread(service.machine.write, "/root/admin.kubeconfig", cluster.kubeconfig(token="admin"), "0600")
    await service.do("rm", "/etc/stackd/kubeconfig")
    words = ("stackd", "setup", "--yes", "--no-first-stack", "--admin-kubeconfig", "/root/admin.kubeconfig")
    ran = await asyncio.to_thread(service.machine.run, *words)
    assert (steps(ran)["kubeconfig"], steps(ran)["service"]) == ("done", "done"), ran.out + ran.err
    assert (await service.state())["MainPID"] == before
    assert "is not in force" not in ran.out
    assert ran.code == 0, ran.out + ran.err
    await service.do("rm", "-f", "/root/admin.kubeconfig")


async def test_setup_says_what_the_service_stumbled_over(service: Service) -> None:
    users = (User(token="admin", name="admin", rules=(everything(),)),)
    cluster = await service.start_cluster(users=users)
    administrator = cluster.kubeconfig(token="admin")
    await asyncio.to_thread(service.machine.write, "/root/admin.kubeconfig", administrator, "0600")
    words = ("stackd", "setup", "--yes", "--admin-kubeconfig", "/root/admin.kubeconfig")
    with socket.socket() as other:
        other.bind(("127.0.0.1", service.api_port))
        other.listen()
        ran = await asyncio.to_thread(service.machine.run, *words)
    assert ran.code == 1
    assert steps(ran)["service"] == "failed"
    assert str(service.api_port) in ran.out
    assert "address already in use" in " ".join(ran.out.split())
    assert "first stack" not in ran.out.partition("failed")[2]
    await service.do("rm", "-f", "/root/admin.kubeconfig")


async def test_setup_tells_the_commands_to_who_may_not_even_look_at_the_configuration(service: Service) -> None:
    await service.credentials()
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "COLUMNS=200")
    ran = await asyncio.to_thread(service.machine.run, *nobody, "stackd", "setup")
    assert ran.code == 1
    assert "run this as root" in ran.err
    assert "Errno" not in ran.out + ran.err
    assert "only root may see whether /etc/stackd/kubeconfig is there" in ran.out
    lines = [line.strip() for line in ran.out.splitlines()]
    for command in (
        "grep -qsv -e '^#' -e '^$' /etc/stackd/api-key || (umask 077; stackd key new --plain >> /etc/stackd/api-key)",
        "stackd manifests | ssh ADMIN kubectl apply -f -",
        "systemctl enable --now stackd.service",
    ):
        assert command in lines


def steps(ran: Ran) -> dict[str, str]:
    """The result of each step."""
    found = {}
    for line in ran.out.partition("stackd doctor:")[0].splitlines():
        for state in ("ok", "done", "by hand", "failed"):
            if line.startswith(state):
                name = line.removeprefix(state).strip().split("  ")[0]
                found[name] = state
    return found


async def test_an_upgrade_keeps_edits_restarts_and_loses_no_request(service: Service, deb: Path, newer: Path) -> None:
    await service.credentials()
    await service.start_cluster()
    await service.start()
    before, edited = (await service.state())["MainPID"], await service.do("cat", "/etc/stackd/config.toml")

    async def upgrade() -> None:
        ran = await install(service, newer)
        assert ran.code == 0, ran.out + ran.err

    load = await under_load(service, upgrade())
    assert load.failures == []
    assert {status for _, status in load.answers} == {200, 201}
    assert version(service.machine) == f"ii {NEWER}"
    assert (await service.state())["MainPID"] != before
    assert await service.do("cat", "/etc/stackd/config.toml") == edited
    assert of_user(service.machine, "/etc/stackd/config.toml") == "root:stackd 640"


async def test_an_upgrade_over_a_configuration_with_a_mistake_leaves_the_old_process_running(
    service: Service, newer: Path
) -> None:
    """It was restarted, and ended for good, while apt said nothing of the reason."""
    await service.credentials()
    await service.start_cluster()
    await service.start()
    stack, before = await service.create(), (await service.state())["MainPID"]
    valid = await service.do("cat", "/etc/stackd/config.toml")
    await service.do("tee", "-a", "/etc/stackd/config.toml", stdin="prot = 8082\n")
    ran = await install(service, newer)
    assert ran.code == 0, ran.out + ran.err
    assert "prot: unknown key" in ran.out + ran.err
    assert "the old process was left running" in ran.out + ran.err
    assert (await service.state())["MainPID"] == before
    assert [one["stack_id"] for one in await service.stacks()] == [stack["stack_id"]]
    await service.do("tee", "/etc/stackd/config.toml", stdin=valid)
    await service.do("systemctl", "restart", UNIT)
    assert version(service.machine) == f"ii {NEWER}"


async def test_an_upgrade_takes_the_variables_of_a_drop_in_into_account(service: Service, newer: Path) -> None:
    await service.credentials()
    await service.start_cluster()
    await service.do("rm", "/etc/stackd/api-key")
    await service.drop_in(f"[Service]\nEnvironment=STACKD_AUTH__KEY={service.key}\n")
    await service.start()
    before = (await service.state())["MainPID"]
    ran = await install(service, newer)
    await service.do("rm", "-r", f"/etc/systemd/system/{UNIT}.d")
    assert "refuses the configuration" not in ran.out + ran.err
    assert (await service.state())["MainPID"] != before


async def test_an_upgrade_starts_no_service_that_was_stopped(service: Service, newer: Path) -> None:
    await service.credentials()
    await service.start_cluster()
    await service.start()
    await service.do("systemctl", "stop", UNIT)
    await service.do("dpkg", "--force-confold", "--install", f"/{newer.name}")
    assert (await service.state())["ActiveState"] == "inactive"


async def test_an_older_package_is_refused_over_a_newer_file_and_the_newer_one_goes_on(
    service: Service, deb: Path, newer: Path
) -> None:
    await service.credentials()
    await service.start_cluster()
    await service.do("dpkg", "--force-confold", "--install", f"/{newer.name}")
    await service.start()
    await service.create()
    before = (await service.state())["MainPID"]
    # the newer format is only in the WAL so far, as after a conversion
    known = await service.do(
        "/usr/bin/python3",
        "-c",
        "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version').fetchone())",
        STATE,
    )
    await set_format(service, int(known) + 1)
    ran = await install(service, deb)
    assert ran.code != 0
    told = f"stackd: {STATE} has format {int(known) + 1}, and stackd {field(deb, 'Version')} knows formats up to {known.strip()}"
    assert told in ran.out + ran.err
    assert version(service.machine) == f"ii {NEWER}"
    assert (await service.state())["MainPID"] == before
    assert len(await service.stacks()) == 1
    await set_format(service, int(known))
    ran = await install(service, deb)
    assert ran.code == 0, ran.out + ran.err
    assert version(service.machine) == f"ii {field(deb, 'Version')}"
    assert len(await service.stacks()) == 1


async def set_format(service: Service, number: int) -> None:
    as_service = ("setpriv", "--reuid=stackd", "--regid=stackd", "--clear-groups")
    await service.do(*as_service, "/usr/bin/python3", "-c", SET_FORMAT, STATE, str(number))


async def test_removal_keeps_configuration_and_state_for_the_next_installation(service: Service, deb: Path) -> None:
    await service.credentials()
    await service.start_cluster()
    await service.start()
    stack = await service.create()
    said = await service.do("dpkg", "--remove", "stackd")
    assert "nothing in the cluster was changed" in said
    named = next(word for word in said.split() if word.endswith(".yaml:")).rstrip(":")
    assert "kind: Namespace" in await service.do("cat", named)
    kept = ("/etc/stackd/config.toml", "/etc/stackd/api-key", "/etc/stackd/kubeconfig", STATE)
    await service.do("ls", *kept)
    for gone in ("/usr/bin/stackd", "/usr/lib/stackd", "/usr/lib/systemd/system/stackd.service", "/run/stackd"):
        assert await service.try_to("test", "-e", gone) != 0, gone
    assert service.machine.show(UNIT, "LoadState") == {"LoadState": "not-found"}
    assert "and not started: systemctl enable --now stackd" in await service.do("dpkg", "--install", f"/{deb.name}")
    await service.do("systemctl", "enable", "--now", UNIT)
    assert [one["stack_id"] for one in await service.stacks()] == [stack["stack_id"]]


async def test_a_purge_leaves_nothing_but_the_user(service: Service) -> None:
    await service.credentials()
    await service.start_cluster()
    await service.do("systemctl", "enable", "--now", UNIT)
    await service.create()
    await service.do("dpkg", "--purge", "stackd")
    found = await service.do(
        "find", "/etc", "/usr", "/var/lib", "/run", "-xdev", "-name", "*stackd*", "-not", "-path", "/run/share/*"
    )
    assert found == ""
    await service.do("getent", "passwd", "stackd")
