from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest

from stackd.embedded import EmbeddedOptions
from tests.embedded.wire import Wire, fast, pod, running, service, until
from tests.ports import free_port

SERVICES = "/api/v1/namespaces/rec/services"
PODS = "/api/v1/namespaces/rec/pods"


def around(port: int) -> EmbeddedOptions:
    return fast(serve_node_ports=True, node_port_range=(port, port))


async def answer(port: int) -> str | None:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as reply:
            return await reply.text()
    except aiohttp.ClientConnectorError:
        return None


async def answers(port: int) -> bool:
    return await answer(port) is not None


async def is_silent(port: int) -> bool:
    return await answer(port) is None


async def test_a_node_port_answers_while_its_service_and_a_ready_pod_are_there() -> None:
    port = free_port()
    async with running(around(port)) as wire:
        await wire.make_service("svc-one", node_port=port)
        assert await is_silent(port)
        await wire.post(PODS, pod("one", labels={"stack": "svc-one"}))
        await until(lambda: answers(port))
        text = await answer(port)
        assert text is not None
        assert "one (service svc-one, port 80)" in text
        await wire.delete(f"{SERVICES}/svc-one")
        await until(lambda: is_silent(port))


async def test_a_node_port_is_silent_while_its_service_does_not_select_the_pod() -> None:
    port = free_port()
    async with running(around(port)) as wire:
        await wire.post(PODS, pod("one", labels={"given": "true", "stack": "svc-one"}))
        await wire.make_service("svc-one", node_port=port, selector={"given": "true", "stack": "svc-one"})
        await until(lambda: answers(port))
        for given, check in ((None, is_silent), ("true", answers)):
            await wire.patch(f"{PODS}/one", {"metadata": {"labels": {"given": given}}})
            await until(lambda check=check: check(port))  # type: ignore[misc]


async def test_a_node_port_is_silent_once_its_pod_has_gone() -> None:
    port = free_port()
    async with running(around(port)) as wire:
        await wire.post(PODS, pod("one", labels={"stack": "svc-one"}))
        await wire.make_service("svc-one", node_port=port)
        await until(lambda: answers(port))
        await wire.delete(f"{PODS}/one?gracePeriodSeconds=0")
        await until(lambda: is_silent(port))


async def test_a_udp_node_port_sends_back_what_it_gets() -> None:
    port = free_port(socket.SOCK_DGRAM)
    async with running(around(port)) as wire:
        await wire.post(PODS, pod("one", labels={"stack": "svc-one"}))
        await wire.make_service("svc-one", node_port=port, protocol="UDP")
        await until(lambda: _sends_back(port, b"ping"))


async def _sends_back(port: int, sent: bytes) -> bool:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        try:
            await loop.sock_sendall(sock, sent)
            return await asyncio.wait_for(loop.sock_recv(sock, 100), 1) == sent
        except (ConnectionRefusedError, TimeoutError):
            return False


async def test_a_port_that_the_machine_does_not_give_leaves_the_cluster_running(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with running(around(port)) as wire:
            await wire.post(PODS, pod("one", labels={"stack": "svc-one"}))
            await wire.make_service("svc-one", node_port=port)
            await wire.until_pod("one", lambda body: body["status"]["phase"] == "Running")
            await until(lambda: _is_logged(caplog, f"node port {port}/TCP does not answer"))
            assert (await wire.get(f"{SERVICES}/svc-one")).status == 200


async def _is_logged(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text


async def test_ports_run_out_and_come_back() -> None:
    async with running(fast(node_port_range=(30000, 30001))) as wire:
        await wire.make_service("svc-a")
        await wire.make_service("svc-b")
        answer = await wire.post(SERVICES, service("svc-c"))
        assert (answer.status, answer.body["reason"]) == (500, "InternalError")
        assert answer.message.endswith("range is full")
        await wire.delete(f"{SERVICES}/svc-a")
        await wire.make_service("svc-c")


async def test_a_port_that_others_took_is_allocated(wire: Wire) -> None:
    wire.cluster.faults.take_port(31000)
    answer = await wire.post(SERVICES, service("svc-a", node_port=31000))
    assert (answer.status, answer.message.rpartition(": ")[2]) == (422, "provided port is already allocated")
    wire.cluster.faults.give_back_port(31000)
    await wire.make_service("svc-a", node_port=31000)


async def test_a_dry_run_does_not_look_at_the_range_as_seen_of_kubernetes_1_36(wire: Wire) -> None:
    outside = service("svc-a", node_port=1)
    assert (await wire.post(f"{SERVICES}?dryRun=All", outside)).status == 201
    answer = await wire.post(SERVICES, outside)
    assert answer.status == 422
    assert answer.message.endswith("The range of valid ports is 30000-32767")


async def test_two_protocols_of_one_service_may_share_a_number(wire: Wire) -> None:
    ports = [{"name": f"p-{protocol.lower()}", "port": 53, "protocol": protocol} for protocol in ("TCP", "UDP")]
    given = await wire.make_service("svc-dns", ports=[ports[0] | {"nodePort": 31053}, ports[1]])
    assert [port["nodePort"] for port in given["spec"]["ports"]] == [31053, 31053]
    both = [port | {"nodePort": 31054} for port in ports]
    await wire.make_service("svc-dns2", ports=both)


async def test_two_ports_of_one_service_may_not_share_a_number(wire: Wire) -> None:
    ports = [{"name": f"p{number}", "port": number, "nodePort": 31055} for number in (80, 81)]
    answer = await wire.post(SERVICES, service("svc-a", ports=ports))
    assert answer.body["details"]["causes"][0]["field"] == "spec.ports[1].nodePort"


async def test_a_changed_service_gives_back_its_old_port(wire: Wire) -> None:
    await wire.make_service("svc-a", node_port=31001)
    ports = [{"name": "p", "port": 80, "nodePort": 31002}]
    answer = await wire.call(
        "PATCH", f"{SERVICES}/svc-a", {"spec": {"ports": ports}}, kind="application/merge-patch+json"
    )
    assert answer.body["spec"]["ports"][0]["nodePort"] == 31002
    await wire.make_service("svc-b", node_port=31001)
    assert (await wire.post(SERVICES, service("svc-c", node_port=31002))).status == 422
