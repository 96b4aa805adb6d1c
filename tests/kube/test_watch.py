"""Every way in which a watch can end, be silent or be wrong, on the wire, and how the mirror reacts."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import orjson
import pytest

from stackd.kube import watch
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget
from stackd.kube.mirror import Relisted
from stackd.kube.objects import PODS
from tests.kube.test_credentials import SYSTEM, kubeconfig
from tests.kube.wire import (
    NAMESPACE,
    PODS_PATH,
    Reply,
    Stream,
    Wire,
    changes_of_pods,
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
    until,
)
from tests.target import target_at


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
        await until(lambda: any(isinstance(change, Relisted) and change.kind == "pods" for change in changes))
        assert changes_of_pods(changes) == [("went", "went"), ("moved", "changed"), ("came", "came")]
        assert changes.index(Relisted(kind="pods")) > changes.index(of_pods(changes)[-1])
        assert mirror.health_by_kind["pods"].relists == 1
        await until(lambda: len(wire.asked("GET", PODS_PATH, watch=True)) == 2)
    assert versions(wire) == ["100", "300"]


def unreadable(version: int) -> dict[str, object]:
    odd = pod("b", version=version)
    del odd["metadata"]["creationTimestamp"]
    return odd


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"MODIF\n',
        b"<html>gateway</html>\n",
        b"[]\n",
        b'{"type":"ADDED"}\n',
        b'{"type":"ADDED","object":{}}\n',
        b'{"type":"DELETED","object":{"metadata":{"name":"a","uid":"uid-of-a","resourceVersion":"9"}}}\n',
        b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}\n',
        b'{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":""}}}\n',
        b'{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"0"}}}\n',
        b'{"type":"ERROR","object":{"code":410}}\n',
        b'{"type":"SURPRISE","object":{"metadata":{"resourceVersion":"9"}}}\n',
        b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcd leader changed"}}\n',
        b'{"type":"ERROR","object":"x"}\n',
        b"\xff\xfe\n",
        b"x" * (9 << 20),
        orjson.dumps({"type": "ADDED", "object": unreadable(206)}) + b"\n",
        b'{"type":"ADDED","object":{"metadata":{"na',
    ],
)
async def test_an_unreadable_line_costs_only_a_reconnect(cluster: Cluster, wire: Wire, line: bytes) -> None:
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
        page("<html>It works!</html>"),
        page("<html>It works!</html>", kind="application/json"),
        page("", kind="application/json"),
        page('{"type":"ADDED","object":{"kind":"Pod"', kind="application/json"),
        page("<html>not found</html>", 404),
        says(status(404, "NotFound", "the server could not find the requested resource"), 404),
        *(says(status(code, "No", "not now"), code) for code in (403, 500, 503)),
        loses(),
    ],
    ids=[
        "page",
        "page called JSON",
        "nothing",
        "half an event",
        "page with 404",
        "no path",
        "403",
        "500",
        "503",
        "lost",
    ],
)
async def test_what_is_no_watch_is_an_outage(cluster: Cluster, wire: Wire, odd: Reply) -> None:
    wire.on("WATCH", PODS_PATH, *[odd] * 20)
    wire.watch("pods", then(("ADDED", pod("a", version=205))))
    async with mirroring(cluster) as (mirror, _):
        pods = mirror.health_by_kind["pods"]
        await until(lambda: pods.last_error)
        since = pods.disconnected_since
        assert since is not None
        assert "html" not in mirror.last_error
        await until(lambda: len(wire.asked("GET", PODS_PATH, watch=True)) >= 20)
        assert pods.disconnected_since == since
        await seen(mirror, "a", 205)
        assert (mirror.disconnected_since, pods.last_error) == (None, "")
    assert len(wire.asked("GET", PODS_PATH, watch=False)) == 1


async def test_a_line_may_come_in_any_pieces(cluster: Cluster, wire: Wire) -> None:
    async def drip(stream: Stream) -> None:
        big = pod("a", version=205)
        big["metadata"]["annotations"] = {"note": "ü" * 300_000}
        data = orjson.dumps({"type": "ADDED", "object": big}) + b"\n\n"
        data += orjson.dumps({"type": "ADDED", "object": pod("b", version=206)}) + b"\n"
        for start in range(0, len(data), 65_537):
            await stream.raw(data[start : start + 65_537])
        await asyncio.sleep(60)

    wire.watch("pods", drip)
    async with mirroring(cluster) as (mirror, _):
        await seen(mirror, "b", 206)
        assert set(mirror.pods) == {"a", "b"}


async def test_a_quiet_watch_is_back_at_once(cluster: Cluster, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cut(stream: Stream) -> None:
        await asyncio.sleep(0.1)
        stream.cut()

    monkeypatch.setattr("stackd.kube.watch._GOOD_SECONDS", 0.05)
    wire.watch("pods", *[cut] * 14, then(("ADDED", pod("a", version=205))))
    monkeypatch.setattr(watch, "LONGEST_PAUSE", 60.0)
    async with mirroring(cluster) as (mirror, _), asyncio.timeout(10):
        await seen(mirror, "a", 205)


async def test_a_watch_with_nothing_to_tell_is_asked_for_again_and_no_outage_is_reported(
    cluster: Cluster, wire: Wire, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(_: Stream) -> None:
        await asyncio.sleep(60)

    wire.watch("pods", nothing, nothing, then(("ADDED", pod("a", version=205))))
    monkeypatch.setattr(watch, "IDLE_SECONDS", 0.1)
    async with mirroring(cluster) as (mirror, _):
        await seen(mirror, "a", 205)
        pods = mirror.health_by_kind["pods"]
        assert pods.restarts >= 2
        assert pods.disconnected_since is None
    assert versions(wire)[:3] == ["1", "1", "1"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_watch_waits_for_retry_after(cluster: Cluster, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a watch that stands without a word counts as connected again."""
    wire.on("WATCH", PODS_PATH, says(status(429, "TooManyRequests", "slow down"), 429, Retry_After="90"))
    began = time.monotonic()
    monkeypatch.setattr(watch, "LONGEST_PAUSE", 1.0)
    async with mirroring(cluster) as (mirror, _):
        await until(lambda: "429" in mirror.last_error)
        assert mirror.health_by_kind["pods"].disconnected_since is not None
        await until(lambda: (mirror.disconnected_since, mirror.last_error) == (None, ""))
        assert time.monotonic() - began >= 1.0
    assert len(wire.asked("GET", PODS_PATH, watch=True)) == 2


