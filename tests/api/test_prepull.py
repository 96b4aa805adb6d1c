"""Images of templates are on the nodes before the first create, and the tenant's program is not run for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stackd.embedded import EmbeddedCluster
from stackd.embedded.options import DEFAULT_NODES
from stackd.lifecycle import prepull
from stackd.workqueue import RetryPolicy
from tests.api.test_templates import PLAIN, folder_with
from tests.harness import Harness, eventually, fast_cluster, harness, until

IMAGE = "registry.example/slowpull:1"
NODES = {node.name for node in DEFAULT_NODES}


def slow(prepulled: bool = True, image: str = IMAGE) -> str:
    return PLAIN.replace("nginx:stable", image) + f"prepull: {str(prepulled).lower()}\n"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepull, "RETRIES", RetryPolicy(first=0.05, longest=0.1))
    monkeypatch.setattr(prepull, "CLEAN_UP_SECONDS", 0.05)
    monkeypatch.setattr(prepull, "FIRST_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(prepull, "LONGEST_CHECK_SECONDS", 0.05)


async def states(at: Harness, name: str = "slow") -> dict[str, str]:
    """The state of the template's images, by node."""
    listed = {one["name"]: one["prepull"] for one in (await at.call("GET", "/templates")).json["templates"]}
    return {node: pull["state"] for node, pull in listed[name].items()}


async def until_states(at: Harness, wanted: dict[str, str], name: str = "slow") -> None:
    await until(lambda: states(at, name), lambda seen: seen == wanted)


async def pulling_pods(at: Harness) -> dict[str, Any]:
    """The pods that pull images, by name."""
    return {name: pod for name, pod in (await at.objects("pods")).items() if name.startswith("prepull-")}


async def test_images_are_pulled_on_every_node_and_no_pod_is_left(tmp_path: Path) -> None:
    async with (
        EmbeddedCluster(fast_cluster(slow_pull=0.3)) as cluster,
        harness(tmp_path, folder_with(tmp_path, slow=slow()), cluster=cluster) as at,
    ):
        await until_states(at, dict.fromkeys(NODES, "pulled"))
        await eventually(lambda: _none(at))


async def _none(at: Harness) -> bool:
    return not await pulling_pods(at)


async def test_the_pods_run_nothing_and_carry_no_stacks_labels(tmp_path: Path) -> None:
    text = slow().replace("spec:\n    init", "spec:\n    imagePullSecrets: [{name: registry}]\n    init")
    settings = folder_with(tmp_path, slow=text + "policy: {pull_secrets: [registry], runtime_class: gvisor}\n")
    async with (
        EmbeddedCluster(fast_cluster(slow_pull=60.0)) as cluster,
        harness(tmp_path, settings, cluster=cluster) as at,
    ):
        await eventually(lambda: _pulls(at, IMAGE))
        pods = [pod for pod in (await pulling_pods(at)).values() if _image(pod) == IMAGE]
        for pod in pods:
            (container,) = pod["spec"]["containers"]
            assert container["command"] == ["/stackd-prepull"]
            assert "env" not in container
            assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
            assert pod["spec"]["runtimeClassName"] == "gvisor"
            assert pod["spec"]["automountServiceAccountToken"] is False
            assert pod["metadata"]["labels"] == {"stackd.io/role": "prepull", "stackd.io/instance": "default"}
            assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert (await at.call("GET", "/stats")).json["total_stacks"] == 0
        assert (await at.call("GET", "/reconcile")).json["unknown"] == []


def _image(pod: dict[str, Any]) -> str:
    image: str = pod["spec"]["containers"][0]["image"]
    return image


async def _pulls(at: Harness, image: str) -> bool:
    return any(_image(pod) == image for pod in (await pulling_pods(at)).values())


async def test_few_are_pulled_at_a_time_and_one_on_a_node(tmp_path: Path) -> None:
    many = {f"t{number}": slow(image=f"registry.example/{number}/slowpull") for number in range(3)}
    async with (
        EmbeddedCluster(fast_cluster(slow_pull=0.2)) as cluster,
        harness(tmp_path, folder_with(tmp_path, **many), cluster=cluster) as at,
    ):
        seen: list[list[str]] = []

        async def check() -> bool:
            pods = (await pulling_pods(at)).values()
            seen.append([node for pod in pods if (node := pod["spec"].get("nodeName"))])
            return all([await states(at, name) == dict.fromkeys(NODES, "pulled") for name in many])

        await eventually(check)
        assert max(map(len, seen)) == 2
        assert not [nodes for nodes in seen if len(set(nodes)) < len(nodes)]


