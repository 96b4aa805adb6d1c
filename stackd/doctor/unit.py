"""The service as systemd knows it: what the unit is doing, what its journal says; also reloads and starts it.

Owns: the calls to ``systemctl`` and ``journalctl``. Queries return nothing if systemd does not run or the unit is not
installed.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SERVICE: Final = "stackd.service"
SOCKET: Final = "stackd.socket"
SECONDS: Final = 10.0
_PROPERTIES: Final = (
    "LoadState", "ActiveState", "SubState", "Result", "NRestarts", "StatusText", "User",
    "UnitFileState", "NeedDaemonReload", "ExecMainStartTimestamp", "WorkingDirectory",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """The unit's state. ``user`` and ``folder``: as whom and where it runs; ``started``: when its process started
    (seconds since the epoch, 0: never); ``stale``: its file was changed since systemd has read it.
    """

    active: str
    sub: str
    result: str
    restarts: int
    status: str
    user: str
    enabled: bool
    stale: bool
    started: float
    folder: str = ""
    socket_waits: bool = False


def unit() -> Unit | None:
    """The service's unit; None if systemd does not run or does not know it."""
    found = _properties(SERVICE)
    if found.get("LoadState") != "loaded":
        return None
    return read(found, socket_waits=_properties(SOCKET).get("ActiveState") == "active")


def read(found: Mapping[str, str], *, socket_waits: bool = False) -> Unit:
    """The unit from its properties, as ``systemctl show`` prints them."""
    return Unit(
        active=found.get("ActiveState", ""),
        sub=found.get("SubState", ""),
        result=found.get("Result", ""),
        restarts=int(found.get("NRestarts") or 0),
        status=found.get("StatusText", ""),
        user=found.get("User", ""),
        enabled=found.get("UnitFileState") in ("enabled", "enabled-runtime", "static"),
        stale=found.get("NeedDaemonReload") == "yes",
        started=_seconds(found.get("ExecMainStartTimestamp", "")),
        folder=found.get("WorkingDirectory", "").lstrip("!-"),
        socket_waits=socket_waits,
    )


def last_error() -> str:
    """The latest error in the service's journal; empty if there is none or it may not be read."""
    return _journal("--lines=1", "--priority=err").strip()


def said_since(moment: float, logger: str) -> str:
    """What one logger of the daemon has logged since then, one line each."""
    _run("journalctl", "--sync")
    return _journal(f"--since=@{moment:.6f}", f"LOGGER={logger}")


def reload() -> bool:
    """Have the service reload; returns whether it did. systemctl says on standard error why not."""
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        return False
    return subprocess.run([systemctl, "reload", SERVICE], check=False).returncode == 0  # noqa: S603 - no input in it


def enable_and_start() -> str:
    """Have the service run now and at each boot; returns the error of systemctl, empty if it succeeded."""
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        return "there is no systemctl"
    done = subprocess.run(  # noqa: S603 - no input in it
        [systemctl, "enable", "--now", SERVICE], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stderr.strip() or f"systemctl ended with {done.returncode}"


def runs_here() -> bool:
    """Whether systemd runs this machine."""
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def _properties(name: str) -> dict[str, str]:
    if not runs_here():
        return {}
    lines = _run("systemctl", "show", "--timestamp=unix", f"--property={','.join(_PROPERTIES)}", name).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _journal(*matches: str) -> str:
    """What the service's processes have logged; systemd's messages about them only repeat that something is wrong."""
    return _run("journalctl", "--quiet", "--no-pager", "--output=cat", f"_SYSTEMD_UNIT={SERVICE}", *matches)


def _run(command: str, *arguments: str) -> str:
    """The command's output; empty if the command does not exist, fails or takes too long."""
    path = shutil.which(command)
    if path is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - the arguments are this module's own
            [path, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _seconds(text: str) -> float:
    return float(text.removeprefix("@")) if text.removeprefix("@").isdecimal() else 0.0
