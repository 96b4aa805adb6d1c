"""After any sequence of operations, batches, failures and restarts, view and table agree.

Hypothesis repeats a sequence to shrink it, and must reach the same state each time. So ports are drawn from a seed, a
test sets the clock, and what is submitted together shares one commit even on a busy machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stackd.errors import StackdError, StoreUnavailable
from stackd.model import DeleteReason, EventKind, ItemResult, Outcome, Stack, StackStatus
from stackd.store import CreateLimits, Extension, Start, Store
from tests.store.building import (
    ALICE,
    HOUR,
    TestClock,
    busy,
    largest_file,
    new_stack,
    open_store,
    query,
    seen,
    stack_id,
)

T = TypeVar("T")

LOWEST, HIGHEST = 31001, 31008
START_AGAIN = Start(
    pod_spec="kind: Pod", kind=EventKind.RESTART_REQUESTED, by=ALICE, limits=CreateLimits(labels={"team": 1})
)
numbers = st.integers(0, 7)
outcomes = st.sampled_from(list(Outcome))


class StoreMachine(RuleBasedStateMachine):
    """Drives a real store on a real file, and compares it with a model of what was acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "stackd.db"
        self.runner = asyncio.Runner()
        self.clock = TestClock()
        random.seed(0)
        self.expected: dict[str, Stack] = {}
        self.removed: set[str] = set()
        self.jobs = 0
        self.store = self.open()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def open(self, lowest: int = LOWEST) -> Store:
        self.lowest = lowest
        store = self.run(open_store(self.path, self.clock, ports=(lowest, HIGHEST)))
        store.stacks.subscribe(self.follow)
        return store

    def follow(self, before: Stack | None, after: Stack | None) -> None:
        """Update the model with each published change; the invariant checks that the file has the same."""
        known = after or before
        assert known is not None
        assert self.expected.get(known.stack_id) == before
        if after is None:
            del self.expected[known.stack_id]
            self.removed.add(known.stack_id)
        else:
            self.expected[known.stack_id] = after

    def attempt(self, *calls: Coroutine[Any, Any, object]) -> list[object]:
        """Run the calls in one commit; return their results, including errors that stackd defines."""

        async def together() -> list[object]:
            if len(calls) == 1:
                return list(await asyncio.gather(*calls, return_exceptions=True))
            async with busy(self.store):
                answers = asyncio.gather(*calls, return_exceptions=True)
            return list(await answers)

        results = self.run(together())
        for result in results:
            assert not isinstance(result, BaseException) or isinstance(result, StackdError), result
        return results

    @rule(wanted=st.lists(st.tuples(numbers, st.integers(1, 3)), min_size=1, max_size=4))
    def reserve(self, wanted: list[tuple[int, int]]) -> None:
        self.attempt(*(self.store.stacks.reserve(new_stack(number, ports=ports)) for number, ports in wanted))

    @rule(number=numbers)
    def accept(self, number: int) -> None:
        self.attempt(self.store.stacks.accept(seen(number), pod_uid="p", service_uid="s"))

    @rule(number=numbers, status=st.sampled_from(list(StackStatus)), ended=st.booleans())
    def observe(self, number: int, status: StackStatus, ended: bool) -> None:
        self.attempt(self.store.stacks.observe([seen(number, status, ended=ended)]))

    @rule(ids=st.lists(numbers, max_size=3))
    def release(self, ids: list[int]) -> None:
        self.attempt(self.store.ports.release([stack_id(number) for number in ids]))

    @rule(number=numbers, confirmed=st.booleans(), again=st.booleans())
    def stop(self, number: int, confirmed: bool, again: bool) -> None:
        name = stack_id(number)
        steps: list[Coroutine[Any, Any, object]] = [self.store.stacks.stop(name, ALICE)]
        steps += [self.store.stacks.stopped(name)] if confirmed else []
        steps += [self.store.stacks.start(name, START_AGAIN)] if again else []
        self.attempt(*steps)

    @rule(number=numbers)
    def restart(self, number: int) -> None:
        """Start a stopped or ended stack: it gets all its ports again, or none."""
        self.attempt(self.store.stacks.start(stack_id(number), START_AGAIN))

    @rule(number=numbers)
    def extend(self, number: int) -> None:
        extension = Extension(add=HOUR, longest=6 * HOUR, by=ALICE)
        self.attempt(self.store.stacks.extend(stack_id(number), extension))

    @rule(number=numbers, index=st.integers(0, 2))
    def replace_port(self, number: int, index: int) -> None:
        stack = self.store.stacks.get(stack_id(number))
        if stack is not None and stack.ports_held:
            taken = stack.ports[index % len(stack.ports)].node_port
            self.attempt(self.store.ports.replace(stack_id(number), taken))

    @rule(ids=st.lists(numbers, max_size=3), reserve=numbers)
    def delete_and_reserve_at_once(self, ids: list[int], reserve: int) -> None:
        names = [stack_id(number) for number in ids]
        self.attempt(
            self.store.stacks.mark_deleting(names, DeleteReason.REQUEST),
            self.store.stacks.reserve(new_stack(reserve, ports=2)),
            self.store.stacks.remove(names),
        )

    @rule(ids=st.lists(numbers, min_size=1, max_size=5, unique=True), ends=st.lists(outcomes, min_size=5, max_size=5))
    def delete_by_job(self, ids: list[int], ends: list[Outcome]) -> None:
        self.jobs += 1
        job_id, names = f"job-{self.jobs}", [stack_id(number) for number in ids]
        self.run(self.store.jobs.create(job_id, names))
        begun = self.run(self.store.jobs.begin_items(job_id, names[:2]))
        self.reopen()
        begun = self.run(self.store.jobs.begin_items(job_id, self.run(self.store.jobs.pending_items(job_id, 10))))
        results = [
            ItemResult(stack_id=stack.stack_id, outcome=outcome) for stack, outcome in zip(begun, ends, strict=False)
        ]
        job = self.run(self.store.jobs.finish_items(job_id, results))
        assert job.finished
        assert job.total == job.done + job.not_found + job.failed

    @rule(
        wanted=st.lists(st.tuples(numbers, st.integers(1, 3)), min_size=1, max_size=3),
        gone=numbers,
        locked=st.booleans(),
    )
    def the_file_cannot_be_written(self, wanted: list[tuple[int, int]], gone: int, locked: bool) -> None:
        """What shares the commit fails as a whole; only a commit that writes nothing does not need the disk."""
        failed = self.store.counters.failed_commits
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as shell:
            if locked:
                shell.execute("BEGIN IMMEDIATE")
            with contextlib.nullcontext() if locked else largest_file(4096):
                results = self.attempt(
                    self.store.stacks.remove([stack_id(gone)]),
                    *(self.store.stacks.reserve(new_stack(number, ports=ports)) for number, ports in wanted),
                )
        why = "another process has locked it" if locked else "the disk reports an input/output error"
        if locked or self.store.counters.failed_commits > failed:
            assert {type(result) for result in results} == {StoreUnavailable}
            assert {str(result) for result in results} == {f"the state file cannot be written now: {why}"}
        assert not any(isinstance(result, Stack) for result in results)

    @rule(seconds=st.sampled_from([1, 300, 700]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.store = self.open()

    @rule()
    @precondition(lambda self: len(self.expected) < 4)
    def the_range_shrinks(self) -> None:
        self.run(self.store.close())
        self.store = self.open(lowest=31005)

    @invariant()
    def view_and_model_agree(self) -> None:
        in_order = sorted(self.expected.values(), key=lambda stack: (stack.created_at, stack.stack_id))
        assert list(self.store.stacks.ordered()) == in_order

    @invariant()
    def table_and_records_and_pool_agree(self) -> None:
        table = sorted(query(self.path, "SELECT stack_id, node_port FROM node_ports"))
        assert {row[0] for row in query(self.path, "SELECT stack_id FROM stacks")} == self.expected.keys()
        assert {row[0] for row in query(self.path, "SELECT stack_id FROM removed_stacks")} == self.removed
        sequence = query(self.path, "SELECT value FROM meta WHERE key = 'sequence'")
        assert self.store.identity.sequence == int(sequence[0][0] if sequence else 0)
        assert table == sorted(held(list(self.expected.values())))
        ports = self.store.ports
        assert ports.used == len(table)
        in_range = [port for _, port in table if self.lowest <= port <= HIGHEST]
        assert ports.free + ports.quarantined + len(in_range) == HIGHEST - self.lowest + 1

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()


def held(stacks: Sequence[Stack]) -> list[tuple[str, int]]:
    return [(stack.stack_id, port.node_port) for stack in stacks if stack.ports_held for port in stack.ports]


TestMachine = StoreMachine.TestCase
TestMachine.settings = settings(
    max_examples=10, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
