"""From ``systemctl start`` to READY, or to one line that says what is missing; then restarts, deaths, hangs and stops."""

from __future__ import annotations

import asyncio

import pytest

from stackd.embedded import Fault
from stackd.embedded.resources import LEASES
from tests.daemons import replace_owner
from tests.harness import eventually, request_for, seed
from tests.systemd.service import COMMAND, UNIT, Service

pytestmark = pytest.mark.systemd

READY = "ready: 0 stacks, 2 nodes"
BACKUP = "stackd-backup.service"
FOLDER = "/var/lib/stackd/backups"
RESTORE = f"""
rm -f /var/lib/stackd/stackd.db-wal /var/lib/stackd/stackd.db-shm; latest=$(ls -t {FOLDER}/*.db | head -n 1)
install -o stackd -g stackd -m 600 "$latest" /var/lib/stackd/stackd.db"""
"""As docs/proxy.md says."""

INCOMPLETE = {
    "rm /etc/stackd/api-key": "no API key is configured",
    "chown root:root /etc/stackd/config.toml": "config.toml: cannot be read: Permission denied (user stackd)",
}


async def test_a_start_that_lacks_something_says_in_one_line_what_it_is(bare: Service) -> None:
    for command, sentence in INCOMPLETE.items():
        await bare.credentials()
        await bare.run("bash", "-c", command)
        before = len(await bare.messages())
        assert await bare.try_to("systemctl", "start", UNIT) != 0
        assert len([line for line in (await bare.messages())[before:] if sentence in line]) == 1, command
        state = await bare.state()
        assert (state["ActiveState"], state["NRestarts"], state["ExecMainStatus"]) == ("failed", "0", "2")
        await bare.try_to("systemctl", "reset-failed", UNIT)


async def test_a_ready_service_shows_its_key_nowhere(service: Service) -> None:
    state = await service.state()
    assert (state["ActiveState"], state["StatusText"]) == ("active", READY)
    await service.get("/readyz")
    await service.refused(401, "", "/healthz", method="GET", key="sk-wrong-0123456789abcdef")
    await service.get(f"/stats?api_key={service.key}", key=None)
    files = f"tr '\\0' '\\n' < /proc/{state['MainPID']}/environ; tr '\\0' ' ' < /proc/{state['MainPID']}/cmdline"
    shown = await service.run("bash", "-c", f"{files}; systemctl show {UNIT}")
    assert service.key not in shown + "\n".join(await service.messages())
    ran = service.machine.run("systemd-analyze", "verify", UNIT)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    last = (await service.run("systemd-analyze", "security", "--no-pager", UNIT)).splitlines()[-1]
    assert float(last.split("service:")[1].split()[0]) <= 1.5, last


async def test_the_journal_has_each_stacks_story_under_its_id_and_no_secret(service: Service) -> None:
    reply = await service.call("POST", "/stacks", request_for("registry.example/fail-3"))
    stack_id = reply.json["stack_id"]
    await service.until_status(stack_id, "failed")
    job = await service.batch_delete(stack_id, "stack-none")
    await service.finished_job(job)
    records = await service.journal(f"STACK_ID={stack_id}")
    assert {(record["PRIORITY"], record["_TRANSPORT"]) for record in records} == {("6", "journal")}
    story = {record["MESSAGE"]: record for record in records}
    for part in ("created on", "failed (Error)", "ports given back", "removed (batch)"):
        assert any(part in line for line in story), story
    created = next(record for line, record in story.items() if "created on" in line)
    assert created["REQUEST_ID"] == reply.headers["X-Request-ID"]
    assert any("1 done, 1 not found" in line for line in await service.messages(f"JOB_ID={job}"))
    await service.call("POST", "/stacks", {"target_port": [], "pod_spec": "secret-of-the-body"})
    requests = await service.journal(f"_SYSTEMD_UNIT={UNIT}", "LOGGER=stackd.request")
    assert [requests[-1][field] for field in ("METHOD", "ROUTE", "STATUS")] == ["POST", "/stacks", "400"]
    for secret in ("secret-of-the-body", service.key):
        assert secret not in str(requests)


