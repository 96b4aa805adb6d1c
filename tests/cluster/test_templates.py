"""A repository of challenges on a real cluster: pushed, changed, pruned; and containers that find each other."""

from __future__ import annotations

import asyncio
from pathlib import Path

from click.testing import CliRunner
from msgspec import json

from stackd.cli import stackd
from stackd.kube.template_maps import name_of
from stackd.kube.wire import CONFIG_MAPS, KINDS, MERGE_PATCH
from tests.cluster.real import Real
from tests.harness import KEY, until
from tests.templates import shown

CHALLENGE = """\
title: Challenge
target_port: [{container_port: 80, protocol: TCP}]
values: {FLAG: "flag{<hex:16>}"}
pod:
  apiVersion: v1
  kind: Pod
  metadata: {name: challenge}
  spec:
    containers:
    - name: app
      image: nginx:stable
      imagePullPolicy: IfNotPresent
      ports: [{containerPort: 80}]
      resources: {limits: {cpu: 20m, memory: 16Mi}}
"""
PAIR = """\
target_port: [{container_port: 8080, protocol: TCP}]
names: [db]
env: {TEAM: {pattern: "[0-9]{1,4}"}}
pod:
  apiVersion: v1
  kind: Pod
  metadata: {name: pair}
  spec:
    containers:
    - name: web
      image: nginx:stable
      imagePullPolicy: IfNotPresent
      command: [/bin/sh, -c, "until wget -q -O /www/seen http://db:80/; do sleep 0.2; done; exec httpd -f -p 8080 -h /www"]
      readinessProbe: {httpGet: {path: /seen, port: 8080}, periodSeconds: 1}
      ports: [{containerPort: 8080}]
      resources: {limits: {cpu: 20m, memory: 16Mi}}
    - name: db
      image: nginx:stable
      imagePullPolicy: IfNotPresent
      ports: [{containerPort: 80}]
      resources: {limits: {cpu: 20m, memory: 16Mi}}
"""


async def push(real: Real, folder: Path) -> dict[str, list[str]]:
    """What a push with ``--prune --yes`` says, by the word at the beginning of its lines."""
    runner = CliRunner(env={"STACKD_URL": real.url, "STACKD_API_KEY": KEY, "HOME": str(folder)})
    result = await asyncio.to_thread(runner.invoke, stackd, ["push", str(folder), "--prune", "--yes"])
    assert result.exit_code == 0, result.output
    said: dict[str, list[str]] = {}
    for line in result.stdout.splitlines():
        word, _, rest = line.partition(" ")
        said.setdefault(word, []).append(rest.strip())
    return said


async def test_a_repository_is_pushed_changed_and_pruned_and_no_stack_that_runs_is_touched(
    real: Real, tmp_path: Path
) -> None:
    folder = tmp_path / "challenges"
    folder.mkdir()
    names = [f"web-{number}" for number in range(6)]
    for name in names:
        (folder / f"{name}.yaml").write_text(CHALLENGE + ("pool: 1\n" if name in names[:2] else ""))
    assert await push(real, folder) == {"new": sorted(names)}
    await until(lambda: shown(real), lambda seen: all(seen[name]["ready"] for name in names[:2]))
    pooled = set(await real.objects("pods"))
    mine = await real.create({"template": "web-5"})
    before = await real.uids()
    for name in ("web-0", "web-5"):
        path = folder / f"{name}.yaml"
        path.write_text(path.read_text().replace("memory: 16Mi", "memory: 24Mi"))
    for name in ("web-1", "web-4"):
        (folder / f"{name}.yaml").unlink()
    said = await push(real, folder)
    assert [line.partition(":")[0] for line in said["changed"]] == ["web-0", "web-5"]
    assert (said["deleted"], len(said["same"])) == (["web-1", "web-4"], 2)
    await until(lambda: real.objects("pods"), lambda pods: len(pods) == 2 and not pooled & set(pods))
    await until(lambda: shown(real), lambda seen: seen["web-0"]["ready"] == 1)
    assert (await real.uids())[mine["stack_id"]] == before[mine["stack_id"]]
    assert (await real.create({"template": "web-0"}))["requested_memory_bytes"] == 24 << 20


async def test_a_container_reaches_its_neighbour_by_name_and_has_the_variable_of_the_create(
    real: Real, tmp_path: Path
) -> None:
    assert (await real.call("PUT", "/templates/pair", PAIR.encode())).status == 201
    stack_id = await real.running({"template": "pair", "env": {"TEAM": "7"}})
    for again in (False, True):
        if again:
            await real.do("restart", stack_id)
            await real.until_status(stack_id, "running")
        spec = (await real.objects("pods"))[stack_id]["spec"]
        assert spec["hostAliases"] == [{"ip": "127.0.0.1", "hostnames": ["db"]}]
        assert [{"name": "TEAM", "value": "7"} in one["env"] for one in spec["containers"]] == [True, True]


async def test_a_template_that_somebody_applies_is_in_force_at_once_and_a_change_over_the_api_names_its_version(
    real: Real,
) -> None:
    cluster = real.outside
    labels = {"stackd.io/template": "web-1", "stackd.io/instance": cluster.instance}
    name = name_of("web-1", cluster.instance)
    metadata = {"name": name, "namespace": cluster.namespace_name, "labels": labels}
    body = {**KINDS[CONFIG_MAPS].type_meta, "metadata": metadata, "data": {"template.yaml": CHALLENGE}}
    await cluster.answer(cluster.on("create", CONFIG_MAPS, name, body=json.encode(body)))
    one = (await until(lambda: shown(real), lambda seen: "web-1" in seen))["web-1"]
    assert one["source"] == "cluster"
    assert (await real.create({"template": "web-1"}))["template"] == "web-1"
    match = {"If-Match": f'"{one["version"]}"'}
    changed = await real.call("PUT", "/templates/web-1", (CHALLENGE + "pool: 1\n").encode(), headers=match)
    assert (changed.status, changed.json["source"]) == (200, "api")
    late = await real.call("DELETE", "/templates/web-1", headers=match)
    assert (late.status, late.code) == (412, "template_changed")
    change = json.encode({"data": {"template.yaml": CHALLENGE + "shared: true\n"}})
    await cluster.answer(cluster.on("patch", CONFIG_MAPS, name, body=change, content_type=MERGE_PATCH))
    problems = await until(lambda: real.get("/templates"), lambda seen: seen.get("problems"))
    assert [one["problem"] for one in problems["problems"]] == ["stale"]
    assert (await real.call("DELETE", "/templates/web-1")).status == 200
