"""Names instead of node ports: stacks whose ports are reached through a Gateway."""

from __future__ import annotations

import re
from typing import Any

import aiohttp
import pytest

from tests.harness import Harness, Machine, eventually, path_of, seed, until
from tests.routes import GATEWAY, SETTINGS, asking, routes_of
from tests.templates import folder_with

NAME = r"[a-z0-9-]+-[a-z2-7]{16}\.stacks\.localhost"
pytestmark = [pytest.mark.stackd(settings=SETTINGS), pytest.mark.kubernetes(gateway=GATEWAY, gateway_port=0)]


async def route_uids(at: Harness) -> dict[str, str]:
    return {name: one["metadata"]["uid"] for name, one in (await routes_of(at)).items()}


async def create_again(at: Harness, route: dict[str, Any], **metadata: str) -> None:
    """Create a route that was deleted, or one like it, by hand."""
    kept = {key: route["metadata"][key] for key in ("name", "labels", "annotations")} | metadata
    await at.kubectl("POST", path_of("httproutes"), {**route, "metadata": kept})


async def page(at: Harness, hostname: str) -> tuple[int, str]:
    assert at.cluster.gateway is not None
    url = f"http://127.0.0.1:{at.cluster.gateway.port}/"
    async with aiohttp.ClientSession() as session, session.get(url, headers={"Host": hostname}) as answer:
        return answer.status, await answer.text()


async def test_only_routed_ports_have_names(vm: Machine) -> None:
    at = await vm.start(routes__http_port="8080", routes__port="8443")
    for routes, shown in (
        (("https",), [("url", rf"https://{NAME}:8443")]),
        (("http", "tls"), [("url", rf"http://{NAME}:8080"), ("host", rf"{NAME}:443")]),
        (("https", None), [("url", rf"https://{NAME}:8443"), ("node_port", r"\d+")]),
    ):
        stack = await at.create(asking(*routes))
        stack_id = stack["stack_id"]
        for port, (key, form) in zip(stack["ports"], shown, strict=True):
            assert port.keys() == {"container_port", "protocol", key}
            assert re.fullmatch(form, str(port[key])), port
        (listed,) = (await at.get("/stacks"))["stacks"]
        assert (await at.stack(stack_id))["ports"] == listed["ports"] == stack["ports"]
        assert stack["status_reason"] == ""
        node = stack["node_public_ip"]
        for port, address in zip(stack["ports"], stack["addresses"], strict=True):
            text = port.get("url") or port.get("host") or f"{node}:{port['node_port']}"
            assert (address["port"], address["protocol"], address["text"]) == (port["container_port"], "TCP", text)
            assert address.get("url") == port.get("url")
        held = sum(route is None for route in routes)
        assert await at.used_ports() == held
        spec = (await at.objects("services"))[stack["service_name"]]["spec"]
        assert spec["type"] == ("NodePort" if held else "ClusterIP")
        assert sum("nodePort" in port for port in spec["ports"]) == held
        names = {f"{stack_id}-{80 + i}" for i, route in enumerate(routes) if route}
        assert set(await routes_of(at)) == names | ({f"rt-{stack_id}"} if held else set())
        await at.until_status(stack_id, "running")
        for route in (await at.objects("httproutes")).values():
            (hostname,) = route["spec"]["hostnames"]
            assert await page(at, hostname) == (200, f"This is {stack_id}, answering as {hostname}.\n")
        await at.delete(stack_id)
        assert await routes_of(at) == await at.pods_and_services() == {}
        assert at.rows("SELECT * FROM hostnames") == []


async def test_what_cannot_have_a_name_is_refused(vm: Machine) -> None:
    async def refused(port: dict[str, Any], words: str) -> None:
        body = seed()
        body["target_port"] = [body["target_port"][0] | port]
        reply = await at.refused(400, words, "/stacks", body)
        assert "target_port[0].route" in [reason[0] for reason in reply.reasons]

    at = await vm.start(routes__tls_listener="")
    await refused({"route": "tls"}, "routes.tls_listener is not set")
    for wrong in ("ftp", True):
        await refused({"route": wrong}, "")
    await refused({"route": "https", "protocol": "UDP"}, "")
    body = seed()
    body["target_port"] = [*body["target_port"], body["target_port"][0] | {"route": "https"}]
    await at.refused(400, "is already target_port[0]", "/stacks", body)
    at = await vm.start(routes__domain="")
    await refused({"route": "https"}, "routes.domain is not set")


@pytest.mark.kubernetes
async def test_a_cluster_without_the_gateway_api_serves_stacks_with_node_ports(at: Harness) -> None:
    reply = await at.refused(503, "", "/stacks", asking("https"))
    assert "install the CRDs of the Gateway API" in reply.detail
    await at.delete((await at.create())["stack_id"])
    await at.get("/readyz")
    assert await at.listed() == []


FORBIDDEN = (
    '{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":'
    '"httproutes.gateway.networking.k8s.io is forbidden: User \\"s\\" cannot delete resource \\"httproutes\\""}'
)


