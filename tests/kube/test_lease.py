"""The Lease: how it is read and written. The fence: no change is sent when it has closed, nor arrives afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from stackd.clock import SystemClock, boottime
from stackd.errors import ClusterTimeout, ClusterUnavailable, NotOwner
from stackd.kube import credentials, guards
from stackd.kube.client import Cluster
from stackd.kube.credentials import watched_socket
from stackd.kube.guards import Contact, Fence
from stackd.kube.lease import Lease, Leases, lease_manifest, read_lease
from stackd.kube.objects import PODS
from stackd.kube.rights import AccessReview
from stackd.kube.wire import KINDS, LEASES, NAMESPACES, REVIEWS, TOKENS, KubeRequest
from tests.harness import eventually
from tests.kube.wire import NAMESPACE, PODS_PATH, Wire, pod, recording, says, status, waits
from tests.target import target_at

MINE = Lease(
    holder="vm1/f1",
    duration=30,
    acquired_at=1_770_688_946_535_664_123,
    renewed_at=1_770_688_947_000_000_999,
    transitions=2,
    file_id="f1",
    lock_id="l1",
    epoch=7,
    sequence=1234,
)
PATH = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/stackd-default"


def test_a_change_keeps_what_others_have_written() -> None:
    raw = recording("lease-patch-200")["response"]["body"]
    raw["metadata"]["labels"]["team"] = "blue"
    raw["spec"]["strategy"] = "OldestEmulationVersion"
    lease = read_lease(raw)
    assert (lease.takeover, lease.file_id) == ("vm2", "f-1")
    sent = lease_manifest(replace(lease, takeover="", sequence=3), namespace="rec", instance="default")
    metadata = sent["metadata"]
    assert (metadata["resourceVersion"], metadata["uid"]) == (lease.version, raw["metadata"]["uid"])
    assert metadata["labels"]["team"] == "blue"
    assert metadata["annotations"] == {"stackd.io/file-id": "f-1", "stackd.io/sequence": "3"}
    assert sent["spec"]["strategy"] == "OldestEmulationVersion"


@pytest.mark.parametrize("text", ["", "-1", "1.5", "\u0661", "9" * 30])
def test_what_somebody_has_made_of_the_annotations_is_unknown(text: str) -> None:
    raw = recording("lease-get-200")["response"]["body"]
    raw["metadata"]["annotations"] = {"stackd.io/epoch": text, "stackd.io/sequence": text}
    lease = read_lease(raw)
    assert (lease.epoch, lease.sequence, lease.file_id, lease.holder) == (None, None, "", "vm1/f-1")
    empty = read_lease(recording("lease-create-201-empty")["response"]["body"])
    assert (empty.holder, empty.duration, empty.renewed_at, empty.transitions) == ("", 0, None, 0)


def stored(lease: Lease, version: int, instance: str = "default") -> dict[str, Any]:
    """The Lease as the API server would return it."""
    raw = lease_manifest(lease, namespace=NAMESPACE, instance=instance)
    raw["metadata"] |= {"uid": f"uid-of-{instance}", "resourceVersion": str(version)}
    return raw


async def test_what_is_no_lease_says_nothing_of_the_owner(cluster: Cluster, wire: Wire) -> None:
    wire.on("GET", PATH, says(stored(MINE, 5) | {"spec": {"renewTime": "yesterday"}}))
    with pytest.raises(ClusterUnavailable):
        await Leases(cluster).find(timeout=0.2)


# ---- a request that changes anything is sent only until the fence's deadline, and is cut off at the deadline


OVER = "another stackd may own the stacks now"
CHANGES: dict[str, Callable[[Cluster], Awaitable[object]]] = {
    "create": lambda cluster: cluster.create(PODS, pod("p")),
    "dry run": lambda cluster: cluster.create(PODS, pod("p"), dry_run=True),
    "delete": lambda cluster: cluster.delete("pods", "p", "u1"),
    "patch": lambda cluster: cluster.patch(PODS, "p", "u1", annotations={"a": "b"}),
}


@asynccontextmanager
async def patient(url: str, **options: Any) -> Any:
    """A client whose own time limits end nothing, and its fence."""
    target = target_at(url, namespace=NAMESPACE, timeout=60.0, attempt_timeout=60.0, **options)
    cluster = await Cluster.connect(target)
    try:
        yield cluster, cluster.connection.fence
    finally:
        await cluster.close()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_what_is_not_allowed_is_not_sent(
    cluster: Cluster, wire: Wire, change: Callable[[Cluster], Awaitable[object]]
) -> None:
    fence = cluster.connection.fence
    fence.close("vm1 owns the stacks")
    with pytest.raises(NotOwner, match="vm1 owns the stacks") as caught:
        await change(cluster)
    assert caught.value.retry_after > 0
    fence.allow_until(fence.now() - 0.001, OVER)
    with pytest.raises(NotOwner, match=OVER):
        await change(cluster)
    assert wire.seen == []


async def test_what_changes_no_stack_goes_on(cluster: Cluster, wire: Wire) -> None:
    """Reads, and what a process needs to become owner. A standby renews its credentials, too."""
    cluster.connection.fence.close(OVER)
    wire.on("GET", f"{PODS_PATH}/p", says(pod("p")))
    assert await cluster.get(PODS, "p") is not None
    review = {**KINDS[REVIEWS].type_meta, "status": {"allowed": True}}
    wire.on("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", says(review, 201))
    assert await cluster.may(AccessReview(verb="get", resource="pods", namespace="rec"))
    for resource, verb in ((LEASES, "update"), (TOKENS, "create"), (NAMESPACES, "create")):
        assert not KubeRequest(verb=verb, resource=resource).fenced


async def test_a_request_under_way_is_cut_off_by_a_closed_fence(wire: Wire) -> None:
    async with patient(wire.url) as (cluster, fence):

        async def overloaded(request: Any) -> Any:
            fence.close(OVER)
            return await says(status(503, "ServiceUnavailable", "later"), 503)(request)

        wire.on("POST", PODS_PATH, waits(60), overloaded)
        fence.allow_until(fence.now() + 1.0, OVER)
        for count in (1, 2):
            with pytest.raises(NotOwner, match=OVER):
                await asyncio.wait_for(cluster.create(PODS, pod("p")), 30)
            assert len(wire.seen) == count
            fence.allow_until(fence.now() + 60.0, OVER)


async def test_whoever_is_stopped_while_it_connects_sends_nothing_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline passes between the last check and the write of the request."""
    received, at = bytearray(), 0.0

    class Sink(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            received.extend(data)

    def stopped(address: Any) -> socket.socket:
        nonlocal at
        at += 100.0
        return watched_socket(address)

    monkeypatch.setattr(credentials, "watched_socket", stopped)
    async with await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        fence = Fence(lambda: at)
        cluster = await Cluster.connect(target_at(url, namespace=NAMESPACE, timeout=1.0), fence=fence)
        fence.allow_until(50.0, OVER)
        with pytest.raises(NotOwner, match=OVER):
            await cluster.create(PODS, pod("p"))
        assert (bytes(received), at) == (b"", 100.0)
        fence.allow_until(1e9, OVER)
        with pytest.raises(ClusterUnavailable):
            await cluster.create(PODS, pod("p"))
        assert received.startswith(b"POST ")
        await cluster.close()


async def test_with_all_slots_taken_the_lease_is_sent(wire: Wire) -> None:
    async with patient(wire.url, max_in_flight=1) as (cluster, fence):
        wire.on("GET", f"{PODS_PATH}/hangs", waits(60))
        hangs = asyncio.create_task(cluster.get(PODS, "hangs"))
        await eventually(lambda: wire.seen)
        fence.allow_until(fence.now() + 0.1, OVER)
        with pytest.raises(NotOwner):
            await cluster.create(PODS, pod("p"))
        assert [seen.method for seen in wire.seen] == ["GET"]
        async with asyncio.timeout(30):
            leases = await cluster.answer(KubeRequest(verb="list", resource=LEASES, namespace=NAMESPACE))
        assert leases["kind"] == "LeaseList"
        hangs.cancel()
        await asyncio.gather(hangs, return_exceptions=True)


def test_the_moment_is_on_a_clock_that_goes_on_while_the_machine_is_suspended() -> None:
    assert Fence().now is boottime
    assert SystemClock().monotonic is boottime
    assert boottime() <= time.clock_gettime(time.CLOCK_BOOTTIME) <= boottime()


@pytest.mark.parametrize(("sent", "over", "lost"), [(9.0, 6.0, False), (11.0, 4.0, False), (11.0, 6.0, True)])
async def test_kubernetes_is_silent_after_failures_since_its_last_answer(sent: float, over: float, lost: bool) -> None:
    at = 10.0
    contact = Contact(now=lambda: at)
    contact.answered()
    for _ in range(3):
        at = sent + over
        contact.failed(sent, "it did not answer")
    assert contact.lost is lost


@pytest.mark.parametrize(("stopped", "lost"), [(0.0, True), (3.0, False)])
async def test_a_stopped_process_is_no_silence(monkeypatch: pytest.MonkeyPatch, stopped: float, lost: bool) -> None:
    monkeypatch.setattr(guards, "CHECK_SECONDS", 0.01)
    time_of_it = 100.0
    contact = Contact(now=lambda: time_of_it)
    contact.heard_at -= guards.QUIET_SECONDS + 1
    probed = asyncio.Event()

    async def probe(limit: float) -> None:
        nonlocal time_of_it
        time_of_it += limit + stopped
        probed.set()
        raise ClusterTimeout("it did not answer")

    watching = asyncio.create_task(guards.watch_over(contact, probe, lambda: 1.0))
    await probed.wait()
    await asyncio.sleep(0)
    assert contact.lost is lost
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def read_to_the_end(accepted: socket.socket) -> int:
    """How many bytes arrive."""
    count = 0
    with accepted, contextlib.suppress(ConnectionResetError):
        while data := accepted.recv(65536):
            count += len(data)
    return count


async def test_what_was_cut_off_does_not_arrive_later() -> None:
    """When a network works again after a cut, it delivers what the operating system still holds of a request."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(30)
        async with patient(f"http://127.0.0.1:{listener.getsockname()[1]}") as (cluster, _):
            large = pod("p") | {"spec": {"containers": [{"name": "a", "image": "x" * 300_000}]}}
            creating = asyncio.create_task(cluster.create(PODS, large))
            accepted, _ = await asyncio.to_thread(listener.accept)
            accepted.settimeout(30)
            await asyncio.to_thread(accepted.recv, 1)
            creating.cancel()
            await asyncio.gather(creating, return_exceptions=True)
            await asyncio.sleep(0)  # a transport closes its socket in the next iteration of the event loop
            assert await asyncio.to_thread(read_to_the_end, accepted) < 300_000
