"""One schedule: play a plan against a daemon, end all troubles, wait until all is quiet, and judge.

Owns the order of these. A report says what was done and which invariants do not hold.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.operations import Operations
from tests.faults.oracle import Oracle
from tests.faults.plan import Plan, Step, make_plan
from tests.faults.processes import Nursery
from tests.faults.troubles import Troubles
from tests.faults.witness import Witness
from tests.faults.world import World, world

CONVERGENCE_SECONDS = 45.0
QUIET_SECONDS = 0.7
SCHEDULE_SECONDS = 150.0
FREE_ENDINGS = 10


@dataclass(slots=True, kw_only=True)
class Report:
    """What became of one schedule."""

    seed: int
    theme: str
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    plan: str = ""
    said: list[str] = field(default_factory=list)

    def story(self) -> str:
        """Everything that is needed to understand a failure, and the command that replays it."""
        lines = [*self.violations, "", self.plan, "", *self.trace, "", "what the daemon said last:", *self.said[-60:]]
        return "\n".join([*lines, "", f"replay: python -m tests.faults --seed {self.seed} --schedules 1"])


async def run_schedule(seed: int, nursery: Nursery) -> Report:
    """Play the plan of a seed."""
    plan = make_plan(seed)
    with tempfile.TemporaryDirectory(prefix=f"stackd-faults-{seed}-") as folder:
        async with world(Path(folder), nursery, dict(plan.settings), small_disk=plan.small_disk) as here:
            try:
                async with asyncio.timeout(SCHEDULE_SECONDS):
                    await play(plan, here)
            except TimeoutError:
                here.violated("every request is answered", f"the schedule does not end in {SCHEDULE_SECONDS:.0f} s")
        counts = here.counts + Counter(schedules=1)
        said = [line for process in here.processes for line in process.lines]
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
    """Everything but the setting up and clearing away."""
    here.starts.extend(plan.starts)
    Witness(here, late=plan.late)
    operations, troubles, oracle = Operations(here), Troubles(here, plan.seed), Oracle(here)
    await here.keep_running()
    for steps in plan.rounds:
        here.note("a round begins")
        await play_round(steps, operations, troubles)
        await troubles.lift()
        here.note("all troubles are over")
        if not await converge(here, oracle):
            return
    here.starts.clear()
    await ask_again(here, operations)
    if not await converge(here, oracle):
        return
    oracle.final()
    check_ports(here, troubles, late=plan.late)
    await oracle.answers()


async def play_round(steps: tuple[Step, ...], operations: Operations, troubles: Troubles) -> None:
    """Do each step at its moment; return when all have ended."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for step in steps:
            await asyncio.sleep(max(0.0, began + step.at - time.monotonic()))
            doer = operations if step.what in Operations.names() else troubles
            group.create_task(doer.do(step.what, step.how), name=str(step))


async def ask_again(here: World, operations: Operations) -> None:
    """Requests under a key whose answers were lost are made again: the daemon knows the first answer, or makes one now."""
    await here.listening()
    for create in [create for create in here.ledger.creates if create.key]:
        again = await operations.attempt(create)
        if again.status == 201:
            create.open = 0
    for batch in [batch for batch in here.ledger.batches if batch.key]:
        await operations.submit(batch)


async def converge(here: World, oracle: Oracle) -> bool:
    """Wait until nothing differs any more, and stays so; an operator confirms what a brake rightly holds."""
    end = time.monotonic() + CONVERGENCE_SECONDS
    quiet_since: float | None = None
    differences: list[str] = []
    while time.monotonic() < end:
        await asyncio.sleep(0.03)
        if not here.up.is_set():
            quiet_since = None
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
    """Confirm what is held, where so many stacks ended by other hands that a brake is what we want."""
    outcome = await here.call("GET", "/readyz")
    held = outcome.body.get("held", []) if isinstance(outcome.body, dict) else []
    if not held:
        return
    unasked = len(here.ledger.touched)
    here.checked("8 brakes", unasked > FREE_ENDINGS, f"{held} are held, and only {unasked} stacks were touched")
    here.note(f"confirming {held}")
    await here.call("POST", "/reconcile/confirm")


def check_ports(here: World, troubles: Troubles, *, late: bool) -> None:
    """No port was handed out while another Service of ours still had it: only others' ports are ever refused."""
    for process in here.processes:
        for record in process.said():
            words = str(record.get("message", "")).split("node port ")
            if len(words) > 1 and "trying another" in words[-1]:
                port = int(words[1].split(":")[0])
                theirs = port in troubles.ever_taken or port in here.foreign.ports or late
                here.checked("2 one holder per port", theirs, f"port {port} was refused, and nobody else had it")
