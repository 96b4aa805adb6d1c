"""Write on the pods of stacks what a lost file is rebuilt from: that a stack was given away and to whom, and when it
expires; and the record of a stack without a pod.

Owns: where a stack's record is; that the write that says to whom a stack of a pool was given also makes it reachable;
and noticing where something in the cluster removes the annotations again.
"""

from __future__ import annotations

import contextlib
import logging

from stackd.clock import from_nanoseconds
from stackd.errors import ClusterRefused, ObjectNotFound, PreconditionFailed
from stackd.kube import labels
from stackd.kube.manifests import pool_labels
from stackd.kube.objects import PodState
from stackd.kube.records import our_annotations, stopped_manifest
from stackd.lifecycle.context import Context
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.hiding import hiding
from stackd.lifecycle.plan import wrongly_labelled
from stackd.lifecycle.readiness import admitted
from stackd.logs import stack_log
from stackd.model import Desired, Stack

log = logging.getLogger(__name__)

OPEN_SECONDS = 2.0
"""How long a create that is given a stack of a pool waits for the cluster to make that stack reachable."""


async def annotate(context: Context, stack_id: str, *, timeout: float | None = None) -> None:
    """Write the stack's expiry where its record is, if it differs there or the mirror does not show it; also that it
    was given away, if it was; and the whole record on a pod that has lost it.

    A pod that is gone needs nothing. Raises ClusterUnavailable, ClusterError, StackNotFound, StoreUnavailable.
    """
    with hiding(context, stack_id):
        async with context.locks.of(stack_id):
            stack = context.store.stacks.get(stack_id)
            if stack is None:
                return
            with contextlib.suppress(ObjectNotFound, PreconditionFailed):
                await _annotate_pod(context, stack, timeout)
            record = context.mirror.stopped.get(stack_id)
            recorded = record is not None and not record.going and record.expires_at == stack.ttl_expires_at
            if _is_in_record(stack) and not recorded:
                await put_record(context, stack, timeout=timeout)


def _is_in_record(stack: Stack) -> bool:
    """Whether a ConfigMap is to hold the stack's record: it was stopped, or waits for another pod."""
    lives = stack.accepted and not stack.ended and stack.deleting_since is None
    return lives and (stack.desired is Desired.STOPPED or stack.pod_uid is None)


async def _annotate_pod(context: Context, stack: Stack, timeout: float | None) -> None:
    pod = context.mirror.pods.get(stack.pod_name)
    uid = stack.pod_uid if pod is None else pod.uid
    service = context.mirror.services.get(stack.service_name)
    relabels = not stack.unassigned if pod is None else bool(wrongly_labelled(stack, pod, service))
    recorded = pod is not None and pod.recorded and not relabels
    if uid is None or (recorded and pod is not None and pod.expires_at == stack.ttl_expires_at):
        return
    whole = await context.store.stacks.whole(stack)
    await context.right_cluster()
    names = pool_labels(whole) if relabels else {}
    noted = {labels.EXPIRES: from_nanoseconds(stack.ttl_expires_at)} if recorded else our_annotations(whole)
    changed = await context.cluster.patch_pod(stack.pod_name, uid, labels=names, annotations=noted, timeout=timeout)
    if relabels:
        crash_point("assign.annotated")
        if changed.assigned == stack.unassigned:
            raise ClusterRefused(f"something in the cluster changes the label {labels.ASSIGNED} of pods")
    _note_record(context, stack.stack_id, pod, changed)


async def opened(context: Context, stack_id: str) -> None:
    """Return once a stack that was given from a pool is reachable, and the cluster has the record of that.

    Just after a start, waits for the first sight of the cluster. Raises, after at most ``OPEN_SECONDS``,
    ClusterUnavailable and ClusterError; ObjectNotFound or PreconditionFailed if its pod is gone.
    """
    if not context.mirror.synced:
        await admitted(context)
    with hiding(context, stack_id):
        async with context.locks.of(stack_id):
            stack, pod = context.store.stacks.get(stack_id), context.mirror.pods.get(stack_id)
            if stack is not None and (pod is None or pod.pool):
                await _annotate_pod(context, stack, OPEN_SECONDS)


async def put_record(context: Context, stack: Stack, *, timeout: float | None = None) -> None:
    """Have a ConfigMap hold the stack's record as it is now. Raises as ``Cluster.put_stopped`` does."""
    await context.right_cluster()
    whole = await context.store.stacks.whole(stack)
    await context.cluster.put_stopped(stopped_manifest(whole, context.config.cluster.instance), timeout=timeout)


def _note_record(context: Context, stack_id: str, before: PodState | None, after: PodState) -> None:
    """Remember and log whether the pod kept the record that was written on it."""
    if after.recorded:
        context.unrecordable.discard(after.uid)
        if before is not None and not before.recorded:
            stack_log(log, stack_id).warning("stackd's annotations were removed from its pod and are restored")
    else:
        context.unrecordable.add(after.uid)
        stack_log(log, stack_id, same="annotations").warning(
            "something in the cluster removes stackd's annotations from its pod: a lost state file could not be rebuilt"
        )
