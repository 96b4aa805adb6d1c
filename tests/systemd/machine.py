"""A machine with its own systemd: a booted sdbox, or this host if the environment opts into that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SDBOX_VARIABLE = "STACKD_TEST_SDBOX"
HOST_VARIABLE = "STACKD_TEST_HOST_SYSTEMD"
SECONDS = 60.0
IN_USE = [path for path in ("/etc/stackd", "/var/lib/stackd") if Path(path).exists()]
"""What a stackd that is installed on this host has left there; checked before any test runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """The result of a command."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """``enter`` precedes each command; ``files`` is an overlay on the machine's root (on the host, the root itself)."""

    enter: tuple[str, ...]
    environment: dict[str, str]
    files: Path

    def run(self, *command: str, stdin: str = "") -> Ran:
        """Run a command to its end."""
        done = subprocess.run(
            [*self.enter, *command],
            input=stdin,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return Ran(code=done.returncode, out=done.stdout, err=done.stderr)

    def must(self, *command: str, stdin: str = "") -> str:
        """Run a command, which must succeed; return its output."""
        ran = self.run(*command, stdin=stdin)
        assert ran.code == 0, f"{command}: {ran.code}: {ran.out}{ran.err}"
        return ran.out

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        """Write a file that belongs to root."""
        self.must("install", "-D", "-m", mode, "/dev/stdin", path, stdin=text)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit."""
        lines = self.must("systemctl", "show", unit, *(f"--property={name}" for name in properties)).splitlines()
        return dict(line.split("=", 1) for line in lines)


def sdbox() -> Path | None:
    """The path of the tool: from the environment, or beside the checkout."""
    named = os.environ.get(SDBOX_VARIABLE)
    places = [Path(named)] if named else [parent / "shared/tools/sdbox" for parent in list(ROOT.parents)[:3]]
    return next((place for place in places if place.is_file()), None)


def why_not() -> str:
    """Why there can be no machine here; empty if there can be one."""
    if os.geteuid() != 0:
        return "a systemd can only be booted, or installed into, by root"
    if not shutil.which("systemctl") or not Path("/usr/lib/systemd/systemd").exists():
        return "systemd is not installed"
    if os.environ.get(HOST_VARIABLE) == "1":
        if IN_USE:
            return f"{HOST_VARIABLE}=1, but {IN_USE[0]} exists: the tests would wipe a stackd that is in use"
        return "" if Path("/run/systemd/system").is_dir() else f"{HOST_VARIABLE}=1, but this host does not run systemd"
    if sdbox() is None:
        return f"there is no sdbox: name one with {SDBOX_VARIABLE}, or opt into this host with {HOST_VARIABLE}=1"
    return ""


def box(folder: Path) -> Machine:
    """A box in that folder, on this host's network; it is not booted yet."""
    tool = sdbox()
    assert tool is not None
    environment = {"SDBOX": str(folder), "SDBOX_NET": "host"}
    (folder / "files").mkdir(parents=True)
    return Machine(enter=(str(tool), "exec"), environment=environment, files=folder / "files")


@contextmanager
def booted(machine: Machine) -> Iterator[Machine]:
    """The box while it runs; its files are deleted afterwards."""
    environment = {**os.environ, **machine.environment}
    try:
        subprocess.run([machine.enter[0], "boot"], env=environment, check=True, capture_output=True, timeout=60)
        yield machine
    finally:
        subprocess.run([machine.enter[0], "stop"], env=environment, check=True, capture_output=True, timeout=60)
        shutil.rmtree(machine.files.parent, ignore_errors=True)


def install(folder: Path) -> None:
    """Build a wheel in ``folder``, and run ``make install`` with it."""
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "stackd", source / "stackd", ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation")
    _must(*pip, "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("stackd-*.whl")
    _must("make", "-C", str(ROOT), "--no-print-directory", "install", f"WHEEL={wheel}")


def _must(*command: str) -> None:
    environment = {
        name: os.environ[name] for name in os.environ if not name.startswith(("MAKE", "PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
