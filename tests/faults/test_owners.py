"""The fixed set of schedules in which the owner of the stacks, or its file, changes (invariant 9)."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults.owner_plan import OWNER_THEMES
from tests.faults.plan import ALL, OWNERS_FROM
from tests.faults.processes import ForkServer
from tests.faults.runner import run_here

SEEDS_EACH = 3 if ALL else 2
MUST_HAPPEN = {
    "lost file": ("fault lose_file", "fault mistake"),
    "two daemons": ("fault hand_over", "steps back"),
    "paused owner": ("fault freeze", "steps back"),
    "restored backup": ("fault back_up", "fault restore"),
}

# Connections are cut at any moment here, at both ends; asyncio's messages about it are no findings.
pytestmark = pytest.mark.filterwarnings("ignore:.*_SelectorTransport:pytest.PytestUnraisableExceptionWarning")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", range(len(OWNER_THEMES)), ids=[one.name.replace(" ", "-") for one in OWNER_THEMES])
async def test_whoever_owns_the_stacks_nothing_is_lost_and_nobody_else_changes_them(
    number: int, forkserver: ForkServer
) -> None:
    theme = OWNER_THEMES[number].name
    seeds = [OWNERS_FROM + number + len(OWNER_THEMES) * times for times in range(SEEDS_EACH)]
    reports = await run_here(seeds, forkserver, at_once=len(seeds))
    failed = [report.story() for report in reports if report.violations]
    assert not failed, "\n\n".join(failed)
    assert {report.theme for report in reports} == {theme}
    total = sum((report.counts for report in reports), Counter[str]())
    assert total["owners"] >= len(seeds)
    assert all(total[what] for what in MUST_HAPPEN[theme]), total
