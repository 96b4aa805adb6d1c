"""Which cluster this is: stackd asks before it creates anything, and whenever it may be another one, until it knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster, User, everything
from stackd.embedded.resources import NAMESPACES, PODS
from stackd.lifecycle import gate
from tests.harness import eventually, fast_cluster, harness, seed

OTHER = (
    '{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"kube-system","uid":"another","resourceVersion":"3"},'
    '"status":{"phase":"Active"}}'
)


@asynccontextmanager
async def at_port(port: int, folder: Path | None = None) -> AsyncIterator[EmbeddedCluster]:
    """A cluster at that address, with its state in the folder, or a new one."""
    path = None if folder is None else folder / "cluster"
    async with EmbeddedCluster(fast_cluster(port=port, state_path=path)) as cluster:
        yield cluster


async def test_on_the_wrong_cluster_nothing_is_created_not_even_the_namespace(tmp_path: Path) -> None:
    async with harness(tmp_path) as first:
        await first.create()
    async with harness(tmp_path) as other:
        assert (await other.call("POST", "/stacks", seed())).status == 503
        assert other.cluster.counts.total("create") == 0
        assert ("", "stacks") not in other.cluster.store.of(NAMESPACES).records


async def test_when_the_right_cluster_is_back_everything_goes_on_as_if_it_had_never_been_away(tmp_path: Path) -> None:
    async with at_port(0, tmp_path) as cluster, harness(tmp_path, cluster=cluster) as at:
        kept, deleted = await at.running(), await at.running()
        port = cluster.server.port
        await cluster.stop()
        await at.until_metric("stackd_mirror_connected", 0)
        async with at_port(port) as other:
            await at.until_unready("belongs to the cluster")
            assert (await at.call("DELETE", f"/stacks/{deleted}")).status == 503
            assert (await at.call("POST", "/stacks", seed())).status == 503
            assert other.counts.total("create") == other.counts.total("delete") == 0
        async with at_port(port, tmp_path) as again:
            await at.until_ready(20)
            assert (await at.stack(kept))["status"] == "running"
            await at.until_metric("stackd_mirror_objects", 1, kind="pods")
            fresh = await at.running()
            names = {name for _, name in again.store.of(PODS).records}
            assert names == {kept, fresh}


async def test_what_was_seen_of_another_cluster_ends_nothing_while_the_right_one_is_being_prepared(
    tmp_path: Path,
) -> None:
    async with at_port(0, tmp_path) as cluster:
        port = cluster.server.port
        async with harness(tmp_path, cluster=cluster) as at:
            stack_id = await at.running()
    async with AsyncExitStack() as clusters:
        other = await clusters.enter_async_context(at_port(port))
        async with harness(tmp_path, cluster=other) as at:
            await at.until_unready("belongs to the cluster")
            await other.stop()
            again = EmbeddedCluster(fast_cluster(port=port, state_path=tmp_path / "cluster"))
            again.faults.add_fault(action="latency", seconds=0.6, verb="get", name="stacks")
            again.faults.add_fault(action="latency", seconds=0.6, verb="list|watch")
            await clusters.enter_async_context(again)
            await at.until_ready(20)
            await at.passes(2)
            assert (await at.stack(stack_id))["status"] == "running"
            assert (await at.call("GET", "/stats")).json["used_node_ports"] == 1
            assert again.counts.total("delete") == 0


async def test_after_an_outage_it_is_asked_for_although_the_watches_go_on_where_they_were(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        stack_id = await at.running()
        relists = await at.metric("stackd_mirror_relists_total", kind="pods")
        await at.cluster.faults.refuse()
        await at.until_metric("stackd_mirror_connected", 0)
        at.cluster.faults.add_fault(action="reply", code=200, body=OTHER, verb="get", name="kube-system")
        await at.cluster.faults.listen()
        await at.until_unready("belongs to the cluster")
        assert await at.metric("stackd_mirror_relists_total", kind="pods") == relists
        assert (await at.stack(stack_id))["status"] == "running"


async def test_a_doubt_that_comes_while_the_cluster_is_being_asked_is_not_answered_by_that(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        counts = at.cluster.counts
        asked = counts.total("get", "namespaces")
        at.cluster.faults.add_fault(action="latency", seconds=0.2, verb="get", name="kube-system", count=2)
        at.doubt()
        await eventually(lambda: counts.in_flight == 1)
        at.doubt()
        await eventually(lambda: counts.total("get", "namespaces") == asked + 1)
        assert (await at.call("GET", "/reconcile")).json["blocked"]
        await at.until_unblocked()
        assert counts.total("get", "namespaces") == asked + 2, "the first answer is older than the second doubt"


async def test_a_cluster_that_hangs_when_it_is_asked_who_it_is_shows_before_the_call_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "AWAY_SECONDS", 0.2)
    async with harness(tmp_path) as at:
        at.give_kubernetes(attempt_timeout=0.5)
        at.cluster.faults.add_fault(action="hang", verb="get", name="kube-system")
        at.doubt()
        await at.until_unready("stackd is still checking that this is its own cluster")
        at.cluster.faults.clear()
        await at.until_ready()


# ---- rejected credentials


OLD, NEW = (User(token=name, name="stackd", rules=(everything(),)) for name in ("old", "new"))


async def test_refused_credentials_are_said_until_new_ones_are_there_and_nothing_is_missed_meanwhile(
    tmp_path: Path,
) -> None:
    async with (
        EmbeddedCluster(fast_cluster(users=(OLD, NEW))) as cluster,
        harness(tmp_path, cluster=cluster, token=OLD.token, admin=NEW.token) as at,
    ):
        stack_id = await at.running()
        cluster.faults.expire_token(OLD.token)
        reply = await at.call("POST", "/stacks", seed())
        assert reply.status == 503
        assert "its credentials are not accepted" in reply.detail
        # Often enough that the credentials are read again more than once; the watches keep their connections.
        await at.until_at_least("stackd_kubernetes_requests_total", 5, verb="get", resource="namespaces", code="401")
        await at.until_unready("its credentials are not accepted")
        assert (await at.call("GET", f"/stacks/{stack_id}/status")).json["status"] == "running"
        cluster.write_kubeconfig(tmp_path / "kubeconfig", token=NEW.token)

        await at.until_ready()
        second = await at.running()
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
