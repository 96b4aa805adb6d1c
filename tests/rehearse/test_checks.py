"""What the checks of a plan's templates say belongs to the verdict of a rehearsal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster
from stackd.lifecycle import checks
from stackd.rehearse.outcome import Outcome
from stackd.rehearse.plan import StackKind
from tests.harness import fast_cluster, harness, until
from tests.rehearse.conftest import inspected, plan, rehearsed
from tests.templates import PLAIN, folder_with


def check(image: str, command: str = "exit 0") -> str:
    return PLAIN + f'check: {{image: registry.example/{image}, command: [/bin/sh, -c, "{command}"]}}\n'


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack is checked as soon as it runs."""
    monkeypatch.setattr(checks, "FORWARDED_NANOSECONDS", 0)


async def outcome_with(tmp_path: Path, stacks: int, **templates: str) -> tuple[Outcome, Mapping[str, str]]:
    """The outcome of starting each template, beside another one; and the sentences about checks, by goal."""
    names = [name.replace("_", "-") for name in templates]
    kinds = [StackKind(name=f"{name}.json", body={"template": name}) for name in names]
    folder = folder_with(tmp_path, beside=check("solve", "exit 1"), **templates)
    async with EmbeddedCluster(fast_cluster()) as cluster, harness(tmp_path, folder, cluster=cluster) as at:
        outcome = await rehearsed(at, plan(stacks, kinds=kinds))
    assert (outcome.remaining, outcome.results.failed) == (0, 0)
    return outcome, {one.goal: one.sentence for one in outcome.verdict.goals if one.goal.startswith("check")}


async def test_a_template_whose_check_fails_does_not_hold(tmp_path: Path) -> None:
    outcome, said = await outcome_with(
        tmp_path, 3, bad_1=check("solve", "echo no; echo flag; exit 1"), good_1=check("solve"), plain_1=PLAIN
    )
    assert said == {
        "check of bad-1": "the check of bad-1 fails: no flag",
        "check of good-1": "the check of good-1 passes",
    }
    assert not outcome.verdict.holds
    assert outcome.verdict.sentence.startswith("It does not hold: the check of bad-1 fails: no flag.")


async def test_one_whose_check_cannot_be_run_does_not_hold(tmp_path: Path) -> None:
    outcome, said = await outcome_with(tmp_path, 1, web_1=check("nostart"))
    assert said["check of web-1"].startswith("the check of web-1 has never run: 503 the check could not be")
    assert not outcome.verdict.holds


async def test_one_whose_check_passes_holds(tmp_path: Path) -> None:
    outcome, said = await outcome_with(tmp_path, 2, web_1=f"pool: 2\n{check('solve')}")
    assert (outcome.verdict.holds, said) == (True, {"check of web-1": "the check of web-1 passes"})


async def test_shared_stacks_are_part_of_the_event(tmp_path: Path) -> None:
    async with harness(tmp_path, folder_with(tmp_path, beside=PLAIN.replace("ttl: 1h", "shared: true"))) as at:
        await until(lambda: at.get("/stacks"), lambda seen: seen["stacks"])
        assert (await inspected(at, 1)).with_others == []
