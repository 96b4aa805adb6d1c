"""What came of a job: how the stacks that it has started are doing, followed for two minutes after its end.

Owns: that an outcome costs nothing until somebody asks for it: it is computed from the rows, and written once, when it is
final. After a restart it is followed to the same moment.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

from stackd.lifecycle.context import Context
from stackd.model import Job, JobAction, JobOutcome, OutcomeReason, Stack, StackStatus
from stackd.timing import FOLLOW_NANOSECONDS

FOLLOWED = frozenset({JobAction.RESTART, JobAction.RENEW, JobAction.START, JobAction.CREATE})
"""What starts pods; of the other actions, the counts say what came of them."""

DELETED = "deleted"
MOST_REASONS, MOST_IDS = 5, 20


class Outcomes:
    """The outcomes of finished jobs; the ids of those that are followed now are kept in memory once they were asked for."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ids: dict[str, tuple[str, ...]] = {}

    async def of(self, job: Job) -> Job:
        """The job with what has come of it so far, if it has finished and is followed."""
        if not job.finished or job.outcome is not None or job.action not in FOLLOWED:
            return job
        ids = self._ids.get(job.job_id)
        if ids is None:
            ids = self._ids[job.job_id] = await self._context.store.jobs.done_ids(job.job_id)
        return replace(job, outcome=outcome_of(job, map(self._context.store.assigned.get, ids)))

    async def write_final(self) -> None:
        """Write the outcomes of which the two minutes are over. Raises StoreUnavailable."""
        now, context = self._context.clock.now(), self._context
        for job in context.store.jobs.ordered() if context.fence.open else ():
            if job.finished and job.outcome is None and job.action in FOLLOWED and until(job) <= now:
                outcome = (await self.of(job)).outcome
                assert outcome is not None, "it is followed"
                await context.store.jobs.set_outcome(job.job_id, replace(outcome, final=True))
                self._ids.pop(job.job_id, None)


def until(job: Job) -> int:
    """To which time a finished job is followed, in nanoseconds."""
    return job.updated_at + FOLLOW_NANOSECONDS


def outcome_of(job: Job, stacks: Iterable[Stack | None]) -> JobOutcome:
    """How these stacks are doing; None is one that is gone."""
    statuses: Counter[str] = Counter()
    reasons: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for stack in stacks:
        status = DELETED if stack is None else stack.status.value
        statuses[status] += 1
        if stack is not None and (
            stack.status_reason or stack.status not in (StackStatus.RUNNING, StackStatus.CREATING)
        ):
            reasons[status, stack.status_reason].append(stack.stack_id)
    most = sorted(reasons.items(), key=lambda each: -len(each[1]))[:MOST_REASONS]
    return JobOutcome(
        until=until(job),
        statuses=dict(statuses.most_common()),
        reasons=tuple(
            OutcomeReason(status=status, reason=reason, count=len(ids), stack_ids=tuple(ids[:MOST_IDS]))
            for (status, reason), ids in most
        ),
    )
