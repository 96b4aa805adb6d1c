"""From ``systemctl start`` to READY, or to one line that says what is missing."""

from __future__ import annotations

import asyncio
import base64
import time
from functools import partial
from pathlib import Path

import pytest

from stackd.embedded import Fault, Rule, User, everything
from tests.api.test_process import replace_owner
from tests.certificates import BARE, HAVE_OPENSSL, authority, issued
from tests.gate import gate
from tests.harness import seed
from tests.systemd.service import UNIT, Service, under_load

pytestmark = pytest.mark.systemd
SOON = 15.0
"""Seconds; the daemon spends 5 of them on trying to reach the cluster."""


async def test_it_is_ready_when_it_serves_and_says_so_in_its_status(service: Service) -> None:
    state = await service.state()
    assert (state["ActiveState"], state["StatusText"]) == ("active", "ready: 0 stacks, 2 nodes")
    assert (await service.call("GET", "/readyz")).status == 200
    await service.create()
    await service.until(lambda state: state["StatusText"] == "ready: 1 stack, 2 nodes")


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [("api-key", "no API key is configured"), ("kubeconfig", "no cluster is configured")],
)
async def test_a_start_without_credential_fails_once_and_says_in_one_line_how_to_set_it(
    bare: Service, missing: str, sentence: str
) -> None:
    await bare.credentials()
    await bare.do("rm", f"/etc/stackd/{missing}")
    before = len(await bare.said())
    assert await bare.try_to("systemctl", "start", UNIT) != 0
    said = [line for line in (await bare.said())[before:] if sentence in line]
    assert len(said) == 1
    assert f"/etc/stackd/{missing}" in said[0]
    state = await bare.state()
    assert (state["ActiveState"], state["NRestarts"], state["ExecMainStatus"]) == ("failed", "0", "2")


async def test_a_configuration_with_wrong_modes_is_named(bare: Service) -> None:
    await bare.credentials()
    await bare.do("chmod", "600", "/etc/stackd/config.toml")
    await bare.do("chown", "root:root", "/etc/stackd/config.toml")
    assert await bare.try_to("systemctl", "start", UNIT) != 0
    assert "/etc/stackd/config.toml: cannot be read: Permission denied (user stackd)" in await bare.said()


async def started_without_the_cluster(bare: Service, why: str) -> None:
    """Start the service without a cluster: the start returns, and status, API and log say what stackd waits for.

    Until then a list is refused, since a new file may lack stacks.
    """
    before = len(await bare.said())
    began = time.monotonic()
    await bare.do("systemctl", "start", UNIT)
    assert time.monotonic() - began < SOON
    state = await bare.until(lambda state: why in state["StatusText"])
    assert (state["ActiveState"], state["NRestarts"]) == ("active", "0")
    assert state["StatusText"].startswith("waiting for the cluster: ")
    assert (await bare.call("GET", "/readyz")).json["reasons"] == [state["StatusText"]]
    reply = await bare.call("GET", "/stacks")
    assert (reply.status, why in reply.json["detail"]) == (503, True), reply.text
    said = (await bare.said())[before:]
    assert len([line for line in said if line.startswith("waiting for the cluster: ")]) == 1


async def test_a_start_without_the_cluster_returns_and_says_what_it_waits_for(bare: Service) -> None:
    await bare.credentials()
    await started_without_the_cluster(bare, "cannot be reached")
    await bare.start_cluster()
    state = await bare.until(lambda state: state["StatusText"] == "ready: 0 stacks, 2 nodes")
    assert state["NRestarts"] == "0"


async def test_a_start_with_refused_credentials_returns_and_says_so(bare: Service) -> None:
    await bare.credentials()
    await bare.start_cluster(users=(User(token="other", name="other", rules=(everything(),)),))
    await started_without_the_cluster(bare, "its credentials are not accepted (401)")


async def test_a_start_without_a_right_returns_and_names_it(bare: Service) -> None:
    await bare.credentials(token="some")
    rights = Rule(verbs=frozenset({"*"}), resources=frozenset({"pods", "services", "nodes"}))
    await bare.start_cluster(users=(User(token="some", name="stackd", rules=(rights,)),))
    await started_without_the_cluster(bare, "no right to get namespaces")


