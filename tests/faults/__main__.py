"""``python -m tests.faults``: runs fault schedules, for a time or a number of them, and reports the results."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.faults.runner import Wanted, run_many


def main() -> int:
    """Run the schedules; the exit code is 1 if an invariant did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seconds", type=float, help="go on for so long")
    parser.add_argument("--schedules", type=int, help="run so many (default: 1 with --seed, else 44)")
    parser.add_argument("--seed", type=int, help="the first seed; the next ones follow")
    parser.add_argument("--workers", type=int, default=2, help="processes to run them in")
    parser.add_argument("--at-once", type=int, default=3, help="schedules at a time in each process")
    parser.add_argument("--trace", action="store_true", help="show the trace of a schedule that passed, too")
    arguments = parser.parse_args()
    first = time.time_ns() // 1_000_000_000 if arguments.seed is None else arguments.seed
    schedules = arguments.schedules
    if schedules is None and arguments.seconds is None:
        schedules = 1 if arguments.seed is not None else 44
    print(f"seeds from {first} on", flush=True)
    began = time.monotonic()
    wanted = Wanted(
        first=first,
        schedules=schedules,
        seconds=arguments.seconds,
        workers=min(arguments.workers, schedules or arguments.workers),
        at_once=arguments.at_once,
    )
    totals: Counter[str] = Counter()
    failed: list[int] = []
    for report in run_many(wanted):
        totals.update(report.counts)
        if report.violations:
            failed.append(report.seed)
        if report.theme.startswith("endurance"):
            print(report.theme, flush=True)
        if report.violations or arguments.trace:
            print(f"==== seed {report.seed} ({report.theme})\n{report.story()}\n", flush=True)
    print(summary(totals, time.monotonic() - began))
    if failed:
        print(f"{len(failed)} schedules found something: {', '.join(map(str, sorted(failed)))}")
    return int(bool(failed))


def summary(totals: Counter[str], seconds: float) -> str:
    """What was run, in a few lines."""
    lines = [
        f"{totals['schedules']} schedules in {seconds:.0f} s: {totals['operations']} operations "
        f"({totals['requests']} requests), {totals['faults']} faults, {totals['starts']} starts of the daemon, "
        f"{totals['crashes']} crashes ({totals['crashes at a point']} of them at a named point)"
    ]
    for prefix, title in (("checked ", "checks"), ("fault ", "faults"), ("died at ", "crash points")):
        found = sorted((name.removeprefix(prefix), n) for name, n in totals.items() if name.startswith(prefix))
        lines.append(f"  {title}: " + ", ".join(f"{name} {n}" for name, n in found))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
