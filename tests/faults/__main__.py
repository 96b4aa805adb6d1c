"""``python -m tests.faults``: runs fault schedules, for a time or a number of them; 1 if an invariant did not hold."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time

from tests.faults.process import ForkServer
from tests.faults.schedule import Report, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.0, help="begin new ones for so long")
    parser.add_argument("--schedules", type=int, default=1, help="run at least so many")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the first seed; the next ones follow")
    arguments = parser.parse_args()
    end, first, found, done = time.monotonic() + arguments.seconds, arguments.seed, list[int](), itertools.count(1)

    def report(one: Report) -> None:
        number = next(done)
        if one.violations:
            found.append(one.seed)
            print(f"==== seed {one.seed} ({one.theme})\n{one.story()}\n", flush=True)
        elif number % 100 == 0:
            print(f"{number} schedules", flush=True)

    seeds = itertools.takewhile(
        lambda seed: seed < first + arguments.schedules or time.monotonic() < end, itertools.count(first)
    )
    forkserver = ForkServer()
    try:
        asyncio.run(run(seeds, forkserver, at_once=4, report=report))
    finally:
        forkserver.close()
    print(f"{next(done) - 1} schedules from seed {first} on; {len(found)} found something: {found}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
