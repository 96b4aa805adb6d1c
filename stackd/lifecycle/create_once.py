"""Create a stack where its labels leave room for one, or find the one that has the place (``limits.stacks_per_label``)."""

from __future__ import annotations

from stackd.errors import LabelLimitReached
from stackd.lifecycle.create import Order, create
from stackd.lifecycle.room import Room
from stackd.lifecycle.waiting import until_accepted
from stackd.model import Stack

TRIES = 5
PATIENCE_SECONDS = 60.0


async def create_once(room: Room, order: Order) -> tuple[Stack, bool]:
    """The new stack and True, or the existing one and False; a create under way is waited for.

    Of any number of requests at once, one makes the stack. Raises as ``create`` does.
    """
    for _ in range(TRIES):
        try:
            return await create(room, order), True
        except LabelLimitReached as reached:
            try:
                existing = await until_accepted(room, reached.stack_id, PATIENCE_SECONDS)
            except TimeoutError:
                raise reached from None
            if existing is not None:
                return existing, False
    return await create(room, order), True
