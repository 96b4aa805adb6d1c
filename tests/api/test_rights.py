"""The daemon under exactly the rights, the quota and the network policies that ``stackd manifests`` prints."""

from __future__ import annotations

import base64
import subprocess
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
from stackd.kube.access import request_token
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget
from stackd.kube.lease import lease_name
from stackd.kube.provision import EGRESS, INGRESS, protects
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
from tests.harness import Harness, eventually, fast_cluster, harness, seed

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
) -> AsyncIterator[Harness]:
    """A stackd on a cluster to which the documents were applied, and where stackd has these rights."""
    account = User(token=OURS, name="system:serviceaccount:stackd:stackd", rules=granted or rules(documents))
    options = fast_cluster(users=(ADMIN, account))
    async with EmbeddedCluster(options) as cluster:
        await apply(cluster, documents)
        policy = {"STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "true"}
        token = cluster.accounts.issue("stackd", "stackd", 3600)
        async with harness(folder, policy, cluster=cluster, token=token, admin=ADMIN.token) as ready:
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
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    documents = printed()
    documents = [one for one in documents if one["kind"] != "LimitRange"]  # one of the tests brings its own
    async with provisioned(tmp_path, documents) as ready:
        yield ready
        refused = [key for key in ready.cluster.counts.requests if key[2] == 403 and key[1] not in ("pods",)]
        assert not refused


async def used(at: Harness, target: ClusterTarget) -> None:
    """Everything that the daemon and its commands ever ask of a cluster."""
    first, second = (await at.create())["stack_id"], (await at.create())["stack_id"]
    await at.until_status(first, "running")
    assert (await at.call("DELETE", f"/stacks/{first}")).status == 200
    await at.finished_job((await at.call("POST", "/stacks/batch-delete", {"stack_ids": [second]})).json["job_id"])
    third = await at.create()
    await at.until_status(third["stack_id"], "running")
    for verb, body in (("stop", None), ("extend", {"ttl": "1m"}), ("start", None)):
        assert (await at.call("POST", f"/stacks/{third['stack_id']}/{verb}", body)).status == 200
    await at.until_status(third["stack_id"], "running")
    cluster = await Cluster.connect(target)
    try:
        assert await cluster.pod_log(third["pod_id"], tail=10)
        assert await cluster.pod_events(third["pod_id"])
        uid = (await at.objects("pods"))[third["pod_id"]]["metadata"]["uid"]
        await cluster.patch_pod_annotations(third["pod_id"], uid, {"stackd.io/expires-at": None})
        await cluster.delete_service(third["service_name"])
        await cluster.delete_pod(third["pod_id"])
        assert await cluster.get_pod(first) is None
        await cluster.resource_quotas()
        await cluster.limit_ranges()
        token = cluster.connection.access.token
        assert token is not None
        assert (await request_token(cluster.answer, token)).account == "stackd"
    finally:
        await cluster.close()
    await at.until_status(third["stack_id"], "stopped")


def target(at: Harness) -> ClusterTarget:
    chosen = at.config.cluster
    return ClusterTarget(mode="kubeconfig", kubeconfig=chosen.kubeconfig, instance=chosen.instance, namespace="stacks")


async def test_each_right_is_used_and_no_other_is_asked_for(tmp_path: Path) -> None:
    documents = printed()
    account = User(token=OURS, name="system:serviceaccount:stackd:stackd", rules=rules(documents))
    policy = {"STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "true", "STACKD_CLUSTER__LEASE_DURATION": "2s"}
    async with EmbeddedCluster(fast_cluster(users=(ADMIN, account))) as cluster:
        await apply(cluster, documents)
        cluster.faults.reset_counts()
        token = cluster.accounts.issue("stackd", "stackd", 3600)
        async with harness(tmp_path, policy, cluster=cluster, token=token, admin=ADMIN.token) as at:
            await used(at, target(at))
            await eventually(lambda: cluster.counts.total("update", "leases"))
        asked = {
            (verb, resource) for verb, resource, _ in cluster.counts.requests if "/" not in verb and resource[0] != "/"
        }
        granted = {(verb, resource) for rule in rules(documents) for verb in rule.verbs for resource in rule.resources}
        assert asked == granted
        assert not [key for key in cluster.counts.requests if key[2] == 403]


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
        assert f"no right to {verb} {resource}" in reply.detail


async def test_without_the_namespace_the_start_waits_for_it_and_says_why(tmp_path: Path) -> None:
    documents = printed()
    account = User(token=OURS, name="stackd", rules=rules(documents))
    async with (
        EmbeddedCluster(fast_cluster(users=(ADMIN, account))) as cluster,
        harness(tmp_path, cluster=cluster, token=OURS, admin=ADMIN.token, wait=False) as at,
    ):
        await at.until_unready("no right to create namespaces")
        await apply(cluster, documents)
        await at.until_ready(10)


def test_what_is_printed_follows_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[stacks]\nnamespace = "arena"\nnode_port_min = 31001\nnode_port_max = 31010\n[policy]\nprofile = "restricted"\n'
        '[auth]\nenabled = false\n[cluster]\nmode = "embedded"\ninstance = "Red_Team"\n'
    )
    documents = printed("--config", str(config))
    by_kind = {one["kind"]: one for one in reversed(documents)}
    assert by_kind["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert by_kind["ResourceQuota"]["spec"]["hard"]["services.nodeports"] == "10"
    assert {one["metadata"].get("namespace") for one in documents} == {None, "arena", "stackd"}
    assert by_kind["ClusterRole"]["rules"][-1]["resourceNames"] == ["kube-system", "arena"]
    unnamed, named = (rule for rule in by_kind["Role"]["rules"] if rule["resources"] == ["leases"])
    assert (unnamed["verbs"], unnamed.get("resourceNames")) == (["create"], None)
    assert named["resourceNames"] == [lease_name("Red_Team")]
    assert "create" not in named["verbs"]


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


def printed_one(kind: str, *arguments: str) -> dict[str, Any]:
    (found,) = [one for one in printed(*arguments) if one["kind"] == kind]
    return found


def test_the_quota_has_what_the_options_say_in_canonical_form() -> None:
    hard = printed_one("ResourceQuota", "--quota-cpu", "64000m", "--quota-memory", "131072Mi")["spec"]["hard"]
    assert {name: hard[name] for name in hard if "." in name and "services" not in name} == {
        "requests.cpu": "64",
        "limits.cpu": "64",
        "requests.memory": "128Gi",
        "limits.memory": "128Gi",
    }
    hard = printed_one("ResourceQuota", "--quota-ephemeral-storage", "500Gi")["spec"]["hard"]
    assert (hard["requests.ephemeral-storage"], hard["limits.ephemeral-storage"]) == ("500Gi", "500Gi")


def test_disk_is_left_out_for_nodes_that_report_none() -> None:
    (limit,) = printed_one("LimitRange", "--no-ephemeral-storage")["spec"]["limits"]
    assert {"cpu", "memory"} == limit["max"].keys() == limit["default"].keys() == limit["defaultRequest"].keys()


def test_a_container_may_have_what_the_policy_lets_a_pod_have(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[policy]\nmax_cpu = "4000m"\nmax_memory = "512Mi"\nmax_ephemeral_storage = "512Mi"\n'
        '[auth]\nenabled = false\n[cluster]\nmode = "embedded"\n'
    )
    (limit,) = printed_one("LimitRange", "--config", str(config))["spec"]["limits"]
    assert limit["max"] == {"cpu": "4", "memory": "512Mi", "ephemeral-storage": "512Mi"}
    assert limit["default"]["ephemeral-storage"] == "512Mi"
    assert limit["defaultRequest"]["ephemeral-storage"] == "64Mi"


@pytest.mark.parametrize("arguments", [[], ["--no-ephemeral-storage"], ["--quota-cpu", "2500m"]])
async def test_what_is_applied_is_kept_as_it_is_printed_so_that_a_second_time_changes_nothing(
    arguments: list[str],
) -> None:
    documents = printed(*arguments)
    async with EmbeddedCluster(fast_cluster(users=(ADMIN,))) as cluster:
        await apply(cluster, documents)
        headers = {"Authorization": f"Bearer {ADMIN.token}"}
        for kind in ("LimitRange", "ResourceQuota"):
            (mine,) = [one for one in documents if one["kind"] == kind]
            url = cluster.url + PATHS[kind].format("stacks") + "/" + mine["metadata"]["name"]
            async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as answer:
                assert (await answer.json())["spec"] == mine["spec"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--cluster-cidr", "10.0.0.1/8"],
        ["--target-port", "0"],
        ["--target-port", "9-8"],
        ["--quota-cpu", "lots"],
        ["--quota-memory", "0"],
        ["--quota-ephemeral-storage", "1Gi", "--no-ephemeral-storage"],
    ],
)
def test_what_is_no_network_port_or_amount_is_a_usage_error(wrong: list[str]) -> None:
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


def test_the_account_may_make_fresh_tokens_for_itself_and_nobody_else_unless_it_has_one_that_lasts() -> None:
    def about_tokens(documents: list[dict[str, Any]]) -> list[tuple[str, str, Any]]:
        return [
            (one["metadata"]["namespace"], one["metadata"]["name"], rule.get("resourceNames"))
            for one in documents
            for rule in one.get("rules", ())
            if "serviceaccounts/token" in rule["resources"]
        ]

    assert about_tokens(printed()) == [("stackd", "stackd-token", ["stackd"])]
    assert "Secret" not in {one["kind"] for one in printed()}
    named = printed("--account", "arena", "--account-namespace", "ops")
    assert about_tokens(named) == [("ops", "arena-token", ["arena"])]
    lasting = printed("--token", "lasting")
    assert about_tokens(lasting) == []
    assert [one["metadata"]["name"] for one in lasting if one["kind"] == "Secret"] == ["stackd-token"]


KUBECTL = """#!/bin/sh
case "$*" in
  *configmap*) [ -z "$REFUSED" ] || exit 1; printf 'PEM of two\\nlines\\n' ;;
  *"create token"*) echo "$*" >> "$(dirname "$0")/asked"; echo fresh.token.text ;;
  *secret*) echo lasting ;;
esac
"""


def kubeconfig_made(folder: Path, *arguments: str, refused: str = "") -> subprocess.CompletedProcess[str]:
    """What the printed script prints where kubectl is this one."""
    (folder / "kubectl").write_text(KUBECTL)
    (folder / "kubectl").chmod(0o755)
    words = ["manifests", "--kubeconfig-for", "https://api.example:6443", *arguments]
    script = CliRunner().invoke(stackd, words).output
    env = {"PATH": f"{folder}:/usr/bin:/bin", "REFUSED": refused}
    return subprocess.run(["sh"], input=script, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_kubeconfig_script_prints_a_kubeconfig_with_a_token_that_ends(tmp_path: Path) -> None:
    made = yaml.safe_load(kubeconfig_made(tmp_path, "--token-hours", "48").stdout)
    cluster = made["clusters"][0]["cluster"]
    assert cluster["server"] == "https://api.example:6443"
    assert base64.b64decode(cluster["certificate-authority-data"]) == b"PEM of two\nlines\n"
    assert made["users"][0]["user"] == {"token": "fresh.token.text"}
    assert (tmp_path / "asked").read_text() == "-n stackd create token stackd --duration=48h\n"
    lasting = yaml.safe_load(kubeconfig_made(tmp_path, "--token", "lasting").stdout)
    assert lasting["users"][0]["user"] == {"token": "lasting"}


def test_the_kubeconfig_script_prints_nothing_where_kubectl_refuses(tmp_path: Path) -> None:
    made = kubeconfig_made(tmp_path, refused="yes")
    assert made.returncode != 0
    assert made.stdout == ""


async def test_what_is_printed_is_what_the_cluster_keeps_so_that_applying_it_again_changes_nothing() -> None:
    documents = printed("--quota-cpu", "64", "--quota-memory", "128Gi", "--egress", "internet", "--dns")
    headers = {"Authorization": f"Bearer {ADMIN.token}"}
    async with EmbeddedCluster(fast_cluster(users=(ADMIN,))) as cluster:
        await apply(cluster, documents)
        async with aiohttp.ClientSession(headers=headers) as session:
            for document in documents:
                metadata = document["metadata"]
                if document["kind"] in PATHS and "spec" in document:
                    path = PATHS[document["kind"]].format(metadata["namespace"])
                    async with session.get(f"{cluster.url}{path}/{metadata['name']}") as answer:
                        assert (await answer.json())["spec"] == document["spec"], metadata["name"]
