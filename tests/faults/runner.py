"""Runs many schedules, in several processes and several at a time in each: a schedule mostly waits."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.queues import Queue
from queue import Empty

from tests.faults.endurance import endure
from tests.faults.processes import ForkServer
from tests.faults.schedule import Report, run_schedule


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
