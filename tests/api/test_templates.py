"""Stacks from templates: what is created, who sees which values, and what survives a restart or a changed template."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from stackd.clock import NANOSECONDS, to_nanoseconds
from stackd.embedded import DEFAULT_NODES, EmbeddedCluster
from stackd.embedded.resources import PODS
from stackd.lifecycle import prepull
from stackd.lifecycle.hiding import HIDDEN
from stackd.templates import Template
from stackd.workqueue import RetryPolicy
from tests.harness import Harness, eventually, fast_cluster, harness, lose_file, seed, until

FLAG = re.compile(r"flag\{[0-9a-f]{32}\}\Z")
WEB = """\
target_port: [{container_port: 80, protocol: TCP}]
ttl: 1h
labels: {challenge: web-1, kind: web}
values: {FLAG: "flag{<hex:32>}", TEAM_SECRET: "<base32:16>-$$(x)-<uuid>"}
pod:
  apiVersion: v1
  kind: Pod
  metadata: {name: web}
  spec:
    initContainers:
    - name: prepare
      image: registry.example/prepare:1
      resources: {limits: {cpu: 100m, memory: 64Mi}}
    containers:
    - name: app
      image: nginx:stable
      env: [{name: GREETING, value: hello}]
      ports: [{containerPort: 80, protocol: TCP}]
      resources: {limits: {cpu: 100m, memory: 64Mi}}
"""
PLAIN = WEB.replace('values: {FLAG: "flag{<hex:32>}", TEAM_SECRET: "<base32:16>-$$(x)-<uuid>"}\n', "")


def folder_with(folder: Path, **templates: str) -> dict[str, str]:
    """A folder of templates, and the setting that names it."""
    (folder / "templates").mkdir(exist_ok=True)
    for name, text in templates.items():
        (folder / "templates" / f"{name.replace('_', '-')}.yaml").write_text(text)
    return {"STACKD_TEMPLATES__DIRECTORY": str(folder / "templates")}


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    settings = folder_with(tmp_path, web_1=WEB, plain=PLAIN, rooted=PLAIN + "policy: {run_as_root: false}\n")
    async with harness(tmp_path, settings) as ready:
        yield ready


async def values_of(at: Harness, stack_id: str) -> list[dict[str, str]]:
    """The environment of each container of the stack's pod, init containers first."""
    spec = (await at.objects("pods"))[stack_id]["spec"]
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    return [{one["name"]: one["value"] for one in container.get("env", [])} for container in containers]


async def test_the_pod_of_a_template_with_its_own_egress_says_so_and_a_client_cannot(tmp_path: Path) -> None:
    settings = folder_with(tmp_path, shut=PLAIN + "network: {egress: none}\n", plain=PLAIN)
    async with harness(tmp_path, settings) as at:
        shut = (await at.create({"template": "shut"}))["stack_id"]
        plain = (await at.create({"template": "plain"}))["stack_id"]
        (await at.call("POST", f"/stacks/{shut}/restart", {}))
        labels = {name: pod["metadata"]["labels"] for name, pod in (await at.objects("pods")).items()}
        assert (labels[shut]["stackd.io/egress"], labels[plain].get("stackd.io/egress")) == ("none", None)
        named = seed()["pod_spec"].replace(
            "  name: challenge", "  name: challenge\n  labels: {stackd.io/egress: internet}"
        )
        refused = await at.call("POST", "/stacks", seed() | {"pod_spec": named})
        assert (refused.status, "metadata.labels" in refused.error) == (400, True)


