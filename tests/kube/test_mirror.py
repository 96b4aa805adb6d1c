"""The mirror: what it keeps, whom it notifies, and who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from stackd.kube import watch
from stackd.kube.client import Cluster
from stackd.kube.mirror import Changed, Mirror, Relisted
from stackd.kube.objects import PodState, pod_state
from tests.kube.wire import (
    NODES_PATH,
    PODS_PATH,
    Stream,
    Wire,
    changes_of_pods,
    items,
    mirroring,
    of_pods,
    pod,
    says,
    seen,
    status,
    then,
    until,
)


async def test_lists_and_watches_make_the_copy_of_our_objects_alone(cluster: Cluster, wire: Wire) -> None:
    unlabelled = pod("bare", version=103)
    unlabelled["metadata"]["labels"] = {}
    wire.on("GET", PODS_PATH, says(items(pod("a"), pod("b"), pod("theirs", instance="green"), version=77)))
    wire.watch(
        "pods",
        then(
            ("ADDED", pod("c", version=101)),
            ("ADDED", unlabelled),
            ("ADDED", pod("theirs-too", instance="green", version=103)),
            ("DELETED", pod("a", version=104)),
            ("MODIFIED", pod("b", version=105)),
        ),
    )
    async with mirroring(cluster) as (mirror, changes):
        await seen(mirror, "b", 105)
        assert set(mirror.pods) == {"b", "c"}
        assert changes_of_pods(changes) == [
            ("a", "came"), ("b", "came"), ("c", "came"), ("a", "went"), ("b", "changed"),
        ]  # fmt: skip
    selector = "app.kubernetes.io/managed-by=stackd,stackd.io/instance=default"
    assert wire.asked("GET", PODS_PATH, watch=False)[0].query == {"labelSelector": selector, "limit": "500"}
    query = wire.asked("GET", PODS_PATH, watch=True)[0].query
    assert 300 <= int(query.pop("timeoutSeconds")) <= 600
    assert query == {
        "labelSelector": selector,
        "watch": "true",
        "resourceVersion": "77",
        "allowWatchBookmarks": "true",
    }
    assert "labelSelector" not in wire.asked("GET", NODES_PATH, watch=False)[0].query


async def test_the_copy_is_in_sync_only_when_all_three_are_listed(cluster: Cluster, wire: Wire) -> None:
    wire.on("GET", NODES_PATH, *[says(status(500, "InternalError", "not yet"), 500)] * 2)
    mirror = Mirror(cluster)
    await asyncio.wait_for(mirror.relist(), 30)  # before, what had listed nothing yet waited for ever
    relisted: list[str] = []
    mirror.subscribe(lambda change: relisted.append(change.kind) if isinstance(change, Relisted) else None)
    task = asyncio.create_task(mirror.run())
    await until(lambda: len(relisted) == 2)
    assert not mirror.synced
    await asyncio.wait_for(mirror.wait_synced(), 10)
    assert set(relisted) == {"pods", "services", "nodes"}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_pod_that_was_made_again_under_its_name_has_gone_and_come(cluster: Cluster, wire: Wire) -> None:
    wire.on("GET", PODS_PATH, says(items(pod("a", uid="u1"))))
    wire.watch(
        "pods",
        then(
            ("ADDED", pod("a", uid="u2", version=104)),
            ("DELETED", pod("a", uid="u1", version=105)),
            ("MODIFIED", pod("a", uid="u2", version=106)),
        ),
    )
    async with mirroring(cluster) as (mirror, changes):
        await seen(mirror, "a", 106)
        assert [
            (change.before and change.before.uid, change.after and change.after.uid) for change in of_pods(changes)
        ] == [(None, "u1"), ("u1", None), (None, "u2"), ("u2", "u2")]


async def test_waiting_for_a_pod_sees_each_state_and_times_out(cluster: Cluster, wire: Wire) -> None:
    steps = [pod("a", version=100 + n, phase=phase) for n, phase in enumerate(("Pending", "Running", "Failed"))]
    wire.watch("pods", then(*[("MODIFIED", step) for step in steps], ("DELETED", pod("a", version=110))))

    def is_in(phase: str) -> Callable[[PodState | None], str | None]:
        return lambda state: state.resource_version if state is not None and state.phase == phase else None

    mirror = Mirror(cluster)
    waiting = [asyncio.create_task(mirror.until("a", is_in(p), timeout=10)) for p in ("Running", "Failed")]
    task = asyncio.create_task(mirror.run())
    assert await asyncio.gather(*waiting) == ["101", "102"]
    with pytest.raises(TimeoutError):
        await mirror.until("a", is_in("Succeeded"), timeout=0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_subscriber_that_fails_ends_the_mirror_instead_of_being_ignored(cluster: Cluster) -> None:
    mirror = Mirror(cluster)

    def fail(_: Changed | Relisted) -> None:
        raise RuntimeError("cannot cope")

    mirror.subscribe(fail)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(mirror.run(), 30)
    assert caught.group_contains(RuntimeError, match="cannot cope")


class Hands:
    """A clock that moves only when a test sets it."""

    at = 1000.0

    def now(self) -> int:
        return 0

    def monotonic(self) -> float:
        return self.at


async def test_staleness_is_that_of_the_worst_of_the_three(cluster: Cluster, wire: Wire) -> None:
    go_on = asyncio.Event()

    async def lively(stream: Stream) -> None:
        await stream.bookmark("250")
        await go_on.wait()
        await stream.bookmark("300")
        await wire.forever()

    clock = Hands()
    wire.watch("pods", lively)
    mirror = Mirror(cluster, clock=clock)
    clock.at += 7
    assert (mirror.staleness(), mirror.disconnected_since) == (7, 1000.0)
    task = asyncio.create_task(mirror.run())
    pods = mirror.health_by_kind["pods"]
    await until(lambda: pods.bookmarks and mirror.disconnected_since is None and mirror.staleness() == 0)
    clock.at += 50
    go_on.set()
    await until(lambda: pods.bookmarks == 2)
    assert (pods.staleness(), mirror.staleness()) == (0, 50)
    assert mirror.disconnected_since is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_answer_that_the_watch_has_overtaken_changes_nothing(cluster: Cluster, wire: Wire) -> None:
    """The answers to two creates come after the watch has reported that one pod runs and that the other is gone."""
    running = ("MODIFIED", pod("a", version=103, phase="Running"))
    wire.watch("pods", then(("ADDED", pod("b", version=102)), running, ("DELETED", pod("b", version=104))))
    async with mirroring(cluster) as (mirror, changes):
        await until(lambda: mirror.health_by_kind["pods"].version == "104")
        for name in "ab":
            mirror.saw(pod_state(pod(name, version=102, phase="Pending")))
        assert {name: one.phase for name, one in mirror.pods.items()} == {"a": "Running"}
        mirror.saw(pod_state(pod("b", version=105)))
        assert changes_of_pods(changes)[-1] == ("b", "came")


async def test_a_pod_reported_later_was_not_missed(
    cluster: Cluster, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MISSED_SECONDS", 0.0)
    wire.on("GET", PODS_PATH, says(items(pod("a", version=100))))
    async with mirroring(cluster) as (mirror, _):
        withheld = []
        for name, version in (("a", 99), ("b", 101)):
            mirror.missed(pod_state(pod(name, version=version)))
            withheld.append(mirror.withheld)
        mirror.health_by_kind["pods"].listed("101")
        assert [*withheld, mirror.withheld] == [False, True, False]
