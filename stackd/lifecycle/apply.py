"""Send the requests that were decided on: one executor for objects of every kind.

Owns: how an object is created, changed and removed, and that what the API server answers goes into the mirror, and into what
is remembered of the stack, at once: the next decision rests on it. Requests of one decision go out together. It chooses no
object: a change comes with the object and its uid. A node port that others hold is replaced in the row here, because only the
API server knows that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from stackd.codes import ErrorCode
from stackd.crashpoints import crash_point
from stackd.errors import (
    ClusterRefused,
    ClusterUnavailable,
    Conflict,
    InvalidPodSpec,
    NameTaken,
    NodePortOutOfRange,
    NodePortTaken,
    NoNodePort,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    QuotaExceeded,
    StillThere,
)
from stackd.kube import labels
from stackd.kube.connection import RETRIES, Deadline
from stackd.kube.manifests import pod_labels, pod_manifest, service_manifest
from stackd.kube.objects import PODS as POD_KIND
from stackd.kube.objects import SERVICES, TEMPLATE_PODS, ServiceState, TemplatePod
from stackd.kube.records import expiry_annotations
from stackd.kube.routes import ROUTES, WantedRoute
from stackd.lifecycle.bring_up import learn_node_ports
from stackd.lifecycle.context import Context
from stackd.lifecycle.decide import Change, Verb, WantedTemplatePod
from stackd.lifecycle.desired import (
    PODS,
    ObjectName,
    WantedPod,
    WantedService,
    held_ports,
    service_difference,
    service_error,
)
from stackd.logs import stack_log
from stackd.model import Member, PortRange, SanitizedSpec, Stack, TargetPort
from stackd.podspec import harden, sanitize
from stackd.podspec.additions import with_readiness, with_values
from stackd.podspec.members import below_member, sanitize_kept, targets_of, with_addresses
from stackd.timing import ASK_AGAIN_SECONDS, KEEP_PORT_SECONDS

log = logging.getLogger(__name__)

T = TypeVar("T")
TCP = "tcp"
NOT_OURS = "a pod that is not stackd's has the stack's name"
PORT_TRIES = 50  # after this many node ports that others hold, a create stops trying


async def gather_all(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Make the calls at the same time. All outcomes are known when this returns, or raises the first error."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def apply(context: Context, stack: Stack | None, changes: Sequence[Change]) -> bool:
    """Send the requests at the same time, for objects of the ``stack``, or of no row; returns whether anything was changed or
    learnt. All outcomes are known when this returns, or raises the first error: what the API server refuses (``ClusterError``),
    ClusterUnavailable without its answer; StillThere if something holds up a removal."""
    if len(changes) == 1:
        return await _send(context, stack, changes[0])
    return any(await gather_all(_send(context, stack, change) for change in changes))


async def _send(context: Context, stack: Stack | None, change: Change) -> bool:
    if change.verb is Verb.REMOVE:
        await _remove(context, stack, change)
    elif isinstance(change.wanted, WantedTemplatePod):
        await _create_template_pod(context, change.wanted)
    elif stack is not None:
        return await _send_for(context, stack, change)
    return True


async def _send_for(context: Context, stack: Stack, change: Change) -> bool:
    if change.verb is Verb.ASK:
        return await _ask(context, stack, change)
    if isinstance(wanted := change.wanted, WantedPod):
        await (_create_pod if change.verb is Verb.CREATE else _label_pod)(context, stack, change, wanted)
    elif isinstance(wanted, WantedService):
        await _write_service(context, stack, change, wanted)
    elif isinstance(wanted, WantedRoute):
        await _write_route(context, stack, change, wanted)
    return True


# ---- pods


async def _create_pod(context: Context, stack: Stack, change: Change, wanted: WantedPod) -> None:
    creation = context.creates.get(stack.stack_id)
    member = stack.member(wanted.part) if stack.members else None
    if creation is not None:
        spec = creation.request.spec
    else:
        stack = await context.store.stacks.with_pod_spec(stack)
        spec = spec_of(context, stack)
    context.memory.forget_gone(stack.stack_id, (PODS, change.name))
    try:
        pod = await context.cluster.create(POD_KIND, pod_request(context, stack, spec, member))
    except QuotaExceeded:
        context.memory.crowded.add(stack.stack_id)
        raise
    except InvalidPodSpec as error:
        raise error if member is None else below_member(member.name, error) from error
    except ObjectExists as error:
        # The next decision is about the pod that has the name.
        if creation is not None or (other := await context.cluster.get(POD_KIND, change.name)) is None:
            raise NameTaken(NOT_OURS) from error
        context.mirror.keep(other)
        return
    if creation is not None:
        creation.uids[pod.name] = pod.uid
        if member is None:
            creation.timer.lap("pod")
    crash_point("pod.created")
    context.mirror.saw(pod)


async def _create_template_pod(context: Context, wanted: WantedTemplatePod) -> None:
    since = context.mirror.version(PODS)
    try:
        pod: TemplatePod | None = await context.cluster.create(TEMPLATE_PODS, wanted.manifest)
    except ObjectExists:  # perhaps made by an earlier try, whose answer was lost
        pod = await context.cluster.get(TEMPLATE_PODS, wanted.name)
    if pod is None or pod.instance != context.cluster.instance:
        raise ClusterUnavailable(f"the pod {wanted.name} is not stackd's: delete it, or have it renamed")
    crash_point("template_pod.created")
    context.mirror.saw(pod, since)


async def _label_pod(context: Context, stack: Stack, change: Change, wanted: WantedPod) -> None:
    """Put stackd's labels and the generation back: without them the watch and the Service do not see the pod. Raises
    ClusterRefused if something removes them at once."""
    assert change.uid is not None, "a pod was seen"
    member = stack.member(wanted.part) if stack.members else None
    before = context.mirror.pods.get(change.name)
    clients = () if before is None else before.labels
    names = pod_labels(stack, context.cluster.instance, clients, member)
    generation = {labels.GENERATION: str((member or stack).generation)}
    try:
        pod = await context.cluster.patch(POD_KIND, change.name, change.uid, labels=names, annotations=generation)
    except (ObjectNotFound, PreconditionFailed):  # it is gone, or another pod has its name by now
        _is_gone(context, change)
        return
    crash_point("pod.labelled")
    if pod.stack_id != stack.stack_id:
        context.mirror.keep(pod)  # the watch does not tell how it is
        raise ClusterRefused("something in the cluster removes stackd's labels from its pod; it must leave them there")
    context.mirror.saw(pod)
    if before is not None and before.stack_id != stack.stack_id:
        stack_log(log, stack.stack_id).warning("stackd's labels were removed from its pod and are restored")


async def _ask(context: Context, stack: Stack, change: Change) -> bool:
    """Ask Kubernetes itself for the pod that the mirror lacks (invariant 10). The mirror gets what exists; False if the watch
    has reported something meanwhile, perhaps that the pod is gone: then the stack is looked at again a little later."""
    stack_id, watched = stack.stack_id, context.mirror.health_by_kind[PODS]
    version = watched.version
    pod = await context.cluster.get(POD_KIND, change.name)
    await context.gate.right_cluster()  # another cluster may have answered meanwhile
    if pod is None or change.uid not in (None, pod.uid):
        context.memory.note_gone(stack_id, (PODS, change.name), change.uid)
        return True
    if pod.instance == context.cluster.instance and pod.stack_id == stack_id:
        if watched.version != version:
            context.loop.wake([stack_id], delay=ASK_AGAIN_SECONDS)
            return False
        log.warning("%s: the watch does not report its pod, although the pod exists", stack_id)
        context.mirror.missed(pod)
    context.mirror.keep(pod)
    return True


def pod_request(context: Context, stack: Stack, spec: SanitizedSpec, member: Member | None = None) -> dict[str, object]:
    """The manifest of a stack's pod, or that of a member, with the operator's additions and the stack's generated values."""
    manifest = spec.manifest if member is None else spec.members[member.name]
    manifest = harden(manifest, context.settings.policy_for(stack.template))
    if context.config.stacks.readiness == TCP:
        manifest = with_readiness(manifest, stack.ports if member is None else targets_of(member))
    if stack.values or stack.env:
        manifest = with_values(manifest, {**stack.values, **stack.env})
    if stack.members:
        services = context.mirror.routes[SERVICES.resource]
        seen = ((one.name, services.get(stack.member_name(one.name))) for one in stack.members)
        manifest = with_addresses(manifest, {name: service.address for name, service in seen if service is not None})
    selector = context.config.stacks.node_selector
    return pod_manifest(stack, manifest, instance=context.cluster.instance, node_selector=selector, member=member)


