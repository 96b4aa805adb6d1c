"""The fixed set of schedules about what is between stackd and Kubernetes, other users of the cluster, and the clock."""

from __future__ import annotations

import pytest

from tests.certificates import HAVE_OPENSSL
from tests.faults.plan import ALL, RESETS_FROM, SEEDS_APART
from tests.faults.processes import ForkServer
from tests.faults.runner import run_here
from tests.faults.wire_plan import WIRE_THEMES

# Connections are cut at any moment here, at both ends; asyncio's messages about it are no findings.
pytestmark = pytest.mark.filterwarnings("ignore:.*_SelectorTransport:pytest.PytestUnraisableExceptionWarning")

SEEDS_EACH = 3 if ALL else 1
AT_ONCE = 2
GROUPS = [range(len(WIRE_THEMES))[first : first + AT_ONCE] for first in range(0, len(WIRE_THEMES), AT_ONCE)]
IDS = ["-".join(WIRE_THEMES[number].name.replace(" ", "-") for number in group) for group in GROUPS]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("numbers", GROUPS, ids=IDS)
async def test_whoever_answers_and_whatever_the_clock_says_what_was_acknowledged_holds(
    numbers: range, forkserver: ForkServer
) -> None:
    seeds = [SEEDS_APART + number + len(WIRE_THEMES) * times for number in numbers for times in range(SEEDS_EACH)]
    reports = await run_here(seeds, forkserver, at_once=len(seeds))
    failed = [report.story() for report in reports if report.violations]
    assert not failed, "\n\n".join(failed)
    assert {report.theme for report in reports} == {WIRE_THEMES[number].name for number in numbers}
    assert all(report.counts["faults"] > 0 for report in reports)


@pytest.mark.timeout(240)
@pytest.mark.skipif(not HAVE_OPENSSL, reason="certificates are made with openssl")
async def test_a_connection_that_is_reset_at_any_moment_is_a_lost_response_and_nothing_else(
    forkserver: ForkServer,
) -> None:
    """In the middle of requests and between them, in every verb and in all background work."""
    reports = await run_here(range(RESETS_FROM, RESETS_FROM + 2 * SEEDS_EACH), forkserver, at_once=3)
    failed = [report.story() for report in reports if report.violations]
    assert not failed, "\n\n".join(failed)
    assert all(report.counts["resets"] > 20 for report in reports)
