"""Nothing that a request asks for is ignored: parameters, bodies, null, and dry runs."""

from __future__ import annotations

from stackd.contract import Body, fields_of
from stackd.play import ROUTES
from stackd.web.api import Route
from stackd.web.examples import BODIES
from stackd.web.openapi import PATH_PARTS
from stackd.web.parameters import DRY_RUN
from tests.document import matches
from tests.harness import Harness

DESCRIBED = [route for route in ROUTES if route.tag]
WITH_BODY = [route for route in DESCRIBED if route.body is not None]


def path_of(route: Route) -> str:
    """The route's path with the examples of its parts, which do not exist; the query that it cannot be without."""
    query = "&".join(f"{each.name}={each.example[0]}" for each in route.query if each.required)
    path = route.path.format(**{name: str(example) for name, (_, example) in PATH_PARTS.items()})
    return f"{path}?{query}" if query else path


async def test_every_route_names_a_parameter_that_it_does_not_have_and_the_nearest(at: Harness) -> None:
    for route in DESCRIBED:
        path = path_of(route).partition("?")[0]
        reply = await at.call(route.method, f"{path}?colour=red", None)
        assert (reply.status, reply.code, "'colour'" in reply.error) == (400, "unknown_parameter", True), route
    await at.refused(400, 'did you mean "label"', "/stacks?lable=team=7", method="GET")
    assert (await at.call("GET", "/docs?utm_source=mail", key=None)).status == 200, "pages ignore the query"


async def test_a_route_without_a_body_takes_none_or_an_empty_object(at: Harness) -> None:
    stack_id = await at.running()
    routes = [route for route in DESCRIBED if not (route.body or route.media or route.streams)]
    for route in routes:
        for body, code in (({"force": True}, "unknown_field"), (b"{", "invalid_request"), ([], "invalid_request")):
            reply = await at.call(route.method, path_of(route), body)
            assert (reply.status, reply.code) == (400, code), (route, body)
    await at.refused(400, "force: unknown field", f"/stacks/{stack_id}/stop", {"force": True})
    assert (await at.stack(stack_id))["status"] == "running"
    for verb in ("stop", "start"):
        assert (await at.call("POST", f"/stacks/{stack_id}/{verb}", {})).status == 200


async def test_every_body_names_a_field_that_it_does_not_have_and_the_nearest(at: Harness) -> None:
    for route in WITH_BODY:
        reply = await at.call(route.method, path_of(route), {"colour": 1})
        assert (reply.status, reply.code, "colour: " in reply.error) == (400, "unknown_field", True), route
    await at.refused(400, 'did you mean "target_port"', "/stacks", {"target_ports": []})


async def test_a_null_stands_for_an_absent_field(at: Harness) -> None:
    for route in WITH_BODY:
        body = next(iter(BODIES[route.body.__name__ if route.body else ""].values()))
        path = path_of(route) + "?dry_run=true" * (DRY_RUN in route.query)
        plain = await at.call(route.method, path, body)
        for field in fields_of(route.body or Body):
            if field.optional and field.name not in body:
                reply = await at.call(route.method, path, body | {field.name: None})
                assert (reply.status, list(reply.json)) == (plain.status, list(plain.json)), (route.path, field.name)


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


async def test_fields_choose_the_fields_of_one_stack_as_in_a_list(at: Harness) -> None:
    stack_id = await at.running()
    for fields in ("stack_id,status", "pod_spec"):
        (listed,) = (await at.get(f"/stacks?fields={fields}"))["stacks"]
        assert await at.get(f"/stacks/{stack_id}?fields={fields}") == listed
    await at.refused(400, "fields must be of stack_id", f"/stacks/{stack_id}?fields=colour", method="GET")
