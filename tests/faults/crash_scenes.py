"""For each crash point, a scene that leads to it for certain: what is done until the daemon has died there.

Owns: at least one scene for every name of a crash point; a name without a scene fails a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from stackd.embedded.resources import HTTP_ROUTES, PODS, SERVICES
from tests.earlier import as_version_before
from tests.faults.ledger import RUNS_ON
from tests.faults.operations import ROUTES, Operations
from tests.faults.oracle import FINISHED, InvariantMonitor
from tests.faults.troubles import Troubles
from tests.faults.world import NAMESPACE, OURS, World

ENDS = "app/exit0"
ALL_BEFORE_THE_CHUNK = 60
"""More ids than a job starts at once, so that each of its crash points is reached twice."""

LIFETIME = 7300.0
NO_ROUTES = ("",)
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
    """``act`` is repeated until the daemon has died. ``before``: the crash points of the starts before that one; "" is none.

    ``times``: how often one life of a daemon reaches the point; a test runs for each of these times.
    """

    act: Act
    before: tuple[str, ...] = ()
    times: int = 2
    late: bool = False
    routes: Sequence[str] = ROUTES
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
    """Somebody removes the annotations of a stopped stack's Service; the daemon restores them."""
    stack_id = await stage.stack()
    if stack_id:
        await stage.operations.stop(LAST)
        store = stage.world.cluster.store
        before = store.of(SERVICES).get(NAMESPACE, f"svc-{stack_id}")
        metadata = before.obj["metadata"]
        store.update(before, metadata={key: value for key, value in metadata.items() if key != "annotations"})
        await stage.until(lambda: "annotations" in stage.world.ours("services")[f"svc-{stack_id}"]["metadata"])


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


async def batch_of(action: str, stage: Stage) -> None:
    """Two jobs of this action with two stacks in both, and one of them with more ids than a chunk has."""
    stacks = [await stage.stack() for _ in range(2)]
    if not all(stacks):
        return
    known, batches = stage.world.ledger.known(), stage.world.ledger.batches
    positions = [known.index(stack_id) / len(known) + 0.001 for stack_id in stacks]
    await stage.operations.batch(positions, ALL_BEFORE_THE_CHUNK, keyed=True, action=action)
    await stage.operations.batch(positions, 0, action=action)

    def finished() -> bool:
        jobs = [stage.world.file.job(batch.job_id) for batch in batches if batch.job_id is not None]
        return all(job is not None and job.status in FINISHED for job in jobs)

    await stage.until(finished)


async def lose_service(stage: Stage) -> None:
    """Somebody deletes a Service; the daemon restores it."""
    stack_id = await stage.stack()
    if stack_id:
        _remove_service(stage, stack_id)
        await stage.until(lambda: f"svc-{stack_id}" in stage.world.ours("services"))


async def change_service(stage: Stage) -> None:
    """Somebody breaks a Service's selector; the daemon repairs it."""
    stack_id = await stage.stack()
    if stack_id:
        store = stage.world.cluster.store
        before = store.of(SERVICES).get(NAMESPACE, f"svc-{stack_id}")
        store.update(before, spec=before.obj["spec"] | {"selector": {"stackd.io/stack": "nobody"}})
        own = {"stackd.io/stack": stack_id}
        await stage.until(lambda: stage.world.record("services", f"svc-{stack_id}").obj["spec"]["selector"] == own)


async def lose_route(stage: Stage) -> None:
    """Somebody deletes all that gives a stack its name; the daemon restores it."""
    if await stage.stack():
        store, names = stage.world.cluster.store, stage.world.ours("routes").keys()
        for resource in (HTTP_ROUTES, SERVICES):
            for record in [one for key, one in store.of(resource).records.items() if key[1] in names]:
                store.remove(record)
        await stage.until(lambda: stage.world.ours("routes").keys() >= names)


async def change_route(stage: Stage) -> None:
    """Somebody changes the names in the routes; the daemon repairs them."""
    if await stage.stack():
        store, other = stage.world.cluster.store, ["other.test"]
        for record in list(store.of(HTTP_ROUTES).records.values()):
            store.update(record, spec=record.obj["spec"] | {"hostnames": other})
        await stage.until(lambda: all(o["spec"].get("hostnames") != other for o in stage.world.ours("routes").values()))


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


async def leave_beside_an_ended_stack(stage: Stage) -> None:
    """A stack has ended because its pod was deleted; then a pod with its name and labels appears."""
    stack_id = await stage.stack()
    if stack_id:
        await stage.operations.delete_pod_by_hand(LAST)
        await stage.until(lambda: (row := stage.world.file.row(stack_id)) is None or row.ended)
        pod = stage.world.foreign.new_pod(stack_id, OURS | {"stackd.io/stack": stack_id})
        stage.monitor.excuse(pod["metadata"]["uid"])
        stage.world.cluster.store.create(PODS, pod)
        await stage.until(lambda: stack_id not in stage.world.objects("pods"))


