"""Names on an API server with the CRDs of the Gateway API: what it stores is what stackd wants, also after a kill."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import json

from stackd.errors import StackdError
from stackd.kube.wire import HTTP_ROUTES, MERGE_PATCH
from tests.cluster.real import ROUTES, Process, Real
from tests.harness import eventually
from tests.routes import asking

SETTINGS = {
    "STACKD_ROUTES__DOMAIN": "stacks.example.org",
    "STACKD_ROUTES__GATEWAY": "gateways/nobodys",  # no controller answers for it
    "STACKD_ROUTES__HTTPS_LISTENER": "https",
    "STACKD_ROUTES__TLS_LISTENER": "tls",
    "STACKD_ROUTES__ACCEPT_TIMEOUT": "0s",
}


@pytest.fixture
async def named(process: Process) -> Process:
    """A daemon that gives names; skips where the API server has no such kinds."""
    process.environment |= SETTINGS
    try:
        await hostnames(process.real)
    except StackdError as error:
        pytest.skip(str(error))
    await process.start()
    return process


async def hostnames(real: Real) -> dict[str, list[str]]:
    """The hostnames of all that gives this daemon's stacks names, by the names of the objects."""
    routes = [raw for kind in ROUTES for raw in (await real.objects(kind)).values()]
    behind = [raw for name, raw in (await real.objects("services")).items() if name.startswith("rt-")]
    return {raw["metadata"]["name"]: raw["spec"].get("hostnames", []) for raw in [*routes, *behind]}


def wanted(stacks: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Those that the objects should have."""
    names: dict[str, list[str]] = {}
    for stack in stacks:
        for port in stack["ports"]:
            if "node_port" not in port:
                host = port.get("url", "").removeprefix("https://") or port["host"].removesuffix(":443")
                names[f"{stack['stack_id']}-{port['container_port']}"] = [host]
        if len({"node_port" in port for port in stack["ports"]}) > 1:
            names[f"rt-{stack['stack_id']}"] = []
    return names


async def test_what_others_change_is_repaired(named: Process) -> None:
    async def sent() -> dict[str, str]:
        return {what: n for what, n in (await real.requests()).items() if "routes" in what or "services" in what}

    real = named.real
    stacks = [await real.create(asking(*routes)) for routes in (("https",), ("tls", "https"), ("https", None))]
    assert await hostnames(real) == wanted(stacks)
    before = await sent()
    await real.passes(2)
    assert await sent() == before, "what the API server stores is what stackd compares it with"
    deleted, edited = f"{stacks[0]['stack_id']}-80", f"{stacks[1]['stack_id']}-81"
    await real.outside.delete(HTTP_ROUTES, deleted)
    other = json.encode({"spec": {"hostnames": ["other.example.org"]}})
    await real.outside.answer(real.outside.on("patch", HTTP_ROUTES, edited, body=other, content_type=MERGE_PATCH))

    async def repaired() -> bool:
        return await hostnames(real) == wanted(await real.stacks())

    await eventually(repaired, lambda: "a route for each stack, and no other", pause=0.1)
    for stack in stacks:
        await real.delete(stack["stack_id"])
    assert await hostnames(real) == {}
