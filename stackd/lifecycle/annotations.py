"""Write on the pods of stacks what a lost file is rebuilt from: that a stack was given away and to whom, and when it
expires. The record of a stopped stack has its expiry, too.

Owns: the annotating service for stacks given from pools, and noticing where something in the cluster removes the
annotations again.
"""

from __future__ import annotations

import asyncio
import logging

from stackd.clock import from_nanoseconds
from stackd.errors import StackdError
from stackd.kube import labels
from stackd.kube.manifests import client_labels
from stackd.kube.objects import PodState
from stackd.kube.records import our_annotations
from stackd.lifecycle.context import Context
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.hiding import hiding
from stackd.lifecycle.pools import Given
from stackd.logs import stack_log
from stackd.model import Stack

log = logging.getLogger(__name__)

ANNOTATIONS_AT_ONCE = 4
"""This many pods are annotated at a time with the fact that they were given away, and to whom."""

ANNOTATE_AFTER_SECONDS = 0.01
"""How long after a stack was given away its pod is annotated: the response has been sent by then."""

ANNOTATE_YIELD_SECONDS = 0.5
"""A burst of creates that pools answer delays it at most this long. If the file is lost before, nobody knows whose the
stack is."""


async def annotate(context: Context, stack_id: str, *, timeout: float | None = None) -> None:
    """Write the stack's expiry on its pod, or on its record if it is stopped, where that differs; also that it was
    given away, if it was; and the whole record on a pod that has lost it.

    Raises ClusterUnavailable, ClusterError.
    """
    with hiding(context, stack_id):
        await _annotate(context, stack_id, timeout)


async def _annotate(context: Context, stack_id: str, timeout: float | None) -> None:
    async with context.locks.of(stack_id):
        stack, pod = context.store.stacks.get(stack_id), context.mirror.pods.get(stack_id)
        if stack is None:
            return
        if pod is not None and pod.pool and not stack.unassigned:
            await _annotate_owner(context, stack, pod, timeout)
            return
        noted = {labels.EXPIRES: from_nanoseconds(stack.ttl_expires_at)}
        if pod is not None and (pod.expires_at != stack.ttl_expires_at or not pod.recorded):
            annotations = noted if pod.recorded else our_annotations(await context.store.stacks.whole(stack))
            await context.right_cluster()
            changed = await context.cluster.patch_pod(stack_id, pod.uid, annotations=annotations, timeout=timeout)
            _note_record(context, stack_id, pod, changed)
        record = context.mirror.stopped.get(stack_id)
        if record is not None and record.expires_at != stack.ttl_expires_at:
            await context.right_cluster()
            await context.cluster.patch_stopped_annotations(stack_id, record.uid, noted, timeout=timeout)


async def _annotate_owner(context: Context, stack: Stack, pod: PodState, timeout: float | None) -> None:
    """Write on the pod of a stack from a pool that it was given away, and to whom."""
    whole = await context.store.stacks.whole(stack)
    await context.right_cluster()
    names: dict[str, str | None] = {labels.POOL: None, **client_labels(whole)}
    changed = await context.cluster.patch_pod(
        stack.pod_name, pod.uid, labels=names, annotations=our_annotations(whole), timeout=timeout
    )
    crash_point("assign.annotated")
    _note_record(context, stack.stack_id, pod, changed)


def _note_record(context: Context, stack_id: str, before: PodState, after: PodState) -> None:
    """Remember and log whether the pod kept the record that was written on it."""
    if after.recorded:
        context.unrecordable.discard(after.uid)
        if not before.recorded:
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
