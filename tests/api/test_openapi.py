"""The OpenAPI document says what the code does, and nothing else."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from stackd.config import Config
from stackd.web import responses
from stackd.web.openapi import document, examples
from stackd.web.openapi.operations import OPERATIONS
from stackd.web.routes import ROUTES
from stackd.web.schema import Schema
from tests.api.test_templates import WEB, folder_with
from tests.harness import KEY, Harness, harness, request_for

FUZZING = Path(__file__).parent / "fuzzing"
DESCRIBED: dict[str, Any] = document(ROUTES, Config())
METHODS = ("get", "post", "delete")


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DESCRIBED["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def validator(schema: Schema) -> Any:
    return jsonschema_rs.validator_for(schema | {"components": DESCRIBED["components"]}, validate_formats=False)


def schema_of(name: str) -> Schema:
    schema: Schema = DESCRIBED["components"]["schemas"][name]
    return schema


def matches(name: str, value: object) -> None:
    """The value has exactly the schema's fields, in its order."""
    validator({"$ref": f"#/components/schemas/{name}"}).validate(value)
    schema = schema_of(name)
    if isinstance(value, dict) and "properties" in schema:
        known = list(schema["properties"])
        assert list(value) == [field for field in known if field in value]


def test_each_route_is_described_and_each_description_has_a_route() -> None:
    routes = sorted((route.method, route.path) for route in ROUTES)
    assert sorted((method, path) for method, path, _ in operations()) == routes
    assert sorted(OPERATIONS) == routes


def test_every_status_that_an_error_can_have_is_described() -> None:
    statuses = {*responses.STATUSES.values(), *responses.SENTENCES, 431}
    assert statuses == {int(status) for status in DESCRIBED["components"]["responses"]}
    used = {int(status) for _, _, operation in operations() for status in operation["responses"]}
    assert statuses <= used
    assert "405 with `Allow`" in DESCRIBED["info"]["description"], "which no operation of a path can answer"


def test_only_routes_without_a_key_say_that_they_need_none() -> None:
    public = {(route.method, route.path) for route in ROUTES if route.public}
    assert {(method, path) for method, path, operation in operations() if operation.get("security") == []} == public


def test_whoever_needs_a_key_may_be_told_401_and_429() -> None:
    for method, path, operation in operations():
        if operation.get("security") != []:
            assert {"401", "429"} <= set(operation["responses"]), (method, path)


def test_whoever_asks_for_more_than_a_key_of_scope_metrics_may_have_can_be_told_403() -> None:
    for method, path, operation in operations():
        if operation.get("security") != []:
            open_to_all = (method, path) in {("GET", "/healthz"), ("GET", "/metrics")}
            assert ("403" in operation["responses"]) is not open_to_all, (method, path)


def test_ids_of_operations_are_unique_and_every_operation_has_a_known_tag() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(ids)) == len(ids)
    assert {tag for _, _, operation in operations() for tag in operation["tags"]} == {
        tag["name"] for tag in DESCRIBED["tags"]
    }


def test_every_example_is_valid() -> None:
    found = 0
    for _, _, operation in operations():
        contents = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in (media for each in contents for media in each.get("content", {}).values()):
            for example in content.get("examples", {}).values():
                validator(content["schema"]).validate(example["value"])
                found += 1
    assert found >= 15


def test_every_schema_is_used_and_every_reference_leads_somewhere() -> None:
    text = str(DESCRIBED)
    names = set(DESCRIBED["components"]["schemas"])
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) == names
    assert {ref.rpartition("/")[2] for ref in re.findall(r"#/components/responses/\w+", text)} <= set(
        DESCRIBED["components"]["responses"]
    )


async def test_the_document_needs_no_key_and_has_the_settings_in_force(tmp_path: Path) -> None:
    settings = {
        "STACKD_BATCH_DELETE__MAX_IDS": "7",
        "STACKD_STACKS__MAX_TTL": "3h",
        "STACKD_LIMITS__POD_SPEC": "5KiB",
    }
    async with harness(tmp_path, settings) as at:
        reply = await at.call("GET", "/openapi.json", key=None)
    assert reply.status == 200
    assert reply.json["openapi"] == "3.1.0"
    schemas = reply.json["components"]["schemas"]
    assert schemas["BatchDelete"]["properties"]["stack_ids"]["maxItems"] == 7
    assert "at most 3h" in schemas["Create"]["properties"]["ttl"]["description"]
    assert "5120 bytes (`limits.pod_spec`)" in schemas["Create"]["properties"]["pod_spec"]["description"]


