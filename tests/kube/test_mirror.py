"""The mirror against a scripted server: every way in which a watch can end, be silent or lie."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from stackd.kube.client import Cluster, ClusterTarget
from stackd.kube.mirror import Change, Mirror, NodeChanged, PodChanged, Relisted, ServiceChanged
from stackd.kube.objects import PodState
from stackd.kube.watch import Timings
from tests.kube.test_credentials import kubeconfig
from tests.kube.wire import NAMESPACE, Stream, Wire, items, loses, pod, says, status

PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"
NODES = "/api/v1/nodes"
QUICK = Timings(first_pause=0.005, longest_pause=0.05, idle_limit=5.0)


@asynccontextmanager
async def mirroring(cluster: Cluster, timings: Timings = QUICK) -> AsyncIterator[tuple[Mirror, list[Change]]]:
    mirror = Mirror(cluster, timings=timings)
    changes: list[Change] = []
    mirror.subscribe(changes.append)
    task = asyncio.create_task(mirror.run())
    try:
        await mirror.wait_synced(3)
        yield mirror, changes
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.002)


async def seen(mirror: Mirror, name: str, version: int) -> PodState:
    wanted = str(version)
    return await mirror.until(
        name, lambda state: state if state and state.resource_version == wanted else None, timeout=3
    )


def told(changes: list[Change]) -> list[tuple[str, str]]:
    """What was told of pods."""
    pods = [change for change in changes if isinstance(change, PodChanged)]
    return [(c.name, "came" if c.before is None else "went" if c.after is None else "changed") for c in pods]


def then(*events: tuple[str, dict[str, Any]], stay: bool = True) -> Callable[[Stream], Any]:
    """A watch that says this, and then stays open (or is ended by the server)."""

    async def script(stream: Stream) -> None:
        for kind, obj in events:
            await stream.send(kind, obj)
        if stay:
            await asyncio.sleep(60)

    return script


async def test_lists_and_watches_make_the_copy(cluster: Cluster, wire: Wire) -> None:
    wire.on("GET", PODS, says(items(pod("a"), pod("b"))))
    wire.watch(
        "pods",
        then(("ADDED", pod("c", version=101)), ("DELETED", pod("a", version=102)), ("MODIFIED", pod("b", version=103))),
    )
    async with mirroring(cluster) as (mirror, changes):
        await seen(mirror, "b", 103)
        assert set(mirror.pods) == {"b", "c"}
        assert told(changes) == [("a", "came"), ("b", "came"), ("c", "came"), ("a", "went"), ("b", "changed")]


async def test_only_our_objects_are_asked_for_and_the_watch_begins_where_the_list_ended(
    cluster: Cluster, wire: Wire
) -> None:
    wire.on("GET", PODS, says(items(version=77)))
    async with mirroring(cluster):
        await until(lambda: wire.asked("GET", PODS, watch=True))
    selector = "app.kubernetes.io/managed-by=stackd,stackd.io/instance=default"
    assert wire.asked("GET", PODS, watch=False)[0].query == {"labelSelector": selector, "limit": "500"}
    query = wire.asked("GET", PODS, watch=True)[0].query
    assert 300 <= int(query.pop("timeoutSeconds")) <= 600
    assert query == {
        "labelSelector": selector,
        "watch": "true",
        "resourceVersion": "77",
        "allowWatchBookmarks": "true",
    }
    assert "labelSelector" not in wire.asked("GET", NODES, watch=False)[0].query


async def test_the_copy_is_in_sync_only_when_all_three_are_listed(cluster: Cluster, wire: Wire) -> None:
    refused = says(status(500, "InternalError", "not yet"), 500)
    wire.on("GET", NODES, *[refused] * 2)
    mirror = Mirror(cluster, timings=QUICK)
    relisted: list[str] = []
    mirror.subscribe(lambda change: relisted.append(change.kind) if isinstance(change, Relisted) else None)
    task = asyncio.create_task(mirror.run())
    with pytest.raises(TimeoutError):
        await mirror.wait_synced(0.03)
    await until(lambda: len(relisted) == 2)
    assert not mirror.synced
    await mirror.wait_synced(3)
    assert set(relisted) == {"pods", "services", "nodes"}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_services_and_nodes_are_kept_too(cluster: Cluster, wire: Wire) -> None:
    service = {**pod("s"), "kind": "Service", "spec": {"ports": [{"port": 80, "nodePort": 31000}]}}
    node = {"metadata": {"name": "n", "uid": "n-1", "resourceVersion": "5"}, "status": {"allocatable": {"cpu": "2"}}}
    wire.on("GET", SERVICES, says(items(service)))
    wire.watch("nodes", then(("ADDED", node), ("MODIFIED", {**node, "status": {"allocatable": {"cpu": "4"}}})))
    async with mirroring(cluster) as (mirror, changes):
        await until(lambda: mirror.nodes.get("n") and mirror.nodes["n"].cpu_milli == 4000)
        assert mirror.services["s"].node_ports == (31000,)
    assert [c.name for c in changes if isinstance(c, ServiceChanged)] == ["s"]
    assert [c.name for c in changes if isinstance(c, NodeChanged)] == ["n", "n"]


async def test_a_list_of_many_pages_is_read_to_its_end(cluster: Cluster, wire: Wire) -> None:
    wire.on("GET", PODS, says(items(pod("a"), more="p2")), says(items(pod("b"), more="p3")), says(items(pod("c"))))
    async with mirroring(cluster) as (mirror, _):
        assert set(mirror.pods) == {"a", "b", "c"}
    tokens = [request.query.get("continue") for request in wire.asked("GET", PODS, watch=False)]
    assert tokens == [None, "p2", "p3"]


async def test_a_list_whose_next_page_has_expired_is_read_again_in_one_piece(cluster: Cluster, wire: Wire) -> None:
    expired = says(status(410, "Expired", "The provided continue parameter is too old"), 410)
    wire.on("GET", PODS, says(items(pod("a"), more="p2")), expired, says(items(pod("b"), pod("c"))))
    async with mirroring(cluster) as (mirror, _):
        assert set(mirror.pods) == {"b", "c"}
    assert wire.asked("GET", PODS, watch=False)[-1].query.keys() == {"labelSelector"}


async def test_a_watch_that_ends_goes_on_where_it_was_without_a_new_list(cluster: Cluster, wire: Wire) -> None:
    wire.watch(
        "pods",
        then(("ADDED", pod("a", version=205)), stay=False),
        then(("MODIFIED", pod("a", version=209))),
    )
    async with mirroring(cluster) as (mirror, _):
        await seen(mirror, "a", 209)
        assert mirror.pulses["pods"].relists == 0
        assert mirror.disconnected_since is None
    versions = [request.query["resourceVersion"] for request in wire.asked("GET", PODS, watch=True)]
    assert versions == ["1", "205"]
    assert len(wire.asked("GET", PODS, watch=False)) == 1


async def test_a_bookmark_moves_the_point_from_which_the_watch_goes_on(cluster: Cluster, wire: Wire) -> None:
    async def bookmark(stream: Stream) -> None:
        await stream.bookmark("900")

    wire.watch("pods", bookmark, then(("ADDED", pod("a", version=901))))
    async with mirroring(cluster) as (mirror, changes):
        await seen(mirror, "a", 901)
        assert mirror.pulses["pods"].bookmarks == 1
        assert [change.name for change in changes if isinstance(change, PodChanged)] == ["a"]
    assert [request.query["resourceVersion"] for request in wire.asked("GET", PODS, watch=True)] == ["1", "900"]


async def test_after_a_gap_the_differences_of_a_new_list_are_told(cluster: Cluster, wire: Wire) -> None:
    async def too_old(stream: Stream) -> None:
        await stream.error(410, "too old resource version: 100 (16249)")

    wire.on("GET", PODS, says(items(pod("stays"), pod("went"), pod("moved", version=10))))
    wire.watch("pods", too_old)
    async with mirroring(cluster) as (mirror, changes):
        changes.clear()
        wire.on("GET", PODS, says(items(pod("stays"), pod("moved", version=50), pod("came"), version=300)))
        await until(lambda: any(isinstance(change, Relisted) and change.kind == "pods" for change in changes))
        assert told(changes) == [("went", "went"), ("moved", "changed"), ("came", "came")]
        relisted = [c for c in changes if isinstance(c, Relisted) and c.kind == "pods"]
        assert relisted == [Relisted(kind="pods", added=1, removed=1)]
        assert changes.index(relisted[0]) == len([c for c in changes if isinstance(c, PodChanged)])
        assert mirror.pulses["pods"].relists == 1
        await until(lambda: len(wire.asked("GET", PODS, watch=True)) == 2)
    assert wire.asked("GET", PODS, watch=True)[1].query["resourceVersion"] == "300"


async def test_a_watch_that_is_refused_as_too_old_is_listed_again(cluster: Cluster, wire: Wire) -> None:
    wire.on("GET", PODS, says(items(pod("a"))), says(items(pod("b"))))
    wire.on("WATCH", PODS, says(status(410, "Expired", "too old resource version"), 410))
    async with mirroring(cluster) as (mirror, _):
        await until(lambda: set(mirror.pods) == {"b"})


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"MODIF\n',
        b"<html>gateway</html>\n",
        b"[]\n",
        b'{"type":"ADDED"}\n',
        b'{"type":"ADDED","object":{}}\n',
        b'{"type":"SURPRISE","object":{"metadata":{"resourceVersion":"9"}}}\n',
        b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcd leader changed"}}\n',
        b'{"type":"ERROR","object":"x"}\n',
        b"\xff\xfe\n",
    ],
)
async def test_a_line_that_cannot_be_read_costs_nothing_but_a_reconnect(
    cluster: Cluster, wire: Wire, line: bytes
) -> None:
    async def garbled(stream: Stream) -> None:
        await stream.send("ADDED", pod("a", version=205))
        await stream.raw(line)
        await asyncio.sleep(60)

    wire.watch("pods", garbled, then(("ADDED", pod("b", version=206))))
    async with mirroring(cluster) as (mirror, _):
        await seen(mirror, "b", 206)
        assert set(mirror.pods) == {"a", "b"}
    assert [request.query["resourceVersion"] for request in wire.asked("GET", PODS, watch=True)] == ["1", "205"]


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


async def test_a_connection_that_is_cut_in_the_middle_of_a_line_loses_nothing(cluster: Cluster, wire: Wire) -> None:
    async def cut(stream: Stream) -> None:
        await stream.send("ADDED", pod("a", version=205))
        await stream.raw(b'{"type":"ADDED","object":{"metadata":{"na')
        stream.cut()

    wire.watch("pods", cut, then(("ADDED", pod("b", version=206))))
    async with mirroring(cluster) as (mirror, _):
        await seen(mirror, "b", 206)
        assert set(mirror.pods) == {"a", "b"}


async def test_a_half_open_connection_is_left_after_the_idle_limit(cluster: Cluster, wire: Wire) -> None:
    wire.watch("pods", then(("ADDED", pod("a", version=205))), then(("MODIFIED", pod("a", version=206))))
    timings = Timings(first_pause=0.005, longest_pause=0.05, idle_limit=0.1)
    async with mirroring(cluster, timings) as (mirror, _):
        await seen(mirror, "a", 206)
    assert wire.asked("GET", PODS, watch=True)[1].query["resourceVersion"] == "205"


async def test_bytes_of_any_kind_keep_a_quiet_connection(cluster: Cluster, wire: Wire) -> None:
    async def bookmarks(stream: Stream) -> None:
        for version in range(300, 320):
            await stream.bookmark(str(version))
            await asyncio.sleep(0.02)
        await stream.send("ADDED", pod("a", version=400))
        await asyncio.sleep(60)

    wire.watch("pods", bookmarks)
    timings = Timings(first_pause=0.005, longest_pause=0.05, idle_limit=0.2)
    async with mirroring(cluster, timings) as (mirror, _):
        await seen(mirror, "a", 400)
    assert len(wire.asked("GET", PODS, watch=True)) == 1


async def test_an_overloaded_servers_retry_after_is_waited_for(cluster: Cluster, wire: Wire) -> None:
    wire.on("WATCH", PODS, says(status(429, "TooManyRequests", "slow down"), 429, Retry_After="1"))
    wire.watch("pods", then(("ADDED", pod("a", version=205))))
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with mirroring(cluster) as (mirror, _):
        await until(lambda: "429" in mirror.last_error)
        assert mirror.pulses["pods"].disconnected_since is not None
        await seen(mirror, "a", 205)
        assert loop.time() - began >= 1.0
        assert (mirror.disconnected_since, mirror.last_error) == (None, "")


@pytest.mark.parametrize("code", [500, 503, 403])
async def test_a_watch_that_is_refused_is_tried_again(cluster: Cluster, wire: Wire, code: int) -> None:
    wire.on("WATCH", PODS, *[says(status(code, "No", "not now"), code)] * 3, loses())
    wire.watch("pods", then(("ADDED", pod("a", version=205))))
    async with mirroring(cluster) as (mirror, _):
        await seen(mirror, "a", 205)
    assert len(wire.asked("GET", PODS, watch=False)) == 1


async def test_a_token_that_expired_is_renewed_and_the_watch_goes_on(wire: Wire, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    wire.token = "old"
    path = kubeconfig(tmp_path / "config", wire.url, {"tokenFile": str(token)})
    cluster = await Cluster.connect(ClusterTarget(mode="kubeconfig", kubeconfig=str(path), namespace=NAMESPACE))

    async def expires(stream: Stream) -> None:
        wire.token = "new"
        token.write_text("new")

    wire.watch("pods", expires, then(("ADDED", pod("a", version=205))))
    async with mirroring(cluster) as (mirror, _):
        await seen(mirror, "a", 205)
        assert mirror.last_error == ""
    await cluster.close()


async def test_a_server_that_goes_away_and_comes_back_is_found_again(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    target = ClusterTarget(mode="embedded", url=wire.url, namespace=NAMESPACE)
    cluster = await Cluster.connect(target)
    port = wire.port
    wire.on("GET", PODS, says(items(pod("a"))))
    with caplog.at_level(logging.INFO, logger="stackd.kube"):
        async with mirroring(cluster) as (mirror, changes):
            changes.clear()
            await wire.stop()
            await until(lambda: all(pulse.disconnected_since is not None for pulse in mirror.pulses.values()))
            assert set(mirror.pods) == {"a"}
            assert mirror.synced
            await until(lambda: mirror.staleness() >= 0.1)
            wire.watch("pods", then(("MODIFIED", pod("a", version=500))))
            await wire.start(port)
            await seen(mirror, "a", 500)
            await until(lambda: mirror.disconnected_since is None)
            assert [change.name for change in changes if isinstance(change, PodChanged)] == ["a"]
    await cluster.close()
    interrupted = [record for record in caplog.records if "watch of pods is interrupted" in record.message]
    assert len(interrupted) == 1
    assert any("watch of pods is back" in record.message for record in caplog.records)


async def test_staleness_is_that_of_the_worst_of_the_three(cluster: Cluster, wire: Wire) -> None:
    async def lively(stream: Stream) -> None:
        for version in range(300, 400):
            await stream.bookmark(str(version))
            await asyncio.sleep(0.01)

    wire.watch("pods", lively)
    async with mirroring(cluster) as (mirror, _):
        await until(lambda: mirror.staleness() > 0.2)
        assert mirror.pulses["pods"].staleness() < 0.1


async def test_objects_of_another_instance_are_ignored_even_if_they_are_sent(cluster: Cluster, wire: Wire) -> None:
    wire.on("GET", PODS, says(items(pod("theirs", instance="green"), pod("ours"))))
    unlabelled = pod("bare", version=103)
    unlabelled["metadata"]["labels"] = {}
    wire.watch(
        "pods",
        then(
            ("ADDED", pod("theirs-too", instance="green", version=102)),
            ("ADDED", unlabelled),
            ("MODIFIED", pod("ours", version=104)),
        ),
    )
    async with mirroring(cluster) as (mirror, changes):
        await seen(mirror, "ours", 104)
        assert set(mirror.pods) == {"ours"}
        assert {change.name for change in changes if isinstance(change, PodChanged)} == {"ours"}


async def test_a_pod_that_loses_our_labels_is_not_ours_any_more(cluster: Cluster, wire: Wire) -> None:
    taken = pod("a", version=102)
    taken["metadata"]["labels"] = {"app": "theirs"}
    wire.on("GET", PODS, says(items(pod("a"), pod("b"))))
    wire.watch("pods", then(("MODIFIED", taken), ("MODIFIED", pod("b", version=103))))
    async with mirroring(cluster) as (mirror, _):
        await seen(mirror, "b", 103)
        assert set(mirror.pods) == {"b"}


async def test_a_pod_that_was_made_again_under_its_name_is_told_as_gone_and_come(cluster: Cluster, wire: Wire) -> None:
    wire.on("GET", PODS, says(items(pod("a", uid="u1"))))
    wire.watch(
        "pods",
        then(
            ("DELETED", pod("a", uid="u1", version=102)),
            ("ADDED", pod("a", uid="u2", version=103)),
            ("ADDED", pod("a", uid="u3", version=104)),
            ("DELETED", pod("a", uid="u2", version=105)),
            ("MODIFIED", pod("a", uid="u3", version=106)),
        ),
    )
    async with mirroring(cluster) as (mirror, changes):
        await seen(mirror, "a", 106)
        assert mirror.pods["a"].uid == "u3"
        assert [
            (change.before and change.before.uid, change.after and change.after.uid)
            for change in changes
            if isinstance(change, PodChanged)
        ] == [(None, "u1"), ("u1", None), (None, "u2"), ("u2", None), (None, "u3"), ("u3", "u3")]


async def test_waiting_for_a_pod_sees_each_state_and_times_out(cluster: Cluster, wire: Wire) -> None:
    steps = [pod("a", version=100 + n, phase=phase) for n, phase in enumerate(("Pending", "Running", "Failed"))]
    wire.watch("pods", then(*[("MODIFIED", step) for step in steps], ("DELETED", pod("a", version=110))))

    def is_in(phase: str) -> Callable[[PodState | None], str | None]:
        return lambda state: state.resource_version if state is not None and state.phase == phase else None

    mirror = Mirror(cluster, timings=QUICK)
    waiting = [asyncio.create_task(mirror.until("a", is_in(p), timeout=3)) for p in ("Running", "Failed")]
    task = asyncio.create_task(mirror.run())
    assert await asyncio.gather(*waiting) == ["101", "102"]
    with pytest.raises(TimeoutError):
        await mirror.until("a", is_in("Succeeded"), timeout=0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_unsubscribed_callback_is_told_no_more(cluster: Cluster, wire: Wire) -> None:
    gate = asyncio.Event()

    async def gated(stream: Stream) -> None:
        await gate.wait()
        await stream.send("ADDED", pod("a", version=205))
        await asyncio.sleep(60)

    wire.watch("pods", gated)
    async with mirroring(cluster) as (mirror, changes):
        heard: list[Change] = []
        mirror.subscribe(heard.append)()
        gate.set()
        await seen(mirror, "a", 205)
        assert any(isinstance(change, PodChanged) for change in changes)
        assert heard == []


async def test_a_subscriber_that_fails_ends_the_mirror_instead_of_being_ignored(cluster: Cluster, wire: Wire) -> None:
    mirror = Mirror(cluster, timings=QUICK)

    def fail(_: Change) -> None:
        raise RuntimeError("cannot cope")

    mirror.subscribe(fail)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(mirror.run(), 3)
    assert caught.group_contains(RuntimeError, match="cannot cope")


async def test_reading_the_copy_asks_the_cluster_nothing(cluster: Cluster, wire: Wire) -> None:
    wire.on("GET", PODS, says(items(pod("a"))))
    async with mirroring(cluster) as (mirror, _):
        await until(lambda: len(wire.seen) == 6)
        for _ in range(100):
            assert mirror.pods["a"].name == "a"
            assert await mirror.until("a", lambda state: state, timeout=1) is mirror.pods["a"]
        assert len(wire.seen) == 6


async def test_the_view_cannot_be_changed_from_outside(cluster: Cluster) -> None:
    with pytest.raises(TypeError):
        Mirror(cluster).pods["x"] = None  # type: ignore[index]
