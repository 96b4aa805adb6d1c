from __future__ import annotations

import asyncio

import pytest

from stackd.embedded import ManualClock, node_specs
from tests.embedded.wire import Json, Wire, condition, fast, running, waiting


def ready(body: Json) -> bool:
    return condition(body, "Ready").get("status") == "True"


async def test_an_image_decides_how_a_pod_ends(wire: Wire) -> None:
    ends = {"fail": ("Failed", 1, "Error"), "fail-7": ("Failed", 7, "Error"), "exit0": ("Succeeded", 0, "Completed")}
    ends |= {"oom": ("Failed", 137, "OOMKilled"), "nostart": ("Failed", 128, "StartError")}
    for name, (wanted, code, reason) in ends.items():
        await wire.make_pod(name, f"registry.example/scripts/{name}:v1")
        body = await wire.until_pod(name, lambda body: body["status"]["phase"] in {"Failed", "Succeeded"})
        assert body["status"]["phase"] == wanted
        end = body["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (end["exitCode"], end["reason"]) == (code, reason)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("x/badname", "InvalidImageName"),
        ("x/nopull", "ImagePullBackOff"),
        ("x/noconfig", "CreateContainerConfigError"),
        ("registry.invalid/x", "ImagePullBackOff"),
    ],
)
async def test_an_image_decides_what_a_pod_waits_for(wire: Wire, image: str, reason: str) -> None:
    await wire.make_pod(image=image)
    body = await wire.until_pod("one", lambda body: waiting(body) == reason)
    assert body["status"]["phase"] == "Pending"


async def test_a_late_pull_fails_first_and_then_the_pod_runs(wire: Wire) -> None:
    version = (await wire.get("/api/v1/pods")).body["metadata"]["resourceVersion"]
    await wire.make_pod(image="x/latepull")
    seen = []
    async with wire.watching(f"/api/v1/pods?watch=1&resourceVersion={version}") as watched:
        while not ready(body := (await watched.next())["object"]):
            seen.append(waiting(body))
    assert {"ErrImagePull", "ImagePullBackOff"} <= set(seen)


async def test_a_slow_pull_keeps_a_pod_creating_for_as_long_as_it_takes() -> None:
    async with running(fast(slow_pull=0.1)) as wire:
        await wire.make_pod(image="x/slowpull")
        await wire.until_pod("one", lambda body: condition(body, "PodReadyToStartContainers").get("status") == "True")
        assert waiting(await wire.pod()) == "ContainerCreating"
        await wire.until_pod("one", ready)


async def test_a_start_that_is_held_comes_when_it_is_let(wire: Wire) -> None:
    await wire.make_pod("before")
    await wire.until_pod("before", ready)
    wire.cluster.faults.hold_starts()
    for name in ("one", "other"):
        await wire.make_pod(name)
        await wire.until_pod(name, lambda body: condition(body, "PodReadyToStartContainers").get("status") == "True")
    assert ready(await wire.pod("before"))
    await wire.delete("/api/v1/namespaces/rec/pods/other")
    await wire.until_gone("/api/v1/namespaces/rec/pods/other")
    assert waiting(await wire.pod()) == "ContainerCreating"
    wire.cluster.faults.let_start()
    await wire.until_pod("one", ready)


async def test_a_node_pulls_what_it_does_not_have_one_image_after_the_other() -> None:
    clock = ManualClock()
    async with running(fast(nodes=node_specs(1), start_delay=0.0, pull=30.0, clock=clock)) as wire:
        for name, image in (("one", "x/first"), ("two", "x/second"), ("three", "x/first")):
            await wire.make_pod(name, image)
            await wire.until_pod(name, lambda body: waiting(body) == "ContainerCreating")
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
        events = (await wire.get("/api/v1/namespaces/rec/events?fieldSelector=involvedObject.name=two")).body["items"]
        assert [event["reason"] for event in events] == ["Scheduled", "Pulling", "Pulled", "Created", "Started"]


async def test_a_pod_that_crashes_is_restarted_with_growing_pauses(wire: Wire) -> None:
    await wire.make_pod(image="x/crashloop", restartPolicy="Always")
    body = await wire.until_pod("one", lambda body: waiting(body) == "CrashLoopBackOff" and _restarts(body) >= 2)
    entry = body["status"]["containerStatuses"][0]
    assert body["status"]["phase"] == "Running"
    assert entry["lastState"]["terminated"]["exitCode"] == 1
    assert entry["state"]["waiting"]["message"].startswith("back-off ")


def _restarts(body: Json) -> int:
    count: int = body["status"]["containerStatuses"][0]["restartCount"]
    return count


async def test_on_failure_restarts_failures_alone(wire: Wire) -> None:
    await wire.make_pod("done", "x/exit0", restartPolicy="OnFailure")
    await wire.make_pod("bad", "x/fail", restartPolicy="OnFailure")
    await wire.until_pod("done", lambda body: body["status"]["phase"] == "Succeeded")
    await wire.until_pod("bad", lambda body: _restarts(body) > 0)


async def test_a_pod_may_run_and_never_be_ready(wire: Wire) -> None:
    await wire.make_pod(image="x/notready")
    body = await wire.until_pod("one", lambda body: body["status"]["phase"] == "Running")
    assert condition(body, "Ready")["reason"] == "ContainersNotReady"
    assert body["status"]["containerStatuses"][0]["started"]


