"""Follow the cluster: derive each stack's status from the mirror, and write it only if it differs.

Owns: which stacks have to be checked and when to check them again, since when a pull has been failing, and the proof that
a pod is gone. ``status.derive_status`` does the mapping. What a stack needs then is the worker's, unless a brake holds it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace

from stackd.clock import NANOSECONDS
from stackd.errors import ClusterError, ClusterUnavailable, StoreUnavailable
from stackd.kube.mirror import Changed, Relisted
from stackd.kube.objects import PODS, NodeState, PodState
from stackd.lifecycle.context import Context
from stackd.lifecycle.next_step import OF_THE_PASS, route_error, service_error
from stackd.lifecycle.objects import what_is_wrong
from stackd.lifecycle.status import (
    PodProgress,
    PodSnapshot,
    derive_status,
    observation,
    pod_progress,
    pull_has_failed,
    pull_is_failing,
)
from stackd.logs import stack_log
from stackd.model import Observation, Stack, StackStatus, struct
from stackd.store import differs
from stackd.workqueue import RetryPolicy, WorkQueue

log = logging.getLogger(__name__)

RETRIES = RetryPolicy(first=0.5, longest=1.0)
ASK_AGAIN_SECONDS = 2.0  # when a pod that is missing from the watch is asked for again after a failed request


@struct
class Assessment:
    """A stack, what is to be written about it, and what is known of its pod once that is written."""

    stack: Stack
    observation: Observation
    progress: PodProgress | None


class Observer:
    """The stacks whose status has to be determined again, and the service that does it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._due: WorkQueue[str] = WorkQueue(context.clock.monotonic, RETRIES)
        self._pull_failing: dict[str, int] = {}
        self._listed: set[str] = set()
        self._progress: dict[str, PodProgress] = {}
        self._gone: dict[str, str | None] = {}
        self._disruptions: dict[str | None, str] = {}
        self._observing = asyncio.Lock()

    def cluster_changed(self, change: Changed | Relisted) -> None:
        """Subscriber of the mirror: mark the stacks that the change concerns."""
        if isinstance(change, Relisted):
            self._context.worker.retry_all()
            if change.kind in self._listed:
                self._context.gate.verify_again()
            self._listed.add(change.kind)  # the first list follows directly on the check of the cluster's identity
        elif isinstance(state := change.state, NodeState):
            self.mark_dirty(s.stack_id for s in self._context.store.stacks.ordered() if s.node_id == state.name)
        elif isinstance(state, PodState):
            row = self._context.store.stacks.get(state.name)
            if change.after is None and state.disruption and row is not None and row.pod_uid == state.uid:
                self._disruptions[state.uid] = state.disruption
            self._object_changed(state.name)
        else:
            self._object_changed(state.stack_id)

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Subscriber of the store: check a stack with a new pod, which may have moved on before the row was written."""
        if before is not None and (after is None or after.pod_uid != before.pod_uid):
            self._disruptions.pop(before.pod_uid, None)
        if after is None and before is not None:
            self._pull_failing.pop(before.stack_id, None)
            self._progress.pop(before.stack_id, None)
            self._gone.pop(before.stack_id, None)
        elif (
            after is not None
            and after.accepted
            and not (before and before.accepted and before.pod_uid == after.pod_uid)
        ):
            self.mark_dirty([after.stack_id])

    def mark_dirty(self, stack_ids: Iterable[str]) -> None:
        """Have the status of these stacks determined again."""
        for stack_id in stack_ids:
            self._due.add(stack_id)

    def mark_all_dirty(self) -> None:
        """Have the status of every stack determined again, as after a start or a confirmation."""
        self.mark_dirty(stack.stack_id for stack in self._context.store.stacks.ordered())

    async def run(self) -> None:
        """The observing service; runs for ever."""
        while True:
            await self._due.wait()
            ids = self._due.take()
            try:
                await self.observe(set(ids))
            except StoreUnavailable as error:
                log.warning("statuses cannot be written now: %s", error, extra={"same": "observe"})
                for stack_id in ids:
                    self._due.retry(stack_id)
            else:
                for stack_id in ids:
                    self._due.done(stack_id)

    async def observe(self, stack_ids: set[str]) -> None:
        """Determine the status of these stacks now. Raises StoreUnavailable; then nothing seen is remembered."""
        async with self._observing:
            await self._observe(stack_ids)

    async def _observe(self, stack_ids: set[str]) -> None:
        context, rows = self._context, self._context.store.stacks
        if not context.mirror.synced or context.gate.unverified or context.gate.wrong_cluster:
            return  # all stacks are marked again when that is over
        assessed = [one for stack_id in stack_ids if (one := self._assess(stack_id)) is not None]
        assessed = self._hold_back(await self._proven(assessed))
        news = [one.observation for one in assessed if differs(one.stack, one.observation)]
        changed = await rows.observe(news) if news else []
        for one in assessed:
            if one.progress is not None and one.stack.stack_id in rows:
                self._progress[one.stack.stack_id] = one.progress
        for stack_id in stack_ids:
            row = rows.get(stack_id)
            step = None if row is None else context.step(row)
            if step is not None and step.kind not in OF_THE_PASS:
                context.worker.wake(stack_id)
        for stack in changed:
            reason = f" ({stack.status_reason})" if stack.status_reason else ""
            message = f": {stack.status_message}" if stack.status_message else ""
            stack_log(log, stack.stack_id).info("%s%s%s", stack.status, reason, message)
            if stack.ended or stack.status_reason:
                context.diagnostics.add(stack.stack_id)

    def _object_changed(self, stack_id: str) -> None:
        stack = self._context.store.stacks.get(stack_id)
        if stack is not None and stack.accepted and stack.deleting_since is None:  # of others nothing is written
            self.mark_dirty([stack_id])

    def _assess(self, stack_id: str) -> Assessment | None:
        context = self._context
        stack = context.store.stacks.get(stack_id)
        if stack is None or not stack.accepted or stack.deleting_since is not None:
            return None
        if stack.pod_uid is None and not stack.ended:
            return None  # it is being stopped or started; that verb writes its status
        snapshot = self._snapshot(stack)
        derived = derive_status(stack, snapshot, context.config.stacks.image_pull_grace)
        if derived.recheck_at is not None:
            self._due.add(stack_id, at=context.clock.monotonic() + (derived.recheck_at - snapshot.now) / NANOSECONDS)
        progress, events = pod_progress(self._progress.get(stack_id), stack, snapshot)
        return Assessment(stack=stack, observation=observation(stack, snapshot, derived, events), progress=progress)

    def _snapshot(self, stack: Stack) -> PodSnapshot:
        context, pod, now = self._context, self._context.current_pod(stack), self._context.clock.now()
        if pull_is_failing(stack, pod):
            since = min(now, stack.updated_at) if pull_has_failed(stack) else now
            self._pull_failing.setdefault(stack.stack_id, since)
        else:
            self._pull_failing.pop(stack.stack_id, None)
        node = pod.node_name if pod is not None and pod.node_name else stack.node_id
        return PodSnapshot(
            pod=pod,
            node_exists=node in context.mirror.nodes,
            node_public_ip=context.public_address(node, context.mirror.services.get(stack.service_name)),
            disruption=self._disruptions.get(stack.pod_uid, ""),
            pull_failing_since=self._pull_failing.get(stack.stack_id),
            now=now,
            repaired=self._repaired(stack),
        )

    def _repaired(self, stack: Stack) -> tuple[str, str]:
        """What somebody else has changed and stackd repairs: a reason and a sentence, empty if nothing was."""
        context, pod = self._context, self._context.current_pod(stack)
        if pod is None or stack.ended:
            return "", ""
        if pod.instance != context.instance:
            return "LabelsMissing", "stackd's labels were removed from the pod; stackd restores them"
        if pod.stack_id != stack.stack_id:
            return "LabelsChanged", "stackd's labels on the pod were changed; stackd restores them"
        service = context.mirror.services.get(stack.service_name)
        if service is not None and (error := service_error(stack, service)):
            return "ServiceChanged", f"{error}; stackd repairs it"
        error = route_error(context.routes_of(stack))
        return ("RouteChanged", f"{error}; stackd repairs it") if error else what_is_wrong(context, stack)

    # ---- the proof that a pod is gone

    async def _proven(self, assessed: list[Assessment]) -> list[Assessment]:
        """End a stack for a missing pod only after Kubernetes itself has said that the pod is gone (invariant 10)."""
        absent = [one for one in assessed if self._has_to_be_asked_for(one)]
        answers = await asyncio.gather(*map(self._ask_for, absent))
        by_id = {one.stack.stack_id: answer for one, answer in zip(absent, answers, strict=True)}
        proven = (by_id.get(one.stack.stack_id, one) for one in assessed)
        return [one for one in proven if one is not None]

    def _has_to_be_asked_for(self, one: Assessment) -> bool:
        context, stack = self._context, one.stack
        if stack.ended or context.current_pod(stack) is not None:
            return False
        # What a brake holds is asked for once, and once more when the operator has confirmed it.
        held = self._gone.get(stack.stack_id) == stack.pod_uid and stack.stack_id not in context.brake.confirmed
        return one.observation.ended and not held

    async def _ask_for(self, one: Assessment) -> Assessment | None:
        """The assessment, made again if Kubernetes still has the pod; None if it has to be made again later."""
        context, stack = self._context, one.stack
        watched = context.mirror.health_by_kind["pods"]
        version = watched.version
        try:
            pod = await context.cluster.get(PODS, stack.pod_name)
        except (ClusterError, ClusterUnavailable) as error:
            message = "%s: its pod is missing from the watch, and asking for it failed: %s"
            log.info(message, stack.stack_id, error, extra={"same": "absent"})
            self._due.add(stack.stack_id, at=context.clock.monotonic() + ASK_AGAIN_SECONDS)
            return None
        if context.gate.unverified or context.gate.wrong_cluster:
            return None  # another cluster may have said so
        if pod is None or pod.uid != stack.pod_uid:
            self._gone[stack.stack_id] = stack.pod_uid
            return one
        if pod.instance == context.instance and pod.stack_id == stack.stack_id:
            if watched.version != version:  # perhaps the watch has reported meanwhile that it is gone
                self._due.add(stack.stack_id, at=context.clock.monotonic() + ASK_AGAIN_SECONDS)
                return None
            log.warning("%s: the watch does not report its pod, although the pod exists", stack.stack_id)
            context.mirror.missed(pod)
        context.mirror.keep(pod)
        return self._assess(stack.stack_id)

    def _hold_back(self, assessed: list[Assessment]) -> list[Assessment]:
        """If the pods of too many stacks are gone, say so in their statuses but give nothing back (invariant 8).

        Those whose end the cluster explains do not count: their node is gone, or the cluster itself has disrupted the pod.
        """
        context = self._context
        gone = {
            one.stack.stack_id: f"end: {one.observation.status_message}"
            for one in assessed
            if one.observation.ended
            and not one.stack.ended
            and context.current_pod(one.stack) is None
            and one.observation.status is not StackStatus.NODE_DELETED
            and one.stack.pod_uid not in self._disruptions
        }
        context.brake.forget({one.stack.stack_id for one in assessed} - gone.keys())
        if not gone:
            return assessed
        alive = [stack.stack_id for stack in context.store.stacks.ordered() if not stack.ended]
        held = context.brake.hold_back(gone, alive, context.config.reconcile.max_delete_share)
        return [
            replace(one, observation=replace(one.observation, ended=False)) if one.stack.stack_id in held else one
            for one in assessed
        ]
