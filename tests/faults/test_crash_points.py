"""The daemon dies at each crash point, for certain, the first and the second time it gets there; nothing is lost.

Each scene leads to some of the points; a name without a scene fails a test. The daemon that recovers from one death is
armed with the next, and may die of it before all has recovered.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from stackd.embedded.resources import HTTP_ROUTES, PODS, SERVICES, Resource
from tests.faults.file import Row
from tests.faults.injector import Injector
from tests.faults.ledger import RUNS_ON
from tests.faults.operations import DURABLE, ROUTES, Operations
from tests.faults.oracle import FINISHED, InvariantMonitor, Oracle
from tests.faults.plan import POINTS
from tests.faults.schedule import converge, judge
from tests.faults.world import NAMESPACE, OURS, SHARED, STACK, TEMPLATE, TEMPLATE_FILE, World, world

# Connections are cut at any moment here, at both ends; asyncio's messages about it are no findings.
pytestmark = pytest.mark.filterwarnings("ignore:.*_SelectorTransport:pytest.PytestUnraisableExceptionWarning")

DEATH_SECONDS = 75.0
ENDS = "app/exit0"
MEMBERS = ("members",)
"""Each stack that a client creates has two pods beside its first."""
ALL_BEFORE_THE_CHUNK = 60
"""More ids than a job starts at once, so that each of its crash points is reached twice."""

LIFETIME = 7300.0
LAST = 0.9999
"""Picks the newest stack."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """Where a scene is played; ``before``: how many deaths there were when the act began."""

    world: World
    operations: Operations
    injector: Injector
    before: int = 0
    written: bool | None = None
    """Whether the template of the API is there; None while the answer to a change of it is not known."""

    @property
    def over(self) -> bool:
        """Whether the daemon has died in this act."""
        return self.world.counts["deaths"] > self.before

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition() and not self.over:
            await asyncio.sleep(0.01)

    async def until_row(self, stack_id: str, condition: Callable[[Row], bool]) -> None:
        await self.until(lambda: (row := self.world.file.row(stack_id)) is None or condition(row))

    async def stack(self, image: str = RUNS_ON) -> str:
        """Create a stack and return its id; an empty string if the daemon died before the acknowledgement."""
        create = self.operations.new_create(image)
        while not self.over and (await self.operations.attempt(create)).status == 503:
            await asyncio.sleep(0.02)
        return create.answers[0]["stack_id"] if create.answers else ""

    def update(self, resource: Resource, name: str, **fields: dict[str, Any]) -> None:
        store = self.world.cluster.store
        record = store.of(resource).get(NAMESPACE, name)
        store.update(record, **fields)

    def without(self, resource: Resource, name: str, part: str) -> None:
        metadata = self.world.cluster.store.of(resource).get(NAMESPACE, name).obj["metadata"]
        self.update(resource, name, metadata={key: value for key, value in metadata.items() if key != part})


async def create(stage: Stage) -> None:
    """Two clients create: one repeats its request under a key, the other does not."""
    await asyncio.gather(stage.stack(), stage.operations.attempt(stage.operations.new_create(keyed=True)))


async def take_a_spare(stage: Stage) -> None:
    """A create takes a spare Service, and at the next start there are to be fewer."""
    here = stage.world
    for count in (3, 1):
        await _start_again(stage, partial(here.settings.update, STACKD_STACKS__SPARE_SERVICES=str(count)))
        await stage.until(lambda count=count: _spares(stage) == count)  # type: ignore[misc]
        if not stage.over:
            await stage.operations.attempt(stage.operations.new_create(keyed=True))


def _spares(stage: Stage) -> int:
    return sum("stackd.io/spare" in one["metadata"]["labels"] for one in stage.world.ours("services").values())


async def create_where_all_ports_are_taken(stage: Stage) -> None:
    held = asyncio.create_task(stage.injector.take_ports(share=1.0, seconds=600.0))
    try:
        await create(stage)
    finally:
        held.cancel()


async def create_in_vain(stage: Stage) -> None:
    """The cluster refuses the Service when the pod exists already."""
    stage.injector.request(action="status", verb="create", resource="services", count=1, code=403)
    await stage.operations.create()


async def create_again_before_all_is_seen(stage: Stage) -> None:
    """A crash interrupts a create; the client repeats it before the daemon has seen what exists."""
    first = stage.operations.new_create(keyed=True)
    for seconds in (1.5, 0.0):
        stage.before = stage.world.counts["deaths"]
        await stage.world.listening()
        while not stage.over:
            await stage.operations.attempt(first)
            await asyncio.sleep(0.02)
        stage.world.cluster.faults.clear()
        stage.injector.request(action="latency", verb="list", resource="pods", seconds=seconds)


async def delete(stage: Stage, *, stopped: bool = False) -> None:
    if stack_id := await stage.stack():
        if stopped:
            await stage.operations.change(LAST, "stop")
        await stage.operations.delete_one(stack_id)


async def do(stage: Stage, what: str, **how: Any) -> None:
    """A client does this with its new stack."""
    if await stage.stack():
        await getattr(stage.operations, what)(LAST, **how)


async def restart_a_member(stage: Stage) -> None:
    if stack_id := await stage.stack():
        before = stage.world.objects("pods").get(f"{stack_id}-db")
        while not stage.over:
            if (await stage.world.call("POST", f"/stacks/{stack_id}/restart?member=db", None)).status == 200:
                after = stage.world.objects("pods").get(f"{stack_id}-db")
                assert before is None or after is None or after["metadata"]["uid"] != before["metadata"]["uid"]
                return
            await asyncio.sleep(0.02)


async def lose_member(stage: Stage) -> None:
    """Somebody deletes the pod of a member: the stack ends, and the others go."""
    stack_id = await stage.stack()
    stage.world.ledger.touched.add(stack_id)
    stage.world.remove("pods", f"{stack_id}-mail")
    await stage.until_row(stack_id, lambda row: not row.ports_held)


async def end(stage: Stage) -> None:
    """A pod exits by itself."""
    await stage.until_row(await stage.stack(ENDS), lambda row: not row.ports_held)


async def expire(stage: Stage) -> None:
    stack_id = await stage.stack()
    stage.world.skew.jump(LIFETIME)
    await stage.until_row(stack_id, lambda _: False)


async def batch(stage: Stage, action: str = "delete") -> None:
    """Two jobs with two stacks, and one of them with more ids than a chunk has."""
    ids = [await stage.stack() for _ in range(2)]
    if not all(ids):
        return
    for unknown in (ALL_BEFORE_THE_CHUNK, 0):
        await stage.operations.submit(stage.operations.new_batch(ids, unknown, keyed=unknown > 0, action=action))

    await stage.until(partial(_jobs_finished, stage))


def _jobs_finished(stage: Stage) -> bool:
    submitted = [one.job_id for one in stage.world.ledger.batches if one.job_id is not None]
    return all((job := stage.world.file.job(one)) is not None and job.status in FINISHED for one in submitted)


async def start_a_class(stage: Stage) -> None:
    """A job creates stacks, of which the first come from a pool."""
    await stage.operations.create_many(6, keyed=True)
    await stage.until(partial(_jobs_finished, stage))


async def renew(stage: Stage) -> None:
    """A job gives two stacks the newest version of their template."""
    ids: list[str] = []
    for _ in range(2):
        create = stage.operations.new_create(template="pooled")
        while not (stage.over or create.answers):
            await stage.operations.attempt(create)
            await asyncio.sleep(0.02)
        ids += create.ids
    if not stage.over:
        await stage.operations.submit(stage.operations.new_batch(ids, 0, keyed=True, action="renew"))
    await stage.until(partial(_jobs_finished, stage))


async def lose_service(stage: Stage, *, port_too: bool = False) -> None:
    """Somebody deletes a Service, and somebody else may take its port."""
    stack_id = await stage.stack()
    row = stage.world.file.row(stack_id)
    if row is not None:
        stage.world.remove("services", f"svc-{stack_id}")
        if port_too:
            stage.injector.take_these(row.ports)
        await stage.until(lambda: f"svc-{stack_id}" in stage.world.ours("services"))


async def change_service(stage: Stage) -> None:
    """Somebody breaks a Service's selector."""
    if stack_id := await stage.stack():
        name, services = f"svc-{stack_id}", stage.world.ours("services")
        stage.update(SERVICES, name, spec=services[name]["spec"] | {"selector": {"stackd.io/stack": "nobody"}})
        own = {"stackd.io/stack": stack_id}
        await stage.until(lambda: stage.world.ours("services")[name]["spec"]["selector"] == own)


