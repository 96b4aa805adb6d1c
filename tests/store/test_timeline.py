from __future__ import annotations

from dataclasses import replace

from stackd.model import DeleteReason, Happening, KeptLog, Kind, StackStatus
from stackd.store import Store
from stackd.store.timeline import LINES_PER_STACK
from tests.store.building import HOUR, START, TestClock, accepted, new_stack, seen, stack_id

ONE = stack_id(1)


async def kinds(store: Store) -> list[str]:
    return [line.kind.value for line in await store.timeline(ONE)]


async def test_a_stack_tells_what_happened_to_it_after_it_is_gone(store: Store) -> None:
    await accepted(store, 1)
    await store.observe([seen(1)])
    failed = replace(seen(1, StackStatus.FAILED, ended=True), status_reason="OOMKilled", status_message="too much")
    await store.observe([failed])
    await store.mark_deleting([ONE], DeleteReason.REQUEST, "alice")
    await store.remove([ONE])
    lines = await store.timeline(ONE)
    assert [(line.kind.value, line.reason, line.by) for line in lines] == [
        ("accepted", "", "stackd"),
        ("scheduled", "", "cluster"),
        ("ready", "", "cluster"),
        ("failed", "OOMKilled", "cluster"),
        ("delete_requested", "request", "alice"),
        ("deleted", "request", "stackd"),
    ]
    assert lines[3].message == "too much"


async def test_a_create_that_was_undone_leaves_no_timeline(store: Store) -> None:
    await store.reserve(new_stack(1))
    await store.mark_deleting([ONE], DeleteReason.UNDO)
    await store.remove([ONE])
    assert await kinds(store) == []


async def test_what_the_cluster_says_again_is_counted_and_not_repeated(store: Store) -> None:
    await accepted(store, 1)
    for count in (1, 5):
        said = Happening(kind=Kind.WARNING, at=START + count, reason="BackOff", message="x", by="cluster", count=count)
        await store.keep_evidence(ONE, [said], [])
    (line,) = [line for line in await store.timeline(ONE) if line.kind is Kind.WARNING]
    assert (line.at, line.count) == (START + 5, 5)


async def test_a_stack_that_flaps_keeps_a_bounded_number_of_lines(store: Store) -> None:
    await accepted(store, 1)
    for number in range(LINES_PER_STACK):
        reason = "NotReady" if number % 2 else ""
        await store.observe([replace(seen(1), status_reason=reason)])
    assert len(await store.timeline(ONE)) <= LINES_PER_STACK
    assert (await kinds(store))[-1] == "not_ready"


async def test_timeline_and_logs_go_when_the_stack_has_been_gone_for_long_enough(
    store: Store, clock: TestClock
) -> None:
    for number in (1, 2):
        await accepted(store, number)
        await store.keep_evidence(stack_id(number), [], [KeptLog(container="app", at=START, text="bye")])
    await store.mark_deleting([ONE], DeleteReason.EXPIRED)
    await store.remove([ONE])
    clock.advance(3600)
    assert (await store.purge(clock.now(), keep_jobs_ns=HOUR, keep_history_ns=HOUR + 1)).happenings == 0
    assert [log.text for log in await store.kept_logs(ONE)] == ["bye"]
    assert (await store.purge(clock.now() + 1, keep_jobs_ns=HOUR, keep_history_ns=HOUR)).happenings == 4
    assert (await kinds(store), await store.kept_logs(ONE)) == ([], [])
    assert await store.timeline(stack_id(2))
    assert await store.kept_logs(stack_id(2))


async def test_evidence_about_a_stack_that_is_gone_is_not_kept(store: Store) -> None:
    said = Happening(kind=Kind.WARNING, at=START, reason="x", by="cluster")
    await store.keep_evidence(ONE, [said], [KeptLog(container="app", at=START, text="bye")])
    assert (await kinds(store), await store.kept_logs(ONE)) == ([], [])