async def test_a_watch_outlasts_its_credentials(wire: Wire, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", wire.url, {"token": "old"})
    wire.token = "old"
    waiting, replaced = asyncio.Event(), asyncio.Event()

    async def expires(stream: Stream) -> None:
        wire.token = "0"
        kubeconfig(path, wire.url, {"token": "0"})

    async def waits_for_that(stream: Stream) -> None:
        waiting.set()
        await replaced.wait()
        await stream.send("ADDED", pod("a", version=205))
        await asyncio.sleep(60)

    wire.watch("pods", expires, waits_for_that)
    target = ClusterTarget(kubeconfig=str(path), namespace=NAMESPACE, reload_interval=0)
    cluster = await Cluster.connect(target)
    async with mirroring(cluster) as (mirror, _):
        await asyncio.wait_for(waiting.wait(), 30)
        opened = len(versions(wire))
        for number in ("1", "2", "3"):
            wire.token = number
            kubeconfig(path, wire.url, {"token": number})
            wire.on("GET", SYSTEM, says(namespace("kube-system", uid="cluster-1")))
            assert await cluster.cluster_uid() == "cluster-1"
        replaced.set()
        await seen(mirror, "a", 205)
        assert mirror.last_error == ""
        assert len(versions(wire)) == opened
    await cluster.close()


async def test_a_server_that_comes_back_is_found_again(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    target = target_at(wire.url, namespace=NAMESPACE)
    cluster = await Cluster.connect(target)
    port = wire.port
    wire.on("GET", PODS_PATH, says(items(pod("a"))))
    with caplog.at_level(logging.INFO, logger="stackd.kube"):
        async with mirroring(cluster) as (mirror, changes):
            changes.clear()
            await wire.stop()
            await until(lambda: all(health.disconnected_since is not None for health in mirror.health_by_kind.values()))
            assert set(mirror.pods) == {"a"}
            assert mirror.synced
            await until(lambda: mirror.staleness() >= 0.1)
            wire.on("POST", PODS_PATH, says(pod("b"), 201))
            creating = asyncio.create_task(cluster.create(PODS, pod("b")))
            await until(lambda: cluster.counts["create", "pods", "none"])
            wire.watch("pods", then(("MODIFIED", pod("a", version=500))))
            await wire.start(port)
            assert (await creating).name == "b"
            await seen(mirror, "a", 500)
            await until(lambda: mirror.disconnected_since is None)
            assert [name for name, _ in changes_of_pods(changes)] == ["a"]
    await cluster.close()
    interrupted = [record for record in caplog.records if "watch of pods is interrupted" in record.message]
    assert len(interrupted) == 1
    assert any("watch of pods is back" in record.message for record in caplog.records)
