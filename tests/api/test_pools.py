"""Pools: a create gets a running stack at once; each is given only once, only while alive (invariant 11)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stackd.embedded import EmbeddedCluster
from stackd.embedded.options import NodeSpec
from stackd.embedded.resources import PODS, SERVICES
from stackd.lifecycle import pools
from stackd.lifecycle.context import CREATES_AT_ONCE
from stackd.lifecycle.refill import CROWDED_SECONDS
from tests.api import test_templates
from tests.earlier import as_version_before
from tests.harness import Harness, eventually, fast_cluster, harness, lose_file, until
from tests.ports import free_port

SIZE = 3
POD = """\
  apiVersion: v1
  kind: Pod
  metadata: {{name: web}}
  spec:
    containers:
    - name: app
      image: {image}
      ports: [{{containerPort: 80, protocol: TCP}}]
      resources: {{limits: {{cpu: {cpu}, memory: 64Mi}}}}
"""
TEMPLATE = """\
target_port: [{{container_port: 80, protocol: TCP}}]
ttl: {ttl}
labels: {{challenge: {name}}}
pool: {pool}
{values}pod:
{pod}"""
VALUES = 'values: {FLAG: "flag{<hex:32>}"}\n'
FAST = {"STACKD_TEMPLATES__REFILL_PER_SECOND": "200"}


def template(
    name: str = "web-1",
    *,
    pool: int = SIZE,
    values: bool = True,
    image: str = "nginx:stable",
    cpu: str = "100m",
    ttl: str = "1h",
) -> str:
    pod = POD.format(image=image, cpu=cpu)
    return TEMPLATE.format(name=name, pool=pool, ttl=ttl, values=VALUES if values else "", pod=pod)


def plain(pool: int = SIZE) -> str:
    """A template without values and with a different pod."""
    return template("plain", values=False, image="nginx:alpine", pool=pool)


def folder_with(folder: Path, **templates: str) -> dict[str, str]:
    """A folder of templates, and the settings that name it and let pools fill at once."""
    return FAST | test_templates.folder_with(folder, **templates)


class Row(NamedTuple):
    """The row of a stack that waits in a pool."""

    stack_id: str
    node_id: str | None
    status: str
    status_reason: str
    labels: str
    digest: str | None
    deleting_since: int | None
    ttl_expires_at: int
    updated_at: int


def waiting(at: Harness, name: str = "web-1") -> list[Row]:
    """The stacks that wait in the template's pool, the oldest first."""
    of_pool = f"unassigned = 1 AND template = '{name}' ORDER BY created_at, stack_id"
    return [Row(*row) for row in at.rows(f"SELECT {', '.join(Row._fields)} FROM stacks WHERE {of_pool}")]


async def filled(at: Harness, name: str = "web-1", size: int = SIZE) -> list[Row]:
    """The stacks that wait in the template's pool, once it is full."""
    await until(lambda: entry(at, name), lambda seen: seen["ready"] == size == len(waiting(at, name)))
    return waiting(at, name)


async def entry(at: Harness, name: str = "web-1") -> dict[str, Any]:
    """The template as ``GET /templates`` shows it."""
    found: dict[str, Any] = {one["name"]: one for one in (await at.call("GET", "/templates")).json["templates"]}[name]
    return found


async def spec_of(at: Harness, name: str) -> str:
    """The pod spec that the template's stacks get."""
    reply = await at.call("POST", "/stacks?dry_run=true", {"template": name})
    assert reply.status == 200, reply.text
    return str(reply.json["pod_spec"])


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    settings = folder_with(tmp_path, web_1=template(), plain=plain())
    async with harness(tmp_path, settings) as ready:
        await filled(ready)
        await filled(ready, "plain")
        yield ready


