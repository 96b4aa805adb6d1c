"""Have the images of templates with ``prepull: true`` on every node that takes stacks, also on nodes that join later.

Owns: which images are wanted on which nodes, and the state of each pull; ``owned`` decides when each begins. A pod that pulls
runs nothing, and goes as soon as its image is there (``template_pods``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from stackd.errors import ClusterUnavailable, StackdError
from stackd.kube.manifests import DEADLINE_SECONDS, prepull_name, prepull_pod, prepull_spec
from stackd.kube.objects import PodState
from stackd.lifecycle import nodes
from stackd.lifecycle.context import Context
from stackd.lifecycle.owned import ImageOnNode, Pull, PullState, Work
from stackd.lifecycle.status import PULL_ERRORS, TRIED_AGAIN
from stackd.podspec import harden
from stackd.templates import Template
from stackd.timing import PULL_AGAIN_SECONDS, PULL_RETRIES

log = logging.getLogger(__name__)

LONGEST_REASON = 512
# Why the kubelet has no image, beside what it tries again.
NO_IMAGE = PULL_ERRORS | {"InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"}
_ORDER = (PullState.FAILING, PullState.WAITING, PullState.PULLING, PullState.PULLED)


class PrePulls:
    """The images that are wanted on nodes, and what is ``known`` of their pulls."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.known: dict[ImageOnNode, Pull] = {}

    def of(self, template: Template) -> Mapping[str, Pull]:
        """The pull state of one template's images by node; per node, that of the slowest image."""
        mine = {target: pull for target, pull in self.known.items() if target.image in template.images}
        fastest_first = sorted(mine.items(), key=lambda item: _ORDER.index(item[1].state), reverse=True)
        by_node = {target.node: pull for target, pull in fastest_first}
        return {node: by_node[node] for node in sorted(by_node)}

    def counts(self) -> Mapping[PullState, int]:
        return {state: sum(pull.state is state for pull in self.known.values()) for state in PullState}

    def wanted(self) -> dict[ImageOnNode, Template]:
        """Each image on each node that is to have it, with the first template that has it; adjacent entries are on different
        nodes."""
        context = self._context
        known = context.mirror.nodes.values() if context.cluster.reads_nodes else ()
        names = sorted(node.name for node in nodes.eligible(context.config, known))
        return {
            ImageOnNode(node=node, image=image): template
            for template in reversed([*context.settings.templates.values()])
            if template.prepull
            for image in template.images
            for node in names
        }

    def carry_out(self, work: Work, wanted: Mapping[ImageOnNode, Template]) -> None:
        """Begin the pulls that were decided on, and end those that nobody wants any more."""
        context = self._context
        for target in work.dropped:
            context.template_pods.cancel(
                self.known.pop(target).pod, ClusterUnavailable("nobody wants the image any more")
            )
        for target in wanted:
            self.known.setdefault(target, Pull())
        for target in work.pulls:
            pull = self.known[target]
            pull.pod = prepull_name(context.cluster.instance, target.node, target.image)
            context.tasks.background(f"prepull {target}", self._pull(target, pull, wanted[target]))

    async def _pull(self, target: ImageOnNode, pull: Pull, template: Template) -> None:
        context, now = self._context, self._context.clock.monotonic
        if pull.state is PullState.WAITING:
            pull.state = PullState.PULLING  # else it stays pulled, or failing and why
        manifest = harden(prepull_spec(target.image, template.spec.manifest), template.policy)
        pod = prepull_pod(manifest, context.config.stacks.namespace, context.cluster.instance, target.node)
        try:
            async with context.template_pods.running(pod) as wanted:
                if not await context.template_pods.until(wanted, is_pulled, DEADLINE_SECONDS):
                    raise ClusterUnavailable(f"not pulled within {DEADLINE_SECONDS} s")
            pull.state, pull.reason, pull.failures = PullState.PULLED, "", 0
            pull.due = now() + PULL_AGAIN_SECONDS
            log.info("prepull: %s is there", target)
        except StackdError as error:
            pull.state, pull.reason, pull.failures = PullState.FAILING, str(error)[:LONGEST_REASON], pull.failures + 1
            pull.due = now() + PULL_RETRIES.delay(pull.failures)
            if self.known.get(target) is pull and not context.gate.closing:
                extra = {"same": f"prepull {target}"}
                log.warning("prepull: %s: next try in %.0f s: %s", target, pull.due - now(), error, extra=extra)
        finally:
            pull.pod = ""
        context.template_loop.add("")


def is_pulled(pod: PodState) -> bool | None:
    """True once the kubelet has the image. Raises ClusterUnavailable if the pull fails. Pure."""
    for container in pod.containers:
        if container.reason in NO_IMAGE:
            raise ClusterUnavailable(f"{container.reason}: {container.message}".rstrip(": "))
        if container.state in ("running", "terminated") or container.reason not in TRIED_AGAIN:
            return True
    if pod.phase == "Failed":
        raise ClusterUnavailable(": ".join(filter(None, (pod.reason, pod.message))) or "it has failed")
    if pod.scheduled is False:
        raise ClusterUnavailable(f"not scheduled: {pod.unschedulable_message}".rstrip(": "))
    return None
