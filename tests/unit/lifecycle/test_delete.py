"""What is left to do about a stack's objects, decided from its row alone."""

from __future__ import annotations

import pytest

from stackd.lifecycle.delete import DeleteStep, next_step
from stackd.model import DeleteReason, Stack
from tests.unit.lifecycle.situations import NOW, STACK, STOPPED, stack

DELETING = {"deleting_since": NOW, "delete_reason": DeleteReason.EXPIRED}


@pytest.mark.parametrize(
    ("row", "step"),
    [
        (None, DeleteStep.NOTHING),
        (STACK, DeleteStep.NOTHING),
        (STOPPED, DeleteStep.NOTHING),
        (stack(accepted=False), DeleteStep.NOTHING),
        (stack(ended=True), DeleteStep.RELEASE),
        (stack(ended=True, ports_held=False), DeleteStep.RELEASE),
        (stack(**DELETING), DeleteStep.REMOVE),
        (stack(**DELETING, ended=True), DeleteStep.REMOVE),
        (stack(**DELETING, accepted=False), DeleteStep.REMOVE),
    ],
)
def test_a_row_says_what_has_to_go(row: Stack | None, step: DeleteStep) -> None:
    assert next_step(row) is step
