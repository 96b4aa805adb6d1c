"""A restart under load: no connection is refused, and no request fails."""

from __future__ import annotations

import asyncio

import pytest

from tests.api.test_process import replace_owner
from tests.systemd.load import under_load
from tests.systemd.service import UNIT, Service

pytestmark = pytest.mark.systemd

RESTARTS = 3
SOCKET = """[Unit]
Description=the API's socket
[Socket]
ListenStream=127.0.0.1:{port}
Backlog=4096
"""


async def test_a_restart_refuses_no_connection_and_fails_no_request(service: Service) -> None:
    load = await under_load(service, _restarts(service))
    assert load.failures == []
    assert {status for _, status in load.answers} == {200, 201}
    assert load.longest < 10.0


async def test_a_restart_behind_a_socket_unit_refuses_no_connection_and_fails_no_request(bare: Service) -> None:
    await bare.credentials()
    await bare.start_cluster()
    text = SOCKET.format(port=bare.api_port)
    await asyncio.to_thread(bare.machine.write, "/etc/systemd/system/stackd.socket", text)
    await bare.do("systemctl", "daemon-reload")
    await bare.do("systemctl", "start", "stackd.socket")
    assert (await bare.state())["ActiveState"] == "inactive"
    assert (await bare.call("GET", "/healthz")).status == 200
    assert (await bare.state())["ActiveState"] in ("activating", "active")
    await bare.until(lambda state: state["ActiveState"] == "active")
    load = await under_load(bare, _restarts(bare))
    assert load.failures == []
    assert {status for _, status in load.answers} == {200, 201}


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