async def test_an_owner_that_was_replaced_stands_by(service: Service) -> None:
    assert service.cluster is not None
    before = await service.state()
    replace_owner(service.cluster)
    after = await service.until(lambda state: state["StatusText"] == "standby: vm9 owns the stacks")
    for name in ("ActiveState", "SubState", "MainPID", "NRestarts"):
        assert after[name] == before[name], after
    await service.run("rm", "/etc/stackd/kubeconfig")
    ran = await asyncio.to_thread(service.machine.run, COMMAND, "reload")
    assert (ran.code, "no cluster is configured" in ran.out) == (1, True), ran


async def test_a_daemon_that_is_killed_or_hangs_is_started_again_without_a_loss(bare: Service) -> None:
    await bare.drop_in("[Service]\nWatchdogSec=4s\nRestartSec=100ms\n")
    await bare.start_on_a_cluster()
    await asyncio.gather(*(bare.create() for _ in range(5)))
    before = {stack["stack_id"]: stack["ports"] for stack in await bare.stacks()}
    for count, name in ((1, "KILL"), (2, "STOP")):
        await bare.run("systemctl", "kill", "--kill-whom=main", f"--signal={name}", UNIT)
        await bare.until(lambda state, n=count: int(state["NRestarts"]) >= n and state["ActiveState"] == "active")  # type: ignore[misc]
        assert {stack["stack_id"]: stack["ports"] for stack in await bare.stacks()} == before
    assert any("Watchdog timeout" in line for line in await bare.messages())


async def test_a_restart_takes_another_host_and_a_stop_finishes_creates_and_gives_port_and_lease_back(
    service: Service,
) -> None:
    cluster = service.cluster
    assert cluster is not None

    def lease() -> tuple[bool, int]:
        """Whether somebody holds the Lease, and how often the holder has changed."""
        spec = cluster.store.of(LEASES).get("stacks", "stackd-default").obj["spec"]
        return bool(spec["holderIdentity"]), spec["leaseTransitions"]

    await service.configure(server='host = "0.0.0.0"')
    await service.run("systemctl", "restart", UNIT)
    assert any(f"listening on 0.0.0.0:{service.api_port}" in line for line in await service.messages())
    assert lease() == (True, 0)
    cluster.faults.add(Fault(action="latency", verb="create", resource="pods", seconds=1.5))
    creating = asyncio.create_task(service.call("POST", "/stacks", seed()))
    await eventually(lambda: cluster.counts.in_flight)
    await service.run("systemctl", "stop", UNIT)
    reply = await creating
    assert reply.status == 201
    state = await service.state()
    assert (lease(), state["Result"], state["NRestarts"]) == ((False, 0), "success", "0")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", service.api_port)
    cluster.faults.clear()
    await service.start()
    assert (lease(), await service.listed()) == ((True, 1), [reply.json["stack_id"]])


async def test_the_timers_backup_is_replaced_for_nobody_else_to_read_and_brings_the_stacks_back(
    service: Service,
) -> None:
    assert service.machine.run("systemctl", "is-enabled", "stackd-backup.timer").out.strip() == "disabled"
    await service.run("systemctl", "start", BACKUP)
    stack = await service.create()
    await service.run("systemctl", "start", BACKUP)  # a second one in this hour replaces the first
    listed = (await service.run("bash", "-c", f"stat -c '%U %a %n' {FOLDER} {FOLDER}/*")).splitlines()
    assert listed[0] == f"stackd 700 {FOLDER}"
    assert all(line.startswith(f"stackd 600 {FOLDER}/") for line in listed[1:])
    await service.run("systemctl", "stop", UNIT)
    await service.run("bash", "-ec", RESTORE)
    await service.start()
    assert await service.listed() == [stack["stack_id"]]
