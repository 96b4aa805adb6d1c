"""The reference of the API is what the route table and the contract say, and what a stackd answers."""

from __future__ import annotations

from stackd.lifecycle.decide import ACTIONS
from tests.docs.reference import (
    OPERATIONS,
    PAGE,
    SCHEMAS,
    UNKNOWN,
    ask,
    fits,
    rendered,
    sample_of,
    samples_of,
    value_of,
    values_in,
)


def test_the_reference_is_made_from_the_routes_and_the_contract() -> None:
    page = PAGE.read_text()
    assert rendered(page, samples_of(page)) == page, "run `make reference` after a change of a route or a field"
    assert f'| `"{UNKNOWN}"` |' not in page, "give the field an example in stackd/web/examples.py"


async def test_each_request_of_the_reference_gets_an_answer_with_the_fields_that_it_shows() -> None:
    shown, answers = samples_of(PAGE.read_text()), await ask()
    assert shown.keys() == answers.keys() == {one.name for one in OPERATIONS}
    for one in OPERATIONS:
        for answer in (shown[one.name], answers[one.name]):
            assert not one.problem(answer)
        assert shown[one.name].partition("\n")[0] == answers[one.name].partition("\n")[0], "the status"


def test_each_value_that_the_reference_shows_is_one_that_the_field_may_have() -> None:
    values = values_in(samples_of(PAGE.read_text()))
    shown = {
        f"{name}.{field}": (kind, value_of(name, field, kind, values))
        for name, schema in SCHEMAS.items()
        for field, kind in schema.get("properties", {}).items()
    }
    for one in OPERATIONS:
        shown |= {f"{one.name} {each['name']}": (each["schema"], sample_of(each)) for each in one.parameters}
    assert {where: value for where, (kind, value) in shown.items() if not fits(kind, value)} == {}
    assert shown["PlannedAction.action"][1] in ACTIONS


def test_an_answer_that_lacks_a_field_or_has_another_does_not_fit() -> None:
    status = next(one for one in OPERATIONS if one.path == "/stacks/{stack_id}/status")
    sample = samples_of(PAGE.read_text())[status.name]
    assert not status.problem(sample)
    assert status.problem(sample.replace('"ttl":', '"more": 1, "ttl":'))
    assert status.problem(sample.replace('  "status": "running",\n', ""))
