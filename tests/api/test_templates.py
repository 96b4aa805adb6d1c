"""Stacks from templates: what is created, who sees which values, and what survives a restart or a changed template."""

from __future__ import annotations

import json
import logging
import os
import signal
from functools import partial
from typing import Any

import pytest

from stackd.embedded import DEFAULT_NODES
from stackd.embedded.resources import PODS
from stackd.lifecycle import diagnostics, prepull
from stackd.templates import Template
from stackd.templates.hiding import HIDDEN
from stackd.workqueue import RetryPolicy
from tests.api.scenes import life
from tests.harness import DEADLINE, Harness, Machine, eventually, seed, until
from tests.templates import BODY, PLAIN, WEB, folder_with, shown, start, take_away, until_pooled, values_of


@pytest.fixture
async def at(vm: Machine) -> Harness:
    return await start(vm, web_1=WEB, plain=PLAIN, rooted=PLAIN + "policy: {run_as_root: false}\n")


async def test_a_create_by_template_has_its_pod_ttl_and_labels(at: Harness) -> None:
    web = await at.create(BODY)
    assert (web["template"], [port["container_port"] for port in web["ports"]], life(web)) == ("web-1", [80], 3600)
    assert (web["requested_cpu_milli"], web["requested_memory_bytes"]) == (100, 64 * 2**20)
    detail = await at.until_status(web["stack_id"], "running")
    assert (detail["labels"], detail["template"]) == ({"challenge": "web-1", "kind": "web"}, "web-1")
    plain = await at.create({"template": "plain", "ttl": "2h", "labels": {"kind": "other", "team": "7"}})
    labels = {"challenge": "web-1", "kind": "other", "team": "7"}
    assert ((await at.stack(plain["stack_id"]))["labels"], life(plain)) == (labels, 7200)
    assert [stack["stack_id"] for stack in (await at.get("/stacks?template=web-1"))["stacks"]] == [web["stack_id"]]
    templates = await shown(at)
    one = templates["web-1"]
    assert list(templates) == ["plain", "rooted", "web-1"]
    assert (one["ttl"], one["labels"]) == ("1h", {"challenge": "web-1", "kind": "web"})
    assert one["images"] == ["registry.example/prepare:1", "nginx:stable"]
    assert (one["generates"], one["stacks"]["running"]) == (["FLAG", "TEAM_SECRET"], 1)
    assert (one["pool"], one["ready"], templates["rooted"]["stacks"]["running"]) == (0, 0, 0)


SETTABLE = PLAIN + 'env: {TEAM: {pattern: "[0-9]{1,4}"}, COLOUR: {pattern: "red|blue"}}\n'


async def test_a_create_sets_the_variables_that_the_template_names(vm: Machine) -> None:
    at = await start(vm, web_1=SETTABLE + "values: {FLAG: <uuid>}\n")
    made = await at.create(BODY, env={"TEAM": "7"})
    assert (made["env"], list(made["values"]), "warnings" in made) == ({"TEAM": "7"}, ["FLAG"], False)
    stack_id = made["stack_id"]
    for change in ("restart", "stackd", "file"):
        if change == "restart":
            await at.do("restart", stack_id)
        elif change == "file":
            await vm.lose_file()
        at = at if change == "restart" else await vm.start()
        await at.until_status(stack_id, "running")
        assert (await at.stack(stack_id))["env"] == {"TEAM": "7"}, change
        env = (await values_of(at, stack_id))[0]
        assert env.items() >= {"TEAM": "7", "FLAG": made["values"]["FLAG"]}.items(), change
    assert "env" not in await at.create(BODY)
    assert (await at.post("/stacks?dry_run=true", BODY | {"env": {"TEAM": "7"}}))["dry_run"]


async def test_other_variables_and_values_are_refused(vm: Machine) -> None:
    at = await start(vm, web_1=SETTABLE, plain=PLAIN)
    wrong = [BODY | {"env": env} for env in ({"TEEM": "7"}, {"TEAM": "12345"}, {"TEAM": "7\n"}, {"TEAM": 7})]
    for body in (*wrong, {"template": "plain", "env": {"TEAM": "7"}}, seed() | {"env": {"TEAM": "7"}}):
        assert (await at.refused(400, "env", "/stacks", body)).code == "invalid_env"
    await at.refused(400, "env", "/stacks", BODY | {"env": ["TEAM"]})
    assert not await at.objects("pods")


