"""The fixed set of fault schedules: a few seeds of each theme, and everything that the invariants promise."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults.operations import Operations
from tests.faults.owners import Owners
from tests.faults.plan import ALL, CATALOGUES, DETAILS, OPERATIONS, SEEDS_APART, THEMES, make_plan
from tests.faults.processes import ForkServer
from tests.faults.runner import run_here
from tests.faults.troubles import Troubles

SEEDS_EACH = 4 if ALL else 2
AT_ONCE = 3

# Connections are cut at any moment here, at both ends; asyncio's messages about it are no findings.
pytestmark = pytest.mark.filterwarnings("ignore:.*_SelectorTransport:pytest.PytestUnraisableExceptionWarning")
GROUPS = [range(len(THEMES))[first : first + AT_ONCE] for first in range(0, len(THEMES), AT_ONCE)]
"""Numbers of themes. A schedule mostly waits, so several run at once."""

IDS = ["-".join(THEMES[number].name.replace(" ", "-") for number in group) for group in GROUPS]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("numbers", GROUPS, ids=IDS)
async def test_after_any_faults_rows_objects_and_acknowledgements_agree(numbers: range, forkserver: ForkServer) -> None:
    seeds = [number + len(THEMES) * times for number in numbers for times in range(SEEDS_EACH)]
    reports = await run_here(seeds, forkserver, at_once=len(seeds))
    failed = [report.story() for report in reports if report.violations]
    assert not failed, "\n\n".join(failed)
    assert {report.theme for report in reports} == {THEMES[number].name for number in numbers}
    total = sum((report.counts for report in reports), Counter[str]())
    assert total["schedules"] == len(seeds)
    assert total["operations"] > 10 * len(seeds)
    assert total["faults"] > 0


def test_the_plans_hold_every_operation_and_every_trouble() -> None:
    seeds = [
        number * SEEDS_APART + place for number in range(len(CATALOGUES)) for place in range(400 if not number else 200)
    ]
    planned = {step.what for seed in seeds for steps in make_plan(seed).rounds for step in steps}
    assert planned == Operations.names() | Troubles.names() | Owners.names()
    assert set(OPERATIONS) == Operations.names()
    assert planned >= set(DETAILS)
