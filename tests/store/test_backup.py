from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from stackd.errors import StoreError
from stackd.store import Store, backup_file
from tests.store.building import accepted, back_up, new_stack, open_store, stack_id

ROOT = Path(__file__).parents[2]


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


async def test_a_backup_never_overwrites_the_file_itself(store: Store, path: Path) -> None:
    await accepted(store, 1)
    with pytest.raises(StoreError, match="exists already"):
        await back_up(store, path, force=True)
    await accepted(store, 2)


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