async def test_no_pool_serves_a_create_that_sets_variables_and_the_answer_says_so(vm: Machine) -> None:
    at = await start(vm, web_1=SETTABLE + "pool: 1\n")
    await until_pooled(at)
    pooled = await at.objects("pods")
    headers = {"Idempotency-Key": "press-1"}
    first, again = [await at.post("/stacks", BODY | {"env": {"TEAM": "7"}}, 201, headers=headers) for _ in range(2)]
    assert first["stack_id"] not in pooled
    assert len(first["warnings"]) == 1
    assert (again["warnings"], again["stack_id"]) == (first["warnings"], first["stack_id"])
    assert "warnings" not in await at.stack(first["stack_id"])
    await until_pooled(at)
    plain = await at.create(BODY, env={})
    assert (plain["stack_id"] in pooled, "warnings" in plain) == (True, False)


async def test_what_is_wrong_with_a_create_by_template_is_said(at: Harness) -> None:
    for body, words in (
        ({"template": "web1"}, 'template: there is no "web1" (did you mean "web-1"?)'),
        ({"template": 7}, "template: "),
        ({"template": None}, "pod_spec: is required"),
        (BODY | seed(), "target_port"),
        (BODY | {"pod_spec": "x"}, "pod_spec"),
        (BODY | {"labels": {f"k{number}": "v" for number in range(16)}}, "labels: "),
    ):
        await at.refused(400, words, "/stacks", body)
    assert not await at.objects("pods")


async def test_only_a_template_chooses_its_own_egress(vm: Machine) -> None:
    at = await start(vm, shut=PLAIN + "network: {egress: none}\n", plain=PLAIN)
    shut, plain = [(await at.create({"template": name}))["stack_id"] for name in ("shut", "plain")]
    await at.do("restart", shut)
    labels = {name: pod["metadata"]["labels"] for name, pod in (await at.objects("pods")).items()}
    assert (labels[shut]["stackd.io/egress"], labels[plain].get("stackd.io/egress")) == ("none", None)
    named = seed()["pod_spec"].replace("name: challenge", "name: challenge\n  labels: {stackd.io/egress: internet}")
    await at.refused(400, "metadata.labels", "/stacks", seed() | {"pod_spec": named})


@pytest.mark.stackd(limits__stacks_per_label="{ player = 1 }", limits__required_labels='["challenge", "player"]')
async def test_required_labels_may_be_the_templates(at: Harness) -> None:
    reply = await at.refused(400, "player", "/stacks", BODY)
    assert "challenge" not in reply.error
    body = BODY | {"labels": {"player": "a"}, "if_exists": "return"}
    first, second = await at.post("/stacks", body, 201), await at.post("/stacks", body, 200)
    assert second["stack_id"] == first["stack_id"]
    assert ("values" in first, "values" in second) == (True, False)


async def test_a_reload_takes_all_templates_or_none(vm: Machine) -> None:
    async def ttls(at: Harness) -> dict[str, str]:
        return {name: one["ttl"] for name, one in (await shown(at)).items()}

    vm.options["edited"] = {}
    at = await start(vm, web_1=WEB, plain=PLAIN)
    made = await at.create(BODY)
    folder_with(vm.folder, web_1=WEB.replace("ttl: 1h", "ttl: 3h"), plain="pod: 1", other=PLAIN)
    os.kill(os.getpid(), signal.SIGHUP)
    await at.until_metric("stackd_config_reload_successful", 0)
    assert await ttls(at) == {"plain": "1h", "web-1": "1h"}
    take_away(vm.folder, "plain")
    os.kill(os.getpid(), signal.SIGHUP)
    await at.until_metric("stackd_config_reload_successful", 1)
    assert await ttls(at) == {"other": "1h", "web-1": "3h"}
    take_away(vm.folder, "web-1", "other")
    await at.reload_templates()
    await at.refused(400, "templates.directory", "/stacks", BODY)
    assert await ttls(at) == {}
    await at.do("restart", made["stack_id"])
    await at.until_status(made["stack_id"], "running")
    assert (await values_of(at, made["stack_id"]))[0]["FLAG"] == made["values"]["FLAG"]


