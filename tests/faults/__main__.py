"""``python -m tests.faults``: runs fault schedules, for a time or a number of them, and reports the results.

In a soak, one more daemon lives through round after round of faults that do not end it: it must not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.injector import Injector
from tests.faults.ledger import RUNS_ON, Ledger
from tests.faults.operations import Operations
from tests.faults.oracle import InvariantMonitor, Oracle
from tests.faults.plan import FAULTS_OF_OWNERS, THEMES, make_plan
from tests.faults.process import ForkServer
from tests.faults.schedule import Report, converge, play_round, run
from tests.faults.world import World, world

WARM_ROUNDS = 4
MORE_DESCRIPTORS = 96
"""The pool keeps as many API server connections as were ever used at once (at most 64), and clients have up to 24."""

MORE_BYTES = 48 << 20
DEADLY = FAULTS_OF_OWNERS.keys() | {
    "kill", "terminate", "late", "clock", "full_disk", "write_error", "wrong_start", "wrong_clock", "clock_step",
}  # fmt: skip


def main() -> int:
    """Run the schedules; the exit code is 1 if an invariant did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seconds", type=float, help="go on for so long")
    parser.add_argument("--schedules", type=int, help="run so many (default: 1 with --seed, else 2 of each theme)")
    parser.add_argument("--seed", type=int, help="the first seed; the next ones follow")
    parser.add_argument("--at-once", type=int, default=4, help="schedules at a time")
    parser.add_argument("--trace", action="store_true", help="show the trace of a schedule that passed, too")
    arguments = parser.parse_args()
    forkserver = ForkServer()
    try:
        return asyncio.run(report_all(arguments, forkserver))
    finally:
        forkserver.close()


async def report_all(arguments: argparse.Namespace, forkserver: ForkServer) -> int:
    first = time.time_ns() // 1_000_000_000 if arguments.seed is None else arguments.seed
    default = 1 if arguments.seed is not None else 2 * len(THEMES)
    began, seconds = time.monotonic(), arguments.seconds
    seeds: Iterable[int] = range(first, first + (arguments.schedules or default))
    enduring = None
    if seconds is not None:
        seeds = itertools.takewhile(lambda _: time.monotonic() < began + seconds, itertools.count(first))
        enduring = asyncio.create_task(endure(first, began + seconds, forkserver))
    print(f"seeds from {first} on", flush=True)
    totals, failed = Counter[str](), list[int]()

    def report(done: Report) -> None:
        totals.update(done.counts)
        if done.violations:
            failed.append(done.seed)
        if done.violations or arguments.trace:
            print(f"==== seed {done.seed} ({done.theme})\n{done.story()}\n", flush=True)

    await run(seeds, forkserver, at_once=arguments.at_once, report=report)
    if enduring is not None:
        report(await enduring)
    print(f"in {time.monotonic() - began:.0f} s:")
    for name, count in sorted(totals.items()):
        print(f"{count:8} {name}")
    print(f"{len(failed)} schedules found something: {', '.join(map(str, sorted(failed)))}")
    return int(bool(failed))


@dataclass(frozen=True, slots=True)
class Size:
    """What a process uses."""

    descriptors: int
    resident: int

    @classmethod
    def of(cls, pid: int) -> Size:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return cls(descriptors=len(os.listdir(f"/proc/{pid}/fd")), resident=pages * os.sysconf("SC_PAGE_SIZE"))


async def endure(seed: int, end: float, forkserver: ForkServer) -> Report:
    """Run rounds from seed ``seed`` on until then, without the faults that end a process."""
    sizes: list[Size] = []
    settings = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31400"}
    with tempfile.TemporaryDirectory(prefix="stackd-faults-endurance-") as folder:
        async with world(Path(folder), forkserver, settings, tls=True) as here:
            InvariantMonitor(here, late=False)
            here.put_template(here.pool, RUNS_ON)
            await here.keep_running()
            while (time.monotonic() < end or len(sizes) <= WARM_ROUNDS) and not here.violations:
                await _round(here, seed + len(sizes), sizes)
    theme = f"endurance, {len(sizes)} rounds, {sizes[:1]} to {sizes[-1:]}"
    lines = here.machine.process.lines[-60:]
    return Report(
        seed=seed, theme=theme, violations=here.violations, trace=here.trace[-400:], counts=here.counts, lines=lines
    )


async def _round(here: World, seed: int, sizes: list[Size]) -> None:
    here.ledger = Ledger(touched=here.ledger.touched)  # the brake counts the endings of a whole minute
    operations = Operations(here, prefix=f"r{len(sizes)}")  # names and keys differ from those of other rounds
    injector, oracle = Injector(here, seed), Oracle(here)
    for steps in make_plan(seed).rounds:
        await play_round((step for step in steps if step.what not in DEADLY), operations, injector, None)
        await injector.lift()
    if not await converge(here, oracle):
        return
    rows = list(here.file.rows())
    if rows:
        await here.call("POST", "/stacks/batch-delete", {"stack_ids": rows})
        for stack_id in rows:
            here.ledger.endings[stack_id].asked += 1
            here.ledger.endings[stack_id].promised = True
        await converge(here, oracle)
    sizes.append(Size.of(here.machine.process.pid))
    here.note(f"round {len(sizes)}: {sizes[-1]}")
    if len(sizes) > WARM_ROUNDS:
        warm, now = sizes[WARM_ROUNDS - 1], sizes[-1]
        good = now.descriptors <= warm.descriptors + MORE_DESCRIPTORS and now.resident <= warm.resident + MORE_BYTES
        here.checked("it does not grow", good, f"from {warm} to {now} in {len(sizes)} rounds")


if __name__ == "__main__":
    sys.exit(main())
