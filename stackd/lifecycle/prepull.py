"""Have the images of templates with ``prepull: true`` on every node that takes stacks, also on nodes that join later.

Owns: which images are wanted on which nodes, the state of each pull, and that only few run at a time: kubelets pull one
image after the other, and stacks wait behind them. A pod of this module runs nothing, and is deleted as soon as its
image is there. Pods of an earlier process are deleted at the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from stackd.errors import ClusterUnavailable, ObjectExists, StackdError
from stackd.kube.labels import PREPULL, has_role
from stackd.kube.manifests import DEADLINE_SECONDS, prepull_name, prepull_pod, prepull_spec, pull_status
from stackd.kube.objects import PODS
from stackd.kube.wire import JsonObject
from stackd.lifecycle import nodes
from stackd.lifecycle.context import Context
from stackd.podspec import harden
from stackd.templates import Template
from stackd.workqueue import RetryPolicy, WorkQueue

log = logging.getLogger(__name__)

AT_ONCE = 2
RETRIES = RetryPolicy(first=5.0, longest=300.0)
AGAIN_SECONDS = 6 * 3600.0
"""After this time an image is checked again: kubelets remove images that nobody has used for a while."""
REFRESH_SECONDS = 10.0
CLEAN_UP_SECONDS = 10.0  # when the pods of an earlier process are looked for if no template wants images pulled
FIRST_CHECK_SECONDS, LONGEST_CHECK_SECONDS = 0.25, 2.0
LONGEST_REASON = 512


class PullState(enum.StrEnum):
    """The state of an image's pull on a node."""

    WAITING = "waiting"
    PULLING = "pulling"
    PULLED = "pulled"
    FAILING = "failing"


_ORDER = (PullState.FAILING, PullState.WAITING, PullState.PULLING, PullState.PULLED)


