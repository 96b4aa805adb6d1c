"""Something between stackd and the API server sends pages, junk or cut bodies: stackd believes and shows none of it."""

from __future__ import annotations

import asyncio
import dataclasses
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from stackd.cli import main
from stackd.embedded import EmbeddedCluster
from stackd.embedded.resources import PODS, SERVICES
from stackd.kube.credentials import ClusterTarget
from stackd.lifecycle import gate
from tests.harness import MIRRORED, Harness, eventually, fast_cluster, harness, seed, until

NOT_FOUND = (
    '{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","message":"no such path","code":404}'
)
SPOILED: dict[str, dict[str, Any]] = {
    "a page with 404": {"action": "page", "code": 404},
    "a page with 200": {"action": "page", "code": 200},
    "a page with 502": {"action": "page", "code": 502},
    "a login page": {"action": "page", "code": 302},
    "junk with 200": {"action": "reply", "code": 200, "body": "{}"},
    "junk with 404": {"action": "reply", "code": 404, "body": '{"error":"no route"}'},
    "another path's 404": {"action": "reply", "code": 404, "body": NOT_FOUND},
    "nothing with 200": {"action": "reply", "code": 200},
}
BEHIND: dict[str, dict[str, Any]] = {
    "a page": {"action": "page", "code": 201, "done": True},
    "junk": {"action": "reply", "code": 201, "body": "{}", "done": True},
    "half of it": {"action": "truncate"},
    "nothing": {"action": "empty"},
    "no name": {"action": "strip", "fields": ("metadata.name",)},
    "no uid": {"action": "strip", "fields": ("metadata.uid",)},
    "no kind": {"action": "strip", "fields": ("kind",)},
}
_RESOURCES = {"pods": PODS, "services": SERVICES}
FOREIGN = ("html", "balancer", "<")


def nothing_foreign(text: str) -> None:
    assert not any(word in text.lower() for word in FOREIGN), text


def listed_anew(at: Harness) -> None:
    """End all watches, and have them answer 410 so that stackd lists again."""
    at.cluster.faults.add_fault(action="status", code=410, verb="watch", resource=MIRRORED, count=4)
    at.cluster.faults.drop_watches()


async def test_a_delete_is_acknowledged_when_pod_and_service_are_gone_and_not_before(at: Harness) -> None:
    for odd, kind in product(SPOILED, ("pods", "services")):
        stack_id = await at.running()
        at.cluster.faults.add_fault(**SPOILED[odd], verb="delete", resource=kind, count=2)
        reply = await at.call("DELETE", f"/stacks/{stack_id}")
        assert (reply.status, reply.json) == (200, {"deleted": True, "stack_id": stack_id})
        assert await at.objects("pods") == await at.objects("services") == {}


@pytest.mark.parametrize("odd", ["a page with 404", "junk with 200", "another path's 404", "nothing with 200"])
async def test_while_nobody_but_a_balancer_answers_a_delete_is_a_503_in_our_own_words_and_done_later(
    at: Harness, odd: str
) -> None:
    stack_id = await at.running()
    at.give_kubernetes(timeout=0.4)
    at.cluster.faults.add_fault(**SPOILED[odd], verb="delete|get", resource="pods|services")
    reply = await at.call("DELETE", f"/stacks/{stack_id}")
    assert reply.status == 503
    assert int(reply.headers["Retry-After"]) > 0
    nothing_foreign(reply.text)
    assert (await at.call("GET", f"/stacks/{stack_id}")).status == 200
    assert (await at.call("GET", "/stats")).json["used_node_ports"] == 1
    assert len(_raw(at, "pods")) == 1
    at.cluster.faults.clear()

    await until(lambda: at.call("GET", f"/stacks/{stack_id}"), lambda seen: seen.status == 404)
    assert await at.objects("pods") == await at.objects("services") == {}


def _raw(at: Harness, kind: str) -> list[str]:
    """The names of the objects in the cluster's store, which no fault affects."""
    return [record.key[1] for record in at.cluster.store.of(_RESOURCES[kind]).records.values()]