async def lose_record(stage: Stage) -> None:
    """Somebody removes the annotations of a stopped stack's Service."""
    if stack_id := await stage.stack():
        name = f"svc-{stack_id}"
        await stage.operations.change(LAST, "stop")
        stage.without(SERVICES, name, "annotations")
        await stage.until(lambda: "annotations" in stage.world.ours("services")[name]["metadata"])


async def lose_labels(stage: Stage) -> None:
    """Somebody removes the labels of a pod."""
    if stack_id := await stage.stack():
        stage.without(PODS, stack_id, "labels")
        await stage.until(lambda: stack_id in stage.world.ours("pods"))


async def lose_route(stage: Stage) -> None:
    """Somebody deletes all that gives a stack its name."""
    if await stage.stack():
        store, names = stage.world.cluster.store, stage.world.ours("routes").keys()
        for resource in (HTTP_ROUTES, SERVICES):
            for record in [one for key, one in store.of(resource).records.items() if key[1] in names]:
                store.remove(record)
        await stage.until(lambda: stage.world.ours("routes").keys() >= names)


async def change_route(stage: Stage) -> None:
    """Somebody changes the names in the routes."""
    if await stage.stack():
        other = ["other.test"]
        for name, route in stage.world.ours("routes").items():
            if not name.startswith("rt-"):
                stage.update(HTTP_ROUTES, name, spec=route["spec"] | {"hostnames": other})
        await stage.until(lambda: all(o["spec"].get("hostnames") != other for o in stage.world.ours("routes").values()))


