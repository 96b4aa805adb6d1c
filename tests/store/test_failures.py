"""A file that cannot be written: full disk, I/O errors, locks, deleted or replaced files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackd.errors import StoreError, StoreUnavailable
from stackd.model import DeleteReason, Stack
from stackd.store import Store, StoreOptions
from stackd.store.transaction import Transaction
from tests.store.building import SMALL, accepted, back_up, largest_file, new_stack, open_store, seen, stack_id

BIG = "x" * 3000
MiB = 1024 * 1024


async def fill(store: Store, first: int = 0) -> list[Stack]:
    """Reserve stacks until the disk is full; return them, without the one that was refused."""
    stacks: list[Stack] = []
    for number in range(2000):
        result = (
            await asyncio.gather(store.stacks.reserve(new_stack(first + number, pod_spec=BIG)), return_exceptions=True)
        )[0]
        if not isinstance(result, Stack):
            assert isinstance(result, StoreUnavailable), result
            assert str(result) == "the state file cannot be written now: the disk is full"
            return stacks
        stacks.append(result)
    raise AssertionError("the disk never became full")


async def delete_all(store: Store, stacks: list[Stack]) -> None:
    for stack in stacks:
        await store.stacks.mark_deleting([stack.stack_id], DeleteReason.REQUEST)
        assert await store.stacks.remove([stack.stack_id]) == 1


async def test_while_the_file_is_full_creates_are_refused_deletes_go_on_and_it_recovers(path: Path) -> None:
    store = await open_store(path, ports=(30000, 32767), options=StoreOptions(ballast_bytes=4096, max_pages=100))
    stacks = await fill(store)
    assert store.stacks.ordered() == tuple(stacks)
    assert store.ports.used == len(stacks)
    with pytest.raises(StoreUnavailable, match="disk is full"):
        await store.stacks.reserve(new_stack(9999, pod_spec="y" * 30_000))
    await delete_all(store, stacks)
    await store.probe()
    await store.stacks.reserve(new_stack(1, pod_spec=BIG))
    assert store.ports.used == 1
    await store.close()


async def test_of_operations_that_share_a_commit_on_a_full_disk_only_those_that_grow_are_refused(path: Path) -> None:
    store = await open_store(path, ports=(30000, 32767), options=StoreOptions(ballast_bytes=4096, max_pages=60))
    stacks = await fill(store)
    results = await asyncio.gather(
        store.stacks.reserve(new_stack(5000, pod_spec=BIG * 5)),
        store.stacks.observe([seen(0)]),
        store.stacks.mark_deleting([stacks[1].stack_id], DeleteReason.REQUEST),
        return_exceptions=True,
    )
    assert isinstance(results[0], StoreUnavailable)
    assert [type(result) for result in results[1:]] == [list, list]
    assert store.stacks.get(stack_id(5000)) is None
    marked = store.stacks.get(stacks[1].stack_id)
    assert marked is not None
    assert marked.deleting_since is not None
    await store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 6 MiB."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("needs root to mount a small tmpfs; the tests with max_pages run everywhere")
    target = tmp_path / "disk"
    target.mkdir()
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(target)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here; the tests with max_pages run everywhere")
    yield target
    subprocess.run([umount, "-l", str(target)], check=True)


def occupy(folder: Path) -> None:
    """Fill the disk to its last byte."""
    with (folder / "filler").open("ab", buffering=0) as filler:
        for size in (256 * 1024, 4096):
            with contextlib.suppress(OSError):
                while True:
                    filler.write(b"\0" * size)


async def test_on_a_full_disk_the_space_set_aside_serves_deletes_and_a_restart(small_disk: Path) -> None:
    options = StoreOptions(ballast_bytes=MiB)
    path = small_disk / "stackd.db"
    store = await open_store(path, ports=(30000, 32767), options=options)
    first = [await accepted(store, number) for number in range(3000, 3020)]
    occupy(small_disk)
    stacks = await fill(store)
    with pytest.raises(StoreUnavailable, match="disk is full"):
        await store.probe()
    assert [stack.stack_id for stack in await store.stacks.observe([seen(3000)])] == [stack_id(3000)]
    await delete_all(store, first)
    await store.close()
    store = await open_store(path, ports=(30000, 32767), options=options)
    stacks += await fill(store, first=4000)
    await delete_all(store, stacks)
    (small_disk / "filler").unlink()
    await store.stacks.reserve(new_stack(5000, pod_spec=BIG))
    await store.probe()
    await store.close()


async def test_an_input_output_error_fails_the_batch_as_a_whole_and_the_next_one_succeeds(store: Store) -> None:
    stack = await accepted(store, 1)
    before = store.stacks.ordered(), store.ports.used, store.ports.free, store.stacks.version
    with largest_file(4096):
        results = await asyncio.gather(
            store.stacks.reserve(new_stack(2, ports=3)),
            store.stacks.mark_deleting([stack.stack_id], DeleteReason.REQUEST),
            store.stacks.remove([stack.stack_id]),
            return_exceptions=True,
        )
    assert [str(result) for result in results] == [
        "the state file cannot be written now: the disk reports an input/output error"
    ] * 3
    assert (store.stacks.ordered(), store.ports.used, store.ports.free, store.stacks.version) == before
    assert store.counters.failed_commits == 1
    await store.stacks.reserve(new_stack(2))
    assert (store.ports.used, store.ports.free) == (2, 98)


async def test_a_file_that_another_process_has_locked_is_unavailable_until_it_lets_go(store: Store, path: Path) -> None:
    shell = sqlite3.connect(path, isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="another process has locked it"):
        await store.stacks.reserve(new_stack(1))
    assert await store.claims.find("web", "key") is None
    assert (store.ports.used, len(store.stacks)) == (0, 0)
    shell.execute("ROLLBACK")
    shell.close()
    await store.stacks.reserve(new_stack(1))


async def test_a_file_that_was_taken_away_acknowledges_nothing_and_ends_the_store(path: Path) -> None:
    store = await open_store(path)
    await store.stacks.reserve(new_stack(1))
    path.rename(path.with_name("elsewhere.db"))
    with pytest.raises(StoreUnavailable, match="removed or replaced while stackd was running"):
        await store.stacks.reserve(new_stack(2))
    with pytest.raises(StoreError, match="removed or replaced"):
        await asyncio.wait_for(_wait(store), 30)
    assert len(store.stacks) == 1
    await store.close()


async def _wait(store: Store) -> None:
    await store.failed


async def test_a_file_that_is_damaged_while_it_runs_ends_the_store(path: Path) -> None:
    store = await open_store(path, ports=(30000, 32767))
    await asyncio.gather(
        *(store.stacks.reserve(new_stack(number, pod_spec=BIG)) for number in range(1000))
    )  # more than SQLite's cache holds
    await store.close()
    store = await open_store(path, ports=(30000, 32767), options=SMALL)
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (before.st_size - 4096))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # a failing disk does not change the time
    with pytest.raises(StoreUnavailable, match="it is damaged"):
        await store.stacks.mark_deleting([stack_id(number) for number in range(1000)], DeleteReason.REQUEST)
    with pytest.raises(StoreError, match="the state file failed: "):
        await asyncio.wait_for(_wait(store), 30)
    await store.close()


async def test_a_log_that_was_removed_acknowledges_nothing_more_and_loses_nothing(path: Path) -> None:
    store = await open_store(path)
    await accepted(store, 1)
    path.with_name("stackd.db-wal").unlink()
    with pytest.raises(StoreUnavailable, match=r"stackd\.db-wal, a part of the state file, was removed or replaced"):
        await accepted(store, 2)
    with pytest.raises(StoreError, match="was removed or replaced while stackd was running"):
        await _wait(store)
    await store.close()
    again = await open_store(path)
    assert again.stacks.ids() == {stack_id(1)}
    await again.close()


async def test_a_log_that_is_removed_during_a_commit_is_noticed_before_the_acknowledgement(path: Path) -> None:
    store = await open_store(path)
    await accepted(store, 1)

    def remove(tx: Transaction) -> None:
        tx.run("INSERT INTO meta (key, value) VALUES ('lost', '1')")
        path.with_name("stackd.db-wal").unlink()

    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        await store._writer.submit(remove)
    await store.close()


@pytest.mark.parametrize("running", [True, False], ids=["before the next write", "before a stop"])
async def test_a_copy_that_is_put_over_the_live_file_is_left_as_it_is(
    path: Path, tmp_path: Path, running: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store = await open_store(path)
    await accepted(store, 1)
    copy = tmp_path / "copy.db"
    await back_up(store, copy)
    await accepted(store, 2)
    shutil.copyfile(copy, path)
    if running:
        with pytest.raises(StoreUnavailable, match="something else has written to the state file"):
            await accepted(store, 3)
    await store.close()
    assert path.read_bytes() == copy.read_bytes()
    again = await open_store(path)
    assert again.stacks.ids() == {stack_id(1)}
    assert "the log of the earlier file is now stackd.db-wal.before-restore" in caplog.text
    await again.close()


async def test_the_log_written_back_into_the_file_by_the_store_itself_is_no_foreign_hand(path: Path) -> None:
    store = await open_store(path)
    before = path.stat().st_mtime_ns
    for number in range(300):
        await store.stacks.reserve(new_stack(number, pod_spec="x" * 20_000, ports=0))
    assert path.stat().st_mtime_ns != before
    await store.close()


async def test_the_file_opens_on_a_disk_that_is_full_already(small_disk: Path) -> None:
    options = StoreOptions(ballast_bytes=MiB)
    path = small_disk / "stackd.db"
    store = await open_store(path, options=options)
    stack = await accepted(store, 1)
    await store.close()
    occupy(small_disk)
    store = await open_store(path, options=options)
    assert store.stacks.ordered() == (stack,)
    await delete_all(store, [stack])
    await store.close()
