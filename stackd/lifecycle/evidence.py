"""Why did it die: ask the cluster what it said of a stack, and what its containers wrote last, while it still knows.

Owns: what is asked for and how much of it is kept. It is asked only for stacks that fail or are not ready, never by a read.
"""

from __future__ import annotations

import asyncio
import logging

from stackd.errors import Conflict, ObjectNotFound, StackdError
from stackd.kube.objects import PodEvent, PodState
from stackd.lifecycle.room import Room
from stackd.model import Happening, KeptLog, Kind

log = logging.getLogger(__name__)

WORKERS = 4
TRIES = 3
RETRY_SECONDS = 2.0
KEPT_BYTES = 16 * 1024
KEPT_LINES = 400
_KINDS = {("Normal", "Pulling"): Kind.PULLING}
_WARNING = "Warning"


async def work(room: Room) -> None:
    """The service that keeps the evidence: for ever."""
    async with asyncio.TaskGroup() as group:
        for number in range(WORKERS):
            group.create_task(_worker(room), name=f"evidence-{number}")


async def _worker(room: Room) -> None:
    while True:
        stack_id = await room.evidence.next()
        for _ in range(TRIES):
            try:
                await keep(room, stack_id)
            except StackdError as error:  # whatever the cluster says of one stack, the service goes on
                said = {"stack_id": stack_id, "same": "evidence"}
                log.info("%s: its events and logs cannot be kept now: %s", stack_id, error, extra=said)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                break


async def keep(room: Room, stack_id: str) -> None:
    """Write the cluster's warnings into the stack's timeline, and keep the last of its containers' logs.

    Raises ClusterUnavailable, StoreUnavailable, ClusterError.
    """
    pod = room.mirror.pods.get(stack_id)
    if pod is None or stack_id not in room.store.stacks:
        return
    events = await room.cluster.pod_events(pod.name, pod.uid)
    logs = [kept for name in _spoke(pod) if (kept := await _last_words(room, pod, name)) is not None]
    lines = [_line(event) for event in events if event.type == _WARNING or (event.type, event.reason) in _KINDS]
    if lines or logs:
        await room.store.keep_evidence(stack_id, lines, logs)


def _spoke(pod: PodState) -> list[str]:
    """The containers that have ended at least once."""
    return [c.name for c in pod.containers if c.state == "terminated" or c.last_exit_code is not None]


async def _last_words(room: Room, pod: PodState, container: str) -> KeptLog | None:
    try:
        text = await room.cluster.pod_log(pod.name, tail=KEPT_LINES, container=container)
    except (ObjectNotFound, Conflict):
        return None
    tail = text.encode()[-KEPT_BYTES:].decode(errors="ignore")
    return KeptLog(container=container, at=room.clock.now(), text=tail) if tail else None


def _line(event: PodEvent) -> Happening:
    kind = _KINDS.get((event.type, event.reason), Kind.WARNING)
    return Happening(
        kind=kind, at=event.at, reason=event.reason, message=event.message, by="cluster", count=event.count
    )
