"""Each refusal of the cluster, also of a dry run, is the documented status, names the limit, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.api.test_contract import SEED
from tests.harness import Harness, harness, request_for, seed

NAMESPACE = "/api/v1/namespaces/stacks"


async def nothing_is_left(at: Harness) -> None:
    assert not await at.objects("pods")
    assert not await at.objects("services")
    assert (await at.call("GET", "/stacks")).json == {"stacks": []}
    assert (await at.call("GET", "/stats")).json["used_node_ports"] == 0


LIMITS = {"limits": [{"type": "Container", "max": {"cpu": "50m"}}]}


@pytest.mark.parametrize(
    ("spec", "status", "words"),
    [
        (LIMITS, 400, "maximum cpu usage per Container is 50m, but limit is 100m"),
        ({"hard": {"requests.cpu": "50m"}}, 503, "requests.cpu"),
        ({"hard": {"pods": "0"}}, 503, "pods"),
        ({"hard": {"services.nodeports": "0"}}, 503, "services.nodeports"),
    ],
)
async def test_what_the_cluster_limits_is_named_by_a_create_and_a_dry_run(
    at: Harness, spec: dict[str, Any], status: int, words: str
) -> None:
    kind, name = ("LimitRange", "LimitRange") if status == 400 else ("ResourceQuota", "ResourceQuota tight")
    body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "tight"}, "spec": spec}
    await at.kubectl("POST", f"{NAMESPACE}/{kind.lower()}s", body)
    for path in ("/stacks", "/stacks?dry_run=true")[: 1 if "services" in words else 2]:  # a dry run makes no Service
        reply = await at.call("POST", path, seed())
        assert (reply.status, name in reply.error, words in reply.error) == (status, True, True), reply.text
        assert ("Retry-After" in reply.headers) == (status == 503)
        await nothing_is_left(at)


async def test_pod_security_of_the_namespace_is_a_400(at: Harness) -> None:
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    async with at.session.patch(
        at.cluster.url + NAMESPACE, json=labels, headers={"Content-Type": "application/merge-patch+json"}
    ) as answer:
        assert answer.status == 200
    reply = await at.call("POST", "/stacks", seed())
    assert reply.status == 400
    assert 'violates PodSecurity "restricted' in reply.error
    await nothing_is_left(at)


async def test_a_port_that_somebody_else_holds_is_set_aside_and_another_is_taken(tmp_path: Path) -> None:
    async with harness(
        tmp_path, {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31003"}
    ) as at:
        at.cluster.faults.take_port(31001)
        at.cluster.faults.take_port(31003)
        stack = await at.create()
        assert stack["ports"][0]["node_port"] == 31002
        services = await at.objects("services")
        assert services[stack["service_name"]]["spec"]["ports"][0]["nodePort"] == 31002
        reply = await at.call("POST", "/stacks", seed())
        assert reply.status == 503
        assert "are in use; delete stacks" in reply.error
        assert int(reply.headers["Retry-After"]) > 0
        assert len(await at.objects("pods")) == 1
        assert (await at.call("GET", "/stats")).json["used_node_ports"] == 1


async def test_an_unreachable_cluster_is_a_503_with_retry_after_and_reads_go_on(at: Harness) -> None:
    stack = await at.create()
    await at.until_status(stack["stack_id"], "running")
    await at.cluster.faults.refuse()
    try:
        reply = await at.call("POST", "/stacks", seed())
        assert reply.status == 503
        assert "Kubernetes cannot be reached" in reply.text
        assert int(reply.headers["Retry-After"]) > 0
        deleted = await at.call("DELETE", f"/stacks/{stack['stack_id']}")
        assert deleted.status == 503
        assert stack["stack_id"] in deleted.error
        assert (await at.call("GET", "/stacks")).json["stacks"][0]["stack_id"] == stack["stack_id"]
    finally:
        await at.cluster.faults.listen()
    await at.until_listed(0)
    await nothing_is_left(at)


# ---- a dry run: checked by stackd and by the cluster, and nothing is written


async def dry(at: Harness, body: dict[str, Any] | None = None, value: str = "true") -> Any:
    return await at.call("POST", f"/stacks?dry_run={value}", body or seed())


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


async def test_a_dry_run_knows_the_limits_of_labels(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__STACKS_PER_LABEL": "{ player = 1 }"}) as at:
        body = seed() | {"labels": {"player": "7"}}
        assert (await dry(at, body)).status == 200
        created = await at.create(body)
        reply = await dry(at, body)
        assert (reply.status, reply.json["stack_id"]) == (409, created["stack_id"])
        assert (await dry(at, seed() | {"labels": {"player": "8"}})).status == 200


TWO_PORTS = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31002"}


@pytest.mark.parametrize(
    ("settings", "words"), [({"STACKD_LIMITS__MAX_STACKS": "2"}, "max_stacks"), (TWO_PORTS, "all 2 node ports")]
)
async def test_one_stack_too_many_is_a_503_of_a_create_and_of_a_dry_run(
    tmp_path: Path, settings: dict[str, str], words: str
) -> None:
    async with harness(tmp_path, settings) as at:
        first = await at.create()
        assert (await dry(at)).status == 200
        await at.create()
        reply, refused = await dry(at), await at.call("POST", "/stacks", seed())
        assert (reply.status, words in reply.error, int(reply.headers["Retry-After"]) > 0) == (503, True, True)
        assert (refused.status, refused.error) == (503, reply.error)
        assert len(await at.objects("pods")) == 2
        await at.call("DELETE", f"/stacks/{first['stack_id']}")
        await at.create()


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
