from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stackd.clock import boot_id
from stackd.errors import LabelLimitReached, StoreError
from stackd.model import DeleteReason, Desired, EventKind, JobStatus, StackStatus
from stackd.store import Extension, Start, Store, schema
from stackd.store.file import read_summary
from tests.store.building import (
    HOUR,
    SMALL,
    START,
    TestClock,
    accepted,
    back_up,
    claim,
    new_stack,
    open_store,
    seen,
    stack_id,
)

ROOT = Path(__file__).parents[2]


async def prepared(path: Path) -> None:
    """A closed file with ten stacks in it."""
    store = await open_store(path)
    await asyncio.gather(*(store.stacks.reserve(new_stack(number, pod_spec="x" * 3000)) for number in range(10)))
    await store.close()


async def refusal(path: Path) -> str:
    """Why the file cannot be opened; check that the attempt has not changed it."""
    before = path.read_bytes()
    with pytest.raises(StoreError) as caught:
        await open_store(path)
    assert path.read_bytes() == before
    return str(caught.value)


async def test_a_new_file_and_its_folder_are_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "deep" / "stackd.db"
    store = await open_store(path)
    await store.stacks.reserve(new_stack(1))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for suffix in ("", "-wal", "-shm", ".lock", ".reserve"):
        assert stat.S_IMODE(path.with_name(path.name + suffix).stat().st_mode) == 0o600, suffix
    await store.close()
    again = await open_store(path)
    assert len(again.stacks) == 1
    await again.close()


async def test_a_file_that_others_may_read_is_closed_to_them(path: Path) -> None:
    await prepared(path)
    path.chmod(0o644)
    store = await open_store(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await store.close()


async def test_the_file_is_run_as_sqlite_should_be(store: Store, path: Path) -> None:
    await accepted(store, 1)
    with contextlib.closing(sqlite3.connect(path)) as reader:
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert reader.execute("PRAGMA application_id").fetchone() == (schema.APPLICATION_ID,)
        assert reader.execute("PRAGMA user_version").fetchone() == (schema.FORMAT,)
        strict = dict(reader.execute("SELECT name, strict FROM pragma_table_list WHERE schema = 'main'"))
    tables = {
        "stacks",
        "node_ports",
        "hostnames",
        "jobs",
        "job_items",
        "idempotency",
        "meta",
        "stack_labels",
        "timeline",
        "kept_logs",
        "removed_stacks",
    }
    assert {name for name, is_strict in strict.items() if is_strict} == tables


async def test_another_process_is_told_who_holds_the_file_and_a_killed_one_holds_nothing(path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from stackd.clock import SystemClock\nfrom stackd.model import PortRange\nfrom stackd.store import Store\n"
        "async def main():\n"
        "    await Store.open(pathlib.Path(sys.argv[1]), clock=SystemClock(), node_ports=PortRange(31001, 31002))\n"
        "    print('open', flush=True)\n    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert await asyncio.to_thread(holder.stdout.readline) == b"open\n"
        with pytest.raises(StoreError, match=f"held by process {holder.pid} on .* since .*; stop it first"):
            await open_store(path)
        holder.kill()
        holder.wait()
    store = await open_store(path)
    await store.close()


async def test_an_empty_file_is_damaged_not_new(path: Path) -> None:
    path.touch()
    message = await refusal(path)
    assert message == (
        f"the state file {path} is damaged (it is empty): restore a copy made by `stackd backup`,"
        " or move the file away and run `stackd rebuild`"
    )


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"x", b"SQLite format 3\x00"])
async def test_a_file_that_is_no_database_is_damaged_not_replaced(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    message = await refusal(path)
    assert "is damaged (it is not a SQLite file)" in message
    assert "`stackd rebuild`" in message


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.1])
async def test_a_truncated_file_is_damaged(path: Path, keep: float) -> None:
    await prepared(path)
    os.truncate(path, int(path.stat().st_size * keep))
    message = await refusal(path)
    assert "is damaged" in message
    assert "`stackd backup`" in message


@pytest.mark.parametrize("page", range(1, 6))
async def test_a_file_with_an_overwritten_page_is_damaged(path: Path, page: int) -> None:
    await prepared(path)
    with path.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xa5" * 4096)
    assert "is damaged" in await refusal(path)


