"""For each crash point, a scene that leads to it for certain: what is done until the daemon has died there.

Owns: one scene for every name in ``crashpoints.POINTS``; a name without a scene fails a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from stackd.embedded.resources import CONFIG_MAPS, PODS, SERVICES
from tests.faults.foreign import OURS
from tests.faults.invariant_monitor import InvariantMonitor
from tests.faults.ledger import RUNS_ON
from tests.faults.operations import Operations
from tests.faults.troubles import Troubles
from tests.faults.world import NAMESPACE, World

ENDS = "app/exit0"
ALL_BEFORE_THE_CHUNK = 60
"""More ids than a job starts at once, so that each of its crash points is reached twice."""

LIFETIME = 7300.0
LAST = 0.9999
"""Picks the newest stack."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """Where a scene is played; ``point`` is the crash point at which the daemon has to die."""

    world: World
    operations: Operations
    troubles: Troubles
    monitor: InvariantMonitor
    point: str

    @property
    def over(self) -> bool:
        """Whether the daemon has died there."""
        return self.world.counts[f"died at {self.point}"] > 0

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, or for the daemon's death."""
        while not condition() and not self.over:
            await asyncio.sleep(0.01)

    async def stack(self, image: str = RUNS_ON) -> str:
        """Create a stack and return its id; an empty string if the daemon died before the acknowledgement."""
        create = self.operations.new_create(image)
        while not self.over and (await self.operations.attempt(create)).status == 503:
            await asyncio.sleep(0.02)
        return create.answers[0]["stack_id"] if create.answers else ""


Act = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """``act`` is repeated until the daemon has died. ``before``: the crash points of the starts before that one.

    ``times``: how often one life of a daemon reaches the point; a test runs for each of these times.
    """

    act: Act
    before: tuple[str, ...] = ()
    times: int = 2
    late: bool = False
    pool: int = 0
    pooled: str = RUNS_ON
    """The image of the ``pool`` stacks that wait in a pool."""


async def create(stage: Stage) -> None:
    """Two clients create: one repeats its request under a key, the other does not."""
    create = stage.operations.new_create(RUNS_ON, keyed=True)
    await asyncio.gather(stage.stack(), stage.operations.attempt(create))


async def create_where_all_ports_are_taken(stage: Stage) -> None:
    """Each proposed port is held by somebody else."""
    held = asyncio.create_task(stage.troubles.take_ports(share=1.0, seconds=600.0))
    try:
        await create(stage)
    finally:
        held.cancel()


async def create_in_vain(stage: Stage) -> None:
    """The cluster refuses the Service when the pod exists already."""
    await stage.troubles.status(verb="create", resource="services", count=1, code=403)
    await stage.operations.create(RUNS_ON)


async def create_again_before_all_is_seen(stage: Stage) -> None:
    """A crash interrupts a create; the client repeats it before the daemon has seen what exists."""
    world = stage.world
    first = stage.operations.new_create(RUNS_ON, keyed=True)
    while world.counts["died at create.pod_created"] == 0:
        await stage.operations.attempt(first)
        world.cluster.faults.add_fault(action="latency", verb="list", resource="pods", seconds=1.5)
    await world.listening()
    while not stage.over:
        await stage.operations.attempt(first)
        await asyncio.sleep(0.02)


async def start_after_a_create_was_cut_short(stage: Stage) -> None:
    """The first daemon dies in a create, the second while it undoes that create."""
    while not stage.over:
        await stage.operations.create(RUNS_ON)
        await asyncio.sleep(0.02)


async def delete(stage: Stage) -> None:
    """Create and delete a stack."""
    if stack_id := await stage.stack():
        await stage.operations.delete_one(stack_id)


async def stop(stage: Stage) -> None:
    """Create and stop a stack."""
    if await stage.stack():
        await stage.operations.stop(LAST)


async def delete_stopped(stage: Stage) -> None:
    """Create, stop and delete a stack."""
    if stack_id := await stage.stack():
        await stage.operations.stop(LAST)
        await stage.operations.delete_one(stack_id)


