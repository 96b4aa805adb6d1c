"""The open state file: a memory view for immediate reads, and operations that are durable when they return.

Owns: opening and closing a state file, with its lock, writer thread and views, in the right order; the order of the list
of stacks (``created_at``, then id), the version that tells whether anything changed, and the subscribers. Reads of a view
never wait and see only committed data. Does not know Kubernetes or HTTP, nor why an operation is called. Everything
belongs to the event loop on which the file was opened.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator, KeysView, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from stackd.clock import NANOSECONDS, Clock
from stackd.errors import StackNotFound
from stackd.model import Job, Observation, PortRange, Stack
from stackd.store import adoption, changes, history, jobs, reservations, rows
from stackd.store.file import Ballast, FileLock, companion, damaged, follow_links, open_file, plain_errors
from stackd.store.history import Activity, Timeline
from stackd.store.identity import ALL_META, FileIdentity, Meta, begin, begin_adoption, end_adoption, put
from stackd.store.jobs import Jobs
from stackd.store.reservations import PortRules, Ports
from stackd.store.rows import Claims
from stackd.store.transaction import Submit, Table, Transaction, is_damage, operation
from stackd.store.writer import Writer

_UNREADABLE = "Could not decode"  # the sqlite3 module's error for text that is not UTF-8
DAY = 24 * 3600 * NANOSECONDS
_PURGED_AT_ONCE = 10_000
_TIMELINES_PURGED_AT_ONCE = 1_000
_KEEP_REMOVED_NS = 30 * DAY
_PLACE = attrgetter("created_at", "stack_id")
Subscriber = Callable[[Stack | None, Stack | None], None]


class StacksView:
    """All stacks as committed, without long pod specs; ``version`` grows with each commit that has changed one."""

    def __init__(self, stacks: Iterable[Stack] = ()) -> None:
        self._by_id = {stack.stack_id: _kept(stack) for stack in stacks}
        self._ordered: tuple[Stack, ...] | None = None
        self._subscribers: list[Subscriber] = []
        self.version = 0

    def get(self, stack_id: str) -> Stack | None:
        """The stack, or None."""
        return self._by_id.get(stack_id)

    def ids(self) -> KeysView[str]:
        """The ids of all stacks, as a live set."""
        return self._by_id.keys()

    def ordered(self) -> tuple[Stack, ...]:
        """All stacks by ``created_at``, then id; the same tuple until a stack changes."""
        if self._ordered is None:
            self._ordered = tuple(sorted(self._by_id.values(), key=_PLACE))
        return self._ordered

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Stack]:
        return iter(self.ordered())

    def __contains__(self, stack_id: object) -> bool:
        return stack_id in self._by_id

    def subscribe(self, callback: Subscriber) -> None:
        """Call ``callback(before, after)`` on the loop after each change; it must not raise."""
        self._subscribers.append(callback)

    def publish(self, changes: Iterable[tuple[str, Stack | None]]) -> None:
        """Apply a committed group, then call the subscribers with each change, in order."""
        news: list[tuple[Stack | None, Stack | None]] = []
        for stack_id, changed in changes:
            before, after = self._by_id.get(stack_id), changed and _kept(changed)
            if before is not None or after is not None:
                news.append((before, after))
            if after is not None:
                self._by_id[stack_id] = after
            elif before is not None:
                del self._by_id[stack_id]
        if not news:
            return
        self._ordered = None
        self.version += 1
        for before, after in news:
            for callback in self._subscribers:
                callback(before, after)


def _kept(stack: Stack) -> Stack:
    """The stack as it is kept in memory: without a long pod spec."""
    if stack.pod_spec is None or len(stack.pod_spec) <= rows.LONGEST_KEPT:
        return stack
    return replace(stack, pod_spec=None)


class Stacks(StacksView, Table):
    """The view, and the operations. Each is one transaction; its result is durable and visible in the view."""

    def __init__(self, stacks: Iterable[Stack], submit: Submit, pending: Callable[[], int]) -> None:
        StacksView.__init__(self, stacks)
        Table.__init__(self, submit)
        self._pending = pending

    reserve = operation(reservations.reserve, grows=True)
    assign = operation(reservations.assign, grows=True)
    check = operation(reservations.check, writes=False)
    accept = operation(changes.accept)
    extend = operation(changes.extend)
    stop = operation(changes.stop)
    stopped = operation(changes.stopped)
    start = operation(changes.start)
    started = operation(changes.started)
    set_service = operation(changes.set_service)
    mark_deleting = operation(rows.mark_deleting)
    mark_expired = operation(changes.mark_expired)
    tell_held = operation(changes.tell_held)
    end_in_time = operation(changes.end_in_time)
    remove = operation(rows.remove)
    remove_soon = operation(rows.remove, relaxed=True)
    """As ``remove``, without waiting for the disk: whoever counts on it has another write that does."""
    removed_among = operation(rows.removed_among, writes=False)
    adopt = operation(adoption.adopt, grows=True)
    renew = operation(adoption.renew, grows=True)
    pod_specs = operation(rows.pod_specs, writes=False)
    _observe = operation(changes.observe, relaxed=True)

    async def observe(self, seen: Sequence[Observation]) -> list[Stack]:
        """As ``changes.observe``. Without news it needs no transaction.

        Observations do not wait for the disk: those lost in a power failure are read from the cluster again.
        """
        if not self._pending():  # no operation is pending, so the view is what the file holds
            rows_seen = [(self.get(one.stack_id), one) for one in seen]
            seen = [one for stack, one in rows_seen if stack is not None and changes.differs(stack, one)]
        return await self._observe(seen) if seen else []

    def waits_in_pool(self, stack_id: str) -> bool:
        """Whether this stack waits in a pool. It does not exist for any client then."""
        stack = self.get(stack_id)
        return stack is not None and stack.unassigned

    async def whole(self, stack: Stack) -> Stack:
        """The stack with its pod spec, which is read from the file if it is too long to be kept in memory.

        Raises ``StackNotFound`` if its row is gone by now.
        """
        if stack.pod_spec is not None:
            return stack
        specs = await self.pod_specs([stack.stack_id])
        if stack.stack_id not in specs:
            raise StackNotFound(stack.stack_id)
        return replace(stack, pod_spec=specs[stack.stack_id])


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedState:
    """An open file and its content; ``begun`` are the stacks that unfinished jobs had started to delete."""

    path: Path
    lock: FileLock
    ballast: Ballast
    connection: sqlite3.Connection
    stacks: list[Stack]
    jobs: list[Job]
    identity: FileIdentity
    begun: frozenset[str]

    def close(self) -> None:
        """Close a file that no writer has taken over."""
        self.connection.close()
        self.lock.release()


def load(path: Path, now: int) -> LoadedState:
    """Lock, check, open, convert and read the file; creates it if there is none. Raises ``StoreError``.

    Links are followed first, so that lock, log and copies are beside the real file, whatever name leads to it.
    """
    path = follow_links(path)
    with plain_errors(f"the state file {path} cannot be used"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock.acquire(path, now)
    with ExitStack() as cleanup:
        cleanup.callback(lock.release)
        ballast = Ballast(path)
        connection = open_file(path, ballast)
        cleanup.callback(connection.close)
        loaded = LoadedState(path=path, lock=lock, ballast=ballast, connection=connection, **_content(connection, path))
        if not ballast.spent:
            ballast.fill()
        cleanup.pop_all()
    return loaded


def _content(connection: sqlite3.Connection, path: Path) -> dict[str, Any]:
    def errors_of(job_id: str) -> list[tuple[str, str]]:
        return connection.execute(jobs.JOB_ERRORS, (job_id,)).fetchall()

    try:
        return {
            "identity": FileIdentity.from_meta(dict(connection.execute(ALL_META))),
            "stacks": [rows.from_row(row) for row in connection.execute(rows.ALL_STACKS)],
            "jobs": [jobs.from_row(row, errors_of) for row in connection.execute(jobs.ALL_JOBS).fetchall()],
            "begun": frozenset(stack_id for (stack_id,) in connection.execute(jobs.BEGUN_ITEMS)),
        }
    except sqlite3.Error as exc:
        if is_damage(exc) or _UNREADABLE in str(exc):
            raise damaged(path, str(exc)) from exc
        with plain_errors(f"the state file {path} cannot be read"):
            raise
    except (ValueError, TypeError, LookupError, AttributeError) as exc:
        raise damaged(path, f"a row in it cannot be read: {exc}") from exc


class Store(Table):
    """The open file: ``stacks``, ``ports``, ``jobs``, ``timeline``, ``activity``, ``claims`` and ``meta``, with their operations.

    An operation returns once it is durable and visible in the view. It raises ``StoreUnavailable`` if the file cannot
    be written now; then it had no effect, and the next operation may succeed. ``begun``: see ``LoadedState``.
    """

    def __init__(self, loaded: LoadedState, clock: Clock, node_ports: PortRange) -> None:
        self.path = loaded.path
        self.begun = loaded.begun
        self._lock = loaded.lock
        self._identity = loaded.identity
        self._sequence = loaded.identity.sequence
        ports = PortRules(node_ports, clock.monotonic)
        self._writer = Writer(
            path=loaded.path,
            connection=loaded.connection,
            ports=ports,
            ballast=loaded.ballast,
            clock=clock,
            sequence=self._sequence,
            publish=self._publish,
        )
        self.counters = self._writer.counters
        submit = self._writer.submit
        super().__init__(submit)
        self.stacks = Stacks(loaded.stacks, submit, lambda: self._writer.pending)
        self.assigned = StacksView(stack for stack in loaded.stacks if not stack.unassigned)
        self.ports = Ports(ports, loaded.stacks, submit)
        self.stacks.subscribe(self.ports.follow)
        self.jobs = Jobs(loaded.jobs, submit)
        self.timeline = Timeline(submit)
        self.activity = Activity(submit)
        self.claims = Claims(submit)
        self.meta = Meta(submit)

    @classmethod
    async def open(cls, path: Path, *, clock: Clock, node_ports: PortRange) -> Store:
        """Open the state file, or create it if there is none; ``node_ports`` is the range to hand out.

        Raises ``StoreError`` if the file is damaged, newer, foreign, or held by another process.
        """
        opening = asyncio.ensure_future(asyncio.to_thread(load, path, clock.now()))
        try:
            return cls(await asyncio.shield(opening), clock, node_ports)
        except asyncio.CancelledError:
            (await opening).close()
            raise

    async def close(self) -> None:
        """Finish all submitted operations, write the log back into the file, release the lock. Idempotent."""
        await self._writer.close()
        self._lock.release()

    @property
    def failed(self) -> asyncio.Future[None]:
        """Await it: it raises ``StoreError`` when the writer has ended unexpectedly; the daemon must then stop, too."""
        return self._writer.failed

    @property
    def pending(self) -> int:
        """How many operations wait for their commit."""
        return self._writer.pending

    def file_bytes(self) -> int:
        """The size of the file and its write-ahead log."""
        return sum(file.stat().st_size for file in (self.path, companion(self.path, "-wal")) if file.exists())

    # ---- whose file it is

    @property
    def identity(self) -> FileIdentity:
        """Whose stacks the file holds, and how far its history goes now."""
        return replace(self._identity, lock_id=self._lock.lock_id, sequence=self._sequence)

    @property
    def incomplete(self) -> bool:
        """Whether the file may lack stacks that the cluster has (``FileIdentity.incomplete``)."""
        return self._identity.incomplete

    begin = operation(begin)
    begin_adoption = operation(begin_adoption)
    end_adoption = operation(end_adoption)

    # ---- upkeep

    async def probe(self) -> None:
        """Write a small value. Raises ``StoreUnavailable`` if creates would be refused now."""
        await self._writer.submit(lambda tx: put(tx, "probed_at", str(tx.now)), grows=True)

    async def purge(
        self,
        now: int,
        *,
        keep_jobs_ns: int,
        keep_claims_ns: int = DAY,
        keep_history_ns: int = DAY,
    ) -> dict[str, int]:
        """Delete finished jobs, claims, timelines and ids of removed stacks that are older than the given ages.

        Deletes at most ten thousand jobs, claims and ids and a thousand timelines per call, to keep the writer free. Returns
        how many ``jobs``, ``claims``, ``events`` and ``removed`` ids.
        """

        def operation(tx: Transaction) -> dict[str, int]:
            return {
                "events": history.purge(tx, now - keep_history_ns, _TIMELINES_PURGED_AT_ONCE),
                "jobs": jobs.purge(tx, now - keep_jobs_ns, _PURGED_AT_ONCE),
                "claims": rows.purge_claims(tx, now - keep_claims_ns, _PURGED_AT_ONCE),
                "removed": rows.purge_removed(tx, now - _KEEP_REMOVED_NS, _PURGED_AT_ONCE),
            }

        return await self._writer.submit(operation)

    def _publish(self, tx: Transaction) -> None:
        self._sequence = tx.sequence
        self._identity = tx.identity or self._identity
        self.jobs.publish(tx.jobs)
        self.assigned.publish((name, None if one is None or one.unassigned else one) for name, one in tx.stacks)
        self.stacks.publish(tx.stacks)