async def all_texts(at: Harness, stack_id: str) -> list[str]:
    """All that anybody can read of the stack, and its row without the column of its generated values."""
    paths = [f"/stacks{part}" for part in ("", f"/{stack_id}", f"/{stack_id}/status", f"/{stack_id}/timeline")]
    paths += [f"/stacks/{stack_id}/logs", "/stacks?fields=stack_id,template,labels,pod_spec,status_message"]
    paths += ["/stacks?template=web-1", "/templates", "/metrics", "/reconcile", "/stats", "/openapi.json"]
    columns = [name for (name,) in at.rows("SELECT name FROM pragma_table_info('stacks')") if name != "generated"]
    rows = at.rows(f"SELECT {', '.join(columns)} FROM stacks")
    assert rows
    return [(await at.call("GET", path)).text for path in paths] + [str(rows)]


def take_away(folder: Path, *names: str) -> None:
    """Delete the files of these templates."""
    for name in names:
        (folder / "templates" / f"{name}.yaml").unlink()


async def test_a_create_by_template_makes_the_templates_pod_with_its_ttl_and_labels(at: Harness) -> None:
    made = await at.create({"template": "web-1"})
    detail = await at.stack(made["stack_id"])
    assert detail["labels"] == {"challenge": "web-1", "kind": "web"}
    assert (detail["template"], made["template"]) == ("web-1", "web-1")
    assert [port["container_port"] for port in made["ports"]] == [80]
    assert _hours(made) == 1
    assert (made["requested_cpu_milli"], made["requested_memory_bytes"]) == (100, 64 * 2**20)
    await at.until_status(made["stack_id"], "running")


async def test_the_requests_labels_and_ttl_replace_the_templates(at: Harness) -> None:
    made = await at.create({"template": "plain", "ttl": "2h", "labels": {"kind": "other", "team": "7"}})
    detail = await at.stack(made["stack_id"])
    assert detail["labels"] == {"challenge": "web-1", "kind": "other", "team": "7"}
    assert _hours(made) == 2


async def test_each_stack_has_values_of_its_own_in_every_container(at: Harness) -> None:
    first, second = await at.create({"template": "web-1"}), await at.create({"template": "web-1"})
    assert FLAG.match(first["values"]["FLAG"])
    assert re.match(r"[A-Z2-7]{16}-\$\$\(x\)-[0-9a-f-]{36}\Z", first["values"]["TEAM_SECRET"])
    assert not set(first["values"].values()) & set(second["values"].values())
    for made in (first, second):
        prepare, app = await values_of(at, made["stack_id"])
        written = {name: text.replace("$", "$$") for name, text in made["values"].items()}
        assert prepare == written, "a kubelet makes one dollar sign of two"
        assert app == written | {"GREETING": "hello"}
        assert list(app) == ["FLAG", "TEAM_SECRET", "GREETING"], "what follows may refer to them"


