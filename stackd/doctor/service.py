"""The installed service: does systemd run it, and can its user use its files. Also reloads and starts it.

Owns: the calls to ``systemctl`` and ``journalctl``. Queries return nothing if systemd does not run or the unit is not
installed.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stackd.doctor import Finding, fail, ok, warn
from stackd.files import user_name
from stackd.upkeep import OLDER_BUILD, REFUSED, RESTART, WAITS

if TYPE_CHECKING:
    from stackd.config import Config

SERVICE: Final = "stackd.service"
SECONDS: Final = 10.0
_PROPERTIES: Final = (
    "LoadState", "ActiveState", "SubState", "Result", "NRestarts", "StatusText", "User",
    "UnitFileState", "NeedDaemonReload", "ExecMainStartTimestamp", "WorkingDirectory",
)  # fmt: skip
ABOUT: Final = "service"
FILES: Final = "files"
# A process that ends says why at most this long before the next one starts.
ENDING_SECONDS: Final = 60.0
# File times are coarse, and systemd's times are too.
SETTLED_SECONDS: Final = 1.0


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


def find_unit() -> Unit | None:
    """The service's unit; None if systemd does not run or does not know it."""
    if not runs_here():
        return None
    shown = _run("systemctl", "show", "--timestamp=unix", f"--property={','.join(_PROPERTIES)}", SERVICE)
    properties = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    return read_unit(properties) if properties.get("LoadState") == "loaded" else None


def read_unit(properties: Mapping[str, str]) -> Unit:
    """The unit from its properties, as ``systemctl show`` prints them."""
    started, of = properties.get("ExecMainStartTimestamp", "").removeprefix("@"), defaultdict(str, properties)
    return Unit(
        active=of["ActiveState"],
        sub=of["SubState"],
        result=of["Result"],
        restarts=int(of["NRestarts"] or 0),
        status=of["StatusText"],
        user=of["User"],
        enabled=of["UnitFileState"] in ("enabled", "enabled-runtime", "static"),
        stale=of["NeedDaemonReload"] == "yes",
        started=float(started) if started.isdecimal() else 0.0,
        folder=of["WorkingDirectory"].lstrip("!-"),
    )


def last_error(unit: Unit) -> str:
    """The latest error in the service's journal since its last start; empty if there is none or it may not be read.

    For a service at work or on its way, it is the error for which the process before ended, if it did.
    """
    if not unit.started:
        return ""
    since = unit.started - (ENDING_SECONDS if unit.restarts else 0.0)
    until = (f"--until=@{unit.started:.0f}",) if unit.restarts and unit.active in ("active", "reloading") else ()
    return _journal("--lines=1", "--priority=err", f"--since=@{since:.0f}", *until).strip()


def reloads_since(moment: float) -> str:
    """What the daemon has logged of its reloads since then, one line each."""
    _run("journalctl", "--sync")
    return _journal(f"--since=@{moment:.6f}", "LOGGER=stackd.upkeep.reload")


def reload() -> bool:
    """Have the service reload; returns whether it did. systemctl says on standard error why not.

    systemctl succeeds although the daemon refuses, unless ``stackd check --for-reload`` has found the reason, too.
    """
    done = subprocess.run(("systemctl", "reload", SERVICE), check=False)  # noqa: S603, S607
    unit = find_unit()
    return done.returncode == 0 and not (unit and REFUSED in unit.status)


def enable_and_start() -> str:
    """Have the service run now and at each boot; returns the error of systemctl, empty if it succeeded."""
    words = ("systemctl", "enable", "--now", SERVICE)
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603
    return "" if done.returncode == 0 else done.stderr.strip() or f"systemctl ended with {done.returncode}"


def runs_here() -> bool:
    """Whether systemd runs this machine."""
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def _keeps_ending(unit: Unit) -> bool:
    """Whether systemd restarts the service after it has ended.

    Between an end and the next start, the unit is in several states. Some last only a moment: it is ``deactivating``,
    and, since systemd 254, ``inactive`` or ``failed`` with a sub-state such as ``dead-before-auto-restart``.
    """
    if "auto-restart" in unit.sub:
        return True
    ending = unit.active == "deactivating" and unit.result != "success"
    return bool(unit.restarts) and (unit.active == "activating" or ending)


def examine(unit: Unit, error: str) -> Iterator[Finding]:
    """What systemd does with the service; ``error`` is the last error in its journal, if there is any."""
    why = f"; the last error: {error}" if error else ""
    if _keeps_ending(unit):
        text = f"it keeps ending; systemd has restarted it {unit.restarts} times{why}"
        yield fail(ABOUT, text, "fix that; systemd tries again by itself")
    elif unit.active == "failed":
        yield fail(ABOUT, f"it has failed ({unit.result}){why}", "fix that, then: systemctl restart stackd")
    elif unit.active == "activating":
        yield warn(ABOUT, f"it is starting: {unit.status}")
    elif unit.active in ("active", "reloading"):
        yield from _at_work(unit, why)
    elif unit.enabled:
        yield fail(ABOUT, f"it does not run{why}", "systemctl start stackd")
    else:
        yield warn(ABOUT, "it is installed, but neither runs nor starts at boot", "systemctl enable --now stackd")
    if unit.stale:
        yield warn(ABOUT, "its unit file was changed, but systemd has not read it yet", "systemctl daemon-reload")


