"""The fixed set of fault schedules: a few seeds of each theme, and everything that the invariants promise."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.certificates import HAVE_OPENSSL
from tests.faults.plan import ALL, THEMES
from tests.faults.process import ForkServer
from tests.faults.schedule import Report, run

# Connections are cut at any moment here, at both ends; asyncio's messages about it are no findings.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*_SelectorTransport:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(240),
]
RUNS = 6 if ALL else 2
AT_ONCE = 2
GROUPS = [range(first, min(first + AT_ONCE, len(THEMES))) for first in range(0, len(THEMES), AT_ONCE)]


@pytest.mark.skipif(not HAVE_OPENSSL, reason="certificates are made with openssl")
@pytest.mark.parametrize("group", GROUPS, ids=["-".join(THEMES[one].name for one in group) for group in GROUPS])
async def test_after_any_faults_rows_objects_and_acknowledgements_agree(group: range, forkserver: ForkServer) -> None:
    seeds = [number + len(THEMES) * times for number in group for times in range(RUNS)]
    reports: list[Report] = []
    await run(seeds, forkserver, at_once=2 * AT_ONCE, report=reports.append)
    failed = [report.story() for report in reports if report.violations]
    assert not failed, "\n\n".join(failed)
    assert len(reports) == len(seeds)
    for number in group:
        mine = [report.counts for report in reports if report.theme == THEMES[number].name]
        total = sum(mine, Counter[str]())
        assert total["operations"] > 10 * RUNS
        assert total["faults"] > 0
        assert all(total[name] >= least for name, least in THEMES[number].must.items()), total
