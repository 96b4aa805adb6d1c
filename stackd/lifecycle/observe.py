"""Follow the cluster: derive each stack's status from the mirror, and write it only if it differs.

Owns: which stacks have to be checked and when to check them again, since when a pull has been failing, and waiting for
a status. ``status.derive_status`` does the mapping. A stack that has ended for good goes to the deleter, unless a brake
holds it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterable

from stackd.clock import NANOSECONDS
from stackd.errors import ClusterError, ClusterUnavailable, StackNotFound, StoreUnavailable
from stackd.kube.mirror import MirrorChange, NodeChanged, PodChanged, Relisted, RouteChanged, ServiceChanged
from stackd.lifecycle.context import Context, Unseen, current_pod
from stackd.lifecycle.names import what_is_wrong
from stackd.lifecycle.next_step import OF_THE_PASS, route_error, service_error
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
from stackd.model import Observation, Stack, StackStatus
from stackd.store import differs
from stackd.structs import struct
from stackd.workqueue import RetryPolicy, WorkQueue

log = logging.getLogger(__name__)

ENDS = frozenset({StackStatus.FAILED, StackStatus.STOPPED, StackStatus.NODE_DELETED})
"""From these statuses a stack does not come to run unless somebody does something about it."""

RETRIES = RetryPolicy(first=0.5, longest=1.0)
ASK_AGAIN_SECONDS = 2.0
"""When a pod that is missing from the watch is asked for again after a failed request."""

UNSEEN_SECONDS = 10.0
"""How often an existing pod that the watch does not report is asked for."""


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
        self._observing = asyncio.Lock()

    def cluster_changed(self, change: MirrorChange) -> None:
        """Subscriber of the mirror: mark the stacks that the change concerns."""
        if isinstance(change, PodChanged):
            self._context.unseen.pop(change.name, None)
            self._object_changed(change.name)
        elif isinstance(change, ServiceChanged):
            seen = change.after or change.before
            if seen is not None and seen.stack_id:
                self._object_changed(seen.stack_id)
        elif isinstance(change, RouteChanged):
            if (route := change.after or change.before) is not None:
                self._object_changed(route.stack_id)
        elif isinstance(change, NodeChanged):
            self.mark_dirty(s.stack_id for s in self._context.store.stacks.ordered() if s.node_id == change.name)
        elif isinstance(change, Relisted):
            self._context.retry_all()
            self._relisted(change.kind)

    def _relisted(self, kind: str) -> None:
        if kind in self._listed:
            self._context.gate.doubt()
        self._listed.add(kind)  # the first list follows directly on the check of the cluster's identity

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Subscriber of the store: check a stack with a new pod, which may have moved on before the row was written."""
        if after is None:
            if before is not None:
                self._pull_failing.pop(before.stack_id, None)
                self._progress.pop(before.stack_id, None)
                self._context.unseen.pop(before.stack_id, None)
                self._gone.pop(before.stack_id, None)
        elif after.accepted and (before is None or not before.accepted or before.pod_uid != after.pod_uid):
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
        context = self._context
        if not context.mirror.synced or context.gate.in_doubt or context.gate.wrong_cluster is not None:
            return  # all stacks are marked again when that is over
        assessed = [one for stack_id in stack_ids if (one := self._assess(stack_id)) is not None]
        assessed = self._hold_back(await self._proven(assessed))
        news = [one.observation for one in assessed if differs(one.stack, one.observation)]
        changed = await context.store.stacks.observe(news) if news else []
        self._remember(assessed)
        for stack_id in stack_ids:
            self._have_done(stack_id)
        for stack in changed:
            reason = f" ({stack.status_reason})" if stack.status_reason else ""
            message = f": {stack.status_message}" if stack.status_message else ""
            stack_log(log, stack.stack_id).info("%s%s%s", stack.status, reason, message)
            if stack.ended or stack.status_reason:
                context.diagnostics.add(stack.stack_id)

    def _have_done(self, stack_id: str) -> None:
        """Have done what the stack needs by what is seen of it now."""
        context, stack = self._context, self._context.store.stacks.get(stack_id)
        step = None if stack is None else context.step(stack)
        if step is not None and step.kind not in OF_THE_PASS:
            context.worker.add(stack_id)

    def _remember(self, assessed: list[Assessment]) -> None:
        for one in assessed:
            stack_id = one.stack.stack_id
            if one.progress is not None and stack_id in self._context.store.stacks:
                self._progress[stack_id] = one.progress

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
        seen = observation(stack, snapshot, derived)
        progress, events = pod_progress(self._progress.get(stack_id), stack, snapshot)
        if events:
            seen = dataclasses.replace(seen, events=events)
        return Assessment(stack=stack, observation=seen, progress=progress)

    def _snapshot(self, stack: Stack) -> PodSnapshot:
        context = self._context
        pod = self._context.pod_of(stack)
        now = context.clock.now()
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
            pull_failing_since=self._pull_failing.get(stack.stack_id),
            now=now,
            trouble=self._repaired(stack),
        )

    async def _proven(self, assessed: list[Assessment]) -> list[Assessment]:
        """End a stack for a missing pod only after Kubernetes itself has said that the pod is gone (invariant 10)."""
        absent = [one for one in assessed if self._has_to_be_asked_for(one)]
        if not absent:
            return assessed
        asked = await asyncio.gather(*(self._ask_for(one) for one in absent))
        answers = {one.stack.stack_id: answer for one, answer in zip(absent, asked, strict=True)}
        proven = [answers.get(one.stack.stack_id, one) for one in assessed]
        return [one for one in proven if one is not None]

    def _has_to_be_asked_for(self, one: Assessment) -> bool:
        stack = one.stack
        if stack.ended or current_pod(self._context, stack) is not None:
            return False
        if (unseen := self._unseen_of(stack)) is not None:
            return self._context.clock.monotonic() >= unseen.ask_at
        # What a brake holds is asked for once, and once more when the operator has confirmed it.
        held = self._gone.get(stack.stack_id) == stack.pod_uid and stack.stack_id not in self._context.brake.confirmed
        return one.observation.ended and not held

    async def _ask_for(self, one: Assessment) -> Assessment | None:
        """The assessment, renewed if Kubernetes still has the pod; None if it has to be made again later."""
        context, stack = self._context, one.stack
        try:
            pod = await context.cluster.get_pod(stack.pod_name)
        except (ClusterError, ClusterUnavailable) as error:
            log.info(
                "%s: its pod is missing from the watch, and asking for it failed: %s",
                stack.stack_id,
                error,
                extra={"same": "absent"},
            )
            self._due.add(stack.stack_id, at=context.clock.monotonic() + ASK_AGAIN_SECONDS)
            return None
        if pod is None or pod.uid != stack.pod_uid:
            if self._context.unseen.pop(stack.stack_id, None) is None:
                self._gone[stack.stack_id] = stack.pod_uid
                return one
            self._due.add(stack.stack_id)  # this assessment used the previous answer of Kubernetes
            return None
        ask_at = context.clock.monotonic() + UNSEEN_SECONDS
        context.unseen[stack.stack_id] = Unseen(pod=pod, ask_at=ask_at)
        if pod.instance == context.config.cluster.instance and pod.stack_id == stack.stack_id:
            log.warning("%s: the watch does not report its pod, although the pod exists", stack.stack_id)
            context.mirror.missed(pod)
        self._due.add(stack.stack_id, at=ask_at)
        return self._assess(stack.stack_id)

    def _unseen_of(self, stack: Stack) -> Unseen | None:
        unseen = self._context.unseen.get(stack.stack_id)
        return unseen if unseen is not None and unseen.pod.uid == stack.pod_uid else None

    def _repaired(self, stack: Stack) -> tuple[str, str]:
        """What somebody else has changed and stackd repairs: a reason and a sentence, empty if nothing was."""
        context, pod = self._context, self._context.pod_of(stack)
        if pod is None or stack.ended:
            return "", ""
        if pod.instance != context.config.cluster.instance:
            return "LabelsMissing", "stackd's labels were removed from the pod; stackd restores them"
        if pod.stack_id != stack.stack_id:
            return "LabelsChanged", "stackd's labels on the pod were changed; stackd restores them"
        service = context.mirror.services.get(stack.service_name)
        error = service_error(stack, service) if service is not None else ""
        if error:
            return "ServiceChanged", f"{error}; stackd repairs it"
        error = route_error(context.routes_of(stack))
        return ("RouteChanged", f"{error}; stackd repairs it") if error else what_is_wrong(context, stack)

    def _hold_back(self, assessed: list[Assessment]) -> list[Assessment]:
        """If the pods of too many stacks are gone, say so in their statuses but give nothing back (invariant 8)."""
        context = self._context
        gone = {
            one.stack.stack_id: f"end: {one.observation.status_message}"
            for one in assessed
            if one.observation.ended and not one.stack.ended and context.pod_of(one.stack) is None
        }
        context.brake.forget({one.stack.stack_id for one in assessed} - gone.keys())
        if not gone:
            return assessed
        alive = [stack.stack_id for stack in context.store.stacks.ordered() if not stack.ended]
        held = context.gate.hold_back(gone, alive, context.config.reconcile.max_delete_share)
        return [_without_end(one) if one.stack.stack_id in held else one for one in assessed]