def waiting(unit: Unit) -> list[str]:
    """The changed keys of the configuration that wait for a restart."""
    parts = unit.status.split("; ")
    return [key for part in parts if part.startswith(WAITS) for key in part.removeprefix(WAITS).split(", ")]


def _at_work(unit: Unit, why: str) -> Iterator[Finding]:
    parts = unit.status.split("; ")
    refused = [part.removeprefix(REFUSED) for part in parts if part.startswith(REFUSED)]
    if refused:
        yield fail(ABOUT, f"its last reload was refused: {refused[0]}", "fix that, then: stackd reload")
    if keys := waiting(unit):
        yield warn(ABOUT, f"changed, but not in force until a restart: {', '.join(keys)}", RESTART)
    if f"{OLDER_BUILD}: {RESTART}" in parts:
        yield fail(ABOUT, f"it {OLDER_BUILD} than the one that is installed", RESTART)
    if unit.restarts:
        yield warn(ABOUT, f"it has ended and was restarted {unit.restarts} times{why}", "journalctl -u stackd")
    if not unit.enabled:
        yield warn(ABOUT, "it does not start at boot", "systemctl enable stackd")
    if unit.status.startswith(("ready", "standby")):
        yield ok(ABOUT, unit.status)
    else:  # the daemon itself says why
        yield warn(ABOUT, unit.status.partition(":")[0] or "it reports no status")


def as_seen_by(config: Config, unit: Unit) -> Config:
    """The configuration with the state's path as the service sees it, which has a working directory of its own."""
    state = config.state.model_copy(update={"path": str(Path(unit.folder or "/") / config.state.path)})
    return config.model_copy(update={"state": state})


def not_in_force(unit: Unit, loaded_at: float, files: Iterable[Path]) -> Iterator[Finding]:
    """The files that were changed after the service was started and after it last took changes over; none if a restart
    is due, which takes them, too.
    """
    if waiting(unit):
        return
    since = max(unit.started, loaded_at)
    for path in files:
        try:
            changed = path.stat().st_mtime
        except OSError:
            continue
        if unit.active == "active" and changed > since + SETTLED_SECONDS:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(changed))
            yield warn(ABOUT, f"{path} was changed at {when}, but is not in force", "stackd reload")


def owners(config: Config, unit: Unit) -> Iterator[Finding]:
    """The state's files that do not belong to the service's user, so that the service cannot use them."""
    try:
        uid = pwd.getpwnam(unit.user or "root").pw_uid
    except KeyError:
        yield fail(FILES, f"the service runs as {unit.user}, but there is no such user", "systemd-sysusers")
        return
    state = Path(config.state.path)
    wrong = {}
    for path in (state.parent, *sorted(state.parent.glob(f"{state.name}*"))):
        with suppress(OSError):
            if (owner := path.stat().st_uid) != uid:
                wrong[path] = user_name(owner)
    if wrong:
        listed = ", ".join(f"{path} ({owner})" for path, owner in wrong.items())
        text = f"the service runs as {unit.user}, but these belong to others: {listed}"
        yield fail(FILES, text, f"chown {unit.user}: {' '.join(map(str, wrong))}")


def unreadable(config: Config, config_path: Path | None, unit: Unit) -> Iterator[Finding]:
    """The configuration and the files that it names, without the credentials that systemd hands over, which the
    service's user cannot read. Only root can find out.
    """
    credentials = {*map(config_path.with_name, ("api-key", "play-secret", "kubeconfig"))} if config_path else set()
    server, folder = config.server, Path(config.templates.directory)
    named = [config.auth.key_file, server.tls_cert, server.tls_key, *config.cluster.kubeconfig.split(os.pathsep)]
    paths = [*([config_path] if config_path else []), *(Path(name) for name in named if name)]
    if config.templates.directory:
        paths += [folder, *sorted(folder.glob("*.yaml"))]
    for path in paths:
        if path.exists() and path not in credentials and not _may_read(unit.user, path):
            try:
                group = grp.getgrgid(pwd.getpwnam(unit.user).pw_gid).gr_name
            except KeyError:
                group = unit.user
            text = f"{unit.user}, the service's user, cannot read {path}"
            yield fail(FILES, text, f"chgrp {group} {path}; chmod 640 {path}; and check the folders above it")


def _may_read(user: str, path: Path) -> bool:
    """Whether that user may read the file; True if this process cannot find out."""
    if os.geteuid() != 0 or not user:
        return True
    try:
        entry = pwd.getpwnam(user)
        groups = os.getgrouplist(user, entry.pw_gid)
        done = subprocess.run(  # noqa: S603
            ("test", "-r", str(path)),  # noqa: S607
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=groups,
            check=False,
            cwd="/",
        )
    except (KeyError, OSError, subprocess.SubprocessError):
        return True
    return done.returncode == 0


def _journal(*matches: str) -> str:
    """What the service's processes have logged; systemd's messages about them only repeat that something is wrong."""
    return _run("journalctl", "--quiet", "--no-pager", "--output=cat", f"_SYSTEMD_UNIT={SERVICE}", *matches)


def _run(*words: str) -> str:
    """The command's output; empty if it does not exist, fails or takes too long."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False).stdout  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
