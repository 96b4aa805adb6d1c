from __future__ import annotations

import pytest

from stackd.kube.objects import (
    MESSAGE_LIMIT,
    ContainerState,
    NodeState,
    PodEvent,
    PodState,
    ServiceState,
    node_state,
    pod_event,
    pod_state,
    service_state,
)
from tests.kube.wire import pod, recording

SECOND = 1_000_000_000


def body(name: str) -> dict[str, object]:
    document: dict[str, object] = recording(name)["response"]["body"]
    return document


def test_a_running_pod_as_recorded() -> None:
    assert pod_state(body("pod-get-ok")) == PodState(
        name="ok",
        uid="20c14cd4-f9dd-4a96-830c-491428e37111",
        resource_version="16667",
        instance="",
        stack_id="",
        node_name="real-worker",
        phase="Running",
        reason="",
        message="",
        ready=True,
        scheduled=True,
        unschedulable_message="",
        deleting=False,
        disruption="",
        created_at=1_795_560_959 * SECOND,
        containers=(
            ContainerState(
                name="app",
                init=False,
                image="docker.io/library/nginx:stable",
                state="running",
                reason="",
                message="",
                exit_code=None,
                restart_count=0,
                ready=True,
                last_reason="",
                last_exit_code=None,
            ),
        ),
        cpu_milli=100,
        memory_bytes=64 << 20,
    )


@pytest.mark.parametrize(
    ("name", "phase", "state", "reason", "exit_code"),
    [
        ("badimage", "Pending", "waiting", "ImagePullBackOff", None),
        ("invalidimage", "Pending", "waiting", "InvalidImageName", None),
        ("nosecret", "Pending", "waiting", "CreateContainerConfigError", None),
        ("nocmd", "Failed", "terminated", "StartError", 128),
        ("exit1", "Failed", "terminated", "Error", 3),
        ("oom", "Failed", "terminated", "OOMKilled", 137),
        ("exit0", "Succeeded", "terminated", "Completed", 0),
    ],
)
def test_what_became_of_the_container_as_recorded(
    name: str, phase: str, state: str, reason: str, exit_code: int | None
) -> None:
    seen = pod_state(body(f"pod-get-{name}"))
    container = seen.containers[0]
    assert (seen.phase, container.state, container.reason, container.exit_code) == (phase, state, reason, exit_code)
    assert not seen.ready


def test_an_unschedulable_pod_says_why() -> None:
    seen = pod_state(body("pod-get-toobig"))
    assert seen.scheduled is False
    assert seen.node_name is None
    assert "Insufficient cpu" in seen.unschedulable_message


def test_a_pod_that_was_just_created_is_neither_scheduled_nor_not() -> None:
    seen = pod_state(body("pod-create-201"))
    assert (seen.scheduled, seen.node_name, seen.containers) == (None, None, ())


def test_a_pod_collected_for_its_lost_node_says_so() -> None:
    states = [pod_state(event["object"]) for event in recording("watch-pod-on-deleted-node")["events"]]
    assert [(state.phase, state.disruption, state.deleting) for state in states] == [
        ("Pending", "", False),
        ("Running", "", False),
        ("Failed", "DeletionByPodGC", False),
        ("Failed", "DeletionByPodGC", True),
        ("Failed", "DeletionByPodGC", True),
    ]


def test_init_containers_come_first_and_are_marked() -> None:
    crashed = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 4}
    last = {"lastState": {"terminated": {"reason": "Error", "exitCode": 2}}}
    raw = pod(
        "p",
        initContainerStatuses=[{"name": "setup", "image": "i", **crashed, **last}],
        containerStatuses=[{"name": "app", "image": "i", "state": {}}],
    )
    setup, app = pod_state(raw).containers
    assert (setup.name, setup.init, setup.restart_count, setup.last_reason, setup.last_exit_code) == (
        "setup", True, 4, "Error", 2,
    )  # fmt: skip
    assert (app.name, app.init, app.state) == ("app", False, "")


def test_only_a_pod_that_says_it_is_managed_by_stackd_has_an_instance() -> None:
    ours = pod("p")
    assert (pod_state(ours).instance, pod_state(ours).stack_id) == ("default", "p")
    del ours["metadata"]["labels"]["app.kubernetes.io/managed-by"]
    assert pod_state(ours).instance == ""


