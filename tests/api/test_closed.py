"""Nothing that a request asks for is ignored: parameters, bodies, null, and dry runs."""

from __future__ import annotations

import pytest

from stackd import contract
from stackd.contract import Body, fields_of
from stackd.play import ROUTES
from stackd.web.api import Route
from stackd.web.examples import BODIES
from stackd.web.openapi import PATH_PARTS
from stackd.web.parameters import DRY_RUN, FIELDS, FILTERS
from tests.document import matches
from tests.harness import Harness, seed

DESCRIBED = [route for route in ROUTES if route.tag]
WITH_BODY = [route for route in DESCRIBED if route.body is not None]


def path_of(route: Route) -> str:
    """The route's path with the examples of its parts, which do not exist; the query that it cannot be without."""
    query = "&".join(f"{each.name}={each.example[0]}" for each in route.query if each.required)
    return route.path.format(**{name: str(example) for name, (_, example) in PATH_PARTS.items()}) + f"?{query}" * bool(
        query
    )


async def test_every_route_names_a_parameter_that_it_does_not_have_and_the_nearest(at: Harness) -> None:
    for route in DESCRIBED:
        path = path_of(route).partition("?")[0]
        reply = await at.call(route.method, f"{path}?colour=red", None)
        assert (reply.status, reply.code) == (400, "unknown_parameter"), route
        assert "'colour'" in reply.error
        named = [each.name for each in route.query if each.where == "query"]
        for name in named:
            near = await at.call(route.method, f"{path}?{name}s=1", None)
            assert f'(did you mean "{name}"?)' in near.error or f"{name}s" in named, (route.path, near.error)
    assert (await at.call("GET", "/docs?utm_source=mail", key=None)).status == 200, "pages ignore the query"


async def test_a_route_without_a_body_takes_none_or_an_empty_object(at: Harness) -> None:
    stack_id = await at.running()
    routes = [route for route in DESCRIBED if not (route.body or route.media or route.streams)]
    for route in routes:
        for body, code in (({"force": True}, "unknown_field"), (b"{", "invalid_request"), ([], "invalid_request")):
            reply = await at.call(route.method, path_of(route), body)
            assert (reply.status, reply.code) == (400, code), (route, body)
    refused = await at.call("POST", f"/stacks/{stack_id}/stop", {"force": True})
    assert refused.error == "invalid request body: force: unknown field; there are none here"
    assert (await at.stack(stack_id))["status"] == "running"
    for verb in ("stop", "start"):
        assert (await at.call("POST", f"/stacks/{stack_id}/{verb}", {})).status == 200


async def test_every_body_names_a_field_that_it_does_not_have_and_the_nearest(at: Harness) -> None:
    assert len(WITH_BODY) >= 5
    for route in WITH_BODY:
        names = [each.name for each in fields_of(route.body or Body)]
        for name in ("colour", *(f"{known}_" for known in names)):
            reply = await at.call(route.method, path_of(route), {name: 1})
            assert (reply.status, reply.code) == (400, "unknown_field"), (route, reply.text)
            nearest = f'(did you mean "{name[:-1]}"?)' if name != "colour" else "known are "
            assert f"{name}: " in reply.error
            assert nearest in reply.error


async def test_a_null_changes_no_answer(at: Harness) -> None:
    for route in WITH_BODY:
        body = next(iter(BODIES[route.body.__name__ if route.body else ""].values()))
        path = path_of(route) + "?dry_run=true" * (DRY_RUN in route.query)
        plain = await at.call(route.method, path, body)
        for field in fields_of(route.body or Body):
            if field.optional and field.name not in body:
                reply = await at.call(route.method, path, body | {field.name: None})
                assert (reply.status, list(reply.json)) == (plain.status, list(plain.json)), (route.path, field.name)


