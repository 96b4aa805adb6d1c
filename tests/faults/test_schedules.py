"""The fixed set of fault schedules: a few seeds of each theme, and everything that the invariants promise."""

from __future__ import annotations

import os

import pytest

from tests.faults.plan import THEMES
from tests.faults.schedule import Report, run

# Connections are cut at any moment here, at both ends; asyncio's messages about it are no findings.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*_SelectorTransport:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(240),
]
RUNS = 8 if os.environ.get("STACKD_TEST_SCHEDULES") == "all" else 1
PARTS = 2


@pytest.mark.parametrize("part", range(PARTS))
async def test_after_any_faults_rows_objects_and_acknowledgements_agree(part: int) -> None:
    reports: list[Report] = []
    await run(range(part, len(THEMES) * RUNS, PARTS), at_once=4, report=reports.append)
    failed = ["\n".join([*report.violations, report.story]) for report in reports if report.violations]
    assert not failed, "\n\n".join(failed)
    assert all(report.counts["operations"] > 10 and report.counts["faults"] > 0 for report in reports)
