from __future__ import annotations

from typing import Any

from stackd.kube.objects import node_state, pod_state
from tests.kube.wire import pod, recording


def body(name: str) -> dict[str, Any]:
    document: dict[str, Any] = recording(name)["response"]["body"]
    return document


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