def test_what_reads_or_counts_stacks_has_the_choices_of_the_list() -> None:
    for route in DESCRIBED:
        shapes = [answer.body for answer in route.answers]
        if any(one in shapes for one in (contract.StackList, ("StackDetail", "StackEntry"))):
            assert FIELDS in route.query, route
        names = {each.name for each in route.query}
        if "label" in names and route.path != "/activity":
            assert {each.name for each in FILTERS} <= names, route
    counting = {route.path for route in DESCRIBED if {"label", "status"} <= {each.name for each in route.query}}
    assert counting >= {"/stacks", "/stats", "/templates", "/events"}
    dry = {(route.method, route.path) for route in DESCRIBED if DRY_RUN in route.query}
    many = {("POST", "/stacks/batch"), ("POST", "/stacks/batch-delete"), ("DELETE", "/stacks")}
    assert dry >= {("POST", "/stacks"), *many}


async def test_null_stands_for_absent_in_every_optional_field(at: Harness) -> None:
    nothing = dict.fromkeys(("template", "ttl", "labels", "if_exists"))
    port = {"container_port": 80, "protocol": "TCP", "route": None}
    made = await at.post("/stacks", seed() | nothing | {"target_port": [port]}, 201)
    assert (made["labels"], len(made["ports"])) == ({}, 1)
    assert len((await at.create(target_port=None))["ports"]) == 1
    job = await at.post(
        "/stacks/batch", {"action": "stop", "ttl": None, "labels": None, "stack_ids": [made["stack_id"]]}, 202
    )
    assert job["total"] == 1
    await at.refused(400, "pod_spec: is required", "/stacks", {"pod_spec": None})
    await at.refused(400, "stack_ids: is required", "/stacks/batch-delete", {"stack_ids": None})


async def test_a_dry_run_of_many_says_which_and_changes_nothing(at: Harness) -> None:
    first, second, other = [await at.running(labels={"team": team}) for team in "778"]
    before = await at.answers()
    ids = {"stack_ids": [second, "stack-none", first]}
    both = {"dry_run": True, "action": "delete", "total": 3, "not_found": 1, "stack_ids": [second, first]}
    chosen = both | {"total": 2, "not_found": 0, "stack_ids": [first, second]}
    batch = "/stacks/batch?dry_run=true"
    asked = [
        ("POST", "/stacks/batch-delete?dry_run=true", ids, both),
        ("POST", batch, ids | {"action": "delete"}, both),
        ("POST", batch, {"action": "stop", "labels": {"team": "7"}}, chosen | {"action": "stop"}),
        ("DELETE", "/stacks?label=team=7&dry_run=1", None, chosen),
    ]
    for method, path, body, expected in asked:
        reply = await at.call(method, path, body)
        assert (reply.status, reply.json) == (200, expected), path
        matches("JobDryRun", reply.json)
    extended = await at.post(batch, {"action": "extend", "ttl": "30m", "stack_ids": [other]})
    assert extended == {**both, "action": "extend", "ttl": "30m", "total": 1, "not_found": 0, "stack_ids": [other]}
    await at.refused(400, "action: must be one of", batch, {"action": "remove", "stack_ids": [other]})
    assert await at.answers() == before
    assert (await at.get("/activity?action=delete"))["activity"] == []


@pytest.mark.parametrize("fields", ["stack_id,status", "pod_spec"])
async def test_fields_choose_the_fields_of_one_stack_as_in_a_list(at: Harness, fields: str) -> None:
    stack_id = await at.running()
    (listed,) = (await at.get(f"/stacks?fields={fields}"))["stacks"]
    assert await at.get(f"/stacks/{stack_id}?fields={fields}") == listed
    await at.refused(400, "fields must be of stack_id", f"/stacks/{stack_id}?fields=colour", method="GET")


async def test_filters_choose_the_stacks_that_are_counted(at: Harness) -> None:
    stack_id = await at.running(labels={"team": "7"})
    await at.create()
    counted = await at.get("/stats?label=team=7&status=running")
    keys = ("total_stacks", "active_stacks", "used_node_ports", "reserved_cpu_milli")
    assert [counted[key] for key in keys] == [1, 1, 1, 100]
    assert counted["node_distribution"] == {(await at.stack(stack_id))["node_id"]: 1}
    assert (await at.get("/stats?status=failed"))["total_stacks"] == 0
    assert (await at.get("/stats"))["total_stacks"] == 2
