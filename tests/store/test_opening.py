"""Opening the state file: what is created, refused, converted, and whose file it is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stackd.errors import ConfigError, StoreError
from stackd.model import DeleteReason, JobRequest, Principal
from stackd.store import Store, backup_file, require_own_file, schema
from stackd.store.templates import stored_in
from tests.store.building import ALICE, BOB, accepted, claim, new_stack, open_store, query, reopened, seen, stack_id


async def prepared(path: Path) -> None:
    """A closed file with ten stacks in it."""
    store = await open_store(path)
    await asyncio.gather(*(store.stacks.reserve(new_stack(number, pod_spec="x" * 3000)) for number in range(10)))
    await store.close()


async def test_whoever_only_looks_into_a_closed_file_leaves_nothing_beside_it(tmp_path: Path) -> None:
    """Root's doctor would leave files there that the service's user may not write."""
    await prepared(path := tmp_path / "state.db")
    before = sorted(tmp_path.iterdir())
    assert stored_in(path) == []
    require_own_file(str(path), namespace="stacks", instance="default")
    assert sorted(tmp_path.iterdir()) == before
    assert stored_in(tmp_path / "none.db") == []
    assert sorted(tmp_path.iterdir()) == before, "it makes no file, either"


async def refusal(path: Path) -> str:
    """Why the file cannot be opened; check that the attempt has not changed it, and has given the lock back."""
    before = path.read_bytes()
    with pytest.raises(StoreError):
        await open_store(path)
    with pytest.raises(StoreError) as caught:
        await open_store(path)
    assert path.read_bytes() == before
    return str(caught.value)


async def test_a_new_file_and_its_folder_are_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "deep" / "stackd.db"
    store = await open_store(path)
    await accepted(store, 1)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for suffix in ("", "-wal", "-shm", ".lock", ".reserve"):
        assert stat.S_IMODE(path.with_name(path.name + suffix).stat().st_mode) == 0o600, suffix
    assert query(path, "PRAGMA journal_mode") == [("wal",)]
    await store.close()
    path.chmod(0o644)
    store = await open_store(path)
    assert len(store.stacks) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await store.close()


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xa5" * 4096)


def replaced(old: bytes, new: bytes) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))

    return spoil


def of_others(path: Path) -> None:
    path.unlink()
    query(path, "CREATE TABLE stacks (anything)")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (
            lambda path: path.write_bytes(b""),
            "is damaged (it is empty): restore a copy made by `stackd backup`, or move",
        ),
        (lambda path: path.write_bytes(b"garbage" * 1000), "is damaged (it is not a SQLite file)"),
        (replaced(b"tablestacksstacks", b"tablest\xffcksst\xffcks"), "is damaged (its schema is not UTF-8)"),
        (truncated, "is damaged"),
        (overwritten, "is damaged"),
        (of_others, "is a SQLite file of another application"),
    ],
)
async def test_a_file_that_cannot_be_used_is_left_as_it_is(path: Path, spoil: Callable[[Path], Any], why: str) -> None:
    await prepared(path)
    spoil(path)
    message = await refusal(path)
    assert why in message
    require_own_file(str(path), namespace="stacks", instance="default")
    if "UTF-8" in why:
        with pytest.raises(StoreError, match=r"cannot be copied to .*: its schema is not UTF-8"):
            backup_file(path, path.with_name("copy.db"))
    assert "the next start adopts the stacks from the cluster" in message


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE stacks SET ports = '[{}]'",
        "UPDATE stacks SET labels = '[1]'",
        "UPDATE stacks SET desired = 'asleep'",
        "UPDATE stacks SET namespace = CAST(x'ff' AS TEXT)",
        "UPDATE meta SET value = 'many' WHERE key = 'sequence'",
    ],
)
async def test_a_row_that_cannot_be_read_is_damage_with_its_remedy(path: Path, change: str) -> None:
    await prepared(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("PRAGMA ignore_check_constraints = ON")
        assert shell.execute(change).rowcount
    assert "): restore a copy made by `stackd backup`" in await refusal(path)


async def test_a_lost_file_whose_log_is_still_there_is_not_replaced_by_a_new_one(path: Path) -> None:
    path.with_name("stackd.db-wal").write_bytes(b"x" * 100)
    with pytest.raises(StoreError, match="is missing, but its wal file is there"):
        await open_store(path)
    assert [file.name for file in path.parent.glob("stackd.db*") if file.suffix != ".lock"] == ["stackd.db-wal"]


async def test_a_creation_that_was_cut_short_is_begun_again(path: Path) -> None:
    path.with_name("stackd.db.new").write_bytes(b"half of a file")
    store = await open_store(path)
    await store.stacks.reserve(new_stack(1))
    await store.close()
    assert not path.with_name("stackd.db.new").exists()


async def test_an_opening_that_is_cancelled_gives_the_file_back(path: Path) -> None:
    opening = asyncio.ensure_future(open_store(path))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await (await open_store(path)).close()


async def test_a_link_and_the_file_itself_share_one_lock(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "state").symlink_to("disk")
    real, link = tmp_path / "disk" / "stackd.db", tmp_path / "stackd.db"
    link.symlink_to(real)
    await prepared(tmp_path / "state" / "stackd.db")
    store = await open_store(link)
    assert store.path == real
    for other in (real, link):
        with pytest.raises(StoreError, match=f"is held by process {os.getpid()} on "):
            await open_store(other)
    await store.close()
    assert [file.name for file in tmp_path.glob("stackd.db*")] == ["stackd.db"]


async def test_a_link_that_leads_nowhere_is_not_replaced_by_an_empty_file(tmp_path: Path) -> None:
    link = tmp_path / "stackd.db"
    link.symlink_to(tmp_path / "volume" / "stackd.db")
    with pytest.raises(StoreError, match=r"is a link to .*/volume/stackd\.db, which is not there"):
        await open_store(link)
    (tmp_path / "state").symlink_to("unmounted")
    with pytest.raises(StoreError, match=r"is a link to unmounted, which is"):
        await open_store(tmp_path / "state" / "stackd.db")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["stackd.db", "state"]


# ---- a file of an earlier format is converted with all its rows, and a copy of it is kept; others are refused


# What the step from format 11 has changed, taken back.
BEFORE = """
DROP INDEX timeline_accepted; DROP INDEX jobs_by; DROP INDEX links_by;
ALTER TABLE timeline DROP COLUMN principal;
ALTER TABLE jobs DROP COLUMN principal;
ALTER TABLE links DROP COLUMN principal;
ALTER TABLE links DROP COLUMN opened_at;
ALTER TABLE links DROP COLUMN seen_at;
DROP INDEX links_code; ALTER TABLE links DROP COLUMN code; ALTER TABLE links DROP COLUMN among;
ALTER TABLE links DROP COLUMN player_name;
ALTER TABLE templates DROP COLUMN principal;
ALTER TABLE templates DROP COLUMN source;
ALTER TABLE stacks DROP COLUMN offer;
ALTER TABLE stacks DROP COLUMN spare; ALTER TABLE stacks DROP COLUMN relabelled;
ALTER TABLE stacks DROP COLUMN members;
DROP TABLE removed_values;
CREATE INDEX timeline_accepted ON timeline (by, at) WHERE kind = 'accepted';
CREATE INDEX jobs_by ON jobs (by, created_at, items);
CREATE INDEX links_by ON links (by, expires_at);
UPDATE timeline SET by = substr(by, instr(by, ' ') + 1);
UPDATE jobs SET by = substr(by, instr(by, ' ') + 1);
UPDATE idempotency SET scope = 'alice%20smith POST /stacks';
PRAGMA user_version = 11;
"""


async def file_of_format_11(path: Path, more: str = "") -> None:
    """One with two stacks, of which one was removed, jobs of two keys, and a claim."""
    store = await open_store(path)
    await store.begin("stacks", "default")
    await store.stacks.reserve(new_stack(1), claim=claim())
    await store.stacks.accept(seen(1), pod_uid="pod", service_uid="service")
    await accepted(store, 2)
    for number, by in enumerate((ALICE, BOB)):
        await store.jobs.create(f"job-{number}", ["unknown"], JobRequest(by=by))
    await store.stacks.mark_deleting([stack_id(2)], DeleteReason.REQUEST, ALICE)
    await store.stacks.remove([stack_id(2)])
    await store.end_adoption()
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(BEFORE + more)


def shape(path: Path) -> Any:
    names = query(path, "SELECT type, name FROM sqlite_schema ORDER BY type, name")
    infos = {"table": "table_xinfo", "index": "index_xinfo"}
    return version(path), [(kind, name, query(path, f"PRAGMA {infos[kind]}({name})")) for kind, name in names]


def version(path: Path) -> int:
    return int(query(path, "PRAGMA user_version")[0][0])


def copies(path: Path) -> list[str]:
    return [file.name for file in path.parent.glob("*.bak")]


async def test_a_file_of_an_earlier_format_is_converted_with_its_rows(path: Path, tmp_path: Path) -> None:
    await file_of_format_11(path)
    store = await open_store(path, keys=[ALICE])
    before = store.identity
    assert [stack.stack_id for stack in store.stacks] == [stack_id(1)]
    nobody = Principal(id="name:626F62", name=BOB.name)
    assert {job.by for job in store.jobs} == {ALICE, nobody}, "who had the other name is not known"
    assert ALICE in [line.by for line in await store.timeline.read(stack_id(2))]
    assert await store.claims.find(f"{ALICE.id} POST /stacks", "key-1")
    assert await store.stacks.removed_among([stack_id(2)])
    assert not before.incomplete
    await store.close()
    await (await open_store(tmp_path / "new.db")).close()
    assert shape(path) == shape(tmp_path / "new.db")
    assert copies(path) == [f"stackd.db.v11-before-v{schema.FORMAT}.bak"]
    path.with_name(copies(path)[0]).replace(path)
    assert version(path) == 11
    again = await open_store(path)  # the copy comes back
    await again.begin("stacks", "default")
    assert again.identity.incomplete
    assert again.identity.file_id not in ("", before.file_id), "the file itself goes on with that history"
    again = await reopened(again)
    assert len(copies(path)) == 1, "a file of the current format needs no copy"
    await again.close()


async def test_a_conversion_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    await file_of_format_11(path, "CREATE TRIGGER never BEFORE UPDATE ON jobs BEGIN SELECT raise(ABORT, 'never'); END;")
    with pytest.raises(StoreError, match="cannot be used: never"):
        await open_store(path)
    assert query(path, "SELECT by FROM jobs ORDER BY by") == [(ALICE.name,), (BOB.name,)]
    assert version(path) == 11


@pytest.mark.parametrize("number", [schema.OLDEST - 1, 99])
async def test_other_formats_are_refused_and_left_as_they_are(path: Path, number: int) -> None:
    await prepared(path)
    query(path, f"PRAGMA user_version = {number}")
    assert f"has format {number}, " in await refusal(path)


# ---- the cluster, namespace and instance that a file belongs to, and how far its history goes


async def test_a_file_is_incomplete_until_it_is_marked_as_complete(path: Path) -> None:
    store = await open_store(path)
    lock = store.identity.lock_id
    assert (store.identity.file_id, store.identity.epoch) == ("", 0)
    await store.begin("stacks", "default")
    first = store.identity
    assert (first.epoch, first.sequence, first.incomplete) == (1, 0, True)
    await accepted(store, 1)
    store = await reopened(store)
    await store.begin("stacks", "default")
    second = store.identity
    assert (second.file_id, second.epoch, second.sequence, second.incomplete) == (first.file_id, 2, 2, True)
    await store.end_adoption()
    assert not store.identity.incomplete
    store = await reopened(store)
    await store.begin("stacks", "default")
    assert (store.identity.incomplete, store.identity.lock_id) == (False, lock)
    await store.close()
    folder = path.with_name("copy")
    folder.mkdir()
    shutil.copy(path, folder / path.name)
    copy = await open_store(folder / path.name)
    assert copy.identity.lock_id not in ("", lock), "a copy has another lock"
    await copy.close()


async def test_a_decision_about_a_stack_moves_the_sequence_and_an_observation_does_not(store: Store) -> None:
    await accepted(store, 1)
    await store.stacks.mark_deleting([stack_id(1)], DeleteReason.REQUEST)
    await store.stacks.remove([stack_id(1)])
    await accepted(store, 2)
    assert store.identity.sequence == 6
    assert await store.stacks.observe([seen(2)])
    assert await store.stacks.mark_deleting([stack_id(1)], DeleteReason.REQUEST) == []
    await store.set_cluster("uid")
    await store.probe()
    assert (store.identity.sequence, store.identity.cluster_uid) == (6, "uid")


async def test_a_file_that_turns_out_to_be_old_begins_a_new_history(store: Store) -> None:
    async def after(step: Callable[[], Any]) -> tuple[str, bool]:
        await step()
        return store.identity.file_id, store.identity.incomplete

    first = await after(lambda: store.begin("stacks", "default"))
    assert await after(store.begin_adoption) == first, "a new file is at its beginning anyway"
    await store.end_adoption()
    second, incomplete = await after(store.begin_adoption)
    assert (incomplete, second == first[0]) == (True, False)
    assert await after(store.begin_adoption) == (second, True)
    assert await after(store.end_adoption) == (second, False)


async def test_a_file_with_stacks_belongs_to_its_namespace_and_instance(store: Store) -> None:
    def require_own(namespace: str, instance: str) -> None:
        require_own_file(str(store.path), namespace=namespace, instance=instance)

    await store.begin("stacks", "default")
    first = store.identity
    await accepted(store, 1)
    with pytest.raises(ConfigError, match=r'"stacks", not "arena", .*"default", not "second"'):
        require_own("arena", "second")
    require_own("stacks", "default")
    await store.stacks.remove([stack_id(1)])
    require_own("arena", "second")
    await store.begin("arena", "second")
    moved = store.identity
    assert (moved.namespace, moved.instance, moved.incomplete) == ("arena", "second", True)
    assert moved.file_id != first.file_id
