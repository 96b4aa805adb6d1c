"""The pod of a stack: its spec within the policy that holds for it, and the manifest with all that stackd adds.

Owns: that a stack made from a template has the template's policy and its own generated values, at every start of it.
"""

from __future__ import annotations

from stackd.kube.labels import object_labels
from stackd.kube.manifests import PodRequest, pod_manifest
from stackd.kube.objects import PodState
from stackd.lifecycle.context import Context
from stackd.model import SanitizedSpec, Stack, TargetPort
from stackd.podspec import harden, sanitize
from stackd.podspec.additions import with_readiness, with_values

TCP = "tcp"


def pod_request(context: Context, stack: Stack, spec: SanitizedSpec) -> dict[str, object]:
    """The manifest of a stack's pod, with the operator's additions and the stack's generated values."""
    manifest = harden(spec.manifest, context.policy_for(stack.template))
    if context.config.stacks.readiness == TCP:
        manifest = with_readiness(manifest, stack.ports)
    if stack.values:
        manifest = with_values(manifest, stack.values)
    return pod_manifest(
        PodRequest(
            stack=stack,
            manifest=manifest,
            instance=context.config.cluster.instance,
            node_selector=context.config.stacks.node_selector,
        )
    )


def spec_of(context: Context, stack: Stack) -> SanitizedSpec:
    """The spec of an existing stack whose text was read, under the policy in force. Raises InvalidPodSpec."""
    assert stack.pod_spec is not None, "it was read"
    ports = tuple(TargetPort(container_port=p.container_port, protocol=p.protocol) for p in stack.ports)
    policy = context.policy_for(stack.template)
    if policy is context.policy:
        return context.sanitizer.sanitize(stack.pod_spec, ports)
    return sanitize(stack.pod_spec, ports, policy)


async def put_labels_on(context: Context, stack: Stack, pod_uid: str) -> PodState:
    """The stack's pod of that uid once stackd's labels were put on it; where something takes them off, it has none even so.

    Raises ObjectNotFound, PreconditionFailed, ClusterUnavailable.
    """
    wanted = object_labels(context.config.cluster.instance, stack.stack_id)
    return await context.cluster.put_labels_on_pod(stack.pod_name, pod_uid, wanted)
