"""``stackd doctor`` as root on a machine with an installed service: it finds what is wrong, and how to repair it."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.systemd import breakout
from tests.systemd.machine import ROOT, Ran, install
from tests.systemd.service import COMMAND, UNIT, Service

pytestmark = pytest.mark.systemd


@dataclass(frozen=True, slots=True)
class Told:
    """The doctor's output; ``about`` returns the lines on one subject, with their levels, joined."""

    ran: Ran

    def about(self, subject: str) -> list[str]:
        found: list[str] = []
        for line in self.ran.out.splitlines():
            level, about, text = line[:4].strip(), line[6:19].strip(), line[21:].strip()
            if level:
                found.append(f"{level} {about}: {text}")
            elif found and text:
                found[-1] += f" {text}"
        return [line for line in found if f" {subject}: " in line]


async def doctor(service: Service) -> Told:
    command = ("env", "COLUMNS=1000", COMMAND, "doctor")
    return Told(await asyncio.to_thread(service.machine.run, *command))


async def test_a_service_that_is_well_has_no_failure(service: Service) -> None:
    await service.do("systemctl", "enable", "--quiet", UNIT)
    told = await doctor(service)
    assert told.ran.code == 0, told.ran.out
    assert told.about("service") == ["ok service: ready: 0 stacks, 2 nodes"]
    assert any(line.startswith("ok daemon: it is ready") for line in told.about("daemon"))


async def test_state_of_the_wrong_owner_is_found_and_the_command_that_is_named_mends_it(service: Service) -> None:
    await service.do("systemctl", "stop", UNIT)
    await service.do("bash", "-c", "chown root: /var/lib/stackd/stackd.db")
    await service.try_to("systemctl", "start", UNIT)
    await service.until(lambda state: int(state["NRestarts"]) >= 1)
    told = await doctor(service)
    assert told.ran.code == 1
    (crashing,) = [line for line in told.about("service") if line.startswith("fail")]
    assert "it keeps ending" in crashing
    assert "stackd.db" in crashing
    (owner,) = [line for line in told.about("files") if line.startswith("fail")]
    command = owner.rpartition("→ ")[2]
    assert command == "chown stackd: /var/lib/stackd/stackd.db"
    await service.do("bash", "-c", command)
    await service.until(lambda state: state["StatusText"] == "ready: 0 stacks, 2 nodes")


async def test_a_start_that_failed_is_found_with_its_reason(bare: Service) -> None:
    await bare.credentials()
    await bare.do("bash", "-c", "echo not-a-key-at-all > /etc/stackd/config.toml")
    await bare.try_to("systemctl", "start", UNIT)
    told = await doctor(bare)
    assert told.ran.code == 1
    assert any("config.toml:1: " in line for line in told.about("configuration"))
    (failed,) = [line for line in told.about("service") if line.startswith("fail")]
    assert "it has failed (exit-code) → " in failed  # its reason stands above
    assert "systemctl restart stackd" in failed


async def test_an_error_of_an_earlier_start_is_not_the_last_one(service: Service) -> None:
    await service.do("systemctl", "enable", "--quiet", UNIT)
    await service.do("systemctl", "stop", UNIT)
    await service.do("chown", "root:", "/var/lib/stackd/stackd.db")
    await service.try_to("systemctl", "start", UNIT)
    await service.until(lambda state: int(state["NRestarts"]) >= 1)
    await service.do("systemctl", "stop", UNIT)
    await service.do("chown", "stackd:", "/var/lib/stackd/stackd.db")
    await asyncio.sleep(1.1)  # the doctor reads systemd's times to the second
    await service.start()
    await service.do("systemctl", "stop", UNIT)
    assert (await doctor(service)).about("service") == ["fail service: it does not run → systemctl start stackd"]


async def test_what_was_edited_and_is_not_in_force_is_found(service: Service) -> None:
    await asyncio.sleep(1.5)  # file times are compared to the second
    await service.configure(stacks='ttl = "90m"\nnamespace = "others"')
    told = await doctor(service)
    (edited,) = [line for line in told.about("service") if "is not in force" in line]
    assert "/etc/stackd/config.toml was changed at " in edited
    assert edited.endswith("→ stackd reload")
    await service.do(COMMAND, "reload")
    told = await doctor(service)
    (waits,) = [line for line in told.about("service") if "not in force" in line]
    assert "stacks.namespace" in waits
    assert waits.endswith("→ systemctl restart stackd")


async def test_a_file_that_only_root_can_read_is_found_by_check_and_doctor(bare: Service) -> None:
    await bare.credentials()
    await bare.start_cluster()
    await bare.do("bash", "-c", "chgrp root /etc/stackd/config.toml")
    ran = await asyncio.to_thread(bare.machine.run, COMMAND, "check")
    assert ran.code == 2
    assert "the service's user, cannot read /etc/stackd/config.toml" in ran.err
    told = await doctor(bare)
    assert told.ran.code == 1
    assert any("cannot read /etc/stackd/config.toml" in line for line in told.about("files"))


# ---- attempts to break out of the sandbox from inside, and an upgrade from a wheel that keeps the state


PROGRAM = "/usr/local/lib/stackd/breakout.py"


async def test_nothing_is_gained_by_breaking_into_the_daemon(bare: Service) -> None:
    source = Path(breakout.__file__).read_text()
    await asyncio.to_thread(bare.machine.write, PROGRAM, source)
    await bare.drop_in(f"[Service]\nExecStartPre=/usr/local/lib/stackd/bin/python {PROGRAM}\n")
    await bare.start_on_a_cluster()
    outcome = json.loads(await bare.do("cat", "/var/lib/stackd/breakout.json"))
    assert outcome["broke out"] == []
    assert outcome["allowed"] == list(breakout.ALLOWED)


async def test_an_upgrade_from_a_wheel_keeps_the_state(service: Service, tmp_path: Path) -> None:
    before = [await service.create() for _ in range(3)]
    wheel = await asyncio.to_thread(_newer_wheel, tmp_path)
    files = service.machine.files if service.machine.files == Path("/") else tmp_path / "files"
    await asyncio.to_thread(install, files, wheel=wheel)
    if files != Path("/"):
        share = service.machine.files.parent / "share"
        await asyncio.to_thread(shutil.move, files / "usr/local/lib/stackd", share / "stackd")
        place = "/usr/local/lib/stackd"
        await service.do("bash", "-c", f"rm -rf {place} && cp -a /run/share/stackd {place} && rm -rf /run/share/stackd")
    assert (await service.call("GET", "/healthz")).status == 200
    await service.do("systemctl", "restart", UNIT)
    assert 'version="9.9.9"' in (await service.call("GET", "/metrics")).text
    assert [stack["stack_id"] for stack in await service.stacks()] == [stack["stack_id"] for stack in before]


def _newer_wheel(folder: Path) -> Path:
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "stackd", source / "stackd", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (source / "pyproject.toml", source / "stackd/__init__.py"):
        path.write_text(
            path.read_text()
            .replace('version = "0.1.0"', 'version = "9.9.9"')
            .replace('__version__ = "0.1.0"', '__version__ = "9.9.9"')
        )
    build = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
    ]
    subprocess.run([*build, str(source)], check=True, capture_output=True, timeout=120)
    return next(folder.glob("stackd-9.9.9-*.whl"))