async def test_a_stack_whose_route_stackd_may_not_delete_says_so_until_it_may(at: Harness) -> None:
    stack_id = await at.running(asking("https", None))
    at.faults.add_fault(action="reply", code=403, body=FORBIDDEN, verb="delete", resource="httproutes")
    reply = await at.refused(503, "", f"/stacks/{stack_id}", method="DELETE")
    assert "it has no right to delete httproutes" in reply.detail
    stack = await until(lambda: at.stack(stack_id), lambda seen: seen["status_reason"] == "DeletePending")
    assert stack["status_message"]
    assert not await at.objects("pods"), "nobody reaches it any more"
    assert f"svc-{stack_id}" in await at.objects("services"), "it has the record"
    at.faults.clear()
    await at.until_listed(0)
    assert await routes_of(at) == {}


async def test_stop_start_and_restart_keep_the_name(at: Harness) -> None:
    stack_id = await at.running(asking("https", None))
    ports, before = (await at.stack(stack_id))["ports"], await route_uids(at)
    for verb in ("stop", "start", "restart"):
        await at.do(verb, stack_id)
        assert (await at.stack(stack_id))["ports"] == ports
    assert await route_uids(at) == before
    await at.delete(stack_id)
    stack_id = (await at.create(asking("https", image="app/exit0")))["stack_id"]
    await at.until_status(stack_id, "stopped")
    await until(lambda: routes_of(at), lambda seen: not seen)
    await eventually(lambda: not at.rows("SELECT * FROM hostnames"))
    ended = await at.stack(stack_id)
    started = await at.do("start", stack_id)
    assert started["ports"] != ended["ports"]
    assert re.fullmatch(rf"https://{NAME}", started["ports"][0]["url"])


async def test_what_is_deleted_or_edited_by_hand_is_repaired(at: Harness) -> None:
    stack_id = await at.running(asking("https", "tls", None))
    before = await routes_of(at)
    for kind in ("httproutes", "tlsroutes", "services"):
        (name,) = [name for name in await at.objects(kind) if name in before]
        await at.delete_object(kind, name)
        after = await until(lambda: routes_of(at), lambda seen: seen.keys() == before.keys())
        assert after[name]["spec"].get("hostnames") == before[name]["spec"].get("hostnames")
        assert after[name]["metadata"]["uid"] != before[name]["metadata"]["uid"]

    def as_before(seen: dict[str, Any]) -> bool:
        route, once = seen[f"{stack_id}-80"], before[f"{stack_id}-80"]
        return bool(route["spec"] == once["spec"] and route["metadata"].get("labels") == once["metadata"]["labels"])

    specs: tuple[dict[str, Any], ...] = ({"hostnames": ["www.example.org"]}, {"rules": []}, {"extra": ["x"]})
    for change in (*({"spec": spec} for spec in specs), {"metadata": {"labels": None}}):
        await at.patch("httproutes", f"{stack_id}-80", change)
        await until(lambda: routes_of(at), as_before)

    at.faults.freeze_watches()
    await at.delete_object("httproutes", f"{stack_id}-80")
    await create_again(at, before[f"{stack_id}-80"])
    await at.delete(stack_id)
    assert await routes_of(at) == {}, "also what the watch has not reported yet"


# ---- the Gateway's word


@pytest.mark.kubernetes(gateway=GATEWAY, gateway_delay=0.3)
async def test_a_create_waits_for_the_gateway(vm: Machine) -> None:
    for timeout, reason in (("30s", ""), ("0s", "RoutePending"), ("50ms", "RoutePending")):
        at = await vm.start(routes__accept_timeout=timeout)
        stack = await at.create(asking("https"))
        assert stack["status_reason"] == reason
        assert ("has not accepted it yet" in stack["status_message"]) == bool(reason)


async def test_stacks_with_names_only_are_not_limited_by_node_ports(vm: Machine) -> None:
    at = await vm.start(stacks__node_port_min="31001", stacks__node_port_max="31001")
    await at.create()
    await at.refused(503, "", "/stacks", asking(None))
    answer = await at.post("/capacity", asking("https"))
    assert (answer["requested_ports"], answer["free_node_ports"], answer["limited_by"] != "ports") == (0, 0, True)
    for _ in range(3):
        await at.create(asking("https"))
    await at.post("/stacks?dry_run=true", asking("https"))
    assert await at.metric("stackd_mirror_connected", kind="httproutes") == 1


async def test_names_of_a_pool_answer_only_once_they_are_given(vm: Machine) -> None:
    pod = seed()["pod_spec"].replace("\n", "\n  ")
    text = "pool: 1\ntarget_port: [{{container_port: 80, protocol: TCP, {}}}{}]\npod:\n  {}\n"
    two = pod.replace("        - containerPort: 80", "        - containerPort: 81\n          - containerPort: 80")
    web, mixed = (
        text.format("route: https", "", pod),
        text.format("route: http", ", {container_port: 81, protocol: TCP}", two),
    )
    vm.options["settings"] |= folder_with(vm.folder, web_1=web, mixed="route_prefix: both\n" + mixed)
    at = await vm.start()
    for name, prefix in (("web-1", "web-1"), ("mixed", "both")):
        await at.until_metric("stackd_pool_stacks", 1, template=name, state="ready")
        names = [h for one in (await at.objects("httproutes")).values() for h in one["spec"]["hostnames"]]
        (hostname,) = [name for name in names if name.startswith(f"{prefix}-")]
        assert (await page(at, hostname))[0] == 503
        with at.no_pod_starting():
            stack = await at.create({"template": name})
            assert hostname in stack["ports"][0]["url"]
            assert (await page(at, hostname))[0] == 200
