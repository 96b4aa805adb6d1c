"""The embedded cluster's responses, compared with those of a real API server: every recording is replayed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.embedded import test_conversations as conversations
from tests.embedded.scenes import SCENES, SETTLED, Scene, doomed_node, normal, options, replay, settled
from tests.embedded.wire import Json, running
from tests.kube.wire import all_recordings, recording

COMPARED_BELOW = {
    "events-list-badimage",
    "events-list-toobig",
    "nodes-list",
    "version",
    "watch-410",
    "watch-node-deleted",
    "watch-pod-on-deleted-node",
    "watch-pods-delete",
    "watch-pods-lifecycle",
}
NOT_COVERED = {
    "pod-log-404-kubelet": "the embedded kubelet knows each pod of its node",
    "service-create-owned": "stackd's Services belong to no pod",
    "service-owned-gc": "stackd's Services belong to no pod",
}
"""Recording → the reason why it is not replayed."""

GIVEN_PORT = {"service-create-201", "service-delete-200", "service-create-409"}
ELSEWHERE = COMPARED_BELOW | set(conversations.REPLAYED) | NOT_COVERED.keys()


@pytest.mark.parametrize("name", sorted({*all_recordings()} - ELSEWHERE))
async def test_the_embedded_cluster_answers_as_recorded(name: str) -> None:
    scene, recorded = SCENES.get(name, Scene()), recording(name)
    async with running(options()) as wire:
        if not scene.namespace:
            await wire.delete("/api/v1/namespaces/rec")
            await wire.until_gone("/api/v1/namespaces/rec")
        for prepare in scene.prepare:
            await prepare(wire)
        request = recorded["request"]
        kind = request.get("content_type", "application/json")
        answer = await wire.as_user(scene.token).call(request["method"], request["path"], request["body"], kind=kind)
    expected = recorded["response"]
    assert answer.status == expected["status"]
    keep = name in GIVEN_PORT
    found, wanted = (_sorted_lists(normal(body, keep_ports=keep)) for body in (answer.body, expected["body"]))
    assert found == wanted


def _sorted_lists(body: Any) -> Any:
    """LimitRange lists its violations in any order (it iterates over a Go map)."""
    if isinstance(body, dict) and (match := re.fullmatch(r"(.*: )\[(.*)\]", str(body.get("message")))):
        parts = sorted(re.split(r", (?=m[ai])", match[2]))
        return body | {"message": f"{match[1]}{parts}"}
    return body


async def test_nodes_look_as_recorded_where_stackd_looks() -> None:
    recorded = recording("nodes-list")["response"]["body"]
    async with running(options()) as wire:
        body = (await wire.get("/api/v1/nodes")).body
    assert body["kind"] == recorded["kind"]
    for node, other in zip(body["items"], recorded["items"], strict=True):
        assert node["metadata"]["name"] == other["metadata"]["name"]
        for name in ("cpu", "memory", "pods", "ephemeral-storage"):
            assert node["status"]["allocatable"].get(name) == other["status"]["allocatable"].get(name)
        assert node["metadata"]["labels"].items() <= other["metadata"]["labels"].items()
        for key in ("unschedulable", "taints"):
            assert normal(node["spec"].get(key)) == normal(other["spec"].get(key))


async def test_the_version_has_the_recorded_fields() -> None:
    async with running(options()) as wire:
        answer = await wire.get("/version")
    recorded = recording("version")["response"]["body"]
    assert answer.body.keys() == recorded.keys()
    assert (answer.body["major"], answer.body["minor"]) == (recorded["major"], recorded["minor"])


@pytest.mark.parametrize("name", ["badimage", "toobig"])
async def test_events_tell_what_was_recorded(name: str) -> None:
    recorded = recording(f"events-list-{name}")
    async with running(options()) as wire:
        await settled(wire, name)
        answer = await wire.get(recorded["request"]["path"])
    expected = [event for event in recorded["response"]["body"]["items"] if event["reason"] != "MissingClusterDNS"]
    if name == "toobig":  # the recording has a second event, of the scheduler's next attempt seconds later
        del expected[1:]
    assert normal(answer.body["items"]) == normal(expected)


async def test_a_watch_from_a_forgotten_version_ends_as_recorded() -> None:
    recorded = recording("watch-410")
    async with running(options()) as wire:
        wire.cluster.faults.compact()
        events = await wire.watch_all(recorded["request"]["path"])
    assert normal(events) == normal(recorded["events"])


def _steps(events: list[Json], *names: str) -> dict[str, list[Any]]:
    """For each pod and event that shows a change: type, phase, conditions, container states, and marks of deletion."""
    steps: dict[str, list[Any]] = {name: [] for name in names}
    for event in events:
        metadata, status = event["object"]["metadata"], event["object"]["status"]
        if metadata.get("name") in steps:
            conditions = [(one["type"], one["status"], one.get("reason")) for one in status.get("conditions", ())]
            containers = [
                (normal(one["state"]), one["ready"], one["restartCount"], one["started"])
                for one in status.get("containerStatuses", ())
            ]
            marks = (metadata["generation"], metadata.get("deletionGracePeriodSeconds"), "podIP" in status)
            step = (event["type"], status["phase"], conditions, containers, marks)
            if step not in steps[metadata["name"]][-1:]:
                steps[metadata["name"]].append(step)
    return steps


async def test_pods_go_through_the_recorded_steps() -> None:
    recorded = recording("watch-pods-lifecycle")
    async with running(options()) as wire:
        listed = (await wire.get("/api/v1/namespaces/rec/pods")).body
        await settled(wire, *SETTLED)
        version = listed["metadata"]["resourceVersion"]
        path = (
            f"/api/v1/namespaces/rec/pods?watch=1&resourceVersion={version}&allowWatchBookmarks=true&timeoutSeconds=1"
        )
        events = await wire.watch_all(path)
    assert _steps(events, *SETTLED) == _steps(recorded["events"], *SETTLED)
    assert normal(events[-1]) == normal(recorded["events"][-1])
    whole = [event for event in events if event["object"]["metadata"].get("name") == "ok"]
    expected = [event for event in recorded["events"] if event["object"]["metadata"].get("name") == "ok"]
    assert normal(whole) == normal(expected)


async def test_pods_are_deleted_in_the_recorded_steps() -> None:
    recorded = recording("watch-pods-delete")
    async with running(options()) as wire:
        await settled(wire, "ok", "badimage")
        version = (await wire.get("/api/v1/namespaces/rec/pods")).body["metadata"]["resourceVersion"]
        await replay(wire, "pod-delete-200-grace0")
        await replay(wire, "pod-delete-200-grace")
        await wire.until_gone("/api/v1/namespaces/rec/pods/badimage")
        events = await wire.watch_all(f"/api/v1/namespaces/rec/pods?watch=1&resourceVersion={version}&timeoutSeconds=1")
    assert normal(events) == normal(recorded["events"])


async def test_a_node_that_is_deleted_is_seen_to_go_as_recorded() -> None:
    recorded = recording("watch-node-deleted")
    async with running(options()) as wire:
        version = await doomed_node(wire)
        path = f"/api/v1/nodes?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Ddoomed"
        async with wire.watching(path) as watched:
            events = [await watched.next()]
            await replay(wire, "node-delete-200")
            events.append(await watched.next())
    assert normal(events) == normal(recorded["events"])


async def test_a_pod_on_a_node_that_is_gone_ends_as_recorded() -> None:
    recorded = recording("watch-pod-on-deleted-node")
    async with running(options()) as wire:
        await doomed_node(wire)
        version = (await wire.get("/api/v1/namespaces/rec/pods")).body["metadata"]["resourceVersion"]
        path = f"/api/v1/namespaces/rec/pods?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Dlost"
        async with wire.watching(path) as watched:
            first = recorded["events"][0]["object"]
            lost = {"metadata": {"name": "lost", "labels": first["metadata"]["labels"]}, "spec": first["spec"]}
            await wire.post("/api/v1/namespaces/rec/pods", lost)
            status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            await wire.patch("/api/v1/namespaces/rec/pods/lost/status", {"status": status})
            await replay(wire, "node-delete-200")
            events = [await watched.next() for _ in recorded["events"]]
    assert normal(events) == normal(recorded["events"])
