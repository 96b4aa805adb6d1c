"""What the recordings do not show of the API, and what stackd's tests would not miss if the double were kinder."""

from __future__ import annotations

from typing import Any

from stackd.embedded import NodeSpec, Rule, User, everything
from tests.embedded.wire import Json, ManualClock, Wire, condition, fast, running

PODS = "/api/v1/namespaces/rec/pods"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/rec/leases"
TOKENS = "/api/v1/namespaces/rec/serviceaccounts/own/token"


def rule(verbs: str, resource: str, **more: Any) -> Rule:
    return Rule(verbs=frozenset(verbs.split()), resources=frozenset({resource}), **more)


async def test_a_rule_for_a_named_object_covers_only_that_name() -> None:
    """Kubernetes does so: it takes the name from ``fieldSelector=metadata.name=…``."""
    named = rule("get list watch", "leases", groups=frozenset({"coordination.k8s.io"}), names=frozenset({"ours"}))
    users = (User(token="admin", name="admin", rules=(everything(),)), User(token="t", name="reader", rules=(named,)))
    async with running(fast(users=users)) as admin:
        wire = admin.as_user("t")
        assert (await wire.get(f"{LEASES}?fieldSelector=metadata.name%3Dours")).status == 200
        async with wire.watching(f"{LEASES}?watch=1&fieldSelector=metadata.name%3Dours") as watched:
            assert watched.answer.status == 200
        theirs, not_ours = "?fieldSelector=metadata.name%3Dtheirs", "?fieldSelector=metadata.name%21%3Dours"
        for query in ("", "/theirs", theirs, not_ours, "?watch=1"):
            assert (await wire.get(LEASES + query)).status == 403


async def test_a_token_is_its_accounts_alone_until_it_expires() -> None:
    clock, spec = ManualClock(), {"spec": {"expirationSeconds": 600}}
    renew = rule("create", "serviceaccounts/token", names=frozenset({"own"}), namespace="rec")
    account = User(token="first", name="system:serviceaccount:rec:own", rules=(renew, rule("list", "nodes")))
    async with running(
        fast(users=(account, User(token="o", name="system:serviceaccount:rec:other")), clock=clock)
    ) as wire:
        assert (await wire.post(TOKENS.replace("/own/", "/other/"), spec)).status == 403
        token = (await wire.post(TOKENS, spec)).body["status"]["token"]
        assert (await wire.as_user(token).get("/api/v1/nodes")).status == 200
        assert (await wire.as_user(token).get(PODS)).status == 403
        for forged in (
            token[:-2] + ("xx" if token[-2:-1] != "x" else "yy"),
            token.rpartition(".")[0] + ".",
            "a.b.c",
            f"{token}.",
        ):
            assert (await wire.as_user(forged).get("/api/v1/nodes")).status == 401
        async with running(fast(users=(account,))) as other:
            assert (await other.as_user(token).get("/api/v1/nodes")).status == 401
        clock.advance(601)
        assert (await wire.as_user(token).get("/api/v1/nodes")).status == 401


NODE = (NodeSpec(name="a", cpu="2", pods="3"),)
HALF = {"requests": {"cpu": "1500m"}}


def bound(body: Json) -> object:
    return body["spec"].get("nodeName")


async def refusal(wire: Wire, name: str = "one") -> str:
    """Why no node takes the pod."""
    body = await wire.until_pod(name, lambda body: condition(body, "PodScheduled").get("reason") == "Unschedulable")
    message: str = condition(body, "PodScheduled")["message"]
    return message


async def test_a_node_takes_only_a_pod_that_fits_it() -> None:
    async with running(fast(nodes=NODE)) as wire:
        await wire.make_pod("first", resources=HALF)
        await wire.until_pod("first", bound)
        await wire.make_pod("second", resources=HALF)
        assert "1 Insufficient cpu" in await refusal(wire, "second")
        await wire.delete(f"{PODS}/first?gracePeriodSeconds=0")
        await wire.until_pod("second", bound)
        await wire.make_pod("elsewhere", nodeSelector={"no": "where"}, resources={})
        assert "1 node(s) didn't match Pod's node affinity/selector" in await refusal(wire, "elsewhere")
        taint = {"key": "gpu", "value": "y", "effect": "NoSchedule"}
        await wire.patch("/api/v1/nodes/a", {"spec": {"unschedulable": True, "taints": [taint]}})
        await wire.make_pod("plain", resources={})
        assert "1 node(s) were unschedulable" in await refusal(wire, "plain")
        wire.cluster.faults.cordon("a", on=False)
        await wire.make_pod("third", resources={})
        assert "1 node(s) had untolerated taint {gpu: y}" in await refusal(wire, "third")
        for name in ("tolerant", "more"):
            await wire.make_pod(name, resources={}, tolerations=[{"key": "gpu", "operator": "Exists"}])
            await wire.until_pod(name, bound)
        wire.cluster.faults.add_node(name="more")
        await wire.until_pod("plain", bound)