async def lose_record(stage: Stage) -> None:
    """Somebody deletes the record of a stopped stack; the daemon restores it."""
    stack_id = await stage.stack()
    if stack_id:
        await stage.operations.stop(LAST)
        store = stage.world.cluster.store
        if (record := store.of(CONFIG_MAPS).records.get((NAMESPACE, stack_id))) is not None:
            store.remove(record)
            await stage.until(lambda: (NAMESPACE, stack_id) in store.of(CONFIG_MAPS).records)


async def restart(stage: Stage) -> None:
    """Restart a stack: it gets a new pod."""
    if await stage.stack():
        await stage.operations.restart(LAST)


async def extend(stage: Stage) -> None:
    """Extend a stack."""
    if await stage.stack():
        await stage.operations.extend(LAST, "10m", keyed=True)


async def end(stage: Stage) -> None:
    """Create a stack whose pod exits by itself."""
    stack_id = await stage.stack(ENDS)
    await stage.until(lambda: (row := stage.world.file.row(stack_id)) is None or not row.ports_held)


async def expire(stage: Stage) -> None:
    """Create a stack that expires."""
    stack_id = await stage.stack()
    stage.world.skew.jump(LIFETIME)
    await stage.until(lambda: stage.world.file.row(stack_id) is None)


async def batch(stage: Stage) -> None:
    """A batch-delete job of two chunks, with stacks in both."""
    stacks = [await stage.stack() for _ in range(2)]
    operations, ledger = stage.operations, stage.world.ledger
    known = [stack_id for stack_id in stacks if stack_id]
    if len(known) < len(stacks):
        return
    positions = [ledger.known().index(stack_id) / len(ledger.known()) + 0.001 for stack_id in known]
    await operations.batch(positions[:1], ALL_BEFORE_THE_CHUNK, keyed=True)
    await operations.batch(positions, 0)
    await stage.until(lambda: all(stage.world.file.row(stack_id) is None for stack_id in known))


async def lose_service(stage: Stage) -> None:
    """Somebody deletes a Service; the daemon restores it."""
    stack_id = await stage.stack()
    if stack_id:
        _remove_service(stage, stack_id)
        await stage.until(lambda: f"svc-{stack_id}" in stage.world.ours("services"))


async def change_service(stage: Stage) -> None:
    """Somebody breaks a Service's selector; the daemon replaces the Service."""
    stack_id = await stage.stack()
    if stack_id:
        store = stage.world.cluster.store
        before = store.of(SERVICES).get(NAMESPACE, f"svc-{stack_id}")
        store.update(before, spec=before.obj["spec"] | {"selector": {"stackd.io/stack": "nobody"}})

        def anew() -> bool:
            now = store.of(SERVICES).records.get((NAMESPACE, f"svc-{stack_id}"))
            return now is not None and now.uid != before.uid

        await stage.until(anew)


async def take_labels_off(stage: Stage) -> None:
    """Somebody removes the labels of a pod; the daemon restores them."""
    stack_id = await stage.stack()
    if stack_id:
        store = stage.world.cluster.store
        before = store.of(PODS).get(NAMESPACE, stack_id)
        metadata = before.obj["metadata"]
        store.update(before, metadata={key: value for key, value in metadata.items() if key != "labels"})
        await stage.until(lambda: stack_id in stage.world.ours("pods"))


async def lose_service_and_port(stage: Stage) -> None:
    """Somebody deletes a Service, and somebody else takes its port."""
    stack_id = await stage.stack()
    row = stage.world.file.row(stack_id)
    if row is not None:
        _remove_service(stage, stack_id)
        stage.troubles.take_these(row.ports)
        await stage.until(lambda: f"svc-{stack_id}" in stage.world.ours("services"))


async def leave_behind(stage: Stage) -> None:
    """There is a pod of a stack that the file says was deleted long ago."""
    number = stage.world.counts["left behind"] = stage.world.counts["left behind"] + 1
    name = f"stack-1e{number:014x}"
    stage.world.file.remember_as_removed(name)
    pod = stage.world.foreign.new_pod(name, OURS | {"stackd.io/stack": name})
    stage.monitor.excuse(pod["metadata"]["uid"])
    stage.world.cluster.store.create(PODS, pod)
    await stage.until(lambda: name not in stage.world.objects("pods"))


