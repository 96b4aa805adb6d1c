"""Pools: a create gets a running stack at once; each is given only once, only while alive (invariant 11)."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from typing import Any

import pytest

from stackd.codes import LATER, for_players
from stackd.embedded import EmbeddedCluster, NodeSpec
from stackd.embedded.resources import SERVICES
from stackd.lifecycle import pools
from tests.harness import Harness, Machine, eventually, fast_cluster, seed, until
from tests.ports import OWN_LOOPBACK, free_port
from tests.templates import PLAIN, folder_with

SIZE = 3
TEMPLATE = """\
target_port: [{{container_port: 80, protocol: TCP}}]
ttl: {ttl}
labels: {{challenge: {name}}}
pool: {pool}
{values}pod:
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
VALUES = 'values: {FLAG: "flag{<hex:32>}"}\n'
BODY = {"template": "web-1"}


def template(name: str = "web-1", *, values: bool = True, **changes: object) -> str:
    usual = {"pool": SIZE, "image": "nginx:stable", "cpu": "100m", "ttl": "1h"}
    return TEMPLATE.format(name=name, values=VALUES if values else "", **(usual | changes))


def plain(pool: int = SIZE) -> str:
    """A template without values and with a different pod."""
    return template("plain", values=False, image="nginx:alpine", pool=pool)


async def start(vm: Machine, settings: dict[str, Any] | None = None, **templates: str) -> Harness:
    """A stackd with these templates, whose pools fill at once; ``settings`` are options of ``harness``."""
    vm.options = {"templates__refill_per_second": "200", "settings": folder_with(vm.folder, **templates)}
    return await vm.start(**(settings or {}))


async def at_ports(vm: Machine, first: int, last: int, **templates: str) -> Harness:
    return await start(vm, {"stacks__node_port_min": f"{first}", "stacks__node_port_max": f"{last}"}, **templates)


@pytest.fixture
async def at(vm: Machine) -> Harness:
    ready = await start(vm, web_1=template(), plain=plain())
    await filled(ready)
    await filled(ready, "plain")
    return ready


def ids(at: Harness, name: str = "web-1") -> set[str]:
    """The stacks that wait in the template's pool."""
    return {each for (each,) in at.rows(f"SELECT stack_id FROM stacks WHERE unassigned = 1 AND template = '{name}'")}


async def filled(at: Harness, name: str = "web-1", size: int = SIZE) -> set[str]:
    await until(lambda: entry(at, name), lambda seen: seen["ready"] == size == len(ids(at, name)))
    queue = at.daemon.context.loop.queue
    await eventually(lambda: not any(one in queue for one in ids(at, name)))  # what is being worked on is not assigned
    return ids(at, name)


async def entry(at: Harness, name: str = "web-1") -> dict[str, Any]:
    shown: dict[str, Any] = {one["name"]: one for one in (await at.get("/templates"))["templates"]}[name]
    return shown