async def test_a_database_of_another_application_is_left_alone(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE stacks (anything)")
    assert "is a SQLite file of another application" in await refusal(path)


async def test_a_lost_file_whose_log_is_still_there_is_not_replaced_by_a_new_one(path: Path) -> None:
    log = path.with_name("stackd.db-wal")
    log.write_bytes(b"x" * 100)
    with pytest.raises(StoreError, match="is missing, but its wal file is there"):
        await open_store(path)
    assert not path.exists()
    assert log.exists()


async def test_a_creation_that_was_cut_short_is_begun_again(path: Path) -> None:
    path.with_name("stackd.db.new").write_bytes(b"half of a file")
    store = await open_store(path)
    await store.stacks.reserve(new_stack(1))
    await store.close()
    assert not path.with_name("stackd.db.new").exists()


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Drop root's rights within this block, since root may write to anything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_read_only_file_is_refused_in_plain_words() -> None:
    with tempfile.TemporaryDirectory() as folder:  # other users cannot enter pytest's own folders
        Path(folder).chmod(0o777)
        path = Path(folder) / "stackd.db"
        await prepared(path)
        path.chmod(0o444)
        path.with_name("stackd.db.lock").chmod(0o666)
        with unprivileged(), pytest.raises(StoreError, match="read-only for this user"):
            await open_store(path)


async def test_a_folder_that_cannot_be_made_is_said_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be used: Not a directory"):
        await open_store(tmp_path / "file" / "state" / "stackd.db")


async def test_an_opening_that_is_cancelled_gives_the_file_back(path: Path) -> None:
    opening = asyncio.ensure_future(open_store(path))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    store = await open_store(path, TestClock(), options=SMALL)
    assert store.stacks.get(stack_id(1)) is None
    await store.close()


async def test_a_link_and_the_file_itself_share_one_lock(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    real, link = tmp_path / "disk" / "stackd.db", tmp_path / "stackd.db"
    await prepared(real)
    link.symlink_to(real)
    store = await open_store(link)
    assert store.path == real
    for other in (real, link):
        with pytest.raises(StoreError, match="is held by process"):
            await open_store(other)
    await store.close()
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("stackd.db")] == ["stackd.db"]


async def test_a_link_that_leads_nowhere_is_not_replaced_by_an_empty_file(tmp_path: Path) -> None:
    link = tmp_path / "stackd.db"
    link.symlink_to(tmp_path / "volume" / "stackd.db")
    with pytest.raises(StoreError, match=r"is a link to .*/volume/stackd\.db, which is not there: mount what it is on"):
        await open_store(link)
    (tmp_path / "state").symlink_to("unmounted")
    with pytest.raises(
        StoreError, match=r"state, above the state file stackd\.db, is a link to unmounted, which is not"
    ):
        await open_store(tmp_path / "state" / "stackd.db")
    assert link.is_symlink()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["stackd.db", "state"]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE stacks SET ports = '[{]'",
        "UPDATE stacks SET ports = '[{\"port\": 1}]'",
        "UPDATE stacks SET ports = '7'",
        "UPDATE stacks SET labels = '[1]'",
        "UPDATE stacks SET desired = CAST(x'ff' AS TEXT)",
        "UPDATE stacks SET namespace = CAST(x'ff' AS TEXT)",
        "UPDATE meta SET value = 'many' WHERE key = 'sequence'",
    ],
)
async def test_a_row_that_cannot_be_read_is_damage_with_its_remedy(path: Path, change: str) -> None:
    await prepared(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("PRAGMA ignore_check_constraints = ON")
        assert shell.execute(change).rowcount
    assert re.search(r"is damaged \(.*\): restore a copy made by `stackd backup`", await refusal(path))


# ---- a file of an earlier format is converted with all its rows, and a copy of it is kept; others are refused


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


# ---- the cluster, namespace and instance that a file belongs to, and how far its history reaches


async def test_a_file_gets_an_id_once_and_each_process_counts(path: Path) -> None:
    store = await open_store(path)
    assert (store.identity.file_id, store.identity.epoch) == ("", 0)
    first = await store.begin("stacks", "default")
    assert (first, first.epoch, first.sequence) == (store.identity, 1, 0)
    assert (first.namespace, first.instance) == ("stacks", "default")
    await store.close()
    store = await open_store(path)
    second = await store.begin("stacks", "default")
    assert (second.file_id, second.epoch) == (first.file_id, 2)
    await store.close()
    assert len(first.file_id) == 16


async def test_the_lock_is_the_same_for_the_next_process_and_another_one_for_a_copy(path: Path) -> None:
    store = await open_store(path)
    lock = store.identity.lock_id
    await store.close()
    again = await open_store(path)
    assert again.identity.lock_id == lock != ""
    await again.close()
    folder = path.with_name("copy")
    folder.mkdir()
    shutil.copy(path, folder / path.name)
    copy = await open_store(folder / path.name)
    assert copy.identity.lock_id not in ("", lock)
    await copy.close()


def test_the_start_of_the_machine_is_handed_over_or_read(tmp_path: Path) -> None:
    file = tmp_path / "boot_id"
    file.write_text("0C1F-ab\n")
    assert boot_id({}, file) == "0c1fab"
    assert boot_id({"STACKD_BOOT_ID": "0011-22"}, file) == "001122"
    assert boot_id({}, tmp_path / "none") == ""


async def test_each_decision_about_a_stack_moves_the_sequence_and_an_observation_does_not(store: Store) -> None:
    one = stack_id(1)
    extension = Extension(add=HOUR, longest=6 * HOUR, by="alice")
    again = Start(pod_spec="kind: Pod", kind=EventKind.START_REQUESTED, by="alice", label_limits={})
    steps = [
        lambda: store.stacks.reserve(new_stack(1)),
        lambda: store.stacks.accept(seen(1), pod_uid="p", service_uid="s"),
        lambda: store.stacks.extend(one, extension),
        lambda: store.stacks.stop(one, "alice"),
        lambda: store.stacks.stopped(one),
        lambda: store.stacks.start(one, again),
        lambda: store.stacks.mark_deleting([one], DeleteReason.REQUEST),
        lambda: store.stacks.remove([one]),
    ]
    for number, step in enumerate(steps, start=1):
        await step()  # type: ignore[no-untyped-call]
        assert store.identity.sequence == number
    await accepted(store, 2)
    before = store.identity.sequence
    assert await store.stacks.observe([seen(2, StackStatus.RUNNING)])
    assert await store.stacks.mark_deleting([one], DeleteReason.REQUEST) == []
    await store.meta.put("brake", "on")
    await store.probe()
    assert store.identity.sequence == before


async def test_a_new_file_is_incomplete_until_it_is_said_to_be_complete(path: Path) -> None:
    store = await open_store(path)
    assert (await store.begin("stacks", "default")).incomplete
    await accepted(store, 1)
    await store.close()
    store = await open_store(path)
    assert (await store.begin("stacks", "default")).incomplete, "what was begun is not finished by a restart"
    assert not (await store.end_adoption()).incomplete
    await store.close()
    store = await open_store(path)
    assert not (await store.begin("stacks", "default")).incomplete
    await store.close()


async def test_a_file_that_is_found_to_be_old_begins_a_new_history(store: Store) -> None:
    first = await store.begin("stacks", "default")
    assert (await store.begin_adoption()).file_id == first.file_id, "a new file is at its beginning anyway"
    await store.end_adoption()
    second = await store.begin_adoption()
    assert second.incomplete
    assert second.file_id != first.file_id
    assert (await store.begin_adoption()).file_id == second.file_id
    assert (await store.end_adoption()).file_id == second.file_id


async def test_a_backup_knows_that_it_is_one_and_the_file_itself_goes_on(store: Store, tmp_path: Path) -> None:
    first = await store.begin("stacks", "default")
    await store.end_adoption()
    stack = await accepted(store, 1)
    await back_up(store, tmp_path / "copy.db")
    assert (store.identity.file_id, store.identity.incomplete) == (first.file_id, False)
    copy = await open_store(tmp_path / "copy.db")
    assert copy.stacks.ordered() == (stack,)
    restored = await copy.begin("stacks", "default")
    assert restored.incomplete
    assert restored.file_id not in ("", first.file_id)
    await copy.close()


@pytest.mark.parametrize(
    ("namespace", "instance", "said"),
    [
        ("arena", "default", 'stacks.namespace is "stacks", not "arena"'),
        ("stacks", "second", 'cluster.instance is "default", not "second"'),
        ("arena", "second", 'stacks.namespace is "stacks", not "arena", cluster.instance is "default", not "second"'),
    ],
)
async def test_a_file_with_stacks_is_not_given_to_others(
    store: Store, namespace: str, instance: str, said: str
) -> None:
    first = await store.begin("stacks", "default")
    await accepted(store, 1)
    assert store.identity.contradiction(namespace, instance) == said
    with pytest.raises(StoreError, match="the state file holds 1 stacks for which"):
        await store.begin(namespace, instance)
    assert store.identity.contradiction("stacks", "default") == ""
    await store.stacks.remove([stack_id(1)])
    moved = await store.begin(namespace, instance)
    assert (moved.namespace, moved.instance, moved.incomplete) == (namespace, instance, True)
    assert moved.file_id != first.file_id


async def test_what_a_file_says_is_read_while_it_is_in_use(store: Store, path: Path) -> None:
    first = await store.begin("stacks", "default")
    await accepted(store, 1)
    summary = read_summary(path)
    assert summary is not None
    assert summary.stacks == 1
    assert (summary.identity.file_id, summary.identity.namespace) == (first.file_id, "stacks")
    assert summary.identity.contradiction("arena", "default")
    assert read_summary(path.with_name("none.db")) is None


def test_what_is_no_state_file_says_so(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE x (y)")
    with pytest.raises(StoreError, match="is not a state file of stackd"):
        read_summary(other)
    (tmp_path / "broken.db").write_text("not a database at all, whatever it is called")
    with pytest.raises(StoreError, match="cannot be read: it is damaged"):
        read_summary(tmp_path / "broken.db")


async def test_an_opening_that_is_refused_gives_the_lock_back(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to look like something" * 40)
    await refusal(path)
    path.unlink()
    store = await open_store(path)
    await store.close()


async def test_a_file_whose_folder_is_a_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "state").symlink_to("disk")
    await prepared(tmp_path / "state" / "stackd.db")
    assert (tmp_path / "disk" / "stackd.db").exists()


async def test_the_sequence_goes_on_after_a_restart(path: Path) -> None:
    store = await open_store(path)
    await accepted(store, 1)
    sequence = store.identity.sequence
    await store.close()
    store = await open_store(path)
    assert store.identity.sequence == sequence == 2
    await accepted(store, 2)
    assert store.identity.sequence == sequence + 2
    await store.close()
