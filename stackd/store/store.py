"""The open state file: memory views for immediate reads, and operations that are durable when they return.

Owns: opening and closing a state file, with its lock, writer thread and views, in the right order. Does not know Kubernetes
or HTTP, nor why an operation is called. Everything belongs to the event loop on which the file was opened.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stackd.clock import NANOSECONDS, Clock
from stackd.errors import StackNotFound
from stackd.model import Job, Observation, PortRange, Principal, Stack, StoredTemplate
from stackd.store import adoption, audit, changes, history, jobs, links, reservations, rows, templates
from stackd.store.file import Ballast, FileLock, companion, damaged, follow_links, open_file, plain_errors
from stackd.store.identity import ALL_META, FileIdentity
from stackd.store.meta import begin, begin_adoption, end_adoption, set_cluster, set_meta
from stackd.store.reader import Reader
from stackd.store.transaction import Submit, Table, Transaction, View, is_damage, operation
from stackd.store.writer import Writer

_UNREADABLE = "Could not decode"  # the sqlite3 module's error for text that is not UTF-8
DAY = 24 * 3600 * NANOSECONDS
_PURGED_AT_ONCE = 10_000
_TIMELINES_PURGED_AT_ONCE = 1_000
_KEEP_REMOVED_NS = 30 * DAY


class Stacks(View[Stack], Table):
    """The view of all stacks, without long pod specs, and the operations. Each is one transaction; its result is durable
    and visible in the view.
    """

    def __init__(self, stacks: Iterable[Stack], submit: Submit, pending: Callable[[], int]) -> None:
        View.__init__(self, "stack_id", stacks)
        Table.__init__(self, submit)
        self._pending = pending

    reserve = operation(reservations.reserve, grows=True)
    take_spare = operation(reservations.take_spare, grows=True)
    assign = operation(reservations.assign, grows=True)
    check = operation(reservations.check, writes=False)
    accept = operation(changes.accept)
    extend = operation(changes.extend, grows=True)
    relabel = operation(changes.relabel, grows=True)
    stop = operation(changes.stop)
    stopped = operation(changes.stopped)
    start = operation(changes.start, grows=True)
    started = operation(changes.started)
    set_service = operation(changes.set_service)
    mark_deleting = operation(rows.mark_deleting)
    mark_deleting_soon = operation(rows.mark_deleting, relaxed=True)
    """As ``mark_deleting``, without waiting for the disk: whoever wishes it has written that down elsewhere."""
    mark_expired = operation(changes.mark_expired)
    set_pending_reason = operation(changes.set_pending_reason)
    shorten_future = operation(changes.shorten_future)
    remove = operation(rows.remove)
    remove_soon = operation(rows.remove, relaxed=True)
    """As ``remove``, without waiting for the disk: whoever counts on it has another write that does."""
    removed_among = operation(rows.removed_among, writes=False)
    adopt = operation(adoption.adopt, grows=True)
    update = operation(adoption.update, grows=True)
    keep = operation(changes.keep)
    close = operation(changes.close)
    serve = operation(changes.serve)
    pod_specs = operation(rows.pod_specs, writes=False)
    _observe = operation(changes.observe, relaxed=True)

    async def observe(self, seen: Sequence[Observation]) -> list[Stack]:
        """As ``changes.observe``. Without news it needs no transaction.

        Observations do not wait for the disk: those lost in a power failure are read from the cluster again.
        """
        if not self._pending():  # no operation is pending, so the view is what the file holds
            seen = [news for news in seen if (row := self.get(news.stack_id)) and changes.differs(row, news)]
        return await self._observe(seen) if seen else []

    def waits_in_pool(self, stack_id: str) -> bool:
        """Whether this stack waits in a pool. It does not exist for any client then."""
        stack = self.get(stack_id)
        return stack is not None and stack.unassigned

    async def with_pod_spec(self, stack: Stack) -> Stack:
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
    """An open file and its content."""

    path: Path
    lock: FileLock
    ballast: Ballast
    connection: sqlite3.Connection
    identity: FileIdentity
    stacks: list[Stack]
    jobs: list[Job]
    templates: list[StoredTemplate]
    revoked: dict[str, int]
    messages: str


def load(path: Path, now: int, keys: Sequence[Principal] = ()) -> LoadedState:
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
        connection = open_file(path, ballast, keys)
        cleanup.callback(connection.close)
        loaded = _read(path, lock, ballast, connection)
        if not ballast.spent:
            ballast.fill()
        cleanup.pop_all()
    return loaded


def _read(path: Path, lock: FileLock, ballast: Ballast, connection: sqlite3.Connection) -> LoadedState:
    try:
        return LoadedState(
            path=path,
            lock=lock,
            ballast=ballast,
            connection=connection,
            identity=FileIdentity.from_meta(dict(connection.execute(ALL_META))),
            stacks=[rows.STACKS.record(row) for row in connection.execute(rows.ALL_STACKS)],
            jobs=jobs.load(connection),
            templates=templates.load(connection),
            revoked=links.load_revoked(connection),
            messages=dict(connection.execute(ALL_META)).get("messages", "[]"),
        )
    except sqlite3.Error as exc:
        if is_damage(exc) or _UNREADABLE in str(exc):
            raise damaged(path, str(exc)) from exc
        with plain_errors(f"the state file {path} cannot be read"):
            raise
    except (ValueError, TypeError, LookupError, AttributeError) as exc:
        raise damaged(path, f"a row in it cannot be read: {exc}") from exc


class Store(Table):
    """The open file: ``stacks``, ``ports``, ``jobs``, ``templates``, ``timeline``, ``audit``, ``claims`` and ``links``; and the
    operations.

    An operation returns once it is durable and visible in the view. It raises ``StoreUnavailable`` if the file cannot
    be written now; then it had no effect, and the next operation may succeed.
    """

    def __init__(self, loaded: LoadedState, clock: Clock, node_ports: PortRange) -> None:
        self.path = loaded.path
        self._lock = loaded.lock
        self._identity = loaded.identity
        super().__init__(self._hand_over)
        self.stacks = Stacks(loaded.stacks, self._hand_over, lambda: self.pending)
        self.assigned = View("stack_id", (stack for stack in loaded.stacks if stack.of_clients))
        self.ports = reservations.Ports(node_ports, clock.monotonic, loaded.stacks, self._hand_over)
        self.stacks.subscribe(self.ports.follow)
        self.jobs = jobs.Jobs(loaded.jobs, self._hand_over)
        self.templates = templates.Templates(loaded.templates, self._hand_over)
        self.messages = loaded.messages  # as they were when the file was opened
        self._reader = Reader(loaded.path, self.ports, clock)
        self.timeline = history.Timeline(self._hand_over)
        self.audit = audit.Audit(self._hand_over)
        self.claims = rows.Claims(self._hand_over)
        self.links = links.Links(loaded.revoked, self._hand_over)
        self._writer = Writer(
            path=loaded.path,
            connection=loaded.connection,
            ports=self.ports,
            ballast=loaded.ballast,
            clock=clock,
            sequence=loaded.identity.sequence,
            publish=self._publish,
        )
        self.counters = self._writer.counters

    def _hand_over(
        self, operation: Callable[[Transaction], Any], *, long: bool = False, **how: bool
    ) -> Coroutine[Any, Any, Any]:
        return self._reader.submit(operation) if long else self._writer.submit(operation, **how)

    @classmethod
    async def open(cls, path: Path, *, clock: Clock, node_ports: PortRange, keys: Sequence[Principal] = ()) -> Store:
        """Open the state file, or create it if there is none; ``node_ports`` is the range to hand out.

        What a file of an earlier format knows by the name of one of ``keys`` becomes that key's.

        Raises ``StoreError`` if the file is damaged, newer, foreign, or held by another process.
        """
        opening = asyncio.ensure_future(asyncio.to_thread(load, path, clock.now(), keys))
        try:
            return cls(await asyncio.shield(opening), clock, node_ports)
        except asyncio.CancelledError:
            loaded = await opening
            loaded.connection.close()
            loaded.lock.release()
            raise

    async def close(self) -> None:
        """Finish all submitted operations, write the log back into the file, release the lock. Idempotent."""
        await self._reader.close()
        await self._writer.close()
        self._lock.release()

    async def failed(self) -> None:
        """Raises ``StoreError`` when the writer has ended unexpectedly; the daemon must then stop, too."""
        await self._writer.failed()

    @property
    def pending(self) -> int:
        return self._writer.pending

    def file_bytes(self) -> int:
        return sum(file.stat().st_size for file in (self.path, companion(self.path, "-wal")) if file.exists())

    # ---- whose file it is

    @property
    def identity(self) -> FileIdentity:
        """Whose stacks the file holds, and how far its history goes now."""
        return replace(self._identity, lock_id=self._lock.lock_id)

    @property
    def incomplete(self) -> bool:
        """Whether the file may lack stacks that the cluster has (``FileIdentity.incomplete``)."""
        return self._identity.incomplete

    set_meta = operation(set_meta, grows=True)
    begin = operation(begin)
    set_cluster = operation(set_cluster)
    begin_adoption = operation(begin_adoption)
    end_adoption = operation(end_adoption)

    # ---- upkeep

    async def probe(self) -> None:
        """Write a small value. Raises ``StoreUnavailable`` if creates would be refused now, or after a few more."""
        ballast = self._writer.ballast

        def write(tx: Transaction) -> None:
            ballast.require_room()
            set_meta(tx, "probed_at", str(tx.now))

        await self._submit(write, grows=True)

    async def purge(
        self, now: int, *, keep_jobs_ns: int, keep_claims_ns: int = DAY, keep_history_ns: int = DAY
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
                "links": links.purge(tx),
            }

        purged: dict[str, int] = await self._submit(operation)
        return purged

    def _publish(self, tx: Transaction) -> None:
        self._identity = replace(tx.identity or self._identity, sequence=tx.sequence)
        self.jobs.publish(tx.jobs)
        if tx.revoked is not None:
            self.links.publish(tx.revoked)
        self.assigned.publish((name, row if row is not None and row.of_clients else None) for name, row in tx.stacks)
        self.stacks.publish(tx.stacks)
