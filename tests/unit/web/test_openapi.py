"""The OpenAPI document itself: it has every route, its references resolve, and its examples are valid."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from stackd.codes import ErrorCode
from stackd.config import Config
from stackd.contract import Create
from stackd.errors import InvalidRequest
from stackd.play import ROUTES
from stackd.web import examples
from stackd.web.openapi import document
from stackd.web.parameters import Parameter, Parameters
from stackd.web.requests import MOST_PARTS, parse
from tests.document import DESCRIBED, validator


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DESCRIBED["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_each_route_is_described_except_pages() -> None:
    described = {(method, path) for method, path, _ in operations()}
    of_page = "/play/links/"  # a player's page, as an organiser reads it
    pages = "/(|docs/?|docs/{page}|dashboard/?|favicon.ico|static/{folder}/{file}|openapi.json|auth/[a-z]+|play/?|play/session)"
    undescribed = [route for route in ROUTES if (route.method, route.path) not in described]
    assert len(described) + len(undescribed) == len(ROUTES)
    undescribed = [route for route in undescribed if not (route.players or route.path.startswith(of_page))]
    assert [route.path for route in undescribed if not (route.public and re.fullmatch(pages, route.path))] == []


def test_every_status_that_an_error_can_have_is_described() -> None:
    statuses = {code.status for code in ErrorCode} - {405}  # which no operation of a path can answer
    assert statuses == {int(status) for status in DESCRIBED["components"]["responses"]}
    assert statuses <= {int(status) for _, _, operation in operations() for status in operation["responses"]}


def test_only_public_metrics_need_no_key_and_what_a_scope_does_not_cover_can_be_a_403() -> None:
    for method, path, operation in operations():
        assert {"401", "429"} <= set(operation["responses"]), (method, path)
        open_to_all = method == "GET" and path in {"/healthz", "/readyz", "/owner"}
        assert ("403" in operation["responses"]) is not open_to_all, (method, path)
        assert "security" not in operation
    opened = document(ROUTES, Config.model_validate({"metrics": {"public": True}}))
    assert opened["paths"]["/metrics"]["get"]["security"] == []


def test_every_example_is_valid() -> None:
    for method, path, operation in operations():
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert content["examples"], (method, path)
            for example in content["examples"].values():
                validator(content["schema"]).validate(example["value"])
    create = validator({"$ref": "#/components/schemas/Create"})
    create.validate(examples.CREATE_FROM_TEMPLATE)
    with pytest.raises(jsonschema_rs.ValidationError):
        create.validate({**examples.CREATE, "template": "web-1"})


# ---- request bodies and queries: unknown and repeated names are reported, and no name makes the check slow


LONG = "k" * 5000
LABEL = Parameter("label", "", str, many=True)


def refusal(body: bytes | str) -> str:
    """Why the body is refused; empty if it is not."""
    try:
        parse(body.encode() if isinstance(body, str) else body, Create)
    except InvalidRequest as refused:
        return str(refused)
    return ""


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"ttl": "1h", "t\\u0074l": "2h"}', "'ttl'"), ('{"labels": {"team": "1", "x": "2", "team": "3"}}', "'team'"),
        ('{"target_port": [{"container_port": 80, "container_port": 81}]}', "'container_port'"),
        ('{"labels": {"": "1", "": "2"}}', "''"), (f'{{"labels": {{"{LONG}": "1", "{LONG}": "2"}}}}', f"'{LONG[:64]}…'"),
    ],
)  # fmt: skip
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
    assert "more than once" not in refusal(body)


@pytest.mark.parametrize(
    ("body", "mistakes"),
    [
        (b'{"labels": {"a": 1, "b\\n": "x"}, "ttl": "30M", "colour": 1}', "colour: ; ttl: ; labels.a: ; labels[\"b?\"]: "),
        (b'{"target_port": [{"container_port": 80.0}, {"container_port": true, "protocol": "tcp"}]}',
         "target_port[0].container_port: ; target_port[0].protocol: ; target_port[1].container_port: "),
        (b'{"target_port": [{"container_port": %s, "protocol": "udp"}]}' % (b"9" * 99), "target_port[0].container_port: "),
        (b'{"ttl": "30m\\n", "template": "", "if_exists": "retrun"}', "template: ; ttl: ; if_exists: "),
        (b'{"ttl": NaN}', "not JSON"), (b'{"ttl": 1e999}', "not JSON"), (b'{"ttl": "\xff"}', "not JSON"),
        (b'{"ttl": "\\ud800"}', "not JSON"), (b'{"ttl": %s}' % (b"9" * 5000), "not JSON"), (b"{} {}", "not JSON"),
        (b'{"template": "web-1", "labels": null, "target_port": null}', ""),
        (b'{"pod_spec": "x", "target_port": [{"container_port": 1, "protocol": "uDp", "route": null}]}', ""),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_its_path(body: bytes, mistakes: str) -> None:
    said = refusal(body)
    assert [text for text in mistakes.split("; ") if text not in said] == []
    assert bool(said) == bool(mistakes)


def test_objects_in_objects_without_end_are_refused_in_words() -> None:
    for depth in (900, 1023, 1024, 1999):
        said = refusal('{"labels":' * depth + "1" + "}" * depth)
        assert "nested" in said or "labels.labels: must be a string" in said


@pytest.mark.parametrize("part", ["[]", "{}", '{"a": 0}'])
def test_a_body_of_many_parts_is_refused_before_it_is_parsed(part: str) -> None:
    """A megabyte of empty lists held the loop for 0.3 s."""
    for count, refused in ((MOST_PARTS // 3, False), (MOST_PARTS, True)):
        body = b'{"target_port": [%s]}' % b",".join([part.encode()] * count)
        many = f"invalid request body: it has more than {MOST_PARTS} objects, lists and names"
        assert (refusal(body) == many) is refused


def test_a_name_that_is_not_known_is_shown_short_and_compared_only_if_it_is_short() -> None:
    assert 'pod_spce: unknown field (did you mean "pod_spec"?)' in refusal('{"pod_spce": ""}')
    began = time.process_time()
    for name in ("pod_spec" * 1000, *["pod_spe\u2603" * 60_000] * 5):
        long = refusal(json.dumps({name: ""}, ensure_ascii=False))
        assert (len(long) < 210, "known are target_port, pod_spec" in long) == (True, True)
    assert time.process_time() - began < 1.0, "the comparison alone would take minutes"
    with pytest.raises(InvalidRequest, match="known are label") as caught:
        Parameters([("lable" * 1000, "1")], [LABEL])
    assert len(str(caught.value)) < 200


def test_a_value_that_is_repeated_counts_once() -> None:
    """2,000 times the same label held the loop for half a second."""
    query = [("label", "team=7")] * 1000 + [("label", "a")]
    assert Parameters(query, [LABEL]).all(LABEL) == ["team=7", "a"]
