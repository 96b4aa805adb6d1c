"""What the doctor says of the installed service and its files."""

from __future__ import annotations

import os
import pwd
import time
from pathlib import Path

import pytest

from stackd.cli.doctor import examine
from stackd.config import Config, load
from stackd.doctor import Finding, Level, service
from stackd.doctor.cluster import Size
from stackd.doctor.service import Unit, read_unit
from stackd.embedded import EmbeddedCluster
from tests.harness import KEY
from tests.provisioning import real_node

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


def found(made: Unit, error: str = "") -> list[Finding]:
    return list(service.examine(made, error))


def only(made: Unit, error: str = "") -> Finding:
    (finding,) = found(made, error)
    return finding


def test_a_service_at_work_is_well() -> None:
    finding = only(unit(), "an old one")
    assert (finding.level, finding.what) == (Level.OK, "ready: 3 stacks, 2 nodes")


def test_a_failed_service_is_told_with_its_last_error_and_how_to_start_it() -> None:
    finding = only(unit(ActiveState="failed", SubState="failed", Result="exit-code"), "no API key is configured")
    assert finding.level is Level.FAIL
    assert finding.what == "it has failed (exit-code); the last error: no API key is configured"
    assert "systemctl restart stackd" in finding.advice


@pytest.mark.parametrize(
    ("active", "sub"),
    [
        ("activating", "auto-restart"),
        ("activating", "auto-restart-queued"),
        ("activating", "start"),
        ("deactivating", "final-sigterm"),
        ("inactive", "dead-before-auto-restart"),
        ("failed", "failed-before-auto-restart"),
    ],
)
def test_a_service_that_ends_again_and_again_is_told_with_its_last_error(active: str, sub: str) -> None:
    finding = only(
        unit(ActiveState=active, SubState=sub, Result="exit-code", NRestarts="7"), "the state file is read-only"
    )
    assert finding.level is Level.FAIL
    assert "7 times; the last error: the state file is read-only" in finding.what


@pytest.mark.parametrize(
    ("enabled", "level", "said"),
    [("enabled", Level.FAIL, "it does not run"), ("disabled", Level.WARN, "neither runs nor starts at boot")],
)
def test_a_service_that_does_not_run_is_told(enabled: str, level: Level, said: str) -> None:
    finding = only(unit(ActiveState="inactive", SubState="dead", UnitFileState=enabled))
    assert (finding.level, said in finding.what) == (level, True)


def test_what_the_status_says_is_told() -> None:
    refused = "the last reload was refused: config.toml:1: [stacks] tttl: unknown key"
    waiting = "waits for a restart: server.port, state.path"
    findings = found(unit(StatusText=f"ready: 0 stacks, 1 node; {refused}; {waiting}"))
    assert [finding.level for finding in findings] == [Level.FAIL, Level.WARN, Level.OK]
    assert "tttl" in findings[0].what
    assert (findings[1].what.rpartition(": ")[2], findings[1].advice) == (
        "server.port, state.path",
        "systemctl restart stackd",
    )
    finding = only(unit(StatusText="waiting for the cluster: Kubernetes' certificate is not accepted: expired"))
    assert (finding.level, finding.what) == (Level.WARN, "waiting for the cluster")
    finding = only(unit(StatusText="standby: vm1 owns the stacks"))
    assert (finding.level, finding.what) == (Level.OK, "standby: vm1 owns the stacks")


def test_restarts_a_missing_enable_and_a_changed_unit_are_told_beside_it() -> None:
    findings = found(unit(NRestarts="2", UnitFileState="disabled", NeedDaemonReload="yes"), "the loop hung")
    assert [finding.level for finding in findings] == [Level.WARN, Level.WARN, Level.OK, Level.WARN]
    assert "2 times; the last error: the loop hung" in findings[0].what
    assert findings[1].advice == "systemctl enable stackd"
    assert findings[3].advice == "systemctl daemon-reload"


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
    (finding,) = service.unreadable(_with(keys), written, unit())
    assert (finding.level, f"nobody, the service's user, cannot read {keys}" in finding.what) == (Level.FAIL, True)
    assert f"chmod 640 {keys}" in finding.advice
    keys.chmod(0o644)
    assert list(service.unreadable(_with(keys), written, unit())) == []


def _with(key_file: Path) -> Config:
    made = Config()
    return made.model_copy(update={"auth": made.auth.model_copy(update={"key_file": str(key_file)})})


# ---- what the doctor says of the node that a real kubelet registered


async def doctor(made: EmbeddedCluster, folder: Path, **settings: str) -> list[Finding]:
    made.write_kubeconfig(folder / "kubeconfig")
    environment = {
        "STACKD_AUTH__KEY": KEY,
        "STACKD_SERVER__PORT": "1",
        "STACKD_STATE__PATH": str(folder / "stackd.db"),
        "STACKD_CLUSTER__KUBECONFIG": str(folder / "kubeconfig"),
        "STACKD_STACKS__ADDRESS_TYPES": "InternalIP",
        **settings,
    }
    return [one async for one in examine(load(None, environment), None, Size(), None) if one.about == "room"]


async def test_the_doctor_counts_the_same_and_says_why_nothing_runs(tmp_path: Path) -> None:
    async with real_node("--no-ephemeral-storage") as made:
        (context,) = await doctor(made, tmp_path)
        assert context.level is Level.OK
        assert context.what.startswith("for 20 stacks of 100m CPU and 128Mi (nodes, cpu)")
    async with real_node() as made:
        context, why = await doctor(made, tmp_path)
        assert (context.level, why.level) == (Level.FAIL, Level.FAIL)
        assert context.what.startswith("for 0 stacks of 100m CPU and 128Mi (nodes, ephemeral-storage)")
        assert "real-worker reports none" in why.what
