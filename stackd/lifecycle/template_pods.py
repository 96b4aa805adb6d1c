"""The pods that templates own: those that pull images (``prepull``), and those that check stacks (``checks``). No stack has them.

Owns: which of them this process wants, and the waiting for what they say. The loop creates these, and deletes all others
(``reconcile``): what an earlier process has left, or its last requests have made, is a pod that nobody wants. The mirror shows
them in a table of their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from stackd.errors import ClusterUnavailable, ShuttingDown, StackdError
from stackd.kube.client import Cluster
from stackd.kube.mirror import Changed, Mirror, Relisted
from stackd.kube.objects import TEMPLATE_PODS, PodState, TemplatePod
from stackd.kube.wire import JsonObject
from stackd.lifecycle.decide import WantedTemplatePod
from stackd.lifecycle.gate import SHUTTING_DOWN
from stackd.lifecycle.loop import Loop
from stackd.tasks import Waiters

T = TypeVar("T")


@dataclass(slots=True, kw_only=True, eq=False)
class Wanted:
    """A pod that there should be; ``uid``: it was created. ``error``: why it cannot be, or is not wanted any more."""

    pod: WantedTemplatePod
    uid: str = ""
    error: StackdError | None = None


class TemplatePods:
    """The pods of one daemon."""

    def __init__(self, cluster: Cluster, mirror: Mirror, loop: Loop) -> None:
        self._cluster, self._mirror, self._loop = cluster, mirror, loop
        self._wanted: dict[str, Wanted] = {}
        self._waiters: Waiters[TemplatePod] = Waiters()

    def changed(self, change: Changed | Relisted) -> None:
        """Subscriber of the mirror."""
        if isinstance(change, Changed) and isinstance(change.state, TemplatePod):
            name, there = change.state.name, self._seen(change.state.name)
            wanted = self._wanted.get(name)
            if wanted is not None and there is not None:
                wanted.uid = wanted.uid or there.uid
            self._waiters.wake(name, there)

    def missing(self, name: str) -> WantedTemplatePod | None:
        """The pod of this name that has to be created. Each is created once."""
        wanted = self._wanted.get(name)
        return None if wanted is None or wanted.uid or wanted.error is not None else wanted.pod

    def unwanted(self, name: str) -> TemplatePod | None:
        """The pod of this name that nobody wants."""
        return None if name in self._wanted else self._seen(name)

    @asynccontextmanager
    async def running(self, manifest: JsonObject) -> AsyncIterator[Wanted]:
        """Have the pod created; it is deleted when the context is left, or later, if it cannot be then. Raises why it cannot
        be created."""
        pod = WantedTemplatePod(name=str(manifest["metadata"]["name"]), manifest=manifest)
        there = self._seen(name := pod.name)
        wanted = self._wanted[name] = Wanted(pod=pod, uid=there.uid if there is not None else "")
        try:
            self._loop.queue.add(name, reset=True)
            await self.until(wanted, lambda _: True, 2 * self._cluster.target.timeout)
            yield wanted
        finally:
            del self._wanted[name]
            self._loop.queue.add(name, reset=True)
            with suppress(TimeoutError):
                await self._waiters.until(
                    name,
                    lambda seen: True if seen is None else None,
                    lambda: self._seen(name),
                    self._cluster.target.timeout,
                )

    def cancel(self, name: str, why: StackdError) -> bool:
        """Nobody wants this pod any more: raise the error where it is waited for. Whether somebody wanted it."""
        if (wanted := self._wanted.get(name)) is None:
            return False
        wanted.error = wanted.error or why
        self._waiters.wake(name, self._seen(name))
        return True

    def close(self) -> None:
        for name in tuple(self._wanted):
            self.cancel(name, ShuttingDown(SHUTTING_DOWN))

    # ---- waiting

    def _seen(self, name: str) -> TemplatePod | None:
        return self._mirror.template_pods.get(name)

    async def until(self, wanted: Wanted, predicate: Callable[[PodState], T | None], timeout: float) -> T | None:
        """What the predicate returns for the pod at last; None after ``timeout`` seconds, if Kubernetes itself, when asked
        then, shows nothing else. Raises what the predicate raises; why there is no such pod any more."""
        name = wanted.pod.name

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
