"""Names instead of node ports: stacks whose ports are reached through a Gateway."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stackd.cli.output import addresses
from stackd.client import AsyncClient
from stackd.embedded import EmbeddedCluster
from stackd.rehearse.player import address
from tests.harness import KEY, Harness, eventually, fast_cluster, harness, lose_file, path_of, seed, until

GATEWAY = "gateways/public"
NAME = r"[a-z0-9-]+-[a-z2-7]{16}\.stacks\.localhost"
SETTINGS = {
    "STACKD_ROUTES__DOMAIN": "stacks.localhost",
    "STACKD_ROUTES__GATEWAY": GATEWAY,
    "STACKD_ROUTES__HTTP_LISTENER": "http",
    "STACKD_ROUTES__HTTPS_LISTENER": "https",
    "STACKD_ROUTES__TLS_LISTENER": "tls",
}

AT_ONCE = {"STACKD_RECONCILE__ORPHAN_GRACE": "0s", "STACKD_CLUSTER__LEASE_DURATION": "2s"}


@asynccontextmanager
async def routed(folder: Path, settings: dict[str, str] | None = None, **options: Any) -> AsyncIterator[Harness]:
    """A stackd with names, on a cluster with a Gateway."""
    async with (
        EmbeddedCluster(fast_cluster(**({"gateway": GATEWAY, "gateway_port": 0} | options))) as cluster,
        harness(folder, SETTINGS | (settings or {}), cluster=cluster) as stackd,
    ):
        yield stackd


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    async with routed(tmp_path) as ready:
        yield ready


def asking(*routes: str | None) -> dict[str, Any]:
    """A create whose container has the ports 80, 81, …: each with its route, None for a node port."""
    body = seed()
    ports = [{"container_port": 80 + i, "protocol": "TCP"} for i in range(len(routes))]
    declared = "".join(f"\n        - containerPort: {80 + i}" for i in range(len(routes)))
    body["pod_spec"] = body["pod_spec"].replace("\n        - containerPort: 80\n          protocol: TCP", declared)
    body["target_port"] = [
        port | ({} if route is None else {"route": route}) for port, route in zip(ports, routes, strict=True)
    ]
    return body


async def routes_of(at: Harness) -> dict[str, Any]:
    """All that gives names: the spec of each HTTPRoute, TLSRoute and Service behind them."""
    found = {**await at.objects("httproutes"), **await at.objects("tlsroutes")}
    services = await at.objects("services")
    return found | {name: one for name, one in services.items() if name.startswith("rt-")}


async def page(at: Harness, hostname: str) -> tuple[int, str]:
    """What the Gateway answers for this name."""
    assert at.cluster.gateway is not None
    url = f"http://127.0.0.1:{at.cluster.gateway.port}/"
    async with aiohttp.ClientSession() as session, session.get(url, headers={"Host": hostname}) as answer:
        return answer.status, await answer.text()


@pytest.mark.parametrize(
    ("settings", "routes", "shown"),
    [
        ({}, ("https",), [("url", rf"https://{NAME}")]),
        ({"STACKD_ROUTES__PORT": "8443"}, ("https",), [("url", rf"https://{NAME}:8443")]),
        (
            {"STACKD_ROUTES__HTTP_PORT": "8080"},
            ("http", "tls"),
            [("url", rf"http://{NAME}:8080"), ("host", rf"{NAME}:443")],
        ),
        ({}, ("https", None), [("url", rf"https://{NAME}"), ("node_port", r"\d+")]),
    ],
)
async def test_routed_ports_have_names_and_others_node_ports(
    tmp_path: Path, settings: dict[str, str], routes: tuple[str | None, ...], shown: list[tuple[str, str]]
) -> None:
    async with routed(tmp_path, settings) as at:
        stack = await at.create(asking(*routes))
        for port, (key, form) in zip(stack["ports"], shown, strict=True):
            assert port.keys() == {"container_port", "protocol", key}
            assert re.fullmatch(form, str(port[key])), port
        assert stack["ports"] == (await at.stack(stack["stack_id"]))["ports"]
        assert stack["status_reason"] == ""
        held = sum(route is None for route in routes)
        assert (await at.call("GET", "/stats")).json["used_node_ports"] == held
        service = (await at.objects("services"))[stack["service_name"]]
        assert service["spec"]["type"] == ("NodePort" if held else "ClusterIP")
        assert sum("nodePort" in port for port in service["spec"]["ports"]) == held
        names = {f"{stack['stack_id']}-{80 + i}" for i, route in enumerate(routes) if route}
        assert set(await routes_of(at)) == names | ({f"rt-{stack['stack_id']}"} if held else set())
        await at.until_status(stack["stack_id"], "running")
        for kind in await at.objects("httproutes"):
            (hostname,) = (await at.objects("httproutes"))[kind]["spec"]["hostnames"]
            assert await page(at, hostname) == (200, f"This is {stack['stack_id']}, answering as {hostname}.\n")
        await at.call("DELETE", f"/stacks/{stack['stack_id']}")
        assert await routes_of(at) == {}
        assert await at.objects("services") == {}
        assert at.rows("SELECT * FROM hostnames") == []


@pytest.mark.parametrize(
    ("ports", "shown", "tried"),
    [
        (("80/https",), rf"https://{NAME}", ("https", 443)),
        (("80/http", "81"), rf"http://{NAME} 127\.0\.0\.1:\d+", ("http", 80)),
        (("80/tls",), rf"{NAME}:443", ("tls", 443)),
    ],
)
async def test_everybody_shows_and_tries_the_name(
    at: Harness, ports: tuple[str, ...], shown: str, tried: tuple[str, int]
) -> None:
    async with AsyncClient(at.url, KEY) as client:
        stack = await client.create(asking(*(None for _ in ports))["pod_spec"], ports=ports)
        assert re.fullmatch(shown, " ".join(stack.addresses))
        assert addresses(stack.raw) == list(stack.addresses)
        place = address(stack.raw)
        assert place is not None
        assert (place.scheme, place.port) == tried
        (listed,) = (await at.call("GET", "/stacks")).json["stacks"]
        assert listed["ports"] == stack.raw["ports"]
        async for event in client.events():
            if event.kind == "hello":
                await client.extend(stack, "1m")
            elif event.kind == "stack":
                assert event.data["ports"] == stack.raw["ports"]
                break


@pytest.mark.parametrize(
    ("settings", "port", "path", "words"),
    [
        ({"STACKD_ROUTES__DOMAIN": ""}, {"route": "https"}, "route", "routes.domain is not set"),
        ({"STACKD_ROUTES__TLS_LISTENER": ""}, {"route": "tls"}, "route", "routes.tls_listener is not set"),
        ({}, {"route": "ftp"}, "route", 'must be one of http, https, tls, not "ftp"'),
        ({}, {"route": True}, "route", "must be one of http, https, tls"),
        ({}, {"route": "https", "protocol": "UDP"}, "route", "a UDP port cannot have a name"),
    ],
)
async def test_what_cannot_have_a_name_is_refused(
    tmp_path: Path, settings: dict[str, str], port: dict[str, Any], path: str, words: str
) -> None:
    async with routed(tmp_path, settings) as at:
        body = seed()
        body["target_port"] = [body["target_port"][0] | port]
        reply = await at.call("POST", "/stacks", body)
        assert reply.status == 400
        assert words in reply.error
        assert f"target_port[0].{path}" in [reason[0] for reason in reply.reasons]


async def test_a_port_is_published_once_with_a_name_or_without(at: Harness) -> None:
    body = seed()
    body["target_port"] = [*body["target_port"], body["target_port"][0] | {"route": "https"}]
    reply = await at.call("POST", "/stacks", body)
    assert reply.status == 400
    assert "is already target_port[0]" in reply.error


async def test_without_names_nothing_of_the_gateway_api_is_requested(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        await at.create()
        await at.passes(2)
        assert not any(resource.endswith("routes") for _, resource, _ in at.cluster.counts.requests)


async def test_a_cluster_without_the_gateway_api_serves_stacks_with_node_ports(tmp_path: Path) -> None:
    async with routed(tmp_path, gateway="") as at:
        reply = await at.call("POST", "/stacks", asking("https"))
        assert reply.status == 503
        assert "install the CRDs of the Gateway API" in reply.detail
        stack = await at.create()
        assert (await at.call("DELETE", f"/stacks/{stack['stack_id']}")).status == 200
        assert (await at.call("GET", "/readyz")).status == 200
        assert await at.listed() == []


async def test_stop_start_and_a_restart_keep_the_name(at: Harness) -> None:
    stack_id = await at.running(asking("https", None))
    ports = (await at.stack(stack_id))["ports"]
    before = await routes_of(at)
    for verb in ("stop", "start", "restart"):
        assert (await at.call("POST", f"/stacks/{stack_id}/{verb}")).status == 200
        assert (await at.stack(stack_id))["ports"] == ports
    assert {name: one["metadata"]["uid"] for name, one in before.items()} == {
        name: one["metadata"]["uid"] for name, one in (await routes_of(at)).items()
    }


async def test_an_ended_stack_gives_its_name_back_and_gets_another_at_its_start(at: Harness) -> None:
    stack_id = (
        await at.create(
            asking("https") | {"pod_spec": asking("https")["pod_spec"].replace("nginx:stable", "app/exit0")}
        )
    )["stack_id"]
    await at.until_status(stack_id, "stopped")
    await eventually(lambda: not at.rows("SELECT * FROM hostnames"))
    await eventually_none(at)
    before = (await at.stack(stack_id))["ports"]
    assert (await at.call("POST", f"/stacks/{stack_id}/start")).status == 200
    after = (await at.stack(stack_id))["ports"]
    assert after != before
    assert re.fullmatch(rf"https://{NAME}", after[0]["url"])


async def eventually_none(at: Harness) -> None:
    """Return once there is no route."""
    await until(lambda: routes_of(at), lambda found: not found)


@pytest.mark.parametrize("deleted", ["httproutes", "tlsroutes", "services"])
async def test_what_is_deleted_by_hand_is_back(at: Harness, deleted: str) -> None:
    await at.running(asking("https", "tls", None))
    before = await routes_of(at)
    (name,) = [name for name in await at.objects(deleted) if name in before]
    await at.delete_object(deleted, name)
    after = await until(lambda: routes_of(at), lambda found: set(found) == set(before))
    assert after[name]["spec"].get("hostnames") == before[name]["spec"].get("hostnames")
    assert after[name]["metadata"]["uid"] != before[name]["metadata"]["uid"]


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"hostnames": ["www.example.org"]}},
        {"spec": {"rules": []}},
        {"spec": {"extra": ["x"]}},
        {"metadata": {"labels": None}},
    ],
)
async def test_what_is_edited_by_hand_is_repaired(at: Harness, change: dict[str, Any]) -> None:
    stack_id = await at.running(asking("https"))
    before = (await routes_of(at))[f"{stack_id}-80"]
    await at.kubectl("PATCH", f"{path_of('httproutes')}/{stack_id}-80", change)

    def as_before(found: dict[str, Any]) -> bool:
        route = found[f"{stack_id}-80"]
        return bool(route["spec"] == before["spec"] and route["metadata"].get("labels") == before["metadata"]["labels"])

    await until(lambda: routes_of(at), as_before)


async def test_a_delete_finds_a_route_that_the_watch_has_not_reported_yet(at: Harness) -> None:
    stack_id = await at.running(asking("https"))
    (route,) = (await routes_of(at)).values()
    wanted = {key: route["metadata"][key] for key in ("name", "labels", "annotations")}
    at.cluster.faults.freeze_watches()
    await at.delete_object("httproutes", route["metadata"]["name"])
    await at.kubectl("POST", path_of("httproutes"), {**route, "metadata": wanted})
    assert (await at.call("DELETE", f"/stacks/{stack_id}")).status == 200
    assert await routes_of(at) == {}


async def test_a_lost_file_keeps_the_names(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(gateway=GATEWAY)) as cluster:
        async with harness(tmp_path, SETTINGS | AT_ONCE, cluster=cluster) as at:
            bodies = (asking("https"), asking("tls", None), asking("http", "https"))
            before = {stack["stack_id"]: stack["ports"] for stack in [await at.create(body) for body in bodies]}
            routes = {name: one["metadata"]["uid"] for name, one in (await routes_of(at)).items()}
        lose_file(tmp_path)
        async with harness(tmp_path, SETTINGS | AT_ONCE, cluster=cluster) as at:
            await at.until_listed(3)
            assert {stack_id: (await at.stack(stack_id))["ports"] for stack_id in before} == before
            await at.passes(2)
            assert {name: one["metadata"]["uid"] for name, one in (await routes_of(at)).items()} == routes
            assert len(at.rows("SELECT * FROM hostnames")) == 4
            for stack_id in before:
                await at.call("DELETE", f"/stacks/{stack_id}")
            assert await routes_of(at) == {}


async def test_a_route_without_a_stack_is_removed_only_if_the_file_has_removed_it(at: Harness) -> None:
    stack_id = await at.running(asking("https"))
    (route,) = (await routes_of(at)).values()
    await at.call("DELETE", f"/stacks/{stack_id}")
    foreign = {**route["metadata"], "name": "stack-ffffffffffffffff-80"}
    for metadata in (route["metadata"], foreign):
        wanted = {key: metadata[key] for key in ("name", "labels", "annotations")}
        await at.kubectl("POST", path_of("httproutes"), {**route, "metadata": wanted})
    left = await until(lambda: routes_of(at), lambda found: len(found) == 1)
    assert list(left) == ["stack-ffffffffffffffff-80"]


async def test_what_the_gateway_says_is_the_reason(at: Harness) -> None:
    stack_id = await at.running(asking("https"))

    async def says(conditions: list[dict[str, Any]]) -> None:
        route = (await routes_of(at))[f"{stack_id}-80"]
        (parent,) = route["spec"]["parentRefs"]
        entry = {"parentRef": parent, "controllerName": "example.org/gateway", "conditions": conditions}
        path = f"{path_of('httproutes')}/{stack_id}-80/status"
        await at.kubectl("PATCH", path, {"status": {"parents": [entry]}})

    refusal = {
        "type": "Accepted",
        "status": "False",
        "reason": "NotAllowedByListeners",
        "message": "no routes from here",
    }
    await says([refusal | {"observedGeneration": 1}])
    stack = await until(lambda: at.stack(stack_id), lambda found: found["status_reason"])
    assert (stack["status"], stack["status_reason"]) == ("running", "NotAllowedByListeners")
    assert stack["status_message"] == "no routes from here"
    good = [{"type": kind, "status": "True", "observedGeneration": 1} for kind in ("Accepted", "ResolvedRefs")]
    await says(good)
    await until(lambda: at.stack(stack_id), lambda found: not found["status_reason"])


@pytest.mark.parametrize(("timeout", "reason"), [("30s", ""), ("0s", "RoutePending"), ("50ms", "RoutePending")])
async def test_a_create_waits_for_the_gateway(tmp_path: Path, timeout: str, reason: str) -> None:
    delay = 0.3 if reason == "" else 3600.0
    async with routed(tmp_path, {"STACKD_ROUTES__ACCEPT_TIMEOUT": timeout}, gateway_delay=delay) as at:
        stack = await at.create(asking("https"))
        assert stack["status_reason"] == reason
        assert ("has not accepted it yet" in stack["status_message"]) == bool(reason)


async def test_a_stack_says_that_its_listener_is_not_configured_any_more(at: Harness) -> None:
    stack_id = await at.running(asking("https", "tls"))
    at.reload("routes", tls_listener="")
    at.look_again()
    await until(lambda: at.stack(stack_id), lambda found: found["status_reason"] == "RouteNotConfigured")
    assert (await at.call("DELETE", f"/stacks/{stack_id}")).status == 200
    assert await routes_of(at) == {}


async def test_stacks_with_names_only_are_not_limited_by_node_ports(tmp_path: Path) -> None:
    one_port = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31001"}
    async with routed(tmp_path, one_port) as at:
        await at.create()
        assert (await at.call("POST", "/stacks", asking(None))).status == 503
        found = (await at.call("POST", "/capacity", asking("https"))).json
        assert (found["requested_ports"], found["free_node_ports"]) == (0, 0)
        assert found["limited_by"] != "ports"
        for _ in range(3):
            await at.create(asking("https"))
        assert (await at.call("POST", "/stacks?dry_run=true", asking("https"))).status == 200
        assert await at.metric("stackd_mirror_connected", kind="httproutes") == 1


async def test_another_gateway_is_put_in_force_by_a_reload(at: Harness) -> None:
    stack_id = await at.running(asking("https"))
    at.reload("routes", gateway="gateways/other")

    def moved(found: dict[str, Any]) -> bool:
        return bool(found[f"{stack_id}-80"]["spec"]["parentRefs"][0]["name"] == "other")

    await until(lambda: routes_of(at), moved)
    await until(lambda: at.stack(stack_id), lambda found: found["status_reason"] == "RoutePending")


async def test_names_can_be_configured_while_stackd_runs(tmp_path: Path) -> None:
    async with (
        EmbeddedCluster(fast_cluster(gateway=GATEWAY)) as cluster,
        harness(tmp_path, cluster=cluster, edited=SETTINGS) as at,
    ):
        assert (await at.call("POST", "/stacks", asking("tls"))).status == 400
        os.kill(os.getpid(), signal.SIGHUP)
        reply = await until(lambda: at.call("POST", "/stacks", asking("tls")), lambda reply: reply.status != 400)
        assert reply.status == 201, reply.text
        before = await routes_of(at)
        await at.delete_object("tlsroutes", f"{reply.json['stack_id']}-80")
        await until(lambda: routes_of(at), lambda found: found.keys() == before.keys())


async def test_names_of_a_pool_answer_only_once_they_are_given(tmp_path: Path) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    pod = seed()["pod_spec"].replace("\n", "\n  ")
    for name, ports in (
        ("Web 1".lower().replace(" ", "-"), "route: https}]"),
        ("mixed", "route: http}, {container_port: 81, protocol: TCP}]"),
    ):
        text = f"pool: 1\ntarget_port: [{{container_port: 80, protocol: TCP, {ports}\npod:\n  {pod}\n"
        if name == "mixed":
            text = "route_prefix: both\n" + text.replace(
                "        - containerPort: 80", "        - containerPort: 81\n          - containerPort: 80"
            )
        (templates / f"{name}.yaml").write_text(text)
    async with routed(tmp_path, {"STACKD_TEMPLATES__DIRECTORY": str(templates)}) as at:
        for name, prefix in (("web-1", "web-1"), ("mixed", "both")):
            await at.until_metric("stackd_pool_stacks", 1, template=name, state="ready")
            routes = await at.objects("httproutes")
            (hostname,) = [h for one in routes.values() for h in one["spec"]["hostnames"] if h.startswith(f"{prefix}-")]
            assert (await page(at, hostname))[0] == 503
            with at.no_pod_starting():
                stack = await at.create({"template": name})
                assert hostname in stack["ports"][0]["url"]
                assert (await page(at, hostname))[0] == 200
