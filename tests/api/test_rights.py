"""The daemon with exactly the rights, the quota and the network policies that ``stackd manifests`` prints."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from click.testing import CliRunner

from stackd.cli import stackd as command
from stackd.embedded import EmbeddedCluster, User
from stackd.kube.credentials import request_token
from stackd.kube.objects import PODS
from stackd.upkeep.health import line
from tests.api.scenes import three
from tests.harness import KEY, Harness, Machine, eventually, fast_cluster, seed, until
from tests.provisioning import ADMIN, OURS, apply, of_namespace_admin, printed, rules
from tests.routes import GATEWAY, asking, routes_of
from tests.routes import SETTINGS as ROUTES
from tests.templates import PLAIN

ACCOUNT = "system:serviceaccount:stackd:stackd"
ENFORCED = {"stacks__require_ingress_network_policy": "true"}


@asynccontextmanager
async def provisioned(vm: Machine, documents: list[dict[str, Any]], **options: Any) -> AsyncIterator[Harness]:
    """A stackd on a cluster to which the documents were applied, with the rights that they give."""
    account = User(token=OURS, name=ACCOUNT, rules=rules(documents))
    gateway = {"gateway": GATEWAY} if "settings" in options else {}
    async with EmbeddedCluster(fast_cluster(users=(ADMIN, account), **gateway)) as vm.cluster:
        await apply(vm.cluster, documents)
        vm.cluster.faults.reset_counts()
        token = vm.cluster.accounts.issue("stackd", "stackd", 3600)
        yield await vm.start(token=token, admin=ADMIN.token, **(ENFORCED | options))
        await vm.stop()


async def use(at: Harness) -> None:
    """Use everything that the daemon and its commands ever request from a cluster."""
    first, second, third = [await at.running() for _ in range(3)]
    await at.delete(first)
    await at.finished_job(await at.batch_delete(second))
    for verb in ("stop", "extend", "start"):
        await at.do(verb, third, ttl="1m" if verb == "extend" else None)
    await at.until_status(third, "running")
    cluster = at.daemon.context.cluster
    assert await cluster.pod_log(third, tail=10)
    assert await cluster.pod_events(third)
    uid = (await at.pods_and_services())[third]
    await cluster.patch(PODS, third, uid, annotations={"stackd.io/expires-at": None})
    await cluster.delete("services", f"svc-{third}")
    await cluster.delete("pods", third)
    assert await cluster.get(PODS, first) is None
    for text in (PLAIN, PLAIN + "pool: 1\n"):
        assert (await at.call("PUT", "/templates/web-1", text.encode())).status in (200, 201)
    assert (await at.call("DELETE", "/templates/web-1")).status == 200
    assert all(await cluster.admission_policy())
    await cluster.list_namespaced("resourcequotas")
    await cluster.list_namespaced("limitranges")
    token = cluster.connection.access.token
    assert token is not None
    assert (await request_token(cluster.answer, token)).account == "stackd"


async def test_only_the_rights_that_are_used_are_asked_for(vm: Machine) -> None:
    documents = printed()
    async with provisioned(vm, documents, cluster__lease_duration="6s") as at:
        await use(at)
        await eventually(lambda: at.counts.total("update", "leases"))
        await vm.stop()
        asked = {(verb, resource) for verb, resource, _ in at.counts.requests if "/" not in verb and resource[0] != "/"}
        granted = {(verb, resource) for rule in rules(documents) for verb in rule.verbs for resource in rule.resources}
        assert asked == granted
        assert not [key for key in at.counts.requests if key[2] == 403]


NAMESPACE = {"STACKD_CLUSTER__RIGHTS": "namespace", "STACKD_STACKS__PUBLIC_IPS": "*=203.0.113.9"}


async def test_a_role_in_one_namespace_is_enough(vm: Machine) -> None:
    """Nodes are not read: the configuration has the address, quotas and ports are the capacity, and a pod that is gone tells of
    its node."""
    documents = of_namespace_admin(NAMESPACE)
    assert {one["kind"] for one in documents[1:]} == {"ServiceAccount", "Role", "RoleBinding", "NetworkPolicy"}
    account = User(token=OURS, name="system:serviceaccount:stacks:stackd", rules=rules(documents))
    async with EmbeddedCluster(fast_cluster(users=(ADMIN, account))) as vm.cluster:
        await apply(vm.cluster, documents)
        at = await vm.start(token=OURS, admin=ADMIN.token, settings=NAMESPACE, **ENFORCED)
        stack = await at.create()
        assert stack["node_public_ip"] == "203.0.113.9"
        await at.until_status(stack["stack_id"], "running")
        capacity = await at.get("/capacity")
        assert (capacity["limited_by"], capacity["nodes"]) == ("ports", {})
        before = await at.pods_and_services()
        await vm.lose_file()
        at = await vm.start(token=OURS, admin=ADMIN.token, settings=NAMESPACE, **ENFORCED)
        assert (await at.listed(), await at.pods_and_services()) == ([stack["stack_id"]], before)
        at.faults.remove_node(stack["node_id"])
        await at.until_status(stack["stack_id"], "node_deleted")
        assert not [key for key in at.counts.requests if key[2] == 403]
        assert line(at.daemon.context, at.daemon.ready) == "ready: 1 stack, nodes not read"
        await vm.stop()


async def test_names_need_no_more_rights_than_are_printed_for_them(vm: Machine) -> None:
    def specs(objects: dict[str, Any]) -> dict[str, Any]:
        return {name: one["spec"] for name, one in objects.items()}

    async with provisioned(vm, printed(env=ROUTES), settings=ROUTES) as at:
        stack = await at.create(asking("https", "tls", None))
        before = await routes_of(at)
        await at.patch("httproutes", f"{stack['stack_id']}-80", {"spec": {"hostnames": ["mine.example.org"]}})
        await until(lambda: routes_of(at), lambda seen: specs(seen) == specs(before))
        await at.delete(stack["stack_id"])
        assert await routes_of(at) == {}


async def test_stackd_writes_network_policies_only_where_stacks_may_have_members(vm: Machine) -> None:
    everything = {"create", "get", "list", "watch", "patch", "delete"}

    def granted(documents: list[dict[str, Any]]) -> set[str]:
        return {verb for rule in rules(documents) if "networkpolicies" in rule.resources for verb in rule.verbs}

    without_members, with_members = printed(), printed("--members", "2")
    assert (granted(without_members), granted(with_members)) == ({"list"}, everything)
    async with provisioned(vm, with_members) as at:
        stack_id = await at.running(three())
        await at.patch("networkpolicies", stack_id, {"spec": {"egress": []}})
        await until(lambda: at.objects("networkpolicies"), lambda seen: seen[stack_id]["spec"].get("egress"))
        await at.delete(stack_id)
        asked = {verb for verb, resource, _ in at.counts.requests if resource == "networkpolicies"}
        assert asked == everything


async def test_a_stack_with_members_that_is_not_provided_for_keeps_no_other_from_being_created(vm: Machine) -> None:
    async with provisioned(vm, printed()) as at:
        await at.refused(503, "has NetworkPolicies of its own", "/stacks", three())
        assert (await at.create())["stack_id"]


async def test_without_a_right_the_answer_names_it(vm: Machine) -> None:
    async with provisioned(vm, without(printed(), "create", "services"), wait=False) as at:
        reply = await at.refused(503, "", "/stacks", seed())
        assert "no right to create services" in reply.detail


async def test_without_the_namespace_the_start_says_what_it_waits_for(vm: Machine) -> None:
    documents = printed()
    account = User(token=OURS, name="stackd", rules=rules(documents))
    async with EmbeddedCluster(fast_cluster(users=(ADMIN, account))) as vm.cluster:
        at = await vm.start(token=OURS, admin=ADMIN.token, wait=False)
        await at.until_unready("no right to create namespaces")
        await apply(vm.cluster, documents)
        await at.until_ready()
        await vm.stop()


async def test_nothing_is_created_while_no_policy_protects_the_stacks_and_reads_are_answered(vm: Machine) -> None:
    async def is_refused() -> None:
        """Creates are refused for want of a policy, which readiness and metrics show; a list is answered."""
        await at.refused(503, "no NetworkPolicy in namespace stacks restricts ingress", "/stacks", seed())
        assert "stackd manifests" in await at.until_unready("no NetworkPolicy in namespace stacks")
        assert await at.metric("stackd_not_ready", reason="network_policy") == await at.metric("stackd_not_ready") == 1
        await at.get("/stacks")

    at = await vm.start(**ENFORCED)
    await is_refused()
    await apply(vm.cluster, [one for one in printed() if one["metadata"]["name"] == "default-deny"])
    await at.run_now("policies")
    await at.create()
    assert await at.metric("stackd_ready") == 1
    metadata = {"name": "open", "namespace": "stacks"}
    spec: dict[str, Any] = {"podSelector": {}, "ingress": [{}]}
    await apply(vm.cluster, [{"kind": "NetworkPolicy", "metadata": metadata, "spec": spec}])
    await at.run_now("policies")
    await is_refused()
    at.faults.add_fault(action="status", verb="list", resource="networkpolicies", code=403)
    await at.run_now("policies")
    await is_refused()
    at.reload("stacks", require_ingress_network_policy=False)
    await at.run_now("policies")
    await at.create()


async def test_nothing_is_created_in_a_namespace_that_was_deleted_and_came_back_without_a_policy(vm: Machine) -> None:
    at = await vm.start(**ENFORCED)
    await apply(vm.cluster, [one for one in printed() if one["metadata"]["name"] == "default-deny"])
    await at.run_now("policies")
    await at.create()
    await at.kubectl("DELETE", "/api/v1/namespaces/stacks")
    # The next look by the schedule comes later.
    await until(lambda: at.call("POST", "/stacks", seed()), lambda seen: "no NetworkPolicy in" in seen.text)


# ---- ready means: may create and delete


def without(documents: list[dict[str, Any]], verb: str, resource: str) -> list[dict[str, Any]]:
    documents = copy.deepcopy(documents)
    for document in documents:
        for rule in document.get("rules", ()):
            if rule["resources"] == [resource]:
                rule["verbs"].remove(verb)
    return documents


def grant(at: Harness, documents: list[dict[str, Any]]) -> None:
    """Give the daemon's account the rights of these documents, and no other."""
    at.cluster.accounts.replace(User(token=OURS, name=ACCOUNT, rules=rules(documents)))


