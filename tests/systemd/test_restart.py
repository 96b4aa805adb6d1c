"""A restart under load: no connection is refused, and no request fails."""

from __future__ import annotations

import asyncio

import pytest

from tests.api.test_process import replace_owner
from tests.systemd.load import under_load
from tests.systemd.service import UNIT, Service

pytestmark = pytest.mark.systemd

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
