"""Each refusal of the cluster, also of a dry run, is the documented status, names the limit, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stackd.embedded import EmbeddedCluster
from stackd.kube.manifests import range_question
from stackd.lifecycle.objects import PORT_TRIES
from tests.api.test_contract import SEED
from tests.harness import Harness, eventually, fast_cluster, harness, request_for, seed, until

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


# ---- node ports outside of the cluster's range, or held by others; no create tries hundreds of them


@asynccontextmanager
async def ranged(
    folder: Path, cluster: tuple[int, int], configured: tuple[int, int], *, silent: bool = False
) -> AsyncIterator[Harness]:
    """A stackd with these ranges; a ``silent`` cluster does not tell its own range."""
    settings = {
        f"STACKD_STACKS__NODE_PORT_{name}": str(port) for name, port in zip(("MIN", "MAX"), configured, strict=True)
    }
    async with EmbeddedCluster(fast_cluster(node_port_range=cluster)) as made:
        if silent:
            made.faults.add_fault(action="status", code=418, verb="create", resource="services", count=1)
        async with harness(folder, settings, cluster=made) as at:
            yield at


def posts(at: Harness) -> int:
    """How often stackd has tried to create a Service."""
    return at.cluster.counts.total("create", "services")


async def node_ports_nothing_is_left(at: Harness) -> None:
    await at.until_listed(0)
    assert await at.objects("pods") == await at.objects("services") == {}


async def test_a_range_outside_of_the_clusters_is_said_at_once_with_both_ranges_and_costs_no_request(
    tmp_path: Path,
) -> None:
    async with ranged(tmp_path, (30000, 32767), (20000, 20999)) as at:
        assert posts(at) == 1, "the cluster is asked once"
        for _ in range(3):
            reply = await at.call("POST", "/stacks", seed())
            assert reply.status == 503
            assert "20000-20999" in reply.error
            assert "30000-32767" in reply.error
        assert (posts(at), at.cluster.counts.total("create", "pods")) == (1, 0)
        readiness = await at.call("GET", "/readyz")
        assert readiness.status == 503
        assert "20000-20999" in readiness.json["error"]
        assert "30000-32767" in readiness.json["error"]
        assert (await at.call("GET", "/capacity")).json["fits"] == 0
        await node_ports_nothing_is_left(at)


async def test_of_a_range_that_is_partly_the_clusters_that_part_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with ranged(tmp_path, (30000, 31004), (31001, 32767)) as at:
        ports = [(await at.create())["ports"][0]["node_port"] for _ in range(4)]
        assert sorted(ports) == [31001, 31002, 31003, 31004]
        assert posts(at) == 1 + 4, "one request learns the range, and each create takes a port of it at once"
        reply = await at.call("POST", "/stacks", seed())
        assert reply.status == 503
        assert "all 4 node ports in 31001-31004 are in use" in reply.error
        assert (await at.call("GET", "/readyz")).status == 200
        # a repeated message of another test's daemon may be logged, with its count, while this one runs
        (said,) = {record.message for record in caplog.records if "are used: the cluster's own range" in record.message}
        assert "only 31001-31004 of the node ports 31001-32767 are used" in said


@pytest.mark.parametrize(("cluster", "status"), [((32700, 32767), 201), ((30000, 30500), 503)])
async def test_what_the_cluster_does_not_tell_is_learned_from_its_first_refusal(
    tmp_path: Path, cluster: tuple[int, int], status: int
) -> None:
    async with ranged(tmp_path, cluster, (31001, 32767), silent=True) as at:
        asked = posts(at)
        reply = await at.call("POST", "/stacks", seed())
        assert reply.status == status
        assert posts(at) - asked <= 2, "the first refusal is enough to learn the range"
        if status == 503:
            assert f"{cluster[0]}-{cluster[1]}" in reply.error
            asked = posts(at)
            assert (await at.call("POST", "/stacks", seed())).status == 503
            assert posts(at) == asked, "what is known is not asked again"
            await node_ports_nothing_is_left(at)


async def test_when_the_api_server_comes_back_with_another_range_its_ports_are_used(tmp_path: Path) -> None:
    async with ranged(tmp_path, (30000, 30500), (31001, 31010)) as at:
        assert (await at.call("POST", "/stacks", seed())).status == 503
        at.cluster.ports._low, at.cluster.ports._high = 30000, 32767
        at.cluster.faults.compact()
        at.doubt()

        await at.until_ready()
        await at.create()


async def test_a_create_gives_up_after_some_ports_that_others_hold(tmp_path: Path) -> None:
    async with ranged(tmp_path, (30000, 32767), (31001, 31400)) as at:
        for port in range(31001, 31401):
            at.cluster.faults.take_port(port)
        asked = posts(at)
        reply = await at.call("POST", "/stacks", seed())
        assert reply.status == 503
        assert "other Services in the cluster hold" in reply.error
        assert posts(at) - asked == PORT_TRIES, "a create does not try hundreds of ports"
        await node_ports_nothing_is_left(at)


async def test_a_create_whose_time_is_up_before_it_has_found_a_port_is_undone(tmp_path: Path) -> None:
    """Before, the response was a 404, which the API does not have for a create."""
    async with ranged(tmp_path, (30000, 32767), (31001, 31005)) as at:
        for port in range(31001, 31006):
            at.cluster.faults.take_port(port)
        at.cluster.faults.add_fault(action="latency", verb="create", resource="services", seconds=1.5)
        at.reload("stacks", ttl=1.0)
        reply = await at.call("POST", "/stacks", seed())
        assert reply.status == 503
        assert "was deleted or expired during its create; create it again" in reply.error
        await at.until_listed(0)
        assert not await at.objects("pods")


async def test_a_create_whose_client_has_left_tries_no_further_port(tmp_path: Path) -> None:
    async with ranged(tmp_path, (30000, 32767), (31001, 31400)) as at:
        for port in range(31001, 31401):
            at.cluster.faults.take_port(port)
        at.cluster.faults.add_fault(action="latency", seconds=0.1, verb="create", resource="services")
        asked = posts(at)
        leaving = asyncio.create_task(at.call("POST", "/stacks", seed()))
        await eventually(lambda: posts(at) - asked >= 2)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await node_ports_nothing_is_left(at)
        assert posts(at) - asked < 10, "nobody waits for these ports any more"


async def test_a_question_for_the_range_that_a_crash_has_left_behind_is_removed(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_RECONCILE__ORPHAN_GRACE": "0s"}) as at:
        stack = await at.create()
        question = range_question("stacks", "default", "range-1")
        question["spec"] |= {"ports": [{"name": "p", "port": 80, "nodePort": 32100}]}
        await at.kubectl("POST", "/api/v1/namespaces/stacks/services", question)

        await until(lambda: at.objects("services"), lambda seen: list(seen) == [stack["service_name"]])


async def test_a_policy_that_changes_the_question_for_the_range_says_nothing_of_it(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(node_port_range=(31001, 31002))) as cluster:
        moved = [{"name": "p", "protocol": "TCP", "port": 80, "targetPort": 80, "nodePort": 31002}]
        body = json.dumps({"spec": {"ports": moved}})
        cluster.faults.add_fault(action="admit", verb="create", resource="services", body=body)
        settings = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31002"}
        async with harness(tmp_path, settings, cluster=cluster) as at:
            assert await at.objects("services") == {}
            cluster.faults.clear()
            await at.create()
            asked = posts(at)
            at.doubt()
            await eventually(lambda: posts(at) > asked, lambda: "it is not asked again: it passes for known")
