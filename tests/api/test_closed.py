"""Nothing that a request asks for is ignored: parameters, bodies, null, and dry runs."""

from __future__ import annotations

import pytest

from stackd.web.app import ROUTES
from tests.api.test_openapi import matches
from tests.harness import Harness, seed

DESCRIBED = [route for route in ROUTES if route.tag]


async def test_every_route_names_a_parameter_that_it_does_not_have_and_the_nearest(at: Harness) -> None:
    for route in DESCRIBED:
        path = route.path.format(stack_id="stack-1", job_id="job-1")
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
    routes = [route for route in DESCRIBED if route.body is None and not route.streams]
    for route in routes:
        path = route.path.format(stack_id="stack-1", job_id="job-1")
        for body, code in (({"force": True}, "unknown_field"), (b"{", "invalid_request"), ([], "invalid_request")):
            reply = await at.call(
                route.method, path + "?label=x" * (route.method == "DELETE" and path == "/stacks"), body
            )
            assert (reply.status, reply.code) == (400, code), (route, body)
    refused = await at.call("POST", f"/stacks/{stack_id}/stop", {"force": True})
    assert refused.error == "invalid request body: unknown field 'force'; there are none here"
    assert (await at.stack(stack_id))["status"] == "running"
    for verb in ("stop", "start"):
        assert (await at.call("POST", f"/stacks/{stack_id}/{verb}", {})).status == 200


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
    await at.refused(400, "pod_spec is required", "/stacks", {"pod_spec": None})
    await at.refused(400, "stack_ids is required", "/stacks/batch-delete", {"stack_ids": None})


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
    await at.refused(400, "action must be one of", batch, {"action": "remove", "stack_ids": [other]})
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
