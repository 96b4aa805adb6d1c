"""What a stack's pod says about the stack: a pure function from a snapshot to a status of the contract.

Owns: the mapping of pod phases, conditions and container states to statuses, the sentences that say
why, and what a pod's containers did between two snapshots, for the timeline. Knows nothing of the file or
of how the pod was seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from stackd.clock import NANOSECONDS
from stackd.config import RoutesSection
from stackd.kube.objects import ContainerState, PodState
from stackd.kube.records import POD_DELETED, POD_DELETED_MESSAGE
from stackd.lifecycle.desired import Objects
from stackd.model import (
    CLUSTER,
    NOT_READY,
    Desired,
    EventKind,
    Member,
    Observation,
    Stack,
    StackStatus,
    TimelineEvent,
    struct,
)
from stackd.templates.hiding import hide

PULL_ERRORS = frozenset({"ErrImagePull", "ImagePullBackOff"})
"""Waiting reasons of a failed pull that is retried: ``failed`` once they have lasted for the grace."""

TRIED_AGAIN = frozenset({"ContainerCreating", "PodInitializing", ""})
"""Waiting reasons of a container whose failed pull may be tried again just now."""

STUCK_REASONS = frozenset(
    {"InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError", "RunContainerError",
     "CrashLoopBackOff"}
)  # fmt: skip
"""Waiting reasons that mean ``failed`` at once."""

POD_GARBAGE_COLLECTED = "DeletionByPodGC"
MESSAGE_LIMIT = 1024


@struct
class PodSnapshot:
    """What is seen of one stack at one moment; ``pull_failing_since`` and ``now`` in nanoseconds. ``repaired`` is what
    somebody else has changed and is being repaired: a reason and a sentence; empty if nothing was. ``disruption`` is why
    the cluster itself has deleted the pod, by the pod's last condition; empty if it did not say so. ``lost_node``: the one that
    does not exist, if it is not the stack's own."""

    pod: PodState | None
    node_exists: bool
    node_public_ip: str | None
    now: int
    disruption: str = ""
    pull_failing_since: int | None = None
    repaired: tuple[str, str] = ("", "")
    lost_node: str | None = None


def together(first: PodState, members: Sequence[Member], pods: Sequence[PodState | None]) -> PodState:
    """What the pods of a stack are, as if they were one: it runs when all do, and has ended when one has. The names of the
    members' containers begin with the member's."""
    parts = [("", first), *[(one.name, pod) for one, pod in zip(members, pods, strict=True) if pod is not None]]
    name, worst = max(parts, key=lambda part: _WORST.get(part[1].phase, 0))
    about = f"member {name}: " if name else ""
    message = worst.message or ("the pod has failed" if worst.phase == "Failed" else "")
    changed = next((pod for _, pod in parts if (pod.instance, pod.stack_id) != (first.instance, first.stack_id)), first)
    return replace(
        first,
        phase=worst.phase,
        reason=worst.reason,
        message=f"{about}{message}" if message else "",
        disruption=worst.disruption,
        uid="+".join(pod.uid for _, pod in parts),
        instance=changed.instance,
        stack_id=changed.stack_id,
        ready=all(pod.ready for _, pod in parts),
        deleting=any(pod.deleting for _, pod in parts),
        cpu_milli=sum(pod.cpu_milli for _, pod in parts),
        memory_bytes=sum(pod.memory_bytes for _, pod in parts),
        containers=tuple(
            replace(container, name=f"{part}/{container.name}") if part else container
            for part, pod in parts
            for container in pod.containers
        ),
    )


_WORST = {"Running": 1, "Pending": 2, "": 2, "Unknown": 3, "Succeeded": 4, "Failed": 5}
"""Of several pods, the phase of the one that counts."""