async def leave_behind(stage: Stage) -> None:
    """There is a pod of a stack that the file says was deleted long ago."""
    name = f"stack-{secrets.token_hex(8)}"
    stage.world.file.remember_as_removed(name)
    await _put_stray(stage, name)


async def leave_beside_an_ended_stack(stage: Stage) -> None:
    """A stack has ended because its pod was deleted; then a pod with its name and labels appears."""
    if stack_id := await stage.stack():
        await stage.operations.lose_pod(LAST)
        await stage.until_row(stack_id, lambda row: row.ended)
        await _put_stray(stage, stack_id)


async def _put_stray(stage: Stage, name: str) -> None:
    stage.world.foreign.put_pod(name, OURS | {STACK: name})
    await stage.until(lambda: name not in stage.world.objects("pods"))


async def press(stage: Stage) -> None:
    """Two clients create from the pool once it has a stack: one under a key, the other only once."""
    await stage.until(lambda: _waiting(stage) > 1)
    create = stage.operations.create
    await asyncio.gather(create(template="pooled"), create(template="pooled", keyed=True))


async def need_a_port(stage: Stage) -> None:
    await stage.until(lambda: _waiting(stage) > 0)
    await stage.operations.create()


def _waiting(stage: Stage) -> int:
    return sum(row.unassigned and row.status == "running" for row in stage.world.file.rows().values())


async def share(stage: Stage) -> None:
    """The pod of a shared stack is lost; later its end is put off."""
    await stage.until(lambda: _shared(stage, "running"))
    for row in _shared_rows(stage):
        stage.world.remove("pods", row.pod_name)
        await stage.until(lambda pod=row.pod_name: all(one.pod_name != pod for one in _shared_rows(stage)))  # type: ignore[misc]
    await stage.until(lambda: _shared(stage, "running"))
    stage.world.skew.jump(6 * LIFETIME)
    await stage.until(
        lambda: all(one.ttl_expires_at > stage.world.skew.now() + 6 * LIFETIME * 10**9 for one in _shared_rows(stage))
    )


async def share_no_more(stage: Stage) -> None:
    """A template is shared at one start, and not at the next."""
    here = stage.world
    await _start_again(stage, lambda: here.put_template(SHARED, "shared: true"))
    await stage.until(lambda: _shared(stage, "running"))
    if not stage.over:
        await _start_again(stage, lambda: here.put_template(SHARED, "shared: false"))
        await stage.until(lambda: not _shared_rows(stage))


async def _start_again(stage: Stage, change: Callable[[], None]) -> None:
    """Stop the daemon, and start it after the change, to die of the same."""
    here = stage.world
    await here.machine.gone()
    here.starts[:0] = filter(None, [here.machine.crash_at])
    change()
    here.machine.absent = False


async def check(stage: Stage) -> None:
    """A shared stack is checked, at the start and again."""
    await stage.until(lambda: False)


def _shared(stage: Stage, status: str) -> bool:
    return [row.status for row in _shared_rows(stage)] == [status]


def _shared_rows(stage: Stage) -> list[Row]:
    return [row for row in stage.world.file.rows().values() if row.shared_pod is not None]


