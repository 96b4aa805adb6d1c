"""Write on the pods of stacks what a lost file is rebuilt from: that a stack was given away and to whom, and when it
expires; and the record of a stack without a pod.

Owns: where a stack's record is, the annotating service for stacks given from pools, and noticing where something in the
cluster removes the annotations again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from stackd.clock import from_nanoseconds
from stackd.errors import ObjectNotFound, PreconditionFailed, StackdError
from stackd.kube import labels
from stackd.kube.manifests import client_labels
from stackd.kube.objects import PodState
from stackd.kube.records import our_annotations, stopped_manifest
from stackd.lifecycle.context import Context
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.hiding import hiding
from stackd.lifecycle.pools import Given
from stackd.logs import stack_log
from stackd.model import Desired, Stack

log = logging.getLogger(__name__)

ANNOTATIONS_AT_ONCE = 4
"""This many pods are annotated at a time with the fact that they were given away, and to whom."""

ANNOTATE_AFTER_SECONDS = 0.01
"""How long after a stack was given away its pod is annotated: the response has been sent by then."""

ANNOTATE_YIELD_SECONDS = 0.5
"""A burst of creates that pools answer delays it at most this long. If the file is lost before, nobody knows whose the
stack is."""


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
    given = not stack.unassigned and (pod is None or bool(pod.pool))
    recorded = pod is not None and pod.recorded and not given
    if uid is None or (recorded and pod is not None and pod.expires_at == stack.ttl_expires_at):
        return
    whole = await context.store.stacks.whole(stack)
    await context.right_cluster()
    names: dict[str, str | None] = {labels.POOL: None, **client_labels(whole)} if given else {}
    noted = {labels.EXPIRES: from_nanoseconds(stack.ttl_expires_at)} if recorded else our_annotations(whole)
    changed = await context.cluster.patch_pod(stack.pod_name, uid, labels=names, annotations=noted, timeout=timeout)
    if given:
        crash_point("assign.annotated")
    _note_record(context, stack.stack_id, pod, changed)


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


async def annotate_given(context: Context) -> None:
    """The annotating service: write on the pods of given stacks that they were given, and to whom; for ever."""

    async def one(given: Given) -> None:
        # A background task of its own: a graceful stop waits for it.
        await context.tasks.spawn(f"annotate {given.stack_id}", _annotate_given(context, given))

    def failed(given: Given, error: StackdError, delay: float | None) -> None:
        stack_log(log, given.stack_id, same="annotate").info("its pod is annotated in %.1f s: %s", delay or 0.0, error)

    await context.given.run(one, workers=ANNOTATIONS_AT_ONCE, failed=failed)


async def _annotate_given(context: Context, given: Given) -> None:
    pace, clock = context.pools.pace, context.clock
    while (pause := pace.wait(clock.monotonic(), given.at, ANNOTATE_YIELD_SECONDS)) and not context.closing:  # noqa: ASYNC110
        await asyncio.sleep(pause)
    await annotate(context, given.stack_id)


async def annotate_all_given(context: Context, seconds: float) -> None:
    """At a stop: annotate the pods of stacks that were just given away; the next owner may have another file."""
    given = [name for name, pod in context.mirror.pods.items() if pod.pool and name in context.store.assigned]
    if not given or context.cluster.connection.contact.lost:
        return
    annotating = {context.tasks.spawn(f"annotate {name}", annotate(context, name, timeout=seconds)) for name in given}
    await asyncio.wait(annotating, timeout=seconds)
    for task in annotating:
        context.tasks.let_go(task)
