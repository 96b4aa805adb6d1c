"""Reconcile one stack: the only code that touches it, whatever it is that it needs.

Level-triggered, as a controller of Kubernetes: read the row and what the mirror shows, write the status if it differs, ask
``decide``, and carry out what it says: a change of the row (``transitions``), or one round of requests (``apply``). Nothing
waits in here for what the cluster will do: the mirror's event, the change of the row or a time that was asked for wakes the
stack again (``loop``).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stackd.errors import (
    ClusterError,
    ClusterRefused,
    ClusterUnavailable,
    NameTaken,
    NoNodePort,
    QuotaExceeded,
    StackdError,
    StackNotFound,
    StoreUnavailable,
    public_text,
)
from stackd.kube.mirror import Changed, Relisted
from stackd.kube.objects import NodeState, PodState, TemplatePod
from stackd.kube.template_maps import TemplateMap
from stackd.lifecycle.apply import apply
from stackd.lifecycle.context import Context
from stackd.lifecycle.decide import Decision, Kind, State, Verb, without_row
from stackd.lifecycle.desired import PODS, stack_of
from stackd.lifecycle.observe import observe
from stackd.lifecycle.transitions import TRANSITIONS
from stackd.lifecycle.view import look_at
from stackd.logs import stack_log
from stackd.model import SERVICE_PREFIX, DeleteReason, Desired, Observation, Stack, StackStatus
from stackd.templates.hiding import hide_in
from stackd.timing import AFTER_PREEMPTION_SECONDS

log = logging.getLogger(__name__)

# The ``status_reason`` of a stack that something in the cluster keeps from being deleted, or stopped.
DELETE_PENDING, STOP_PENDING = "DeletePending", "StopPending"
# These rest on what Kubernetes has said to be gone: it must still be the right cluster.
PROVEN = frozenset({Kind.END, Kind.STOPPED, Kind.RELEASED, Kind.REMOVED})


async def reconcile(context: Context, stack_id: str) -> bool:
    """Look at the stack and do what is to be done now. Returns whether to look again at once. Raises what keeps it from being
    done now."""
    stack = context.store.stacks.get(stack_id)
    if stack is None:
        return await _without_row(context, stack_id)
    stack = await observe(context, stack)
    epoch = context.gate.identity.epoch
    context.memory.enter(epoch)
    decision = look_at(context, stack)
    if decision.kind is None:
        if decision.again is not None:
            context.loop.wake([stack_id], delay=decision.again)
        return False
    try:
        if decision.kind is Kind.APPLY:
            return await _send(context, stack, decision)
        if decision.kind in PROVEN:
            await context.gate.right_cluster()
            if context.gate.identity.epoch != epoch or context.store.stacks.get(stack_id) is not stack:
                return True
        return await TRANSITIONS[decision.kind](context, stack, decision)
    except StackdError as error:
        hide_in(error, (context.store.stacks.get(stack_id) or stack).values)
        raise


async def _send(context: Context, stack: Stack, decision: Decision) -> bool:
    """Send the requests of the decision with a slot in hand; after a wait for that, or for the gate, decide again first."""
    is_record = len(decision.changes) == 1 and decision.changes[0].verb is Verb.PATCH
    async with context.loop.slot(stack, record=is_record) as waited:
        if waited or not context.gate.is_clear:
            await context.gate.right_cluster()
            current = context.store.stacks.get(stack.stack_id)
            again = None if current is None else look_at(context, current)
            if current is None or again is None or again.kind is not Kind.APPLY:
                return True
            stack, decision = current, again
        creation = None if stack.accepted else context.creates.get(stack.stack_id)
        if creation is not None:
            creation.timer.restart()
        epoch = context.gate.identity.epoch
        try:
            done = await apply(context, stack, decision.changes)
        except StackNotFound:
            return True  # its row is gone, or is to be deleted
        except StackdError as error:
            hide_in(error, stack.values)
            await _note_failure(context, stack, error)
            raise
        finally:
            if context.gate.identity.epoch != epoch:  # perhaps another cluster has answered
                context.memory.gone.pop(stack.stack_id, None)
        if creation is not None and creation.made_at is None and stack.pod_name in creation.uids:
            creation.timer.restart()
            creation.made_at = context.clock.monotonic()
        return done


async def _note_failure(context: Context, stack: Stack, error: StackdError) -> None:
    """Write into the stack's status what keeps it from being deleted, stopped or started; clients see it there."""
    again = context.loop.queue.has_failed(stack.stack_id)
    if again and isinstance(error, ClusterUnavailable) and context.gate.is_clear:
        error.stays = True  # Kubernetes answers, and does not do it
    deletes, stops = stack.deleting_since is not None, stack.accepted and stack.desired is Desired.STOPPED
    try:
        if stack.spare and isinstance(error, QuotaExceeded | NoNodePort) and stack.deleting_since is None:
            context.spares.pause(context.clock.monotonic() + AFTER_PREEMPTION_SECONDS)
            await context.store.stacks.mark_deleting([stack.stack_id], DeleteReason.POOL)
        if deletes and again and isinstance(error, ClusterRefused):
            context.gate.undeletable[stack.stack_id] = error.sentence
        if deletes or stops:
            reason = DELETE_PENDING if deletes else STOP_PENDING
            if error.stays:
                await context.store.stacks.set_pending_reason(stack.stack_id, reason, public_text(error))
        elif stack.accepted and stack.lacks_a_pod and stack.desired is Desired.RUNNING and not stack.ended:
            await context.store.stacks.observe([_start_waits(stack, error)])
    except StoreUnavailable as unavailable:
        log.debug("%s: %s", stack.stack_id, unavailable)