@pytest.mark.skipif(not HAVE_OPENSSL, reason="certificates are made with openssl")
async def test_an_authority_without_extensions_is_accepted_and_another_one_is_not(
    bare: Service, tmp_path: Path
) -> None:
    root = authority(tmp_path, extensions=BARE)
    await bare.start_cluster()
    async with gate(bare.cluster_port, issued(tmp_path, root, plain=True)) as front:
        server = f"https://127.0.0.1:{front.port}"
        other = authority(tmp_path, "other")
        for trusted in (other, root):
            data = base64.b64encode(trusted.cert.read_bytes()).decode()
            await bare.credentials(server=server, **{"certificate-authority-data": data})
            if trusted is other:
                await started_without_the_cluster(bare, "certificate is not accepted: ")
            else:
                await bare.do("systemctl", "restart", UNIT)
        await bare.until(lambda state: state["StatusText"] == "ready: 0 stacks, 2 nodes")
        await bare.do("systemctl", "stop", UNIT)


async def test_the_units_are_verified_without_a_word_and_exposed_to_little(service: Service) -> None:
    ran = service.machine.run("systemd-analyze", "verify", UNIT)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    last = (await service.do("systemd-analyze", "security", "--no-pager", UNIT)).splitlines()[-1]
    exposure = float(last.split("service:")[1].split()[0])
    assert exposure <= 1.5, last


async def test_a_key_given_as_credential_works_and_is_nowhere_else_to_be_found(service: Service) -> None:
    assert (await service.call("GET", "/healthz")).status == 200
    refused = await service.call("GET", "/healthz", headers={"X-API-KEY": "sk-wrong-0123456789abcdef"})
    assert refused.status == 401
    await service.call("GET", f"/stats?api_key={service.key}", headers={"X-API-KEY": ""})
    pid = (await service.state())["MainPID"]
    seen = await service.do("bash", "-c", f"tr '\\0' '\\n' < /proc/{pid}/environ; tr '\\0' ' ' < /proc/{pid}/cmdline")
    shown = await service.do("systemctl", "show", UNIT)
    assert service.key not in seen + shown + "\n".join(await service.said())


# ---- a restart under load: no connection is refused, and no request fails


RESTARTS = 3


async def test_a_restart_refuses_no_connection_and_fails_no_request(service: Service) -> None:
    load = await under_load(service, _restarts(service))
    assert load.failures == []
    assert {status for _, status in load.answers} == {200, 201}
    assert load.longest < 10.0


async def _restarts(service: Service) -> None:
    for number in range(RESTARTS):
        await asyncio.sleep(0.3 if number else 0)
        await service.do("systemctl", "restart", UNIT)


async def test_an_owner_that_was_replaced_stands_by_and_a_restart_keeps_its_socket(service: Service) -> None:
    assert service.cluster is not None
    before = await service.state()
    replace_owner(service.cluster)
    after = await service.until(lambda state: state["StatusText"] == "standby: vm9 owns the stacks")
    for name in ("ActiveState", "SubState", "MainPID", "NRestarts"):
        assert after[name] == before[name], after
    assert (await service.call("GET", "/owner")).json["role"] == "standby"
    await service.do("systemctl", "restart", UNIT)
    assert (await service.call("GET", "/owner")).json["role"] == "standby"


# ---- what systemd and stackd do when the daemon is killed, hangs, or is stopped in the middle of its work


async def test_a_killed_daemon_is_started_again_and_has_lost_nothing(service: Service) -> None:
    made = [await service.create() for _ in range(5)]
    before = await service.stacks()
    await service.do("systemctl", "kill", "--signal=KILL", UNIT)
    await service.until(lambda state: state["NRestarts"] == "1" and state["ActiveState"] == "active")
    after = await service.stacks()
    assert [stack["stack_id"] for stack in after] == [stack["stack_id"] for stack in made]
    assert [stack["ports"] for stack in after] == [stack["ports"] for stack in before]


async def test_a_daemon_that_was_killed_often_is_started_again_as_soon_as_after_the_first_time(
    service: Service,
) -> None:
    assert await _next_delay(service) == "2s"
    await service.drop_in("[Service]\nRestartSec=100ms\n")
    for count in range(1, 4):
        await service.do("systemctl", "kill", "--signal=KILL", UNIT)
        await service.until(partial(_is_back, count))
        assert await _next_delay(service) == "100ms"


async def _next_delay(service: Service) -> str:
    return (await service.do("systemctl", "show", "--value", "--property=RestartUSecNext", UNIT)).strip()


