"""The mirror: what it keeps and whom it notifies; and every way in which a watch can end, be silent or be wrong."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest
from msgspec import json

from stackd.kube import watch
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget
from stackd.kube.mirror import Mirror, Relisted
from stackd.kube.objects import pod_state
from stackd.workqueue import RetryPolicy
from tests.harness import eventually
from tests.kube.samples import SYSTEM, kubeconfig
from tests.kube.wire import (
    NAMESPACE,
    NODES_PATH,
    PODS_PATH,
    SERVICES_PATH,
    Reply,
    Stream,
    Wire,
    changes_of_pods,
    held,
    items,
    loses,
    mirroring,
    namespace,
    of_pods,
    page,
    pod,
    says,
    seen,
    status,
    then,
    waits,
)  # fmt: skip


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
    selector = "stackd.io/instance=default"
    assert wire.asked("GET", PODS_PATH, watch=False)[0].query == {"labelSelector": selector, "limit": "500"}
    query = wire.asked("GET", PODS_PATH, watch=True)[0].query
    assert (query["labelSelector"], query["resourceVersion"]) == (selector, "77")
    assert "labelSelector" not in wire.asked("GET", NODES_PATH, watch=False)[0].query


async def test_the_copy_is_in_sync_only_when_all_three_are_listed(cluster: Cluster, wire: Wire) -> None:
    go, refusal = asyncio.Event(), says(status(500, "InternalError", "not yet"), 500)
    wire.on("GET", NODES_PATH, refusal, held(go, refusal))
    mirror = Mirror(cluster)
    await asyncio.wait_for(mirror.relist(), 30)  # before, what had listed nothing yet waited for ever
    relisted: list[str] = []
    mirror.subscribe(lambda change: relisted.append(change.kind) if isinstance(change, Relisted) else None)
    task = asyncio.create_task(mirror.run())
    await eventually(lambda: len(relisted) == 2)
    assert not mirror.synced
    go.set()
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


async def test_a_subscriber_that_fails_ends_the_mirror_instead_of_being_ignored(cluster: Cluster) -> None:
    mirror = Mirror(cluster)

    def fail(_: object) -> None:
        raise RuntimeError("cannot cope")

    mirror.subscribe(fail)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(mirror.run(), 30)
    assert caught.group_contains(RuntimeError, match="cannot cope")


async def test_an_answer_that_the_watch_has_overtaken_changes_nothing(cluster: Cluster, wire: Wire) -> None:
    """The answers to two creates come after the watch has reported that one pod runs and that the other is gone."""
    running = ("MODIFIED", pod("a", version=103, phase="Running"))
    wire.watch("pods", then(("ADDED", pod("b", version=102)), running, ("DELETED", pod("b", version=104))))
    async with mirroring(cluster) as (mirror, changes):
        await eventually(lambda: mirror.health_by_kind["pods"].version == "104")
        for name in "ab":
            mirror.saw(pod_state(pod(name, version=102, phase="Pending")))
        assert {name: one.phase for name, one in mirror.pods.items()} == {"a": "Running"}
        mirror.saw(pod_state(pod("b", version=105)))
        assert changes_of_pods(changes)[-1] == ("b", "came")


@pytest.mark.parametrize("unverified", [False, True])
async def test_what_a_late_watch_reports_of_an_object_that_stackd_has_removed_is_outdated(
    cluster: Cluster, wire: Wire, *, unverified: bool
) -> None:
    """Unless another cluster may have said that it is gone. Another object of the name is news."""
    removed = asyncio.Event()

    async def late(stream: Stream) -> None:
        await stream.send("ADDED", pod("a", uid="u1", version=102))
        await removed.wait()
        await stream.send("MODIFIED", pod("a", uid="u1", version=103, phase="Running"))
        await stream.send("DELETED", pod("a", uid="u1", version=104))
        await stream.send("ADDED", pod("a", uid="u2", version=105))
        await asyncio.sleep(60)

    wire.watch("pods", late)
    async with mirroring(cluster) as (mirror, changes):
        mirror.removed(await seen(mirror, "a", 102))
        if unverified:
            cluster.connection.identity.doubt()
        removed.set()
        await seen(mirror, "a", 105)
        between = [("a", "came"), ("a", "went")] if unverified else []
        assert changes_of_pods(changes)[-2 - len(between) :] == [("a", "went"), *between, ("a", "came")]
        assert changes_of_pods(changes)[: -2 - len(between)] == [("a", "came")]


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


# ---- the watch


def versions(wire: Wire) -> list[str]:
    """From which versions the watch of pods was opened."""
    return [request.query["resourceVersion"] for request in wire.asked("GET", PODS_PATH, watch=True)]


async def test_a_watch_that_ends_goes_on_where_it_was_without_a_new_list(cluster: Cluster, wire: Wire) -> None:
    async def bookmark(stream: Stream) -> None:
        await stream.bookmark("900")

    wire.watch(
        "pods", then(("ADDED", pod("a", version=205)), stay=False), bookmark, then(("MODIFIED", pod("a", version=909)))
    )
    async with mirroring(cluster) as (mirror, changes):
        await seen(mirror, "a", 909)
        pods = mirror.health_by_kind["pods"]
        assert (pods.relists, pods.bookmarks, mirror.disconnected_since) == (0, 1, None)
        assert changes_of_pods(changes) == [("a", "came"), ("a", "changed")]
    assert versions(wire) == ["1", "205", "900"]
    assert len(wire.asked("GET", PODS_PATH, watch=False)) == 1


@pytest.mark.parametrize("refused", [False, True], ids=["event", "refusal"])
async def test_after_a_gap_the_differences_are_reported(cluster: Cluster, wire: Wire, *, refused: bool) -> None:
    async def too_old(stream: Stream) -> None:
        await stream.send("ERROR", status(410, "Expired", "too old resource version: 100 (16249)"))

    wire.on("GET", PODS_PATH, says(items(pod("stays"), pod("went"), pod("moved", version=10))))
    if refused:
        wire.on("WATCH", PODS_PATH, says(status(410, "Expired", "too old resource version"), 410))
    else:
        wire.watch("pods", too_old)
    async with mirroring(cluster) as (mirror, changes):
        changes.clear()
        wire.on("GET", PODS_PATH, says(items(pod("stays"), pod("moved", version=50), pod("came"), version=300)))
        await eventually(lambda: any(isinstance(change, Relisted) and change.kind == "pods" for change in changes))
        assert changes_of_pods(changes) == [("went", "went"), ("moved", "changed"), ("came", "came")]
        assert changes.index(Relisted(kind="pods")) > changes.index(of_pods(changes)[-1])
        assert mirror.health_by_kind["pods"].relists == 1
        await eventually(lambda: len(wire.asked("GET", PODS_PATH, watch=True)) == 2)
    assert versions(wire) == ["100", "300"]


def unreadable(version: int) -> dict[str, object]:
    odd = pod("b", version=version)
    del odd["metadata"]["creationTimestamp"]
    return odd


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"MODIF\n',
        b'{"type":"DELETED","object":{"metadata":{"name":"a","uid":"uid-of-a","resourceVersion":"9"}}}\n',
        b'{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"0"}}}\n',
        b'{"type":"ERROR","object":{"code":410}}\n',
        b'{"type":"SURPRISE","object":{"metadata":{"resourceVersion":"9"}}}\n',
        b"[" * 5000 + b"]" * 5000 + b"\n",
        b"x" * (9 << 20),
        json.encode({"type": "ADDED", "object": unreadable(206)}) + b"\n",
        b'{"type":"ADDED","object":{"metadata":{"na',
    ],
)
async def test_an_unreadable_line_costs_only_a_reconnect(
    cluster: Cluster, wire: Wire, monkeypatch: pytest.MonkeyPatch, line: bytes
) -> None:
    monkeypatch.setattr(watch, "IDLE_SECONDS", 60.0)  # it is not taken for silence

    async def garbled(stream: Stream) -> None:
        await stream.send("ADDED", pod("a", version=205))
        await stream.raw(line)
        if line.endswith(b'"na'):
            stream.cut()
        await asyncio.sleep(60)

    wire.watch("pods", garbled, then(("ADDED", pod("b", version=206))))
    async with mirroring(cluster) as (mirror, _):
        await seen(mirror, "b", 206)
        assert set(mirror.pods) == {"a", "b"}
    assert versions(wire) == ["1", "205"]


async def test_a_list_with_an_object_that_cannot_be_read_is_taken_again(cluster: Cluster, wire: Wire) -> None:
    wire.on("GET", PODS_PATH, says(items(pod("a"), unreadable(9))), says(items(pod("a"), pod("b"))))
    async with mirroring(cluster) as (mirror, _):
        assert set(mirror.pods) == {"a", "b"}


@pytest.mark.parametrize(
    "odd",
    [
        page("<html>It works!</html>", kind="application/json"),
        page('{"type":"ADDED","object":{"kind":"Pod"', kind="application/json"),
        says(status(404, "NotFound", "the server could not find the requested resource"), 404),
        says(status(429, "TooManyRequests", "slow down"), 429, Retry_After="9" * 5000),
        says(status(503, "No", "not now"), 503),
        loses(),
    ],
    ids=["called JSON", "half", "no path", "429", "503", "lost"],
)
async def test_what_is_no_watch_is_an_outage(
    cluster: Cluster, wire: Wire, odd: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    go = asyncio.Event()
    wire.on("WATCH", PODS_PATH, *[odd] * 3, held(go, odd))
    wire.watch("pods", then(("ADDED", pod("a", version=205))))
    async with mirroring(cluster) as (mirror, _):
        pods = mirror.health_by_kind["pods"]
        await eventually(lambda: pods.last_error)
        since = pods.disconnected_since
        assert since is not None
        assert "html" not in mirror.last_error
        await eventually(lambda: len(wire.asked("GET", PODS_PATH, watch=True)) >= 4)
        assert pods.disconnected_since == since
        go.set()
        await seen(mirror, "a", 205)
        assert (mirror.disconnected_since, pods.last_error) == (None, "")
    assert len(wire.asked("GET", PODS_PATH, watch=False)) == 1
    assert len([one for one in caplog.messages if "watch of pods is interrupted" in one]) == 1


async def test_a_watch_with_nothing_to_report_is_no_outage(
    cluster: Cluster, wire: Wire, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(_: Stream) -> None:
        await asyncio.sleep(60)

    wire.watch("pods", nothing, nothing, *[then(("ADDED", pod("a", version=205)))] * 20)
    monkeypatch.setattr(watch, "IDLE_SECONDS", 0.1)
    async with mirroring(cluster) as (mirror, _):
        await seen(mirror, "a", 205)
        pods = mirror.health_by_kind["pods"]
        assert pods.restarts >= 2
        assert pods.disconnected_since is None
    assert versions(wire)[:3] == ["1", "1", "1"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_server_that_ends_every_watch_is_not_asked_without_pause(
    cluster: Cluster, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(_: Stream) -> None: ...

    async def bookmark(stream: Stream) -> None:
        await stream.bookmark("900")

    async def too_old(stream: Stream) -> None:
        await stream.send("ERROR", status(410, "Expired", "too old resource version"))

    kinds = {PODS_PATH: nothing, SERVICES_PATH: bookmark, NODES_PATH: too_old}
    for path, script in kinds.items():
        wire.watch(path.rpartition("/")[2], *[script] * 5)
    monkeypatch.setattr(watch, "RETRIES", RetryPolicy(first=0.02, longest=60.0))
    began = time.monotonic()
    async with mirroring(cluster):
        await eventually(lambda: all(len(wire.asked("GET", path, watch=True)) >= 5 for path in kinds))
    assert time.monotonic() - began >= 0.15, "half of 20, 40, 80 and 160 ms, at least"


async def test_a_watch_that_is_not_answered_is_asked_for_over_other_connections(
    cluster: Cluster, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackd.kube.connection.WATCH_OPEN_SECONDS", 0.3)
    wire.on("WATCH", PODS_PATH, waits(60))
    wire.watch("pods", *[then(("ADDED", pod("a", version=205)))] * 20)
    session = cluster.connection.access.session
    async with mirroring(cluster) as (mirror, _):
        await seen(mirror, "a", 205)
    assert cluster.connection.access.session is not session


async def test_a_watch_outlasts_its_credentials(wire: Wire, tmp_path: Path) -> None:
    path, go_on = kubeconfig(tmp_path / "config", wire.url, {"token": "0"}), asyncio.Event()
    opened: list[int] = []

    async def expires(_: Stream) -> None:
        wire.token = "1"
        kubeconfig(path, wire.url, {"token": "1"})

    async def waits(stream: Stream) -> None:
        opened.append(len(versions(wire)))
        await go_on.wait()
        await stream.send("ADDED", pod("a", version=205))
        await asyncio.sleep(60)

    wire.watch("pods", expires, waits)
    cluster = await Cluster.connect(ClusterTarget(kubeconfig=str(path), namespace=NAMESPACE, reload_interval=0))
    async with mirroring(cluster) as (mirror, _):
        await eventually(lambda: opened)
        for number in ("2", "3"):
            wire.token = number
            kubeconfig(path, wire.url, {"token": number})
            wire.on("GET", SYSTEM, says(namespace("kube-system", uid="cluster-1")))
            assert await cluster.cluster_uid() == "cluster-1"
        go_on.set()
        await seen(mirror, "a", 205)
        assert mirror.last_error == ""
    assert opened == [len(versions(wire))]
    await cluster.close()
