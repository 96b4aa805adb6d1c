"""What systemd and stackd do when the daemon is killed, hangs, or is stopped in the middle of its work."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from stackd.embedded import Fault
from tests.harness import seed
from tests.systemd.service import UNIT, Service

pytestmark = pytest.mark.systemd


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
