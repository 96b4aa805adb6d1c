from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stackd.errors import StoreError
from stackd.files import write_private
from stackd.store import Store, backup_file
from stackd.store.companions import Ballast, companion
from stackd.store.file import StoreOptions
from tests.store.building import accepted, back_up, new_stack, open_store, stack_id

ROOT = Path(__file__).parents[2]
NOBODY = 65534


async def test_a_backup_taken_while_stacks_come_and_go_is_consistent(path: Path, tmp_path: Path) -> None:
    store = await open_store(path, ports=(30000, 32767))

    async def churn() -> None:
        for number in range(0, 300, 3):
            await asyncio.gather(*(store.stacks.reserve(new_stack(number + k, ports=2)) for k in range(3)))
            await store.stacks.remove([stack_id(number)])

    async def copies() -> list[Path]:
        targets = [tmp_path / f"copy-{number}.db" for number in range(4)]
        for target in targets:
            await back_up(store, target)
        return targets

    targets, _ = await asyncio.gather(copies(), churn())
    await store.close()
    for target in targets:
        copy = await open_store(target, ports=(30000, 32767))
        assert copy.ports.used == 2 * len(copy.stacks)
        await copy.close()


async def test_a_backup_is_one_file_for_its_owner_only(store: Store, tmp_path: Path) -> None:
    await accepted(store, 1)
    target = tmp_path / "copies"
    target.mkdir()
    await back_up(store, target / "copy.db")
    assert [file.name for file in target.iterdir()] == ["copy.db"]
    assert stat.S_IMODE((target / "copy.db").stat().st_mode) == 0o600
    with contextlib.closing(sqlite3.connect((target / "copy.db").as_uri() + "?immutable=1", uri=True)) as copy:
        assert copy.execute("SELECT stack_id FROM stacks").fetchall() == [(stack_id(1),)]


async def test_another_process_can_take_a_backup_while_the_daemon_runs(store: Store, path: Path) -> None:
    stack = await accepted(store, 1)
    target = path.with_name("copy.db")
    program = "import sys, pathlib; from stackd.store import backup_file; backup_file(*map(pathlib.Path, sys.argv[1:]))"
    await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program, str(path), str(target)], check=True, cwd=ROOT
    )
    copy = await open_store(target)
    assert copy.stacks.ordered() == (stack,)
    await copy.close()
    await accepted(store, 2)


async def test_a_backup_replaces_an_earlier_one_in_one_step(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "copies" / "copy.db"
    target.parent.mkdir()
    await back_up(store, target)
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
    assert [file.name for file in target.parent.iterdir()] == ["copy.db"]
    copy = await open_store(target)
    assert len(copy.stacks) == 1
    await copy.close()


async def test_a_backup_overwrites_what_is_none_only_when_told_to(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    used = await open_store(tmp_path / "used.db")
    await used.close()
    target.write_text("precious")
    for precious in (target, tmp_path / "used.db"):
        before = precious.read_bytes()
        with pytest.raises(StoreError, match=r"exists already, and is no backup of stackd.*--force"):
            await back_up(store, precious)
        assert precious.read_bytes() == before
    await back_up(store, target, force=True)
    assert target.read_bytes().startswith(b"SQLite format 3")


async def test_a_backup_that_fails_leaves_nothing_behind(store: Store, path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be copied"):
        await back_up(store, tmp_path / "nowhere" / "copy.db")
    (tmp_path / "other.db").write_bytes(b"SQLite format 3\x00" + b"\0" * 5000)
    with pytest.raises(StoreError):
        backup_file(tmp_path / "other.db", tmp_path / "copy.db")
    with pytest.raises(StoreError, match="no state file"):
        backup_file(tmp_path / "missing.db", tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
    assert not list(tmp_path.glob(".*"))


async def test_a_restored_backup_is_not_mixed_with_the_log_of_the_file_it_replaced(path: Path) -> None:
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
    await restored.close()


@pytest.mark.parametrize("link", [False, True])
async def test_nothing_secret_is_written_into_a_file_that_somebody_else_has_put_there(
    store: Store, tmp_path: Path, link: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder such as /tmp, others can guess the name of a file that is about to be written."""
    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    theirs = tmp_path / "theirs"
    theirs.touch()
    for path in (tmp_path / f".copy.db.{os.getpid()}.partial", tmp_path / ".api-key.guessed"):
        path.symlink_to(theirs) if link else path.hardlink_to(theirs)
    await back_up(store, tmp_path / "copy.db")
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "api-key", "secret")
    assert theirs.read_bytes() == b""


@pytest.mark.parametrize("suffix", [".lock", ".reserve"])
async def test_no_file_beside_the_state_is_reached_through_a_link(path: Path, suffix: str) -> None:
    theirs = path.with_name("theirs")
    theirs.write_text("precious")
    path.with_name(path.name + suffix).symlink_to(theirs)
    with contextlib.suppress(StoreError):
        await (await open_store(path, options=StoreOptions(ballast_bytes=4096))).close()
    assert theirs.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_reserve_file_of_another_user_is_replaced_or_named() -> None:
    """`stackd rebuild` as root leaves one behind; it was reported as a full disk."""
    with TemporaryDirectory() as folder:
        state = Path(folder) / "stackd.db"
        reserve = companion(state, ".reserve")
        reserve.touch(0o600)
        Path(folder).chmod(0o755)
        ballast = Ballast(state, 4096)
        os.seteuid(NOBODY)
        try:
            assert not ballast.fill()
            assert ballast.why == f"{reserve}: Permission denied"
            os.seteuid(0)
            os.chown(folder, NOBODY, -1)
            os.seteuid(NOBODY)
            assert ballast.fill()
        finally:
            os.seteuid(0)
        assert (reserve.stat().st_uid, reserve.stat().st_size) == (NOBODY, 4096)


async def test_a_backup_never_overwrites_the_file_itself(store: Store, path: Path) -> None:
    await accepted(store, 1)
    with pytest.raises(StoreError, match="exists already"):
        await back_up(store, path, force=True)
    await accepted(store, 2)