async def test_a_create_is_answered_with_a_running_stack_whose_pod_has_run_before(at: Harness) -> None:
    before = {row.stack_id for row in waiting(at)}
    made = await at.create({"template": "web-1", "labels": {"team": "7"}})
    assert (made["stack_id"] in before, made["status"], made["node_public_ip"] is not None) == (True, "running", True)
    pod = (await at.objects("pods"))[made["stack_id"]]
    assert [made["values"]["FLAG"]] == [one["value"] for one in pod["spec"]["containers"][0]["env"]]
    detail = await at.stack(made["stack_id"])
    assert detail["labels"] == {"challenge": "web-1", "team": "7"}
    assert detail["created_at"] == detail["updated_at"] == made["created_at"]
    assert made["stack_id"] in [one["stack_id"] for one in (await at.call("GET", "/stacks")).json["stacks"]]
    lines = (await at.call("GET", f"/stacks/{made['stack_id']}/timeline")).json["events"]
    assert [line["reason"] for line in lines if line["kind"] == "accepted"] == ["FromPool"]
    await filled(at)  # the pool is filled again
    found = await entry(at)
    assert (found["ready"], found["hits"], found["misses"], found["reason"]) == (SIZE, 1, 0, "")


async def test_the_cluster_knows_whose_it_is_before_the_create_is_answered(at: Harness) -> None:
    made = await at.create({"template": "web-1", "labels": {"team": "7"}, "ttl": "2h"})
    metadata = at.cluster.store.of(SERVICES).get("stacks", made["service_name"]).obj["metadata"]
    record = json.loads(metadata["annotations"]["stackd.io/record"])
    assert "stackd.io/pool" not in metadata["labels"]
    assert metadata["labels"]["label.stackd.io/team"] == "7"
    assert metadata["annotations"]["stackd.io/expires-at"] == made["ttl_expires_at"]
    assert (record["labels"], "unassigned" in record) == ({"challenge": "web-1", "team": "7"}, False)


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def one_port(folder: Path) -> AsyncIterator[tuple[Harness, int]]:
    """A pool of one at the only node port, which answers as a node's does."""
    port = free_port()
    settings = folder_with(folder, web_1=template(pool=1), open=template("open", pool=0))
    settings |= {"STACKD_STACKS__NODE_PORT_MIN": f"{port}", "STACKD_STACKS__NODE_PORT_MAX": f"{port}"}
    options = fast_cluster(serve_node_ports=True, node_port_range=(port, port))
    async with EmbeddedCluster(options) as cluster, harness(folder, settings, cluster=cluster) as at:
        await filled(at, size=1)
        yield at, port


async def test_a_port_answers_nobody_until_somebody_has_the_stack(tmp_path: Path) -> None:
    async with one_port(tmp_path) as (at, port):
        (row,) = waiting(at)
        probe = await at.kubectl("GET", f"/api/v1/namespaces/stacks/pods/{row.stack_id}")
        assert {one["type"]: one["status"] for one in probe["status"]["conditions"]}["Ready"] == "True"
        assert not await answers(port)
        made = await at.create({"template": "web-1"})
        assert (made["stack_id"], made["ports"][0]["node_port"]) == (row.stack_id, port)
        await eventually(lambda: answers(port))
        restarted = await at.call("POST", f"/stacks/{row.stack_id}/restart")
        assert restarted.status == 200, restarted.text
        await at.until_status(row.stack_id, "running")
        await eventually(lambda: answers(port))


EDITS = {
    "the selector, of nobody's": ("services", "svc-", {"spec": {"selector": {"stackd.io/assigned": None}}}, False),
    "the label, of nobody's": ("pods", "", {"metadata": {"labels": {"stackd.io/assigned": "true"}}}, False),
    "the selector, of somebody's": ("services", "svc-", {"spec": {"selector": {"stackd.io/assigned": "no"}}}, True),
    "the label, of somebody's": ("pods", "", {"metadata": {"labels": {"stackd.io/stack": "stack-other"}}}, True),
}