async def write_a_template(stage: Stage) -> None:
    """A template of the API is written, and deleted; what was acknowledged is so after each death."""
    here, path = stage.world, "/templates/written"
    seen = await here.call("GET", path)
    if seen.status in (200, 404) and stage.written is not None:
        here.checked(DURABLE, (seen.status == 200) == stage.written, f"{path}: {seen}, acknowledged: {stage.written}")
    for method, there, body in (("PUT", True, yaml.safe_load(TEMPLATE_FILE.format(kept="pool: 0", image=RUNS_ON))),
                                ("DELETE", False, None)):  # fmt: skip
        stage.written = None
        if (await here.call(method, path, body)).status in (200, 201):
            stage.written = there


async def start(_: Stage) -> None:
    await asyncio.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Scene:
    """``act`` is repeated until the daemon has died all its deaths.

    ``deaths`` are written as ``POINT:1,2`` for the first and the second time that it gets there, or ``POINT`` for both.
    """

    act: Callable[[Stage], Awaitable[None]]
    deaths: str
    _: KW_ONLY
    routes: Sequence[str] = ROUTES
    ports: int = 60
    pool: int = 0
    pooled: str = RUNS_ON
    """The image of the ``pool`` stacks that wait in a pool."""
    shared: bool = False
    spares: int = 0

    @property
    def each(self) -> list[str]:
        """Each death, ``POINT:N``."""
        points = [word.partition(":") for word in self.deaths.split()]
        return [f"{point}:{time}" for point, _, times in points for time in (times or "1,2").split(",")]


CREATES = (
    "create.before_reserve create.reserved pod.created service.written route.written accept.decided accept.accepted"
)
DELETES = "delete.marked delete.confirmed delete.removed"
STOP, RESTART = (partial(do, what="change", verb=verb) for verb in ("stop", "restart"))
SCENES = {
    # the last one dies while it undoes the create that the one before has begun
    "create": Scene(create, f"{CREATES} service.written:1 create.undo_marked:1"),
    "take a spare": Scene(
        take_a_spare,
        "spare.intended:1 service.written:1 create.reserved:1 pod.created:1 service.written:2 accept.decided:1 "
        "accept.accepted:1 service.written:1 spare.delete_marked:1 object.removed:1 delete.confirmed:1 delete.removed:1",
        routes=("",),
    ),
    "create in vain": Scene(create_in_vain, "create.undo_marked"),
    "create again": Scene(create_again_before_all_is_seen, "pod.created:1,1"),
    "create without ports": Scene(create_where_all_ports_are_taken, "service.port_replaced"),
    "lose service and port": Scene(partial(lose_service, port_too=True), "service.port_replaced"),
    "lose service": Scene(lose_service, "service.written:2,2"),
    "change service": Scene(change_service, "service.written:2,2"),
    "lose record": Scene(lose_record, "service.written:2,2"),
    "lose route": Scene(lose_route, "route.written:4,4"),
    "change route": Scene(change_route, "route.written:4,4"),
    "delete": Scene(delete, f"{DELETES} object.removed:1,2,3,4"),
    "delete a stopped one": Scene(partial(delete, stopped=True), "delete.confirmed"),
    "end": Scene(end, "service.written:2 object.removed:1 release.released"),
    "stop": Scene(STOP, "stop.intended stop.stopped service.written:2 object.removed:1"),
    "restart": Scene(
        RESTART,
        "restart.intended service.written:2 object.removed:1 pod.created:2 accept.decided:2 accept.accepted:2 "
        "service.written:3",
    ),
    "create with members": Scene(
        create,
        "create.reserved:1 route.written:1,4 pod.created:1,3,6 service.written:1 accept.decided:1,2 accept.accepted:1,2 "
        "route.written:2 create.undo_marked:1 object.removed:2",
        routes=MEMBERS,
    ),
    "delete with members": Scene(delete, f"{DELETES} object.removed:1,2,3,4,5,6,7", routes=MEMBERS),
    "restart with members": Scene(
        RESTART,
        "restart.intended:1 service.written:2 object.removed:1,2,3 pod.created:4,5,6 accept.decided:2 accept.accepted:2",
        routes=MEMBERS,
    ),
    "restart a member": Scene(
        restart_a_member,
        "restart.intended:1 service.written:2 object.removed:1 pod.created:4 accept.decided:2 accept.accepted:2 "
        "service.written:3",
        routes=MEMBERS,
    ),
    "stop with members": Scene(STOP, "stop.intended:1 object.removed:1,2,3 stop.stopped:1", routes=MEMBERS),
    "lose a member": Scene(lose_member, "service.written:2 object.removed:1,2,3,4 release.released:1", routes=MEMBERS),
    "extend": Scene(partial(do, what="extend", ttl="10m", keyed=True), "extend.extended extend.recorded"),
    "relabel": Scene(partial(do, what="relabel"), "relabel.relabelled service.written:2"),
    "expire": Scene(expire, "expire.marked"),
    "batch": Scene(batch, "batch.queued batch.begun batch.delete_marked batch.confirmed batch.counted"),
    "extensions": Scene(partial(batch, action="extend"), "batch.begun"),
    "restarts": Scene(partial(batch, action="restart"), "batch.begun batch.confirmed batch.counted"),
    "class": Scene(
        start_a_class,
        "batch.begun:1 create.reserved:2 pod.created:1 accept.accepted:2 assign.assigned:1 batch.confirmed:2 batch.counted:1",
        ports=400,
        pool=2,
    ),
    "renewals": Scene(renew, "batch.begun:1 object.removed:1,2 batch.counted:1", ports=400, pool=1),
    "press": Scene(press, "assign.picked assign.assigned assign.opened", pool=3),
    "pool that ends": Scene(start, "pool.delete_marked", pool=2, pooled=ENDS),
    "need a port": Scene(need_a_port, "pool.preempted", pool=12, ports=12),
    "share": Scene(share, "shared.restart_intended shared.served shared.kept", shared=True),
    "share no more": Scene(share_no_more, "pool.delete_marked:1,1", shared=True),
    # the second one is its own: the first is what the start before has left
    "check": Scene(check, "template_pod.created:1 object.removed:2,1", shared=True),
    "write a template": Scene(write_a_template, "template.written template.kept template.removed template.deleted"),
    "lose labels": Scene(lose_labels, "pod.labelled"),
    "leave behind": Scene(leave_behind, "object.removed:1,1"),
    "leave beside an ended one": Scene(leave_beside_an_ended_stack, "object.removed:1,1"),
    "start": Scene(start, "bring_up.identified:1"),
}
PARTS = 5
"""Scenes mostly wait, so several are played at once."""


