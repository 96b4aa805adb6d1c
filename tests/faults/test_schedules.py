"""The fixed set of fault schedules: a few seeds of each theme, and everything that the invariants promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from tests.certificates import HAVE_OPENSSL
from tests.faults.plan import ALL, OWNER_THEMES, OWNERS_FROM, RESETS_FROM, SEEDS_APART, THEMES, WIRE_THEMES, Theme
from tests.faults.processes import ForkServer
from tests.faults.runner import run_here

# Connections are cut at any moment here, at both ends; asyncio's messages about it are no findings.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*_SelectorTransport:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(240),
]
MUST_HAPPEN = {
    "lost file": ("owners", "fault lose_file", "fault mistake"),
    "two daemons": ("owners", "fault hand_over", "steps back"),
    "paused owner": ("owners", "fault freeze", "steps back"),
    "restored backup": ("owners", "fault back_up", "fault restore"),
}


def groups(themes: tuple[Theme, ...], first: int, each: int, at_once: int) -> list[object]:
    """The seeds of so many themes at once, of each theme ``each``: a schedule mostly waits."""
    found: list[object] = []
    for begin in range(0, len(themes), at_once):
        numbers = range(begin, min(begin + at_once, len(themes)))
        seeds = [first + number + len(themes) * times for number in numbers for times in range(each)]
        names = [themes[number].name for number in numbers]
        found.append(pytest.param(seeds, names, id="-".join(names).replace(" ", "-")))
    return found


async def played(seeds: Iterable[int], forkserver: ForkServer, at_once: int) -> tuple[set[str], Counter[str]]:
    """The themes and counts of these schedules, in none of which an invariant was violated."""
    reports = await run_here(seeds, forkserver, at_once=at_once)
    failed = [report.story() for report in reports if report.violations]
    assert not failed, "\n\n".join(failed)
    return {report.theme for report in reports}, sum((report.counts for report in reports), Counter[str]())


@pytest.mark.parametrize(
    ("seeds", "themes"),
    [
        *groups(THEMES, 0, 4 if ALL else 2, 3),
        *groups(WIRE_THEMES, SEEDS_APART, 3 if ALL else 1, 2),
        *groups(OWNER_THEMES, OWNERS_FROM, 3 if ALL else 2, 1),
    ],
)
async def test_after_any_faults_rows_objects_and_acknowledgements_agree(
    seeds: list[int], themes: list[str], forkserver: ForkServer
) -> None:
    found, total = await played(seeds, forkserver, len(seeds))
    assert found == set(themes)
    assert total["schedules"] == len(seeds)
    assert total["operations"] > 10 * len(seeds)
    assert total["faults"] > 0
    assert all(total[what] for theme in themes for what in MUST_HAPPEN.get(theme, ())), total


@pytest.mark.skipif(not HAVE_OPENSSL, reason="certificates are made with openssl")
async def test_a_connection_that_is_reset_at_any_moment_is_a_lost_response_and_nothing_else(
    forkserver: ForkServer,
) -> None:
    """In the middle of requests and between them, in every verb and in all background work."""
    seeds = range(RESETS_FROM, RESETS_FROM + (6 if ALL else 2))
    _, total = await played(seeds, forkserver, 3)
    assert total["resets"] > 20 * len(seeds)