async def test_the_contracts_example_is_answered_as_the_document_shows(at: Harness) -> None:
    stack = await at.create(examples.CREATE)
    shown = examples.CREATED_STACK
    assert list(stack) == list(shown)
    for field in ("namespace", "pod_spec", "status", "requested_cpu_milli", "requested_memory_bytes"):
        assert stack[field] == shown[field]


async def test_answers_have_the_described_fields_in_the_described_order(at: Harness) -> None:
    stack_id = (await at.create())["stack_id"]
    job = (await at.call("POST", "/stacks/batch-delete", {"stack_ids": ["stack-none"]})).json
    await at.finished_job(job["job_id"])
    await at.until_status(stack_id, "running")
    for name, path in {
        "StackDetail": f"/stacks/{stack_id}",
        "StackStatusAnswer": f"/stacks/{stack_id}/status",
        "StackList": "/stacks",
        "Job": f"/stacks/batch-delete/{job['job_id']}",
        "Timeline": f"/stacks/{stack_id}/timeline",
        "Stats": "/stats",
        "Healthy": "/healthz",
        "Ready": "/readyz",
        "Plan": "/reconcile",
        "Capacity": "/capacity?cpu=100m&memory=128Mi",
    }.items():
        reply = await at.call("GET", path)
        assert reply.status == 200, reply.text
        matches(name, reply.json)
    (listed,) = (await at.call("GET", "/stacks")).json["stacks"]
    matches("StackEntry", listed)


async def test_answers_about_templates_are_as_described(tmp_path: Path) -> None:
    async with harness(tmp_path, folder_with(tmp_path, web_1=WEB)) as at:
        matches("Create", examples.CREATE_FROM_TEMPLATE)
        made = await at.create(examples.CREATE_FROM_TEMPLATE)
        matches("StackCreated", made)
        matches("StackCreated", await at.create())
        matches("StackDetail", await at.stack(made["stack_id"]))
        await at.run_now("history")
        matches("Templates", (await at.call("GET", "/templates?history=1")).json)
        templates = (await at.call("GET", "/templates")).json
        matches("Templates", templates)
        matches("Templates", examples.TEMPLATES)
        assert list(templates["templates"][0]) == list(examples.TEMPLATES["templates"][0])
        with pytest.raises(jsonschema_rs.ValidationError):
            matches("Create", {**examples.CREATE, "template": "web-1"})


async def test_one_that_is_not_ready_says_so_as_described(tmp_path: Path) -> None:
    async with harness(tmp_path, wait=False) as at:
        await at.cluster.faults.refuse()
        with at.stopping():
            reply = await at.call("GET", "/readyz")
        await at.cluster.faults.listen()
    assert reply.status == 503
    matches("NotReady", reply.json)


@pytest.mark.timeout(180)
async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    settings = {"STACKD_STACKS__NODE_PORT_MIN": "30000", **folder_with(tmp_path, web_1=WEB)}
    async with harness(tmp_path, settings) as at:
        for image in ("nginx:stable", "registry.example/exit0"):
            await at.create(request_for(image))
        # As in a stop, streams and waiting reads end at once: otherwise they would be all that the time is spent with.
        at.end_waits()
        code, output = await schemathesis(at, tmp_path)
        assert code == 0, output
        assert "Tested: " in output
        assert (await at.call("GET", "/healthz")).status == 200


async def schemathesis(at: Harness, folder: Path) -> tuple[int | None, str]:
    """Run all checks (its default) with few examples, the same each time; what it finds is in the output."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        f"--config-file={FUZZING / 'schemathesis.toml'}",
        "run",
        f"{at.url}/openapi.json",
        "--mode=all",
        "--max-examples=5",
        "--no-color",
        "--seed=1",
        "--generation-deterministic",
        f"--header=X-API-KEY: {KEY}",
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": os.pathsep.join((str(FUZZING), *sys.path))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()
