"""Something between stackd and the API server sends pages, junk or cut bodies: stackd believes and shows none of it."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from stackd.embedded.resources import PODS
from stackd.lifecycle import gate
from tests.harness import MIRRORED, Harness, seed

NOT_FOUND = (
    '{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","message":"no such path","code":404}'
)
PAGE_404, PAGE_200 = ({"action": "page", "code": code} for code in (404, 200))
OF_ANOTHER_PATH: dict[str, Any] = {"action": "reply", "code": 404, "body": NOT_FOUND}
JUNK: dict[str, Any] = {"action": "reply", "code": 200, "body": "{}"}
EMPTY, HALF = {"action": "empty"}, {"action": "truncate"}
KINDS = ("pods", "services")


def without(field: str) -> dict[str, Any]:
    return {"action": "strip", "fields": (field,)}


def nothing_foreign(text: str) -> None:
    assert not any(word in text.lower() for word in ("html", "balancer", "<")), text


def list_again(at: Harness) -> None:
    """End all watches, and have them answer 410 so that stackd lists again."""
    at.faults.add_fault(action="status", code=410, verb="watch", resource=MIRRORED, count=4)
    at.faults.drop_watches()


async def test_while_only_a_balancer_answers_a_delete_is_a_503_in_our_own_words_and_done_later(at: Harness) -> None:
    for odd in (PAGE_404, JUNK, OF_ANOTHER_PATH):
        stack_id = await at.running()
        at.faults.add_fault(**odd, verb="delete|get", resource="pods|services")
        with at.hurried(timeout=0.3):
            nothing_foreign((await at.refused(503, "", f"/stacks/{stack_id}", method="DELETE")).text)
        assert (await at.listed(), await at.used_ports()) == ([stack_id], 1)
        assert len(at.cluster.store.of(PODS).records) == 1
        at.faults.clear()
        await at.until_listed(0)
        assert not await at.pods_and_services()
    ids = [await at.running() for _ in range(3)]
    at.faults.add_fault(**PAGE_404, verb="delete", name=f"{ids[1]}|svc-{ids[1]}")
    with at.hurried(timeout=2.0):
        job = await at.finished_job(await at.batch_delete(*ids))
    assert (job["deleted"], job["failed"], job["not_found"]) == (2, 1, 0)
    nothing_foreign(str(job["errors"]))
    assert [name for _, name in at.cluster.store.of(PODS).records] == [ids[1]]


async def test_a_create_whose_answer_is_spoiled_on_its_way_is_one_stack(at: Harness) -> None:
    done = [each | {"code": 201, "done": True} for each in (PAGE_200, JUNK)]
    spoiled = (*done, HALF, EMPTY, without("metadata.name"), without("metadata.uid"), without("kind"))
    for odd, kind in product(spoiled, KINDS):
        at.faults.add_fault(**odd, verb="create", resource=kind, count=1)
        stack = await at.create()
        assert (await at.pods_and_services()).keys() == {stack["pod_id"], stack["service_name"]}
        await at.delete(stack["stack_id"])
        assert not await at.pods_and_services()


async def test_a_create_that_only_a_balancer_answers_is_a_503_in_our_own_words_and_leaves_nothing(at: Harness) -> None:
    lost: tuple[dict[str, Any], ...] = (PAGE_404, JUNK, HALF)
    for odd, kind in product(lost, KINDS):
        at.faults.add_fault(**odd, verb="create|get", resource=kind)
        with at.hurried(timeout=0.3):
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


async def test_a_list_that_is_none_ends_no_stack(at: Harness) -> None:
    stack_id = await at.running()
    for odd in (JUNK, HALF, without("items.metadata.uid")):
        before = await at.metric("stackd_mirror_relists_total", kind="pods")
        at.faults.add_fault(**odd, verb="list", resource=MIRRORED, count=4)
        list_again(at)
        await at.until_at_least("stackd_mirror_relists_total", before + 1, kind="pods")
        await at.until_metric("stackd_mirror_connected", len(MIRRORED.split("|")))
        assert ((await at.stack(stack_id))["status"], await at.used_ports()) == ("running", 1)
        await at.until_ready()
        at.faults.clear()


async def test_a_cluster_without_an_identity_is_asked_again(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "IDENTITY_SECONDS", 0.3)
    for odd in (without("metadata.uid"), PAGE_200, PAGE_404):
        stack_id = await at.running()
        at.faults.add_fault(**odd, verb="get", resource="namespaces", name="kube-system")
        list_again(at)
        with at.hurried(timeout=0.3):
            nothing_foreign(await at.until_unready("nothing can be created or deleted: "))
            nothing_foreign((await at.refused(503, "", f"/stacks/{stack_id}", method="DELETE")).text)
        at.faults.clear()
        await at.until_ready()
        await at.until_listed(0)
