"""Several pods in one stack: they begin and end together, reach each other by name, and survive what one pod survives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stackd.embedded.resources import NETWORK_POLICIES, NODES, PODS, SERVICES
from stackd.lifecycle import decide
from tests.api.scenes import pod_of, three
from tests.harness import Harness, Machine, eventually, harness, until
from tests.players import player, settings
from tests.templates import BODY, PLAIN, WEB, folder_with, start, until_pooled, values_of


async def in_cluster(at: Harness) -> dict[str, dict[str, Any]]:
    """The objects of stacks by resource and name: pods, Services, NetworkPolicies."""
    return {
        kind.plural: {
            record.key[1]: record.obj
            for record in at.cluster.store.of(kind).in_namespace("stacks")
            if "stackd.io/stack" in record.obj["metadata"].get("labels", {})
            and "stackd.io/spare" not in record.obj["metadata"]["labels"]
        }
        for kind in (PODS, SERVICES, NETWORK_POLICIES)
    }


async def names(at: Harness) -> set[str]:
    return {name for objects in (await in_cluster(at)).values() for name in objects}


async def pod_uids(at: Harness) -> dict[str, str]:
    return {name: pod["metadata"]["uid"] for name, pod in (await at.objects("pods")).items()}


def all_of(stack_id: str) -> set[str]:
    return {stack_id, f"{stack_id}-db", f"{stack_id}-mail", f"svc-{stack_id}", f"{stack_id}-ingress"}


async def test_members_are_pods_of_their_own_that_know_each_other(at: Harness) -> None:
    stack = await at.until_status((await at.create(three()))["stack_id"], "running")
    stack_id = stack["stack_id"]
    assert {one["name"]: one["pod_id"] for one in stack["members"]} == {
        name: f"{stack_id}-{name}" for name in ("db", "mail")
    }
    assert (stack["requested_cpu_milli"], stack["pod_spec"].count("kind: Pod")) == (300, 3)
    seen = await in_cluster(at)
    assert await names(at) == all_of(stack_id)
    database = seen["services"][f"{stack_id}-db"]["spec"]
    assert (database["type"], [port["port"] for port in database["ports"]]) == ("ClusterIP", [5432])
    aliases = [{"ip": database["clusterIP"], "hostnames": ["db"]}]
    assert all(pod["spec"]["hostAliases"] == aliases for pod in seen["pods"].values())

    def selected(service: str) -> list[str]:
        wanted = seen["services"][service]["spec"]["selector"].items()
        return [name for name, pod in seen["pods"].items() if wanted <= pod["metadata"]["labels"].items()]

    assert [selected(name) for name in (f"svc-{stack_id}", f"{stack_id}-db")] == [[stack_id], [f"{stack_id}-db"]]


async def test_a_player_reads_which_member_does_not_work(tmp_path: Path) -> None:
    async with harness(tmp_path, settings(tmp_path)) as at, player(at) as seat:

        async def members_of(name: str) -> list[dict[str, str]]:
            shown = (await seat.call("GET", "/play/stacks")).json["stacks"]
            return list(next(one for one in shown if one["name"] == name)["members"])

        own = {"labels": {"player": "seat-12"}}
        broken = (await at.create(three(mail=pod_of("registry.example/badname:1")) | own))["stack_id"]
        wrong = [{"name": "db", "status": "running"}, {"name": "mail", "status": "failed"}]
        await until(lambda: members_of(broken), lambda members: members == wrong)
        assert await members_of(await at.running(three() | own)) == []
        assert "the part mail" in (await at.stack(broken))["problem"]["player_message"]


async def test_the_status_is_that_of_all_pods_and_names_the_member(at: Harness) -> None:
    stack_id = (await at.create(three(db=pod_of("test/fail"))))["stack_id"]
    failed = await at.until_status(stack_id, "failed")
    assert (failed["ended"], "db/app" in failed["status_message"]) == (True, True)
    await eventually(lambda: set(at.cluster.store.of(PODS).records) == {("stacks", f"{stack_id}-db")})


async def test_a_member_that_is_deleted_by_hand_ends_the_stack(at: Harness) -> None:
    stack_id = await at.running(three())
    await at.delete_object("pods", f"{stack_id}-db")
    ended = await at.until_status(stack_id, "stopped")
    assert (ended["ended"], ended["status_reason"]) == (True, "PodDeleted")
    assert ended["status_message"].startswith("member db: ")
    await eventually(lambda: not at.cluster.store.of(PODS).in_namespace("stacks"))
    await at.passes(1)
    assert (await at.stack(stack_id))["requested_cpu_milli"] == 300
    await at.do("restart", stack_id)
    await at.until_status(stack_id, "running")
    assert await names(at) == all_of(stack_id)


async def test_a_member_is_restarted_alone(at: Harness) -> None:
    stack_id = await at.running(three())
    before = await pod_uids(at)
    await at.post(f"/stacks/{stack_id}/restart?member=db")
    await at.until_status(stack_id, "running")
    after = await pod_uids(at)
    assert {name for name in before if before[name] != after[name]} == {f"{stack_id}-db"}
    assert (await at.call("POST", f"/stacks/{stack_id}/restart?member=cache")).code == "member_not_found"


@pytest.mark.parametrize("kind", ["services", "networkpolicies"])
async def test_what_connects_the_pods_is_repaired(at: Harness, kind: str) -> None:
    stack_id = await at.running(three())
    name = f"{stack_id}-db" if kind == "services" else f"{stack_id}-ingress"
    before = (await in_cluster(at))[kind][name]
    await at.delete_object(kind, name)
    after = await until(lambda: in_cluster(at), lambda seen: name in seen[kind])
    assert after[kind][name]["metadata"]["uid"] != before["metadata"]["uid"]
    assert after[kind][name]["spec"] == before["spec"]  # with the address that the pods know


async def test_members_survive_the_loss_of_the_file(vm: Machine) -> None:
    vm.options = {"reconcile__orphan_grace": "0s"}
    at = await vm.start()
    stack_id = await at.running(three())
    stopped = await at.running(three())
    await at.do("stop", stopped)
    assert not any(name.startswith(stopped) for name in await at.objects("pods"))
    await at.post(f"/stacks/{stack_id}/restart?member=db")
    before = await at.until_status(stack_id, "running")
    uids = await pod_uids(at)
    await vm.lose_file()
    at = await vm.start()
    await at.until_listed(2)
    after = await at.until_status(stack_id, "running")
    assert (after["members"], after["pod_spec"]) == (before["members"], before["pod_spec"])
    assert await pod_uids(at) == uids
    await at.do("start", stopped)
    await at.until_status(stopped, "running")
    assert await names(at) == all_of(stack_id) | all_of(stopped)
    for each in (stack_id, stopped):
        await at.delete(each)
    assert await names(at) == set()


async def test_mistakes_in_members_are_named(at: Harness) -> None:
    bad = three(db=pod_of().replace("image: nginx:stable", "image: nginx:stable\n      privileged: true"))
    refused = await at.refused(400, "", "/stacks", bad)
    assert refused.reasons[0][0].startswith("members.db.spec.containers[0]")
    for name in ("DB", "localhost"):
        named = await at.call("POST", "/stacks", three(**{name: pod_of()}))
        assert [path for path, *_ in named.reasons] == [f"members.{name}"]
    alone = {"template": "web", "members": {"db": {"pod_spec": pod_of()}}}
    await at.refused(400, "exclude each other", "/stacks", alone)
    await at.post("/stacks?dry_run=true", three())
    assert await names(at) == set()


async def test_logs_are_those_of_the_member_that_is_asked_for(at: Harness) -> None:
    says = "image: nginx:stable\n      command: [sh, -c, 'echo I am the database; sleep 1000']"
    stack_id = await at.running(three(db=pod_of().replace("image: nginx:stable", says)))
    first, database = [(await at.call("GET", f"/stacks/{stack_id}/logs{query}")).text for query in ("", "?member=db")]
    assert (first, database) == ("starting\nready\n", "I am the database\n")
    await at.delete(stack_id)
    assert (await at.call("GET", f"/stacks/{stack_id}/logs?member=db")).text == database
    assert (await at.call("GET", f"/stacks/{stack_id}/logs")).text == first


MEMBERS = """\
members:
  db:
    pod:
      apiVersion: v1
      kind: Pod
      spec:
        containers:
        - name: db
          image: postgres:17
          ports: [{containerPort: 5432}]
          resources: {limits: {cpu: 100m, memory: 64Mi}}
