"""What the scheduler needs of the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCHEDULE = "from stackd.jobs.schedule import Schedule; from stackd.tasks import Tasks; Schedule([], Tasks())"


@pytest.mark.parametrize("zone", ["EST5EDT,M3.2.0,M11.1.0", "CET-1CEST", "Europe/Nowhere", ""])
def test_the_time_zone_may_be_any_that_the_machine_has(zone: str) -> None:
    code = f"import asyncio\nasync def main():\n    {SCHEDULE}\nasyncio.run(main())"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=os.environ | {"TZ": zone}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
