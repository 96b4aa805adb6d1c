"""``backup.command``: it takes a backup that is written to another machine, within its time; when it does not, it says why."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stackd.cli import stackd
from stackd.config import load
from stackd.config.settings import settings
from stackd.errors import StackdError
from stackd.upkeep.backup import LAST_BYTES, left_at
from tests.harness import eventually, variables
from tests.store.building import open_store


@pytest.fixture
async def state(tmp_path: Path) -> Path:
    """A state file, and a folder for what leaves the machine."""
    (tmp_path / "away").mkdir()
    await (await open_store(tmp_path / "stackd.db")).close()
    return tmp_path / "stackd.db"


def back_up(state: Path, command: str, timeout: str = "1m", file: str = "a b.db") -> Result:
    env = variables(state.parent, "") | {"STACKD_BACKUP__COMMAND": command, "STACKD_BACKUP__TIMEOUT": timeout}
    return CliRunner(env=env).invoke(stackd, ["backup", str(state.with_name(file))])


def test_the_command_gets_the_file_and_its_success_is_noted(state: Path) -> None:
    assert left_at(str(state)) == 0
    result = back_up(state, f'cp "$1" {state.parent}/away/ && echo copied')
    assert (result.exit_code, "backup.command has taken it away" in result.output) == (0, True), result.output
    assert (state.parent / "away" / "a b.db").read_bytes() == (state.parent / "a b.db").read_bytes()
    first = left_at(str(state))
    assert first > 0
    os.utime(f"{state}.backed-up", (1, 1))
    assert back_up(state, "true").exit_code == 0
    assert left_at(str(state)) >= first
    assert stat.S_IMODE(os.stat(f"{state}.backed-up").st_mode) & 0o077 == 0


def test_the_command_is_not_shown_for_it_may_have_a_password(state: Path) -> None:
    environ = {"STACKD_CLUSTER__MODE": "embedded", "STACKD_BACKUP__COMMAND": "send --password hunter2"}
    config = load(None, variables(state.parent, "") | environ).config
    shown = [one.text(config) for one in settings() if one.section == "backup"]  # as a reload logs it
    assert "hunter2" not in f"{shown}{config!r}"


def test_a_mark_that_another_user_has_left_is_replaced(state: Path) -> None:
    """Only its owner may change its time, and root may have run the command by hand."""
    assert back_up(state, "true").exit_code == 0
    os.link(f"{state}.backed-up", other := f"{state}.of-root")
    os.utime(other, (1, 1))
    assert back_up(state, "true").exit_code == 0
    assert (left_at(str(state)) > 1, os.stat(other).st_mtime) == (True, 1)


def test_without_a_command_the_backup_stays_and_nothing_is_noted(state: Path) -> None:
    assert back_up(state, "").exit_code == 0
    assert (state.parent / "a b.db").exists()
    assert left_at(str(state)) == 0


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("echo no route to host >&2; exit 7", "backup.command has ended with exit code 7: no route to host"),
        ("not-a-program", "backup.command has ended with exit code 127: "),
        ("kill -9 $$", "backup.command was ended by signal 9: it has said nothing"),
        ("sleep 600", "backup.command has not ended within 0.2 s"),
        (f"yes | head -c {100 * LAST_BYTES}; echo the end; exit 1", "y\nthe end"),
    ],
)
def test_a_backup_that_does_not_leave_fails_with_the_end_of_the_output(state: Path, command: str, why: str) -> None:
    result = back_up(state, command, "200ms" if "sleep" in command else "1m")
    assert isinstance(result.exception, StackdError)
    text = str(result.exception)
    assert ("has not left this machine" in text, why in text, len(text) < 2 * LAST_BYTES) == (True, True, True), text
    assert (state.parent / "a b.db").exists(), "the backup itself is there"
    assert left_at(str(state)) == 0


async def test_what_the_command_has_started_ends_with_its_time(state: Path) -> None:
    pids = state.parent / "pids"
    command = f"sleep 600 & echo $! > {pids}.new; mv {pids}.new {pids}; wait"
    for seconds in (1, 4, 16):  # a busy machine may not come to the second command in one
        assert back_up(state, command, f"{seconds}s").exit_code == 1
        if pids.exists():
            break
    pid = int(pids.read_text())

    def ended() -> bool:
        line = Path(f"/proc/{pid}/cmdline")
        return not line.exists() or not line.read_bytes()

    await eventually(ended)
