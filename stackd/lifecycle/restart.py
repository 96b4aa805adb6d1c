"""Stop a stack and keep its ports, start it again, or give it a fresh pod behind the same ports.

Owns: the order. The intent is in the file first (``desired``, and a ``generation`` that is written on the pod, which tells
the old pod from the new one); the old pod and its Service are confirmed gone before the new ones are made, as they have the
same names. Whatever is cut short is found by the reconciler, and done by ``resume``.
"""

from __future__ import annotations

import asyncio
import logging

from stackd.errors import (
    ClusterError,
    ClusterUnavailable,
    Conflict,
    InvalidPodSpec,
    StackdError,
    StackNotFound,
    StoreUnavailable,
)
from stackd.kube.objects import PodState
from stackd.lifecycle.crashpoints import reached
from stackd.lifecycle.create import first_sight, pod_request, serve
from stackd.lifecycle.retire import take_down
from stackd.lifecycle.room import Room
from stackd.model import Desired, Kind, Observation, SanitizedSpec, Stack, StackStatus, TargetPort
from stackd.store import Start

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 2.0
"""How long an answer waits for a node to take the fresh pod, so that it can tell the address; no node is no failure."""


async def stop(room: Room, stack_id: str, *, by: str) -> Stack:
    """The stack, stopped: no pod and no Service remains, its ports stay its own until it is started or its time is up.

    If the cluster does not confirm now, ClusterUnavailable is raised and the stop is retried until it is done; so it is
    if the caller leaves. Raises StackNotFound, Conflict, StoreUnavailable.
    """
    return await asyncio.shield(room.tasks.errand(f"stop {stack_id}", _stop(room, stack_id, by)))


async def start(room: Room, stack_id: str, *, by: str) -> Stack:
    """The stack with a fresh pod if it was stopped or has ended; as it is if it is not. Raises as ``restart``."""
    return await asyncio.shield(
        room.tasks.errand(f"start {stack_id}", _start(room, stack_id, Kind.START_REQUESTED, by))
    )


async def restart(room: Room, stack_id: str, *, by: str) -> Stack:
    """The stack, ``creating``, with a fresh pod behind the same ports and with the same end; the node may be another.

    What the cluster refuses now (a quota, say) is raised, and tried again until it is done. Raises StackNotFound,
    Conflict (also where the ports were given back and are no longer free), LabelLimitReached, Held, ShuttingDown,
    StoreUnavailable, and all that a create raises.
    """
    task = room.tasks.errand(f"restart {stack_id}", _start(room, stack_id, Kind.RESTART_REQUESTED, by))
    return await asyncio.shield(task)


async def resume(room: Room, stack_id: str) -> None:
    """Do what is left of a stop, start or restart. Raises what keeps it from being done now."""
    async with room.locks.of(stack_id):
        stack = room.store.stacks.get(stack_id)
        if stack is None or stack.deleting_since is not None or stack.ended or not stack.accepted:
            return
        if stack.desired is Desired.STOPPED:
            await _finish_stop(room, stack_id)
        elif stack.pod_uid is None:
            await _finish_start(room, stack_id)


async def _stop(room: Room, stack_id: str, by: str) -> Stack:
    async with room.locks.of(stack_id):
        await room.store.stop(stack_id, by)
        reached("stop.intended")
        try:
            return await _finish_stop(room, stack_id)
        except (ClusterError, ClusterUnavailable, StoreUnavailable) as error:
            sentence = f"{stack_id} cannot be stopped now, it is retried until it is done: {error}"
            raise ClusterUnavailable(sentence) from error


async def _finish_stop(room: Room, stack_id: str) -> Stack:
    stack = _wanted(room, stack_id, Desired.STOPPED)
    if not stack.at_rest or stack_id in room.mirror.pods or stack.service_name in room.mirror.services:
        await take_down(room, stack)
        reached("stop.cleared")
    stopped = await room.store.stopped(stack_id)
    if stopped is None:
        raise StackNotFound(stack_id)
    reached("stop.stopped")
    log.info("%s: stopped", stack_id, extra={"stack_id": stack_id})
    return stopped