def _start_waits(stack: Stack, error: StackdError) -> Observation:
    return Observation(
        stack_id=stack.stack_id,
        # Of what somebody else keeps, nobody knows when it goes: whoever waits for the stack has to know.
        status=StackStatus.FAILED if isinstance(error, NameTaken) else StackStatus.CREATING,
        status_reason="ClusterUnavailable" if isinstance(error, ClusterError) else type(error).__name__,
        status_message=f"waiting to create the pod: {public_text(error)}; retrying"[:1024],
        generation=stack.generation,
    )


async def _without_row(context: Context, key: str) -> bool:
    """Make and delete what has no row: the pods of templates; what is left of a stack that the file has removed, as a create
    that took effect late; and what a pass or the operator wants removed."""
    pods, removable = context.template_pods, context.loop.removable
    unwanted = pods.unwanted(key)
    decision = without_row(pods.missing(key), [unwanted] if unwanted is not None else [], None)
    left = () if decision.changes else _left_of(context, key)
    if left and not context.gate.why_no_pass():
        was_removed = bool(await context.store.stacks.removed_among({key}))
        decision = without_row(None, left, None if was_removed else removable)
    if not decision.changes:
        return False
    try:
        await context.gate.right_cluster()
        if key in context.store.stacks:
            return True  # it was adopted meanwhile
        await apply(context, None, decision.changes)
    except StackdError as error:
        if pods.cancel(key, error):
            return False
        raise
    removable.difference_update(change.uid for change in decision.changes if change.uid is not None)
    stack_log(log, key).info("%s: %s", decision.action, decision.why)
    return False


def _left_of(context: Context, stack_id: str) -> Sequence[State]:
    mirror, names = context.mirror, (SERVICE_PREFIX + stack_id, stack_id)
    pods = [pod for name, pod in mirror.pods.items() if name.startswith(stack_id) and stack_of(PODS, name) == stack_id]
    routes = [route for route in mirror.all_routes() if route.stack_id == stack_id]
    services = [service for name in names if (service := mirror.services.get(name)) is not None]
    return [*pods, *routes, *services]


class ClusterEvents:
    """Wakes the stacks that a change in the cluster concerns."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._listed: set[str] = set()

    def contact_changed(self, lost: bool) -> None:
        """Kubernetes answers, or does not: what has failed is tried again once it does."""
        if not lost:
            self._context.loop.queue.retry_all()

    def changed(self, change: Changed | Relisted) -> None:
        """Subscriber of the mirror."""
        loop, rows = self._context.loop, self._context.store.stacks
        if isinstance(change, Relisted):
            loop.queue.retry_all()
            if change.kind in self._listed:
                self._context.gate.identity.doubt()
            self._listed.add(change.kind)  # the first list follows directly on the check of the cluster's identity
        elif isinstance(state := change.state, NodeState):
            loop.wake(stack.stack_id for stack in rows.ordered() if stack.is_on(state.name))
        elif isinstance(state, TemplatePod):
            loop.queue.add(state.name, reset=change.after is None)
        elif not isinstance(state, TemplateMap):
            row = rows.get(stack_of(PODS, state.name) if isinstance(state, PodState) else state.stack_id)
            if row is None:
                if change.before is None:  # a request of an earlier create may have taken effect now
                    loop.wake([stack_of(state.resource, state.name)])
                return
            memory = self._context.memory
            if change.after is not None:
                memory.forget_gone(row.stack_id, (state.resource, state.name), state.uid)
            elif isinstance(state, PodState) and state.disruption and state.uid in row.pod_uids:
                memory.disruptions[state.uid] = state.disruption
            if change.own and loop.queue.at_work(row.stack_id):
                return  # the loop looks again anyway, after a failure with a delay
            loop.queue.add(row.stack_id, reset=change.after is None)  # what a delete waits for may be gone