def _without_end(one: Assessment) -> Assessment:
    return dataclasses.replace(one, observation=dataclasses.replace(one.observation, ended=False))


async def until_status(context: Context, stack_id: str, wanted: StackStatus, timeout: float) -> Stack:
    """The stack as soon as it has the status, or cannot be expected to get it; after ``timeout`` seconds, as it is.

    Raises StackNotFound, also if it is deleted meanwhile.
    """

    def settled(stack: Stack | None) -> Stack | None:
        if stack is None:
            raise StackNotFound(stack_id)
        return stack if stack.status is wanted or _is_final(stack, wanted) else None

    try:
        return await context.rows.until(stack_id, settled, lambda: context.store.stacks.get(stack_id), timeout)
    except TimeoutError:
        stack = context.store.stacks.get(stack_id)
        if stack is None:
            raise StackNotFound(stack_id) from None
        return stack


async def until_gone(context: Context, stack_id: str, timeout: float) -> Stack | None:
    """None as soon as there is no such stack; the stack as it is if it still exists after ``timeout`` seconds."""

    def gone(stack: Stack | None) -> bool | None:
        return True if stack is None else None

    try:
        await context.rows.until(stack_id, gone, lambda: context.store.stacks.get(stack_id), timeout)
    except TimeoutError:
        return context.store.stacks.get(stack_id)
    return None


def _is_final(stack: Stack, wanted: StackStatus) -> bool:
    if stack.ended or stack.deleting_since is not None:
        return True
    return stack.status in ENDS and wanted not in ENDS
