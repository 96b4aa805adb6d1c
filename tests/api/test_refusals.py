"""Each refusal of the cluster, also of a dry run, is the documented status, names the limit, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stackd.embedded import EmbeddedCluster
from stackd.lifecycle.apply import PORT_TRIES
from tests.api.scenes import SEED
from tests.harness import Harness, Machine, eventually, fast_cluster, request_for, seed

DRY = "/stacks?dry_run=true"


async def nothing_is_left(at: Harness) -> None:
    await at.until_listed(0)
    assert not await at.pods_and_services()
    assert (await at.listed(), await at.used_ports()) == ([], 0)


async def test_what_the_cluster_limits_is_named_by_a_create_and_a_dry_run(at: Harness) -> None:
    limits: dict[str, Any] = {"limits": [{"type": "Container", "max": {"cpu": "50m"}}]}
    for spec, status, words in (
        (limits, 400, "maximum cpu usage per Container is 50m, but limit is 100m"),
        ({"hard": {"requests.cpu": "50m"}}, 503, "requests.cpu"),
        ({"hard": {"pods": "0"}}, 503, "pods"),
        ({"hard": {"services.nodeports": "0"}}, 503, "services.nodeports"),
    ):
        kind, name = ("limitranges", "LimitRange") if status == 400 else ("resourcequotas", "ResourceQuota tight")
        await at.apply(kind, "tight", spec=spec)
        for path in ("/stacks", DRY)[: 1 if "services" in words else 2]:  # a dry run makes no Service
            reply = await at.refused(status, words, path, seed())
            assert name in reply.error
            await nothing_is_left(at)
        await at.delete_object(kind, "tight")
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await at.kubectl("PATCH", "/api/v1/namespaces/stacks", labels)
    await at.refused(400, 'violates PodSecurity "restricted', "/stacks", seed())
    await nothing_is_left(at)


# ---- a dry run: checked by stackd and by the cluster, and nothing is written


async def test_a_dry_run_answers_the_sanitized_spec_and_makes_nothing(at: Harness) -> None:
    assert await at.post(DRY, seed()) == {
        "dry_run": True, "pod_spec": SEED["sanitized"], "requested_cpu_milli": 100, "requested_memory_bytes": 2**27
    }  # fmt: skip
    key = {"Idempotency-Key": "k"}
    await at.post(DRY, seed(), headers=key)
    assert not at.rows("SELECT * FROM idempotency")
    await at.refused(400, "", "/stacks?dry_run=perhaps", seed())
    await at.refused(400, "dry_run", "/stacks?dryrun=true", seed())
    await nothing_is_left(at)
    await at.post("/stacks?dry_run=false", request_for("nginx"), 201, headers=key)


async def test_one_stack_too_many_is_a_refusal_of_a_create_and_of_a_dry_run(vm: Machine) -> None:
    two_ports = {"stacks__node_port_min": "31001", "stacks__node_port_max": "31002"}
    for settings, words in ((two_ports, "all 2 node ports"), ({"limits__max_stacks": "2"}, "max_stacks")):
        at = await vm.start(**settings)
        first = await at.create()
        await at.post(DRY, seed())
        second = await at.create()
        reply = await at.refused(503, words, DRY, seed())
        assert (await at.refused(503, words, "/stacks", seed())).error == reply.error
        assert len(await at.objects("pods")) == 2
        await at.delete(first["stack_id"])
        third = await at.create()
        for stack in (second, third):
            await at.delete(stack["stack_id"])


# ---- node ports outside of the cluster's range, or held by others; no create tries hundreds of them


@asynccontextmanager
async def ranged(
    vm: Machine, cluster: tuple[int, int], configured: tuple[int, int], *, silent: bool = False
) -> AsyncIterator[Harness]:
    """A stackd with these ranges; a ``silent`` cluster does not tell its own range."""
    low, high = map(str, configured)
    async with EmbeddedCluster(fast_cluster(node_port_range=cluster)) as vm.cluster:
        if silent:
            vm.cluster.faults.add_fault(action="status", code=418, verb="create", resource="services", count=1)
        yield await vm.start(stacks__node_port_min=low, stacks__node_port_max=high)
        await vm.lose_file()  # it belongs to this cluster


def posts(at: Harness) -> int:
    """How often stackd has tried to create a Service."""
    return at.counts.total("create", "services")


def take(at: Harness, *ports: int) -> None:
    for port in ports:
        at.faults.take_port(port)


async def test_a_range_outside_of_the_clusters_is_said_at_once(vm: Machine) -> None:
    async with ranged(vm, (30000, 32767), (20000, 20999)) as at:
        assert posts(at) == 1, "the cluster is asked once"
        errors = [(await at.refused(503, "", "/stacks", seed())).error for _ in range(3)]
        assert (posts(at), at.counts.total("create", "pods")) == (1, 0)
        errors.append(await at.until_unready("20000-20999"))
        assert all("20000-20999" in error and "30000-32767" in error for error in errors)
        assert (await at.get("/capacity"))["fits"] == 0
        await nothing_is_left(at)


async def test_the_clusters_part_of_a_range_is_used(vm: Machine, caplog: pytest.LogCaptureFixture) -> None:
    async with ranged(vm, (30000, 31004), (31001, 32767)) as at:
        ports = [(await at.create())["ports"][0]["node_port"] for _ in range(4)]
        assert sorted(ports) == [31001, 31002, 31003, 31004]
        assert posts(at) == 1 + 4, "one request learns the range, and each create takes a port of it at once"
        await at.refused(503, "31001-31004", "/stacks", seed())
        await at.get("/readyz")
        assert "only 31001-31004 of the node ports 31001-32767 are used" in caplog.text


@pytest.mark.parametrize(("cluster", "status"), [((32700, 32767), 201), ((30000, 30500), 503)])
async def test_a_range_is_learned_from_the_first_refusal(vm: Machine, cluster: tuple[int, int], status: int) -> None:
    async with ranged(vm, cluster, (31001, 32767), silent=True) as at:
        before = posts(at)
        reply = await at.call("POST", "/stacks", seed())
        assert (reply.status, posts(at) - before <= 2) == (status, True), "the first refusal is enough"
        if status == 503:
            assert f"{cluster[0]}-{cluster[1]}" in reply.error
            before = posts(at)
            await at.refused(503, "", "/stacks", seed())
            assert posts(at) == before, "what is known is not asked again"
            await nothing_is_left(at)


async def test_when_the_api_server_comes_back_with_another_range_its_ports_are_used(vm: Machine) -> None:
    async with ranged(vm, (30000, 30500), (31001, 31010)) as at:
        await at.refused(503, "", "/stacks", seed())
        at.cluster.ports._low, at.cluster.ports._high = 30000, 32767
        at.faults.compact()
        at.verify_again()
        await at.until_ready()
        await at.create()


async def test_a_create_tries_some_ports_that_others_held(vm: Machine) -> None:
    async with ranged(vm, (30000, 32767), (31001, 31003)) as at:
        take(at, 31001, 31003)
        stack = await at.create()
        ports = (await at.objects("services"))[stack["service_name"]]["spec"]["ports"]
        assert stack["ports"][0]["node_port"] == ports[0]["nodePort"] == 31002
        await at.refused(503, "are in use; delete stacks", "/stacks", seed())
        assert (len(await at.objects("pods")), await at.used_ports()) == (1, 1)
    async with ranged(vm, (30000, 32767), (31001, 31400)) as at:
        take(at, *range(31001, 31401))
        before = posts(at)
        await at.refused(503, "other Services in the cluster hold", "/stacks", seed())
        assert posts(at) - before == PORT_TRIES, "a create does not try hundreds of ports"
        await at.until_listed(0)
        at.faults.add_fault(action="latency", seconds=0.1, verb="create", resource="services")
        before = posts(at)
        leaving = asyncio.create_task(at.call("POST", "/stacks", seed()))
        await eventually(lambda: posts(at) - before >= 2)
        leaving.cancel()
        await nothing_is_left(at)
        assert posts(at) - before < 10, "nobody waits for these ports any more"


@pytest.mark.stackd(stacks__unschedulable_grace="20s")
async def test_a_create_whose_time_is_up_before_a_node_has_it_is_a_503_and_undone(at: Harness) -> None:
    """The API has no 404 for a create."""
    for node in await at.objects("nodes"):
        at.faults.remove_node(node)
    at.reload("stacks", ttl=0.3)
    await at.refused(503, "expired during its create", "/stacks", seed())
    await nothing_is_left(at)
