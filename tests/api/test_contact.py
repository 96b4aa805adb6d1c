"""Which cluster this is, and an API server that is silent, refuses credentials or comes back older: what stackd does then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from stackd.embedded import EmbeddedCluster, User, everything
from stackd.embedded.resources import LEASES, NAMESPACES
from stackd.kube import guards
from stackd.lifecycle import gate
from stackd.workqueue import RetryPolicy
from tests.api.scenes import OTHER_CLUSTER
from tests.harness import KEY, Harness, Machine, eventually, fast_cluster, seed, until


async def as_rows_say(at: Harness) -> bool:
    """Whether the cluster has a pod and a Service for each stack, and no others."""
    names = [name for stack_id in await at.listed() for name in (stack_id, f"svc-{stack_id}")]
    return (await at.pods_and_services()).keys() == set(names)


def at_port(port: int, folder: Path | None = None) -> EmbeddedCluster:
    """A cluster at that address, with its state in the folder, or a new one."""
    return EmbeddedCluster(fast_cluster(port=port, state_path=folder and folder / "cluster"))


async def test_when_the_right_cluster_is_back_everything_goes_on(vm: Machine, tmp_path: Path) -> None:
    async with at_port(0, tmp_path) as vm.cluster:
        at = await vm.start(server__shutdown_timeout="1s")
        port, kept, deleted = at.cluster.server.port, await at.running(), await at.running()
        await at.cluster.stop()
        await at.until_metric("stackd_mirror_connected", 0)
        async with at_port(port) as other:
            await at.until_unready("belongs to the cluster")
            await at.refused(503, "", f"/stacks/{deleted}", method="DELETE")
            await at.refused(503, "", "/stacks", seed())
            assert other.counts.total("create") == other.counts.total("delete") == 0
        async with at_port(port, tmp_path):
            await at.until_ready()
            assert (await at.stack(kept))["status"] == "running"
            assert await at.until_listed(1) == [kept] == list(await at.objects("pods"))
            await at.running()
            await vm.stop()


async def test_after_an_outage_it_is_asked_for_although_the_watches_go_on_where_they_were(at: Harness) -> None:
    stack_id = await at.running()
    relists = await at.metric("stackd_mirror_relists_total", kind="pods")
    await at.faults.refuse()
    await at.until_metric("stackd_mirror_connected", 0)
    at.faults.add_fault(action="reply", code=200, body=OTHER_CLUSTER, verb="get", name="kube-system")
    await at.faults.listen()
    await at.until_unready("belongs to the cluster")
    assert await at.metric("stackd_mirror_relists_total", kind="pods") == relists
    assert (await at.stack(stack_id))["status"] == "running"


async def test_a_verification_asked_for_while_one_is_under_way_is_not_answered_by_that(at: Harness) -> None:
    asked = at.counts.total("get", "namespaces")
    at.faults.add_fault(action="latency", seconds=1.0, verb="get", name="kube-system", count=1)
    at.verify_again()
    await eventually(lambda: at.counts.in_flight >= 1)
    at.verify_again()
    await until(lambda: at.get("/reconcile"), lambda seen: not seen["blocked"])
    assert at.counts.total("get", "namespaces") >= asked + 3, "the first answer is older than the second request"


async def test_a_namespace_that_was_deleted_is_made_again_and_the_lease_in_it(at: Harness) -> None:
    namespaces, leases = at.cluster.store.of(NAMESPACES), at.cluster.store.of(LEASES)
    at.cluster.store.remove(namespaces.records["", "stacks"])
    at.cluster.store.remove(leases.records["stacks", "stackd-default"])
    await eventually(lambda: ("stacks", "stackd-default") in leases.records)
    assert ("", "stacks") in namespaces.records
    await at.running()


async def test_a_namespace_is_not_made_while_the_identity_is_asked_for_again(at: Harness) -> None:
    """The cluster that answered before may be another one by now, and lacks the namespace, too."""
    at.faults.add_fault(action="latency", seconds=1.0, verb="get", name="kube-system", count=1)
    at.verify_again()
    await eventually(lambda: at.counts.in_flight >= 1)
    at.cluster.store.remove(at.cluster.store.of(NAMESPACES).records["", "stacks"])
    at.verify_again()
    at.faults.add_fault(action="reply", code=200, body=OTHER_CLUSTER, verb="get", name="kube-system")
    await at.until_unready("belongs to the cluster")
    assert ("", "stacks") not in at.cluster.store.of(NAMESPACES).records


OLD, NEW = (User(token=name, name="stackd", rules=(everything(),)) for name in ("old", "new"))


@pytest.mark.kubernetes(users=(OLD, NEW))
@pytest.mark.stackd(token=OLD.token, admin=NEW.token)
async def test_refused_credentials_show_until_new_ones_are_there(at: Harness, tmp_path: Path) -> None:
    stack_id = await at.running()
    at.faults.expire_token(OLD.token)
    reply = await at.refused(503, "", "/stacks", seed())
    assert "its credentials are not accepted" in reply.detail
    await at.until_at_least("stackd_kubernetes_requests_total", 2, verb="get", resource="namespaces", code="401")
    await at.until_unready("its credentials are not accepted")
    assert (await at.get(f"/stacks/{stack_id}/status"))["status"] == "running", "the watches keep their connections"
    asked = at.counts.requests["get", "namespaces", 200]
    at.cluster.write_kubeconfig(tmp_path / "kubeconfig", token=NEW.token)
    await at.until_ready()
    assert at.counts.requests["get", "namespaces", 200] > asked, "whose cluster do they reach?"
    for name in (stack_id, await at.running()):
        await at.delete(name)
    assert not await at.pods_and_services()


@pytest.mark.stackd(stacks__scheduling_timeout="1s")
async def test_a_create_asks_for_its_pod_before_it_says_that_no_node_took_it(at: Harness) -> None:
    """All watches are silent, also the new ones."""
    at.faults.freeze_watches()
    at.faults.reset_counts()
    stack = await at.create()
    assert at.counts.total("get", "pods") == 1, "one question, and only because the watches are silent"
    await at.until_status(stack["stack_id"], "running")


EXPIRED = '{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,"message":"too old"}'


@pytest.mark.parametrize("seen_by", ["answers", "watch"])
@pytest.mark.stackd(stacks__unschedulable_grace="30s")
async def test_creates_survive_a_list_from_before_their_pods(at: Harness, seen_by: str) -> None:
    """An API server that has just started answers a long list late."""
    for node in await at.objects("nodes"):
        at.faults.cordon(node)
    relists = await at.metric("stackd_mirror_relists_total", kind="pods")
    at.faults.remember()
    if seen_by == "answers":
        at.faults.freeze_watches()
    creates = [asyncio.create_task(at.create()) for _ in range(10)]
    await at.until_metric("stackd_mirror_objects", 10, kind="pods")
    at.faults.add_fault(action="reply", code=410, body=EXPIRED, verb="watch", resource="pods", count=1)
    at.faults.add_fault(action="stale", verb="list", resource="pods", count=1)
    at.faults.drop_watches()
    await at.until_at_least("stackd_mirror_relists_total", relists + 1, kind="pods")
    await at.until_metric("stackd_mirror_objects", 10, kind="pods")
    for node in await at.objects("nodes"):
        at.faults.cordon(node, on=False)
    await asyncio.gather(*creates)
    assert seen_by == "watch" or not at.counts.total("get", "pods"), "an answer is newer than the list: nobody need ask"


async def test_a_silent_api_server_and_its_return_show(
    at: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guards, "QUIET_SECONDS", 0.5)
    at.give_kubernetes(attempt_timeout=1.0)
    caplog.set_level(logging.INFO)
    at.faults.pause()
    await at.until_unready("Kubernetes has not answered for ")
    assert await at.metric("stackd_kubernetes_answers") == await at.metric("stackd_mirror_connected") == 0
    await at.get("/stacks")
    at.faults.resume()
    await at.until_ready()
    monkeypatch.undo()
    await at.until_metric("stackd_kubernetes_answers", 1)
    lost, found = "Kubernetes does not answer", "Kubernetes answers again after "
    await eventually(lambda: caplog.text.count(lost) == caplog.text.count(found) > 0)
    await at.create()


async def test_creates_and_starts_are_refused_within_seconds_while_the_api_server_hangs(at: Harness) -> None:
    stopped = (await at.create())["stack_id"]
    await at.do("stop", stopped)
    at.give_kubernetes(attempt_timeout=1.0, timeout=40.0)
    at.faults.pause()
    words = "Kubernetes has not answered for "
    async with asyncio.timeout(30):  # nobody waits for as long as a call may take
        for first in (at.refused(503, words, f"/stacks/{stopped}/start"), at.refused(503, words, "/stacks", seed())):
            await asyncio.gather(first, *(at.refused(503, words, "/stacks", seed()) for _ in range(10)))
    at.faults.resume()
    await until(lambda: at.call("POST", "/stacks", seed()), lambda seen: seen.status == 201)
    await eventually(lambda: as_rows_say(at), lambda: "the failed creates are not undone")
    assert len(await at.listed()) == 2


@pytest.mark.stackd(stacks__scheduling_timeout="60s")
async def test_a_create_that_kubernetes_fails_slowly_is_refused_after_one_call(at: Harness) -> None:
    """As a webhook that does not answer: Kubernetes itself answers everything else."""
    at.give_kubernetes(timeout=1.0)
    at.faults.add_fault(action="status", verb="create", resource="pods", code=500)
    async with asyncio.timeout(20):
        await at.refused(503, "Kubernetes cannot process this now", "/stacks", seed())
    at.faults.clear()
    await eventually(lambda: as_rows_say(at), lambda: "the failed create is not undone")
    assert not await at.listed()


@pytest.mark.stackd(limits__stacks_per_label='{"player": 1}')
async def test_what_is_left_of_a_create_that_was_refused_is_nobodys_stack(at: Harness) -> None:
    body = seed() | {"labels": {"player": "7"}}
    at.faults.add_fault(action="status", verb="create", resource="services", code=403)
    at.faults.add_fault(action="status", verb="delete", code=403)
    await at.refused(503, "", "/stacks", body)
    (left,) = await at.objects("pods")
    assert ((await at.get("/stacks?label=player=7"))["stacks"], (await at.get("/stats"))["total_stacks"]) == ([], 0)
    await at.refused(404, "", f"/stacks/{left}", method="GET")
    at.faults.end("status")
    own = await at.running(body)
    await until(lambda: at.objects("pods"), lambda seen: list(seen) == [own])


@pytest.mark.parametrize("overloaded", [False, True])
async def test_a_stall_that_is_shorter_than_one_request_may_take_fails_nothing(
    at: Harness, monkeypatch: pytest.MonkeyPatch, *, overloaded: bool
) -> None:
    """As long as etcd needs to elect a leader: requests hang, or are answered with 503."""
    at.give_kubernetes(attempt_timeout=20.0, timeout=30.0)  # on a busy machine the stall takes longer than it should
    monkeypatch.setattr(guards, "FAILING_SECONDS", 20.0)
    deleted = await at.running()
    if overloaded:
        at.faults.add_fault(action="status", code=503, verb="(?!watch).*")
    else:
        at.faults.pause()
    calls = [asyncio.create_task(at.create()) for _ in range(5)] + [asyncio.create_task(at.delete(deleted))]
    done, _ = await asyncio.wait(calls, timeout=1.0)
    assert not done, "nobody gives up"
    assert await at.metric("stackd_kubernetes_answers") == 1
    late = asyncio.create_task(at.create())
    done, _ = await asyncio.wait([late], timeout=0.2)
    assert not done, "nobody is refused"
    at.faults.clear()
    await asyncio.gather(*calls, late)
    assert len(await at.listed()) == 6


async def test_a_slow_api_server_is_not_a_silent_one(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "QUIET_SECONDS", 1.0)
    at.faults.add_fault(action="latency", verb="create", seconds=2.0)
    await at.create()
    await at.until_metric("stackd_kubernetes_answers", 1)


async def test_what_was_put_off_is_done_when_kubernetes_answers(vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "QUIET_SECONDS", 0.5)
    monkeypatch.setattr("stackd.kube.watch.RETRIES", RetryPolicy(first=60.0, longest=60.0))
    monkeypatch.setattr("stackd.lifecycle.loop.STACK_RETRIES", RetryPolicy(first=60.0, longest=60.0))
    at = await vm.start()
    stack_id = (await at.create())["stack_id"]
    await at.faults.refuse()
    await at.until_away()
    await at.refused(503, "", f"/stacks/{stack_id}", method="DELETE")
    await at.until_metric("stackd_kubernetes_answers", 0)
    await at.faults.listen()
    await at.until_ready()
    await at.create()  # it says that it is ready
    await at.until_listed(1)  # within the deadline of tests, which is shorter than the back-off


@pytest.mark.stackd(server__shutdown_timeout="300ms")
async def test_a_stop_while_the_api_server_hangs_ends(vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stackd.timing.SHORTEN_SECONDS", 0.3)
    at = await vm.start()
    at.faults.pause()
    creates = [asyncio.create_task(at.call("POST", "/stacks", seed())) for _ in range(5)]
    await eventually(lambda: at.counts.in_flight >= 5)
    async with asyncio.timeout(20):
        await vm.stop()
    await asyncio.gather(*creates, return_exceptions=True)
    vm.cluster.faults.resume()
    at = await vm.start()
    await at.until_listed(0)
    assert not await at.objects("pods")


@asynccontextmanager
async def unseen(vm: Machine) -> AsyncIterator[Harness]:
    """A daemon that listens while its cluster accepts requests and answers none."""
    await vm.stop()
    vm.cluster.faults.pause()
    at = await vm.start(wait=False)
    await eventually(lambda: at.counts.in_flight > 0)
    yield at
    at.faults.resume()


async def test_a_create_waits_for_the_first_sight_of_the_cluster(vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    async with unseen(vm) as at:
        await at.get("/healthz")
        create, dry = asyncio.create_task(at.create()), asyncio.create_task(at.post("/stacks?dry_run=true", seed()))
        done, _ = await asyncio.wait([create, dry], timeout=0.3)
        assert not done
        at.faults.resume()
        await asyncio.gather(create, dry)
    monkeypatch.setattr(gate, "FIRST_CONTACT_SECONDS", 0.2)
    async with unseen(vm) as at:
        await at.refused(503, "waiting for the cluster", "/stacks", seed())


async def test_a_create_that_waits_when_the_daemon_stops_is_told_so(vm: Machine) -> None:
    async with aiohttp.ClientSession(headers={"X-API-KEY": KEY}) as client, unseen(vm) as at:
        create = asyncio.create_task(client.post(f"{at.url}/stacks", json=seed()))
        done, _ = await asyncio.wait([create], timeout=0.3)
        assert not done
        await vm.stop()
        answer = await create
        fields = await answer.json()
        assert (answer.status, fields["error"], fields["code"]) == (503, "stackd is shutting down", "shutting_down")


@pytest.mark.stackd(cluster__lease_duration="2s")
async def test_after_the_cluster_was_set_back_the_lease_is_renewed(vm: Machine) -> None:
    vm.cluster.store.revision = 100_000
    at = await vm.start()
    stack_id = await at.running()
    at.faults.set_back(1_000)
    at.counts.clear()
    await at.delete_object("pods", stack_id)
    await at.until_status(stack_id, "stopped")
    await until(lambda: at.call("POST", "/stacks", seed()), lambda seen: seen.status == 201)
    about_leases = at.counts.total("update", "leases") + at.counts.total("get", "leases")
    assert about_leases < 60, "far more than the Lease needs; a loop without a pause makes thousands"