class ImageOnNode(NamedTuple):
    """One image on one node."""

    node: str
    image: str

    def __str__(self) -> str:
        return f"{self.image} on {self.node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """What is known of an image on a node; ``since`` on the monotonic clock."""

    state: PullState
    since: float
    reason: str = ""


class PrePulls:
    """The images that are wanted on nodes, and the service that has them pulled."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._queue: WorkQueue[ImageOnNode] = WorkQueue("prepull", context.tasks, RETRIES, self._pull, self._failed)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._pulls: dict[ImageOnNode, Pull] = {}
        self._nodes: dict[str, asyncio.Lock] = {}

    def of(self, template: Template) -> Mapping[str, Pull]:
        """The pull state of one template's images by node; per node, that of the slowest image."""
        mine = {target: pull for target, pull in self._pulls.items() if target.image in template.images}
        fastest_first = sorted(mine.items(), key=lambda item: _ORDER.index(item[1].state), reverse=True)
        by_node = {target.node: pull for target, pull in fastest_first}
        return {node: by_node[node] for node in sorted(by_node)}

    def counts(self) -> Mapping[PullState, int]:
        """How many images on nodes are in which state."""
        return {state: sum(pull.state is state for pull in self._pulls.values()) for state in PullState}

    async def refresh(self) -> None:
        """Compare what is wanted with what is known; makes no request."""
        wanted, now = self._wanted(), self._context.clock.monotonic()
        for target in self._pulls.keys() - wanted.keys():
            del self._pulls[target]
        for target in wanted:
            pull = self._pulls.get(target)
            if pull is None:
                self._set(target, PullState.WAITING)
            if pull is None or (pull.state is PullState.PULLED and now - pull.since >= AGAIN_SECONDS):
                self._queue.add(target)

    def _wanted(self) -> dict[ImageOnNode, Template]:
        """Each image on each node, with the first template that has it; adjacent entries are on different nodes."""
        context = self._context
        taking = sorted(node.name for node in nodes.eligible(context.config, context.mirror.nodes.values()))
        return {
            ImageOnNode(node=node, image=image): template
            for template in reversed([*context.settings.templates.values()])
            if template.prepull
            for image in template.images
            for node in taking
        }

    async def run(self) -> None:
        """Delete what an earlier process has left, then begin to pull images."""
        if not self._wanted():
            await asyncio.sleep(CLEAN_UP_SECONDS)  # there is hardly anything to delete, and creates may be waiting
        for tries in itertools.count(1):
            try:
                await self._delete_pods()
                break
            except StackdError as error:
                log.info("the pods that pull images cannot be listed now: %s", error)
                await asyncio.sleep(RETRIES.delay(tries))
        await self.refresh()
        self._queue.open()

    async def _pull(self, target: ImageOnNode) -> None:
        """Pull one image, a node one after the other."""
        async with self._nodes.setdefault(target.node, asyncio.Lock()), self._slots:
            await self._pull_one(target)

    async def _pull_one(self, target: ImageOnNode) -> None:
        """Return once the image is there, or is no longer wanted; no pod is left then. Raises the error that keeps it
        from being pulled now."""
        if self._context.gate.closing:
            return
        if (template := self._wanted().get(target)) is None:
            await self._delete_pods(self._name(target))  # an earlier try may have left one
            return
        if (pull := self._pulls.get(target)) is None or pull.state is PullState.WAITING:
            self._set(target, PullState.PULLING)  # else it stays pulled, or failing and why
        pod = await self._create_pod(target, template)
        try:
            done = await self._until_done(target, pod["metadata"]["uid"])
        except StackdError:
            with contextlib.suppress(StackdError):  # the next try finds the pod
                await self._delete(pod)
            raise
        await self._delete(pod)
        if done:
            self._set(target, PullState.PULLED)
            log.info("prepull: %s is there", target)

    async def _create_pod(self, target: ImageOnNode, template: Template) -> JsonObject:
        context, name = self._context, self._name(target)
        await context.gate.right_cluster()
        manifest = harden(prepull_spec(target.image, template.spec.manifest), template.policy)
        pod = prepull_pod(manifest, context.config.stacks.namespace, context.cluster.instance, target.node)
        with contextlib.suppress(ObjectExists):  # created by an earlier try whose response was lost
            await context.cluster.create(PODS, pod)
        created = await context.cluster.find("pods", name)
        if created is None:
            raise ClusterUnavailable(f"the pod that is to pull {target} is gone")
        if not has_role(created, PREPULL, context.cluster.instance):
            raise ClusterUnavailable(f"the pod {name} is not stackd's: delete it, or have it renamed")
        return created

    async def _until_done(self, target: ImageOnNode, uid: str) -> bool:
        """Return True once the image is there, False as soon as nobody wants it any more. Raises ClusterUnavailable if
        the pull fails or takes too long."""
        context = self._context
        pause, end = FIRST_CHECK_SECONDS, context.clock.monotonic() + DEADLINE_SECONDS
        while target in self._wanted() and not context.gate.closing:
            pod = await context.cluster.find("pods", self._name(target))
            if pod is None or pod["metadata"]["uid"] != uid:
                raise ClusterUnavailable("its pod was deleted")
            status = pull_status(pod)
            if status.done:
                return True
            if status.reason or context.clock.monotonic() >= end:
                raise ClusterUnavailable(status.reason or f"not pulled within {DEADLINE_SECONDS} s")
            await asyncio.sleep(pause)
            pause = min(LONGEST_CHECK_SECONDS, pause * 2)
        return False

    def _name(self, target: ImageOnNode) -> str:
        return prepull_name(self._context.cluster.instance, target.node, target.image)

    async def _delete_pods(self, name: str = "") -> None:
        """Delete the pods that pull images: all of them, or the one of that name."""
        for pod in await self._context.cluster.list_role(PREPULL):
            if name in ("", pod["metadata"]["name"]):
                await self._delete(pod)

    async def _delete(self, pod: JsonObject) -> None:
        metadata = pod["metadata"]
        await self._context.cluster.remove("pods", metadata["name"], metadata["uid"])

    def _failed(self, target: ImageOnNode, error: StackdError, delay: float | None) -> None:
        if target in self._wanted():
            self._set(target, PullState.FAILING, str(error)[:LONGEST_REASON])
            extra = {"same": f"prepull {target}"}
            log.warning("prepull: %s: next try in %.0f s: %s", target, delay or 0.0, error, extra=extra)

    def _set(self, target: ImageOnNode, state: PullState, reason: str = "") -> None:
        self._pulls[target] = Pull(state=state, since=self._context.clock.monotonic(), reason=reason)