def test_every_crash_point_has_a_scene() -> None:
    assert {death.partition(":")[0] for scene in SCENES.values() for death in scene.each} == set(POINTS)


@pytest.mark.timeout(480)
@pytest.mark.parametrize("part", range(PARTS))
async def test_a_crash_at_any_point_loses_nothing_and_leaks_nothing(part: int, tmp_path: Path) -> None:
    titles = list(SCENES)[part::PARTS]
    worlds = await asyncio.gather(*(play(title, tmp_path / title) for title in titles))
    failed = [
        "\n".join([title, *here.violations, *here.trace, *here.machine.process.lines[-40:]])
        for title, here in zip(titles, worlds, strict=True)
        if here.violations
    ]
    assert not failed, "\n\n".join(failed)


async def play(title: str, folder: Path) -> World:
    """Let the daemon die its deaths; after each the next one recovers, and is judged."""
    scene, deaths = SCENES[title], SCENES[title].each
    folder.mkdir()
    settings = {
        "STACKD_STACKS__NODE_PORT_MIN": "31001",
        "STACKD_STACKS__NODE_PORT_MAX": str(31000 + scene.ports),
        "STACKD_STACKS__SPARE_SERVICES": str(scene.spares),
    }
    async with world(folder, settings) as here:
        if scene.pool:
            here.put_template(TEMPLATE, f"pool: {scene.pool}", scene.pooled)
            here.pool = scene.pool if title == "press" else 0
        if scene.shared:
            checked = "\ncheck: {image: app/exit0, every: 10s}" if title == "check" else ""
            here.put_template(SHARED, f"shared: true{checked}")
        here.starts.extend(deaths)
        oracle = Oracle(here)
        InvariantMonitor(here)
        operations, injector = Operations(here, routes=scene.routes), Injector(here, seed=1)
        stage = Stage(world=here, operations=operations, injector=injector)
        try:
            async with asyncio.timeout(DEATH_SECONDS * len(deaths)):
                await here.keep_running()
                while here.counts["deaths"] < len(deaths):
                    stage.before = here.counts["deaths"]
                    await scene.act(stage)
                    if stage.over and not await converge(here, oracle, 0.0):
                        return here
        except TimeoutError:
            here.violated("the point is reached", f"{here.machine.crash_at}, and then {here.starts}")
            return here
        await injector.lift()
        if await converge(here, oracle):
            await judge(here, operations, oracle, injector)
    return here
