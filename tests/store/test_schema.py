from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from stackd.errors import LabelLimitReached, StoreError
from stackd.model import DeleteReason, Desired, EventKind
from stackd.store import schema
from stackd.store.schema import Migration
from tests.store.building import HOUR, SMALL, START, accepted, new_stack, open_store, stack_id

TABLE = Migration(
    name="a table",
    statements=(
        "CREATE TABLE later (stack_id TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (stack_id, at))"
        " STRICT, WITHOUT ROWID",
        "ALTER TABLE stacks ADD COLUMN later INTEGER NOT NULL DEFAULT 0",
    ),
)


def count_stacks(connection: sqlite3.Connection) -> None:
    (number,) = connection.execute("SELECT count(*) FROM stacks").fetchone()
    connection.execute("INSERT INTO meta VALUES ('counted', ?)", (str(number),))


COUNTED = Migration(name="a function", then=count_stacks)
BROKEN = Migration(name="broken", statements=("CREATE TABLE half (x) STRICT", "SELECT * FROM nowhere"))
DANGLING = Migration(name="dangling", statements=("DELETE FROM stacks",))

FIRST = replace(SMALL, migrations=schema.MIGRATIONS)
LATER = replace(SMALL, migrations=(*schema.MIGRATIONS, TABLE, COUNTED))
VERSION = len(schema.MIGRATIONS)
PORT = '[{"container_port":80,"protocol":"TCP","node_port":31001}]'


def shape(path: Path) -> list[tuple[str, str, list[tuple[object, ...]]]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT type, name FROM sqlite_schema ORDER BY type, name").fetchall()
        return [(kind, name, connection.execute(f"PRAGMA table_xinfo({name})").fetchall()) for kind, name in names]


def version(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return schema.version_of(connection)


async def test_an_older_file_is_migrated_with_its_rows_and_a_copy_is_kept(path: Path) -> None:
    store = await open_store(path, options=FIRST)
    stack = await accepted(store, 1)
    await store.close()
    store = await open_store(path, options=LATER)
    assert store.stacks.ordered() == (stack,)
    assert await store.meta.get("counted") == "1"
    await store.close()
    assert version(path) == VERSION + 2
    copy = path.with_name(f"stackd.db.v{VERSION}-before-v{VERSION + 2}.bak")
    assert version(copy) == VERSION
    old = await open_store(copy, options=FIRST)
    assert old.stacks.ordered() == (stack,)
    await old.close()


async def test_a_migrated_file_has_the_shape_of_a_new_one(path: Path, tmp_path: Path) -> None:
    for options in (FIRST, LATER):
        store = await open_store(path, options=options)
        await store.close()
    store = await open_store(tmp_path / "new.db", options=LATER)
    await store.close()
    assert shape(path) == shape(tmp_path / "new.db")


async def test_a_new_file_needs_no_copy(path: Path) -> None:
    store = await open_store(path, options=LATER)
    await store.close()
    assert not list(path.parent.glob("*.bak"))


@pytest.mark.parametrize("bad", [BROKEN, DANGLING], ids=lambda bad: bad.name)
async def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path, bad: Migration) -> None:
    store = await open_store(path, options=FIRST)
    stack = await accepted(store, 1)
    await store.close()
    before = shape(path)
    with pytest.raises(StoreError):
        await open_store(path, options=replace(SMALL, migrations=(*schema.MIGRATIONS, TABLE, bad)))
    assert (shape(path), version(path)) == (before, VERSION)
    store = await open_store(path, options=FIRST)
    assert store.stacks.ordered() == (stack,)
    await store.close()


async def test_a_file_of_a_later_stackd_is_refused_by_the_earlier_one(path: Path) -> None:
    store = await open_store(path, options=LATER)
    await store.close()
    with pytest.raises(StoreError, match=f"has format {VERSION + 2}, and this stackd knows formats up to {VERSION}"):
        await open_store(path, options=FIRST)


async def test_foreign_keys_are_enforced_after_a_migration(path: Path) -> None:
    store = await open_store(path, options=FIRST)
    await store.jobs.create("job-1", ["a", "b"])
    await store.jobs.begin_items("job-1", ["a", "b"])
    await store.close()
    store = await open_store(path, options=LATER)
    assert (await store.purge(2**62, keep_jobs_ns=0)).jobs == 1
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM job_items").fetchone() == (0,)


async def test_a_file_of_the_first_format_keeps_its_stacks_and_learns_stops_labels_and_timelines(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        schema.create(connection, schema.MIGRATIONS[:1])
        connection.execute(
            "INSERT INTO stacks VALUES (?, 'stacks', 'kind: Pod', ?, 'running', 1, 2, ?, 100, 200, 'worker', NULL,"
            " '', '', ?, 1, 0, 1, NULL, NULL, 'pod', 'service')",
            (stack_id(1), PORT, START + HOUR, '{"Player":"7A"}'),
        )
        connection.execute("INSERT INTO node_ports VALUES (31001, ?)", (stack_id(1),))
        connection.commit()
    store = await open_store(path, options=FIRST)
    (stack,) = store.stacks.ordered()
    assert (stack.desired, stack.generation, stack.pod_uid) == (Desired.RUNNING, 0, "pod")
    assert await store.timeline.read(stack.stack_id) == []
    with pytest.raises(LabelLimitReached):
        await store.stacks.reserve(replace(new_stack(2), labels={"player": "7a"}), label_limits={"player": 1})
    await store.stacks.mark_deleting([stack.stack_id], DeleteReason.REQUEST, "alice")
    await store.stacks.remove([stack.stack_id])
    assert [line.kind for line in await store.timeline.read(stack.stack_id)] == [
        EventKind.DELETE_REQUESTED,
        EventKind.DELETED,
    ]
    await store.close()
    assert version(path.with_name(f"stackd.db.v1-before-v{VERSION}.bak")) == 1
