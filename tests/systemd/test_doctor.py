"""``stackd doctor`` as root on a machine with an installed service: it finds what is wrong, and how to repair it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.systemd import breakout
from tests.systemd.service import UNIT, Service, doctor

pytestmark = pytest.mark.systemd
PROGRAM = "/usr/local/lib/breakout.py"
PROGRAMS = "dirname $(readlink --canonicalize $(command -v stackd))"


async def failure(service: Service, subject: str) -> str:
    """The failure that the doctor finds about the subject: the only one."""
    code, findings = await doctor(service)
    assert code == 1
    (found,) = [line for line in findings if line.startswith(f"fail {subject}: ")]
    return found


async def test_the_named_command_repairs_state_of_the_wrong_owner(service: Service) -> None:
    await service.run("systemctl", "enable", "--quiet", UNIT)
    code, findings = await doctor(service)
    assert code == 0, findings
    await service.run("systemctl", "stop", UNIT)
    await service.run("chown", "root:", "/var/lib/stackd/stackd.db")
    await service.try_to("systemctl", "start", UNIT)
    await service.until(lambda state: int(state["NRestarts"]) >= 1)
    assert "it keeps ending" in await failure(service, "service")
    command = (await failure(service, "files")).rpartition("→ ")[2]
    assert command == "chown stackd: /var/lib/stackd/stackd.db"
    await service.run("bash", "-c", command)
    await service.until(lambda state: state["StatusText"] == "ready: 0 stacks, 2 nodes")


async def test_nothing_is_gained_by_breaking_into_the_daemon(bare: Service) -> None:
    source = Path(breakout.__file__).read_text()
    await asyncio.to_thread(bare.machine.write, PROGRAM, source)
    programs = (await bare.run("bash", "-c", PROGRAMS)).strip()
    await bare.drop_in(f"[Service]\nExecStartPre={programs}/python {PROGRAM}\n")
    await bare.start_on_a_cluster()
    outcome = json.loads(await bare.run("cat", "/var/lib/stackd/breakout.json"))
    assert outcome["broke out"] == []
    assert outcome["allowed"] == list(breakout.ALLOWED)
