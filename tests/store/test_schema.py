"""A file of an earlier format is converted with all its rows, and a copy of it is kept; others are refused."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from stackd.errors import LabelLimitReached, StoreError
from stackd.model import DeleteReason, Desired, EventKind, JobStatus
from stackd.store import schema
from tests.store.building import HOUR, START, claim, new_stack, open_store, stack_id

PORT = '[{"container_port":80,"protocol":"TCP","node_port":31001}]'
ROWS = f"""
INSERT INTO stacks VALUES ('{stack_id(1)}', 'stacks', 'kind: Pod', '{PORT}', 'running', 1, 2, {START + HOUR}, 100, 200,
    'worker', NULL, '', '', '{{"Player":"7A"}}', 1, 0, 1, NULL, NULL, 'pod', 'service', 'stopped', 3, NULL, NULL, 0, NULL);
INSERT INTO stacks VALUES ('{stack_id(2)}', 'stacks', 'kind: Pod', '[]', 'running', 1, 2, {START + HOUR}, 100, 200,
    'worker', NULL, '', '', '{{}}', 1, 0, 1, NULL, NULL, 'pod', 'service', 'running', 0, 'web', '{{}}', 1, NULL);
INSERT INTO stacks VALUES ('{stack_id(3)}', 'stacks', 'kind: Pod', '[]', 'running', 1, 2, {START + HOUR}, 100, 200,
    'worker', NULL, '', '', '{{}}', 1, 0, 1, NULL, NULL, 'pod', 'service', 'running', 0, 'web', '{{}}', 1, 'digest');
INSERT INTO stack_labels VALUES ('Player', '7A', '{stack_id(1)}');
INSERT INTO stack_labels VALUES ('player', '7a', '{stack_id(1)}');
INSERT INTO node_ports VALUES (31001, '{stack_id(1)}');
INSERT INTO timeline VALUES (1, '{stack_id(1)}', 1, 'accepted', '', '', 'alice', 1);
INSERT INTO removed_stacks VALUES ('{stack_id(9)}', 1);
INSERT INTO jobs VALUES ('job-1', 'completed', 1, 1, 0, 0, 1, 2, 'alice');
INSERT INTO job_items VALUES ('job-1', 0, '{stack_id(9)}', 'deleted', NULL);
INSERT INTO idempotency VALUES ('web', 'key-1', x'0102', '{stack_id(1)}', NULL, 201, x'7b7d', {START});
INSERT INTO meta VALUES ('cluster_uid', 'u'), ('namespace', 'stacks'), ('file_id', 'f'), ('sequence', '12');
"""


def file_of_format_4(path: Path, more: str = "") -> None:
    ddl = Path(__file__).with_name("format_4.sql").read_text()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(ddl + ROWS + more)


def shape(path: Path) -> list[tuple[str, str, list[tuple[object, ...]]]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT type, name FROM sqlite_schema ORDER BY type, name").fetchall()
        infos = {"table": "table_xinfo", "index": "index_xinfo"}
        return [(kind, name, connection.execute(f"PRAGMA {infos[kind]}({name})").fetchall()) for kind, name in names]


def version(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return schema.version_of(connection)


def copies(path: Path) -> list[str]:
    return [file.name for file in path.parent.glob("*.bak")]


async def test_a_file_of_format_4_is_converted_with_its_rows_and_a_copy_is_kept(path: Path, tmp_path: Path) -> None:
    file_of_format_4(path)
    store = await open_store(path)
    stack, given, pooled = store.stacks.ordered()
    assert (stack.desired, stack.generation, stack.pod_uid, store.ports.used) == (Desired.STOPPED, 3, "pod", 1)
    assert (given.unassigned, pooled.unassigned) == (False, True), "without a digest, a client may have been given it"
    with pytest.raises(LabelLimitReached):
        await store.stacks.reserve(replace(new_stack(4), labels={"player": "7a"}), label_limits={"player": 1})
    assert (store.identity.file_id, store.identity.sequence, store.identity.incomplete) == ("f", 12, False)
    found = await store.claims.find("web", "key-1")
    assert found == replace(claim(), stack_id=stack_id(1), status=201, answer=b"{}")
    assert [line.by for line in await store.timeline.read(stack_id(1))] == ["alice"]
    assert await store.stacks.removed_among([stack_id(9)])
    job = store.jobs.get("job-1")
    assert job is not None
    assert (job.status, job.done) == (JobStatus.COMPLETED, 1)
    await store.stacks.mark_deleting([stack_id(1)], DeleteReason.REQUEST, "alice")
    await store.stacks.remove([stack_id(1)])
    assert [line.kind for line in await store.timeline.read(stack_id(1))][-1] is EventKind.DELETED
    assert (await store.purge(2**62, keep_jobs_ns=0)).jobs == 1
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for table in ("job_items", "stack_labels", "node_ports"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), "foreign keys are enforced"
    store = await open_store(tmp_path / "new.db")
    await store.close()
    assert (shape(path), version(path)) == (shape(tmp_path / "new.db"), schema.FORMAT)
    assert copies(path) == [f"stackd.db.v4-before-v{schema.FORMAT}.bak"]
    assert version(path.with_name(copies(path)[0])) == 4


async def test_the_copy_made_before_the_conversion_is_incomplete_when_it_comes_back(path: Path) -> None:
    file_of_format_4(path)
    await (await open_store(path)).close()
    path.with_name(copies(path)[0]).replace(path)
    again = await open_store(path)
    assert (await again.begin("stacks", "default")).incomplete
    assert [stack.unassigned for stack in again.stacks] == [False, False, True]
    await again.close()


async def test_a_file_of_the_current_format_needs_no_copy(path: Path) -> None:
    for _ in range(2):
        await (await open_store(path)).close()
    assert not copies(path)


async def test_a_conversion_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    file_of_format_4(path, "CREATE TRIGGER never BEFORE UPDATE ON stacks BEGIN SELECT raise(ABORT, 'never'); END;")
    with pytest.raises(StoreError, match="cannot be used: never"):
        await open_store(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT key FROM stack_labels").fetchall() == [("Player",), ("player",)]
        connection.execute("DROP TRIGGER never")
    assert version(path) == 4
    store = await open_store(path)
    assert len(store.stacks) == 3
    await store.close()


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (0, "has format 0, and this stackd converts formats from 4 on: restore a copy made by `stackd backup`, or"),
        (3, "has format 3, and this stackd converts formats from 4 on: restore a copy made by `stackd backup`, or"),
        (
            schema.FORMAT + 1,
            f"has format {schema.FORMAT + 1}, and this stackd knows formats up to {schema.FORMAT}: run the newer",
        ),
    ],
)
async def test_other_formats_are_refused_and_left_as_they_are(path: Path, number: int, why: str) -> None:
    file_of_format_4(path, f"PRAGMA user_version = {number};")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=why):
        await open_store(path)
    assert path.read_bytes() == before