async def test_values_are_told_to_the_creator_again_and_to_nobody_else(
    at: Harness, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    key = {"Idempotency-Key": "one"}
    first = await at.call("POST", "/stacks", {"template": "web-1"}, headers=key)
    assert first.status == 201
    again = await at.call("POST", "/stacks", {"template": "web-1"}, headers=key)
    assert (again.status, again.text) == (201, first.text)
    made = first.json
    stack_id = made["stack_id"]
    await at.until_status(stack_id, "running")
    await at.call("POST", f"/stacks/{stack_id}/extend", {"ttl": "1m"})
    await at.call("POST", f"/stacks/{stack_id}/stop")
    await at.call("POST", f"/stacks/{stack_id}/start")
    await at.until_status(stack_id, "running")
    told = await all_texts(at, stack_id)
    told.append((await at.call("POST", "/stacks?dry_run=true", {"template": "web-1"})).text)
    told += [caplog.text, json.dumps((await at.objects("pods"))[stack_id]["metadata"])]
    for value in made["values"].values():
        assert not [text for text in told if value in text]


@pytest.mark.parametrize("ends", ["", "; exit 1"])
async def test_values_that_a_container_prints_are_in_no_log(tmp_path: Path, ends: str) -> None:
    """Neither logs read from the cluster nor kept logs, of a failed container or a deleted stack, contain a value."""
    prints = f"""      command: [sh, -c, 'echo the flag is $FLAG; echo and $TEAM_SECRET{ends}']\n"""
    settings = folder_with(tmp_path, web_1=WEB.replace("      env: [{", prints + "      env: [{"))
    async with harness(tmp_path, settings) as at:
        made = await at.create({"template": "web-1"})
        path, said = f"/stacks/{made['stack_id']}/logs", f"the flag is {HIDDEN}\nand {HIDDEN}\n"
        await at.until_status(made["stack_id"], "failed" if ends else "running")
        assert made["values"]["FLAG"] in str(await values_of(at, made["stack_id"]))
        assert (await at.call("GET", f"{path}?container=app")).text == said
        if ends:
            await eventually(lambda: at.rows("SELECT 1 FROM kept_logs"))
        assert (await at.call("DELETE", f"/stacks/{made['stack_id']}")).status == 200
        await eventually(lambda: at.rows("SELECT 1 FROM kept_logs WHERE container = 'app'"))
        assert (await at.call("GET", f"{path}?container=app")).text == said
        kept = str(at.rows("SELECT * FROM kept_logs"))
        assert not [value for value in made["values"].values() if value in kept]


async def test_values_that_a_webhook_quotes_are_told_to_nobody(
    at: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webhook refuses a create, a dry run, a restart with all its tries, and the record of a stop."""
    caplog.set_level(logging.DEBUG)
    kept: list[str] = []
    generate = Template.generate

    def generated(template: Template) -> Mapping[str, str]:
        values = generate(template)
        kept.extend(values.values())
        return values

    monkeypatch.setattr(Template, "generate", generated)
    made = await at.create({"template": "web-1"})
    stack_id = made["stack_id"]
    await at.until_status(stack_id, "running")
    at.cluster.faults.add_fault(action="deny", verb="create|patch", resource="pods")
    answers = [
        await at.call("POST", "/stacks", {"template": "web-1"}),
        await at.call("POST", "/stacks", {"template": "web-1"}, headers={"Idempotency-Key": "one"}),
        await at.call("POST", "/stacks?dry_run=true", {"template": "web-1"}),
        await at.call("POST", f"/stacks/{stack_id}/restart"),
        await at.call("POST", f"/stacks/{stack_id}/extend", {"ttl": "1m"}),
    ]
    assert [reply.status >= 400 for reply in answers[:4]] == [True] * 4
    assert [HIDDEN in reply.text for reply in answers[:3]] == [True] * 3
    await eventually(lambda: caplog.text.count("next try in") > 1)  # the tries of the restart
    told = [*(reply.text for reply in answers), *await all_texts(at, stack_id), caplog.text]
    assert len(kept) == 8
    for value in kept:
        for form in (value, value.replace("$", "$$"), value[: len(value) // 2]):
            assert not [text for text in told if form in text]


async def test_values_that_a_kubelet_quotes_are_told_to_nobody(at: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    made = await at.create({"template": "web-1"})
    stack_id, flag = made["stack_id"], made["values"]["FLAG"]
    await at.until_status(stack_id, "running")
    store = at.cluster.store
    pod = store.of(PODS).get("stacks", stack_id)
    (last,) = [one for one in pod.obj["status"]["containerStatuses"] if one["name"] == "app"]
    state = {"waiting": {"reason": "RunContainerError", "message": f'exec: "{flag}": no such file'}}
    statuses = [last | {"ready": False, "state": state}]
    store.update(pod, status=pod.obj["status"] | {"phase": "Pending", "containerStatuses": statuses})
    await at.until_status(stack_id, "failed")
    told = [*await all_texts(at, stack_id), caplog.text]
    assert f'exec: \\"{HIDDEN}\\": no such file' in told[1]
    assert not [text for text in told if flag[: len(flag) // 2] in text]


async def test_an_existing_stack_is_returned_without_its_values(tmp_path: Path) -> None:
    settings = folder_with(tmp_path, web_1=WEB) | {"STACKD_LIMITS__STACKS_PER_LABEL": "{ player = 1 }"}
    async with harness(tmp_path, settings) as at:
        body = {"template": "web-1", "labels": {"player": "a"}, "if_exists": "return"}
        first = await at.call("POST", "/stacks", body)
        second = await at.call("POST", "/stacks", body)
        assert (first.status, second.status) == (201, 200)
        assert second.json["stack_id"] == first.json["stack_id"]
        assert ("values" in first.json, "values" in second.json) == (True, False)


async def test_values_survive_the_loss_of_the_file(tmp_path: Path) -> None:
    settings = folder_with(tmp_path, web_1=WEB) | {"STACKD_CLUSTER__LEASE_DURATION": "1s"}
    row = "SELECT stack_id, template, digest, generated FROM stacks"
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, settings, cluster=cluster) as at:
            made = await at.create({"template": "web-1"})
            stack_id = made["stack_id"]
            await at.until_status(stack_id, "running")
            before = await values_of(at, stack_id)
            (kept,) = at.rows(row)
            assert (kept[:2], json.loads(kept[3])) == ((stack_id, "web-1"), made["values"])
        lose_file(tmp_path)
        async with harness(tmp_path, settings, cluster=cluster) as at:
            assert at.rows(row) == [kept]
            assert (await at.call("POST", f"/stacks/{stack_id}/restart")).status == 200
            await at.until_status(stack_id, "running")
            assert await values_of(at, stack_id) == before


async def test_a_template_may_have_other_rights_than_pod_specs(tmp_path: Path) -> None:
    more = PLAIN.replace("image: nginx:stable", "image: nginx:stable\n      securityContext: {runAsUser: 1000}")
    less = PLAIN + "policy: {drop_capabilities: [ALL]}\n"
    settings = folder_with(tmp_path, more=more + "policy: {run_as_user: true}\n", less=less)
    async with harness(tmp_path, settings) as at:
        for name in ("more", "less"):
            made = await at.create({"template": name})
            for again in (False, True):
                if again:
                    await at.until_status(made["stack_id"], "running")
                    reply = await at.call("POST", f"/stacks/{made['stack_id']}/restart")
                    assert reply.status == 200, reply.text
                container = (await at.objects("pods"))[made["stack_id"]]["spec"]["containers"][0]
                context = container["securityContext"]
                assert (context.get("runAsUser"), context.get("capabilities")) == (
                    (1000, {"drop": ["NET_RAW"]}) if name == "more" else (None, {"drop": ["ALL"]})
                )
        refused = await at.call("POST", "/stacks", {"target_port": seed()["target_port"], "pod_spec": _pod(more)})
        assert refused.status == 400


WRONG = [
    ({"template": "web1"}, 'template: there is no "web1" (did you mean "web-1"?)'),
    ({"template": 7}, "template must be a string"),
    ({"template": "web-1", **seed()}, "template and target_port exclude each other"),
    ({"template": "web-1", "pod_spec": "x"}, "template and pod_spec exclude each other"),
    ({"template": "web-1", "labels": {f"k{number}": "v" for number in range(16)}}, "18 labels; 16 at most"),
    ({"template": None}, "template must be a string"),
]


async def test_what_is_wrong_with_a_create_by_template_is_said(at: Harness) -> None:
    for body, sentence in WRONG:
        reply = await at.call("POST", "/stacks", body)
        assert reply.status == 400
        assert sentence in reply.error
        assert not await at.objects("pods")


async def test_without_templates_a_create_by_template_says_how_to_have_some(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        reply = await at.call("POST", "/stacks", {"template": "web-1"})
        assert (reply.status, "templates.directory" in reply.error) == (400, True)
        assert (await at.call("GET", "/templates")).json == {"templates": []}


async def test_the_templates_are_told_with_what_their_stacks_do(at: Harness) -> None:
    made = await at.create({"template": "web-1"})
    await at.until_status(made["stack_id"], "running")
    listed = {one["name"]: one for one in (await at.call("GET", "/templates")).json["templates"]}
    assert list(listed) == ["plain", "rooted", "web-1"]
    web = listed["web-1"]
    assert web["target_port"] == [{"container_port": 80, "protocol": "TCP"}]
    assert (web["ttl"], web["labels"]) == ("1h", {"challenge": "web-1", "kind": "web"})
    assert web["images"] == ["registry.example/prepare:1", "nginx:stable"]
    assert web["generates"] == ["FLAG", "TEAM_SECRET"]
    assert web["stacks"]["running"] == 1
    assert (web["pool"], web["ready"], listed["plain"]["stacks"]["running"]) == (0, 0, 0)


async def test_how_long_the_stacks_of_a_template_take_is_told(at: Harness) -> None:
    async def told(name: str) -> dict[str, Any]:
        listed = (await at.call("GET", "/templates?history=true")).json["templates"]
        return next(one for one in listed if one["name"] == name)

    assert (await told("web-1"))["history"]["running"] == [0]
    made = await at.create({"template": "web-1"})
    await at.until_status(made["stack_id"], "running")
    web, plain = await told("web-1"), await told("plain")
    assert (web["history"]["running"], plain["history"]["running"]) == ([1], [0])
    assert 0 < web["median_seconds_to_running"] < 10
    assert plain["median_seconds_to_running"] is None
    assert (await at.call("POST", f"/stacks/{made['stack_id']}/restart")).status == 200
    await at.until_status(made["stack_id"], "running")
    assert (await told("web-1"))["median_seconds_to_running"] == web["median_seconds_to_running"]
    assert "stackd_time_to_running_seconds_count 1.0" in (await at.call("GET", "/metrics")).text
    assert "history" not in (await at.call("GET", "/templates")).text


async def test_how_long_they_take_is_still_told_after_a_restart(tmp_path: Path) -> None:
    """Before, a template with hundreds of running stacks had started none within the hour."""
    settings = folder_with(tmp_path, web_1=WEB)
    async with EmbeddedCluster(fast_cluster()) as cluster:
        for start in range(2):
            async with harness(tmp_path, settings, cluster=cluster) as at:
                if not start:
                    await at.running({"template": "web-1"})
                (web,) = (await at.call("GET", "/templates")).json["templates"]
                assert 0 < web["median_seconds_to_running"] < 10


async def test_stacks_are_found_by_their_template(at: Harness) -> None:
    web, plain, other = (
        await at.create({"template": "web-1"}),
        await at.create({"template": "plain"}),
        await at.create(),
    )
    found = (await at.call("GET", "/stacks?template=web-1")).json["stacks"]
    assert [stack["stack_id"] for stack in found] == [web["stack_id"]]
    fields = (await at.call("GET", "/stacks?fields=template")).json["stacks"]
    assert fields == [{"template": "web-1"}, {"template": "plain"}, {}]
    assert plain["stack_id"] != other["stack_id"]


async def test_labels_that_must_be_given_may_come_from_the_template(tmp_path: Path) -> None:
    settings = folder_with(tmp_path, web_1=WEB) | {"STACKD_LIMITS__REQUIRED_LABELS": '["challenge", "player"]'}
    async with harness(tmp_path, settings) as at:
        reply = await at.call("POST", "/stacks", {"template": "web-1"})
        assert (reply.status, "player" in reply.error, "challenge" in reply.error) == (400, True, False)
        assert (await at.call("POST", "/stacks", {"template": "web-1", "labels": {"player": "a"}})).status == 201


async def test_a_stack_whose_template_is_gone_starts_again_under_the_policy_in_force(
    at: Harness, tmp_path: Path
) -> None:
    made = await at.create({"template": "web-1"})
    await at.until_status(made["stack_id"], "running")
    take_away(tmp_path, "web-1", "plain", "rooted")
    at.reload_templates()
    assert (await at.call("GET", "/templates")).json == {"templates": []}
    assert (await at.call("POST", f"/stacks/{made['stack_id']}/restart")).status == 200
    await at.until_status(made["stack_id"], "running")
    assert (await values_of(at, made["stack_id"]))[0]["FLAG"] == made["values"]["FLAG"]


async def test_a_reload_takes_all_templates_or_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with harness(tmp_path, folder_with(tmp_path, web_1=WEB, plain=PLAIN), edited={}) as at:

        async def ttls() -> dict[str, str]:
            return {one["name"]: one["ttl"] for one in (await at.call("GET", "/templates")).json["templates"]}

        folder_with(tmp_path, web_1=WEB.replace("ttl: 1h", "ttl: 3h"), plain="pod: 1", other=PLAIN)
        os.kill(os.getpid(), signal.SIGHUP)
        await at.until_metric("stackd_config_reload_successful", 0)
        assert f"reload refused: {tmp_path}/templates/plain.yaml:1: " in caplog.text
        assert await ttls() == {"plain": "1h", "web-1": "1h"}
        take_away(tmp_path, "plain")
        os.kill(os.getpid(), signal.SIGHUP)
        await at.until_metric("stackd_config_reload_successful", 1)
        assert await ttls() == {"other": "1h", "web-1": "3h"}
        assert "reloaded: templates: other is new, web-1 has changed, plain is gone" in caplog.text


@pytest.mark.parametrize("readiness", ["", "tcp"])
async def test_running_may_mean_that_the_published_port_answers(tmp_path: Path, readiness: str) -> None:
    settings = folder_with(tmp_path, plain=PLAIN) | {"STACKD_STACKS__READINESS": readiness}
    probe = {"tcpSocket": {"port": 80}, "periodSeconds": 1}
    async with harness(tmp_path, settings) as at:
        for body in (seed(), {"template": "plain"}):
            made = await at.create(body)
            assert "readinessProbe" not in made["pod_spec"]
            (container,) = (await at.objects("pods"))[made["stack_id"]]["spec"]["containers"]
            told = {name: container.get("readinessProbe", {}).get(name) for name in probe}
            assert told == (probe if readiness else dict.fromkeys(probe))
            await at.until_status(made["stack_id"], "running")


def _hours(made: dict[str, Any]) -> int:
    """The stack's time to live in whole hours."""
    nanoseconds = to_nanoseconds(made["ttl_expires_at"]) - to_nanoseconds(made["created_at"])
    return nanoseconds // (3600 * NANOSECONDS)


def _pod(template: str) -> str:
    return template.partition("pod:\n")[2].replace("\n  ", "\n")[2:]


# ---- images of templates are on the nodes before the first create


IMAGE = "registry.example/slowpull:1"
NODES = {node.name for node in DEFAULT_NODES}


def slow(prepulled: bool = True, image: str = IMAGE) -> str:
    return PLAIN.replace("nginx:stable", image) + f"prepull: {str(prepulled).lower()}\n"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepull, "RETRIES", RetryPolicy(first=0.05, longest=0.1))
    monkeypatch.setattr(prepull, "CLEAN_UP_SECONDS", 0.05)
    monkeypatch.setattr(prepull, "FIRST_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(prepull, "LONGEST_CHECK_SECONDS", 0.05)


async def states(at: Harness, name: str = "slow") -> dict[str, str]:
    """The state of the template's images, by node."""
    listed = {one["name"]: one["prepull"] for one in (await at.call("GET", "/templates")).json["templates"]}
    return {node: pull["state"] for node, pull in listed[name].items()}


async def until_states(at: Harness, wanted: dict[str, str], name: str = "slow") -> None:
    await until(lambda: states(at, name), lambda seen: seen == wanted)


async def pulling_pods(at: Harness) -> dict[str, Any]:
    """The pods that pull images, by name."""
    return {name: pod for name, pod in (await at.objects("pods")).items() if name.startswith("prepull-")}


async def test_images_are_pulled_on_every_node_and_no_pod_is_left(tmp_path: Path) -> None:
    async with (
        EmbeddedCluster(fast_cluster(slow_pull=0.3)) as cluster,
        harness(tmp_path, folder_with(tmp_path, slow=slow()), cluster=cluster) as at,
    ):
        await until_states(at, dict.fromkeys(NODES, "pulled"))
        await eventually(lambda: _none(at))


async def _none(at: Harness) -> bool:
    return not await pulling_pods(at)


async def test_the_pods_run_nothing_and_carry_no_stacks_labels(tmp_path: Path) -> None:
    text = slow().replace("spec:\n    init", "spec:\n    imagePullSecrets: [{name: registry}]\n    init")
    settings = folder_with(tmp_path, slow=text + "policy: {pull_secrets: [registry], runtime_class: gvisor}\n")
    async with (
        EmbeddedCluster(fast_cluster(slow_pull=60.0)) as cluster,
        harness(tmp_path, settings, cluster=cluster) as at,
    ):
        await eventually(lambda: _pulls(at, IMAGE))
        pods = [pod for pod in (await pulling_pods(at)).values() if _image(pod) == IMAGE]
        for pod in pods:
            (container,) = pod["spec"]["containers"]
            assert container["command"] == ["/stackd-prepull"]
            assert "env" not in container
            assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
            assert pod["spec"]["runtimeClassName"] == "gvisor"
            assert pod["spec"]["automountServiceAccountToken"] is False
            assert pod["metadata"]["labels"] == {"stackd.io/role": "prepull", "stackd.io/instance": "default"}
            assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert (await at.call("GET", "/stats")).json["total_stacks"] == 0
        assert (await at.call("GET", "/reconcile")).json["unknown"] == []


def _image(pod: dict[str, Any]) -> str:
    image: str = pod["spec"]["containers"][0]["image"]
    return image


async def _pulls(at: Harness, image: str) -> bool:
    return any(_image(pod) == image for pod in (await pulling_pods(at)).values())


async def test_few_are_pulled_at_a_time_and_one_on_a_node(tmp_path: Path) -> None:
    many = {f"t{number}": slow(image=f"registry.example/{number}/slowpull") for number in range(3)}
    async with (
        EmbeddedCluster(fast_cluster(slow_pull=0.2)) as cluster,
        harness(tmp_path, folder_with(tmp_path, **many), cluster=cluster) as at,
    ):
        seen: list[list[str]] = []

        async def check() -> bool:
            pods = (await pulling_pods(at)).values()
            seen.append([node for pod in pods if (node := pod["spec"].get("nodeName"))])
            return all([await states(at, name) == dict.fromkeys(NODES, "pulled") for name in many])

        await eventually(check)
        assert max(map(len, seen)) == 2
        assert not [nodes for nodes in seen if len(set(nodes)) < len(nodes)]


async def test_a_node_that_joins_later_gets_them_too(tmp_path: Path) -> None:
    async with (
        EmbeddedCluster(fast_cluster(slow_pull=0.05)) as cluster,
        harness(tmp_path, folder_with(tmp_path, slow=slow()), cluster=cluster) as at,
    ):
        await until_states(at, dict.fromkeys(NODES, "pulled"))
        cluster.faults.add_node(name="late", labels={"role": "stack"})
        await at.until_metric("stackd_nodes", len(NODES) + 1)
        await at.run_now("prepull")
        await until_states(at, dict.fromkeys([*NODES, "late"], "pulled"))


async def metrics_say(at: Harness, line: str) -> bool:
    return line in (await at.call("GET", "/metrics")).text


async def test_an_image_that_cannot_be_pulled_says_why_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    bad = slow(image="registry.invalid/none:1")
    async with (
        EmbeddedCluster(fast_cluster(slow_pull=0.05)) as cluster,
        harness(tmp_path, folder_with(tmp_path, bad=bad, slow=slow()), cluster=cluster) as at,
    ):
        await until_states(at, dict.fromkeys(NODES, "failing"), "bad")
        await until_states(at, dict.fromkeys(NODES, "pulled"))
        (bad_one, _) = (await at.call("GET", "/templates")).json["templates"]
        for pull in bad_one["prepull"].values():
            assert pull["reason"].startswith(("ErrImagePull", "ImagePullBackOff"))
        await eventually(lambda: metrics_say(at, 'stackd_prepull_images{state="failing"} 2.0'))


@pytest.mark.parametrize("dropped", [False, True])
async def test_what_an_earlier_process_left_is_deleted_and_nothing_else(tmp_path: Path, dropped: bool) -> None:
    """Before, a proxy that drops the query string of the list had the pods of all stacks deleted."""
    settings = folder_with(tmp_path, slow=slow())
    async with EmbeddedCluster(fast_cluster(slow_pull=60.0)) as cluster:
        async with harness(tmp_path, settings, cluster=cluster) as at:
            stack_id = await at.running()
            await eventually(lambda: _pulls(at, IMAGE))
            (pull, *_) = (await pulling_pods(at)).values()
            spec = {key: value for key, value in pull["spec"].items() if key != "nodeName"}
            ours = pull["metadata"]["labels"]
            for name, labels in (("left", ours), ("other", ours | {"stackd.io/instance": "b"}), ("foreign", {})):
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
                await at.kubectl("POST", "/api/v1/namespaces/stacks/pods", pod)
            assert "left" in await at.objects("pods")
        folder_with(tmp_path, slow=slow(prepulled=False))
        if dropped:
            cluster.faults.add_fault(action="no_query", verb="list", resource="pods")
        async with harness(tmp_path, settings, cluster=cluster) as at:
            await until(lambda: at.objects("pods"), lambda seen: "left" not in seen)
            await at.run_now("prepull")
            assert set(await at.objects("pods")) == {stack_id, "other", "foreign"}


async def test_a_pod_of_somebody_else_with_the_name_of_a_pull_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = folder_with(tmp_path, slow=slow())
    async with EmbeddedCluster(fast_cluster(slow_pull=60.0)) as cluster:
        async with harness(tmp_path, settings, cluster=cluster) as at:
            await eventually(lambda: _pulls(at, IMAGE))
            names = {name for name, pod in (await pulling_pods(at)).items() if _image(pod) == IMAGE}
        async with harness(tmp_path, cluster=cluster) as at:
            for name in names:
                spec = {"containers": [{"name": "app", "image": "registry.example/fail"}], "restartPolicy": "Never"}
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
                await at.kubectl("POST", "/api/v1/namespaces/stacks/pods", pod)
        async with harness(tmp_path, settings, cluster=cluster) as at:
            await eventually(lambda: "is not stackd's" in caplog.text)
            assert names <= set(await at.objects("pods"))


async def test_a_stop_leaves_no_pod(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(slow_pull=60.0)) as cluster:
        async with harness(tmp_path, folder_with(tmp_path, slow=slow()), cluster=cluster) as at:
            await eventually(lambda: _pulls(at, IMAGE))
        async with harness(tmp_path, cluster=cluster) as at:
            assert not await pulling_pods(at)


async def test_what_nobody_wants_any_more_is_given_up(tmp_path: Path) -> None:
    async with (
        EmbeddedCluster(fast_cluster(slow_pull=60.0)) as cluster,
        harness(tmp_path, folder_with(tmp_path, slow=slow()), cluster=cluster) as at,
    ):
        await eventually(lambda: _pulls(at, IMAGE))
        (tmp_path / "templates" / "slow.yaml").unlink()
        at.reload_templates()
        await eventually(lambda: _none(at))
        await at.run_now("prepull")
        assert await at.metric("stackd_prepull_images") == 0