async def test_a_batch_delete_counts_as_deleted_only_what_is_gone(at: Harness) -> None:
    ids = [await at.running() for _ in range(3)]
    at.give_kubernetes(timeout=0.4)
    at.cluster.faults.add_fault(action="page", code=404, verb="delete", name=f"{ids[1]}|svc-{ids[1]}")
    job = await at.finished_job((await at.call("POST", "/stacks/batch-delete", {"stack_ids": ids})).json["job_id"])
    assert (job["deleted"], job["failed"], job["not_found"]) == (2, 1, 0)
    nothing_foreign(str(job["errors"]))
    assert _raw(at, "pods") == [ids[1]]
    at.cluster.faults.clear()
    await at.until_listed(0)


async def test_a_create_whose_answer_is_spoiled_on_its_way_is_one_stack(at: Harness) -> None:
    for odd, kind in product(BEHIND, ("pods", "services")):
        at.cluster.faults.add_fault(**BEHIND[odd], verb="create", resource=kind, count=1)
        stack = await at.create()
        assert list(await at.objects("pods")) == [stack["pod_id"]]
        assert list(await at.objects("services")) == [stack["service_name"]]
        assert (await at.call("DELETE", f"/stacks/{stack['stack_id']}")).status == 200
        assert await at.objects("pods") == await at.objects("services") == {}


@pytest.mark.parametrize("kind", ["pods", "services"])
@pytest.mark.parametrize("odd", ["a page with 404", "junk with 200", "half of it"])
async def test_a_create_that_only_a_balancer_answers_is_a_503_in_our_own_words_and_leaves_nothing(
    at: Harness, odd: str, kind: str
) -> None:
    at.give_kubernetes(timeout=0.4)
    at.cluster.faults.add_fault(**(SPOILED | BEHIND)[odd], verb="create|get", resource=kind)
    reply = await at.call("POST", "/stacks", seed())
    assert reply.status == 503
    nothing_foreign(reply.text)
    at.cluster.faults.clear()

    await at.until_listed(0)
    assert await at.objects("pods") == await at.objects("services") == {}


LISTS: dict[str, dict[str, Any]] = {
    "junk": {"action": "reply", "code": 200, "body": "{}"},
    "no items": {"action": "strip", "fields": ("items",)},
    "no version": {"action": "strip", "fields": ("metadata.resourceVersion",)},
    "items without a uid": {"action": "strip", "fields": ("items.metadata.uid",)},
    "half of it": {"action": "truncate"},
    "nothing": {"action": "empty"},
}


@pytest.mark.parametrize("odd", LISTS)
async def test_a_list_that_is_none_ends_no_stack(at: Harness, odd: str) -> None:
    stack_id = await at.running()
    before = await at.metric("stackd_mirror_relists_total", kind="pods")
    at.cluster.faults.add_fault(**LISTS[odd], verb="list", resource=MIRRORED, count=8)
    listed_anew(at)
    await at.until_at_least("stackd_mirror_relists_total", before + 1, kind="pods")
    await at.until_metric("stackd_mirror_connected", 3)
    await at.passes(2)
    assert (await at.stack(stack_id))["status"] == "running"
    assert (await at.call("GET", "/stats")).json["used_node_ports"] == 1
    await at.until_ready()


@pytest.mark.parametrize("odd", ["junk", "nothing"])
async def test_a_watch_that_is_none_shows_and_is_replaced(at: Harness, odd: str) -> None:
    stack_id = await at.running()
    at.cluster.faults.add_fault(**LISTS[odd], verb="watch")
    at.cluster.faults.drop_watches()
    await at.until_metric("stackd_mirror_connected", 0)
    opened = at.cluster.counts.total("watch")
    await eventually(lambda: at.cluster.counts.total("watch") >= opened + 6)
    assert await at.metric("stackd_mirror_connected") == 0
    nothing_foreign((await at.call("GET", "/readyz")).text)
    at.cluster.faults.clear()
    await at.until_metric("stackd_mirror_connected", 3)
    await at.delete_object("pods", stack_id)
    await at.until_status(stack_id, "stopped")


IDENTITIES: dict[str, dict[str, Any]] = {
    "no uid": {"action": "strip", "fields": ("metadata.uid",)},
    "a page": {"action": "page", "code": 200},
    "not there": {"action": "page", "code": 404},
}


