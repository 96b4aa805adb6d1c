"""What the recordings do not show of the API, and what stackd's tests would not miss if the double were kinder."""

from __future__ import annotations

import socket
from typing import Any

import aiohttp
import pytest

from stackd.embedded import EmbeddedOptions, NodeSpec, Rule, User, everything, node_specs
from tests.embedded.wire import Json, ManualClock, Wire, condition, fast, pod, running, service, until, waiting
from tests.ports import free_port

MAPS, PODS, SERVICES, QUOTAS = (
    f"/api/v1/namespaces/rec/{kind}" for kind in ("configmaps", "pods", "services", "resourcequotas")
)
LEASES = "/apis/coordination.k8s.io/v1/namespaces/rec/leases"
TOKENS = "/api/v1/namespaces/rec/serviceaccounts/own/token"


async def add(wire: Wire, name: str, **labels: str) -> str:
    answer = await wire.post(MAPS, {"metadata": {"name": name, "labels": labels}})
    version: str = answer.body["metadata"]["resourceVersion"]
    return version


async def test_a_watch_shows_what_enters_and_leaves_its_selector(wire: Wire) -> None:
    version = await add(wire, "a", team="red")
    async with wire.watching(f"{MAPS}?watch=1&resourceVersion={version}&labelSelector=team%3Dred") as watched:
        await wire.post("/api/v1/namespaces/default/configmaps", {"metadata": {"name": "b", "labels": {"team": "red"}}})
        for team in ("blue", "green", "red"):
            await wire.patch(f"{MAPS}/a", {"metadata": {"labels": {"team": team}}})
        events = [await watched.next(), await watched.next()]
    assert [(one["type"], one["object"]["metadata"]["labels"]) for one in events] == [
        ("DELETED", {"team": "red"}),
        ("ADDED", {"team": "red"}),
    ]
    assert int(events[0]["object"]["metadata"]["resourceVersion"]) == int(version) + 2


async def test_node_ports_are_free_again_only_after_the_service() -> None:
    async with running(fast(node_port_range=(30000, 30001))) as wire:
        await wire.make_service("svc-a", node_port=30000)
        await wire.make_service("svc-b")
        answer = await wire.post(SERVICES, service("svc-c"))
        assert (answer.status, answer.body["reason"]) == (500, "InternalError")
        await wire.delete(f"{SERVICES}/svc-a")
        await wire.make_service("svc-c", node_port=30000)


async def test_a_changed_service_gives_back_its_old_port(wire: Wire) -> None:
    await wire.make_service("svc-a", node_port=31001)
    ports = [{"name": "p", "port": 80, "nodePort": 31002}]
    await wire.patch(f"{SERVICES}/svc-a", {"spec": {"ports": ports}})
    await wire.make_service("svc-b", node_port=31001)
    assert (await wire.post(SERVICES, service("svc-c", node_port=31002))).status == 422
    patch = {"spec": {"type": "ClusterIP", "ports": [{"name": "p", "port": 80, "nodePort": None}]}}
    inner = (await wire.patch(f"{SERVICES}/svc-a", patch)).body["spec"]
    assert (inner["type"], inner["ports"][0].get("nodePort")) == ("ClusterIP", None)
    await wire.make_service("svc-c", node_port=31002)


def rule(verbs: str, resource: str, **more: Any) -> Rule:
    return Rule(verbs=frozenset(verbs.split()), resources=frozenset({resource}), **more)


async def test_a_rule_for_a_named_object_covers_only_that_name() -> None:
    """Kubernetes does so: it takes the name from ``fieldSelector=metadata.name=…``."""
    named = rule("get list watch", "leases", groups=frozenset({"coordination.k8s.io"}), names=frozenset({"ours"}))
    users = (User(token="admin", name="admin", rules=(everything(),)), User(token="t", name="reader", rules=(named,)))
    async with running(fast(users=users)) as admin:
        wire = admin.as_user("t")
        assert (await wire.get(f"{LEASES}?fieldSelector=metadata.name%3Dours")).status == 200
        async with wire.watching(f"{LEASES}?watch=1&fieldSelector=metadata.name%3Dours") as watched:
            assert watched.answer.status == 200
        theirs, not_ours = "?fieldSelector=metadata.name%3Dtheirs", "?fieldSelector=metadata.name%21%3Dours"
        for query in ("", "/theirs", theirs, not_ours, "?watch=1"):
            assert (await wire.get(LEASES + query)).status == 403


async def test_a_token_is_its_accounts_alone_until_it_expires() -> None:
    clock, spec = ManualClock(), {"spec": {"expirationSeconds": 600}}
    renew = rule("create", "serviceaccounts/token", names=frozenset({"own"}), namespace="rec")
    account = User(token="first", name="system:serviceaccount:rec:own", rules=(renew, rule("list", "nodes")))
    async with running(
        fast(users=(account, User(token="o", name="system:serviceaccount:rec:other")), clock=clock)
    ) as wire:
        assert (await wire.post(TOKENS.replace("/own/", "/other/"), spec)).status == 403
        token = (await wire.post(TOKENS, spec)).body["status"]["token"]
        assert (await wire.as_user(token).get("/api/v1/nodes")).status == 200
        assert (await wire.as_user(token).get(PODS)).status == 403
        for forged in (
            token[:-2] + ("xx" if token[-2:-1] != "x" else "yy"),
            token.rpartition(".")[0] + ".",
            "a.b.c",
            f"{token}.",
        ):
            assert (await wire.as_user(forged).get("/api/v1/nodes")).status == 401
        async with running(fast(users=(account,))) as other:
            assert (await other.as_user(token).get("/api/v1/nodes")).status == 401
        clock.advance(601)
        assert (await wire.as_user(token).get("/api/v1/nodes")).status == 401