def test_messages_are_cut_and_common_strings_shared() -> None:
    states = [pod_state(pod("p", message="x" * 5000, reason=f"Evic{'ted'}")) for _ in range(2)]
    assert len(states[0].message) == MESSAGE_LIMIT
    assert states[0].reason is states[1].reason
    assert states[0].instance is states[1].instance


def test_a_service_as_recorded() -> None:
    assert service_state(body("service-create-owned")) == ServiceState(
        name="svc-owned",
        uid="bc98d9c0-86ad-46d1-9bf8-8cf87b5ad871",
        instance="",
        stack_id="",
        node_ports=(30513,),
        deleting=False,
        created_at=1_795_560_992 * SECOND,
        type="NodePort",
        families=("IPv4",),
        recorded=False,
        resource_version="16776",
    )


def test_nodes_as_recorded() -> None:
    items = recording("nodes-list")["response"]["body"]["items"]
    nodes = {state.name: state for state in map(node_state, items)}
    first = nodes["dev-worker"]
    assert first == NodeState(
        name="dev-worker",
        uid=first.uid,
        labels=first.labels,
        addresses=(("InternalIP", "10.0.0.1"), ("ExternalIP", "203.0.113.1")),
        ready=True,
        unschedulable=first.unschedulable,
        cpu_milli=1_000_000,
        memory_bytes=1000 * 2**30,
        pods=5000,
    )


def test_a_real_kubelets_node_as_recorded() -> None:
    items = recording("nodes-list")["response"]["body"]["items"]
    node = {state.name: state for state in map(node_state, items)}["real-worker"]
    assert (node.cpu_milli, node.memory_bytes, node.pods) == (2000, 24_581_684 * 1024, 110)
    assert (node.ephemeral_bytes, node.pod_cidrs, node.ready) == (0, (), True)


@pytest.mark.parametrize(
    ("spec", "cidrs"),
    [
        ({"podCIDR": "10.244.1.0/24"}, ("10.244.1.0/24",)),
        ({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00::/64"]}, ("10.244.1.0/24", "fd00::/64")),
        ({}, ()),
    ],
)
def test_the_networks_of_a_nodes_pods_are_kept(spec: dict[str, object], cidrs: tuple[str, ...]) -> None:
    assert node_state({"metadata": {"name": "n", "uid": "u"}, "spec": spec}).pod_cidrs == cidrs


def test_a_pods_disk_is_what_the_scheduler_reserves_for_it() -> None:
    def taking(name: str, storage: str, **more: object) -> dict[str, object]:
        return {"name": name, "resources": {"requests": {"ephemeral-storage": storage}}, **more}

    raw = pod("p")
    raw["spec"]["initContainers"] = [taking("side", "1Gi", restartPolicy="Always"), taking("init", "4Gi")]
    raw["spec"]["containers"] = [taking("a", "1Gi"), taking("b", "2Gi"), {"name": "c"}]
    assert pod_state(raw).ephemeral_bytes == 5 << 30
    raw["spec"]["initContainers"].pop()
    assert pod_state(raw).ephemeral_bytes == 4 << 30
    assert pod_state(pod("q")).ephemeral_bytes == 0


def test_a_heartbeat_of_a_node_changes_nothing_that_is_kept() -> None:
    raw = recording("nodes-list")["response"]["body"]["items"][0]
    before = node_state(raw)
    raw["metadata"]["resourceVersion"] = "99999"
    raw["status"]["conditions"][0]["lastHeartbeatTime"] = "2027-01-01T00:00:00Z"
    assert node_state(raw) == before


def test_events_of_both_forms_as_recorded() -> None:
    events = [pod_event(raw) for raw in recording("events-list-toobig")["response"]["body"]["items"]]
    assert events[0] == PodEvent(
        type="Warning",
        reason="FailedScheduling",
        message=events[0].message,
        count=1,
        at=1_795_560_959 * SECOND + 625_371_000,
    )
    assert events[1].count == 2
    kubelet = pod_event(recording("events-list-badimage")["response"]["body"]["items"][1])
    assert (kubelet.reason, kubelet.count, kubelet.at) == ("MissingClusterDNS", 4, 1_795_560_972 * SECOND)