async def _start(room: Room, stack_id: str, kind: Kind, by: str) -> Stack:
    async with room.create_slots, room.locks.of(stack_id):
        stack = room.store.stacks.get(stack_id)
        if stack is None:
            raise StackNotFound(stack_id)
        if kind is Kind.START_REQUESTED and stack.desired is Desired.RUNNING and not stack.ended and stack.accepted:
            return stack
        room.admit()
        spec = _spec(room, stack)
        limits = room.config.limits.stacks_per_label
        await room.store.start(stack_id, Start(pod_spec=spec.text, kind=kind, by=by, label_limits=limits))
        reached("restart.intended")
        try:
            return await _finish_start(room, stack_id)
        except ClusterError as error:
            raise ClusterUnavailable(f"{stack_id} cannot be started now, it is retried: {error}") from error


def _spec(room: Room, stack: Stack) -> SanitizedSpec:
    ports = tuple(TargetPort(container_port=p.container_port, protocol=p.protocol) for p in stack.ports)
    try:
        return room.sanitizer.sanitize(stack.pod_spec, ports)
    except InvalidPodSpec as exc:
        raise Conflict(f"{stack.stack_id} cannot be started: its pod spec is not allowed any more: {exc}") from exc


async def _finish_start(room: Room, stack_id: str) -> Stack:
    stack = _wanted(room, stack_id, Desired.RUNNING)
    try:
        return await _make(room, stack)
    except StackNotFound:
        raise
    except StackdError as error:
        await _say_why(room, stack, error)
        raise


async def _make(room: Room, stack: Stack) -> Stack:
    stack_id = stack.stack_id
    await room.right_cluster()
    pod = await room.cluster.get_pod(stack.pod_name)
    if pod is None or pod.deleting or pod.generation < stack.generation:
        await take_down(room, stack)
        reached("restart.cleared")
        _wanted(room, stack_id, Desired.RUNNING)
        pod = await room.cluster.create_pod(pod_request(room, stack, _spec(room, stack)))
    reached("restart.pod_created")
    _wanted(room, stack_id, Desired.RUNNING)
    stack, service = await serve(room, stack, pod)
    reached("restart.service_created")
    pod = await _placed(room, pod)
    seen = first_sight(room, stack, pod, node_exists=pod.node_name in room.mirror.nodes)
    started = await room.store.started(seen, pod_uid=pod.uid, service_uid=service.uid)
    reached("restart.started")
    log.info("%s: started again, pod %d", stack_id, stack.generation, extra={"stack_id": stack_id})
    return started


async def _placed(room: Room, made: PodState) -> PodState:
    """The pod as soon as a node has it, or the scheduler says that none takes it, or patience is at its end.

    Raises ClusterUnavailable if the mirror does not get to see it: the row may not say that it is there before that, or
    a look at the mirror would take it for one that has been deleted.
    """

    def seen(pod: PodState | None) -> PodState | None:
        return pod if pod is not None and pod.uid == made.uid else None

    def placed(pod: PodState | None) -> PodState | None:
        return pod if seen(pod) and pod is not None and (pod.node_name or pod.scheduled is False) else None

    try:
        pod = await room.mirror.until(made.name, seen, timeout=room.config.stacks.scheduling_timeout)
    except TimeoutError as exc:
        raise ClusterUnavailable(f"the fresh pod of {made.name} has not been seen yet") from exc
    try:
        return await room.mirror.until(made.name, placed, timeout=PATIENCE_SECONDS)
    except TimeoutError:
        return pod


def _wanted(room: Room, stack_id: str, desired: Desired) -> Stack:
    """The stack, if it still is to be so. Raises StackNotFound if it is gone or going."""
    stack = room.store.stacks.get(stack_id)
    if stack is None or stack.deleting_since is not None or stack.desired is not desired:
        raise StackNotFound(stack_id)
    return stack


async def _say_why(room: Room, stack: Stack, error: StackdError) -> None:
    """Let the stack's status tell what its start is waiting for."""
    reason = "ClusterUnavailable" if isinstance(error, ClusterError) else type(error).__name__
    seen = Observation(
        stack_id=stack.stack_id,
        status=StackStatus.CREATING,
        status_reason=reason,
        status_message=f"its pod cannot be made now, and is tried again: {error}"[:1024],
        generation=stack.generation,
    )
    try:
        await room.store.observe([seen])
    except StoreUnavailable as unavailable:
        log.debug("%s: %s", stack.stack_id, unavailable)