# ---- scheduler, kubelets and node ports, as far as no recording shows them


EVENTS = "/api/v1/namespaces/rec/events"
NODE = (NodeSpec(name="a", cpu="2", pods="3"),)
HALF = {"requests": {"cpu": "1500m"}}


def ready(body: Json) -> bool:
    return condition(body, "Ready").get("status") == "True"


def bound(body: Json) -> object:
    return body["spec"].get("nodeName")


async def refusal(wire: Wire, name: str = "one") -> str:
    """Why no node takes the pod."""
    body = await wire.until_pod(name, lambda body: condition(body, "PodScheduled").get("reason") == "Unschedulable")
    message: str = condition(body, "PodScheduled")["message"]
    return message


async def test_a_node_takes_only_a_pod_that_fits_it() -> None:
    async with running(fast(nodes=NODE)) as wire:
        await wire.make_pod("first", resources=HALF)
        await wire.until_pod("first", bound)
        await wire.make_pod("second", resources=HALF)
        assert "1 Insufficient cpu" in await refusal(wire, "second")
        await wire.delete(f"{PODS}/first?gracePeriodSeconds=0")
        await wire.until_pod("second", bound)
        await wire.make_pod("elsewhere", nodeSelector={"no": "where"}, resources={})
        assert "1 node(s) didn't match Pod's node affinity/selector" in await refusal(wire, "elsewhere")
        taint = {"key": "gpu", "value": "y", "effect": "NoSchedule"}
        await wire.patch("/api/v1/nodes/a", {"spec": {"unschedulable": True, "taints": [taint]}})
        await wire.make_pod("plain", resources={})
        assert "1 node(s) were unschedulable" in await refusal(wire, "plain")
        wire.cluster.faults.cordon("a", on=False)
        await wire.make_pod("third", resources={})
        assert "1 node(s) had untolerated taint {gpu: y}" in await refusal(wire, "third")
        for name in ("tolerant", "more"):
            await wire.make_pod(name, resources={}, tolerations=[{"key": "gpu", "operator": "Exists"}])
            await wire.until_pod(name, bound)
        wire.cluster.faults.add_node(name="more")
        await wire.until_pod("plain", bound)


async def test_a_node_pulls_what_it_does_not_have_one_image_after_the_other() -> None:
    clock = ManualClock()
    async with running(fast(nodes=node_specs(1), pull=30.0, clock=clock)) as wire:
        for name, image in (("one", "x/first"), ("two", "x/second"), ("three", "x/first")):
            await wire.make_pod(name, image)
            await wire.until_pod(
                name, lambda body: condition(body, "PodReadyToStartContainers").get("status") == "True"
            )
        clock.advance(30)
        await wire.until_pod("one", ready)
        await wire.until_pod("three", ready)
        assert waiting(await wire.pod("two")) == "ContainerCreating"
        clock.advance(30)
        await wire.until_pod("two", ready)
        await wire.make_pod("four", "x/second")
        await wire.until_pod("four", ready)  # the node has the image now
        events = (await wire.get(f"{EVENTS}?fieldSelector=involvedObject.name=two")).body["items"]
        assert [event["reason"] for event in events] == ["Scheduled", "Pulling", "Pulled", "Created", "Started"]


async def test_pods_outlive_their_node_for_a_while_and_stay_if_it_comes_back() -> None:
    clock = ManualClock()
    async with running(fast(clock=clock, nodes=node_specs(1), pod_gc_delay=60.0, run_time=10.0)) as wire:
        await wire.make_pod("ending", "x/exit0")
        await wire.until_pod("ending", ready)
        await wire.make_pod()
        node = (await wire.until_pod("one", ready))["spec"]["nodeName"]
        wire.cluster.faults.remove_node(node)
        clock.advance(59)
        assert ready(await wire.pod("ending")), "nobody runs it"
        wire.cluster.faults.add_node(name=node)
        clock.advance(60)
        assert ready(await wire.pod())
        wire.cluster.faults.remove_node(node)
        clock.advance(60)
        assert (await wire.get(f"{PODS}/one")).status == 404


def around(port: int) -> EmbeddedOptions:
    return fast(serve_node_ports=True, node_port_range=(port, port))


async def answers(port: int) -> str:
    """What the port answers; empty if it refuses the connection."""
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as reply:
            return await reply.text()
    except aiohttp.ClientConnectorError:
        return ""


async def test_a_node_port_answers_only_while_its_service_selects_a_ready_pod() -> None:
    port = free_port()

    async def answering() -> bool:
        return "one (service svc-one, port 80)" in await answers(port)

    async def silent() -> bool:
        return not await answers(port)

    async with running(around(port)) as wire:
        await wire.make_service("svc-one", node_port=port, selector={"given": "true", "stack": "svc-one"})
        assert await silent()
        await wire.post(PODS, pod("one", labels={"given": "true", "stack": "svc-one"}))
        await until(answering)
        await wire.patch(f"{PODS}/one", {"metadata": {"labels": {"given": None}}})
        await until(silent)
        await wire.patch(f"{PODS}/one", {"metadata": {"labels": {"given": "true"}}})
        await until(answering)
        await wire.delete(f"{PODS}/one?gracePeriodSeconds=0")
        await until(silent)


async def test_a_port_of_another_program_leaves_the_cluster_running(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        async def logged() -> bool:
            return f"node port {port}/TCP does not answer" in caplog.text

        async with running(around(port)) as wire:
            await wire.post(PODS, pod("one", labels={"stack": "svc-one"}))
            await wire.make_service("svc-one", node_port=port)
            await until(logged)
            await wire.until_pod("one", ready)
