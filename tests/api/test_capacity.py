"""How many more stacks fit, and which resource runs out first."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stackd.embedded import EmbeddedCluster, NodeSpec
from stackd.keys import digest
from tests.harness import READ_KEY, Harness, fast_cluster, harness, request_for, seed, until

NODES = (
    NodeSpec(name="a", cpu="1070m", memory="1048980Ki", pods="20"),
    NodeSpec(name="b", cpu="2", memory="1Gi", pods="20"),
    NodeSpec(name="control", cpu="64", memory="64Gi", labels={}),
    NodeSpec(name="cordoned", cpu="64", memory="64Gi", unschedulable=True),
)


async def capacity(at: Harness, query: str = "") -> dict[str, Any]:
    reply = await at.call("GET", f"/capacity{query}")
    assert reply.status == 200, reply.text
    found: dict[str, Any] = reply.json
    return found


async def test_room_is_counted_on_the_nodes_that_take_stacks(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(nodes=NODES)) as cluster, harness(tmp_path, cluster=cluster) as at:
        found = await capacity(at, "?cpu=100m&memory=64Mi")
        assert (found["fits"], found["limited_by"], found["nodes"]) == (26, "cpu", {"a": 10, "b": 16})
        found = await capacity(at, "?cpu=100m&memory=256Mi")
        assert (found["fits"], found["limited_by"], found["nodes"]) == (8, "memory", {"a": 4, "b": 4})
        found = await capacity(at, "?cpu=1m&memory=1Mi")
        assert (found["fits"], found["limited_by"], found["nodes"]) == (40, "pods", {"a": 20, "b": 20})
        created = await at.create(request_for("nginx", cpu="500m", memory="512Mi"))
        found = await capacity(at, "?cpu=100m&memory=256Mi")
        assert found["nodes"][created["node_id"]] == 2
        await at.until_status(created["stack_id"], "running")
        await at.call("POST", f"/stacks/{created['stack_id']}/stop")
        assert (await capacity(at, "?cpu=100m&memory=256Mi"))["fits"] == 8


LIMITS = {"type": "Container", "max": {"ephemeral-storage": "2Gi"}, "default": {"ephemeral-storage": "1Gi"}}


async def limit_range(at: Harness, request: str = "256Mi") -> None:
    limit = LIMITS | {"defaultRequest": {"ephemeral-storage": request}}
    body = {"kind": "LimitRange", "metadata": {"name": "disk"}, "spec": {"limits": [limit]}}
    await at.kubectl("POST", "/api/v1/namespaces/stacks/limitranges", body)


async def test_disk_counts_as_the_limit_range_gives_it_and_as_a_pod_asks_for_it(tmp_path: Path) -> None:
    nodes = (NodeSpec(name="a", ephemeral_storage="1Gi"), NodeSpec(name="none", ephemeral_storage=""))
    async with EmbeddedCluster(fast_cluster(nodes=nodes)) as cluster, harness(tmp_path, cluster=cluster) as at:
        body = request_for("nginx")
        found = (await at.call("POST", "/capacity", body)).json
        assert (found["limited_by"], found["requested_ephemeral_storage_bytes"]) == ("ports", 0)
        await limit_range(at)
        found = (await at.call("POST", "/capacity", body)).json
        assert (found["fits"], found["limited_by"]) == (4, "ephemeral_storage")
        assert (found["nodes"], found["requested_ephemeral_storage_bytes"]) == ({"a": 4, "none": 0}, 256 << 20)
        await at.create(body)  # its pod has the LimitRange's default
        larger = body | {
            "pod_spec": body["pod_spec"].replace(
                'memory: "128Mi"', 'memory: "128Mi"\n          ephemeral-storage: "300Mi"'
            )
        }
        found = (await at.call("POST", "/capacity", larger)).json
        assert (found["fits"], found["requested_ephemeral_storage_bytes"]) == (2, 300 << 20)
        for _ in range(2):
            await at.create(larger)
        assert (await at.call("POST", "/stacks", body)).status == 503
        assert (await at.call("POST", "/capacity", body)).json["fits"] == 0
        found = await capacity(at, "?ephemeral_storage=1Mi")
        assert (found["fits"], found["requested_ephemeral_storage_bytes"]) == (168, 1 << 20)


async def test_disk_counts_in_quotas_as_request_and_as_limit(at: Harness) -> None:
    await limit_range(at, "64Mi")
    for name, line in (("asked", "requests.ephemeral-storage"), ("limit", "limits.ephemeral-storage")):
        quota = {"kind": "ResourceQuota", "metadata": {"name": name}, "spec": {"hard": {line: "10Gi"}}}
        await at.kubectl("POST", "/api/v1/namespaces/stacks/resourcequotas", quota)
    found = (await at.call("POST", "/capacity", request_for("nginx"))).json
    assert (found["quota"], found["quota_limited_by"]) == (10, "limit: limits.ephemeral-storage")


async def test_ports_and_the_limit_of_stacks_bind_too(tmp_path: Path) -> None:
    settings = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31006"}
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    async with harness(first, settings) as at:
        found = await capacity(at, "?ports=2")
        assert (found["fits"], found["limited_by"], found["ports"], found["stacks"]) == (3, "ports", 3, None)
        await at.create()
        assert (await capacity(at))["fits"] == 5
    async with harness(second, settings | {"STACKD_LIMITS__MAX_STACKS": "2"}) as at:
        await at.create()
        found = await capacity(at)
        assert (found["fits"], found["limited_by"], found["stacks"]) == (1, "max_stacks", 1)


async def test_quotas_are_looked_at_in_the_background_once_somebody_asks(at: Harness) -> None:
    spec = {"hard": {"requests.cpu": "1", "pods": "50", "services.nodeports": "7"}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "tight"}, "spec": spec}
    await at.kubectl("POST", "/api/v1/namespaces/stacks/resourcequotas", quota)
    at.cluster.faults.reset_counts()
    await at.run_now("quotas")
    assert at.cluster.counts.total(resource="resourcequotas") == 0, "an idle stackd reads no quota"
    first = await capacity(at, "?cpu=250m")
    assert (first["quota"], first["quota_seen_at"]) == (None, None)
    assert at.cluster.counts.total(resource="resourcequotas") == 0, "a GET asks the cluster nothing"
    await at.run_now("quotas")
    assert at.cluster.counts.total(resource="resourcequotas") == 1, "one list for all who asked"
    found = await capacity(at, "?cpu=250m")
    assert (found["fits"], found["limited_by"], found["quota"]) == (4, "quota", 4)
    assert found["quota_limited_by"] == "tight: requests.cpu"
    assert found["quota_seen_at"] is not None
    found = await capacity(at, "?cpu=1m&ports=2")
    assert (found["quota"], found["quota_limited_by"]) == (3, "tight: services.nodeports")


async def test_a_post_looks_at_the_quotas_now(at: Harness) -> None:
    quota = {"kind": "ResourceQuota", "metadata": {"name": "tight"}, "spec": {"hard": {"pods": "2"}}}
    await at.kubectl("POST", "/api/v1/namespaces/stacks/resourcequotas", quota)
    await at.create()
    found = await until(
        lambda: at.call("POST", "/capacity", request_for("nginx")), lambda seen: seen.json["limited_by"] == "quota"
    )
    assert found.json["fits"] == 1
    assert (await at.call("POST", "/capacity", {"pod_spec": "x"})).status == 400


async def test_without_a_node_there_is_no_room(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_STACKS__NODE_SELECTOR": '{ role = "nobody" }'}) as at:
        found = await capacity(at)
        assert (found["fits"], found["limited_by"], found["nodes"]) == (0, "nodes", {})


NO_SENSE = ["cpu=much", "cpu=0", "memory=-1", "ports=0", "ports=25", "cpus=1", "cpu=1&cpu=2"]


async def test_a_question_that_makes_no_sense_is_refused(at: Harness) -> None:
    for query in NO_SENSE:
        reply = await at.call("GET", f"/capacity?{query}")
        assert (reply.status, bool(reply.error)) == (400, True)


# ---- limits: each refusal names the limit that it hit


async def test_too_many_requests_of_one_key_are_a_429_and_other_keys_go_on(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[[auth.keys]]\nname = "reader"\nsha256 = "{digest(READ_KEY).hex()}"\nscope = "read"\n')
    async with harness(tmp_path, {"STACKD_LIMITS__REQUESTS_PER_SECOND": "0.01"}, config=config) as at:
        assert (await at.call("GET", "/healthz")).status == 200
        reply = await at.call("GET", "/healthz")
        assert (reply.status, "limits.requests_per_second" in reply.error) == (429, True)
        assert 90 <= int(reply.headers["Retry-After"]) <= 100
        assert (await at.call("GET", "/healthz", key=READ_KEY)).status == 200


async def test_too_many_creates_at_the_same_time_are_a_429(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__CREATES_IN_FLIGHT": "2"}) as at:
        at.cluster.faults.pause()
        creates = [asyncio.create_task(at.call("POST", "/stacks", seed())) for _ in range(2)]
        await at.until_metric("stackd_creates_in_flight", 2)
        reply = await at.call("POST", "/stacks", seed())
        assert (reply.status, "limits.creates_in_flight" in reply.error) == (429, True)
        assert int(reply.headers["Retry-After"]) > 0
        at.cluster.faults.resume()
        assert [(await create).status for create in creates] == [201, 201]
        await at.create()


async def test_one_id_too_many_in_a_batch_is_a_413(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_BATCH_DELETE__MAX_IDS": "3"}) as at:
        ids = [f"stack-{number}" for number in range(4)]
        assert (await at.call("POST", "/stacks/batch-delete", {"stack_ids": ids[1:]})).status == 202
        reply = await at.call("POST", "/stacks/batch-delete", {"stack_ids": ids})
        assert (reply.status, "batch_delete.max_ids" in reply.error) == (413, True)


# ---- required labels, and a limit on how often one value may create stacks


PLAYER = {"STACKD_LIMITS__REQUIRED_LABELS": "player"}
TWICE = {"STACKD_LIMITS__CREATES_PER_LABEL": '{ player = "2/min" }'}
ONE_EACH = {"STACKD_LIMITS__STACKS_PER_LABEL": "{ player = 1 }"}


def of(player: str, **more: Any) -> dict[str, Any]:
    return seed() | {"labels": {"player": player}} | more


@pytest.mark.parametrize(
    "labels", [None, {}, {"team": "7"}, {"Player": "7"}, {"player": ""}, {"PLAYER": "7", "team": "1"}]
)
async def test_a_create_without_a_required_label_is_a_400_that_names_it(tmp_path: Path, labels: Any) -> None:
    body = seed() | ({} if labels is None else {"labels": labels})
    async with harness(tmp_path, PLAYER) as at:
        for path in ("/stacks", "/stacks?dry_run=true"):
            reply = await at.call("POST", path, body)
            assert reply.status == 400
            assert reply.error == "invalid request body: labels: player must be given (limits.required_labels)"
        assert not await at.objects("pods")
        assert (await at.call("POST", "/capacity", seed())).status == 200
        await at.create(of("7"))
        document = (await at.call("GET", "/openapi.json")).json["components"]["schemas"]["Create"]
        assert "labels" in document["required"]
        assert document["properties"]["labels"]["required"] == ["player"]


async def test_one_create_too_many_of_a_player_is_a_429_and_the_others_go_on(tmp_path: Path) -> None:
    async with harness(tmp_path, TWICE) as at:
        for _ in range(2):
            await at.create(of("7"))
        reply = await at.call("POST", "/stacks", of("7"))
        assert reply.status == 429
        assert reply.error == "more than 2/min creates with the label player=7 (limits.creates_per_label)"
        assert 1 <= int(reply.headers["Retry-After"]) <= 60
        dry = await at.call("POST", "/stacks?dry_run=true", of("7"))
        assert (dry.status, dry.error) == (429, reply.error)
        assert len(await at.objects("pods")) == 2
        await at.create(of("8"))
        await at.create()


async def test_what_is_counted_does_not_depend_on_letters_case(tmp_path: Path) -> None:
    async with harness(tmp_path, TWICE) as at:
        await at.create(of("alice"))
        await at.create(seed() | {"labels": {"Player": "ALICE"}})
        for labels in ({"player": "Alice"}, {"PLAYER": "alice", "player": "bob"}, {"pLayer": "aLICE"}):
            assert (await at.call("POST", "/stacks", seed() | {"labels": labels})).status == 429
        for blank in (" alice", "alice ", "alice\t", "alice\u00a0"):
            assert (await at.call("POST", "/stacks", of(blank))).status == 400
        assert len(await at.objects("pods")) == 2


async def test_restarts_and_starts_count_as_creates_of_their_stacks_label(tmp_path: Path) -> None:
    async with harness(tmp_path, TWICE) as at:
        stack_id = (await at.create(of("7")))["stack_id"]
        other = (await at.create(of("8")))["stack_id"]
        await at.until_status(stack_id, "running")
        assert (await at.call("POST", f"/stacks/{stack_id}/start")).status == 200  # it runs already: nothing is created
        assert (await at.call("POST", f"/stacks/{stack_id}/restart")).status == 200
        for verb in ("restart", "start"):
            reply = await at.call("POST", f"/stacks/{stack_id}/{verb}")
            assert (reply.status, "player=7" in reply.error) == (429, True)
        assert (await at.call("POST", "/stacks", of("7"))).status == 429
        await at.until_status(other, "running")
        assert (await at.call("POST", f"/stacks/{other}/stop")).status == 200
        assert (await at.call("POST", f"/stacks/{other}/start")).status == 200
        assert (await at.call("POST", f"/stacks/{other}/restart")).status == 429
        assert (await at.call("POST", "/stacks/stack-0000000000000000/start")).status == 404


async def test_an_answer_that_was_given_before_or_a_stack_that_is_there_is_no_create(tmp_path: Path) -> None:
    async with harness(tmp_path, TWICE | ONE_EACH) as at:
        headers = {"Idempotency-Key": "k"}
        first = (await at.call("POST", "/stacks", of("7"), headers=headers)).json["stack_id"]
        for _ in range(5):
            reply = await at.call("POST", "/stacks", of("7"), headers=headers)
            assert (reply.status, reply.json["stack_id"]) == (201, first)
            assert (await at.call("POST", "/stacks", of("7"))).status == 409
            reply = await at.call("POST", "/stacks", of("7", if_exists="return"))
            assert (reply.status, reply.json["stack_id"]) == (200, first)
        await at.call("DELETE", f"/stacks/{first}")
        await at.create(of("7"))
        assert (await at.call("POST", "/stacks", of("7", if_exists="return"))).status == 429


async def test_a_create_that_the_cluster_refuses_counts(tmp_path: Path) -> None:
    body = request_for("nginx", cpu="2000") | {"labels": {"player": "7"}}
    async with harness(tmp_path, TWICE) as at:
        assert [(await at.call("POST", "/stacks", body)).status for _ in range(3)] == [503, 503, 429]
