"""The reference of the API shows each route with what a stackd answers."""

from __future__ import annotations

from tests.docs.reference import OPERATIONS, PAGE, ask, samples_of


async def test_each_request_of_the_reference_gets_an_answer_with_the_fields_that_it_shows() -> None:
    """After a change of a route or a field: make reference"""
    shown, answers = samples_of(PAGE.read_text()), await ask()
    assert shown.keys() == answers.keys() == {one.name for one in OPERATIONS}
    for one in OPERATIONS:
        for answer in (shown[one.name], answers[one.name]):
            assert not one.problem(answer)
        assert shown[one.name].partition("\n")[0] == answers[one.name].partition("\n")[0], "the status"