async def create_late(stage: Stage) -> None:
    """A failed create takes effect when its row is already deleted."""
    faults = stage.world.cluster.faults
    faults.add_fault(action="late", verb="create", resource="pods", count=1, seconds=0.5)
    faults.add_fault(action="status", verb="create", resource="pods", count=2, code=403)
    create = stage.operations.new_create(RUNS_ON)
    await stage.operations.attempt(create, may_be_invalid=True)
    faults.clear()
    await asyncio.sleep(0.6)


async def press(stage: Stage) -> None:
    """Two clients create from the pool once it has a stack: one under a key, the other only once."""
    rows = stage.world.file.rows
    await stage.until(lambda: sum(row.unassigned and row.status == "running" for row in rows().values()) > 1)
    operations = stage.operations
    await asyncio.gather(operations.create_of_template(), operations.create_of_template(keyed=True))


async def need_a_port(stage: Stage) -> None:
    """The pool holds all node ports, and a client creates a stack of another kind."""
    rows = stage.world.file.rows
    await stage.until(lambda: any(row.unassigned and row.status == "running" for row in rows().values()))
    await stage.operations.create(RUNS_ON)


async def start(_: Stage) -> None:
    """The start alone reaches the point."""
    await asyncio.sleep(0.02)


def _remove_service(stage: Stage, stack_id: str) -> None:
    store = stage.world.cluster.store
    store.remove(store.of(SERVICES).get(NAMESPACE, f"svc-{stack_id}"))


SCENES: dict[str, Scene] = {
    "create.before_reserve": Scene(act=create),
    "create.reserved": Scene(act=create),
    "create.pod_created": Scene(act=create),
    "create.service_created": Scene(act=create),
    "create.port_replaced": Scene(act=create_where_all_ports_are_taken),
    "create.scheduled": Scene(act=create),
    "create.accepted": Scene(act=create),
    "create.undo_marked": Scene(act=create_in_vain),
    "replay.undo_marked": Scene(act=create_again_before_all_is_seen, before=("create.pod_created",), times=1),
    "replay.undone": Scene(act=create_again_before_all_is_seen, before=("create.pod_created",), times=1),
    "delete.marked": Scene(act=delete),
    "delete.service_deleted": Scene(act=delete),
    "delete.pod_deleted": Scene(act=delete),
    "delete.record_deleted": Scene(act=delete_stopped),
    "delete.confirmed": Scene(act=delete),
    "delete.removed": Scene(act=delete),
    "release.service_deleted": Scene(act=end),
    "release.released": Scene(act=end),
    "stop.intended": Scene(act=stop),
    "stop.recorded": Scene(act=stop),
    "stop.cleared": Scene(act=stop),
    "stop.stopped": Scene(act=stop),
    "restart.intended": Scene(act=restart),
    "restart.recorded": Scene(act=restart),
    "restart.cleared": Scene(act=restart),
    "restart.pod_created": Scene(act=restart),
    "restart.record_deleted": Scene(act=restart),
    "restart.service_created": Scene(act=restart),
    "restart.started": Scene(act=restart),
    "extend.extended": Scene(act=extend),
    "extend.annotated": Scene(act=extend),
    "assign.picked": Scene(act=press, pool=3),
    "assign.assigned": Scene(act=press, pool=3),
    "assign.annotated": Scene(act=press, pool=3),
    "pool.delete_marked": Scene(act=start, pool=2, pooled=ENDS),
    "pool.preempted": Scene(act=need_a_port, pool=12),
    "expire.marked": Scene(act=expire),
    "batch.queued": Scene(act=batch),
    "batch.begun": Scene(act=batch),
    "batch.confirmed": Scene(act=batch),
    "batch.counted": Scene(act=batch),
    "reconcile.undo_marked": Scene(act=start_after_a_create_was_cut_short, before=("create.service_created",), times=1),
    "repair.port_replaced": Scene(act=lose_service_and_port),
    "repair.service_created": Scene(act=lose_service),
    "repair.service_removed": Scene(act=change_service),
    "repair.record_put_right": Scene(act=lose_record),
    "repair.labels_put_back": Scene(act=take_labels_off),
    "late.noticed": Scene(act=create_late, late=True),
    "orphan.removed": Scene(act=leave_behind),
    "bring_up.identified": Scene(act=start, times=1),
}
