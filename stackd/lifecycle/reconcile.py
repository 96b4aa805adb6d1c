"""Reconcile one stack: the only code that touches it, whatever it is that it needs.

Level-triggered, as a controller of Kubernetes: read the row and what the mirror shows, write the status if it differs, ask
``next_step``, do one step (one round of requests), return. Nothing waits in here for what the cluster will do: the mirror's
event, the change of the row or a time that was asked for wakes the stack again (``loop``).
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from stackd.kube.mirror import Changed, Relisted
from stackd.kube.objects import NodeState, PodState
from stackd.lifecycle.context import Context
from stackd.lifecycle.next_step import IN_THE_FILE, PODS, Step, StepKind, stack_of
from stackd.lifecycle.observe import observe
from stackd.lifecycle.steps import EXECUTORS, hiding, remove_without_row
from stackd.model import Stack


async def reconcile(context: Context, stack_id: str) -> bool:
    """Look at the stack and do its next step. Returns whether to look again at once. Raises what keeps the step from being
    done now."""
    if (stack := context.store.stacks.get(stack_id)) is None:
        return await remove_without_row(context, stack_id)
    stack = await observe(context, stack)
    if (step := context.step(stack)) is None:
        if (seconds := context.waits(stack)) is not None:
            context.loop.wake([stack_id], delay=seconds)
        return False
    if step.kind in IN_THE_FILE:
        return await _execute(context, step, stack)
    async with _slot(context, step, stack) as waited:
        if not context.gate.is_clear:
            await context.gate.right_cluster()
        elif not waited:
            return await _execute(context, step, stack)
        return await _after_wait(context, stack_id, step)


def _slot(context: Context, step: Step, stack: Stack) -> AbstractAsyncContextManager[bool]:
    """A slot for the step's requests; whether it was waited for."""
    if step.kind is StepKind.MAKE:
        return context.creates.slot(stack.stack_id)
    return context.loop.slot(stack, record=step.kind is StepKind.ANNOTATE)


async def _after_wait(context: Context, stack_id: str, before: Step) -> bool:
    """Decide again, with a slot in hand and the gate open; the slot of a create is for nothing else."""
    stack = context.store.stacks.get(stack_id)
    step = None if stack is None else context.step(stack)
    if stack is None or step is None:
        return False
    if (step.kind is StepKind.MAKE) is not (before.kind is StepKind.MAKE):
        return True
    return await _execute(context, step, stack)


async def _execute(context: Context, step: Step, stack: Stack) -> bool:
    """Do the step, which was decided on just now."""
    with hiding(context, stack.stack_id):
        return await EXECUTORS[step.kind](context, stack)


class ClusterEvents:
    """Wakes the stacks that a change in the cluster concerns."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._listed: set[str] = set()

    def changed(self, change: Changed | Relisted) -> None:
        """Subscriber of the mirror."""
        loop, rows = self._context.loop, self._context.store.stacks
        if isinstance(change, Relisted):
            loop.queue.retry_all()
            if change.kind in self._listed:
                self._context.gate.verify_again()
            self._listed.add(change.kind)  # the first list follows directly on the check of the cluster's identity
        elif isinstance(state := change.state, NodeState):
            loop.wake(stack.stack_id for stack in rows.ordered() if stack.node_id == state.name)
        else:
            row = rows.get(stack_of(PODS, state.name) if isinstance(state, PodState) else state.stack_id)
            if row is None:
                return
            if isinstance(state, PodState) and change.after is None and state.disruption and state.uid == row.pod_uid:
                self._context.memory.disruptions[state.uid] = state.disruption
            loop.queue.add(row.stack_id, reset=change.after is None)  # what a delete waits for may be gone