def spec_of(context: Context, stack: Stack) -> SanitizedSpec:
    """The spec of a stack that is to start, whose spec text was read. Raises Conflict if the policy in force does not
    allow it any more."""
    assert stack.pod_spec is not None, "it was read"
    template = context.settings.templates.get(stack.template) if stack.template is not None else None
    if template is not None and template.spec.text == stack.pod_spec:
        return template.spec
    ports = tuple(TargetPort(container_port=p.container_port, protocol=p.protocol) for p in stack.ports)
    try:
        if stack.members:
            check = (
                context.settings.sanitizer.sanitize if template is None else partial(sanitize, policy=template.policy)
            )
            return sanitize_kept(stack.pod_spec, ports, check)
        if template is None:
            return context.settings.sanitizer.sanitize(stack.pod_spec, ports)
        return sanitize(stack.pod_spec, ports, template.policy)
    except InvalidPodSpec as exc:
        sentence = f"{stack.stack_id} cannot be started: its pod spec is not allowed any more: {exc}"
        raise Conflict(sentence, code=ErrorCode.POD_SPEC_NOT_ALLOWED) from exc


# ---- the Service


async def _write_service(context: Context, stack: Stack, change: Change, wanted: WantedService) -> None:
    """Make Service and record be as they should. A node port that others hold is replaced until a free one is found.

    An existing stack asks for its port for ``KEEP_PORT_SECONDS`` before it gets another. All tries together end by the
    deadline of one call: then ClusterUnavailable is raised, since other ports may be free. Raises NoNodePort; ClusterRefused
    if a policy changes the Service.
    """
    creation = context.creates.get(stack.stack_id)
    before, since = context.mirror.services.get(change.name), context.mirror.version(SERVICES.resource)
    context.memory.forget_gone(stack.stack_id, (SERVICES.resource, change.name))
    if change.verb is Verb.PATCH:
        if (patched := await _write_expiry(context, stack, change, wanted)) is None:
            return
        service = patched
    else:
        stack, service = await _expose(context, stack, change, wanted)
    if creation is not None:
        creation.timer.lap("service")
    crash_point("service.written")
    context.mirror.saw(service, since)
    if stack.accepted and not stack.spare and service.uid != stack.service_uid:
        await context.store.stacks.set_service(stack.stack_id, service.uid)
        stack_log(log, stack.stack_id).info("its Service was created again")
    if before is not None and before.uid == service.uid and not (before.recorded or before.spare):
        stack_log(log, stack.stack_id).warning("stackd's annotations were missing on its Service and are restored")


