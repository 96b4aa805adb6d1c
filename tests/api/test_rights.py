"""The daemon with exactly the rights, the quota and the network policies that ``stackd manifests`` prints."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stackd.embedded import EmbeddedCluster, Rule, User
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget, request_token
from stackd.kube.labels import object_labels
from tests.api.test_routes import GATEWAY, asking, routes_of
from tests.api.test_routes import SETTINGS as ROUTES
from tests.harness import Harness, eventually, fast_cluster, harness, seed, until
from tests.provisioning import ADMIN, OURS, apply, printed, rules


@asynccontextmanager
async def provisioned(
    folder: Path, documents: list[dict[str, Any]], granted: tuple[Rule, ...] | None = None
) -> AsyncIterator[Harness]:
    """A stackd on a cluster to which the documents were applied, with the rights that they give."""
    account = User(token=OURS, name="system:serviceaccount:stackd:stackd", rules=granted or rules(documents))
    options = fast_cluster(users=(ADMIN, account))
    async with EmbeddedCluster(options) as cluster:
        await apply(cluster, documents)
        policy = {"STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "true"}
        token = cluster.accounts.issue("stackd", "stackd", 3600)
        async with harness(folder, policy, cluster=cluster, token=token, admin=ADMIN.token) as ready:
            yield ready


async def used(at: Harness, target: ClusterTarget) -> None:
    """Use everything that the daemon and its commands ever request from a cluster."""
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
        await cluster.patch_pod(third["pod_id"], uid, annotations={"stackd.io/expires-at": None})
        await cluster.delete_service(third["service_name"])
        await cluster.delete_pod(third["pod_id"])
        assert await cluster.get_pod(first) is None
        labels = object_labels("default", first)
        config_map = {"metadata": {"name": first, "labels": labels}}
        assert (await at.kubectl("POST", "/api/v1/namespaces/stacks/configmaps", config_map))["kind"] == "ConfigMap"
        await cluster.delete("configmaps", first)
        await cluster.list_namespaced("resourcequotas")
        await cluster.list_namespaced("limitranges")
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
        assert asked - {("create", "configmaps")} == granted, "the test itself has made one"
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


async def test_nothing_is_created_while_no_policy_protects_the_stacks_and_reads_are_answered(tmp_path: Path) -> None:
    documents = printed()
    good = [one for one in documents if one["metadata"]["name"] == "default-deny"]
    open_to_all = {"kind": "NetworkPolicy", "metadata": {"name": "open", "namespace": "stacks"}}
    open_to_all |= {"spec": {"podSelector": {}, "ingress": [{}]}}
    others = {"kind": "NetworkPolicy", "metadata": {"name": "others", "namespace": "stacks"}}
    others |= {"spec": {"podSelector": {"matchLabels": {"app": "web"}}}}
    settings = {"STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "true"}
    async with EmbeddedCluster(fast_cluster()) as cluster:
        await apply(cluster, [documents[0], others])
        async with harness(tmp_path, settings, cluster=cluster) as at:
            await refused(at)
            await apply(cluster, good)
            await at.run_now("policies")
            stack_id = (await at.create())["stack_id"]
            assert await at.metric("stackd_ready") == 1
            await apply(cluster, [open_to_all])
            await at.run_now("policies")
            await refused(at)
            assert (await at.stack(stack_id))["stack_id"] == stack_id
            cluster.faults.add_fault(action="status", verb="list", resource="networkpolicies", code=403)
            await at.run_now("policies")
            await refused(at)
            at.reload("stacks", require_ingress_network_policy=False)
            await at.run_now("policies")
            await at.create()


async def refused(at: Harness) -> None:
    """Creates are refused for want of a policy, which readiness and metrics show; a list is answered."""
    reply = await at.call("POST", "/stacks", seed())
    assert (reply.status, "no NetworkPolicy in namespace stacks restricts ingress" in reply.error) == (503, True)
    assert "stackd manifests" in await at.until_unready("no NetworkPolicy in namespace stacks")
    assert await at.metric("stackd_not_ready", reason="network_policy") == 1
    assert (await at.metric("stackd_not_ready"), await at.metric("stackd_ready")) == (1, 0)
    assert (await at.call("GET", "/stacks")).status == 200


async def test_names_need_no_more_rights_than_are_printed_for_them(tmp_path: Path) -> None:
    documents = printed(env=ROUTES)
    account = User(token=OURS, name="system:serviceaccount:stackd:stackd", rules=rules(documents))
    async with EmbeddedCluster(fast_cluster(users=(ADMIN, account), gateway=GATEWAY)) as cluster:
        await apply(cluster, documents)
        token = cluster.accounts.issue("stackd", "stackd", 3600)
        async with harness(tmp_path, ROUTES, cluster=cluster, token=token, admin=ADMIN.token) as at:
            stack = await at.create(asking("https", "tls", None))
            before = await routes_of(at)
            path = f"/apis/gateway.networking.k8s.io/v1/namespaces/stacks/httproutes/{stack['stack_id']}-80"
            edited = await at.kubectl("PATCH", path, {"spec": {"hostnames": ["mine.example.org"]}})
            assert edited["spec"]["hostnames"] == ["mine.example.org"], edited
            await until(lambda: routes_of(at), lambda seen: _specs(seen) == _specs(before))
            assert (await at.call("DELETE", f"/stacks/{stack['stack_id']}")).status == 200
            assert await routes_of(at) == {}


def _specs(objects: dict[str, Any]) -> dict[str, Any]:
    return {name: one["spec"] for name, one in objects.items()}
