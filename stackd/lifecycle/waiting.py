"""Wait for what a stack becomes, without asking again and again. Costs nothing until a row of that stack changes."""

from __future__ import annotations

from stackd.errors import StackNotFound
from stackd.lifecycle.room import Room
from stackd.model import Stack, StackStatus

ENDS = frozenset({StackStatus.FAILED, StackStatus.STOPPED, StackStatus.NODE_DELETED})
"""From these a stack does not come to run without somebody doing something about it."""


async def until_status(room: Room, stack_id: str, wanted: StackStatus, timeout: float) -> Stack:
    """The stack as soon as it has that status, or cannot be expected to get it, or after ``timeout`` seconds as it is.

    Raises StackNotFound, also when it goes meanwhile.
    """

    def settled(stack: Stack | None) -> Stack | None:
        if stack is None:
            raise StackNotFound(stack_id)
        return stack if stack.status is wanted or _is_final(stack, wanted) else None

    try:
        return await room.rows.until(stack_id, settled, lambda: room.store.stacks.get(stack_id), timeout)
    except TimeoutError:
        stack = room.store.stacks.get(stack_id)
        if stack is None:
            raise StackNotFound(stack_id) from None
        return stack


async def until_accepted(room: Room, stack_id: str, timeout: float) -> Stack | None:
    """The stack when its create is completed; None if it was undone or is going. Raises TimeoutError."""
    gone = object()

    def decided(stack: Stack | None) -> Stack | object | None:
        if stack is None or stack.deleting_since is not None:
            return gone
        return stack if stack.accepted else None

    found = await room.rows.until(stack_id, decided, lambda: room.store.stacks.get(stack_id), timeout)
    return found if isinstance(found, Stack) else None


def _is_final(stack: Stack, wanted: StackStatus) -> bool:
    if stack.ended or stack.deleting_since is not None:
        return True
    return stack.status in ENDS and wanted not in ENDS
