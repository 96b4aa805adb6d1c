"""One schedule: play a plan against a daemon, end all troubles, wait until all is quiet, and judge.

Owns: the order of these. A report says what was done and which invariants do not hold.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.ledger import RUNS_ON
from tests.faults.operations import Operations
from tests.faults.oracle import InvariantMonitor, Oracle
from tests.faults.owners import Owners
from tests.faults.plan import LEASE_SECONDS, OPERATIONS, OWNER_DETAILS, Plan, Step, make_plan
from tests.faults.processes import ForkServer
from tests.faults.troubles import Troubles
from tests.faults.world import World, world

CONVERGENCE_SECONDS = 45.0
LATE_WATCH_SECONDS = 8.0
QUIET_SECONDS = 0.7
SCHEDULE_SECONDS = 150.0
FREE_ENDINGS = 10


@dataclass(slots=True, kw_only=True)
class Report:
    """The result of one schedule."""

    seed: int
    theme: str
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    plan: str = ""
    said: list[str] = field(default_factory=list)

    def story(self) -> str:
        """All that is needed to understand a failure, and the command that replays it."""
        lines = [*self.violations, "", self.plan, "", *self.trace, "", "what the daemon said last:", *self.said[-60:]]
        return "\n".join([*lines, "", f"replay: python -m tests.faults --seed {self.seed} --schedules 1"])


async def run_schedule(seed: int, forkserver: ForkServer) -> Report:
    """Play and judge the plan of a seed."""
    plan = make_plan(seed)
    with tempfile.TemporaryDirectory(prefix=f"stackd-faults-{seed}-") as folder:
        settings, machines = dict(plan.settings), plan.machines
        disk, tls = plan.small_disk, plan.tls
        async with world(Path(folder), forkserver, settings, small_disk=disk, machines=machines, tls=tls) as here:
            try:
                async with asyncio.timeout(SCHEDULE_SECONDS):
                    await play(plan, here)
            except TimeoutError:
                here.violated("every request is answered", f"the schedule does not end in {SCHEDULE_SECONDS:.0f} s")
            finally:
                if here.owners is not None:
                    await here.owners.close()
        counts = here.counts + Counter(schedules=1, resets=here.front.resets if here.front is not None else 0)
        said = sorted((line for process in here.processes for line in process.lines), key=_when)
        return Report(
            seed=seed,
            theme=plan.theme,
            violations=here.violations,
            trace=here.trace,
            counts=counts,
            plan=str(plan),
            said=said,
        )


async def play(plan: Plan, here: World) -> None:
    """Everything except setting up and cleaning up."""
    here.starts.extend(plan.starts)
    if plan.pool:
        here.pool = plan.pool
        here.put_template(plan.pool, RUNS_ON)
    monitor = InvariantMonitor(here, late=plan.late)
    operations, troubles, oracle = Operations(here), Troubles(here, plan.seed), Oracle(here)
    owners = Owners(here, monitor, LEASE_SECONDS) if plan.turns else None
    await here.keep_running()
    for number, steps in enumerate(plan.rounds):
        here.note("a round begins")
        await play_round(steps, operations, troubles, owners)
        await troubles.lift()
        here.note("all troubles are over")
        if not await converge(here, oracle):
            return
        if owners is not None and not await turn(plan.turns[number], here, owners, (operations, oracle)):
            return
    here.starts.clear()
    await ask_again(here, operations)
    if not await converge(here, oracle):
        return
    oracle.final()
    check_ports(here, troubles, late=plan.late)
    await oracle.answers()


async def turn(step: Step, here: World, owners: Owners, judges: tuple[Operations, Oracle]) -> bool:
    """Let something happen to the owner while all is quiet and there is at least one stack; no client may notice."""
    operations, oracle = judges
    if not here.file.rows():
        await operations.create(RUNS_ON)
        if not await converge(here, oracle):
            return False
    before = await oracle.stacks()
    await owners.do(step.what, step.how)
    if not await converge(here, oracle):
        return False
    await oracle.same(before)
    await owners.at_rest()
    return True


async def play_round(
    steps: tuple[Step, ...], operations: Operations, troubles: Troubles, owners: Owners | None
) -> None:
    """Do each step at its time; return when all have ended."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for step in steps:
            await asyncio.sleep(max(0.0, began + step.at - time.monotonic()))
            doer: Operations | Troubles | Owners = operations if step.what in OPERATIONS else troubles
            if owners is not None and step.what in OWNER_DETAILS:
                doer = owners
            group.create_task(doer.do(step.what, step.how), name=str(step))


async def ask_again(here: World, operations: Operations) -> None:
    """Repeat the keyed requests whose answers were lost: the daemon knows the first answer, or gives one now."""
    await here.listening()
    for create in [create for create in here.ledger.creates if create.key]:
        again = await operations.attempt(create)
        if again.status == 201:
            create.open = 0
    for batch in [batch for batch in here.ledger.batches if batch.key]:
        await operations.submit(batch)


async def converge(here: World, oracle: Oracle) -> bool:
    """Wait until nothing differs any more, and stays so; the operator confirms what a brake holds rightly."""
    end = time.monotonic() + CONVERGENCE_SECONDS
    quiet_since: float | None = None
    differences: list[str] = []
    while time.monotonic() < end:
        await asyncio.sleep(0.03)
        if not here.up.is_set() or here.unsettled:
            differences, quiet_since = [], None
            continue
        differences = oracle.differences()
        if differences:
            quiet_since = None
            await _release_brake(here)
        elif quiet_since is None:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since >= QUIET_SECONDS:
            here.counts["checked 4 convergence"] += 1
            return True
    for difference in differences or ["the daemon does not stay up"]:
        here.violated("4 convergence", difference)
    return False


async def _release_brake(here: World) -> None:
    """Confirm what is held, if so many stacks were ended by others that a brake is right."""
    unasked = len(here.ledger.touched)
    right = unasked > FREE_ENDINGS or here.skew.leaps > 0
    held = await _held(here)
    # A late watch has not shown recently created pods yet: their stacks are held until it has.
    end = time.monotonic() + LATE_WATCH_SECONDS
    while held and not right and time.monotonic() < end:
        await asyncio.sleep(0.1)
        held = await _held(here)
    if not held:
        return
    here.checked("8 brakes", right, f"{held} are held, and only {unasked} stacks were touched")
    here.note(f"confirming {held}")
    await here.call("POST", "/reconcile/confirm")


async def _held(here: World) -> list[str]:
    outcome = await here.call("GET", "/readyz")
    held: list[str] = outcome.body.get("held", []) if isinstance(outcome.body, dict) else []
    return held


def _when(line: str) -> str:
    """The key that sorts the lines of several daemons: each line begins with its time."""
    return line.partition(",")[0]


def check_ports(here: World, troubles: Troubles, *, late: bool) -> None:
    """Check that no port was reused while a Service of stackd still had it: only others' ports may be refused."""
    for process in here.processes:
        for record in process.said():
            words = str(record.get("message", "")).split("node port ")
            if len(words) > 1 and "trying another" in words[-1]:
                port = int(words[1].split(":")[0])
                theirs = troubles.is_others(port) or port in here.foreign.ports or late
                # the answer to a create was lost, and a policy has changed what was created: its own Service has the port
                theirs = theirs or here.drifting
                here.checked("2 one holder per port", theirs, f"port {port} was refused, and nobody else had it")
