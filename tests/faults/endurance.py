"""One daemon that lives through round after round of faults: it must not grow. The other half of the soak.

Owns: what counts as growth: descriptors and memory, compared with those of the warmed-up daemon.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.invariant_monitor import InvariantMonitor
from tests.faults.ledger import Ledger
from tests.faults.operations import Operations
from tests.faults.oracle import Oracle
from tests.faults.plan import Step, make_plan
from tests.faults.processes import ForkServer
from tests.faults.schedule import Report, converge, play_round
from tests.faults.troubles import Troubles
from tests.faults.world import World, world

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
