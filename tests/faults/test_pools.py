"""No stack of a pool is given away that is not known to be alive, whatever its row says (invariant 11).

Nor one whose delete is decided at the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stackd.embedded.resources import NODES
from stackd.lifecycle import crashpoints
from stackd.model import DeleteReason
from tests.faults.ledger import RUNS_ON
from tests.faults.operations import Operations
from tests.faults.oracle import Oracle
from tests.faults.processes import ForkServer
from tests.faults.schedule import converge
from tests.faults.world import TEMPLATE, World, world
from tests.harness import eventually, harness

SETTINGS = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31040"}
SEEN_SECONDS = 10.0


@asynccontextmanager
async def full_pool(folder: Path, forkserver: ForkServer) -> AsyncIterator[World]:
    """A daemon with a pool of four running stacks."""
    async with world(folder, forkserver, dict(SETTINGS)) as here:
        here.pool = 4
        here.put_template(here.pool, RUNS_ON)
        await here.keep_running()
        await here.ready()
        assert await converge(here, Oracle(here)), here.violations
        yield here


async def until_seen(here: World, nodes: int) -> None:
    """Return when the daemon sees this many nodes that take stacks."""
    async with asyncio.timeout(SEEN_SECONDS):
        while len((await here.call("GET", "/capacity")).body["nodes"]) != nodes:
            await asyncio.sleep(0.01)


def waiting(here: World) -> set[str]:
    return {row.stack_id for row in here.file.rows().values() if row.unassigned and row.template == TEMPLATE}


async def test_none_is_given_whose_node_has_stopped_answering(forkserver: ForkServer, tmp_path: Path) -> None:
    async with full_pool(tmp_path, forkserver) as here:
        on = {name: pod["spec"]["nodeName"] for name, pod in here.ours("pods").items()}
        silent = on[min(waiting(here))]
        store = here.cluster.store
        node = store.of(NODES).get("", silent)
        conditions = [one | {"status": "Unknown"} for one in node.obj["status"]["conditions"]]
        store.update(node, status=node.obj["status"] | {"conditions": conditions})
        await until_seen(here, 1)
        operations = Operations(here)
        dead = {name for name in waiting(here) if on.get(name) == silent}
        for _ in range(2 * here.pool):
            await operations.create_of_template()
        given = here.ledger.told().keys()
        assert len(given) == 2 * here.pool, here.trace
        assert not dead & given
        assert not here.violations


TWO_WAIT = """\
target_port: [{container_port: 80, protocol: TCP}]
pool: 2
pod:
  apiVersion: v1
  kind: Pod
  metadata: {name: web}
  spec:
    containers:
    - name: app
      image: nginx:stable
      ports: [{containerPort: 80, protocol: TCP}]
      resources: {limits: {cpu: 100m, memory: 64Mi}}
"""


async def test_none_is_given_whose_end_is_committed_just_before_it_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The delete is in the writer's queue before the claim; the claim chose the stack while it was still available."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "web-1.yaml").write_text(TWO_WAIT)
    async with harness(tmp_path, {"STACKD_TEMPLATES__DIRECTORY": str(tmp_path / "templates")}) as at:
        context = at.daemon.context
        template = context.settings.templates["web-1"]
        await eventually(lambda: context.pools.figures(template).ready == template.pool)
        oldest = min(context.store.stacks.ordered(), key=lambda row: row.created_at).stack_id
        ends: list[asyncio.Task[object]] = []

        def end_what_was_picked(point: str) -> None:
            if point == "assign.picked" and not ends:
                ending = context.store.stacks.mark_deleting([oldest], DeleteReason.POOL)
                waits_for = ending.send(None)  # the delete is in the queue from here on
                ends.append(asyncio.ensure_future(waits_for))

        monkeypatch.setattr(crashpoints, "hook", end_what_was_picked)
        made = await at.create({"template": "web-1"})
        monkeypatch.setattr(crashpoints, "hook", None)
        await asyncio.gather(*ends)
        assert made["stack_id"] != oldest
        context.worker.add(oldest)
        await eventually(lambda: oldest not in context.store.stacks.ids())
        assert (await at.stack(made["stack_id"]))["status"] == "running"
