"""One schedule: play a plan against a daemon, end all faults, wait until all is quiet, and judge.

Owns: the order of these. A report says what was done and which invariants do not hold.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.injector import Injector
from tests.faults.operations import Operations
from tests.faults.oracle import InvariantMonitor, Oracle
from tests.faults.plan import OPERATIONS, Plan, Step, make_plan
from tests.faults.world import TEMPLATE, World, world

CONVERGENCE_SECONDS = 45.0
LATE_WATCH_SECONDS = 8.0
QUIET_SECONDS = 0.7
SCHEDULE_SECONDS = 150.0
FREE_ENDINGS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of one schedule; ``story`` is all that is needed to understand a failure."""

    seed: int
    violations: list[str]
    story: str = ""
    counts: Counter[str] = field(default_factory=Counter)


async def run(seeds: Iterable[int], *, at_once: int, report: Callable[[Report], None]) -> None:
    """Run the schedules, so many at once: a schedule mostly waits. An exception in one is a finding, too."""
    waiting = iter(seeds)

    async def next_ones() -> None:
        for seed in waiting:
            try:
                report(await _run(make_plan(seed)))
            except Exception:  # noqa: BLE001 - it is reported
                report(Report(seed=seed, violations=[traceback.format_exc()]))

    await asyncio.gather(*(next_ones() for _ in range(at_once)))


async def _run(plan: Plan) -> Report:
    with tempfile.TemporaryDirectory(prefix=f"stackd-faults-{plan.seed}-") as folder:
        async with world(Path(folder), dict(plan.settings)) as here:
            try:
                async with asyncio.timeout(SCHEDULE_SECONDS):
                    await _play(plan, here)
            except TimeoutError:
                here.violated("every request is answered", f"the schedule does not end in {SCHEDULE_SECONDS:.0f} s")
        lines = [line for process in here.machine.processes for line in process.lines]
        replay = f"replay: python -m tests.faults --seed {plan.seed}"
        story = "\n".join([str(plan), "", *here.trace, "", "the daemon's last lines:", *lines[-60:], "", replay])
        return Report(seed=plan.seed, violations=here.violations, story=story, counts=here.counts)


async def _play(plan: Plan, here: World) -> None:
    here.starts.extend(plan.starts)
    if plan.theme.pool:
        here.pool = plan.theme.pool
        here.put_template(TEMPLATE, f"pool: {here.pool}")
    InvariantMonitor(here)
    operations, injector = Operations(here), Injector(here, plan.seed)
    oracle = Oracle(here, fails=plan.theme.fails)
    await here.keep_running()
    for steps in plan.rounds:
        here.note("a round begins")
        await _play_round(steps, operations, injector)
        await injector.lift()
        here.note("all faults are over")
        if not await converge(here, oracle):
            return
    here.starts.clear()
    await judge(here, operations, oracle, injector)


async def judge(here: World, operations: Operations, oracle: Oracle, injector: Injector) -> None:
    """Repeat the keyed requests whose answers were lost; then everything has to be true.

    The daemon knows the first answer, or gives one now.
    """
    await here.listening()
    for create in [create for create in here.ledger.creates if create.key]:
        if (await operations.attempt(create)).status == 201:
            create.open = 0
    for batch in [batch for batch in here.ledger.batches if batch.key]:
        await operations.submit(batch)
    if await converge(here, oracle):
        oracle.final()
        _check_ports(here, injector)
        await oracle.answers()


async def _play_round(steps: Iterable[Step], operations: Operations, injector: Injector) -> None:
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for step in steps:
            await asyncio.sleep(max(0.0, began + step.at - time.monotonic()))
            doer: Operations | Injector = operations if step.what in OPERATIONS else injector
            group.create_task(doer.do(step.what, step.how), name=str(step))


async def converge(here: World, oracle: Oracle, quiet: float = QUIET_SECONDS) -> bool:
    """Wait until nothing differs any more, and stays so; the operator confirms what a brake holds rightly."""
    end = time.monotonic() + CONVERGENCE_SECONDS
    quiet_since, differences = 0.0, [""]
    while (now := time.monotonic()) < end:
        await asyncio.sleep(0.05)
        if not here.machine.up.is_set():
            quiet_since, differences = 0.0, ["the daemon does not stay up"]
        elif differences := oracle.differences():
            quiet_since = 0.0
            await _release_brake(here)
        elif now - (quiet_since := quiet_since or now) > quiet:
            return True
    for difference in differences:
        here.violated("4 convergence", difference)
    return False


async def _release_brake(here: World) -> None:
    """Confirm what is held back, if so many stacks were ended by others that a brake is right."""
    right = len(here.ledger.touched) > FREE_ENDINGS
    held = await _held_back(here)
    # A delayed watch has not shown recently created pods yet: their stacks are held back until it has.
    end = time.monotonic() + LATE_WATCH_SECONDS
    while held and not right and time.monotonic() < end:
        await asyncio.sleep(0.1)
        held = await _held_back(here)
    if held:
        text = f"{held} are held back, and only {len(here.ledger.touched)} stacks were touched"
        here.checked("8 brakes", right, text)
        here.note(f"confirming {held}")
        await here.call("POST", "/reconcile/confirm")


async def _held_back(here: World) -> list[str]:
    body = (await here.call("GET", "/readyz")).body
    return list(body.get("held", [])) if isinstance(body, dict) else []


def _check_ports(here: World, injector: Injector) -> None:
    """Check that no port was reused while a Service of stackd still had it: only others' ports may be refused."""
    for process in here.machine.processes:
        for record in process.records():
            words = str(record.get("message", "")).split("node port ")
            if len(words) > 1 and "trying another" in words[-1]:
                port = int(words[1].split(":")[0])
                theirs = port in injector.ever_taken.union(here.foreign.ports)
                here.checked("2 one holder per port", theirs, f"port {port} was refused, and nobody else had it")
