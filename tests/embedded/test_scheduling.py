from __future__ import annotations

from collections import Counter

from stackd.embedded import NodeSpec
from tests.embedded.wire import Json, condition, fast, running

NODES = (NodeSpec(name="a", cpu="2", pods="3"), NodeSpec(name="b", cpu="2", pods="3", labels={"role": "other"}))
BIG = {"requests": {"cpu": "3"}, "limits": {"cpu": "3"}}
HALF = {"requests": {"cpu": "1500m"}}


def scheduled(body: Json) -> object:
    return condition(body, "PodScheduled")


def refused(body: Json) -> bool:
    return condition(body, "PodScheduled").get("reason") == "Unschedulable"


def bound(body: Json) -> object:
    return body["spec"].get("nodeName")


async def test_a_pod_goes_only_to_nodes_that_its_selector_names() -> None:
    async with running(fast(nodes=NODES)) as wire:
        await wire.make_pod(nodeSelector={"role": "other"})
        assert (await wire.until_pod("one", bound))["spec"]["nodeName"] == "b"


async def test_a_pod_goes_only_to_nodes_that_its_affinity_names() -> None:
    expression = {"key": "role", "operator": "NotIn", "values": ["stack"]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    async with running(fast(nodes=NODES)) as wire:
        await wire.make_pod(affinity=affinity)
        assert (await wire.until_pod("one", bound))["spec"]["nodeName"] == "b"


async def test_load_is_spread_over_the_nodes() -> None:
    async with running(fast()) as wire:
        for number in range(10):
            await wire.make_pod(f"p{number}")
            await wire.until_pod(f"p{number}", bound)
        pods = (await wire.get("/api/v1/pods")).body["items"]
    assert Counter(bound(body) for body in pods) == {"embedded-worker": 5, "embedded-worker2": 5}


async def test_a_refusal_counts_the_nodes_by_reason() -> None:
    async with running(fast(nodes=NODES)) as wire:
        await wire.make_pod("big", resources=BIG, nodeSelector={"role": "stack"})
        message = condition(await wire.until_pod("big", refused), "PodScheduled")["message"]
    assert message.startswith(
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector. "
    )


async def test_a_full_node_takes_a_waiting_pod_once_another_has_gone() -> None:
    async with running(fast(nodes=NODES[:1])) as wire:
        await wire.make_pod("first", resources=HALF)
        await wire.until_pod("first", bound)
        await wire.make_pod("second", resources=HALF)
        message = condition(await wire.until_pod("second", refused), "PodScheduled")["message"]
        assert message.endswith("preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
        await wire.delete("/api/v1/namespaces/rec/pods/first?gracePeriodSeconds=0")
        await wire.until_pod("second", bound)


async def test_a_pod_that_has_ended_makes_room() -> None:
    async with running(fast(nodes=NODES[:1], run_time=0.0)) as wire:
        await wire.make_pod("first", "x/exit0", resources=HALF)
        await wire.make_pod("second", resources=HALF)
        await wire.until_pod("second", bound)


async def test_a_node_takes_no_more_pods_than_it_allows() -> None:
    async with running(fast(nodes=NODES[:1])) as wire:
        for number in range(4):
            await wire.make_pod(f"p{number}", resources={})
        message = condition(await wire.until_pod("p3", refused), "PodScheduled")["message"]
    assert "1 Too many pods" in message


async def test_a_waiting_pod_goes_to_a_node_that_is_added() -> None:
    async with running(fast(nodes=NODES[:1])) as wire:
        await wire.make_pod("big", resources=BIG)
        await wire.until_pod("big", refused)
        wire.cluster.faults.add_node(name="large", cpu="8")
        assert (await wire.until_pod("big", bound))["spec"]["nodeName"] == "large"


async def test_a_cordoned_node_takes_no_pods_until_it_is_uncordoned() -> None:
    async with running(fast(nodes=NODES[:1])) as wire:
        await wire.patch("/api/v1/nodes/a", {"spec": {"unschedulable": True}})
        await wire.make_pod()
        message = condition(await wire.until_pod("one", refused), "PodScheduled")["message"]
        assert "1 node(s) were unschedulable" in message
        node = (await wire.get("/api/v1/nodes/a")).body
        assert [taint["key"] for taint in node["spec"]["taints"]] == ["node.kubernetes.io/unschedulable"]
        wire.cluster.faults.cordon("a", on=False)
        await wire.until_pod("one", bound)
        assert "taints" not in (await wire.get("/api/v1/nodes/a")).body["spec"]


async def test_a_taint_keeps_pods_away_that_do_not_tolerate_it() -> None:
    taint = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    async with running(fast(nodes=NODES[:1])) as wire:
        await wire.patch("/api/v1/nodes/a", {"spec": {"taints": [taint]}})
        await wire.make_pod("plain")
        message = condition(await wire.until_pod("plain", refused), "PodScheduled")["message"]
        assert "1 node(s) had untolerated taint {gpu: yes}" in message
        await wire.make_pod("tolerant", tolerations=[{"key": "gpu", "operator": "Exists"}])
        await wire.until_pod("tolerant", bound)


async def test_without_nodes_the_scheduler_says_so() -> None:
    async with running(fast(nodes=())) as wire:
        await wire.make_pod()
        body = await wire.until_pod("one", refused)
    assert condition(body, "PodScheduled")["message"] == "no nodes available to schedule pods"


async def test_a_sidecar_counts_with_the_containers_and_an_init_container_only_if_it_is_larger() -> None:
    sidecar = {"name": "s", "image": "x/s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}
    init = {"name": "i", "image": "x/i", "resources": {"requests": {"cpu": "500m"}}}
    async with running(fast(nodes=NODES[:1])) as wire:
        await wire.make_pod("fits", resources={"requests": {"cpu": "1"}}, initContainers=[sidecar, init])
        await wire.until_pod("fits", bound)
        await wire.make_pod("not", resources={"requests": {"cpu": "1m"}})
        assert "Insufficient cpu" in condition(await wire.until_pod("not", refused), "PodScheduled")["message"]