# ---- generated values: shown to the creator, and to nobody else


async def all_texts(at: Harness, stack_id: str) -> list[str]:
    """All that anybody can read of the stack, and its row without the column of its generated values."""
    paths = [f"/stacks/{stack_id}{part}" for part in ("", "/status", "/timeline", "/logs")]
    paths += ["/stacks", "/stacks?fields=stack_id,template,labels,pod_spec,status_message"]
    paths += ["/templates", "/metrics", "/reconcile", "/stats"]
    columns = [name for (name,) in at.rows("SELECT name FROM pragma_table_info('stacks')") if name != "generated"]
    rows = str(at.rows(f"SELECT {', '.join(columns)} FROM stacks"))
    assert stack_id in rows
    return [(await at.call("GET", path)).text for path in paths] + [rows]


async def test_values_are_told_to_the_creator_only(at: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """Also not by what a kubelet quotes."""
    caplog.set_level(logging.DEBUG)
    first, again = [await at.call("POST", "/stacks", BODY, headers={"Idempotency-Key": "one"}) for _ in range(2)]
    made = first.json
    assert (first.status, again.status) == (201, 201)
    assert [again.json[name] for name in ("stack_id", "values")] == [made["stack_id"], made["values"]]
    stack_id, flag = made["stack_id"], made["values"]["FLAG"]
    for verb in ("extend", "stop", "start"):
        await at.do(verb, stack_id, ttl="1m" if verb == "extend" else None)
    await at.until_status(stack_id, "running")
    texts = await all_texts(at, stack_id)
    texts += [json.dumps(await at.post("/stacks?dry_run=true", BODY))]
    texts += [json.dumps((await at.objects("pods"))[stack_id]["metadata"])]
    store = at.cluster.store
    pod = store.of(PODS).get("stacks", stack_id)
    (last,) = [one for one in pod.obj["status"]["containerStatuses"] if one["name"] == "app"]
    state = {"waiting": {"reason": "RunContainerError", "message": f'exec: "{flag}": no such file'}}
    statuses = [last | {"ready": False, "state": state}]
    store.update(pod, status=pod.obj["status"] | {"phase": "Pending", "containerStatuses": statuses})
    failed = await at.until_status(stack_id, "failed")
    assert f'exec: "{HIDDEN}": no such file' in failed["status_message"]
    texts += [*await all_texts(at, stack_id), caplog.text]
    for value in (*made["values"].values(), flag[: len(flag) // 2]):
        assert not [text for text in texts if value in text]


async def test_values_that_a_container_prints_are_in_no_log(vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither logs read from the cluster nor kept logs, of a failed container or a deleted stack, contain a value."""
    monkeypatch.setattr(diagnostics, "CAPTURE_SECONDS", DEADLINE)
    prints = "      command: [sh, -c, 'echo the flag is $FLAG; echo and $TEAM_SECRET{}']\n      env: [{{"
    runs, fails = (WEB.replace("      env: [{", prints.format(ends)) for ends in ("", "; exit 1"))
    at = await start(vm, runs=runs, fails=fails)
    printed = f"the flag is {HIDDEN}\nand {HIDDEN}\n"
    for name, status in (("runs", "running"), ("fails", "failed")):
        made = await at.create({"template": name})
        stack_id = made["stack_id"]
        path, kept = f"/stacks/{stack_id}/logs?container=app", f"SELECT * FROM kept_logs WHERE stack_id = '{stack_id}'"
        await at.until_status(stack_id, status)
        assert made["values"]["FLAG"] in str(await values_of(at, stack_id))
        assert (await at.call("GET", path)).text == printed
        if status == "failed":
            await eventually(partial(at.rows, kept))
        await at.delete(stack_id)
        await eventually(partial(at.rows, f"{kept} AND container = 'app'"))
        assert (await at.call("GET", path)).text == printed
        assert not [value for value in made["values"].values() if value in str(at.rows(kept))]


async def test_values_that_a_webhook_quotes_are_hidden(
    at: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webhook refuses a create, a dry run, a restart with all its tries, and the record of an extension."""
    caplog.set_level(logging.DEBUG)
    generated = {"FLAG": "flag{0f1e2d3c4b5a69788796a5b4c3d2e1f0}", "TEAM_SECRET": "MZXW6YTBOI5DEMZV-$$(x)-a-uuid"}
    monkeypatch.setattr(Template, "generate", lambda _: generated)
    stack_id = await at.running(BODY)
    at.faults.add_fault(action="deny", verb="create|patch", resource="pods")
    created, tried = [await at.call("POST", path, BODY) for path in ("/stacks", "/stacks?dry_run=true")]
    restarted = await at.call("POST", f"/stacks/{stack_id}/restart")
    replies = [created, tried, restarted, await at.call("POST", f"/stacks/{stack_id}/extend", {"ttl": "1m"})]
    assert [reply.status >= 400 for reply in replies[:3]] == [True] * 3
    assert (HIDDEN in created.text, HIDDEN in tried.text) == (True, True)
    await eventually(lambda: caplog.text.count("next try in") > 1)  # the tries of the restart
    texts = [*(reply.text for reply in replies), *await all_texts(at, stack_id), caplog.text]
    for value in generated.values():
        for form in (value, value.replace("$", "$$"), value[: len(value) // 2]):
            assert not [text for text in texts if form in text]


# ---- images of templates are on the nodes before the first create


IMAGE = "registry.example/slowpull:1"
NODES = {node.name for node in DEFAULT_NODES}


def slow(image: str = IMAGE) -> str:
    return PLAIN.replace("nginx:stable", image) + "prepull: true\n"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepull, "PULL_RETRIES", RetryPolicy(first=0.05, longest=0.1))


async def until_states(at: Harness, nodes: set[str], state: str, name: str = "slow") -> None:
    async def states() -> dict[str, str]:
        return {node: pull["state"] for node, pull in (await shown(at))[name]["prepull"].items()}

    await until(states, lambda seen: seen == dict.fromkeys(nodes, state))


async def pulling(at: Harness, image: str = "") -> list[dict[str, Any]]:
    """The pods that pull images, or this one."""
    pods = [pod for name, pod in (await at.objects("pods")).items() if name.startswith("prepull-")]
    return [pod for pod in pods if image in ("", pod["spec"]["containers"][0]["image"])]


@pytest.mark.kubernetes(slow_pull=0.05)
async def test_images_are_pulled_on_every_node_also_on_one_that_joins_later(vm: Machine) -> None:
    at = await start(vm, slow=slow(), bad=slow(image="registry.invalid/none:1"))
    await until_states(at, NODES, "pulled")
    await until_states(at, NODES, "failing", "bad")  # it keeps nobody waiting
    await at.until_metric("stackd_prepull_images", 2, state="failing")
    at.faults.add_node(name="late", labels={"role": "stack"})
    await at.until_metric("stackd_nodes", len(NODES) + 1)
    await until_states(at, {*NODES, "late"}, "pulled")
    take_away(vm.folder, "bad")
    await at.reload_templates()
    await until(lambda: pulling(at), lambda seen: not seen)


@pytest.mark.kubernetes(slow_pull=60.0)
async def test_the_pods_run_nothing_and_go_with_their_template(vm: Machine) -> None:
    text = slow().replace("spec:\n    init", "spec:\n    imagePullSecrets: [{name: registry}]\n    init")
    text += "policy: {pull_secrets: [registry], runtime_class: gvisor}\n"
    at = await start(vm, slow=text)
    for pod in await until(lambda: pulling(at, IMAGE), len):
        (container,) = pod["spec"]["containers"]
        assert (container["command"], "env" in container) == (["/stackd-prepull"], False)
        assert (pod["spec"]["imagePullSecrets"], pod["spec"]["runtimeClassName"]) == ([{"name": "registry"}], "gvisor")
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert (await at.get("/reconcile"))["unknown"] == []
    take_away(vm.folder, "slow")
    await at.reload_templates()
    await until(lambda: pulling(at), lambda seen: not seen)
    folder_with(vm.folder, slow=text)
    await at.reload_templates()
    await until(lambda: pulling(at, IMAGE), len)
    take_away(vm.folder, "slow")
    at = await vm.start()
    assert not await pulling(at)
