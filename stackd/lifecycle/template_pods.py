"""The pods that templates own: those that pull images (``prepull``), and those that check stacks (``checks``). No stack has them.

Owns: that there are those which this process wants, and no others. The mirror shows them in a table of their own; what an
earlier process has left, or its last requests have made, is a pod that nobody wants.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from stackd.crashpoints import crash_point
from stackd.errors import ClusterUnavailable, ObjectExists, ShuttingDown, StackdError
from stackd.kube.mirror import Changed, Relisted
from stackd.kube.objects import TEMPLATE_PODS, PodState, TemplatePod
from stackd.kube.wire import JsonObject
from stackd.lifecycle.decide import Verb
from stackd.lifecycle.gate import SHUTTING_DOWN, Gate
from stackd.tasks import Tasks, Waiters
from stackd.timing import TEMPLATE_POD_RETRIES
from stackd.workqueue import WorkQueue

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True, kw_only=True, eq=False)
class Wanted:
    """A pod that there should be; ``uid``: it was created. ``error``: why it cannot be, or is not wanted any more."""

    manifest: JsonObject
    uid: str = ""
    error: StackdError | None = None

    @property
    def name(self) -> str:
        """The pod's name."""
        return str(self.manifest["metadata"]["name"])


def difference(wanted: Wanted | None, seen: TemplatePod | None) -> Verb | None:
    """What is to be done now about the pod of one name. A pod is created once. Pure."""
    if wanted is None:
        return None if seen is None else Verb.REMOVE
    return Verb.CREATE if seen is None and not wanted.uid and wanted.error is None else None


class TemplatePods:
    """The pods of one daemon."""

    def __init__(self, tasks: Tasks, gate: Gate) -> None:
        self._gate, self._cluster, self._mirror = gate, gate.cluster, gate.mirror
        self._wanted: dict[str, Wanted] = {}
        self._waiters: Waiters[TemplatePod] = Waiters()
        self.queue: WorkQueue[str] = WorkQueue("template pod", tasks, TEMPLATE_POD_RETRIES)

    def start(self) -> None:
        """Begin to create and delete pods."""
        self.queue.start(self._reconcile, self._failed)

    def changed(self, change: Changed | Relisted) -> None:
        """Subscriber of the mirror."""
        if isinstance(change, Relisted):
            self.queue.retry_all()
        elif isinstance(change.state, TemplatePod):
            self._waiters.wake(change.state.name, self._seen(change.state.name))
            self.queue.add(change.state.name)

    @asynccontextmanager
    async def running(self, manifest: JsonObject) -> AsyncIterator[Wanted]:
        """Have the pod created; it is deleted when the context is left, or later, if it cannot be then. Raises why it cannot
        be created."""
        wanted = Wanted(manifest=manifest)
        self._wanted[name := wanted.name] = wanted
        try:
            self.queue.add(name, reset=True)
            await self.until(wanted, lambda _: True, 2 * self._cluster.target.timeout)
            yield wanted
        finally:
            del self._wanted[name]
            try:
                if wanted.uid:
                    await self._remove(name, wanted.uid)
            except StackdError as error:
                self._failed(name, error, 0.0)
            finally:
                self.queue.add(name)

    def cancel(self, name: str, why: StackdError) -> None:
        """Nobody wants this pod any more: raise the error where it is waited for."""
        if (wanted := self._wanted.get(name)) is not None:
            wanted.error = why
            self._waiters.wake(name, self._seen(name))

    def close(self) -> None:
        """Want no pods any more, because stackd stops."""
        for name in tuple(self._wanted):
            self.cancel(name, ShuttingDown(SHUTTING_DOWN))

    # ---- waiting

    def _seen(self, name: str) -> TemplatePod | None:
        return self._mirror.template_pods.get(name)

    async def until(self, wanted: Wanted, predicate: Callable[[PodState], T | None], timeout: float) -> T | None:
        """What the predicate returns for the pod at last; None after ``timeout`` seconds, if Kubernetes itself, when asked
        then, shows nothing else. Raises what the predicate raises; why there is no such pod any more."""
        name = wanted.name

        def ask(seen: TemplatePod | None) -> T | None:
            if wanted.error is not None:
                raise wanted.error
            if not wanted.uid:
                return None
            if seen is None or seen.uid != wanted.uid:
                raise ClusterUnavailable("its pod was deleted")
            return predicate(seen.pod)

        try:
            return await self._waiters.until(name, ask, lambda: self._seen(name), timeout)
        except TimeoutError:
            return ask(await self._cluster.get(TEMPLATE_PODS, name) if wanted.uid else None)

    # ---- the work

    async def _reconcile(self, name: str) -> None:
        wanted, seen = self._wanted.get(name), self._seen(name)
        verb = difference(wanted, seen)
        if verb is Verb.REMOVE and seen is not None:
            await self._remove(name, seen.uid)
        elif wanted is not None and wanted.error is None:
            wanted.uid = wanted.uid or (seen.uid if seen is not None else await self._create(name, wanted.manifest))
            self._waiters.wake(name, self._seen(name))

    async def _create(self, name: str, manifest: JsonObject) -> str:
        await self._gate.right_cluster()
        try:
            pod: TemplatePod | None = await self._cluster.create(TEMPLATE_PODS, manifest)
        except ObjectExists:  # perhaps made by an earlier try, whose answer was lost
            pod = await self._cluster.get(TEMPLATE_PODS, name)
        if pod is None or pod.instance != self._cluster.instance:
            raise ClusterUnavailable(f"the pod {name} is not stackd's: delete it, or have it renamed")
        crash_point("template_pod.created")
        self._mirror.saw(pod)
        return pod.uid

    async def _remove(self, name: str, uid: str) -> None:
        await self._gate.right_cluster()
        await self._cluster.delete("pods", name, uid)
        crash_point("template_pod.removed")
        if (seen := self._seen(name)) is not None and seen.uid == uid:
            self._mirror.removed(seen)

    def _failed(self, name: str, error: StackdError, delay: float | None) -> None:
        if (wanted := self._wanted.get(name)) is not None:
            self.cancel(name, wanted.error or error)
        else:
            log.info("%s cannot be deleted now: %s", name, error, extra={"same": "template pod"})