async def test_a_pod_may_lose_its_readiness(wire: Wire) -> None:
    version = (await wire.get("/api/v1/pods")).body["metadata"]["resourceVersion"]
    await wire.make_pod(image="x/unready")
    async with wire.watching(f"/api/v1/pods?watch=1&resourceVersion={version}") as watched:
        while not ready((await watched.next())["object"]):
            pass
        last = (await watched.next())["object"]
    assert (last["status"]["phase"], condition(last, "Ready")["status"]) == ("Running", "False")


async def test_a_missing_secret_is_waited_for_and_found(wire: Wire) -> None:
    env = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}}]
    await wire.make_pod(container={"env": env})
    await wire.until_pod("one", lambda body: waiting(body) == "CreateContainerConfigError")
    await wire.post("/api/v1/namespaces/rec/secrets", {"metadata": {"name": "late"}, "data": {"k": "dg=="}})
    await wire.until_pod("one", ready)


async def test_a_volume_from_a_missing_config_map_keeps_a_pod_creating(wire: Wire) -> None:
    await wire.make_pod(volumes=[{"name": "v", "configMap": {"name": "late"}}])
    path = "/api/v1/namespaces/rec/events?fieldSelector=involvedObject.name=one,reason=FailedMount"
    await wire.until_pod("one", lambda body: waiting(body) == "ContainerCreating")
    while not (await wire.get(path)).body["items"]:
        await asyncio.sleep(0.005)
    assert waiting(await wire.pod()) == "ContainerCreating"
    await wire.post("/api/v1/namespaces/rec/configmaps", {"metadata": {"name": "late"}})
    await wire.until_pod("one", ready)


async def test_init_containers_complete_and_sidecars_go_on(wire: Wire) -> None:
    inits = [{"name": "first", "image": "x/init"}, {"name": "side", "image": "x/side", "restartPolicy": "Always"}]
    await wire.make_pod(initContainers=inits)
    body = await wire.until_pod("one", ready)
    states = {one["name"]: list(one["state"]) for one in body["status"]["initContainerStatuses"]}
    assert states == {"first": ["terminated"], "side": ["running"]}


async def test_a_pod_with_two_containers_ends_when_both_have(wire: Wire) -> None:
    containers = [{"name": "a", "image": "x/exit0"}, {"name": "b", "image": "x/fail"}]
    await wire.make_pod(containers=containers)
    body = await wire.until_pod("one", lambda body: body["status"]["phase"] == "Failed")
    assert all("terminated" in one["state"] for one in body["status"]["containerStatuses"])


async def test_a_running_pod_stops_in_an_orderly_way(wire: Wire) -> None:
    await wire.make_pod()
    version = (await wire.until_pod("one", ready))["metadata"]["resourceVersion"]
    async with wire.watching(f"/api/v1/pods?watch=1&resourceVersion={version}") as watched:
        await wire.delete("/api/v1/namespaces/rec/pods/one")
        events = [await watched.next()]
        while events[-1]["type"] != "DELETED":
            events.append(await watched.next())
    last = events[-1]["object"]
    assert events[0]["object"]["metadata"]["deletionGracePeriodSeconds"] == 30
    assert last["status"]["phase"] == "Succeeded"
    assert last["metadata"]["deletionGracePeriodSeconds"] == 0


async def test_a_pod_that_is_not_bound_goes_at_once(wire: Wire) -> None:
    await wire.make_pod(nodeSelector={"no": "where"})
    await wire.delete("/api/v1/namespaces/rec/pods/one")
    assert (await wire.get("/api/v1/namespaces/rec/pods/one")).status == 404


async def test_pods_outlive_their_node_for_a_while_and_stay_if_it_comes_back() -> None:
    clock = ManualClock()
    async with running(fast(clock=clock, pod_gc_delay=60.0, start_delay=0.0)) as wire:
        await wire.make_pod()
        node = (await wire.until_pod("one", ready))["spec"]["nodeName"]
        wire.cluster.faults.remove_node(node)
        clock.advance(59)
        assert ready(await wire.pod())
        wire.cluster.faults.add_node(name=node)
        clock.advance(60)
        assert ready(await wire.pod())
        wire.cluster.faults.remove_node(node)
        clock.advance(60)
        assert (await wire.get("/api/v1/namespaces/rec/pods/one")).status == 404


async def test_logs_are_cut_to_lines_and_bytes(wire: Wire) -> None:
    await wire.make_pod(image="x/fail")
    await wire.until_pod("one", lambda body: body["status"]["phase"] == "Failed")
    path = "/api/v1/namespaces/rec/pods/one/log"
    assert (await wire.get(path)).body == "starting\nboom\n"
    assert (await wire.get(f"{path}?tailLines=1")).body == "boom\n"
    assert (await wire.get(f"{path}?limitBytes=4")).body == "star"
    assert (await wire.get(f"{path}?container=other")).status == 400


async def test_events_tell_the_story_of_a_pod(wire: Wire) -> None:
    await wire.make_pod()
    await wire.until_pod("one", ready)
    answer = await wire.get("/api/v1/namespaces/rec/events?fieldSelector=involvedObject.name=one")
    assert [event["reason"] for event in answer.body["items"]] == ["Scheduled", "Pulled", "Created", "Started"]
