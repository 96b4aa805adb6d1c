"""Scheduler, kubelets and node ports, as far as no recording shows them."""

from __future__ import annotations

import socket

import aiohttp
import pytest

from stackd.embedded import EmbeddedOptions, NodeSpec, node_specs
from tests.embedded.wire import Json, ManualClock, Wire, condition, fast, pod, running, until, waiting
from tests.ports import free_port

PODS = "/api/v1/namespaces/rec/pods"
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


async def test_a_full_node_takes_a_pod_only_after_another_has_ended_or_gone() -> None:
    async with running(fast(nodes=NODE)) as wire:
        await wire.make_pod("first", resources=HALF)
        await wire.until_pod("first", bound)
        await wire.make_pod("ends", "x/exit0", resources=HALF)
        assert "1 Insufficient cpu" in await refusal(wire, "ends")
        await wire.delete(f"{PODS}/first?gracePeriodSeconds=0")
        await wire.make_pod("last", resources=HALF)
        await wire.until_pod("last", bound)
        for number in range(3):
            await wire.make_pod(f"small{number}", resources={})
        assert "1 Too many pods" in await refusal(wire, "small2")
        wire.cluster.faults.add_node(name="more")
        await wire.until_pod("small2", bound)


async def test_a_cordoned_or_tainted_node_takes_no_pod_that_does_not_tolerate_it() -> None:
    async with running(fast(nodes=NODE)) as wire:
        await wire.patch("/api/v1/nodes/a", {"spec": {"unschedulable": True}})
        await wire.make_pod()
        assert "1 node(s) were unschedulable" in await refusal(wire)
        wire.cluster.faults.cordon("a", on=False)
        await wire.until_pod("one", bound)
        await wire.patch(
            "/api/v1/nodes/a", {"spec": {"taints": [{"key": "gpu", "value": "y", "effect": "NoSchedule"}]}}
        )
        await wire.make_pod("plain")
        assert "1 node(s) had untolerated taint {gpu: y}" in await refusal(wire, "plain")
        await wire.make_pod("tolerant", tolerations=[{"key": "gpu", "operator": "Exists"}])
        await wire.until_pod("tolerant", bound)


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
    async with running(fast(clock=clock, pod_gc_delay=60.0)) as wire:
        await wire.make_pod()
        node = (await wire.until_pod("one", ready))["spec"]["nodeName"]
        wire.cluster.faults.remove_node(node)
        clock.advance(59)
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
        for label, check in ((None, silent), ("true", answering)):
            await wire.patch(f"{PODS}/one", {"metadata": {"labels": {"given": label}}})
            await until(check)
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
