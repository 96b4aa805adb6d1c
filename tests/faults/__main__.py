"""``python -m tests.faults``: runs fault schedules, for a time or a number of them; 1 if an invariant did not hold."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time

from tests.faults.schedule import Report, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.0, help="begin new ones for so long")
    parser.add_argument("--schedules", type=int, default=1, help="run at least so many")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the first seed; the next ones follow")
    arguments = parser.parse_args()
    end, first, done, found = time.monotonic() + arguments.seconds, arguments.seed, list[int](), list[int]()

    def report(one: Report) -> None:
        done.append(one.seed)
        if one.violations:
            found.append(one.seed)
            print("\n".join([f"==== seed {one.seed}", *one.violations, "", one.story]), flush=True)

    seeds = itertools.takewhile(
        lambda seed: seed < first + arguments.schedules or time.monotonic() < end, itertools.count(first)
    )
    asyncio.run(run(seeds, at_once=4, report=report))
    print(f"{len(done)} schedules from seed {first} on; {len(found)} found something: {found}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
