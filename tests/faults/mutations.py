"""``python -m tests.faults.mutations``: break the product on purpose, and see whether the fixed set of tests notices.

Each mutation is an exact replacement of text in a copy of the tree; a text that is not found is an error. The result
says which test, and which seed or crash point, noticed first. Takes some minutes and is not part of CI.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.faults.breakages import BREAKAGES, Breakage
from tests.faults.processes import ROOT

LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "node_modules", "*.egg-info")
DEADLINE_SECONDS = 900
TESTS = (
    "test_schedules.py",
    "test_owners.py",
    "test_wire.py",
    "test_clients.py",
    "test_foreign.py",
    "test_clock.py",
    "test_brakes.py",
    "test_pools.py",
    "test_crash_points.py",
)
SEED = re.compile(r"replay: python -m tests\.faults --seed (\d+)")
POINT = re.compile(r"^E\s+(?:AssertionError: )?([a-z_]+\.[a-z_]+:\d)$", re.MULTILINE)
FAILED = re.compile(r"^FAILED tests/faults/(\S+)", re.MULTILINE)
FOUND = re.compile(r"^E\s+(?:AssertionError: )?((?:\d |[a-z]).*?: .*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of one mutation; ``by`` is empty if nothing noticed it."""

    breakage: Breakage
    by: str
    words: str
    seconds: float

    def __str__(self) -> str:
        noticed = f"caught by {self.by}: {self.words}" if self.by else "NOT CAUGHT"
        return f"{self.breakage.name}: {noticed} ({self.seconds:.0f} s)"


def main() -> int:
    """Try the mutations; the exit code is 1 if one went unnoticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mutations", description=__doc__)
    parser.add_argument("only", nargs="*", help="parts of the names of the mutations to try; default: all")
    parser.add_argument("--test", nargs="+", default=TESTS, help="only these files of tests")
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="keep what the tests printed in this folder")
    parser.add_argument("--table", action="store_true", help="print a table for README.md")
    arguments = parser.parse_args()
    wanted = [one for one in BREAKAGES if not arguments.only or any(part in one.name for part in arguments.only)]
    for breakage in wanted:
        breakage.check(ROOT)
    verdicts: list[Verdict] = []
    for verdict in try_all(wanted, arguments.test, arguments.at_once, arguments.keep):
        verdicts.append(verdict)
        print(verdict, flush=True)
    if arguments.table:
        print(table(verdicts))
    missed = [verdict.breakage.name for verdict in verdicts if not verdict.by]
    print(f"{len(verdicts) - len(missed)} of {len(verdicts)} mutations were caught")
    return int(bool(missed))


def try_all(breakages: list[Breakage], tests: Sequence[str], at_once: int, keep: Path | None) -> Iterator[Verdict]:
    """Try the mutations; yields the verdicts in their order."""
    with ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(lambda breakage: try_one(breakage, tests, keep), breakages)


def try_one(breakage: Breakage, tests: Sequence[str], keep: Path | None) -> Verdict:
    """Run the tests in a copy that has the mutation, until one fails."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stackd-mutation-") as folder:
        copy = Path(folder) / "stackd"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        breakage.apply(copy)
        first = [breakage.first] if breakage.first in tests else []
        files = [f"tests/faults/{name}" for name in [*first, *(name for name in tests if name not in first)]]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *files]
        environment = {
            **os.environ,
            "PYTHONPATH": str(copy),
            "PYTHONDONTWRITEBYTECODE": "1",
            "STACKD_TEST_SCHEDULES": "all",
        }
        try:
            done = subprocess.run(
                command,
                cwd=copy,
                env=environment,
                capture_output=True,
                text=True,
                timeout=DEADLINE_SECONDS,
                check=False,
            )
            if keep is not None:
                (keep / f"{breakage.name}.txt").write_text(done.stdout)
            by, words = noticed(done.stdout) if done.returncode == 1 else ("", done.stdout[-400:])
        except subprocess.TimeoutExpired:
            by, words = "the deadline", "the tests do not end"
    return Verdict(breakage=breakage, by=by, words=words, seconds=time.monotonic() - began)


def noticed(output: str) -> tuple[str, str]:
    """Which test and which seed or crash point noticed, and what it found first."""
    test = FAILED.search(output)
    seeds, points = SEED.findall(output), POINT.findall(output)
    where = f" seed {seeds[0]}" if seeds else f" {points[0]}" if points else ""
    found = FOUND.search(output)
    words = found[1] if found is not None else ""
    return (test[1].split(" ")[0] if test else "pytest") + where, words[:160]


def table(verdicts: list[Verdict]) -> str:
    """The verdicts as a table for README.md."""
    rows = ["| mutation | caught by | what was found |", "|---|---|---|"]
    for one in verdicts:
        words = re.sub(r"stack-[0-9a-f]{16}", "stack-…", one.words).replace("|", "\\|")
        rows.append(f"| {one.breakage.name} | {one.by or 'nothing'} | {words} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
