"""The open state file: a memory view for immediate reads, and operations that are durable when they return.

Owns: opening and closing a state file, with its lock, writer thread and view, in the right order. Does not
know Kubernetes or HTTP, nor why an operation is called. Everything belongs to the event loop on which the file was
opened.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from stackd.clock import NANOSECONDS, Clock
from stackd.errors import StoreError
from stackd.model import Job, PortRange, Stack
from stackd.store import claims, failures, identity, jobs, rows, timeline
from stackd.store.activity import Activity
from stackd.store.claims import Claims
from stackd.store.companions import Ballast, FileLock, companion
from stackd.store.file import StoreOptions, damaged, follow_links, open_file
from stackd.store.identity import FileIdentity, Meta
from stackd.store.jobs import Jobs
from stackd.store.ports import PortRules, Ports
from stackd.store.stacks import Stacks, StacksView
from stackd.store.timeline import Timeline
from stackd.store.transaction import Counters, Transaction
from stackd.store.writer import CommitGroup, Writer, WriterParts

_UNREADABLE = "Could not decode"  # the sqlite3 module's error for text that is not UTF-8
DAY = 24 * 3600 * NANOSECONDS
_PURGED_AT_ONCE = 10_000
_TIMELINES_PURGED_AT_ONCE = 1_000
_KEEP_REMOVED_NS = 30 * DAY
DEFAULTS = StoreOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedState:
    """An open file and its content; ``begun`` are the stacks that unfinished jobs had started to delete."""

    parts: WriterParts
    lock: FileLock
    stacks: list[Stack]
    jobs: list[Job]
    identity: FileIdentity
    begun: frozenset[str]


def load(path: Path, *, clock: Clock, node_ports: PortRange, options: StoreOptions) -> LoadedState:
    """Lock, check, open, convert and read the file; creates it if there is none. Raises ``StoreError``.

    Links are followed first, so that lock, log and copies are beside the real file, whatever name leads to it.
    """
    path = follow_links(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock.acquire(path, clock.now())
    except OSError as exc:
        raise StoreError(f"the state file {path} cannot be used: {exc.strerror or exc}") from exc
    try:
        return _load_locked(path, lock, clock, node_ports, options)
    except BaseException:
        lock.release()
        raise


def _load_locked(path: Path, lock: FileLock, clock: Clock, node_ports: PortRange, options: StoreOptions) -> LoadedState:
    ballast = Ballast(path, options.ballast_bytes)
    connection = _open(path, ballast, options)
    try:
        stacks = [rows.from_row(row) for row in connection.execute(rows.ALL_STACKS)]
        loaded_jobs = _jobs(connection)
        file_identity = FileIdentity.from_meta(dict(connection.execute(identity.ALL_META)), lock.lock_id)
        begun = frozenset(stack_id for (stack_id,) in connection.execute(jobs.BEGUN_ITEMS))
    except sqlite3.Error as exc:
        connection.close()
        if failures.is_damage(exc) or _UNREADABLE in str(exc):
            raise damaged(path, str(exc)) from exc
        raise StoreError(f"the state file {path} cannot be read: {failures.sentence(exc)}") from exc
    except (ValueError, TypeError, LookupError, AttributeError) as exc:
        connection.close()
        raise damaged(path, f"a row in it cannot be read: {exc}") from exc
    if not ballast.spent:
        ballast.fill()
    parts = WriterParts(
        path=path,
        connection=connection,
        ports=PortRules(node_ports, clock.monotonic),
        ballast=ballast,
        clock=clock,
        sequence=file_identity.sequence,
    )
    return LoadedState(parts=parts, lock=lock, stacks=stacks, jobs=loaded_jobs, identity=file_identity, begun=begun)


def _open(path: Path, ballast: Ballast, options: StoreOptions) -> sqlite3.Connection:
    """Open the file. On a full disk, free the reserved space and try again, so that a restart is still possible."""
    try:
        return open_file(path, options)
    except sqlite3.Error:
        ballast.release()
    try:
        return open_file(path, options)
    except sqlite3.Error as exc:
        raise StoreError(f"the state file {path} cannot be used: {failures.sentence(exc)}") from exc


def _jobs(connection: sqlite3.Connection) -> list[Job]:
    def errors_of(job_id: str) -> list[tuple[str, str]]:
        return connection.execute(jobs.JOB_ERRORS, (job_id,)).fetchall()

    return [jobs.from_row(row, errors_of) for row in connection.execute(jobs.ALL_JOBS).fetchall()]


def unload(loaded: LoadedState) -> None:
    """Close the connection of a file that no writer has taken over, and release the lock."""
    loaded.parts.connection.close()
    loaded.lock.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """How many records were deleted because of their age."""

    jobs: int
    claims: int
    events: int
    removed: int


class Store:
    """The open file: ``stacks``, ``ports``, ``jobs``, ``timeline``, ``activity``, ``claims`` and ``meta``, with their operations.

    An operation returns once it is durable and visible in the view. It raises ``StoreUnavailable`` if the file cannot
    be written now; then it had no effect, and the next operation may succeed.

    ``await failed`` raises if the writer ends unexpectedly; the daemon must then stop, too.
    ``begun`` are the stacks that unfinished jobs had started to delete when the file was opened.
    """

    def __init__(self, loaded: LoadedState) -> None:
        self.path = loaded.parts.path
        self.begun = loaded.begun
        self._lock = loaded.lock
        self._identity = loaded.identity
        self._sequence = loaded.identity.sequence
        self._purged = False
        self._writer = Writer(loaded.parts, self._publish)
        submit = self._writer.submit
        self.stacks = Stacks(loaded.stacks, submit, lambda: self._writer.pending)
        self.assigned = StacksView(stack for stack in loaded.stacks if not stack.unassigned)
        self.ports = Ports(loaded.parts.ports, loaded.stacks, submit)
        self.stacks.subscribe(self.ports.follow)
        self.jobs = Jobs(loaded.jobs, submit)
        self.timeline = Timeline(submit)
        self.activity = Activity(submit)
        self.claims = Claims(submit)
        self.meta = Meta(submit)

    @classmethod
    async def open(cls, path: Path, *, clock: Clock, node_ports: PortRange, options: StoreOptions = DEFAULTS) -> Store:
        """Open the state file, or create it if there is none; ``node_ports`` is the range to hand out.

        Raises ``StoreError`` if the file is damaged, newer, foreign, or held by another process.
        """
        opening = asyncio.ensure_future(
            asyncio.to_thread(load, path, clock=clock, node_ports=node_ports, options=options)
        )
        try:
            loaded = await asyncio.shield(opening)
        except asyncio.CancelledError:
            unload(await opening)
            raise
        store = cls(loaded)
        store._writer.start()
        return store

    async def close(self) -> None:
        """Finish all submitted operations, write the log back into the file, release the lock. Idempotent."""
        await self._writer.close()
        self._lock.release()

    @property
    def failed(self) -> asyncio.Future[None]:
        """Await it: it raises ``StoreError`` with the reason when the writer has ended unexpectedly."""
        return self._writer.failed

    @property
    def counters(self) -> Counters:
        """Counts of operations, statements and commits, and commit durations, since the file was opened."""
        return self._writer.counters

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
        return replace(self._identity, sequence=self._sequence)

    @property
    def incomplete(self) -> bool:
        """Whether the file may lack stacks that the cluster has (``FileIdentity.incomplete``)."""
        return self._identity.incomplete

    async def begin(self, namespace: str, instance: str) -> FileIdentity:
        """To be called once by a process, before it works on the stacks of this namespace and instance.

        Raises ``StoreError`` if the file has stacks of another one (``FileIdentity.contradiction``).
        """
        return await self._identify(lambda tx: identity.begin(tx, namespace, instance))

    async def begin_adoption(self) -> FileIdentity:
        """Start a new history: the file counts as incomplete until ``end_adoption``, even across restarts."""
        return await self._identify(identity.begin_adoption)

    async def end_adoption(self) -> FileIdentity:
        """Mark the file as complete: it has all stacks of the cluster."""
        return await self._identify(identity.end_adoption)

    async def _identify(self, change: Callable[[Transaction], None]) -> FileIdentity:
        def operation(tx: Transaction) -> FileIdentity:
            change(tx)
            return identity.current(tx, self._lock.lock_id)

        self._identity = await self._writer.submit(operation)
        return self.identity

    # ---- upkeep

    async def probe(self) -> None:
        """Write a small value. Raises ``StoreUnavailable`` if creates would be refused now."""
        await self._writer.submit(identity.probe, grows=True)

    async def purge(
        self,
        now: int,
        *,
        keep_jobs_ns: int,
        keep_claims_ns: int = DAY,
        keep_history_ns: int = DAY,
    ) -> Purged:
        """Delete finished jobs, claims, timelines and ids of removed stacks that are older than the given ages.

        Deletes at most ten thousand jobs, claims and ids and a thousand timelines per call, to keep the writer free.
        """
        first = not self._purged

        def operation(tx: Transaction) -> Purged:
            if first:
                timeline.close_open(tx)
            return Purged(
                events=timeline.purge(tx, now - keep_history_ns, _TIMELINES_PURGED_AT_ONCE),
                jobs=jobs.purge(tx, now - keep_jobs_ns, _PURGED_AT_ONCE),
                claims=claims.purge(tx, now - keep_claims_ns, _PURGED_AT_ONCE),
                removed=rows.purge_removed(tx, now - _KEEP_REMOVED_NS, _PURGED_AT_ONCE),
            )

        purged = await self._writer.submit(operation)
        self._purged = True
        return purged

    def _publish(self, group: CommitGroup) -> None:
        self._sequence = max(self._sequence, group.sequence)
        self.jobs.publish(group.jobs)
        self.assigned.publish((name, None if one is None or one.unassigned else one) for name, one in group.stacks)
        self.stacks.publish(group.stacks)