@pytest.mark.parametrize("edit", EDITS)
async def test_what_opens_or_shuts_a_port_by_hand_is_repaired_at_once(tmp_path: Path, edit: str) -> None:
    kind, prefix, change, given = EDITS[edit]
    async with one_port(tmp_path) as (at, port):
        (row,) = waiting(at)
        if given:
            await at.create({"template": "web-1"})
        await eventually(lambda: matches(answers(port), given))
        at.reload("reconcile", interval=3600.0)
        edited = await at.kubectl("PATCH", f"/api/v1/namespaces/stacks/{kind}/{prefix}{row.stack_id}", change)
        assert edited["kind"] in ("Service", "Pod"), edited
        seen: list[object] = []

        async def repaired() -> bool:
            pod = (await at.objects("pods"))[row.stack_id]
            service = (await at.objects("services")).get(f"svc-{row.stack_id}")
            wanted = {"stackd.io/stack": row.stack_id} | ({} if given else {"stackd.io/assigned": "true"})
            labels = pod["metadata"]["labels"]
            seen[:] = [labels, service and service["spec"]]
            labelled = "stackd.io/assigned" not in labels and labels["stackd.io/stack"] == row.stack_id
            return service is not None and service["spec"]["selector"] == wanted and labelled

        await eventually(repaired, lambda: f"{seen}")
        await eventually(lambda: matches(answers(port), given))


async def matches(found: Awaitable[bool], wanted: bool) -> bool:
    return await found is wanted


@pytest.mark.parametrize("key", [None, "press-1"])
async def test_one_that_the_cluster_cannot_open_now_is_undone_and_the_create_can_be_repeated(
    at: Harness, key: str | None
) -> None:
    before = {row.stack_id for row in waiting(at)}
    headers = {"Idempotency-Key": key} if key else {}
    at.cluster.faults.add_fault(action="hang", verb="patch", resource="services")
    refused = await at.call("POST", "/stacks", {"template": "web-1"}, headers=headers)
    assert (refused.status, "Retry-After" in refused.headers) == (503, True), refused.text
    at.cluster.faults.clear()
    made = await at.call("POST", "/stacks", {"template": "web-1"}, headers=headers)
    assert (made.status, made.json["stack_id"] in before) == (201, True), made.text
    await filled(at)
    await at.until_listed(1)
    undone = before - {row.stack_id for row in waiting(at)} - {made.json["stack_id"]}
    await eventually(lambda: not undone & {pod.key[1] for pod in at.cluster.store.of(PODS).records.values()})
    assert len(undone) == 1


async def test_the_first_answer_stands_if_its_stack_is_deleted_while_it_is_repeated(at: Harness) -> None:
    """Before, the repeated create was answered with a 404, which a create does not have."""
    headers = {"Idempotency-Key": "press-1"}
    first = await at.call("POST", "/stacks", {"template": "web-1"}, headers=headers)
    at.cluster.faults.add_fault(action="status", verb="create", resource="services", code=503)
    await at.delete_object("services", first.json["service_name"])
    refused = at.cluster.counts.requests
    await eventually(lambda: refused["create", "services", 503])
    await eventually(lambda: first.json["service_name"] not in at.daemon.context.mirror.services)
    again = asyncio.create_task(at.call("POST", "/stacks", {"template": "web-1"}, headers=headers))
    seen = refused["create", "services", 503]
    await eventually(lambda: refused["create", "services", 503] > seen)
    assert (await at.call("DELETE", f"/stacks/{first.json['stack_id']}")).status == 200
    at.cluster.faults.clear()
    assert ((await again).status, (await again).text) == (201, first.text)


async def test_what_waits_is_no_stack_to_anybody(at: Harness) -> None:
    row, listed = waiting(at)[0], (await at.call("GET", "/stacks")).json
    stats = (await at.call("GET", "/stats")).json
    assert (listed, stats["total_stacks"], stats["active_stacks"], stats["node_distribution"]) == (
        {"stacks": []},
        0,
        0,
        {},
    )
    assert (stats["used_node_ports"], stats["reserved_cpu_milli"]) == (2 * SIZE, 2 * SIZE * 100)
    for method, path in (
        ("GET", ""),
        ("GET", "/status"),
        ("GET", "/status?wait=running"),
        ("GET", "/timeline"),
        ("GET", "/logs"),
        ("POST", "/stop"),
        ("POST", "/start"),
        ("POST", "/restart"),
        ("DELETE", ""),
    ):
        reply = await at.call(method, f"/stacks/{row.stack_id}{path}")
        assert reply.status == 404, (method, path, reply.text)
    assert (await at.call("POST", f"/stacks/{row.stack_id}/extend", {"ttl": "1h"})).status == 404
    reply = await at.call("POST", "/stacks/batch-delete", {"stack_ids": [row.stack_id]})
    assert (await at.finished_job(reply.json["job_id"]))["not_found"] == 1
    assert row.stack_id in {one.stack_id for one in waiting(at)}
    assert row.stack_id not in (await at.call("GET", "/stacks?label=challenge=web-1")).text


