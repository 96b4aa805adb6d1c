"""What a pod's containers do between two looks at it, for the stack's timeline.

Owns: what was known of each pod at the last look. What happened while nobody looked is not made up afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stackd.kube.objects import ContainerState, PodState
from stackd.lifecycle.status import Sight
from stackd.model import Happening, Kind, Stack, StackStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A pod as it was last looked at: whether a container has run, and how often each was started again."""

    uid: str
    started: bool
    restarts: tuple[int, ...]


def follow(known: dict[str, Followed], stack: Stack, sight: Sight) -> tuple[Happening, ...]:
    """What has happened in the pod since the last look; ``known`` is brought up to date."""
    pod = sight.pod
    if pod is None:
        return ()
    before = known.get(stack.stack_id)
    now = Followed(
        uid=pod.uid,
        started=any(c.state in ("running", "terminated") for c in pod.containers),
        restarts=tuple(c.restart_count for c in pod.containers),
    )
    if before == now:
        return ()
    known[stack.stack_id] = now
    fresh = before is None or before.uid != pod.uid
    return tuple(_since(None if fresh else before, now, pod, stack, sight.now))


def _since(before: Followed | None, now: Followed, pod: PodState, stack: Stack, at: int) -> Iterator[Happening]:
    was_started = before.started if before is not None else stack.status is not StackStatus.CREATING
    if now.started and not was_started:
        yield Happening(kind=Kind.STARTED, at=at, by="cluster")
    earlier = before.restarts if before is not None else now.restarts
    for container, then in zip(pod.containers, earlier, strict=False):
        if container.restart_count > then:
            yield Happening(
                kind=Kind.RESTARTED, at=at, reason=container.last_reason, message=_again(container), by="cluster"
            )


def _again(container: ContainerState) -> str:
    code = "" if container.last_exit_code is None else f" ended with exit code {container.last_exit_code} and"
    times = "once" if container.restart_count == 1 else f"{container.restart_count} times in all"
    return f"container {container.name}{code} was started again ({times})"
