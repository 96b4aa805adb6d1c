"""Runs many schedules, in several processes and several at a time in each: a schedule mostly waits."""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import os
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty

from tests.faults.ledger import Ledger
from tests.faults.operations import Operations
from tests.faults.oracle import InvariantMonitor, Oracle
from tests.faults.plan import Step, make_plan
from tests.faults.processes import ForkServer
from tests.faults.schedule import Report, converge, play_round, run_schedule
from tests.faults.troubles import Troubles
from tests.faults.world import World, world


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How many ``schedules``, or for how many ``seconds`` new ones begin; ``first`` is the first seed."""

    first: int
    schedules: int | None = None
    seconds: float | None = None
    workers: int = 2
    at_once: int = 3

    def seeds(self, worker: int) -> Iterator[int]:
        """The seeds of one worker."""
        end = None if self.seconds is None else time.monotonic() + self.seconds
        number = worker
        while (self.schedules is None or number < self.schedules) and (end is None or time.monotonic() < end):
            yield self.first + number
            number += self.workers


def run_many(wanted: Wanted) -> Iterator[Report]:
    """Run the schedules; yields the reports as they come."""
    context = multiprocessing.get_context("spawn")
    reports: Queue[Report | None] = context.Queue()
    workers = [
        context.Process(target=_work, args=(wanted, number, reports), daemon=True) for number in range(wanted.workers)
    ]
    for worker in workers:
        worker.start()
    left = len(workers)
    while left:
        try:
            report = reports.get(timeout=5)
        except Empty:
            if not any(worker.is_alive() for worker in workers):
                raise RuntimeError("the workers have ended without a word") from None
            continue
        if report is None:
            left -= 1
        else:
            yield report
    for worker in workers:
        worker.join()


async def run_here(seeds: Iterable[int], forkserver: ForkServer, *, at_once: int) -> list[Report]:
    """Run the schedules in this process, in this event loop."""
    reports: list[Report] = []
    await _run(iter(seeds), at_once, forkserver, reports.append)
    return reports


def _work(wanted: Wanted, number: int, reports: Queue[Report | None]) -> None:
    forkserver = ForkServer()
    try:
        asyncio.run(_work_here(wanted, number, forkserver, reports.put))
    finally:
        forkserver.close()
        reports.put(None)


async def _work_here(wanted: Wanted, number: int, forkserver: ForkServer, tell: Callable[[Report], None]) -> None:
    """Run one worker's schedules; in a soak, the first worker also keeps one daemon alive all the time."""
    if number or wanted.seconds is None:
        await _run(wanted.seeds(number), wanted.at_once, forkserver, tell)
        return
    enduring = asyncio.create_task(endure(wanted.first, wanted.seconds, forkserver))
    await _run(wanted.seeds(number), wanted.at_once, forkserver, tell)
    tell(await enduring)


async def _run(seeds: Iterator[int], at_once: int, forkserver: ForkServer, tell: Callable[[Report], None]) -> None:
    async def next_ones() -> None:
        for seed in seeds:
            tell(await _guarded(seed, forkserver))

    await asyncio.gather(*(next_ones() for _ in range(at_once)))


async def _guarded(seed: int, forkserver: ForkServer) -> Report:
    """Run one schedule; an exception in it is a finding, too."""
    try:
        return await run_schedule(seed, forkserver)
    except Exception:  # noqa: BLE001 - it is told
        return Report(seed=seed, theme="broken", violations=[traceback.format_exc()])


# ---- one daemon that lives through round after round of faults: it must not grow. The other half of the soak


WARM_ROUNDS = 4
MORE_DESCRIPTORS = 96
"""The pool keeps as many API server connections as were ever used at once (at most 64), and clients have up to 24."""

MORE_BYTES = 48 << 20
DEADLY = frozenset(
    {"kill", "terminate", "late", "clock", "full_disk", "write_error", "wrong_start", "wrong_clock", "clock_step"}
)
SETTINGS = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31400"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a process uses."""

    descriptors: int
    resident: int

    @classmethod
    def of(cls, pid: int) -> Size:
        """The size of a running process."""
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return cls(descriptors=len(os.listdir(f"/proc/{pid}/fd")), resident=pages * os.sysconf("SC_PAGE_SIZE"))


async def endure(first: int, seconds: float, forkserver: ForkServer) -> Report:
    """Run rounds from seed ``first`` on for this long, without the troubles that end a process."""
    sizes: list[Size] = []
    with tempfile.TemporaryDirectory(prefix="stackd-faults-endurance-") as folder:
        async with world(Path(folder), forkserver, dict(SETTINGS), tls=True) as here:
            InvariantMonitor(here, late=False)
            await here.keep_running()
            end = time.monotonic() + seconds
            seed = first
            while (time.monotonic() < end or len(sizes) <= WARM_ROUNDS) and not here.violations:
                await _round(here, seed, sizes)
                seed += 1
    return Report(
        seed=first,
        theme=f"endurance, {len(sizes)} rounds, {sizes[0] if sizes else ''} to {sizes[-1] if sizes else ''}",
        violations=here.violations,
        trace=here.trace[-400:],
        counts=here.counts + Counter({"rounds of endurance": len(sizes)}),
        said=here.process.lines[-60:],
    )


async def _round(here: World, seed: int, sizes: list[Size]) -> None:
    here.ledger = Ledger(touched=here.ledger.touched)  # the brake counts the endings of a whole minute
    operations, troubles, oracle = operations_of(here, len(sizes)), Troubles(here, seed), Oracle(here)
    for steps in make_plan(seed).rounds:
        await play_round(_harmless(steps), operations, troubles, None)
        await troubles.lift()
    if not await converge(here, oracle):
        return
    rows = list(here.file.rows())
    if rows:
        await here.call("POST", "/stacks/batch-delete", {"stack_ids": rows})
        for stack_id in rows:
            here.ledger.ending(stack_id).asked += 1
            here.ledger.ending(stack_id).promised = True
        await converge(here, oracle)
    sizes.append(Size.of(here.process.pid))
    here.note(f"round {len(sizes)}: {sizes[-1]}")
    if len(sizes) > WARM_ROUNDS:
        warm, now = sizes[WARM_ROUNDS - 1], sizes[-1]
        good = now.descriptors <= warm.descriptors + MORE_DESCRIPTORS and now.resident <= warm.resident + MORE_BYTES
        here.checked("it does not grow", good, f"from {warm} to {now} in {len(sizes)} rounds")


def operations_of(here: World, number: int) -> Operations:
    """The operations of one round; names and keys differ from those of all other rounds on the same daemon."""
    return Operations(here, prefix=f"r{number}")


def _harmless(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    return tuple(step for step in steps if step.what not in DEADLY)
