"""Attempts to break out of the sandbox from inside, and an upgrade from a wheel that keeps the state."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.systemd import breakout
from tests.systemd.machine import ROOT, install
from tests.systemd.service import UNIT, Service

pytestmark = pytest.mark.systemd

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