def _is_back(count: int, state: dict[str, str]) -> bool:
    return (state["NRestarts"], state["ActiveState"]) == (str(count), "active")


async def test_a_hung_daemon_is_noticed_by_the_watchdog_and_started_again(bare: Service) -> None:
    await bare.drop_in("[Service]\nWatchdogSec=2s\nRestartSec=100ms\n")
    await bare.start_on_a_cluster()
    await bare.do("systemctl", "kill", "--kill-whom=main", "--signal=STOP", UNIT)
    await bare.until(lambda state: state["NRestarts"] == "1" and state["ActiveState"] == "active")
    assert any("Watchdog timeout" in line for line in await bare.said())


async def test_an_unreachable_cluster_is_no_reason_to_be_restarted(bare: Service) -> None:
    await bare.drop_in("[Service]\nWatchdogSec=2s\n")
    await bare.start_on_a_cluster()
    pid = (await bare.state())["MainPID"]
    assert bare.cluster is not None
    await bare.cluster.faults.refuse()
    await bare.until(lambda state: "Kubernetes away" in state["StatusText"])
    await asyncio.sleep(3.0)  # longer than the watchdog's timeout
    state = await bare.state()
    assert (state["MainPID"], state["NRestarts"], state["ActiveState"]) == (pid, "0", "active")
    await bare.cluster.faults.listen()
    await bare.until(lambda state: state["StatusText"] == "ready: 0 stacks, 2 nodes")


async def test_a_stop_lets_a_create_in_flight_finish(service: Service) -> None:
    assert service.cluster is not None
    service.cluster.faults.add(Fault(action="latency", verb="create", resource="pods", seconds=1.5))
    creating = asyncio.create_task(service.call("POST", "/stacks", seed()))
    while not service.cluster.counts.in_flight:
        await asyncio.sleep(0.01)
    await service.do("systemctl", "stop", UNIT)
    reply = await creating
    assert reply.status == 201
    state = await service.state()
    assert (state["ActiveState"], state["Result"]) == ("inactive", "success")
    service.cluster.faults.clear()
    await service.start()
    assert [stack["stack_id"] for stack in await service.stacks()] == [reply.json["stack_id"]]


async def test_a_stop_closes_the_port_though_systemd_keeps_it_over_a_restart(service: Service) -> None:
    await service.do("systemctl", "restart", UNIT)
    assert (await service.call("GET", "/healthz")).status == 200
    await service.do("systemctl", "stop", UNIT)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", service.api_port)


# ---- the timer's backups: made while the daemon runs, replaced, for nobody else to read


BACKUP = "stackd-backup.service"
FOLDER = "/var/lib/stackd/backups"


async def test_the_timers_backup_is_made_and_replaced_and_brings_the_stacks_back(service: Service) -> None:
    assert service.machine.run("systemctl", "is-enabled", "stackd-backup.timer").out.strip() == "disabled"
    await service.do("systemctl", "start", BACKUP)
    stack = await service.create()
    await service.do("systemctl", "start", BACKUP)  # a second one in this hour replaces the first
    listed = (await service.do("bash", "-c", f"stat -c '%U %a %n' {FOLDER} {FOLDER}/*")).splitlines()
    assert listed[0] == f"stackd 700 {FOLDER}"
    assert all(line.startswith(f"stackd 600 {FOLDER}/") for line in listed[1:])
    await service.do("systemctl", "stop", UNIT)
    # as docs/operate.md says
    await service.do(
        "bash",
        "-ec",
        f"rm -f /var/lib/stackd/stackd.db-wal /var/lib/stackd/stackd.db-shm; latest=$(ls -t {FOLDER}/*.db | head -n 1); "
        'install -o stackd -g stackd -m 600 "$latest" /var/lib/stackd/stackd.db',
    )
    await service.start()
    assert [one["stack_id"] for one in await service.stacks()] == [stack["stack_id"]]
    await service.do("systemctl", "start", BACKUP)


async def test_a_backup_that_fails_says_why(service: Service) -> None:
    await service.do("systemctl", "stop", UNIT)
    await service.do("rm", "/var/lib/stackd/stackd.db")
    assert await service.try_to("systemctl", "start", BACKUP) != 0
    said = [record["MESSAGE"] for record in service.machine.journal(f"--unit={BACKUP}")]
    assert any("there is no state file stackd.db" in line for line in said), said
