"""Templates in files, as an operator writes them, and the stackds that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.harness import Client, Harness, Machine, eventually, until

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
ABOUT = """\
title: Cookie jar
category: web
description: "Find *the* cookie."
show: [FLAG]
extend: {by: 90m, times: 2}
names: [db, cache]
env: {TEAM: {pattern: "[0-9]{1,4}"}}
"""
CHECK = """\
check: {image: "registry.example/solve:1", command: [sh, -c, "echo solved in 3 steps; exit 0"]}
"""
BODY = {"template": "web-1"}


def folder_with(folder: Path, **templates: str) -> dict[str, str]:
    """A folder of templates, and the setting that names it."""
    (folder / "templates").mkdir(exist_ok=True)
    for name, text in templates.items():
        (folder / "templates" / f"{name.replace('_', '-')}.yaml").write_text(text)
    return {"STACKD_TEMPLATES__DIRECTORY": str(folder / "templates")}


def take_away(folder: Path, *names: str) -> None:
    for name in names:
        (folder / "templates" / f"{name}.yaml").unlink()


async def start(vm: Machine, **templates: str) -> Harness:
    """A stackd with these templates, here and after each further start."""
    vm.options |= {"settings": folder_with(vm.folder, **templates)}
    return await vm.start()


async def values_of(at: Harness, stack_id: str) -> list[dict[str, str]]:
    """The environment of each container of the stack's pod, init containers first."""
    spec = (await at.objects("pods"))[stack_id]["spec"]
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    return [{one["name"]: one["value"] for one in container.get("env", [])} for container in containers]


async def shown(at: Client, query: str = "") -> dict[str, Any]:
    """The templates, by name."""
    return {one["name"]: one for one in (await at.get(f"/templates{query}"))["templates"]}


async def until_pooled(at: Harness, template: str = "web-1", size: int = 1) -> None:
    """Return once so many stacks of the pool can be assigned: nothing is due for them any more, and no await follows."""
    queue = at.daemon.context.loop.queue
    running = f"SELECT stack_id FROM stacks WHERE unassigned = 1 AND status = 'running' AND template = '{template}'"
    await until(lambda: shown(at), lambda seen: seen[template]["ready"] >= size)
    await eventually(lambda: sum(stack_id not in queue for (stack_id,) in at.rows(running)) >= size)