"""


async def test_a_pool_has_stacks_with_members(vm: Machine, tmp_path: Path) -> None:
    at = await start(vm, web_1=WEB + MEMBERS + "pool: 1\n")
    await until_pooled(at)
    ((pooled,),) = at.rows("SELECT stack_id FROM stacks")
    stack = await at.create(BODY)
    assert (stack["stack_id"], stack["status"]) == (pooled, "running")
    assert [one["name"] for one in stack["members"]] == ["db"]
    for pod in (pooled, f"{pooled}-db"):
        assert (await values_of(at, pod))[-1]["FLAG"] == stack["values"]["FLAG"]

    async def pooled_pods() -> list[str]:
        pods = (await in_cluster(at))["pods"].items()
        return [name for name, pod in pods if pooled in name and "stackd.io/pool" in pod["metadata"]["labels"]]

    await until(pooled_pods, lambda seen: not seen)
    await at.delete(pooled)
    assert not [name for name in await names(at) if name.startswith(f"{pooled}-")]


async def test_a_shared_stack_has_members(vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROVEN", "LINGER", "ROOM"):
        monkeypatch.setattr(decide, f"{name}_NANOSECONDS", 0)
    at = await start(vm, web_1=PLAIN + MEMBERS + "shared: true\n")
    (stack_id,) = await at.until_listed(1)
    await at.until_status(stack_id, "running")
    await at.do("restart", stack_id)
    await at.until_status(stack_id, "running")
    await eventually(lambda: {pod.key[1] for pod in at.cluster.store.of(PODS).in_namespace("stacks")}
                     == {f"{stack_id}-1", f"{stack_id}-db"})  # fmt: skip


async def test_a_renewal_gives_all_pods_of_the_newest_version(vm: Machine, tmp_path: Path) -> None:
    at = await start(vm, web_1=WEB + MEMBERS)
    stack = await at.create(BODY)
    stack_id = stack["stack_id"]
    folder_with(tmp_path, web_1=WEB + MEMBERS.replace("postgres:17", "postgres:18"))
    await at.reload_templates()
    await at.post(f"/stacks/{stack_id}/restart", {"template": "latest"})
    assert (await at.objects("pods"))[f"{stack_id}-db"]["spec"]["containers"][0]["image"] == "postgres:18"
    folder_with(tmp_path, web_1=WEB + MEMBERS.replace("  db:\n", "  cache:\n"))
    await at.reload_templates()
    refused = await at.call("POST", f"/stacks/{stack_id}/restart", {"template": "latest"})
    assert refused.code == "template_ports_changed"


async def test_mistakes_in_the_members_of_a_template_are_named_with_their_lines(at: Harness) -> None:
    wrong = PLAIN + MEMBERS.replace("containerPort: 5432", "containerPort: 5432, hostPort: 1") + "names: [db]\n"
    refused = await at.call("PUT", "/templates/web-1", wrong.encode())
    assert [path for path, *_ in refused.reasons] == [
        "members.db", "members.db.pod.spec.containers[0].ports[0].hostPort"
    ]  # fmt: skip
    assert all(line for _, line, _ in refused.reasons)


async def test_the_node_of_a_member_is_lost(at: Harness) -> None:
    def on(node: str) -> str:
        return pod_of().replace("spec:\n", f"spec:\n  nodeSelector: {{kubernetes.io/hostname: {node}}}\n", 1)

    at.reload("policy", node_labels=("kubernetes.io/hostname",))
    here, there = sorted(at.cluster.store.of(NODES).records)[:2]
    body = three(db=on(there[1]))
    body["pod_spec"] = on(here[1]).replace("5432", "80")
    stack_id = await at.running(body)
    await at.kubectl("DELETE", f"/api/v1/nodes/{there[1]}")
    lost = await at.until_status(stack_id, "node_deleted")
    assert there[1] in lost["status_message"]
    assert lost["node_id"] == here[1]


async def test_a_change_of_labels_reaches_all_pods_and_starts_none_again(at: Harness) -> None:
    stack_id = await at.running(three() | {"labels": {"player": "7", "seat": "3"}})
    before = await pod_uids(at)
    reply = await at.call("PATCH", f"/stacks/{stack_id}", {"labels": {"player": "8", "seat": None}})
    assert (reply.status, reply.json["labels"]) == (200, {"player": "8"})

    async def labels() -> set[tuple[str | None, str | None]]:
        seen = [pod["metadata"]["labels"] for pod in (await at.objects("pods")).values()]
        return {(each.get("label.stackd.io/player"), each.get("label.stackd.io/seat")) for each in seen}

    await until(labels, lambda seen: seen == {("8", None)})
    assert await pod_uids(at) == before
    assert (await at.get("/reconcile"))["actions"] == []
