"""Take a stack's objects out of the cluster until the cluster confirms it, then its row out of the file.

Owns: the order of it (Service and Pod confirmed gone, and only then ports and row: invariants 2 and 3) and the queue of
what is to be retried. Does not decide what is to go: a row that is `deleting`, or an ended stack that gives back its
Service, or an object that no row knows.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random

from stackd.errors import StackdError
from stackd.kube.objects import PodState, ServiceState
from stackd.lifecycle.crashpoints import reached
from stackd.lifecycle.room import Room
from stackd.model import Stack, service_name

log = logging.getLogger(__name__)

WORKERS = 16
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0


class Retirement:
    """The ids whose objects have to go, with a time for each: at once, or later after a failure."""

    def __init__(self) -> None:
        self._due: list[tuple[float, str]] = []
        self._attempts: dict[str, int] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._attempts)

    def __contains__(self, stack_id: str) -> bool:
        return stack_id in self._attempts

    def add(self, stack_id: str) -> None:
        """Have this one seen to now; one that is being seen to already stays as it is."""
        if stack_id not in self._attempts:
            self._attempts[stack_id] = 0
            self._push(stack_id, 0.0)

    def again(self, stack_id: str) -> float:
        """It failed: have it seen to later. Returns the delay in seconds."""
        attempts = self._attempts.get(stack_id, 0) + 1
        self._attempts[stack_id] = attempts
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempts, 10)) * random.uniform(0.5, 1.0)
        self._push(stack_id, delay)
        return delay

    def done(self, stack_id: str) -> None:
        """Nothing is left to be done."""
        self._attempts.pop(stack_id, None)

    def hurry(self) -> None:
        """The cluster answers again: what waits for a retry is due now."""
        now = asyncio.get_running_loop().time()
        self._due = [(min(due, now), stack_id) for due, stack_id in self._due]
        heapq.heapify(self._due)
        self._wake.set()

    async def next(self) -> str:
        """The next id that is due."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            wait: float | None = None
            if self._due:
                wait = self._due[0][0] - loop.time()
                if wait <= 0:
                    return heapq.heappop(self._due)[1]
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _push(self, stack_id: str, delay: float) -> None:
        heapq.heappush(self._due, (asyncio.get_running_loop().time() + delay, stack_id))
        self._wake.set()


async def work(room: Room) -> None:
    """The retirement service: see to what is due, several at a time, for ever."""
    async with asyncio.TaskGroup() as group:
        for number in range(WORKERS):
            group.create_task(_worker(room), name=f"retire-{number}")


async def _worker(room: Room) -> None:
    while True:
        stack_id = await room.retirement.next()
        try:
            await settle(room, stack_id)
        except StackdError as error:
            delay = room.retirement.again(stack_id)
            said = {"stack_id": stack_id, "same": "not gone"}
            log.info("%s: not gone yet, next try in %.1f s: %s", stack_id, delay, error, extra=said)
        else:
            room.retirement.done(stack_id)


async def settle(room: Room, stack_id: str) -> None:
    """Do whatever is left to be done about a stack's objects; nothing for a stack that is to live.

    Raises ClusterUnavailable or StoreUnavailable: then it is still to be done.
    """
    stack = room.store.stacks.get(stack_id)
    if stack is None:
        await _sweep(room, stack_id)
    elif stack.deleting_since is not None:
        await retire(room, stack_id)
    elif stack.ended:
        await _release(room, stack_id)


async def retire(room: Room, stack_id: str) -> None:
    """Remove the stack for which a delete is intended. When this returns, nothing of it is left anywhere.

    Raises ClusterUnavailable or StoreUnavailable; the row stays `deleting` then.
    """
    async with room.locks.of(stack_id):
        stack = room.store.stacks.get(stack_id)
        if stack is None or stack.deleting_since is None:
            return
        await clear(room, stack)
        await room.store.remove([stack_id])
        reached("retire.removed")
        room.departed.add(stack_id)
    log.info("%s: removed (%s)", stack_id, stack.delete_reason, extra={"stack_id": stack_id})


async def clear(room: Room, stack: Stack) -> None:
    """Delete the Service and Pod of a stack that goes; returns when the cluster has confirmed both gone."""
    room.departed.add(stack.stack_id)
    await take_down(room, stack)


async def take_down(room: Room, stack: Stack) -> None:
    """Delete the stack's Service and Pod, at once and both; returns when the cluster has confirmed both gone."""
    await room.right_cluster()
    pod = room.mirror.pods.get(stack.pod_name)
    service = room.mirror.services.get(stack.service_name)

    async def service_goes() -> None:
        await room.cluster.delete_service(stack.service_name, _uid(stack.service_uid, service))
        reached("retire.service_deleted")

    async def pod_goes() -> None:
        await room.cluster.delete_pod(stack.pod_name, _uid(stack.pod_uid, pod))
        reached("retire.pod_deleted")

    for result in await asyncio.gather(service_goes(), pod_goes(), return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
    reached("retire.confirmed")


def _uid(known: str | None, seen: PodState | ServiceState | None) -> str | None:
    """The uid to delete by, or None where row and mirror do not agree: then the cluster is asked what is there now.

    A uid of before (of a Service that was put back, say) would delete nothing and look like done.
    """
    return seen.uid if seen is not None and known == seen.uid else None


async def _release(room: Room, stack_id: str) -> None:
    """Give back the Service and the ports of a stack that has ended for good; its record stays."""
    async with room.locks.of(stack_id):
        stack = room.store.stacks.get(stack_id)
        if stack is None or not stack.ended or stack.deleting_since is not None:
            return
        await room.right_cluster()
        service = room.mirror.services.get(stack.service_name)
        await room.cluster.delete_service(stack.service_name, _uid(stack.service_uid, service))
        reached("release.service_deleted")
        await room.store.release_ports([stack_id])
        reached("release.released")
    log.info("%s: Service and ports given back (%s)", stack_id, stack.status_reason, extra={"stack_id": stack_id})


async def _sweep(room: Room, stack_id: str) -> None:
    """Delete objects that carry our labels and that no row knows."""
    async with room.locks.of(stack_id):
        if room.store.stacks.get(stack_id) is not None:
            return
        await room.right_cluster()
        name = service_name(stack_id)
        service, pod = room.mirror.services.get(name), room.mirror.pods.get(stack_id)
        await asyncio.gather(
            room.cluster.delete_service(name, service.uid if service else None),
            room.cluster.delete_pod(stack_id, pod.uid if pod else None),
        )
        reached("sweep.deleted")
    log.info("%s: objects without a row removed", stack_id, extra={"stack_id": stack_id})
