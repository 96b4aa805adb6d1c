"""Follow the cluster: what the mirror sees of a stack becomes the stack's status, written only where it differs.

Owns: which stacks have to be looked at, since when a pull has been failing, and when to look again. The mapping itself is
``status.judge``; what has ended for good goes to the retirement, unless a brake holds it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import logging
from collections.abc import Iterable

from stackd.clock import NANOSECONDS
from stackd.errors import StoreUnavailable
from stackd.kube.mirror import Change, NodeChanged, PodChanged, Relisted, ServiceChanged
from stackd.lifecycle.bring_up import identify
from stackd.lifecycle.follow import Followed, follow
from stackd.lifecycle.room import Room, current_pod
from stackd.lifecycle.status import Sight, judge, observation, pull_is_failing
from stackd.model import Observation, Stack

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class Observer:
    """The stacks that have to be looked at."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._dirty: set[str] = set()
        self._pull_failing: dict[str, int] = {}
        self._recheck: list[tuple[int, str]] = []
        self._listed: set[str] = set()
        self._followed: dict[str, Followed] = {}
        self._wake = asyncio.Event()
        self.writes = 0

    def cluster_changed(self, change: Change) -> None:
        """Something changed in the cluster (a subscriber of the mirror)."""
        if isinstance(change, PodChanged):
            self._object_changed(change.name, present=change.after is not None)
        elif isinstance(change, ServiceChanged):
            seen = change.after or change.before
            if seen is not None and seen.stack_id:
                self._object_changed(seen.stack_id, present=change.after is not None)
        elif isinstance(change, NodeChanged):
            self.look_at(s.stack_id for s in self._room.store.stacks.ordered() if s.node_id == change.name)
        elif isinstance(change, Relisted):
            self._room.retirement.hurry()
            self._relisted(change.kind)

    def _relisted(self, kind: str) -> None:
        if kind in self._listed:
            self.doubt()
        self._listed.add(kind)  # the first list is taken just after the cluster has said who it is

    def doubt(self) -> None:
        """The cluster was away, or did not accept us: nothing counts before it has said that it is still the same one."""
        room = self._room
        if not room.brake.identity_in_doubt:
            room.brake.identity_in_doubt = True
            room.tasks.errand("identify", self._identify())

    async def _identify(self) -> None:
        await identify(self._room)
        self._room.brake.identity_in_doubt = False
        self.look_at_all()

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """A row changed (a subscriber of the store): a stack whose pod has just been made may have moved on meanwhile."""
        if after is None:
            if before is not None:
                self._pull_failing.pop(before.stack_id, None)
                self._followed.pop(before.stack_id, None)
        elif after.accepted and (before is None or not before.accepted or before.pod_uid != after.pod_uid):
            self.look_at([after.stack_id])

    def look_at(self, stack_ids: Iterable[str]) -> None:
        """Have these looked at."""
        self._dirty.update(stack_ids)
        if self._dirty:
            self._wake.set()

    def look_at_all(self) -> None:
        """Have every stack looked at, as after a start or a confirmation."""
        self.look_at(stack.stack_id for stack in self._room.store.stacks.ordered())

    async def run(self) -> None:
        """The observing service: for ever."""
        while True:
            await self._wait()
            ids, self._dirty = self._dirty, set()
            try:
                await self.observe(ids)
            except StoreUnavailable as error:
                log.warning("statuses cannot be written now: %s", error)
                self._dirty |= ids
                await asyncio.sleep(RETRY_SECONDS)

    async def observe(self, stack_ids: set[str]) -> None:
        """Look at these now. Raises StoreUnavailable."""
        room = self._room
        if not room.mirror.synced or room.brake.identity_in_doubt or room.brake.wrong_cluster is not None:
            return  # all stacks are looked at when that is over
        looks = [look for stack_id in stack_ids if (look := self._look(stack_id)) is not None]
        looks = self._hold_back(looks)
        changed = [seen for stack, seen in looks if _differs(stack, seen)]
        if not changed:
            return
        self.writes += len(changed)
        for stack in await room.store.observe(changed):
            log.info(
                "%s: %s%s%s",
                stack.stack_id,
                stack.status,
                f" ({stack.status_reason})" if stack.status_reason else "",
                f": {stack.status_message}" if stack.status_message else "",
                extra={"stack_id": stack.stack_id},
            )
            if stack.ended and stack.ports_held:
                room.retirement.add(stack.stack_id)
            if stack.ended or stack.status_reason:
                room.evidence.add(stack.stack_id)

    async def _wait(self) -> None:
        if not self._dirty:
            self._wake.clear()
            now = self._room.clock.now()
            wait = (self._recheck[0][0] - now) / NANOSECONDS if self._recheck else None
            try:
                async with asyncio.timeout(None if wait is None else max(0.0, wait)):
                    await self._wake.wait()
            except TimeoutError:
                pass
        now = self._room.clock.now()
        while self._recheck and self._recheck[0][0] <= now:
            self._dirty.add(heapq.heappop(self._recheck)[1])

    def _object_changed(self, stack_id: str, *, present: bool) -> None:
        room = self._room
        stack = room.store.stacks.get(stack_id)
        if stack is not None:
            if stack.accepted and stack.deleting_since is None:  # of no other would anything be written
                self.look_at([stack_id])
        elif present and stack_id in room.departed and stack_id not in room.creating:
            room.retirement.add(stack_id)

    def _look(self, stack_id: str) -> tuple[Stack, Observation] | None:
        room = self._room
        stack = room.store.stacks.get(stack_id)
        if stack is None or not stack.accepted or stack.deleting_since is not None:
            return None
        if stack.pod_uid is None and not stack.ended:
            return None  # it is being stopped or started, and whoever does that says how it is
        sight = self._sight(stack)
        verdict = judge(stack, sight, room.config.stacks.image_pull_grace)
        if verdict.recheck_at is not None:
            heapq.heappush(self._recheck, (verdict.recheck_at, stack_id))
        seen = observation(stack, sight, verdict)
        lines = follow(self._followed, stack, sight) if sight.pod is not None else ()
        return stack, dataclasses.replace(seen, happenings=lines) if lines else seen

    def _sight(self, stack: Stack) -> Sight:
        room = self._room
        pod = current_pod(room, stack)
        now = room.clock.now()
        if pull_is_failing(pod):
            self._pull_failing.setdefault(stack.stack_id, now)
        else:
            self._pull_failing.pop(stack.stack_id, None)
        node = pod.node_name if pod is not None and pod.node_name else stack.node_id
        return Sight(
            pod=pod,
            node_exists=node in room.mirror.nodes,
            node_public_ip=room.public_address(node),
            pull_failing_since=self._pull_failing.get(stack.stack_id),
            now=now,
        )

    def _hold_back(self, looks: list[tuple[Stack, Observation]]) -> list[tuple[Stack, Observation]]:
        """Where too many stacks' pods are just gone, say so in their status but give nothing back (invariant 8)."""
        room = self._room
        gone = {
            stack.stack_id: f"end: {seen.status_message}"
            for stack, seen in looks
            if seen.ended and not stack.ended and current_pod(room, stack) is None
        }
        room.brake.forget({stack.stack_id for stack, _ in looks} - gone.keys())
        alive = sum(1 for stack in room.store.stacks.ordered() if not stack.ended) if gone else 0
        if room.brake.allow(gone, alive, room.config.reconcile.max_delete_share):
            return looks
        return [
            (stack, dataclasses.replace(seen, ended=False) if stack.stack_id in gone else seen) for stack, seen in looks
        ]


def _differs(stack: Stack, seen: Observation) -> bool:
    return (
        stack.status is not seen.status
        or stack.status_reason != seen.status_reason
        or stack.status_message != seen.status_message
        or stack.node_id != seen.node_id
        or stack.node_public_ip != seen.node_public_ip
        or (seen.ended and not stack.ended)
        or bool(seen.happenings)
    )