async def test_of_a_burst_each_gets_a_stack_of_its_own(at: Harness) -> None:
    made = await asyncio.gather(*(at.create({"template": "web-1"}) for _ in range(3 * SIZE)))
    assert len({one["stack_id"] for one in made}) == len({one["values"]["FLAG"] for one in made}) == 3 * SIZE
    assert [one["status"] for one in made].count("running") >= SIZE


async def test_a_pod_spec_that_is_the_templates_gets_one_of_its_pool(at: Harness) -> None:
    """Unless the pool's stacks have values: those are given only to a create that names the template."""
    text, of_values = await spec_of(at, "plain"), await spec_of(at, "web-1")
    ports = [{"container_port": 80, "protocol": "TCP"}]
    ids = {row.stack_id for row in waiting(at, "plain")}
    assert (await at.create({"target_port": ports, "pod_spec": text}))["stack_id"] in ids
    await filled(at, "plain")
    with at.no_pod_starting():
        other = await at.create({"target_port": ports, "pod_spec": text.replace("nginx", "apache")})
        third = await at.create({"target_port": ports, "pod_spec": of_values})
    assert (other["status"], third["status"], "values" in third) == ("creating", "creating", False)


async def test_a_template_gives_of_its_own_pool_also_where_another_ones_pods_are_the_same(tmp_path: Path) -> None:
    settings = folder_with(tmp_path, web_1=template("web-1"), web_2=template("web-2"))
    async with harness(tmp_path, settings) as at:
        await filled(at, "web-1")
        await filled(at, "web-2")
        made = [await at.create({"template": "web-2"}) for _ in range(2)]
        assert [one["template"] for one in made] == ["web-2"] * 2
        assert (await entry(at, "web-1"))["ready"] == SIZE


async def test_none_is_given_whose_pod_is_not_ready(at: Harness) -> None:
    """One of the three stacks has a pod that is not ready."""
    store, rows = at.cluster.store, waiting(at)
    unready = store.of(PODS).get("stacks", rows[0].stack_id)
    conditions = [
        one | ({"status": "False"} if one["type"] == "Ready" else {}) for one in unready.obj["status"]["conditions"]
    ]
    store.update(unready, status=unready.obj["status"] | {"conditions": conditions})
    await eventually(lambda: waiting(at)[0].status_reason)  # the daemon has seen it
    assert (waiting(at)[0].stack_id, waiting(at)[0].status) == (rows[0].stack_id, "running")
    made = await asyncio.gather(*(at.create({"template": "web-1"}) for _ in range(SIZE)))
    given = {one["stack_id"] for one in made}
    assert rows[0].stack_id not in given
    assert {rows[1].stack_id, rows[2].stack_id} <= given