async def test_a_node_that_joins_later_gets_them_too(tmp_path: Path) -> None:
    async with (
        EmbeddedCluster(fast_cluster(slow_pull=0.05)) as cluster,
        harness(tmp_path, folder_with(tmp_path, slow=slow()), cluster=cluster) as at,
    ):
        await until_states(at, dict.fromkeys(NODES, "pulled"))
        cluster.faults.add_node(name="late", labels={"role": "stack"})
        await at.until_metric("stackd_nodes", len(NODES) + 1)
        await at.run_now("prepull")
        await until_states(at, dict.fromkeys([*NODES, "late"], "pulled"))


async def metrics_say(at: Harness, line: str) -> bool:
    return line in (await at.call("GET", "/metrics")).text


async def test_an_image_that_cannot_be_pulled_says_why_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    bad = slow(image="registry.invalid/none:1")
    async with (
        EmbeddedCluster(fast_cluster(slow_pull=0.05)) as cluster,
        harness(tmp_path, folder_with(tmp_path, bad=bad, slow=slow()), cluster=cluster) as at,
    ):
        await until_states(at, dict.fromkeys(NODES, "failing"), "bad")
        await until_states(at, dict.fromkeys(NODES, "pulled"))
        (bad_one, _) = (await at.call("GET", "/templates")).json["templates"]
        for pull in bad_one["prepull"].values():
            assert pull["reason"].startswith(("ErrImagePull", "ImagePullBackOff"))
        await eventually(lambda: metrics_say(at, 'stackd_prepull_images{state="failing"} 2.0'))


@pytest.mark.parametrize("dropped", [False, True])
async def test_what_an_earlier_process_left_is_deleted_and_nothing_else(tmp_path: Path, dropped: bool) -> None:
    """Before, a proxy that drops the query string of the list had the pods of all stacks deleted."""
    settings = folder_with(tmp_path, slow=slow())
    async with EmbeddedCluster(fast_cluster(slow_pull=60.0)) as cluster:
        async with harness(tmp_path, settings, cluster=cluster) as at:
            stack_id = await at.running()
            await eventually(lambda: _pulls(at, IMAGE))
            (pull, *_) = (await pulling_pods(at)).values()
            spec = {key: value for key, value in pull["spec"].items() if key != "nodeName"}
            ours = pull["metadata"]["labels"]
            for name, labels in (("left", ours), ("other", ours | {"stackd.io/instance": "b"}), ("foreign", {})):
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
                await at.kubectl("POST", "/api/v1/namespaces/stacks/pods", pod)
            assert "left" in await at.objects("pods")
        folder_with(tmp_path, slow=slow(prepulled=False))
        if dropped:
            cluster.faults.add_fault(action="no_query", verb="list", resource="pods")
        async with harness(tmp_path, settings, cluster=cluster) as at:
            await until(lambda: at.objects("pods"), lambda seen: "left" not in seen)
            await at.run_now("prepull")
            assert set(await at.objects("pods")) == {stack_id, "other", "foreign"}


async def test_a_pod_of_somebody_else_with_the_name_of_a_pull_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = folder_with(tmp_path, slow=slow())
    async with EmbeddedCluster(fast_cluster(slow_pull=60.0)) as cluster:
        async with harness(tmp_path, settings, cluster=cluster) as at:
            await eventually(lambda: _pulls(at, IMAGE))
            names = {name for name, pod in (await pulling_pods(at)).items() if _image(pod) == IMAGE}
        async with harness(tmp_path, cluster=cluster) as at:
            for name in names:
                spec = {"containers": [{"name": "app", "image": "registry.example/fail"}], "restartPolicy": "Never"}
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
                await at.kubectl("POST", "/api/v1/namespaces/stacks/pods", pod)
        async with harness(tmp_path, settings, cluster=cluster) as at:
            await eventually(lambda: "is not stackd's" in caplog.text)
            assert names <= set(await at.objects("pods"))


async def test_a_stop_leaves_no_pod(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(slow_pull=60.0)) as cluster:
        async with harness(tmp_path, folder_with(tmp_path, slow=slow()), cluster=cluster) as at:
            await eventually(lambda: _pulls(at, IMAGE))
        async with harness(tmp_path, cluster=cluster) as at:
            assert not await pulling_pods(at)


async def test_what_nobody_wants_any_more_is_given_up(tmp_path: Path) -> None:
    async with (
        EmbeddedCluster(fast_cluster(slow_pull=60.0)) as cluster,
        harness(tmp_path, folder_with(tmp_path, slow=slow()), cluster=cluster) as at,
    ):
        await eventually(lambda: _pulls(at, IMAGE))
        (tmp_path / "templates" / "slow.yaml").unlink()
        at.reload_templates()
        await eventually(lambda: _none(at))
        await at.run_now("prepull")
        assert await at.metric("stackd_prepull_images") == 0
