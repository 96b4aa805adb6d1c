"""The daemon under exactly the rights, the quota and the network policies that ``stackd manifests`` prints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from click.testing import CliRunner

from stackd.cli import stackd
from stackd.embedded import EmbeddedCluster, Rule, User, everything, rules_from_manifests
from stackd.kube.client import Cluster, ClusterTarget
from stackd.kube.isolation import EGRESS, INGRESS, protects
from tests.api.test_cluster_truth import (
    test_a_pod_collected_with_its_node_has_ended_as_node_deleted,
    test_a_service_deleted_by_hand_is_put_back_with_the_same_ports,
)
from tests.api.test_contract import (
    test_a_batch_delete_counts_each_id_once,
    test_a_create_answers_the_documented_fields_in_the_documented_order,
    test_a_deleted_stack_is_gone_from_the_api_and_from_the_cluster,
    test_stats_count_stacks_nodes_ports_and_reservations,
    test_what_no_node_can_take_is_a_503_that_says_so_and_leaves_nothing,
)
from tests.api.test_process import environment, run
from tests.api.test_refusals import test_a_limitrange_violation_is_a_400
from tests.stand import Stand, eventually, fast_cluster, seed, stand

ADMIN = User(token="admin", name="admin", rules=(everything(),))
OURS = "token-of-stackd"
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "ResourceQuota": "/api/v1/namespaces/{}/resourcequotas",
    "LimitRange": "/api/v1/namespaces/{}/limitranges",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
}
__all__ = [
    "test_a_batch_delete_counts_each_id_once",
    "test_a_create_answers_the_documented_fields_in_the_documented_order",
    "test_a_deleted_stack_is_gone_from_the_api_and_from_the_cluster",
    "test_a_limitrange_violation_is_a_400",
    "test_a_pod_collected_with_its_node_has_ended_as_node_deleted",
    "test_a_service_deleted_by_hand_is_put_back_with_the_same_ports",
    "test_stats_count_stacks_nodes_ports_and_reservations",
    "test_what_no_node_can_take_is_a_503_that_says_so_and_leaves_nothing",
]


def printed(*arguments: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(stackd, ["manifests", *arguments])
    assert result.exit_code == 0, result.output
    return list(yaml.safe_load_all(result.output))


def rules(documents: list[dict[str, Any]]) -> tuple[Rule, ...]:
    return rules_from_manifests(documents, account="stackd", namespace="stackd")


@asynccontextmanager
async def provisioned(
    folder: Path, documents: list[dict[str, Any]], granted: tuple[Rule, ...] | None = None
) -> AsyncIterator[Stand]:
    """A stand on a cluster to which the documents were applied, and where stackd has these rights."""
    account = User(token=OURS, name="system:serviceaccount:stackd:stackd", rules=granted or rules(documents))
    options = fast_cluster(users=(ADMIN, account))
    async with EmbeddedCluster(options) as cluster:
        await apply(cluster, documents)
        policy = {"STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "true"}
        async with stand(folder, policy, cluster=cluster, token=OURS, admin=ADMIN.token) as ready:
            yield ready


async def apply(cluster: EmbeddedCluster, documents: list[dict[str, Any]]) -> None:
    headers = {"Authorization": f"Bearer {ADMIN.token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for document in documents:
            if path := PATHS.get(document["kind"]):
                url = cluster.url + path.format(document["metadata"].get("namespace"))
                async with session.post(url, json=document) as answer:
                    assert answer.status == 201, await answer.text()


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Stand]:
    documents = printed()
    documents = [one for one in documents if one["kind"] != "LimitRange"]  # one of the tests brings its own
    async with provisioned(tmp_path, documents) as ready:
        yield ready
        refused = [key for key in ready.cluster.counts.requests if key[2] == 403 and key[1] not in ("pods",)]
        assert not refused


async def used(at: Stand, target: ClusterTarget) -> None:
    """Everything that the daemon and its commands ever ask of a cluster."""
    first, second = (await at.create())["stack_id"], (await at.create())["stack_id"]
    pod = at.daemon.room.mirror.pods[first]
    await at.until_status(first, "running")
    assert (await at.call("DELETE", f"/stacks/{first}")).status == 200
    await at.finished_job((await at.call("POST", "/stacks/batch-delete", {"stack_ids": [second]})).json["job_id"])
    third = await at.create()
    await at.until_status(third["stack_id"], "running")
    room = at.daemon.room
    cluster = await Cluster.connect(target)
    try:
        assert await cluster.pod_log(third["pod_id"], tail=10)
        assert await cluster.pod_events(third["pod_id"])
        now = room.mirror.pods[third["pod_id"]]
        await cluster.patch_pod_annotations(now.name, now.uid, {"stackd.io/expires-at": None})
        await cluster.delete_service(third["service_name"])
        await cluster.delete_pod(third["pod_id"])
        assert await cluster.get_pod(pod.name) is None
        await cluster.resource_quotas()
        await cluster.limit_ranges()
    finally:
        await cluster.close()
    await eventually(lambda: third["pod_id"] not in room.mirror.pods)


def target(at: Stand) -> ClusterTarget:
    chosen = at.daemon.room.config.cluster
    return ClusterTarget(mode="kubeconfig", kubeconfig=chosen.kubeconfig, instance=chosen.instance, namespace="stacks")


async def test_each_right_is_used_and_no_other_is_asked_for(tmp_path: Path) -> None:
    documents = printed()
    async with provisioned(tmp_path, documents) as at:
        at.cluster.faults.reset_counts()
        async with stand_again(tmp_path / "second", at.cluster) as other:
            await used(other, target(other))
        asked = {
            (verb, resource)
            for verb, resource, _ in at.cluster.counts.requests
            if "/" not in verb and resource[0] != "/"
        }
        granted = {(verb, resource) for rule in rules(documents) for verb in rule.verbs for resource in rule.resources}
        assert asked == granted
        assert not [key for key in at.cluster.counts.requests if key[2] == 403]


@asynccontextmanager
async def stand_again(folder: Path, cluster: EmbeddedCluster) -> AsyncIterator[Stand]:
    """A second daemon on the same cluster, from its start on."""
    folder.mkdir()
    settings = {"STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "true", "STACKD_CLUSTER__INSTANCE": "second"}
    async with stand(folder, settings, cluster=cluster, token=OURS, admin=ADMIN.token) as ready:
        yield ready


@pytest.mark.parametrize(
    ("verb", "resource", "symptom"),
    [
        ("create", "pods", "no right to create pods"),
        ("create", "services", "no right to create services"),
        ("delete", "pods", ""),
    ],
)
async def test_without_a_right_the_answer_names_it(tmp_path: Path, verb: str, resource: str, symptom: str) -> None:
    documents = printed()
    for document in documents:
        for rule in document.get("rules", ()):
            if rule["resources"] == [resource]:
                rule["verbs"].remove(verb)
    async with provisioned(tmp_path, documents) as at:
        if symptom:
            reply = await at.call("POST", "/stacks", seed())
        else:
            reply = await at.call("DELETE", f"/stacks/{(await at.create())['stack_id']}")
        assert reply.status == 503
        assert f"no right to {verb} {resource}" in reply.error


async def test_without_the_namespace_the_start_waits_for_it_and_says_why(tmp_path: Path) -> None:
    documents = printed()
    account = User(token=OURS, name="stackd", rules=rules(documents))
    async with (
        EmbeddedCluster(fast_cluster(users=(ADMIN, account))) as cluster,
        stand(tmp_path, cluster=cluster, token=OURS, admin=ADMIN.token, wait=False) as at,
    ):
        await eventually(lambda: "no right to create namespaces" in at.daemon.room.waiting_for)
        await apply(cluster, documents)
        async with asyncio.timeout(10):
            await at.daemon.ready.wait()


def test_what_is_printed_follows_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[stacks]\nnamespace = "arena"\nnode_port_min = 31001\nnode_port_max = 31010\n[policy]\nprofile = "restricted"\n'
        '[auth]\nenabled = false\n[cluster]\nmode = "embedded"\n'
    )
    documents = printed("--config", str(config))
    by_kind = {one["kind"]: one for one in reversed(documents)}
    assert by_kind["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert by_kind["ResourceQuota"]["spec"]["hard"]["services.nodeports"] == "10"
    assert {one["metadata"].get("namespace") for one in documents} == {None, "arena", "stackd"}
    assert by_kind["ClusterRole"]["rules"][-1]["resourceNames"] == ["kube-system", "arena"]


def policies(documents: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["metadata"]["name"]: one["spec"] for one in documents if one["kind"] == "NetworkPolicy"}


def test_the_policies_protect_the_stacks_in_both_directions() -> None:
    for arguments in ([], ["--egress", "internet"], ["--egress", "internet", "--dns"]):
        found = [one for one in printed(*arguments) if one["kind"] == "NetworkPolicy"]
        assert protects(found, "default", INGRESS)
        assert protects(found, "default", EGRESS)


def test_stacks_reach_nothing_unless_it_is_asked_for() -> None:
    assert set(policies(printed())) == {"default-deny", "stacks-from-outside"}


def test_the_internet_is_neither_the_cluster_nor_a_private_network_nor_the_metadata_address() -> None:
    found = policies(
        printed("--egress", "internet", "--cluster-cidr", "203.0.113.0/24", "--cluster-cidr", "2001:db8::/56")
    )
    four, six = (peer["ipBlock"] for peer in found["stacks-to-internet"]["egress"][0]["to"])
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "203.0.113.0/24"} <= set(four["except"])
    assert {"fc00::/7", "fe80::/10", "2001:db8::/56"} <= set(six["except"])
    assert [peer["ipBlock"] for peer in found["stacks-from-outside"]["ingress"][0]["from"]] == [
        {"cidr": "0.0.0.0/0", "except": ["203.0.113.0/24"]},
        {"cidr": "::/0", "except": ["2001:db8::/56"]},
    ]


def test_only_the_named_ports_are_reachable_where_ports_are_named() -> None:
    (rule,) = policies(printed("--target-port", "80", "--target-port", "8000-8999"))["stacks-from-outside"]["ingress"]
    assert {(port["port"], port.get("endPort")) for port in rule["ports"]} == {(80, None), (8000, 8999)}


@pytest.mark.parametrize("wrong", [["--cluster-cidr", "10.0.0.1/8"], ["--target-port", "0"], ["--target-port", "9-8"]])
def test_what_is_no_network_or_port_is_a_usage_error(wrong: list[str]) -> None:
    assert CliRunner().invoke(stackd, ["manifests", *wrong]).exit_code == 2


async def test_the_daemon_does_not_start_where_no_policy_protects_the_stacks(tmp_path: Path) -> None:
    documents = printed()
    open_to_all = {"kind": "NetworkPolicy", "metadata": {"name": "open", "namespace": "stacks"}}
    open_to_all |= {"spec": {"podSelector": {}, "ingress": [{}]}}
    others = {"kind": "NetworkPolicy", "metadata": {"name": "others", "namespace": "stacks"}}
    others |= {"spec": {"podSelector": {"matchLabels": {"app": "web"}}}}
    async with EmbeddedCluster(fast_cluster()) as cluster:
        await apply(cluster, [documents[0], others])
        env = environment(
            tmp_path, cluster, STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY="true", STACKD_LOG__FORMAT="text"
        )
        for _ in range(2):
            code, said = await run(env, "serve")
            assert code == 1
            last = said.strip().splitlines()[-1]
            assert "no NetworkPolicy in namespace stacks restricts ingress to the stacks" in last
            assert "stackd manifests" in last
            assert "Traceback" not in said
            await apply(cluster, [open_to_all])
            open_to_all["metadata"] = {"name": "again", "namespace": "stacks"}
