"""What a stack's containers have written: asked of the cluster while it knows, else what was kept when they ended.

This is the one read that asks the cluster (design, invariant 6): logs are too large to be copied as they are written.
"""

from __future__ import annotations

from stackd.errors import ClusterUnavailable, Conflict, NotFound, ObjectNotFound, StackNotFound
from stackd.lifecycle.room import Room, current_pod
from stackd.model import KeptLog, Stack


async def read_logs(room: Room, stack_id: str, *, tail: int, container: str = "") -> str:
    """The last ``tail`` lines of a container, of the only or the first one where none is named.

    Raises StackNotFound; NotFound where nothing is known any more; Conflict while the container has not started;
    ClusterUnavailable where the cluster cannot be asked and nothing was kept.
    """
    stack = room.store.stacks.get(stack_id)
    away: ClusterUnavailable | None = None
    if stack is not None and (pod := current_pod(room, stack)) is not None:
        name = container or next((c.name for c in pod.containers if not c.init), "")
        try:
            room.require_cluster()
            return await room.cluster.pod_log(pod.name, tail=tail, container=name)
        except ObjectNotFound:
            pass  # it has gone just now
        except ClusterUnavailable as error:
            away = error
    kept = [log for log in await room.store.kept_logs(stack_id) if container in ("", log.container)]
    if kept:
        return _tail(kept[0], tail)
    if away is not None:
        raise away
    return await _nothing(room, stack, stack_id, container)


async def _nothing(room: Room, stack: Stack | None, stack_id: str, container: str) -> str:
    if stack is None:
        if not await room.store.timeline(stack_id):
            raise StackNotFound(stack_id)
    elif not stack.ended and not stack.at_rest:
        raise Conflict(f"{stack_id} has no pod at present")
    of = f" of its container {container}" if container else ""
    raise NotFound(f"{stack_id}: its pod is gone, and no log{of} was kept")


def _tail(kept: KeptLog, lines: int) -> str:
    return "".join(kept.text.splitlines(keepends=True)[-lines:])
