"""A dry run: checked by stackd and by the cluster, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.api.test_contract import SEED
from tests.harness import Harness, harness, request_for, seed


async def dry(at: Harness, body: dict[str, Any] | None = None, value: str = "true") -> Any:
    return await at.call("POST", f"/stacks?dry_run={value}", body or seed())


async def nothing_is_left(at: Harness) -> None:
    assert await at.listed() == []
    assert not await at.objects("pods")
    assert (await at.call("GET", "/stats")).json["used_node_ports"] == 0


async def test_a_dry_run_answers_the_sanitized_spec_and_makes_nothing(at: Harness) -> None:
    reply = await dry(at)
    assert reply.status == 200
    assert list(reply.json.items()) == [
        ("dry_run", True),
        ("pod_spec", SEED["sanitized"]),
        ("requested_cpu_milli", 100),
        ("requested_memory_bytes", 134217728),
    ]
    commits = await at.metric("stackd_store_commits_total")
    await dry(at)
    assert await at.metric("stackd_store_commits_total") == commits
    await nothing_is_left(at)


async def test_a_dry_run_says_what_is_wrong_with_the_spec(at: Harness) -> None:
    body = seed()
    body["pod_spec"] = body["pod_spec"].replace("containers:", "hostNetwork: true\n  containers:")
    reply = await dry(at, body)
    assert (reply.status, reply.error.startswith("invalid pod spec: spec.hostNetwork")) == (400, True)


@pytest.mark.parametrize(
    ("kind", "spec", "status", "words"),
    [
        ("ResourceQuota", {"hard": {"requests.cpu": "50m"}}, 503, "ResourceQuota tight"),
        ("LimitRange", {"limits": [{"type": "Container", "max": {"cpu": "50m"}}]}, 400, "LimitRange"),
    ],
)
async def test_a_dry_run_asks_the_cluster_s_own_limits(
    at: Harness, kind: str, spec: dict[str, Any], status: int, words: str
) -> None:
    path = f"/api/v1/namespaces/stacks/{kind.lower()}s"
    await at.kubectl("POST", path, {"apiVersion": "v1", "kind": kind, "metadata": {"name": "tight"}, "spec": spec})
    reply = await dry(at)
    assert (reply.status, words in reply.error) == (status, True)
    await nothing_is_left(at)


async def test_a_dry_run_knows_the_limits_of_labels(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__STACKS_PER_LABEL": "{ player = 1 }"}) as at:
        body = seed() | {"labels": {"player": "7"}}
        assert (await dry(at, body)).status == 200
        created = await at.create(body)
        reply = await dry(at, body)
        assert (reply.status, reply.json["stack_id"]) == (409, created["stack_id"])
        assert (await dry(at, seed() | {"labels": {"player": "8"}})).status == 200


async def test_a_dry_run_knows_the_limit_of_all_stacks(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__MAX_STACKS": "1"}) as at:
        assert (await dry(at)).status == 200
        await at.create()
        reply = await dry(at)
        assert (reply.status, "limits.max_stacks" in reply.error) == (503, True)
        assert reply.error == (await at.call("POST", "/stacks", seed())).error


async def test_a_dry_run_knows_whether_enough_node_ports_are_free(tmp_path: Path) -> None:
    two = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31002"}
    async with harness(tmp_path, two) as at:
        assert (await dry(at)).status == 200
        await at.create()
        await at.create()
        reply = await dry(at)
        assert (reply.status, "all 2 node ports" in reply.error) == (503, True)
        assert reply.error == (await at.call("POST", "/stacks", seed())).error


async def test_a_dry_run_is_asked_for_in_so_many_words(at: Harness) -> None:
    assert (await dry(at, value="perhaps")).status == 400
    wrong = await at.call("POST", "/stacks?dryrun=true", seed())
    assert (wrong.status, '(did you mean "dry_run"?)' in wrong.error) == (400, True)
    await nothing_is_left(at)
    assert (await dry(at, request_for("nginx"), value="false")).status == 201


async def test_a_dry_run_under_a_key_leaves_the_key_free(at: Harness) -> None:
    headers = {"Idempotency-Key": "k"}
    assert (await at.call("POST", "/stacks?dry_run=1", seed(), headers=headers)).status == 200
    assert (await at.call("POST", "/stacks", seed(), headers=headers)).status == 201
