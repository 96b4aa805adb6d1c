"""Something between stackd and the API server sends pages, junk or cut bodies: stackd believes and shows none of it."""

from __future__ import annotations

import asyncio
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from stackd.cli import main
from stackd.embedded.resources import PODS
from stackd.lifecycle import gate
from tests.harness import MIRRORED, Harness, Machine, harness, seed

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
"""Of an answer to a request that was done."""

KINDS = ("pods", "services")


def nothing_foreign(text: str) -> None:
    assert not any(word in text.lower() for word in ("html", "balancer", "<")), text


def list_again(at: Harness) -> None:
    """End all watches, and have them answer 410 so that stackd lists again."""
    at.faults.add_fault(action="status", code=410, verb="watch", resource=MIRRORED, count=4)
    at.faults.drop_watches()


async def test_while_only_a_balancer_answers_a_delete_is_a_503_in_our_own_words_and_done_later(at: Harness) -> None:
    at.give_kubernetes(timeout=0.4)
    for odd in ("a page with 404", "junk with 200", "another path's 404", "nothing with 200"):
        stack_id = await at.running()
        at.faults.add_fault(**SPOILED[odd], verb="delete|get", resource="pods|services")
        reply = await at.refused(503, "", f"/stacks/{stack_id}", method="DELETE")
        nothing_foreign(reply.text)
        assert (await at.listed(), await at.used_ports()) == ([stack_id], 1)
        assert len(at.cluster.store.of(PODS).records) == 1
        at.faults.clear()
        await at.until_listed(0)
        assert not await at.pods_and_services()
    ids = [await at.running() for _ in range(3)]
    at.faults.add_fault(action="page", code=404, verb="delete", name=f"{ids[1]}|svc-{ids[1]}")
    job = await at.finished_job(await at.batch_delete(*ids))
    assert (job["deleted"], job["failed"], job["not_found"]) == (2, 1, 0)
    nothing_foreign(str(job["errors"]))
    assert [name for _, name in at.cluster.store.of(PODS).records] == [ids[1]]


async def test_a_create_whose_answer_is_spoiled_on_its_way_is_one_stack(at: Harness) -> None:
    for odd, kind in product(BEHIND, KINDS):
        at.faults.add_fault(**BEHIND[odd], verb="create", resource=kind, count=1)
        stack = await at.create()
        assert (await at.pods_and_services()).keys() == {stack["pod_id"], stack["service_name"]}
        await at.delete(stack["stack_id"])
        assert not await at.pods_and_services()


async def test_a_create_that_only_a_balancer_answers_is_a_503_in_our_own_words_and_leaves_nothing(at: Harness) -> None:
    at.give_kubernetes(timeout=0.4)
    for odd, kind in product(("a page with 404", "junk with 200", "half of it"), KINDS):
        at.faults.add_fault(**(SPOILED | BEHIND)[odd], verb="create|get", resource=kind)
        nothing_foreign((await at.refused(503, "", "/stacks", seed())).text)
        at.faults.clear()
        await at.until_listed(0)
        assert not await at.pods_and_services()


async def test_a_dry_run_that_became_a_create_is_removed_and_refused(at: Harness) -> None:
    """A proxy drops the query string."""
    at.faults.add_fault(action="no_query", verb="create", resource="pods", count=1)
    await at.refused(503, "query string", "/stacks?dry_run=true", seed())
    assert not await at.objects("pods")
    await at.post("/stacks?dry_run=true", seed())


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
    at.faults.add_fault(**LISTS[odd], verb="list", resource=MIRRORED, count=8)
    list_again(at)
    await at.until_at_least("stackd_mirror_relists_total", before + 1, kind="pods")
    await at.until_metric("stackd_mirror_connected", 3)
    await at.passes(2)
    assert ((await at.stack(stack_id))["status"], await at.used_ports()) == ("running", 1)
    await at.until_ready()


async def test_a_cluster_without_an_identity_is_asked_again(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "IDENTITY_SECONDS", 0.3)
    at.give_kubernetes(timeout=0.4)
    for odd in (BEHIND["no uid"], SPOILED["a page with 200"], SPOILED["a page with 404"]):
        stack_id = await at.running()
        at.faults.add_fault(**odd, verb="get", resource="namespaces", name="kube-system")
        list_again(at)
        nothing_foreign(await at.until_unready("nothing can be created or deleted: "))
        nothing_foreign((await at.refused(503, "", f"/stacks/{stack_id}", method="DELETE")).text)
        at.faults.clear()
        await at.until_ready(15)
        await at.until_listed(0)


@pytest.mark.stackd(cluster__lease_duration="1s")
async def test_a_lost_file_is_not_rebuilt_from_the_stacks_of_another_instance(vm: Machine, tmp_path: Path) -> None:
    """A proxy drops the query string: a list holds more than was asked for."""
    at = await vm.start()
    mine = await at.running()
    before = await at.answers()
    (tmp_path / "other").mkdir()
    async with harness(tmp_path / "other", cluster=vm.cluster, cluster__instance="other") as other:
        await other.create()
    await vm.lose_file()
    vm.cluster.faults.add_fault(action="no_query", verb="list", resource="pods|services|configmaps")
    config = tmp_path / "config.toml"
    config.write_text(
        f'[auth]\nenabled = false\n[state]\npath = "{tmp_path / "stackd.db"}"\n'
        f'[cluster]\nmode = "kubeconfig"\nkubeconfig = "{tmp_path / "kubeconfig"}"\n'
    )
    await asyncio.to_thread(main, ["rebuild", "--config", str(config)])
    vm.cluster.faults.clear()
    at = await vm.start()
    assert (await at.listed(), await at.answers()) == ([mine], before)
