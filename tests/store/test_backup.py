"""Backups, and the files beside the state file."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from stackd.errors import StoreError
from stackd.files import write_private
from stackd.store import Store, backup_file
from tests.store.building import ROOT, accepted, back_up, new_stack, open_store, stack_id


async def test_a_backup_taken_while_stacks_come_and_go_is_consistent(path: Path, tmp_path: Path) -> None:
    store = await open_store(path, ports=(30000, 32767))

    async def churn() -> None:
        for number in range(0, 300, 3):
            await asyncio.gather(*(store.stacks.reserve(new_stack(number + k, ports=2)) for k in range(3)))
            await store.stacks.remove([stack_id(number)])

    churning = asyncio.create_task(churn())
    program = "import sys, pathlib; from stackd.store import backup_file; backup_file(*map(pathlib.Path, sys.argv[1:]))"
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "0.db")]
    await asyncio.to_thread(subprocess.run, command, check=True, cwd=ROOT)
    for number in range(1, 3):
        await back_up(store, tmp_path / f"{number}.db")
    await churning
    await store.close()
    for number in range(3):
        copy = await open_store(tmp_path / f"{number}.db", ports=(30000, 32767))
        assert copy.ports.used == 2 * len(copy.stacks)
        await copy.close()


async def test_a_backup_is_one_file_for_its_owner_and_replaces_an_earlier_one_in_one_step(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "copies" / "copy.db"
    target.parent.mkdir()
    await back_up(store, target)
    assert [file.name for file in target.parent.iterdir()] == ["copy.db"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    first = target.read_bytes()
    await accepted(store, 1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killing:
        killing.setattr("stackd.store.file._put_in_place", killed)
        with pytest.raises(KeyboardInterrupt):
            backup_file(store.path, target)
    assert target.read_bytes() == first
    await back_up(store, target)
    copy = await open_store(target)
    assert copy.stacks.ids() == {stack_id(1)}
    await copy.close()


async def test_a_backup_overwrites_other_files_only_with_force(store: Store, tmp_path: Path) -> None:
    await (await open_store(tmp_path / "used.db")).close()
    target = tmp_path / "copy.db"
    target.write_text("precious")
    for precious in (target, tmp_path / "used.db"):
        before = precious.read_bytes()
        with pytest.raises(StoreError, match=r"exists already, and is no backup of stackd.*--force"):
            await back_up(store, precious)
        assert precious.read_bytes() == before
    await back_up(store, target, force=True)
    assert target.read_bytes().startswith(b"SQLite format 3")
    with pytest.raises(StoreError, match="exists already"):
        await back_up(store, store.path, force=True)
    await accepted(store, 2)


async def test_a_backup_that_fails_leaves_nothing_behind(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be copied"):
        await back_up(store, tmp_path / "nowhere" / "copy.db")
    (tmp_path / "other.db").write_bytes(b"SQLite format 3\x00" + b"\0" * 5000)
    for source, why in (("other.db", "cannot be copied"), ("missing.db", "no state file")):
        with pytest.raises(StoreError, match=why):
            backup_file(tmp_path / source, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
    assert not list(tmp_path.glob(".*"))


async def test_a_restored_backup_is_not_mixed_with_the_log_of_the_file_it_replaced(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = await open_store(path)
    kept = await accepted(store, 1)
    await back_up(store, path.with_name("copy.db"))
    await accepted(store, 2)
    crashed = path.with_name("crashed")
    crashed.mkdir()
    for file in path.parent.glob("stackd.db*"):  # as a killed process leaves them, with a WAL
        shutil.copy(file, crashed / file.name)
    await store.close()
    assert (crashed / "stackd.db-wal").stat().st_size > 0
    shutil.copy(path.with_name("copy.db"), crashed / "stackd.db")
    restored = await open_store(crashed / "stackd.db")
    assert restored.stacks.ordered() == (kept,)
    assert (crashed / "stackd.db-wal.before-restore").exists()
    assert "the log of the earlier file is now stackd.db-wal.before-restore" in caplog.text
    await restored.close()


@pytest.mark.parametrize("link", [False, True])
def test_nothing_secret_is_written_into_a_file_that_somebody_else_has_put_there(
    tmp_path: Path, link: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder such as /tmp, others can guess the name of a file that is about to be written."""
    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    theirs, path = tmp_path / "theirs", tmp_path / ".api-key.guessed"
    theirs.touch()
    path.symlink_to(theirs) if link else path.hardlink_to(theirs)
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "api-key", "secret")
    assert theirs.read_bytes() == b""


@pytest.mark.parametrize("suffix", [".lock", ".reserve"])
async def test_no_file_beside_the_state_is_reached_through_a_link(path: Path, suffix: str) -> None:
    theirs = path.with_name("theirs")
    theirs.write_text("precious")
    path.with_name(path.name + suffix).symlink_to(theirs)
    with contextlib.suppress(StoreError):
        await (await open_store(path)).close()
    assert theirs.read_text() == "precious"
