"""Client and mirror against the embedded cluster, over HTTP, with faults."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable

import pytest

from stackd.embedded import EmbeddedCluster, EmbeddedOptions, Fault, User, everything
from stackd.errors import ClusterUnavailable, NodePortTaken
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget
from stackd.kube.manifests import PodRequest, pod_manifest, service_manifest
from stackd.kube.mirror import Mirror, NodeChanged
from stackd.kube.objects import PodState
from stackd.kube.records import parse_record
from stackd.kube.rights import AccessReview
from stackd.kube.watch import Timings
from stackd.model import PortMapping, Stack, StackStatus
from tests.target import target_at

QUICK = Timings(first_pause=0.005, longest_pause=0.05, idle_limit=3.0)
IMPATIENT = Timings(first_pause=0.005, longest_pause=0.05, idle_limit=0.4)
NAMESPACE = "stacks"
TOKEN, NEW_TOKEN = "token-1", "token-2"


@pytest.fixture
async def embedded() -> AsyncIterator[EmbeddedCluster]:
    """An embedded cluster with short delays and without listening node ports."""
    options = EmbeddedOptions(start_delay=0.0, gc_delay=0.01, bookmark_interval=0.1, serve_node_ports=False)
    async with EmbeddedCluster(options) as running:
        yield running


@pytest.fixture
async def cluster(embedded: EmbeddedCluster) -> AsyncIterator[Cluster]:
    """A client of the embedded cluster; the namespace exists."""
    target = target_at(embedded.url, namespace=NAMESPACE, timeout=5, attempt_timeout=0.5)
    connected = await Cluster.connect(target)
    await connected.ensure_namespace()
    yield connected
    await connected.close()


@pytest.fixture
async def mirror(cluster: Cluster) -> AsyncIterator[Mirror]:
    """A mirror that is in sync."""
    copy = Mirror(cluster, timings=QUICK)
    task = asyncio.create_task(copy.run())
    await asyncio.wait_for(copy.wait_synced(), 10)
    yield copy
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def stack(number: int, node_port: int = 31000) -> Stack:
    return Stack(
        stack_id=f"stack-{number:016x}",
        namespace=NAMESPACE,
        pod_spec="kind: Pod\n",
        ports=(PortMapping(container_port=80, protocol="TCP", node_port=node_port),),
        status=StackStatus.CREATING,
        created_at=1_770_688_946_535_664_123,
        updated_at=1_770_688_946_535_664_123,
        ttl_expires_at=1_770_696_146_535_664_000,
        requested_cpu_milli=100,
        requested_memory_bytes=2**27,
    )


def pod_of(row: Stack, image: str = "nginx:stable", instance: str = "default") -> dict[str, object]:
    container = {
        "name": "app",
        "image": image,
        "ports": [{"containerPort": 80, "protocol": "TCP"}],
        "resources": {kind: {"cpu": "100m", "memory": "128Mi"} for kind in ("requests", "limits")},
    }
    manifest = {"spec": {"containers": [container], "restartPolicy": "Never"}}
    selector = {"role": "stack"}
    return pod_manifest(PodRequest(stack=row, manifest=manifest, instance=instance, node_selector=selector))


def service_of(row: Stack) -> dict[str, object]:
    return service_manifest(row, "default")


def running(pod: PodState | None) -> PodState | None:
    return pod if pod is not None and pod.phase == "Running" and pod.ready else None


def gone(pod: PodState | None) -> bool | None:
    return True if pod is None else None


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_log_that_hangs_tells_nothing_of_the_api_server(embedded: EmbeddedCluster, cluster: Cluster) -> None:
    """A log request waits for a node, so its failure says nothing about the connections to the API server."""
    session = cluster.connection.access.session
    embedded.faults.add(Fault(action="hang", resource="pods/log"))
    with pytest.raises(ClusterUnavailable):
        await cluster.pod_log("one", tail=5)
    assert cluster.connection.contact.failures == 0
    assert cluster.connection.access.session is session


async def test_a_stack_is_created_seen_running_and_deleted(
    embedded: EmbeddedCluster, cluster: Cluster, mirror: Mirror
) -> None:
    row = stack(1)
    pod = await cluster.create_pod(pod_of(row))
    service = await cluster.create_service(service_of(row))
    seen = await mirror.until(row.pod_name, running, timeout=30)
    assert (seen.uid, seen.scheduled, seen.stack_id, seen.instance) == (pod.uid, True, row.stack_id, "default")
    assert seen.node_name in mirror.nodes
    await until(lambda: row.service_name in mirror.services)
    assert mirror.services[row.service_name].node_ports == (31000,)
    await asyncio.gather(
        cluster.delete_service(row.service_name, service.uid), cluster.delete_pod(row.pod_name, pod.uid)
    )
    assert await cluster.get_pod(row.pod_name) is None
    assert await cluster.get_service(row.service_name) is None
    await mirror.until(row.pod_name, gone, timeout=30)
    await until(lambda: row.service_name not in mirror.services)


async def test_a_stack_costs_four_writes_and_no_reads(
    embedded: EmbeddedCluster, cluster: Cluster, mirror: Mirror
) -> None:
    await until(lambda: embedded.counts.total("watch") == 3)
    embedded.counts.clear()
    row = stack(1)
    pod = await cluster.create_pod(pod_of(row))
    service = await cluster.create_service(service_of(row))
    await mirror.until(row.pod_name, running, timeout=30)
    await cluster.delete_service(row.service_name, service.uid)
    await cluster.delete_pod(row.pod_name, pod.uid)
    assert embedded.counts.requests == {
        ("create", "pods", 201): 1,
        ("create", "services", 201): 1,
        ("delete", "services", 200): 1,
        ("delete", "pods", 200): 1,
    }


@pytest.mark.parametrize("action", ["lost_reply", "cut", "hang"])
async def test_whatever_happens_to_an_answer_there_is_exactly_one_pod(
    embedded: EmbeddedCluster, cluster: Cluster, action: str
) -> None:
    embedded.faults.add_fault(action=action, verb="create", resource="pods", count=1)
    row = stack(1)
    pod = await cluster.create_pod(pod_of(row))
    listed = [raw["metadata"]["uid"] for raw in await cluster.list_raw("pods")]
    assert listed == [pod.uid]


@pytest.mark.parametrize("action", ["lost_reply", "cut", "hang"])
async def test_whatever_happens_to_the_answer_to_a_delete_the_pod_is_gone(
    embedded: EmbeddedCluster, cluster: Cluster, action: str
) -> None:
    row = stack(1)
    pod = await cluster.create_pod(pod_of(row))
    embedded.faults.add_fault(action=action, verb="delete", resource="pods", count=1)
    await cluster.delete_pod(row.pod_name, pod.uid)
    assert await cluster.list_raw("pods") == []


async def test_twenty_creates_under_random_trouble_make_twenty_pods(
    embedded: EmbeddedCluster, cluster: Cluster
) -> None:
    embedded.faults.seed(7)
    embedded.faults.add(Fault(action="lost_reply", verb="create", resource="pods", probability=0.3))
    embedded.faults.add(Fault(action="status", code=500, verb="create|get", resource="pods", probability=0.2))
    rows = [stack(number) for number in range(20)]
    pods = await asyncio.gather(*[cluster.create_pod(pod_of(row)) for row in rows])
    embedded.faults.clear()
    listed = {raw["metadata"]["uid"] for raw in await cluster.list_raw("pods")}
    assert listed == {pod.uid for pod in pods}
    assert len(listed) == 20


async def test_another_instances_pod_of_that_name_is_neither_taken_over_nor_deleted(
    embedded: EmbeddedCluster, cluster: Cluster, mirror: Mirror
) -> None:
    target = dataclasses.replace(cluster.target, instance="green")
    theirs = await Cluster.connect(target)
    row = stack(1)
    pod = await theirs.create_pod(pod_of(row, instance="green"))
    await cluster.delete_pod(row.pod_name)
    assert (await theirs.get_pod(row.pod_name)) is not None
    mine = stack(2)
    await cluster.create_pod(pod_of(mine))
    await mirror.until(mine.pod_name, running, timeout=30)
    assert set(mirror.pods) == {mine.pod_name}
    await theirs.delete_pod(row.pod_name, pod.uid)
    assert (await theirs.get_pod(row.pod_name)) is None
    await theirs.close()


async def test_a_delete_of_the_old_pod_leaves_the_new_one_of_that_name_alone(cluster: Cluster, mirror: Mirror) -> None:
    row = stack(1)
    old = await cluster.create_pod(pod_of(row))
    await cluster.delete_pod(row.pod_name, old.uid)
    new = await cluster.create_pod(pod_of(row))
    await cluster.delete_pod(row.pod_name, old.uid)
    seen = await mirror.until(row.pod_name, lambda p: p if p and p.uid == new.uid else None, timeout=30)
    assert seen.uid == new.uid
    assert (await cluster.get_pod(row.pod_name)) is not None


async def test_a_port_that_somebody_holds_is_named(embedded: EmbeddedCluster, cluster: Cluster) -> None:
    embedded.faults.take_port(31007)
    row = stack(1, node_port=31007)
    with pytest.raises(NodePortTaken) as caught:
        await cluster.create_service(service_of(row))
    assert caught.value.node_port == 31007


async def test_a_watch_gap_is_closed_by_a_new_list(embedded: EmbeddedCluster, cluster: Cluster, mirror: Mirror) -> None:
    old, kept, new = stack(1), stack(2), stack(3)
    for row in (old, kept):
        await cluster.create_pod(pod_of(row))
    await mirror.until(kept.pod_name, running, timeout=30)
    embedded.faults.add_fault(action="status", verb="watch", code=503)
    embedded.faults.drop_watches()
    await cluster.delete_pod(old.pod_name)
    await cluster.create_pod(pod_of(new))
    embedded.faults.compact()
    embedded.faults.clear()
    await mirror.until(new.pod_name, running, timeout=30)
    assert set(mirror.pods) == {kept.pod_name, new.pod_name}
    assert mirror.health_by_kind["pods"].relists == 1


async def test_a_dropped_watch_goes_on_without_a_new_list(
    embedded: EmbeddedCluster, cluster: Cluster, mirror: Mirror
) -> None:
    embedded.faults.drop_watches()
    row = stack(1)
    await cluster.create_pod(pod_of(row))
    await mirror.until(row.pod_name, running, timeout=30)
    assert mirror.health_by_kind["pods"].relists == 0


async def test_a_silent_watch_is_left_for_a_new_one(embedded: EmbeddedCluster, cluster: Cluster) -> None:
    mirror = Mirror(cluster, timings=IMPATIENT)
    task = asyncio.create_task(mirror.run())
    await asyncio.wait_for(mirror.wait_synced(), 10)
    await until(lambda: len(embedded.server.watches) == 3)
    embedded.faults.freeze_watches()
    row = stack(1)
    await cluster.create_pod(pod_of(row))
    await mirror.until(row.pod_name, running, timeout=30)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_malformed_line_loses_nothing(embedded: EmbeddedCluster, cluster: Cluster, mirror: Mirror) -> None:
    await until(lambda: len(embedded.server.watches) == 3)
    embedded.faults.malformed()
    row = stack(1)
    await cluster.create_pod(pod_of(row))
    await mirror.until(row.pod_name, running, timeout=30)
    assert mirror.health_by_kind["pods"].restarts >= 1


async def test_an_api_server_that_restarts_is_followed_on(
    embedded: EmbeddedCluster, cluster: Cluster, mirror: Mirror
) -> None:
    row = stack(1)
    await cluster.create_pod(pod_of(row))
    await mirror.until(row.pod_name, running, timeout=30)
    await embedded.faults.refuse()
    await until(lambda: mirror.disconnected_since is not None)
    with pytest.raises(ClusterUnavailable):
        await cluster.get_pod(row.pod_name, timeout=0.2)
    assert row.pod_name in mirror.pods
    creating = asyncio.create_task(cluster.create_pod(pod_of(stack(2))))
    await embedded.faults.listen()
    await creating
    await mirror.until(stack(2).pod_name, running, timeout=30)
    await until(lambda: mirror.disconnected_since is None)


async def test_bookmarks_keep_a_quiet_mirror_fresh(mirror: Mirror) -> None:
    await until(lambda: all(health.bookmarks >= 3 for health in mirror.health_by_kind.values()))
    assert mirror.staleness() < QUICK.idle_limit
    assert mirror.health_by_kind["pods"].restarts == 0


async def test_a_paused_api_server_makes_the_mirror_stale_and_it_recovers(
    embedded: EmbeddedCluster, mirror: Mirror
) -> None:
    embedded.faults.pause()
    await until(lambda: mirror.staleness() > 0.5)
    embedded.faults.resume()
    await until(lambda: mirror.staleness() < 0.3)


async def test_nodes_that_come_are_cordoned_and_go_are_told(embedded: EmbeddedCluster, mirror: Mirror) -> None:
    changes: list[NodeChanged] = []
    mirror.subscribe(lambda change: changes.append(change) if isinstance(change, NodeChanged) else None)
    embedded.faults.add_node(name="late", external_ip="203.0.113.9")
    await until(lambda: "late" in mirror.nodes and mirror.nodes["late"].ready)
    assert ("ExternalIP", "203.0.113.9") in mirror.nodes["late"].addresses
    embedded.faults.cordon("late")
    await until(lambda: mirror.nodes["late"].unschedulable)
    embedded.faults.remove_node("late")
    await until(lambda: "late" not in mirror.nodes)
    assert changes[-1].after is None


async def test_an_unschedulable_pod_says_why(embedded: EmbeddedCluster, cluster: Cluster, mirror: Mirror) -> None:
    for name in list(mirror.nodes):
        embedded.faults.cordon(name)
    row = stack(1)
    await cluster.create_pod(pod_of(row))
    pod = await mirror.until(row.pod_name, lambda p: p if p and p.scheduled is False else None, timeout=30)
    assert "unschedulable" in pod.unschedulable_message


async def test_rows_can_be_rebuilt_from_what_is_listed(cluster: Cluster) -> None:
    rows = [stack(number, node_port=31000 + number) for number in range(5)]
    for row in rows:
        await cluster.create_pod(pod_of(row))
        await cluster.create_service(service_of(row))
    pods = {raw["metadata"]["name"]: raw for raw in await cluster.list_raw("pods")}
    rebuilt = {}
    for raw in await cluster.list_raw("services"):
        found = parse_record(raw, pods[raw["metadata"]["name"].removeprefix("svc-")])
        assert isinstance(found, Stack)
        rebuilt[found.stack_id] = found
    for row in rows:
        found = rebuilt[row.stack_id]
        assert dataclasses.replace(
            found, node_id=None, pod_uid=None, service_uid=None, accepted=False
        ) == dataclasses.replace(row, updated_at=row.created_at)


@pytest.mark.parametrize("fault", ["", "no_query"])
async def test_events_and_logs_of_a_pod_are_read(
    embedded: EmbeddedCluster, cluster: Cluster, mirror: Mirror, fault: str
) -> None:
    other = await cluster.create_pod(pod_of(stack(2)))
    await mirror.until(other.name, running, timeout=30)
    if fault:
        embedded.faults.add_fault(action="no_query", verb="list", resource="events")
    row = stack(1)
    pod = await cluster.create_pod(pod_of(row))
    await mirror.until(row.pod_name, running, timeout=30)
    events = await cluster.pod_events(row.pod_name, pod.uid)
    assert [event.reason for event in events].count("Scheduled") == 1
    assert isinstance(await cluster.pod_log(row.pod_name, tail=5), str)


async def test_annotations_are_patched_and_listed(cluster: Cluster) -> None:
    row = stack(1)
    pod = await cluster.create_pod(pod_of(row))
    await cluster.patch_pod(row.pod_name, pod.uid, annotations={"stackd.io/record": "later"})
    (raw,) = await cluster.list_raw("pods")
    assert raw["metadata"]["annotations"]["stackd.io/record"] == "later"


async def test_a_namespace_deleted_under_the_client_is_made_again(embedded: EmbeddedCluster) -> None:
    target = target_at(embedded.url, namespace="fresh")
    cluster = await Cluster.connect(target)
    row = dataclasses.replace(stack(1), namespace="fresh")
    assert (await cluster.create_pod(pod_of(row))).name == row.pod_name
    await cluster.close()


async def test_an_expired_token_is_renewed_for_calls_and_watches(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("kube")
    users = tuple(User(token=token, name="stackd", rules=(everything(),)) for token in (TOKEN, NEW_TOKEN))
    options = EmbeddedOptions(start_delay=0.0, bookmark_interval=0.1, serve_node_ports=False, users=users)
    async with EmbeddedCluster(options) as embedded:
        path = folder / "kubeconfig"
        embedded.write_kubeconfig(path, token=TOKEN)
        target = ClusterTarget(mode="kubeconfig", kubeconfig=str(path), namespace=NAMESPACE)
        cluster = await Cluster.connect(target)
        await cluster.ensure_namespace()
        mirror = Mirror(cluster, timings=QUICK)
        task = asyncio.create_task(mirror.run())
        await asyncio.wait_for(mirror.wait_synced(), 10)
        embedded.write_kubeconfig(path, token=NEW_TOKEN)
        embedded.faults.expire_token(TOKEN)
        embedded.faults.drop_watches()
        row = stack(1)
        await cluster.create_pod(pod_of(row))
        await mirror.until(row.pod_name, running, timeout=30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await cluster.close()


async def test_rights_are_answered_by_the_clusters_rules(embedded: EmbeddedCluster, cluster: Cluster) -> None:
    assert await cluster.may(
        AccessReview(verb="create", resource="pods", subresource="", group="", namespace=NAMESPACE, name="", why="")
    )
    assert await cluster.version()
    assert await cluster.cluster_uid() == await cluster.cluster_uid() != ""
    assert await cluster.resource_quotas() == await cluster.limit_ranges() == await cluster.network_policies() == []
