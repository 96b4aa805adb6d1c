"""What the doctor says of the installed service and its files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stackd.config import Config, load
from stackd.doctor import Level, service
from stackd.doctor.service import Unit, read_unit

ACTIVE = {
    "LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Result": "success", "ExecMainStatus": "0",
    "NRestarts": "0", "StatusText": "ready: 3 stacks, 2 nodes", "User": "nobody", "UnitFileState": "enabled",
    "NeedDaemonReload": "no", "ExecMainStartTimestamp": "@1700000000", "WorkingDirectory": "/var/lib/stackd",
}  # fmt: skip


def unit(**properties: str) -> Unit:
    return read_unit(ACTIVE | properties)


OK, WARN, FAIL = Level
TRIES = "fix that; systemd tries again by itself"
DISABLED = {"UnitFileState": "disabled"}
NEVER = {"ActiveState": "inactive", "SubState": "dead"}
FAILED = {"Result": "exit-code", "NRestarts": "7"}
REFUSED = "ready: 0 stacks, 1 node; the last reload was refused: config.toml:1; waits for a restart: server.port"


@pytest.mark.parametrize(
    ("error", "properties", "expected"),
    [
        ("an old one", {}, [(OK, "")]), ("", NEVER, [(FAIL, "systemctl start stackd")]),
        ("", NEVER | DISABLED, [(WARN, "systemctl enable --now stackd")]),
        (
            "no key", FAILED | {"ActiveState": "failed", "SubState": "failed"},
            [(FAIL, "fix that, then: systemctl restart stackd")],
        ),
        (
            "the loop hung", DISABLED | {"NRestarts": "2", "NeedDaemonReload": "yes"},
            [
                (WARN, "journalctl -u stackd"), (WARN, "systemctl enable stackd"), (OK, ""),
                (WARN, "systemctl daemon-reload"),
            ],
        ),
        (
            "", {"StatusText": REFUSED},
            [(FAIL, "fix that, then: stackd reload"), (WARN, "systemctl restart stackd"), (OK, "")],
        ),
        ("", {"StatusText": "waiting for the cluster: its certificate"}, [(WARN, "")]),
        ("", {"StatusText": "standby: vm1 owns the stacks"}, [(OK, "")]),
        *(
            ("it is read-only", FAILED | {"ActiveState": active, "SubState": sub}, [(FAIL, TRIES)])
            for active, sub in (
                ("activating", "auto-restart"), ("deactivating", "final-sigterm"), ("inactive", "dead-before-auto-restart"),
            )
        ),
    ],
)  # fmt: skip
def test_the_state_of_the_service(error: str, properties: dict[str, str], expected: list[tuple[Level, str]]) -> None:
    findings = [*service.examine(unit(**properties), error)]
    assert [(one.level, one.advice) for one in findings] == expected
    assert not error or (error in findings[0].what) is (findings[0].level is not OK), "the last error, if it counts"


def config(folder: Path, **settings: str) -> Config:
    environment = {"STACKD_AUTH__ENABLED": "false", "STACKD_CLUSTER__MODE": "embedded"}
    return load(None, environment | {"STACKD_STATE__PATH": str(folder / "stackd.db")} | settings).config


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
    assert (finding.level, f"chmod 640 {keys}" in finding.advice) == (Level.FAIL, True)
    keys.chmod(0o644)
    assert list(service.unreadable(named, written, unit())) == []
