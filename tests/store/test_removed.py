"""What the file keeps of deleted stacks: proof, within this file's history, that they were deleted."""

from __future__ import annotations

import pytest

from stackd.clock import NANOSECONDS
from stackd.errors import StoreUnavailable
from stackd.model import DeleteReason, ItemResult, Outcome
from stackd.store import Store
from tests.store.building import START, TestClock, accepted, largest_file, new_stack, open_store, stack_id

MONTH = 30 * 24 * 3600 * NANOSECONDS


async def test_the_id_of_each_removed_stack_is_kept_however_it_went(store: Store) -> None:
    await accepted(store, 1)
    await store.stacks.remove([stack_id(1), stack_id(9)])
    await store.stacks.reserve(new_stack(2))
    await store.stacks.mark_deleting([stack_id(2)], DeleteReason.UNDO)
    await store.stacks.remove([stack_id(2)])
    await accepted(store, 3)
    await store.jobs.create("job-1", [stack_id(3), stack_id(8)])
    await store.jobs.begin_items("job-1", [stack_id(3), stack_id(8)])
    await store.jobs.finish_items("job-1", [ItemResult(stack_id=stack_id(3), outcome=Outcome.DONE)])
    await accepted(store, 4)
    asked = [stack_id(number) for number in range(10)]
    assert await store.stacks.removed_among(asked) == {stack_id(1), stack_id(2), stack_id(3)}
    assert await store.stacks.removed_among([]) == frozenset()


async def test_a_removal_that_is_not_committed_leaves_no_trace(store: Store) -> None:
    await accepted(store, 1)
    with largest_file(4096), pytest.raises(StoreUnavailable):
        await store.stacks.remove([stack_id(1)])
    assert stack_id(1) in store.stacks
    assert await store.stacks.removed_among([stack_id(1)]) == frozenset()


async def test_they_are_kept_over_restarts_and_for_thirty_days(store: Store, clock: TestClock) -> None:
    await accepted(store, 1)
    await store.stacks.remove([stack_id(1)])
    clock.advance(60)
    await accepted(store, 2)
    await store.stacks.remove([stack_id(2)])
    both = [stack_id(1), stack_id(2)]
    assert (await store.purge(START + MONTH, keep_jobs_ns=0)).removed == 0
    await store.close()
    again = await open_store(store.path, clock)
    assert await again.stacks.removed_among(both) == set(both)
    assert (await again.purge(START + MONTH + 1, keep_jobs_ns=0)).removed == 1
    assert await again.stacks.removed_among(both) == {stack_id(2)}
    await again.close()


async def test_a_removed_stack_is_not_adopted_again(store: Store) -> None:
    gone, kept = await accepted(store, 1), await accepted(store, 2)
    await store.stacks.remove([gone.stack_id])
    (refused, taken) = await store.stacks.adopt([gone, kept])
    assert (refused.stack, refused.reason) == (None, "the stack was removed")
    assert taken.reason == "there is a stack of this id already"
