"""Request bodies and queries: unknown and repeated names are reported, and no name makes the check slow."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from aiohttp.test_utils import make_mocked_request

from stackd.errors import InvalidRequest
from stackd.names import did_you_mean
from stackd.web.requests import MOST_PARTS, Parameters, parse_object

LONG = "k" * 5000
FIELDS = ("target_port", "pod_spec", "ttl", "labels")


def refusal(body: bytes | str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse_object(body.encode() if isinstance(body, str) else body, FIELDS, ())
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"ttl": "1h", "ttl": "2h"}', "'ttl'"),
        ('{"ttl": "1h", "ttl": "1h"}', "'ttl'"),
        ('{"ttl": "1h", "t\\u0074l": "2h"}', "'ttl'"),
        ('{"labels": {"team": "1", "x": "2", "team": "3"}}', "'team'"),
        ('{"target_port": [{"container_port": 80, "container_port": 81}]}', "'container_port'"),
        ('{"labels": {"": "1", "": "2"}}', "''"),
        (json.dumps({"labels": [1]}).replace("[1]", f'{{"{LONG}": "1", "{LONG}": "2"}}'), f"'{LONG[:64]}…'"),
    ],
)
def test_a_field_that_stands_twice_is_named(body: str, field: str) -> None:
    assert refusal(body) == f"invalid request body: the field {field} is given more than once"


@pytest.mark.parametrize(
    "body",
    [
        '{"target_port": [{"protocol": "TCP"}, {"protocol": "TCP"}], "pod_spec": "ttl: 1\\nttl: 2"}',
        '{"labels": {"ttl": "1"}, "ttl": "{\\"a\\":1,\\"a\\":2}"}', '{"labels": {"a": "1", "A": "2"}}',
        '{"ttl": %s}' % ("9" * 300), "{}",
    ],
)  # fmt: skip
def test_what_stands_once_in_each_object_is_no_repetition(body: str) -> None:
    assert parse_object(body.encode(), FIELDS, ()).keys() <= set(FIELDS)


def test_objects_in_objects_without_end_are_refused_in_words() -> None:
    for depth in (900, 1000, 1023, 1024, 1999):
        body = '{"labels":' * depth + "1" + "}" * depth
        try:
            parse_object(body.encode(), FIELDS, ())
        except InvalidRequest as refused:
            assert "nested" in str(refused) or "depth" in str(refused)  # noqa: PT017 - some depths are fine


@pytest.mark.parametrize("part", ["[]", "{}", '{"a": 0}'])
def test_a_body_of_many_parts_is_refused_before_it_is_parsed(part: str) -> None:
    """A megabyte of empty lists held the loop for 0.3 s."""
    for count, refused in ((MOST_PARTS // 3, False), (MOST_PARTS, True)):
        body = b'{"target_port": [%s]}' % b",".join([part.encode()] * count)
        if refused:
            assert refusal(body) == f"invalid request body: it has more than {MOST_PARTS} objects, lists and names"
        else:
            assert parse_object(body, FIELDS, ())


def test_a_name_that_is_not_known_is_shown_short_with_what_would_be_right() -> None:
    assert refusal('{"pod_spce": ""}') == "invalid request body: unknown field 'pod_spce' (did you mean \"pod_spec\"?)"
    long = refusal(json.dumps({"pod_spec" * 1000: ""}))
    assert len(long) < 200
    assert "known are target_port, pod_spec" in long


def fastest(run: Callable[[], object]) -> float:
    """The CPU seconds of the fastest of five runs, which other load disturbs least."""
    taken = []
    for _ in range(5):
        began = time.process_time()
        run()
        taken.append(time.process_time() - began)
    return min(taken)


@pytest.mark.parametrize("letter", ["p", "é", "\u2603", "\U0001d54a"])
def test_a_name_of_a_megabyte_takes_no_longer_than_reading_it(letter: str) -> None:
    name = ("pod_spe" + letter) * 60_000
    body = json.dumps({name: ""}, ensure_ascii=False).encode()
    assert fastest(lambda: refusal(body)) < 0.02
    assert fastest(lambda: did_you_mean(name, FIELDS)) < 0.001


def test_a_value_that_is_repeated_counts_once() -> None:
    """2,000 times the same label held the loop for half a second."""
    query = "&".join(["label=team=7"] * 1000 + ["label=a"])
    assert Parameters(make_mocked_request("GET", f"/stacks?{query}"), (), ("label",)).all("label") == ["team=7", "a"]
