"""What the doctor says of the installed service and its files."""

from __future__ import annotations

import os
import pwd
import time
from pathlib import Path

import pytest

from stackd.config import Config, load
from stackd.doctor import Level, service
from stackd.doctor.service import Unit, read_unit

ACTIVE = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "Result": "success",
    "ExecMainStatus": "0",
    "NRestarts": "0",
    "StatusText": "ready: 3 stacks, 2 nodes",
    "User": "nobody",
    "UnitFileState": "enabled",
    "NeedDaemonReload": "no",
    "ExecMainStartTimestamp": "@1700000000",
    "WorkingDirectory": "/var/lib/stackd",
}


def unit(**properties: str) -> Unit:
    return read_unit(ACTIVE | properties)


def found(*, error: str = "", **properties: str) -> list[tuple[Level, str, str]]:
    return [(one.level, one.what, one.advice) for one in service.examine(unit(**properties), error)]


NEVER = {"ActiveState": "inactive", "SubState": "dead"}
TRIES = "fix that; systemd tries again by itself"
ENDS = "it keeps ending; systemd has restarted it 7 times; the last error: the state file is read-only"
REFUSED = "the last reload was refused: config.toml:1: [stacks] tttl: unknown key"
WAITS = "waits for a restart: server.port, state.path"
AT_WORK = (Level.OK, "ready: 3 stacks, 2 nodes", "")


@pytest.mark.parametrize(
    ("error", "properties", "expected"),
    [
        ("an old one", {}, [AT_WORK]),
        (
            "no key", {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code"},
            [(Level.FAIL, "it has failed (exit-code); the last error: no key", "fix that, then: systemctl restart stackd")],
        ),
        ("", NEVER, [(Level.FAIL, "it does not run", "systemctl start stackd")]),
        (
            "", NEVER | {"UnitFileState": "disabled"},
            [(Level.WARN, "it is installed, but neither runs nor starts at boot", "systemctl enable --now stackd")],
        ),
        (
            "the loop hung", {"NRestarts": "2", "UnitFileState": "disabled", "NeedDaemonReload": "yes"},
            [
                (Level.WARN, "it has ended and was restarted 2 times; the last error: the loop hung", "journalctl -u stackd"),
                (Level.WARN, "it does not start at boot", "systemctl enable stackd"),
                AT_WORK,
                (Level.WARN, "its unit file was changed, but systemd has not read it yet", "systemctl daemon-reload"),
            ],
        ),
        (
            "", {"StatusText": f"ready: 0 stacks, 1 node; {REFUSED}; {WAITS}"},
            [
                (Level.FAIL, f"its l{REFUSED.removeprefix('the l')}", "fix that, then: stackd reload"),
                (Level.WARN, "changed, but not in force until a restart: server.port, state.path", "systemctl restart stackd"),
                (Level.OK, f"ready: 0 stacks, 1 node; {REFUSED}; {WAITS}", ""),
            ],
        ),
        ("", {"StatusText": "waiting for the cluster: its certificate"}, [(Level.WARN, "waiting for the cluster", "")]),
        ("", {"StatusText": "standby: vm1 owns the stacks"}, [(Level.OK, "standby: vm1 owns the stacks", "")]),
        *(
            (
                "the state file is read-only", {"ActiveState": active, "SubState": sub, "Result": "exit-code", "NRestarts": "7"},
                [(Level.FAIL, ENDS, TRIES)],
            )
            for active, sub in (
                ("activating", "auto-restart"), ("activating", "auto-restart-queued"), ("activating", "start"),
                ("deactivating", "final-sigterm"), ("inactive", "dead-before-auto-restart"),
                ("failed", "failed-before-auto-restart"),
            )
        ),
    ],
)  # fmt: skip
def test_what_systemd_does_with_the_service(
    error: str, properties: dict[str, str], expected: list[tuple[Level, str, str]]
) -> None:
    assert found(error=error, **properties) == expected


def test_a_file_that_was_changed_after_the_start_and_the_last_reload_is_not_in_force(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.touch()
    started = unit(ExecMainStartTimestamp=f"@{int(time.time()) - 100}")

    def told(loaded_at: float) -> list[str]:
        return [f.advice for f in service.not_in_force(started, loaded_at, [path, tmp_path / "none"])]

    assert told(0.0) == ["stackd reload"]
    assert told(time.time()) == []
    os.utime(path, (started.started - 5, started.started - 5))
    assert told(0.0) == []


def config(folder: Path, **settings: str) -> Config:
    environment = {"STACKD_AUTH__ENABLED": "false", "STACKD_CLUSTER__MODE": "embedded"}
    return load(None, environment | {"STACKD_STATE__PATH": str(folder / "stackd.db")} | settings).config


def test_state_that_belongs_to_somebody_else_than_the_service_is_found_with_the_command_that_mends_it(
    tmp_path: Path,
) -> None:
    for name in ("stackd.db", "stackd.db-wal", "stackd.db.lock", "other"):
        (tmp_path / name).touch()
    me = pwd.getpwuid(os.getuid()).pw_name
    assert list(service.owners(config(tmp_path), unit(User=me))) == []
    other = "nobody" if me != "nobody" else "root"
    (finding,) = service.owners(config(tmp_path), unit(User=other))
    assert finding.level is Level.FAIL
    files = " ".join(str(tmp_path / name) for name in ("stackd.db", "stackd.db-wal", "stackd.db.lock"))
    assert finding.advice == f"chown {other}: {tmp_path} {files}"
    assert f"{tmp_path}/stackd.db ({me})" in finding.what
    (finding,) = service.owners(config(tmp_path), unit(User="nobody-at-all"))
    assert "there is no such user" in finding.what


def test_a_relative_state_path_is_the_services_own(tmp_path: Path) -> None:
    relative = config(tmp_path, STACKD_STATE__PATH="stackd.db")
    assert service.as_seen_by(relative, unit()).state.path == "/var/lib/stackd/stackd.db"
    assert service.as_seen_by(config(tmp_path), unit()).state.path == str(tmp_path / "stackd.db")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can find out what others may read")
def test_a_file_that_the_services_user_cannot_read_is_found(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    keys, written = tmp_path / "keys", tmp_path / "config.toml"
    for path, mode in ((keys, 0o600), (written, 0o644), (tmp_path / "api-key", 0o600)):
        path.touch()
        path.chmod(mode)
    keys.write_text("sk-0123456789abcdef")
    named = config(tmp_path, STACKD_AUTH__KEY_FILE=str(keys))
    (finding,) = service.unreadable(named, written, unit())
    assert (finding.level, f"nobody, the service's user, cannot read {keys}" in finding.what) == (Level.FAIL, True)
    assert f"chmod 640 {keys}" in finding.advice
    keys.chmod(0o644)
    assert list(service.unreadable(named, written, unit())) == []
