from __future__ import annotations

from pathlib import Path

from tests.embedded.wire import Json, Wire, fast, pod, running, service, until

PODS = "/api/v1/namespaces/rec/pods"
QUOTA = "/api/v1/namespaces/rec/resourcequotas/q"
HALF = {"limits": {"cpu": "500m", "memory": "64Mi"}}


async def limit(wire: Wire, **hard: str) -> None:
    named = {key.replace("__", "."): value for key, value in hard.items()}
    body = {"metadata": {"name": "q"}, "spec": {"hard": named}}
    answer = await wire.post("/api/v1/namespaces/rec/resourcequotas", body)
    assert answer.status == 201


async def used(wire: Wire) -> Json:
    status: Json = (await wire.get(QUOTA)).body["status"]
    return dict(status["used"])


async def test_usage_follows_pods_as_they_come_and_go(wire: Wire) -> None:
    await wire.make_pod("before", resources=HALF)
    await limit(wire, limits__cpu="2", pods="10")
    assert await used(wire) == {"limits.cpu": "500m", "pods": "1"}
    await wire.make_pod("after", resources=HALF)
    assert await used(wire) == {"limits.cpu": "1", "pods": "2"}
    await wire.delete(f"{PODS}/before?gracePeriodSeconds=0")
    assert await used(wire) == {"limits.cpu": "500m", "pods": "1"}


async def test_too_much_is_refused_until_there_is_room_again(wire: Wire) -> None:
    await limit(wire, limits__cpu="1")
    await wire.make_pod("a", resources=HALF)
    await wire.make_pod("b", resources=HALF)
    answer = await wire.post(PODS, pod("c", resources=HALF))
    assert answer.status == 403
    assert answer.message.endswith(
        "exceeded quota: q, requested: limits.cpu=500m, used: limits.cpu=1, limited: limits.cpu=1"
    )
    await wire.delete(f"{PODS}/a?gracePeriodSeconds=0")
    await wire.make_pod("c", resources=HALF)


async def test_pods_that_have_ended_do_not_count(wire: Wire) -> None:
    await limit(wire, pods="1")
    await wire.make_pod("done", "x/exit0")
    await wire.until_pod("done", lambda body: body["status"]["phase"] == "Succeeded")
    await wire.make_pod("next")
    assert (await used(wire))["pods"] == "1"


async def test_a_refused_pod_uses_nothing(wire: Wire) -> None:
    await limit(wire, limits__memory="100Mi")
    await wire.post(PODS, pod("big", resources={"limits": {"memory": "1Gi"}}))
    await wire.post(PODS, pod("Bad Name", resources=HALF))
    await wire.make_pod("a", resources=HALF)
    await wire.post(PODS, pod("a", resources={"limits": {"memory": "1Mi"}}))
    assert await used(wire) == {"limits.memory": "64Mi"}


async def test_node_ports_count_per_port(wire: Wire) -> None:
    await limit(wire, services__nodeports="2", services="5")
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    await wire.make_service("two", ports=ports)
    answer = await wire.post("/api/v1/namespaces/rec/services", service("three"))
    assert "exceeded quota: q, requested: services.nodeports=1" in answer.message
    await wire.make_service("inner", type="ClusterIP")
    assert await used(wire) == {"services": "2", "services.nodeports": "2"}


async def test_the_status_of_a_quota_follows_by_itself(wire: Wire) -> None:
    await limit(wire, pods="10")
    version = (await wire.get("/api/v1/namespaces/rec/resourcequotas")).body["metadata"]["resourceVersion"]
    path = f"/api/v1/namespaces/rec/resourcequotas?watch=1&resourceVersion={version}"
    async with wire.watching(path) as watched:
        await wire.make_pod()
        while (await watched.next())["object"]["status"]["used"] != {"pods": "1"}:
            pass


async def test_limit_ranges_give_defaults_and_check_ratios(wire: Wire) -> None:
    item = {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}}
    item["maxLimitRequestRatio"] = {"cpu": "5"}
    await wire.post("/api/v1/namespaces/rec/limitranges", {"metadata": {"name": "l"}, "spec": {"limits": [item]}})
    body = await wire.make_pod(resources={})
    assert body["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}}
    assert "LimitRanger plugin set: cpu request" in body["metadata"]["annotations"]["kubernetes.io/limit-ranger"]
    given = {"requests": {"cpu": "10m"}, "limits": {"cpu": "100m"}}
    answer = await wire.post(PODS, pod("two", resources=given))
    assert "cpu max limit to request ratio per Container is 5, but provided ratio is 10.000000" in answer.message


async def test_limit_ranges_bound_whole_pods(wire: Wire) -> None:
    item = {"type": "Pod", "max": {"memory": "100Mi"}}
    await wire.post("/api/v1/namespaces/rec/limitranges", {"metadata": {"name": "l"}, "spec": {"limits": [item]}})
    answer = await wire.post(PODS, pod("one", resources={"limits": {"memory": "1Gi"}}))
    assert answer.message.endswith("maximum memory usage per Pod is 100Mi, but limit is 1Gi")


async def test_a_saved_quota_counts_on_after_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "cluster"
    async with running(fast(state_path=state)) as wire:
        await limit(wire, pods="2")
        await wire.make_pod("a")
    async with running(fast(state_path=state)) as wire:
        await wire.make_pod("b")
        assert (await wire.post(PODS, pod("c"))).status == 403

        async def is_two() -> bool:
            return await used(wire) == {"pods": "2"}

        await until(is_two)
