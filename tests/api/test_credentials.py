"""The cluster rejects stackd's credentials; the next ones are accepted, or belong to another cluster."""

from __future__ import annotations

from pathlib import Path

from stackd.embedded import EmbeddedCluster, User, everything
from tests.harness import Harness, eventually, fast_cluster, harness, seed

OLD, NEW = (User(token=name, name="stackd", rules=(everything(),)) for name in ("old", "new"))


async def not_ready(at: Harness) -> str:
    reply = await at.call("GET", "/readyz")
    return str(reply.json["error"]) if reply.status == 503 else ""


async def test_refused_credentials_are_said_until_new_ones_are_there_and_nothing_is_missed_meanwhile(
    tmp_path: Path,
) -> None:
    async with (
        EmbeddedCluster(fast_cluster(users=(OLD, NEW))) as cluster,
        harness(tmp_path, cluster=cluster, token=OLD.token, admin=NEW.token) as at,
    ):
        stack_id = (await at.create())["stack_id"]
        await at.until_status(stack_id, "running")
        cluster.faults.expire_token(OLD.token)
        reply = await at.call("POST", "/stacks", seed())
        assert reply.status == 503
        assert "its credentials are not accepted" in reply.detail
        # Often enough that the credentials are read again more than once; the watches keep their connections.
        await at.until_at_least("stackd_kubernetes_requests_total", 5, verb="get", resource="namespaces", code="401")
        assert "its credentials are not accepted" in await not_ready(at)
        assert (await at.call("GET", f"/stacks/{stack_id}/status")).json["status"] == "running"
        cluster.write_kubeconfig(tmp_path / "kubeconfig", token=NEW.token)

        async def ready() -> bool:
            return not await not_ready(at)

        await eventually(ready)
        second = (await at.create())["stack_id"]
        await at.until_status(second, "running")
        for name in (stack_id, second):
            assert (await at.call("DELETE", f"/stacks/{name}")).status == 200
        assert await at.objects("pods") == await at.objects("services") == {}


async def test_new_credentials_are_asked_whose_cluster_it_is(tmp_path: Path) -> None:
    async with (
        EmbeddedCluster(fast_cluster(users=(OLD, NEW))) as cluster,
        harness(tmp_path, cluster=cluster, token=OLD.token, admin=NEW.token) as at,
    ):
        await at.create()
        asked = cluster.counts.total("get", "namespaces")
        cluster.faults.expire_token(OLD.token)
        cluster.write_kubeconfig(tmp_path / "kubeconfig", token=NEW.token)
        await at.create()
        await eventually(lambda: cluster.counts.total("get", "namespaces") > asked)
        await at.until_unblocked()
