from __future__ import annotations

from typing import Any

import pytest

from stackd.kube.objects import MESSAGE_LIMIT, PodEvent, node_state, pod_event, pod_state, service_state
from tests.kube.wire import pod, recording

SECOND = 1_000_000_000


def body(name: str) -> dict[str, Any]:
    document: dict[str, Any] = recording(name)["response"]["body"]
    return document


def node(name: str) -> dict[str, Any]:
    (raw,) = [one for one in body("nodes-list")["items"] if one["metadata"]["name"] == name]
    assert isinstance(raw, dict)
    return raw


def shows(seen: object, /, **expected: object) -> None:
    assert {name: getattr(seen, name) for name in expected} == expected


def test_a_running_pod_as_recorded() -> None:
    state = pod_state(body("pod-get-ok"))
    shows(
        state,
        name="ok",
        uid="20c14cd4-f9dd-4a96-830c-491428e37111",
        resource_version="16667",
        instance="",
        node_name="real-worker",
        phase="Running",
        ready=True,
        scheduled=True,
        deleting=False,
        created_at=1_795_560_959 * SECOND,
        cpu_milli=100,
        memory_bytes=64 << 20,
        ephemeral_bytes=0,
    )
    (app,) = state.containers
    shows(
        app, name="app", init=False, image="docker.io/library/nginx:stable", state="running", exit_code=None, ready=True
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
def test_a_container_as_recorded(name: str, phase: str, state: str, reason: str, exit_code: int | None) -> None:
    seen = pod_state(body(f"pod-get-{name}"))
    container = seen.containers[0]
    assert (seen.phase, container.state, container.reason, container.exit_code) == (phase, state, reason, exit_code)
    assert not seen.ready


def test_whether_a_pod_has_a_node_and_was_collected_for_it_as_recorded() -> None:
    toobig, fresh = pod_state(body("pod-get-toobig")), pod_state(body("pod-create-201"))
    assert (toobig.scheduled, toobig.node_name) == (False, None)
    assert "Insufficient cpu" in toobig.unschedulable_message
    assert (fresh.scheduled, fresh.node_name, fresh.containers) == (None, None, ())
    states = [pod_state(event["object"]) for event in recording("watch-pod-on-deleted-node")["events"]]
    assert [(state.phase, state.disruption, state.deleting) for state in states] == [
        ("Pending", "", False),
        ("Running", "", False),
        ("Failed", "DeletionByPodGC", False),
        ("Failed", "DeletionByPodGC", True),
        ("Failed", "DeletionByPodGC", True),
    ]


def test_init_containers_come_first() -> None:
    crashed = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 4}
    last = {"lastState": {"terminated": {"reason": "Error", "exitCode": 2}}}
    raw = pod(
        "p",
        initContainerStatuses=[{"name": "setup", "image": "i", **crashed, **last}],
        containerStatuses=[{"name": "app", "image": "i", "state": {}}],
    )
    setup, app = pod_state(raw).containers
    assert (setup.init, setup.restart_count, setup.last_reason, setup.last_exit_code) == (True, 4, "Error", 2)
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
    shows(
        service_state(body("service-create-owned")),
        name="svc-owned",
        instance="",
        node_ports=(30513,),
        created_at=1_795_560_992 * SECOND,
        type="NodePort",
        families=("IPv4",),
        recorded=False,
        resource_version="16776",
    )


def test_nodes_as_recorded() -> None:
    addresses = (("InternalIP", "10.0.0.1"), ("ExternalIP", "203.0.113.1"))
    amounts = {"cpu_milli": 1_000_000, "memory_bytes": 1000 * 2**30, "pods": 5000}
    shows(node_state(node("dev-worker")), name="dev-worker", addresses=addresses, ready=True, **amounts)
    real = node("real-worker")
    before = node_state(real)
    assert (before.cpu_milli, before.memory_bytes, before.pods) == (2000, 24_581_684 * 1024, 110)
    assert (before.ephemeral_bytes, before.pod_cidrs, before.ready) == (0, (), True)
    real["metadata"]["resourceVersion"] = "99999"
    real["status"]["conditions"][0]["lastHeartbeatTime"] = "2027-01-01T00:00:00Z"
    assert node_state(real) == before, "a heartbeat is no change"


def test_a_nodes_pod_networks() -> None:
    one, both = {"podCIDR": "10.244.1.0/24"}, {"podCIDRs": ["10.244.1.0/24", "fd00::/64"]}
    for spec, cidrs in ((one, ("10.244.1.0/24",)), (one | both, ("10.244.1.0/24", "fd00::/64"))):
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


def test_events_of_both_forms_as_recorded() -> None:
    first, second, *_ = [pod_event(raw) for raw in body("events-list-toobig")["items"]]
    at = 1_795_560_959 * SECOND + 625_371_000
    assert first == PodEvent(type="Warning", reason="FailedScheduling", message=first.message, count=1, at=at)
    assert second.count == 2
    kubelet = pod_event(body("events-list-badimage")["items"][1])
    assert (kubelet.reason, kubelet.count, kubelet.at) == ("MissingClusterDNS", 4, 1_795_560_972 * SECOND)
