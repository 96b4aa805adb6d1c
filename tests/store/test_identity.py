"""The cluster, namespace and instance that a file belongs to, and how far its history reaches."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from stackd.clock import boot_id
from stackd.errors import StoreError
from stackd.model import DeleteReason, EventKind, StackStatus
from stackd.store import Extension, Start, Store
from stackd.store.file import read_summary
from tests.store.building import HOUR, accepted, back_up, new_stack, open_store, seen, stack_id


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
