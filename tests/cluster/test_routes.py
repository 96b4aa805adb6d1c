"""Names on an API server with the CRDs of the Gateway API: what it stores is what stackd wants, also after a kill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from stackd.errors import StackdError
from stackd.kube.wire import HTTP_ROUTES, MERGE_PATCH, TLS_ROUTES, JsonObject
from tests.cluster.real import Process, Real
from tests.harness import seed

KINDS = (HTTP_ROUTES, TLS_ROUTES)
SETTINGS = {
    "STACKD_ROUTES__DOMAIN": "stacks.example.org",
    "STACKD_ROUTES__GATEWAY": "gateways/nobodys",  # no controller answers for it, only the test
    "STACKD_ROUTES__HTTPS_LISTENER": "https",
    "STACKD_ROUTES__TLS_LISTENER": "tls",
    "STACKD_ROUTES__ACCEPT_TIMEOUT": "0s",
}


def asking(*routes: str) -> dict[str, Any]:
    """A create with these routes; "" is a node port."""
    ports = [{"container_port": 80 + i, "protocol": "TCP"} for i in range(len(routes))]
    declared = "".join(f"\n        - containerPort: {80 + i}" for i in range(len(routes)))
    spec = seed()["pod_spec"].replace("\n        - containerPort: 80\n          protocol: TCP", declared)
    named = [port | ({"route": route} if route else {}) for port, route in zip(ports, routes, strict=True)]
    return {"pod_spec": spec, "target_port": named}


@pytest.fixture
async def named(process: Process) -> AsyncIterator[Process]:
    """A daemon that gives names; skips where the API server has no such kinds."""
    process.configure(**SETTINGS)
    outside = process.real.outside
    try:
        for kind in KINDS:
            await outside.list_raw(kind)
    except StackdError as error:
        pytest.skip(str(error))
    await process.start()
    yield process
    process.kill()
    for kind in KINDS:
        for raw in await outside.list_raw(kind):
            await outside.delete_route(kind, raw["metadata"]["name"])


async def routes(real: Real) -> dict[str, JsonObject]:
    """All that gives this daemon's stacks names."""
    found = [raw for kind in KINDS for raw in await real.outside.list_raw(kind)]
    services = await real.outside.list_raw("services")
    return {raw["metadata"]["name"]: raw for raw in [*found, *(s for s in services if is_behind(s))]}


async def asked(real: Real) -> dict[str, str]:
    """The requests for routes and Services so far."""
    return {what: count for what, count in (await real.requests()).items() if "routes" in what or "services" in what}


def is_behind(service: JsonObject) -> bool:
    """Whether only routes lead to this Service."""
    return str(service["metadata"]["name"]).startswith("rt-")


def wanted(stacks: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The hostnames that the objects should have, by their names."""
    found: dict[str, list[str]] = {}
    for stack in stacks:
        for port in stack["ports"]:
            if "node_port" not in port:
                host = port.get("url", "").removeprefix("https://") or port["host"].removesuffix(":443")
                found[f"{stack['stack_id']}-{port['container_port']}"] = [host]
        if len({"node_port" in port for port in stack["ports"]}) > 1:
            found[f"rt-{stack['stack_id']}"] = []
    return found


async def test_what_is_stored_is_what_is_wanted_and_what_others_change_is_repaired(named: Process) -> None:
    real = named.real
    stacks = [
        (await real.call("POST", "/stacks", asking(*one)))[1] for one in (["https"], ["tls", "https"], ["https", ""])
    ]
    names = wanted(stacks)
    assert {name: raw["spec"].get("hostnames", []) for name, raw in (await routes(real)).items()} == names
    passes = await real.metric("stackd_reconcile_passes_total")

    async def passed() -> bool:
        return await real.metric("stackd_reconcile_passes_total") >= passes + 2

    before = await asked(real)
    await real.until(passed, "two passes")
    assert await asked(real) == before  # what the API server stores is what stackd compares it with
    victim, edited = f"{stacks[0]['stack_id']}-80", f"{stacks[1]['stack_id']}-81"
    await real.outside.delete_route(HTTP_ROUTES, victim)
    other = orjson.dumps({"spec": {"hostnames": ["other.example.org"]}})
    await real.outside.answer(real.outside.on("patch", HTTP_ROUTES, edited, body=other, content_type=MERGE_PATCH))

    async def repaired() -> bool:
        return {name: raw["spec"].get("hostnames", []) for name, raw in (await routes(real)).items()} == names

    await real.until(repaired, "the repair")
    for stack in stacks:
        assert (await real.call("DELETE", f"/stacks/{stack['stack_id']}"))[0] == 200
    assert await routes(real) == {}


async def test_the_words_of_the_gateway_are_shown(named: Process) -> None:
    real = named.real
    _, stack = await real.call("POST", "/stacks", asking("https"))
    (route,) = (await routes(real)).values()

    async def says(**condition: object) -> None:
        conditions = [
            {"type": kind, "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"} | condition
            for kind in ("Accepted", "ResolvedRefs")
        ]
        parent = {
            "parentRef": route["spec"]["parentRefs"][0],
            "controllerName": "example.org/x",
            "conditions": conditions,
        }
        body = orjson.dumps({"status": {"parents": [parent]}})
        where = real.outside.on(
            "patch", f"{HTTP_ROUTES}/status", route["metadata"]["name"], body=body, content_type=MERGE_PATCH
        )
        assert (await real.outside.connection._send(where)).status == 200

    async def reason(wanted: str) -> None:
        async def shown() -> bool:
            return bool((await real.call("GET", f"/stacks/{stack['stack_id']}"))[1]["status_reason"] == wanted)

        await real.until(shown, f"the reason {wanted!r}")

    await says(status="False", reason="NotAllowedByListeners", message="no routes from here")
    await reason("NotAllowedByListeners")
    await says(status="True", reason="Accepted", message="")
    await reason("")


async def test_no_route_is_lost_or_left_when_the_daemon_is_killed(named: Process) -> None:
    real = named.real
    for _ in range(3):
        asked = [asyncio.ensure_future(real.call("POST", "/stacks", asking("https"))) for _ in range(10)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        named.kill()
        await asyncio.gather(*asked, return_exceptions=True)
        await named.start()

        async def as_wanted() -> bool:
            found = {name: raw["spec"].get("hostnames", []) for name, raw in (await routes(real)).items()}
            return found == wanted(await real.stacks())

        await real.until(as_wanted, "a route for each stack, and no other")
    for stack in await real.stacks():
        await real.call("DELETE", f"/stacks/{stack['stack_id']}")
    assert await routes(real) == {}