async def _write_expiry(context: Context, stack: Stack, change: Change, wanted: WantedService) -> ServiceState | None:
    """The Service as it is then; None if the one that was chosen is gone: the next decision is about what there is."""
    assert change.uid is not None, "a Service was seen"
    annotations = expiry_annotations(stack)
    try:
        service = await context.cluster.patch(SERVICES, change.name, change.uid, annotations=annotations)
    except (ObjectNotFound, PreconditionFailed):
        _is_gone(context, change)
        return None
    _require_as_made(wanted, service)
    return service


async def _expose(context: Context, stack: Stack, change: Change, wanted: WantedService) -> tuple[Stack, ServiceState]:
    deadline = context.cluster.deadline()
    keep = KEEP_PORT_SECONDS if stack.accepted and not stack.spare else 0.0
    stack = await context.store.stacks.with_pod_spec(stack)
    if not wanted.node_ports:
        stack = replace(stack, ports_held=False)
    for tries in range(1, PORT_TRIES + 1):
        try:
            service = await _send_service(context, stack, change, wanted, deadline)
        except NodePortOutOfRange as refused:
            await learn_node_ports(context, PortRange(*refused.cluster))
            taken: NodePortOutOfRange | NodePortTaken = refused
        except NodePortTaken as refused:
            if deadline.spent + (pause := RETRIES.delay(tries)) < keep:
                await asyncio.sleep(pause)
                continue
            taken = refused
        else:
            try:
                _require_as_made(replace(wanted, node_ports=held_ports(stack)), service)
            except ClusterRefused:
                if change.verb is Verb.CREATE:
                    await context.cluster.remove(SERVICES.resource, change.name, service.uid)
                raise
            return stack, service
        if taken.node_port in context.store.ports.fixed and stack.shared:
            raise ClusterUnavailable(f"node port {taken.node_port} is fixed in the template {stack.template}: {taken}")
        stack_log(log, stack.stack_id).info("%s; trying another node port", taken)
        replaced = await context.store.ports.replace(stack.stack_id, taken.node_port)
        stack = await context.store.stacks.with_pod_spec(replaced)
        crash_point("service.port_replaced")
        if (creation := context.creates.get(stack.stack_id)) is not None:
            creation.check()
        if not deadline.left:
            raise ClusterUnavailable("no free node port was found in time: other Services hold those that were tried")
    raise NoNodePort(f"no free node port was found: other Services in the cluster hold {PORT_TRIES} that were tried")


