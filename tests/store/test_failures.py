"""A file that cannot be written: full disk, I/O errors, locks, deleted or replaced files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stackd.errors import StoreError, StoreUnavailable
from stackd.model import DeleteReason, Stack
from stackd.store import Extension, Store
from stackd.store.transaction import Transaction
from tests.store.building import ALICE, HOUR, accepted, busy, new_stack, open_store, reopened, seen, stack_id

BIG = "x" * 3000
WIDE = (30000, 32767)
FULL = "the state file cannot be written now: the disk is full"


async def full(store: Store, first: int = 0) -> list[Stack]:
    """Reserve stacks until the disk is full; return them, without the one that was refused."""
    stacks: list[Stack] = []
    for number in range(2000):
        reserving = store.stacks.reserve(new_stack(first + number, pod_spec=BIG))
        results = await asyncio.gather(reserving, return_exceptions=True)
        if not isinstance(results[0], Stack):
            assert (type(results[0]), str(results[0])) == (StoreUnavailable, FULL)
            return stacks
        stacks.append(results[0])
    raise AssertionError("the disk never became full")


async def delete_all(store: Store, stacks: list[Stack]) -> None:
    for stack in stacks:
        await store.stacks.mark_deleting([stack.stack_id], DeleteReason.REQUEST)
        assert await store.stacks.remove([stack.stack_id]) == 1


async def test_while_the_file_is_full_only_creates_are_refused(path: Path) -> None:
    store = await open_store(path, ports=WIDE)
    await store._writer.submit(lambda tx: tx.run("PRAGMA max_page_count = 100"), writes=False)
    kept = await accepted(store, 9000)
    stacks = await full(store)
    assert store.stacks.ids() == {stack.stack_id for stack in (kept, *stacks)}
    async with busy(store):
        together = asyncio.gather(
            store.stacks.reserve(new_stack(5000, pod_spec=BIG * 5)),
            store.stacks.observe([seen(0)]),
            store.stacks.mark_deleting([stacks[1].stack_id], DeleteReason.REQUEST),
            store.jobs.create("job-1", [kept.stack_id]),
            store.stacks.extend(kept.stack_id, Extension(add=1, longest=9 * HOUR, by=ALICE)),
            return_exceptions=True,
        )
    refused = StoreUnavailable
    assert [type(result) for result in await together] == [refused, list, list, refused, refused]
    assert await store.timeline.read(stack_id(0)) == [], "what is not essential is left out"
    assert store.ports.used == len(stacks) + 1
    await delete_all(store, [*stacks, kept])
    assert [line.kind for line in await store.timeline.read(kept.stack_id)][-1] == "deleted"
    await store.probe()
    await store.stacks.reserve(new_stack(1, pod_spec=BIG))
    assert store.ports.used == 1
    await store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 6 MiB."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("needs root to mount a small tmpfs; the test with max_page_count runs everywhere")
    target = tmp_path / "disk"
    target.mkdir()
    command = [mount, "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(target)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here; the test with max_page_count runs everywhere")
    yield target
    subprocess.run([umount, "-l", str(target)], check=True)


def occupy(folder: Path) -> None:
    """Fill the disk to its last byte."""
    with (folder / "filler").open("ab", buffering=0) as filler:
        for size in (256 * 1024, 4096):
            with contextlib.suppress(OSError):
                while True:
                    filler.write(b"\0" * size)


async def test_on_a_full_disk_the_reserved_space_serves_deletes_and_a_restart(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackd.store.file.RESERVED_BYTES", 1 << 20)
    store = await open_store(small_disk / "stackd.db", ports=WIDE)
    first = [await accepted(store, number) for number in range(3000, 3020)]
    occupy(small_disk)
    stacks = await full(store)
    with pytest.raises(StoreUnavailable, match="disk is full"):
        await store.probe()
    assert [stack.stack_id for stack in await store.stacks.observe([seen(3000)])] == [stack_id(3000)]
    await delete_all(store, first)
    store = await reopened(store, ports=WIDE)
    stacks += await full(store, first=4000)
    await delete_all(store, stacks)
    (small_disk / "filler").unlink()
    stack = await accepted(store, 5000)
    await store.probe()
    await store.close()
    occupy(small_disk)
    store = await open_store(small_disk / "stackd.db", ports=WIDE)
    assert store.stacks.ordered() == (stack,)
    await delete_all(store, [stack])
    await store.close()


async def test_a_full_disk_is_reported_at_once_although_the_log_has_room_for_some_more_writes(small_disk: Path) -> None:
    store = await open_store(small_disk / "stackd.db", ports=WIDE)
    await store._writer.submit(lambda tx: tx.rows("PRAGMA wal_autocheckpoint = 50"), writes=False)
    for number in range(40):
        await accepted(store, number)
    await store.probe()
    occupy(small_disk)
    with pytest.raises(StoreUnavailable, match=FULL):
        await store.probe()
    (small_disk / "filler").unlink()
    await store.probe()
    await store.close()


async def _failure(store: Store) -> None:
    await asyncio.wait_for(store.failed(), 30)


@pytest.mark.parametrize(
    ("suffix", "remove"),
    [
        ("", lambda file: file.rename(file.with_name("elsewhere.db"))),
        ("", lambda file: os.replace(shutil.copy(file, file.with_name("other")), file)),
        ("-wal", Path.unlink),
    ],
)
@pytest.mark.parametrize("during", [False, True], ids=["before the write", "during the commit"])
async def test_a_file_or_log_that_was_taken_away_ends_the_store(
    path: Path, suffix: str, remove: Callable[[Path], None], during: bool
) -> None:
    store = await open_store(path)
    await accepted(store, 1)
    file = path.with_name(path.name + suffix)

    def write(tx: Transaction) -> None:
        tx.run("INSERT INTO meta (key, value) VALUES ('lost', '1')")
        remove(file)

    if not during:
        remove(file)
    with pytest.raises(StoreUnavailable, match=f"{suffix}.* was removed or replaced while stackd was running"):
        await (store._writer.submit(write) if during else accepted(store, 2))
    with pytest.raises(StoreError, match="was removed or replaced"):
        await _failure(store)
    assert store.stacks.ids() == {stack_id(1)}
    await store.close()
    if suffix:
        again = await open_store(path)
        assert again.stacks.ids() == {stack_id(1)}
        await again.close()


async def test_a_file_that_is_damaged_while_it_runs_ends_the_store(path: Path) -> None:
    store = await open_store(path, ports=WIDE)
    # more than SQLite's cache holds
    await asyncio.gather(*(store.stacks.reserve(new_stack(number, pod_spec=BIG)) for number in range(1000)))
    store = await reopened(store, ports=WIDE)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(StoreUnavailable, match="it is damaged"):
        await store.stacks.mark_deleting([stack_id(number) for number in range(1000)], DeleteReason.REQUEST)
    with pytest.raises(StoreError, match="the state file failed: "):
        await _failure(store)
    await store.close()
