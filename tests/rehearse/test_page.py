"""A rehearsal's page: names of nodes, images and reasons, which tenants write, stay text; it requests nothing."""

from __future__ import annotations

from stackd.client import AsyncClient
from stackd.rehearse.connection import Connection
from stackd.rehearse.measure import Attempt, Stage
from stackd.rehearse.outcome import Outcome
from stackd.rehearse.plan import Plan, StackKind
from stackd.rehearse.player import Phase, Rehearsal
from stackd.rehearse.report import page

HOSTILE = '<img src="http://elsewhere.example/x.png" onerror="alert(1)">'


async def test_no_text_of_others_becomes_markup_on_the_page() -> None:
    attempt = Attempt(player=0, kind=HOSTILE, due=0.0, node=HOSTILE, images=(HOSTILE,))
    attempt.stack_id = f"stack-{0:016x}"
    attempt.reached(Stage.ACCEPTED, 0.2)
    attempt.fail(Stage.RUNNING, f"failed ({HOSTILE})")
    rehearsal = Rehearsal(
        plan=Plan(stacks=1, kinds=[StackKind(name=HOSTILE, body={})]),
        connection=Connection(AsyncClient("http://127.0.0.1:1", ""), 1),
        ident="c0ffee00",
        phase=Phase.DONE,
        attempts=[attempt],
        seconds=12.0,
    )
    text = page(Outcome(rehearsal, []))
    assert "<img" not in text
    assert "&lt;img src=" in text