async def test_what_fails_in_a_pool_is_ended_and_the_template_is_left_alone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stacks are created one after the other: the second runs for a moment when the first has already failed.

    Another pool is filled meanwhile, which shows that nothing happens without a wait.
    """
    monkeypatch.setattr(pools, "FIRST_PAUSE", 60.0)
    slowly = {"STACKD_TEMPLATES__REFILL_PER_SECOND": "10"}
    settings = folder_with(tmp_path, web_1=template(image="app/fail"), plain=plain()) | slowly
    async with (
        EmbeddedCluster(fast_cluster(start_delay=0.4, run_time=0.05)) as cluster,
        harness(tmp_path, settings, cluster=cluster) as at,
    ):
        found = await until(lambda: entry(at), lambda seen: seen["failing"] == SIZE and not waiting(at))
        assert (found["ready"], "exit code" in found["reason"]) == (0, True)
        await filled(at, "plain")
        await at.create({"template": "plain"})
        await filled(at, "plain")
        assert at.cluster.counts.total("create", "pods") == SIZE + SIZE + 1


async def test_a_pool_gives_way_where_no_node_port_is_left(tmp_path: Path) -> None:
    ports = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31003"}
    settings = folder_with(tmp_path, web_1=template(), other=template("other", pool=0)) | ports
    async with harness(tmp_path, settings) as at:
        await filled(at)
        assert (await at.call("POST", "/stacks?dry_run=true", {"template": "other"})).status == 200
        made = await at.create({"template": "other"})
        assert made["ports"][0]["node_port"] in range(31001, 31004)
        assert len(waiting(at)) == SIZE - 1
        assert "paused: stacks were deleted" in (await entry(at))["reason"]
        assert len(await at.objects("pods")) == SIZE


async def test_a_pool_gives_way_where_no_node_has_room(tmp_path: Path) -> None:
    """As few stacks of the pool as needed are deleted, all on one node; none if that would not give enough room."""
    settings = folder_with(
        tmp_path,
        web_1=template(cpu="900m", pool=4),
        other=template("other", pool=0, cpu="1500m"),
        huge=template("huge", pool=0, cpu="9"),
    )
    nodes = (NodeSpec(name="one", cpu="2"), NodeSpec(name="two", cpu="2"))
    async with (
        EmbeddedCluster(fast_cluster(nodes=nodes)) as cluster,
        harness(tmp_path, settings, cluster=cluster) as at,
    ):
        await filled(at, size=4)
        refused = await at.call("POST", "/stacks", {"template": "huge"})
        assert (refused.status, len(waiting(at))) == (503, 4)
        made = await at.create({"template": "other"})
        assert [row.node_id == made["node_id"] for row in waiting(at)] == [False, False]


LINES = {"pods": "6", "requests.cpu": "3", "services.nodeports": "6"}


async def limit_namespace(at: Harness, hard: dict[str, str] = LINES) -> None:
    body = {"kind": "ResourceQuota", "metadata": {"name": "stacks"}, "spec": {"hard": hard}}
    await at.kubectl("POST", "/api/v1/namespaces/stacks/resourcequotas", body)


async def test_capacity_shows_what_waits_apart_and_counts_it_as_free(tmp_path: Path) -> None:
    """Two nodes with 2 CPUs each, six node ports, and a quota: with a full pool as many stacks fit as without one."""
    ports = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31006"}
    nodes = (NodeSpec(name="one", cpu="2"), NodeSpec(name="two", cpu="2"))
    body = {"template": "other"}

    async def counted(pool: int) -> dict[str, Any]:
        settings = folder_with(
            tmp_path, web_1=template(pool=pool, cpu="400m"), other=template("other", pool=0, cpu="900m")
        )
        cluster = EmbeddedCluster(fast_cluster(nodes=nodes))
        async with cluster, harness(tmp_path, settings | ports, cluster=cluster) as at:
            await limit_namespace(at)
            await filled(at, size=pool)
            found: dict[str, Any] = (await at.call("POST", "/capacity", body)).json
            for _ in range(found["fits"]):
                await at.create(body)
            assert (await at.call("POST", "/stacks", body)).status == 503
        lose_file(tmp_path)
        return found

    without, full = await counted(0), await counted(5)
    assert (without["unassigned"], full["unassigned"]) == (0, 5)
    assert (without["free_node_ports"], full["free_node_ports"]) == (6, 1), "as many as /stats says are not used"
    assert full | {"unassigned": 0, "free_node_ports": 6} == without | {"quota_seen_at": full["quota_seen_at"]}
    assert (full["fits"], full["nodes"], full["ports"], full["quota"]) == (3, {"one": 2, "two": 2}, 6, 3)


@pytest.mark.parametrize("hard", [{"pods": "3"}, {"requests.cpu": "400m"}, {"services.nodeports": "3"}])
@pytest.mark.parametrize("by", ["template", "pod_spec"])
async def test_a_pool_gives_way_where_the_quota_leaves_no_room_and_as_little_as_need_be(
    tmp_path: Path, hard: dict[str, str], by: str
) -> None:
    settings = folder_with(tmp_path, web_1=template(), other=template("other", pool=0, cpu="200m", values=False))
    async with harness(tmp_path, settings) as at:
        spec = {"target_port": [{"container_port": 80, "protocol": "TCP"}], "pod_spec": await spec_of(at, "other")}
        await limit_namespace(at, hard)
        before = {row.stack_id for row in await filled(at)}
        wanted: dict[str, Any] = {"template": "other"} if by == "template" else spec
        made = await at.create(wanted)
        assert made["stack_id"] in await at.objects("pods")
        left = {row.stack_id for row in waiting(at)}
        assert (left < before, len(left)) == (True, SIZE - 1)
        assert "paused: stacks were deleted" in (await entry(at))["reason"]


async def test_a_changed_template_replaces_its_pool_and_gives_nothing_old(at: Harness, tmp_path: Path) -> None:
    old = {row.stack_id for row in waiting(at)}
    (tmp_path / "templates" / "web-1.yaml").write_text(template(image="nginx:mainline"))
    at.reload_templates()
    made = await at.create({"template": "web-1"})
    assert made["stack_id"] not in old
    await eventually(lambda: not old & {row.stack_id for row in waiting(at)})
    await filled(at)


async def test_a_pool_that_is_configured_away_is_drained(at: Harness, tmp_path: Path) -> None:
    (tmp_path / "templates" / "web-1.yaml").unlink()
    (tmp_path / "templates" / "plain.yaml").write_text(plain(pool=1))
    at.reload_templates()
    await eventually(lambda: not waiting(at))
    assert len(await filled(at, "plain", 1)) == 1

    for kind in ("pods", "services"):
        await until(partial(at.objects, kind), lambda seen: len(seen) == 1)


async def test_after_the_file_is_lost_what_was_given_stays_so_and_the_rest_is_the_pool(tmp_path: Path) -> None:
    """Before, each takeover left a pool that was given to nobody, beside a new one."""
    settings = folder_with(tmp_path, web_1=template(ttl="4s")) | {"STACKD_CLUSTER__LEASE_DURATION": "2s"}
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, settings, cluster=cluster) as at:
            await filled(at)
            mine = await at.create({"template": "web-1", "labels": {"team": "7"}, "ttl": "1h"})
            old = {row.stack_id for row in await filled(at)}
        lose_file(tmp_path)
        async with harness(tmp_path, settings, cluster=cluster) as at:
            found = await at.stack(mine["stack_id"])
            assert (found["labels"], found["created_at"]) == ({"challenge": "web-1", "team": "7"}, mine["created_at"])
            assert {row.stack_id for row in await filled(at)} == old
            assert (await at.objects("pods")).keys() == old | {mine["stack_id"]}
            assert (await at.create({"template": "web-1"}))["stack_id"] in old


@pytest.mark.parametrize("lost", [True, False])
async def test_the_pool_of_an_earlier_version_is_shut_or_its_clients(tmp_path: Path, lost: bool) -> None:
    settings = folder_with(tmp_path, web_1=template()) | {"STACKD_CLUSTER__LEASE_DURATION": "2s"}
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, settings, cluster=cluster) as at:
            old = {row.stack_id for row in await filled(at)}
        as_version_before(cluster)
        if lost:
            lose_file(tmp_path)
        async with harness(tmp_path, settings, cluster=cluster) as at:
            await until(
                lambda: at.objects("services"),
                lambda seen: sum("stackd.io/assigned" in one["spec"]["selector"] for one in seen.values()) == SIZE,
            )
            assert {row.stack_id for row in await filled(at)} & old == (set() if lost else old)
            assert set(await at.listed()) == (old if lost else set())


async def test_a_create_for_which_its_own_pool_has_taken_the_last_port_gets_what_the_pool_makes(tmp_path: Path) -> None:
    ports = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31001"}
    settings = folder_with(tmp_path, web_1=template(pool=1)) | ports
    slow = EmbeddedCluster(fast_cluster(start_delay=0.5))
    async with slow as cluster, harness(tmp_path, settings, cluster=cluster) as at:
        await eventually(lambda: at.on_their_way("web-1") != (0, 0))
        reply = await at.call("POST", "/stacks", {"template": "web-1"})
        assert (reply.status, reply.json["status"]) == (201, "creating"), reply.text
        assert not waiting(at)


async def test_a_delete_by_hand_of_what_waits_is_made_good(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "PROVEN_SECONDS", 0.1)
    row = waiting(at)[0]
    await at.delete_object("pods", row.stack_id)
    await eventually(lambda: row.stack_id not in {one.stack_id for one in waiting(at)})
    await filled(at)


async def test_clients_come_before_the_refill_and_get_what_the_pool_has_when_it_is_their_turn(tmp_path: Path) -> None:
    """All creates that may be under way wait for a node that has room for them."""
    settings = folder_with(tmp_path, web_1=template(pool=1), large=template("large", pool=0, cpu="3"))
    nodes = (NodeSpec(name="small", cpu="2"),)
    async with (
        EmbeddedCluster(fast_cluster(nodes=nodes)) as cluster,
        harness(tmp_path, settings | {"STACKD_STACKS__UNSCHEDULABLE_GRACE": "20s"}, cluster=cluster) as at,
    ):
        (row,) = await filled(at, size=1)
        async with at.at_work_on(row.stack_id):
            larges = [asyncio.create_task(at.create({"template": "large"})) for _ in range(CREATES_AT_ONCE)]
            await eventually(lambda: len(at.rows("SELECT 1 FROM stacks WHERE unassigned = 0")) == CREATES_AT_ONCE)
            waits = asyncio.create_task(at.create({"template": "web-1"}))
            await at.until_metric("stackd_creates_in_flight", CREATES_AT_ONCE + 1)
            (tmp_path / "templates" / "web-1.yaml").write_text(template(pool=5))
            at.reload_templates()
        await asyncio.sleep(2 * CROWDED_SECONDS)  # nothing may happen in this time
        found = await entry(at)
        assert (waiting(at), found["ready"], found["starting"]) == ([row], 1, 0)
        cluster.faults.add_node(name="large", cpu="200")
        assert (await waits)["stack_id"] == row.stack_id
        await asyncio.gather(*larges)
        await filled(at, size=5)
        assert (await entry(at))["misses"] == 1


async def test_none_is_given_to_a_client_that_has_left_while_it_waited_for_its_turn(tmp_path: Path) -> None:
    """Before, no client knew of this stack, and it remained until it expired."""
    async with harness(tmp_path, folder_with(tmp_path, web_1=template(pool=1))) as at:
        (row,) = await filled(at, size=1)
        async with at.no_create_slots():
            async with at.at_work_on(row.stack_id):
                leaving = asyncio.create_task(at.call("POST", "/stacks", {"template": "web-1"}))
                await eventually(lambda: at.creates_under_way == 1)
            await eventually(lambda: at.creates_under_way == 1)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            await eventually(lambda: at.abandoned_creates == 1)
        await eventually(lambda: at.creates_under_way == 0)
        await eventually(lambda: not at.rows("SELECT 1 FROM stacks WHERE unassigned = 0"))


async def test_what_was_given_and_could_not_be_promised_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Lease ends between the two: another stackd may own the stack, or no client knows of it."""
    settings = folder_with(tmp_path, web_1=template(pool=1)) | {"STACKD_CLUSTER__LEASE_DURATION": "2s"}
    async with harness(tmp_path, settings) as at:
        await filled(at, size=1)

        def lapse(point: str) -> None:
            if point == "assign.assigned":
                at.lose_lease("late")
                monkeypatch.undo()

        monkeypatch.setattr("stackd.lifecycle.assign.crash_point", lapse)
        assert (await at.call("POST", "/stacks", {"template": "web-1"})).status == 503
        await eventually(lambda: not at.rows("SELECT 1 FROM stacks WHERE unassigned = 0"))


