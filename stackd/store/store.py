"""The cupboard for what we intend: a memory view to read at once, and operations that are durable when they return.

Owns the wiring of file, lock, pool, writer thread and view. Knows nothing of Kubernetes or HTTP, nor why anything is
asked of it. All of it belongs to the event loop on which it was opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stackd.clock import NANOSECONDS, Clock
from stackd.model import (
    NO_LIMITS,
    DeleteReason,
    Happening,
    ItemResult,
    Job,
    KeptLog,
    NewStack,
    Observation,
    Stack,
)
from stackd.store import claims, jobs, meta, requests, reservations, stacks, timeline
from stackd.store.backup import backup_file
from stackd.store.claims import Claim
from stackd.store.loading import Loaded, Options, load, unload
from stackd.store.requests import Extension, Start
from stackd.store.reservations import Adopted
from stackd.store.transaction import Counters, Transaction
from stackd.store.view import JobsView, PortsView, StacksView
from stackd.store.writer import Batch, Writer, WriterParts

DAY = 24 * 3600 * NANOSECONDS
_PURGED_AT_ONCE = 10_000
_TIMELINES_PURGED_AT_ONCE = 1_000
DEFAULTS = Options()


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """How many records were removed because of their age."""

    jobs: int
    claims: int
    happenings: int


class Store:
    """The open file. Reads are plain attributes; each operation is one transaction.

    An operation returns once it is durable and visible in the view. It raises ``StoreUnavailable`` if the file cannot
    be written now; then nothing of it has happened, and the next one may succeed.

    ``await failed`` raises if the writer ends unexpectedly; the daemon must then end, too.
    ``fresh`` says that there was no file and a new one was made.
    """

    def __init__(self, loaded: Loaded, clock: Clock) -> None:
        self.path = loaded.path
        self.fresh = loaded.fresh
        self.stacks = StacksView(loaded.stacks)
        self.jobs = JobsView(loaded.jobs)
        self.ports = PortsView(loaded.ports.counts(), clock.monotonic)
        self._lock = loaded.lock
        self._purged = False
        self._writer = Writer(
            WriterParts(
                path=loaded.path,
                connection=loaded.connection,
                ports=loaded.ports,
                ballast=loaded.ballast,
                clock=clock,
            ),
            self._publish,
        )

    @classmethod
    async def open(cls, path: Path, *, clock: Clock, node_ports: tuple[int, int], options: Options = DEFAULTS) -> Store:
        """Open the state file, or make one if there is none; ``node_ports`` is the range, both ends included.

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
        store = cls(loaded, clock)
        store._writer.start()
        return store

    async def close(self) -> None:
        """Finish what was submitted, write the log back into the file, give the lock back. Idempotent."""
        await self._writer.close()
        self._lock.release()

    @property
    def failed(self) -> asyncio.Future[None]:
        """To be awaited: raises ``StoreError`` with the reason when the writer has ended unexpectedly."""
        return self._writer.failed

    @property
    def counters(self) -> Counters:
        """Operations, statements, commits and commit seconds since the file was opened."""
        return self._writer.counters

    @property
    def pending(self) -> int:
        """Operations that wait for their commit."""
        return self._writer.pending

    def file_bytes(self) -> int:
        """The size of the file and its write-ahead log."""
        log = self.path.with_name(self.path.name + "-wal")
        return sum(file.stat().st_size for file in (self.path, log) if file.exists())

    # ---- stacks

    async def reserve(
        self,
        new: NewStack,
        *,
        claim: Claim | None = None,
        max_stacks: int | None = None,
        label_limits: Mapping[str, int] = NO_LIMITS,
    ) -> Stack:
        """A row ``creating``, not accepted, with a random free node port for each target port: all or nothing.

        Raises ``NoNodePort``; ``Conflict`` if the claim's key is in use; ``Unavailable`` at ``max_stacks`` rows;
        ``LabelLimitReached`` if as many living stacks as ``label_limits`` allows have the same value of a label.
        """
        operation = partial(
            reservations.reserve, new=new, claim=claim, max_stacks=max_stacks, label_limits=label_limits
        )
        return await self._writer.submit(operation, grows=True)

    async def replace_port(self, stack_id: str, taken: int) -> Stack:
        """Set ``taken`` aside for a while and hold another port in its place.

        A stack that does not hold ``taken`` comes back as it is. Raises ``NoNodePort`` (the stack keeps ``taken``),
        ``StackNotFound`` if it is gone or being deleted.
        """
        return await self._writer.submit(partial(reservations.replace_port, stack_id=stack_id, taken=taken))

    async def accept(
        self,
        stack_id: str,
        seen: Observation,
        *,
        pod_uid: str | None,
        service_uid: str | None,
        answer: Callable[[Stack], bytes] | None = None,
        by: str = "stackd",
    ) -> Stack:
        """The create that ``by`` has asked for is completed; ``updated_at`` is ``created_at`` at first.

        ``answer(stack)`` becomes the answer (201) of the stack's claim, if it has one; it is called within the
        transaction, on the writer's thread, and must only compute. Raises ``StackNotFound`` if the row is gone or
        being deleted.
        """
        if seen.stack_id != stack_id:
            raise ValueError(f"an observation of {seen.stack_id} for {stack_id}")
        uids = (pod_uid, service_uid)
        return await self._writer.submit(partial(stacks.accept, seen=seen, uids=uids, answer=answer, by=by))

    async def observe(self, seen: Sequence[Observation]) -> list[Stack]:
        """Write those that differ from their rows; the stacks that changed.

        ``updated_at`` moves if status, reason, message, node or address changed. Rows that are gone or being deleted
        are skipped; of an ended stack, only observations that say so too are taken. No news costs no transaction.
        They do not wait for the disk: what a power failure takes of them is seen in the cluster again.
        """
        if not self._writer.pending:  # nothing is under way, so the view is what the file holds
            seen = [one for one in seen if self._is_news(one)]
        if not seen:
            return []
        return await self._writer.submit(partial(stacks.observe, seen=tuple(seen)), relaxed=True)

    def _is_news(self, seen: Observation) -> bool:
        stack = self.stacks.get(seen.stack_id)
        return stack is not None and stacks.differs(stack, seen)

    async def mark_deleting(self, ids: Iterable[str], reason: DeleteReason, by: str = "stackd") -> list[Stack]:
        """Keep the intent to delete; the first reason and time stay. The rows that exist, in the order of ``ids``."""
        return await self._writer.submit(partial(stacks.mark_deleting, ids=tuple(ids), reason=reason, by=by))

    async def mark_expired(self, ids: Iterable[str]) -> list[Stack]:
        """The same for those of ``ids`` whose time is up by the file's own word, whatever was read before."""
        return await self._writer.submit(partial(stacks.mark_expired, ids=tuple(ids)))

    async def remove(self, ids: Iterable[str]) -> int:
        """To be called when the cluster has confirmed: rows go and their ports are free. How many rows went."""
        return await self._writer.submit(partial(stacks.remove, ids=tuple(ids)))

    async def release_ports(self, ids: Iterable[str]) -> list[Stack]:
        """To be called when the Services of ended stacks are confirmed gone: their ports are free.

        The stacks that changed; their ``ports`` still show what they had. Stacks that have not ended are skipped.
        """
        return await self._writer.submit(partial(reservations.release, ids=tuple(ids)))

    async def adopt(self, records: Sequence[Stack]) -> list[Adopted]:
        """Insert whole records as they are (``rebuild``); each is taken, or skipped with the reason."""
        return await self._writer.submit(partial(reservations.adopt, records=tuple(records)), grows=True)

    # ---- what a stack's user asks for

    async def extend(
        self,
        stack_id: str,
        extension: Extension,
        *,
        claim: Claim | None = None,
        answer: Callable[[Stack], bytes] | None = None,
    ) -> Stack:
        """A later end. Raises ``StackNotFound``; ``Conflict``, with the most that is possible."""
        operation = partial(requests.extend, stack_id=stack_id, extension=extension, claim=claim, answer=answer)
        return await self._writer.submit(operation)

    async def stop(self, stack_id: str, by: str) -> Stack:
        """Keep the intent to stop. Raises ``StackNotFound``, ``Conflict``."""
        return await self._writer.submit(partial(requests.stop, stack_id=stack_id, by=by))

    async def stopped(self, stack_id: str) -> Stack | None:
        """To be called when pod and Service are confirmed gone. None if the stack is not to be stopped any more."""
        return await self._writer.submit(partial(requests.stopped, stack_id=stack_id))

    async def start(self, stack_id: str, wanted: Start) -> Stack:
        """Keep the intent to have a fresh pod. Raises ``StackNotFound``, ``Conflict``, ``LabelLimitReached``."""
        return await self._writer.submit(partial(requests.start, stack_id=stack_id, wanted=wanted))

    async def started(self, seen: Observation, *, pod_uid: str, service_uid: str) -> Stack:
        """The fresh pod and its Service are there. Raises ``StackNotFound`` if they are wanted no longer."""
        return await self._writer.submit(partial(requests.started, seen=seen, uids=(pod_uid, service_uid)))

    async def check_labels(self, labels: Mapping[str, str], limits: Mapping[str, int]) -> None:
        """Raise ``LabelLimitReached`` where ``reserve`` would now."""
        operation = partial(requests.check_labels, labels=labels, limits=limits, apart_from="")
        await self._writer.submit(operation, writes=False)

    # ---- timelines and kept logs

    async def timeline(self, stack_id: str) -> list[Happening]:
        """What has happened to the stack, oldest first; empty where nothing is known of such a stack."""
        return await self._writer.submit(partial(timeline.read, stack_id=stack_id), writes=False)

    async def kept_logs(self, stack_id: str) -> list[KeptLog]:
        """The last words of the stack's containers, the latest first."""
        return await self._writer.submit(partial(timeline.kept_logs, stack_id=stack_id), writes=False)

    async def keep_evidence(self, stack_id: str, said: Sequence[Happening], logs: Sequence[KeptLog]) -> None:
        """Keep what the cluster said of a stack and what its containers wrote last. Nothing for a stack that is gone."""

        def operation(tx: Transaction) -> None:
            if stacks.find(tx, stack_id) is not None:
                timeline.add(tx, [(stack_id, one) for one in said])
                timeline.keep_logs(tx, stack_id, logs)

        await self._writer.submit(operation, grows=True)

    # ---- batch-delete jobs

    async def create_job(
        self,
        job_id: str,
        ids: Sequence[str],
        *,
        claim: Claim | None = None,
        answer: Callable[[Job], bytes] | None = None,
        by: str = "stackd",
    ) -> Job:
        """A job ``queued``, asked for by ``by``; ``ids`` without duplicates. ``answer(job)`` becomes the claim's answer (202).

        Raises ``Conflict`` if the claim's key is in use.
        """
        operation = partial(jobs.create, job_id=job_id, ids=tuple(ids), claim=claim, answer=answer, by=by)
        return await self._writer.submit(operation)

    async def pending_items(self, job_id: str, limit: int) -> list[str]:
        """The next ids that have no outcome yet, in the job's order; started ones come again."""
        return await self._writer.submit(partial(jobs.pending_items, job_id=job_id, limit=limit), writes=False)

    async def begin_items(self, job_id: str, ids: Sequence[str]) -> list[Stack]:
        """Mark the stacks of these ids as deleting and return them; ids without a stack are counted at once.

        Raises ``JobNotFound``.
        """
        return await self._writer.submit(partial(jobs.begin_items, job_id=job_id, ids=tuple(ids)))

    async def finish_items(self, job_id: str, results: Sequence[ItemResult]) -> Job:
        """Count each id's outcome, once; ``deleted`` removes the stack's row. The job as it is then.

        Raises ``JobNotFound``.
        """
        return await self._writer.submit(partial(jobs.finish_items, job_id=job_id, results=tuple(results)))

    # ---- claims, meta, upkeep

    async def find_claim(self, scope: str, key: str) -> Claim | None:
        """The claim on an Idempotency-Key, or None."""
        return await self._writer.submit(partial(claims.find, scope=scope, key=key), writes=False)

    async def get_meta(self, key: str) -> str | None:
        """A named value of the file, or None."""
        return await self._writer.submit(partial(meta.get, key=key), writes=False)

    async def set_meta(self, key: str, value: str | None) -> None:
        """Set a named value; None removes it."""
        await self._writer.submit(partial(meta.put, key=key, value=value))

    async def probe(self) -> None:
        """A small write: raises ``StoreUnavailable`` if creates would be refused now."""
        await self._writer.submit(meta.probe, grows=True)

    async def purge(
        self, now: int, *, keep_jobs_ns: int, keep_claims_ns: int = DAY, keep_history_ns: int = DAY
    ) -> Purged:
        """Remove finished jobs, claims, and timelines of stacks that are gone, where they are older than that.

        At most ten thousand jobs and claims and a thousand timelines at a time, to keep the writer free.
        """
        first, self._purged = not self._purged, True

        def operation(tx: Transaction) -> Purged:
            if first:
                timeline.close_open(tx)
            return Purged(
                happenings=timeline.purge(tx, now - keep_history_ns, _TIMELINES_PURGED_AT_ONCE),
                jobs=jobs.purge(tx, now - keep_jobs_ns, _PURGED_AT_ONCE),
                claims=claims.purge(tx, now - keep_claims_ns, _PURGED_AT_ONCE),
            )

        return await self._writer.submit(operation)

    async def backup(self, target: Path, *, force: bool = False) -> None:
        """A consistent copy, while everything goes on. Raises ``StoreError`` (``backup.backup_file``)."""
        await asyncio.to_thread(backup_file, self.path, target, force=force)

    def _publish(self, batch: Batch) -> None:
        if batch.ports is not None:
            self.ports.publish(batch.ports)
        self.jobs.publish(batch.jobs)
        self.stacks.publish(batch.stacks)
