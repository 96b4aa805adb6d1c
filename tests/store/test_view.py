from __future__ import annotations

import asyncio
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from stackd.model import DeleteReason, Stack, StackStatus
from stackd.store import Store
from stackd.store.stacks import StacksView
from tests.store.building import accepted, new_stack, seen, stack_id

Change = tuple[Stack | None, Stack | None]


async def test_the_list_is_the_same_object_until_something_changes(store: Store) -> None:
    await accepted(store, 1)
    first = store.stacks.ordered()
    assert store.stacks.ordered() is first
    await store.stacks.observe([seen(1)])
    assert store.stacks.ordered() is not first


async def test_subscribers_hear_of_each_change_in_its_order_before_the_caller_does(store: Store) -> None:
    heard: list[Change] = []
    unsubscribe = store.stacks.subscribe(lambda before, after: heard.append((before, after)))
    reserved = await store.stacks.reserve(new_stack(1))
    assert heard == [(None, reserved)]
    (running,) = await store.stacks.observe([seen(1)])
    (marked,) = await store.stacks.mark_deleting([stack_id(1)], DeleteReason.REQUEST)
    await store.stacks.remove([stack_id(1)])
    assert heard[1:] == [(reserved, running), (running, marked), (marked, None)]
    unsubscribe()
    await store.stacks.reserve(new_stack(2))
    assert len(heard) == 4


async def test_a_row_that_came_and_went_within_one_batch_is_heard_of_twice(store: Store) -> None:
    heard: list[Change] = []
    store.stacks.subscribe(lambda before, after: heard.append((before, after)))
    await asyncio.gather(store.stacks.reserve(new_stack(1)), store.stacks.remove([stack_id(1)]))
    assert [(before is None, after is None) for before, after in heard] == [(True, False), (False, True)]
    assert len(store.stacks) == 0


def record(number: int, created_at: int) -> Stack:
    return Stack(
        stack_id=stack_id(number),
        namespace="stacks",
        pod_spec="",
        ports=(),
        status=StackStatus.CREATING,
        created_at=created_at,
        updated_at=created_at,
        ttl_expires_at=created_at,
        requested_cpu_milli=1,
        requested_memory_bytes=1,
    )


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.booleans()), max_size=40))
def test_the_order_kept_by_insertion_is_the_sorted_one(steps: list[tuple[int, int, bool]]) -> None:
    view, expected = StacksView(), dict[str, Stack]()
    for number, created_at, there in steps:
        stack = replace(record(number, created_at), updated_at=len(expected))
        if there:
            expected[stack.stack_id] = stack
        else:
            expected.pop(stack.stack_id, None)
        view.publish([(stack.stack_id, stack if there else None)])
        assert list(view.ordered()) == sorted(expected.values(), key=lambda s: (s.created_at, s.stack_id))
        assert len(view) == len(expected)
    assert all(view.get(known) is stack for known, stack in expected.items())
