"""What is committed, in memory, for reads on the event loop: nothing here waits, and nothing uncommitted is seen.

Owns the order of the list (``created_at``, then id), the version that tells whether anything changed, and the
subscribers. Changed only by ``publish``, on the loop, once per committed batch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, KeysView

from stackd.model import Job, Stack
from stackd.store.ports import PortCounts

Subscriber = Callable[[Stack | None, Stack | None], None]
JobSubscriber = Callable[[str, Job | None], None]


class StacksView:
    """All stacks. ``version`` grows by one with each published batch that changed any."""

    def __init__(self, stacks: Iterable[Stack] = ()) -> None:
        ordered = sorted(stacks, key=_key)
        self._by_id = {stack.stack_id: stack for stack in ordered}
        self._keys = [_key(stack) for stack in ordered]
        self._records = ordered
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
        """All stacks by ``created_at``, then id; the same tuple until something changes."""
        if self._ordered is None:
            self._ordered = tuple(self._records)
        return self._ordered

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Stack]:
        return iter(self.ordered())

    def __contains__(self, stack_id: object) -> bool:
        return stack_id in self._by_id

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call ``callback(before, after)`` after each change, on the loop; it must not raise. Returns the undo."""
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    def publish(self, changes: Iterable[tuple[str, Stack | None]]) -> None:
        """Take in a committed batch, then tell the subscribers of each change in its order."""
        news: list[tuple[Stack | None, Stack | None]] = []
        for stack_id, after in changes:
            before = self._by_id.get(stack_id)
            if before is not None or after is not None:
                self._place(before, after)
                news.append((before, after))
        if not news:
            return
        self._ordered = None
        self.version += 1
        for before, after in news:
            for callback in tuple(self._subscribers):
                callback(before, after)

    def _place(self, before: Stack | None, after: Stack | None) -> None:
        if before is not None and (after is None or _key(before) != _key(after)):
            index = bisect_left(self._keys, _key(before))
            del self._keys[index], self._records[index], self._by_id[before.stack_id]
            before = None
        if after is None:
            return
        index = bisect_left(self._keys, _key(after))
        if before is None:
            self._keys.insert(index, _key(after))
            self._records.insert(index, after)
        else:
            self._records[index] = after
        self._by_id[after.stack_id] = after


class JobsView:
    """All jobs that are kept."""

    def __init__(self, jobs: Iterable[Job] = ()) -> None:
        self._by_id = {job.job_id: job for job in jobs}
        self._unfinished = {job.job_id for job in self._by_id.values() if not job.finished}
        self._subscribers: list[JobSubscriber] = []

    def get(self, job_id: str) -> Job | None:
        """The job, or None."""
        return self._by_id.get(job_id)

    def unfinished(self) -> list[Job]:
        """The jobs that still have ids without an outcome, oldest first."""
        jobs = [self._by_id[job_id] for job_id in self._unfinished]
        return sorted(jobs, key=lambda job: (job.created_at, job.job_id))

    def __len__(self) -> int:
        return len(self._by_id)

    def subscribe(self, callback: JobSubscriber) -> None:
        """Call ``callback(job_id, job)`` after each change (None: it was purged), on the loop; it must not raise."""
        self._subscribers.append(callback)

    def publish(self, changes: Iterable[tuple[str, Job | None]]) -> None:
        """Take in a committed batch."""
        for job_id, job in changes:
            self._unfinished.discard(job_id)
            if job is None:
                self._by_id.pop(job_id, None)
            else:
                self._by_id[job_id] = job
                if not job.finished:
                    self._unfinished.add(job_id)
            for callback in self._subscribers:
                callback(job_id, job)


class PortsView:
    """How many node ports are held, free, and set aside for a while."""

    def __init__(self, counts: PortCounts, monotonic: Callable[[], float]) -> None:
        self._counts = counts
        self._monotonic = monotonic

    @property
    def used(self) -> int:
        """Held by a stack, in the range or not."""
        return self._counts.used

    @property
    def free(self) -> int:
        """Ready to be handed out."""
        return self._counts.free + len(self._counts.due) - self.quarantined

    @property
    def quarantined(self) -> int:
        """Set aside because somebody else has them in the cluster."""
        now = self._monotonic()
        return sum(1 for due in self._counts.due if due > now)

    def publish(self, counts: PortCounts) -> None:
        """Take in a committed batch."""
        self._counts = counts


def _key(stack: Stack) -> tuple[int, str]:
    return (stack.created_at, stack.stack_id)