@dataclass(slots=True)
class Memory:
    """What is remembered of stacks between two looks; nothing of it is needed after a start.

    By the stack's id:
    ``pull_failing``  since when (nanoseconds) a pull has been failing
    ``progress``      what was last seen of the containers
    ``seen``          the row, pod, Service and node from which the status was derived last, if nothing else decides on it
    ``gone``          the objects that Kubernetes itself has said to be gone, since stackd last made them; and the uid of
                      those that it has removed (None: it had none of that name)
    ``held``          the objects whose removal something holds up
    ``objects``       the row and the configuration for which its objects were computed last, and these
    ``crowded``       the stacks that have no quota for two pods
    ``disruptions``   by the pod's uid, why the cluster itself has deleted it

    ``epoch``: the gate's, when what is ``gone`` was said. ``missing``: the stacks whose pods are gone from the mirror, and what
    the mirror was then.
    """

    pull_failing: dict[str, int] = field(default_factory=dict)
    progress: dict[str, PodProgress] = field(default_factory=dict)
    seen: dict[str, tuple[object, ...]] = field(default_factory=dict)
    gone: dict[str, dict[tuple[str, str], str | None]] = field(default_factory=dict)
    held: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    objects: dict[str, tuple[Stack, RoutesSection, Objects]] = field(default_factory=dict)
    crowded: set[str] = field(default_factory=set)
    disruptions: dict[str | None, str] = field(default_factory=dict)
    epoch: int = 0
    missing: tuple[tuple[int, int], frozenset[str]] = (-1, 0), frozenset()

    def enter(self, epoch: int) -> None:
        """Forget what is ``gone`` if that was said in an earlier epoch: perhaps by another cluster."""
        if epoch != self.epoch:
            self.gone.clear()
            self.epoch = epoch

    def note_gone(self, stack_id: str, name: tuple[str, str], uid: str | None) -> None:
        """Kubernetes has said that there is no such object, since it has removed the one of this uid."""
        self.gone.setdefault(stack_id, {})[name] = uid
        if stack_id in self.held:
            self.held[stack_id].discard(name)

    def forget_gone(self, stack_id: str, name: tuple[str, str], uid: str | None = None) -> None:
        """The object may be there from now on; with a ``uid``, because the mirror shows it: what it reports of an object that
        was removed is outdated."""
        gone = self.gone.get(stack_id)
        if gone is not None and name in gone and (uid is None or gone[name] != uid):
            del gone[name]

    def note_held(self, stack_id: str, name: tuple[str, str]) -> None:
        self.held.setdefault(stack_id, set()).add(name)

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Subscriber of the store: forget a stack, or a pod, that is gone."""
        if before is None or (after is not None and after.pod_uids == before.pod_uids):
            return
        for uid in before.pod_uids:
            self.disruptions.pop(uid, None)
        self.crowded.discard(before.stack_id)
        self.held.pop(before.stack_id, None)
        if after is None:
            for memory in (self.pull_failing, self.progress, self.gone, self.seen, self.objects):
                memory.pop(before.stack_id, None)


class DerivedStatus(NamedTuple):
    """The status in words; ``recheck_at`` (nanoseconds): when it changes if nothing else happens."""

    status: StackStatus
    reason: str = ""
    message: str = ""
    ended: bool = False
    recheck_at: int | None = None


def pull_has_failed(stack: Stack) -> bool:
    """Whether the row says that an image could not be pulled."""
    return stack.status in (StackStatus.CREATING, StackStatus.FAILED) and stack.status_reason in PULL_ERRORS


def pull_is_failing(stack: Stack, pod: PodState | None) -> bool:
    """Whether a container waits because its image could not be pulled, also while the next try is under way."""
    if pod is None:
        return False
    waiting = {c.reason for c in pod.containers if c.state == "waiting"}
    if waiting & PULL_ERRORS:
        return True
    tries = pod.phase == "Pending" and not pod.deleting and not any(c.state == "running" for c in pod.containers)
    return tries and pull_has_failed(stack) and bool(waiting & TRIED_AGAIN)


def observation(
    stack: Stack, snapshot: PodSnapshot, derived: DerivedStatus, events: tuple[TimelineEvent, ...] = ()
) -> Observation:
    """What is written about the stack. The node and its address stay known after they are gone."""
    pod = snapshot.pod
    return Observation(
        stack_id=stack.stack_id,
        status=derived.status,
        status_reason=derived.reason,
        status_message=hide(derived.message, stack.values)[:MESSAGE_LIMIT],
        node_id=pod.node_name if pod is not None and pod.node_name else stack.node_id,
        node_public_ip=snapshot.node_public_ip if snapshot.node_exists else stack.node_public_ip,
        ended=derived.ended,
        generation=stack.generation,
        requested_cpu_milli=pod.cpu_milli if pod is not None else 0,
        requested_memory_bytes=pod.memory_bytes if pod is not None else 0,
        events=events,
    )


def derive_status(stack: Stack, snapshot: PodSnapshot, image_pull_grace: float) -> DerivedStatus:
    """The status that ``snapshot`` means for an accepted stack; ``image_pull_grace`` in seconds.

    An ended stack keeps its status, because the cluster may collect its pod at any time. A stack that its user has
    stopped, or whose new pod does not exist yet, keeps the status that the stop or start has written.
    """
    pod = snapshot.pod
    if stack.ended or stack.desired is Desired.STOPPED or (pod is None and stack.pod_uid is None):
        return _unchanged(stack)
    if pod is None:
        collected = snapshot.disruption == POD_GARBAGE_COLLECTED
        if stack.status is StackStatus.NODE_DELETED or collected or (stack.node_id and not snapshot.node_exists):
            return _node_gone(stack, ended=True)
        return DerivedStatus(StackStatus.STOPPED, POD_DELETED, POD_DELETED_MESSAGE, ended=True)
    if pod.phase == "Failed":
        if pod.disruption == POD_GARBAGE_COLLECTED or (pod.node_name and not snapshot.node_exists):
            return _node_gone(stack, ended=True, node=snapshot.lost_node)
        return DerivedStatus(StackStatus.FAILED, *_why_failed(pod), ended=True)
    if pod.phase == "Succeeded":
        return DerivedStatus(StackStatus.STOPPED, "Completed", "all containers have ended", ended=True)
    if not snapshot.node_exists and pod.node_name:
        return _node_gone(stack, ended=False, node=snapshot.lost_node)
    return _waiting_failure(stack, pod, snapshot, image_pull_grace) or _alive(stack, pod, snapshot, image_pull_grace)


def _unchanged(stack: Stack) -> DerivedStatus:
    return DerivedStatus(stack.status, stack.status_reason, stack.status_message, stack.ended)


def _node_gone(stack: Stack, *, ended: bool, node: str | None = None) -> DerivedStatus:
    message = f"node {node or stack.node_id} has been deleted"
    return DerivedStatus(StackStatus.NODE_DELETED, "NodeDeleted", message, ended)


def _why_failed(pod: PodState) -> tuple[str, str]:
    for container in pod.containers:
        if container.state == "terminated" and container.exit_code:
            return container.reason or "Error", _terminated(container)
    return pod.reason or "Failed", pod.message or "the pod has failed"


def _terminated(container: ContainerState) -> str:
    text = f"container {container.name} ended with exit code {container.exit_code}"
    if container.reason == "OOMKilled":
        text = f"container {container.name} was killed because it ran out of memory (exit code {container.exit_code})"
    elif container.reason == "StartError":
        text = f"container {container.name} could not be started (exit code {container.exit_code})"
    return f"{text}: {container.message}" if container.message else text


def _waiting_failure(stack: Stack, pod: PodState, snapshot: PodSnapshot, grace: float) -> DerivedStatus | None:
    grace = 0.0 if stack.status is StackStatus.FAILED and pull_has_failed(stack) else grace
    for container in pod.containers:
        pulls_too_long = container.reason in PULL_ERRORS and snapshot.now >= _pull_deadline(snapshot, grace)
        if container.state == "waiting" and (container.reason in STUCK_REASONS or pulls_too_long):
            return DerivedStatus(StackStatus.FAILED, container.reason, _waiting(container))
    return None


def _pull_deadline(snapshot: PodSnapshot, image_pull_grace: float) -> int:
    since = snapshot.now if snapshot.pull_failing_since is None else snapshot.pull_failing_since
    return since + round(image_pull_grace * NANOSECONDS)


def _waiting(container: ContainerState) -> str:
    member, of_member, _ = container.name.rpartition("/")
    about = f"member {member}: " if of_member else ""
    if container.reason in PULL_ERRORS or container.reason == "ErrImageNeverPull":
        text = f"{about}image {container.image} cannot be pulled"
    elif container.reason == "InvalidImageName":
        text = f"{about}{container.image!r} is not a valid image name"
    elif container.reason == "CrashLoopBackOff":
        reason = f", {container.last_reason}" if container.last_reason else ""
        last = "" if container.last_exit_code is None else f", last exit code {container.last_exit_code}{reason}"
        text = f"container {container.name} ends again and again ({container.restart_count} restarts{last})"
    else:
        text = f"container {container.name} cannot be started"
    return f"{text}: {container.message}" if container.message else text


def _alive(stack: Stack, pod: PodState, snapshot: PodSnapshot, image_pull_grace: float) -> DerivedStatus:
    """Pending or Running, with nothing that counts as failed (yet)."""
    if pod.phase == "Running" and pod.ready:
        return _unhindered(StackStatus.RUNNING, pod, snapshot)
    if pod.phase == "Running" and stack.status is StackStatus.RUNNING:
        return DerivedStatus(StackStatus.RUNNING, NOT_READY, _not_ready(pod))
    pulling = next((c for c in pod.containers if c.state == "waiting" and c.reason in PULL_ERRORS), None)
    if pulling is not None:
        recheck_at = _pull_deadline(snapshot, image_pull_grace)
        return DerivedStatus(StackStatus.CREATING, pulling.reason, _waiting(pulling), recheck_at=recheck_at)
    return _unchanged(stack) if pull_is_failing(stack, pod) else _unhindered(StackStatus.CREATING, pod, snapshot)


def _unhindered(status: StackStatus, pod: PodState, snapshot: PodSnapshot) -> DerivedStatus:
    if pod.deleting:
        return DerivedStatus(status, "Terminating", "the pod is being deleted, and not by stackd")
    return DerivedStatus(status, *snapshot.repaired)


def _not_ready(pod: PodState) -> str:
    if (ended := next((c for c in pod.containers if c.state == "terminated" and not c.init), None)) is not None:
        return _terminated(ended)
    unready = [c.name for c in pod.containers if not c.ready and not c.init]
    return "not ready at present: " + ", ".join(unready) if unready else "not ready at present"


@struct
class PodProgress:
    """What the last snapshot of a pod showed: whether a container has run, and how often each was restarted."""

    uid: str
    started: bool
    restarts: tuple[int, ...]


def pod_progress(
    before: PodProgress | None, stack: Stack, snapshot: PodSnapshot
) -> tuple[PodProgress | None, tuple[TimelineEvent, ...]]:
    """What is known of the pod once this is written, and what has happened in it since ``before``. Nothing is invented
    about the time between two snapshots. The next snapshot shows again what could not be written."""
    pod = snapshot.pod
    if pod is None:
        return before, ()
    now = PodProgress(
        uid=pod.uid,
        started=any(c.state in ("running", "terminated") for c in pod.containers),
        restarts=tuple(c.restart_count for c in pod.containers),
    )
    if before == now:
        return before, ()
    fresh = before is None or before.uid != pod.uid
    return now, tuple(_since(None if fresh else before, now, pod, stack, snapshot.now))


def _since(
    before: PodProgress | None, now: PodProgress, pod: PodState, stack: Stack, at: int
) -> Iterator[TimelineEvent]:
    was_started = before.started if before is not None else stack.status is not StackStatus.CREATING
    if now.started and not was_started:
        yield TimelineEvent(kind=EventKind.STARTED, at=at, by=CLUSTER)
    earlier = before.restarts if before is not None else now.restarts
    for container, then in zip(pod.containers, earlier, strict=False):
        if container.restart_count > then:
            yield TimelineEvent(
                kind=EventKind.RESTARTED, at=at, reason=container.last_reason, message=_again(container), by=CLUSTER
            )


def _again(container: ContainerState) -> str:
    code = "" if container.last_exit_code is None else f" ended with exit code {container.last_exit_code} and"
    times = "once" if container.restart_count == 1 else f"{container.restart_count} times in all"
    return f"container {container.name}{code} was started again ({times})"