def _require_as_made(wanted: WantedService, service: ServiceState) -> None:
    """Raise ClusterRefused if the Service or its record, just written, is not as it should be."""
    if (why := service_difference(wanted, service)) is not None:
        raise ClusterRefused(f"an admission policy of the cluster changes the Services that stackd makes: {why}")


async def _send_service(
    context: Context, stack: Stack, change: Change, wanted: WantedService, deadline: Deadline
) -> ServiceState:
    dual_stack = context.config.stacks.dual_stack
    manifest = service_manifest(stack, context.cluster.instance, dual_stack=dual_stack)
    if change.verb is Verb.CREATE:
        return await context.cluster.create(SERVICES, manifest, timeout=deadline.left)
    if change.uid is not None:
        seen = context.mirror.services.get(change.name)
        clients = () if seen is None else seen.labels
        try:
            service = await context.cluster.update(
                SERVICES, manifest, change.uid, clients=clients, timeout=deadline.left
            )
        except (ObjectNotFound, PreconditionFailed):
            _is_gone(context, change)
        else:
            if service_error(replace(wanted, node_ports=held_ports(stack)), service) is None:
                return service
    return await context.cluster.create_or_update(SERVICES, manifest, known=(stack.service_uid,), timeout=deadline.left)


# ---- names


async def _write_route(context: Context, stack: Stack, change: Change, wanted: WantedRoute) -> None:
    kind, since = ROUTES[wanted.resource], context.mirror.version(wanted.resource)
    context.memory.forget_gone(stack.stack_id, (wanted.resource, wanted.name))
    if change.verb is Verb.CREATE:
        route = await context.cluster.create(kind, wanted.manifest)
    else:
        route = await context.cluster.create_or_update(kind, wanted.manifest)
    crash_point("route.written")
    context.mirror.saw(route, since)


# ---- removals


async def _remove(context: Context, stack: Stack | None, change: Change) -> None:
    name: ObjectName = change.resource, change.name
    known = () if stack is None else stack.pod_uids if change.resource == PODS else (stack.service_uid,)
    try:
        gone = await context.cluster.delete(change.resource, change.name, change.uid, known=known)
    except StillThere as error:
        if stack is None:
            raise
        context.memory.note_held(stack.stack_id, name)
        if change.foreign:
            raise NameTaken(f"{NOT_OURS}: {error}") from error
        if change.retried or not stack.deleting_since:
            raise
        return  # the next decision goes on with what does not depend on it
    crash_point("object.removed")
    if not gone:
        _is_gone(context, change)
        return
    if stack is not None:
        context.memory.note_gone(stack.stack_id, name, change.uid)
    if (seen := context.mirror.find(*name)) is not None and seen.uid == change.uid:
        context.mirror.removed(seen)
    else:
        _is_gone(context, change)


def _is_gone(context: Context, change: Change) -> None:
    """The mirror shows an object of this uid no longer."""
    seen = context.mirror.find(change.resource, change.name)
    if seen is not None and change.uid in (None, seen.uid):
        context.mirror.gone(seen)