# ---- creates at a steady rate, counted and not timed


LARGER = 6
BODY = {"template": "web-1"}


@pytest.fixture
async def larger(tmp_path: Path) -> AsyncIterator[Harness]:
    async with harness(tmp_path, folder_with(tmp_path, web_1=template(pool=LARGER))) as ready:
        await filled(ready, size=LARGER)
        yield ready


async def emptied(larger: Harness) -> set[str]:
    """Take all stacks of the pool while no pod starts; return the ids of those that are on their way into it."""
    given = await asyncio.gather(*(larger.create(BODY) for _ in range(LARGER)))
    assert {one["status"] for one in given} == {"running"}
    await eventually(lambda: larger.on_their_way("web-1") == (0, LARGER))
    return {row.stack_id for row in waiting(larger)}


async def test_creates_that_find_none_running_get_the_oldest_that_starts_and_then_one_of_their_own(
    larger: Harness,
) -> None:
    with larger.no_pod_starting():
        coming = await emptied(larger)
        larger.reload("templates", refill_per_second=1)  # no others come meanwhile
        first = waiting(larger)[0].stack_id
        assert (await larger.create(BODY))["stack_id"] == first
        made = await asyncio.gather(*(larger.create(BODY) for _ in range(LARGER)))
        assert {one["status"] for one in made} == {"creating"}
        assert coming <= {first} | {one["stack_id"] for one in made}
    for one in made:
        await larger.until_status(one["stack_id"], "running")