@pytest.mark.parametrize("odd", IDENTITIES)
async def test_a_cluster_that_does_not_say_who_it_is_is_asked_until_it_does_and_that_shows(
    at: Harness, odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "IDENTITY_SECONDS", 0.3)
    stack_id = await at.running()
    at.give_kubernetes(timeout=0.4)
    at.cluster.faults.add_fault(**IDENTITIES[odd], verb="get", resource="namespaces", name="kube-system")
    listed_anew(at)

    nothing_foreign(await at.until_unready("nothing can be created or deleted: "))
    refused = await at.call("DELETE", f"/stacks/{stack_id}")
    assert refused.status == 503
    nothing_foreign(refused.text)
    at.cluster.faults.clear()
    await at.until_ready(15)

    await until(lambda: at.call("GET", f"/stacks/{stack_id}"), lambda seen: seen.status == 404)
    assert (await at.call("POST", "/stacks", seed())).status == 201


async def test_a_start_behind_a_balancer_without_a_cluster_waits_for_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_configured = ClusterTarget.of
    monkeypatch.setattr(ClusterTarget, "of", lambda config: dataclasses.replace(as_configured(config), timeout=0.4))
    lease = {"STACKD_CLUSTER__LEASE_DURATION": "1s"}
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, lease, cluster=cluster) as at:
            stack_id = await at.running()
            (tmp_path / "later").mkdir()
            at.backup(tmp_path / "later" / "stackd.db")
        cluster.faults.add_fault(action="page", code=404)
        async with harness(tmp_path / "later", lease, cluster=cluster, wait=False) as later:
            nothing_foreign(await later.until_unready("waiting for the cluster: ", deadline=15))
            assert (await later.call("GET", f"/stacks/{stack_id}")).status == 200
            assert (await later.call("POST", "/stacks", seed())).status == 503
            cluster.faults.clear()
            await later.until_ready(15)
            assert (await later.stack(stack_id))["status"] == "running"


# ---- a proxy that drops the query string: a list holds more than was asked for, and a trial is no trial


SHORT_LEASE = {"STACKD_CLUSTER__LEASE_DURATION": "1s"}


def config_file(folder: Path, kubeconfig: Path) -> Path:
    path = folder / "config.toml"
    path.write_text(
        f'[auth]\nenabled = false\n[state]\npath = "{folder / "stackd.db"}"\n'
        f'[cluster]\nmode = "kubeconfig"\nkubeconfig = "{kubeconfig}"\n'
    )
    return path


def exit_code(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


async def test_a_dry_run_that_became_a_create_is_removed_and_refused(at: Harness) -> None:
    """Before, it was answered with 200, and its pod ran on without a row."""
    at.cluster.faults.add_fault(action="no_query", verb="create", resource="pods", count=1)
    reply = await at.call("POST", "/stacks?dry_run=true", seed())
    assert (reply.status, "query string" in reply.error) == (503, True)
    assert not await at.objects("pods")
    assert (await at.call("POST", "/stacks?dry_run=true", seed())).status == 200


async def test_a_lost_file_is_not_rebuilt_from_the_stacks_of_another_instance(tmp_path: Path) -> None:
    """Before, ``rebuild`` wrote them into the file."""
    (tmp_path / "other").mkdir()
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with (
            harness(tmp_path, SHORT_LEASE, cluster=cluster) as at,
            harness(tmp_path / "other", {"STACKD_CLUSTER__INSTANCE": "other"}, cluster=cluster) as other,
        ):
            mine = await at.running()
            before = await at.stack(mine)
            await other.create()
        cluster.faults.add_fault(action="no_query", verb="list", resource="pods|services|configmaps")
        (tmp_path / "new").mkdir()
        config = config_file(tmp_path / "new", tmp_path / "kubeconfig")
        assert await asyncio.to_thread(exit_code, ["rebuild", "--config", str(config)]) == 0
        cluster.faults.clear()
        async with harness(tmp_path / "new", SHORT_LEASE, cluster=cluster) as later:
            assert await later.listed() == [mine]
            assert await later.stack(mine) | {"updated_at": ""} == before | {"updated_at": ""}