async def test_a_create_is_answered_with_a_running_stack_that_the_cluster_knows_to_be_its_creators(at: Harness) -> None:
    before, labels = ids(at), {"challenge": "web-1", "team": "7"}
    made = await at.create(BODY, labels={"team": "7"}, ttl="2h")
    assert (made["stack_id"] in before, made["status"], made["node_public_ip"] is not None) == (True, "running", True)
    metadata = at.cluster.store.of(SERVICES).get("stacks", made["service_name"]).obj["metadata"]
    record = json.loads(metadata["annotations"]["stackd.io/record"])
    assert "stackd.io/pool" not in metadata["labels"]
    assert metadata["labels"]["label.stackd.io/team"] == "7"
    assert metadata["annotations"]["stackd.io/expires-at"] == made["ttl_expires_at"]
    assert (record["labels"], "unassigned" in record) == (labels, False)
    pod = (await at.objects("pods"))[made["stack_id"]]
    assert [made["values"]["FLAG"]] == [one["value"] for one in pod["spec"]["containers"][0]["env"]]
    assert (await at.stack(made["stack_id"]))["labels"] == labels
    assert await at.listed() == [made["stack_id"]]
    accepted = [line["reason"] for line in await at.timeline(made["stack_id"]) if line["kind"] == "accepted"]
    assert accepted == ["FromPool"]
    await filled(at)  # the pool is filled again
    shown = await entry(at)
    assert (shown["ready"], shown["hits"], shown["misses"], shown["reason"]) == (SIZE, 1, 0, "")


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(OWN_LOOPBACK, port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def test_a_port_answers_nobody_until_somebody_has_the_stack_whatever_is_edited_by_hand(vm: Machine) -> None:
    port = free_port()
    options = fast_cluster(serve_node_ports=True, node_port_range=(port, port))
    async with EmbeddedCluster(options) as vm.cluster:
        at = await at_ports(vm, port, port, web_1=template(pool=1))
        (stack_id,) = await filled(at, size=1)
        at.reload("reconcile", interval=3600.0)

        async def is_repaired(assigned: bool) -> bool:
            """Whether selector and label are as stackd made them."""
            labels = (await at.objects("pods"))[stack_id]["metadata"]["labels"]
            service = (await at.objects("services"))[f"svc-{stack_id}"]
            wanted = {"stackd.io/stack": stack_id} | ({} if assigned else {"stackd.io/assigned": "true"})
            labelled = "stackd.io/assigned" not in labels and labels["stackd.io/stack"] == stack_id
            return service["spec"]["selector"] == wanted and labelled and await answers(port) is assigned

        async def edit(kind: str, change: object, *, assigned: bool) -> None:
            await at.patch(kind, stack_id if kind == "pods" else f"svc-{stack_id}", change)
            await eventually(lambda: is_repaired(assigned))

        assert not await answers(port)
        await edit("services", {"spec": {"selector": {"stackd.io/assigned": None}}}, assigned=False)
        await edit("pods", {"metadata": {"labels": {"stackd.io/assigned": "true"}}}, assigned=False)
        made = await at.create(BODY)
        assert (made["stack_id"], made["ports"][0]["node_port"]) == (stack_id, port)
        await eventually(lambda: answers(port))
        await edit("services", {"spec": {"selector": {"stackd.io/assigned": "no"}}}, assigned=True)
        await edit("pods", {"metadata": {"labels": {"stackd.io/stack": "stack-other"}}}, assigned=True)
        await at.do("restart", stack_id)
        await at.until_status(stack_id, "running")
        await eventually(lambda: answers(port))
        await vm.stop()


async def test_a_burst_of_creates_from_a_pool_waits_its_turn_on_a_slow_cluster(
    vm: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow is not broken: the stack is the client's, and a running one is not deleted for the cluster's slowness."""
    monkeypatch.setattr("stackd.lifecycle.loop.SLOTS", 2)
    at = await start(vm, web_1=template(pool=8))
    before = await filled(at, size=8)
    at.give_kubernetes(timeout=2.5, attempt_timeout=2.5)
    at.faults.add_fault(action="latency", verb="patch", resource="services", seconds=0.7)
    replies = await asyncio.gather(*(at.call("POST", "/stacks", BODY) for _ in before))
    assert [reply.status for reply in replies] == [201] * len(before)
    assert {reply.json["stack_id"] for reply in replies} == before


@pytest.mark.parametrize("key", [None, "press-1"])
async def test_one_that_cannot_be_opened_is_undone(at: Harness, key: str | None) -> None:
    before, headers = ids(at), {"Idempotency-Key": key} if key else {}
    at.faults.add_fault(action="hang", verb="patch", resource="services")
    with at.hurried(timeout=0.6, attempt_timeout=0.3):
        await at.refused(503, "", "/stacks", BODY, headers=headers)
    at.faults.clear()
    made = await at.post("/stacks", BODY, 201, headers=headers)
    assert made["stack_id"] in before
    await filled(at)
    await at.until_listed(1)
    (undone,) = before - ids(at) - {made["stack_id"]}
    await until(lambda: at.objects("pods"), lambda seen: undone not in seen)


async def test_a_repeated_create_is_answered_once_its_stack_is_reachable(at: Harness) -> None:
    """The process may have ended between the answer in the file and the patch of the Service."""
    headers = {"Idempotency-Key": "press-1"}
    stack_id = (await at.post("/stacks", BODY, 201, headers=headers))["stack_id"]
    seen, name, queue = at.daemon.context.mirror.services, f"svc-{stack_id}", at.daemon.context.loop.queue
    await eventually(lambda: not (seen[name].pool or queue.at_work(stack_id)))
    with at.worked_on(stack_id), at.hurried(timeout=0.5):
        await at.patch("services", name, {"metadata": {"labels": {"stackd.io/pool": "web-1"}}})
        await eventually(lambda: seen[name].pool)
        await at.refused(503, "Kubernetes has not done it yet", "/stacks", BODY, headers=headers)
    assert (await at.post("/stacks", BODY, 201, headers=headers))["stack_id"] == stack_id
    assert "stackd.io/pool" not in (await at.objects("services"))[name]["metadata"]["labels"]


async def test_what_waits_is_no_stack_to_anybody_and_stays_unless_it_may_be_promised(
    at: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackd.lifecycle.gate.FIRST_CONTACT_SECONDS", 0.3)
    before, stats = ids(at), await at.get("/stats")
    waits = min(before)
    assert (await at.listed(), stats["total_stacks"], stats["active_stacks"]) == ([], 0, 0)
    assert (stats["used_node_ports"], stats["reserved_cpu_milli"]) == (2 * SIZE, 2 * SIZE * 100)
    path = f"/stacks/{waits}"
    for one in ("", "/status", "/status?wait=running", "/timeline", "/logs"):
        await at.refused(404, "", path + one, method="GET")
    for verb in ("stop", "start", "restart", "extend"):
        await at.refused(404, "", f"{path}/{verb}", {"ttl": "1h"} if verb == "extend" else None)
    await at.refused(404, "", path, method="DELETE")
    assert (await at.finished_job(await at.batch_delete(waits)))["not_found"] == 1
    await at.post("/stacks?dry_run=true", BODY)
    with at.without_lease("another stackd owns the stacks"):
        await at.refused(503, "does not know whether it still owns the stacks", "/stacks", BODY)
    assert ids(at) == before


# ---- a pool makes way for creates


@pytest.mark.parametrize(
    ("hard", "by"),
    [({}, "template"), ({"requests.cpu": "400m"}, "template"), ({"services.nodeports": "3"}, "pod_spec")],
)
async def test_a_pool_gives_way_to_quotas_and_node_ports(vm: Machine, hard: dict[str, str], by: str) -> None:
    other = template("other", pool=0, cpu="200m", values=False)
    at = await at_ports(vm, 31001, 31099 if hard else 31003, web_1=template(), other=other)
    body: dict[str, Any] = {"template": "other"}
    if by == "pod_spec":
        ports = [{"container_port": 80, "protocol": "TCP"}]
        body = {"target_port": ports, "pod_spec": (await at.post("/stacks?dry_run=true", body))["pod_spec"]}
    if hard:
        await at.apply("resourcequotas", "stacks", spec={"hard": hard})
    before = await filled(at)
    if not hard:
        await at.post("/stacks?dry_run=true", {"template": "other"})
        assert ids(at) == before
    made = await at.create(body)
    assert (ids(at) < before, len(ids(at))) == (True, SIZE - 1)
    assert set(await at.objects("pods")) == ids(at) | {made["stack_id"]}
    assert "paused: stacks were deleted" in (await entry(at))["reason"]


TWO_NODES = (NodeSpec(name="one", cpu="2"), NodeSpec(name="two", cpu="2"))


@pytest.mark.kubernetes(nodes=TWO_NODES)
async def test_a_pool_gives_way_where_no_node_has_room(vm: Machine) -> None:
    """As few stacks of the pool as needed are deleted, all on one node; none if that would not give enough room."""
    large, huge = template("large", pool=0, cpu="1500m"), template("huge", pool=0, cpu="9")
    at = await start(vm, web_1=template(cpu="900m", pool=4), large=large, huge=huge)
    await filled(at, size=4)
    await at.refused(503, "", "/stacks", {"template": "huge"})
    assert len(ids(at)) == 4
    made = await at.create({"template": "large"})
    nodes = [node for (node,) in at.rows("SELECT node_id FROM stacks WHERE unassigned = 1")]
    assert (len(nodes), made["node_id"] in nodes) == (2, False)


async def test_capacity_shows_what_waits_apart_and_counts_it_as_free(vm: Machine) -> None:
    """Two nodes with 2 CPUs each, six node ports, and a quota: with a full pool as many stacks fit as without one."""
    body, seen = {"template": "other"}, []
    for pool in (0, 5):
        async with EmbeddedCluster(fast_cluster(nodes=TWO_NODES)) as vm.cluster:
            other = template("other", pool=0, cpu="900m")
            at = await at_ports(vm, 31001, 31006, web_1=template(pool=pool, cpu="400m"), other=other)
            quota = {"hard": {"pods": "6", "requests.cpu": "3", "services.nodeports": "6"}}
            await at.apply("resourcequotas", "stacks", spec=quota)
            await filled(at, size=pool)
            seen.append(await at.post("/capacity", body))
            for _ in range(seen[-1]["fits"]):
                await at.create(body)
            await at.refused(503, "", "/stacks", body)
            await vm.lose_file()
    without, full = seen
    assert (without["unassigned"], full["unassigned"]) == (0, 5)
    assert (without["free_node_ports"], full["free_node_ports"]) == (6, 1), "as many as /stats says are not used"
    assert full | {"unassigned": 0, "free_node_ports": 6} == without | {"quota_seen_at": full["quota_seen_at"]}
    assert (full["fits"], full["nodes"], full["ports"], full["quota"]) == (3, {"one": 2, "two": 2}, 6, 3)


# ---- what becomes of a pool


async def test_a_pool_follows_its_template(at: Harness, vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    old = ids(at)
    folder_with(vm.folder, web_1=template(image="nginx:mainline"))
    await at.reload_templates()
    made = await at.create(BODY)
    assert made["stack_id"] not in old, "nothing old is given"
    await eventually(lambda: not old & ids(at))
    await filled(at)
    monkeypatch.setattr(pools, "PROVEN_SECONDS", 0.1)
    (first, *_) = ids(at)
    await at.delete_object("pods", first)
    await eventually(lambda: first not in ids(at))
    await filled(at)
    (vm.folder / "templates" / "web-1.yaml").unlink()
    folder_with(vm.folder, plain=plain(pool=1))
    await at.reload_templates()
    await eventually(lambda: not ids(at))
    wanted = await filled(at, "plain", 1) | {made["stack_id"]}
    await until(lambda: at.objects("pods"), lambda seen: seen.keys() == wanted)
    await until(lambda: at.objects("services"), lambda seen: len(seen) == 2)


async def test_a_pool_outlives_restarts_and_a_lost_file(vm: Machine) -> None:
    at = await start(vm, web_1=template(ttl="4s"))
    await filled(at)
    mine = await at.create(BODY, labels={"team": "7"}, ttl="1h")
    old = await filled(at)
    generated = at.rows("SELECT stack_id, digest, generated FROM stacks ORDER BY stack_id")
    for lost in (False, True):
        if lost:
            await vm.lose_file()
        at = await vm.start()
        assert at.rows("SELECT stack_id, digest, generated FROM stacks ORDER BY stack_id") == generated
        stack = await at.stack(mine["stack_id"])
        assert (stack["labels"], stack["created_at"]) == ({"challenge": "web-1", "team": "7"}, mine["created_at"])
        assert await filled(at) == old
        assert (await at.objects("pods")).keys() == old | {mine["stack_id"]}
    assert (await at.create(BODY))["stack_id"] in old


async def test_what_is_in_a_pool_by_a_forged_record_is_given_to_nobody(vm: Machine) -> None:
    """It says the template's digest, and has another pod spec."""
    at = await start(vm, web_1=template())
    forged, *_ = sorted(await filled(at))
    notes = (await at.objects("services"))[f"svc-{forged}"]["metadata"]["annotations"]
    record = json.loads(notes["stackd.io/record"])
    record["pod_spec"] += "# other\n"
    await at.patch("services", f"svc-{forged}", {"metadata": {"annotations": {"stackd.io/record": json.dumps(record)}}})
    await vm.lose_file()
    at = await vm.start()
    assert forged not in await filled(at)
    assert (await at.create(BODY))["stack_id"] != forged
    await eventually(lambda: not at.rows(f"SELECT 1 FROM stacks WHERE stack_id = '{forged}'"))
    assert forged not in await at.listed()


async def test_foreign_node_ports_on_a_slow_cluster_are_not_a_lack_of_room(at: Harness) -> None:
    """Nothing is deleted for them, and no player reads that there is no room."""
    before = {name: await entry(at, name) for name in ("web-1", "plain")}
    held = {port for (port,) in at.rows("SELECT node_port FROM node_ports")}
    for port in set(range(31001, 32768)) - held:
        at.faults.take_port(port)
    at.give_kubernetes(timeout=0.3)
    at.faults.add_fault(action="latency", verb="create", resource="services", seconds=0.2)
    reply = await at.refused(503, "no free node port was found in time", "/stacks", seed())
    assert reply.for_players == for_players(LATER)
    assert {name: await entry(at, name) for name in before} == before


async def test_a_scheduler_that_has_not_decided_has_not_said_that_there_is_no_room(vm: Machine) -> None:
    at = await start(vm, {"stacks__scheduling_timeout": "100ms"}, web_1=template())
    before = await filled(at)
    at.faults.add_fault(action="admit", verb="create", resource="pods", body='{"spec": {"schedulerName": "away"}}')
    reply = await at.refused(503, "no node has taken the stack within 100ms", "/stacks", seed())
    assert reply.for_players == for_players(LATER)
    assert await filled(at) == before


# ---- creates that wait for their turn, or leave


async def test_none_is_given_to_a_client_that_has_left_while_it_waited_for_its_turn(vm: Machine) -> None:
    """No client would know of this stack, and it would remain until it expires."""
    at = await start(vm, web_1=template(pool=1))
    (stack_id,) = await filled(at, size=1)
    creates = at.daemon.context.creates
    async with at.no_create_slots():
        with at.worked_on(stack_id):
            leaving = asyncio.create_task(at.call("POST", "/stacks", BODY))
            await eventually(lambda: len(creates) == 1)
        leaving.cancel()
        await eventually(lambda: all(one.abandoned for one in creates.values()))
    await eventually(lambda: not creates and not at.rows("SELECT 1 FROM stacks WHERE unassigned = 0"))


async def test_what_was_given_and_could_not_be_promised_ends(vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Lease ends between the two: another stackd may own the stack, or no client knows of it."""
    at = await start(vm, {"cluster__lease_duration": "6s"}, web_1=template(pool=1))
    await filled(at, size=1)
    with ExitStack() as lapsed:

        def lapse(point: str) -> None:
            if point == "assign.assigned":
                lapsed.enter_context(at.without_lease("late"))
                monkeypatch.undo()

        monkeypatch.setattr("stackd.lifecycle.assign.crash_point", lapse)
        await at.refused(503, "", "/stacks", BODY)
    await eventually(lambda: not at.rows("SELECT 1 FROM stacks WHERE unassigned = 0"))


async def test_a_pool_gives_none_of_a_cordoned_node_and_moves_away_from_it(vm: Machine) -> None:
    at = await start(vm, web_1=PLAIN + "pool: 4\n")
    await until(lambda: at.get("/templates"), lambda seen: seen["templates"][0]["ready"] == 4)
    pods = await at.objects("pods")
    cordoned = next(iter(pods.values()))["spec"]["nodeName"]
    at.faults.cordon(cordoned)
    await eventually(lambda: at.daemon.context.mirror.nodes[cordoned].unschedulable)
    made = [await at.create({"template": "web-1"}) for _ in range(4)]
    assert cordoned not in {one["node_id"] for one in made}
    ids = {one["stack_id"] for one in made}

    async def pooled() -> list[str]:
        return [one["spec"].get("nodeName", "") for name, one in (await at.objects("pods")).items() if name not in ids]

    await until(pooled, lambda seen: len(seen) == 4 and all(seen) and cordoned not in seen)
