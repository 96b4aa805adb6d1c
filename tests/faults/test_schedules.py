"""The fixed set of fault schedules: a few seeds of each theme, and everything that the invariants promise."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import cast

import pytest

from tests.faults.endurance import operations_of
from tests.faults.ledger import Ledger
from tests.faults.operations import Operations
from tests.faults.owners import Owners
from tests.faults.plan import ALL, CATALOGUES, DETAILS, OPERATIONS, SEEDS_APART, THEMES, make_plan
from tests.faults.processes import ForkServer
from tests.faults.runner import run_here
from tests.faults.troubles import Troubles
from tests.faults.world import World

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


def test_the_same_seed_is_the_same_plan_and_another_seed_is_another() -> None:
    plans = [str(make_plan(seed)) for seed in range(50)]
    assert plans == [str(make_plan(seed)) for seed in range(50)]
    assert len(set(plans)) == len(plans)


def test_the_plans_hold_every_operation_and_every_trouble() -> None:
    seeds = [
        number * SEEDS_APART + place for number in range(len(CATALOGUES)) for place in range(400 if not number else 200)
    ]
    planned = {step.what for seed in seeds for steps in make_plan(seed).rounds for step in steps}
    assert planned == Operations.names() | Troubles.names() | Owners.names()
    assert set(OPERATIONS) == Operations.names()
    assert planned >= set(DETAILS)


def test_no_two_operations_of_an_endurance_run_share_an_idempotency_key_or_a_marker() -> None:
    world = cast(World, SimpleNamespace(ledger=Ledger()))
    keys: list[str | None] = []
    for number in range(120):
        operations = operations_of(world, number)
        for _ in range(30):
            keys += [operations.new_create("nginx", keyed=True).key, operations.key("batch"), operations.key("extend")]
    assert len(set(keys)) == len(keys) == 120 * 30 * 3
    markers = [create.marker for create in world.ledger.creates]
    assert not any(markers[0] in other for other in markers[1:])