async def upgrade(stage: Stage) -> None:
    """Two running, two stopped stacks and an ended one have the objects of the version before; stackd starts."""
    world = stage.world
    await _several(stage)
    await world.machine.gone(kill=False)
    as_version_before(world.cluster)
    world.machine.absent = False
    await _until_converted(stage)


async def upgrade_and_lose_file(stage: Stage) -> None:
    """The same, and the state file is lost."""
    world = stage.world
    await _several(stage)
    await world.machine.gone(kill=False)
    as_version_before(world.cluster)
    world.machine.lose_file()
    world.ledger.forget()
    stage.monitor.forget()
    world.machine.absent = False
    await _until_converted(stage)


async def _several(stage: Stage) -> None:
    """Make two running stacks, two stopped ones and one that has ended."""
    for _ in range(2):
        await stage.stack()
        await stage.stack()
        await stage.operations.stop(LAST)
    ended = await stage.stack(ENDS)
    await stage.until(lambda: (row := stage.world.file.row(ended)) is None or not row.ports_held)


async def _until_converted(stage: Stage) -> None:
    def converted() -> bool:
        services = stage.world.ours("services").values()
        return not stage.world.objects("configmaps") and all("annotations" in one["metadata"] for one in services)

    await stage.until(converted)


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
    "create.route_created": Scene(act=create),
    "create.scheduled": Scene(act=create),
    "create.accepted": Scene(act=create),
    "create.undo_marked": Scene(act=create_in_vain),
    "create.undo_marked after a crash": Scene(
        act=start_after_a_create_was_cut_short, before=("create.service_created",), times=1
    ),
    "replay.undo_marked": Scene(act=create_again_before_all_is_seen, before=("create.pod_created",), times=1),
    "replay.undone": Scene(act=create_again_before_all_is_seen, before=("create.pod_created",), times=1),
    "service.port_replaced": Scene(act=create_where_all_ports_are_taken),
    "service.port_replaced by others": Scene(act=lose_service_and_port),
    "service.put": Scene(act=lose_service),
    "service.put after a change": Scene(act=change_service),
    "service.put without a record": Scene(act=lose_record),
    "service.put in an upgrade": Scene(act=upgrade, before=("",), times=5, routes=NO_ROUTES),
    "service.put in an upgrade without the file": Scene(
        act=upgrade_and_lose_file, before=("",), times=4, routes=NO_ROUTES
    ),
    "upgrade.config_map_deleted": Scene(act=upgrade, before=("",), routes=NO_ROUTES),
    "upgrade.config_map_deleted without the file": Scene(act=upgrade_and_lose_file, before=("",), routes=NO_ROUTES),
    "route.put": Scene(act=lose_route),
    "route.put after a change": Scene(act=change_route),
    "delete.marked": Scene(act=delete),
    "delete.service_deleted": Scene(act=delete),
    "delete.pod_deleted": Scene(act=delete),
    "delete.route_deleted": Scene(act=delete),
    "delete.confirmed": Scene(act=delete),
    "delete.confirmed when stopped": Scene(act=delete_stopped),
    "delete.removed": Scene(act=delete),
    "release.service_changed": Scene(act=end),
    "release.released": Scene(act=end),
    "stop.intended": Scene(act=stop),
    "stop.recorded": Scene(act=stop),
    "stop.stopped": Scene(act=stop),
    "restart.intended": Scene(act=restart),
    "restart.recorded": Scene(act=restart),
    "restart.cleared": Scene(act=restart),
    "restart.pod_created": Scene(act=restart),
    "restart.started": Scene(act=restart),
    "extend.extended": Scene(act=extend),
    "extend.recorded": Scene(act=extend),
    "assign.picked": Scene(act=press, pool=3),
    "assign.assigned": Scene(act=press, pool=3),
    "assign.opened": Scene(act=press, pool=3),
    "pool.delete_marked": Scene(act=start, pool=2, pooled=ENDS),
    "pool.preempted": Scene(act=need_a_port, pool=12),
    "expire.marked": Scene(act=expire),
    "batch.queued": Scene(act=batch),
    "batch.begun": Scene(act=batch),
    "batch.confirmed": Scene(act=batch),
    "batch.counted": Scene(act=batch),
    "batch.begun of extensions": Scene(act=partial(batch_of, "extend")),
    "batch.begun of restarts": Scene(act=partial(batch_of, "restart")),
    "batch.confirmed of restarts": Scene(act=partial(batch_of, "restart")),
    "batch.counted of restarts": Scene(act=partial(batch_of, "restart")),
    "repair.labels_put_back": Scene(act=take_labels_off),
    "orphan.removed": Scene(act=leave_behind),
    "orphan.removed beside an ended stack": Scene(act=leave_beside_an_ended_stack),
    "bring_up.identified": Scene(act=start, times=1),
}
"""By crash point, and a few words where there are several ways to it."""