async def plan(at: Harness) -> str:
    """What ``stackd reconcile --plan`` prints."""
    env = {"STACKD_URL": at.url, "STACKD_API_KEY": KEY}
    return (await asyncio.to_thread(CliRunner().invoke, command, ["reconcile"], env=env)).output


async def test_it_is_not_ready_while_it_lacks_a_right(vm: Machine) -> None:
    documents, refused = printed(), "does not allow stackd to patch pods in namespace stacks"
    async with provisioned(vm, documents) as at:
        stack_id = await at.running()
        grant(at, without(documents, "patch", "pods"))
        await at.run_now("rights")
        await at.until_unready(refused)
        assert await at.metric("stackd_not_ready", reason="rights") == 1
        assert refused in await plan(at)
        assert refused in line(at.daemon.context, at.daemon.ready)
        assert (await at.stack(stack_id))["status"] == "running"
        grant(at, documents)
        await at.until_ready()


async def test_a_refused_change_is_seen_by_the_next_pass(vm: Machine) -> None:
    documents = printed()
    async with provisioned(vm, documents) as at:
        stack_id = await at.running()
        grant(at, without(documents, "delete", "pods"))
        await at.refused(503, "", f"/stacks/{stack_id}", method="DELETE")
        await at.passes(1)
        await at.until_unready("does not allow stackd to delete pods")
        grant(at, documents)
        await at.until_ready()


async def test_it_is_not_ready_without_its_namespace(vm: Machine) -> None:
    """At once: without the namespace there is no Lease, and no stack."""
    documents = printed()
    async with provisioned(vm, documents) as at:
        await at.running()
        await at.kubectl("DELETE", "/api/v1/namespaces/stacks")
        await at.until_unready("the namespace stacks does not exist")
        await apply(vm.cluster, [one for one in documents if one["metadata"].get("namespace") == "stacks"
                                 or (one["kind"], one["metadata"]["name"]) == ("Namespace", "stacks")])  # fmt: skip
        await at.until_ready()
        await at.create()
