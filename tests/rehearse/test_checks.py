"""What the checks of a plan's templates say belongs to the verdict of a rehearsal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stackd.client import Event
from stackd.embedded import EmbeddedCluster
from stackd.lifecycle import checks
from stackd.rehearse.connection import Answer, Connection
from stackd.rehearse.plan import StackKind
from tests.harness import fast_cluster, harness, until
from tests.rehearse.conftest import inspected, plan, rehearsed
from tests.templates import PLAIN, folder_with


def check(image: str, command: str = "exit 0") -> str:
    return PLAIN + f'check: {{image: registry.example/{image}, command: [/bin/sh, -c, "{command}"]}}\n'


@pytest.mark.parametrize(
    ("templates", "said"),
    [
        (
            {"bad": check("solve", "echo no; echo flag; exit 1"), "good": check("solve"), "plain": PLAIN},
            {"check of bad": "the check of bad fails: no flag", "check of good": "the check of good passes"},
        ),
        ({"web": check("nostart")}, {"check of web": "the check of web has never run: 503 the check could not be"}),
        ({"web": f"pool: 2\n{check('solve')}"}, {"check of web": "the check of web passes"}),
    ],
)
async def test_a_plan_holds_if_the_checks_of_its_own_templates_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, templates: dict[str, str], said: dict[str, str]
) -> None:
    monkeypatch.setattr(checks, "FORWARDED_NANOSECONDS", 0)  # a stack is checked as soon as it runs
    kinds = [StackKind(name=f"{name}.json", body={"template": name}) for name in templates]
    folder = folder_with(tmp_path, beside=check("solve", "exit 1"), **templates)
    async with EmbeddedCluster(fast_cluster()) as cluster, harness(tmp_path, folder, cluster=cluster) as at:
        outcome = await rehearsed(at, plan(len(templates), kinds=kinds))
    assert (outcome.remaining, outcome.results.failed) == (0, 0)
    found = {one.goal: one.sentence for one in outcome.verdict.goals if one.goal.startswith("check")}
    assert found.keys() == said.keys()
    assert all(found[goal].startswith(sentence) for goal, sentence in said.items()), found
    assert outcome.verdict.holds is all(sentence.endswith("passes") for sentence in said.values())


async def test_a_check_runs_on_a_stack_whose_event_came_before_the_answer_to_its_create(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "FORWARDED_NANOSECONDS", 0)
    runs = asyncio.Event()

    class AnswersLate(Connection):
        async def ask(self, method: str, path: str, *rest: Any, **options: Any) -> Answer:
            answer = await super().ask(method, path, *rest, **options)
            if method == "POST" and path == "/stacks":
                assert answer.body["status"] == "creating"
                await runs.wait()
            return answer

        async def events(self, *of: str) -> AsyncIterator[Event]:
            async for event in super().events(*of):
                yield event
                if event.data.get("status") == "running":
                    runs.set()

    kinds = [StackKind(name="web", body={"template": "web"})]
    async with harness(tmp_path, folder_with(tmp_path, web=check("solve"))) as at:
        outcome = await rehearsed(at, plan(1, kinds=kinds), connection=AnswersLate)
    assert outcome.verdict.holds, outcome.verdict.goals


async def test_shared_stacks_are_part_of_the_event(tmp_path: Path) -> None:
    async with harness(tmp_path, folder_with(tmp_path, beside=PLAIN.replace("ttl: 1h", "shared: true"))) as at:
        await until(lambda: at.get("/stacks"), lambda seen: seen["stacks"])
        assert (await inspected(at, 1)).with_others == []