async def test_what_a_limit_keeps_from_one_stays_for_the_next(larger: Harness) -> None:
    larger.reload("limits", stacks_per_label={"team": 1})
    with larger.no_pod_starting():
        await emptied(larger)
        body = BODY | {"labels": {"team": "7"}}
        replies = await asyncio.gather(*(larger.call("POST", "/stacks", body) for _ in range(2)))
        assert sorted(reply.status for reply in replies) == [201, 409]
    await filled(larger, size=LARGER)


@pytest.mark.parametrize("size", [8, 24])
async def test_a_load_below_what_the_cluster_makes_is_served_from_the_pool_from_the_time_that_it_is_empty(
    tmp_path: Path, size: int
) -> None:
    """All of the pool is taken at once; then four stacks are requested for each five that the cluster has made."""
    slow = EmbeddedCluster(fast_cluster(start_delay=0.02))
    settings = folder_with(tmp_path, web_1=template(pool=size))
    async with slow as cluster, harness(tmp_path, settings, cluster=cluster) as larger:
        await filled(larger, size=size)
        cluster.faults.add_fault(action="turns", verb="create|delete", resource="pods|services", seconds=0.005)
        before, creates = cluster.counts.total("create", "pods"), []
        for number in range(4 * size):

            def due(number: int = number) -> bool:
                return size + 0.8 * (cluster.counts.total("create", "pods") - before) > number

            await eventually(due)
            creates.append(asyncio.create_task(larger.create(BODY)))
        made = await asyncio.gather(*creates)
        assert len({one["stack_id"] for one in made}) == 4 * size
        assert (await entry(larger))["hits"] >= 0.6 * 4 * size
        await filled(larger, size=size)


async def test_a_dry_run_takes_none(at: Harness) -> None:
    before = waiting(at)
    assert (await at.call("POST", "/stacks?dry_run=true", {"template": "web-1"})).status == 200
    assert waiting(at) == before


async def test_none_is_given_by_a_stackd_that_does_not_own_the_stacks_any_more(at: Harness) -> None:
    before = waiting(at)
    at.lose_lease("another stackd owns the stacks")
    refused = await at.call("POST", "/stacks", {"template": "web-1"})
    assert (refused.status, refused.error, waiting(at)) == (503, "another stackd owns the stacks", before)


async def test_a_pool_outlives_a_restart(tmp_path: Path) -> None:
    settings = folder_with(tmp_path, web_1=template())
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, settings, cluster=cluster) as at:
            before = {row.stack_id for row in await filled(at)}
        async with harness(tmp_path, settings, cluster=cluster) as at:
            assert {row.stack_id for row in await filled(at)} == before
            assert (await at.create({"template": "web-1"}))["stack_id"] in before
