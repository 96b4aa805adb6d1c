"""``stackd reconcile`` prints the plan and the result of a confirmation."""

from __future__ import annotations

import asyncio

import pytest
from click.testing import CliRunner, Result

from stackd.cli import stackd
from tests.api.test_reconcile import MANY, doubt, running, until_held, vanish
from tests.harness import KEY, Harness
from tests.unit.cli.conftest import ENVIRONMENT, Shell


@pytest.fixture
def at(shell: Shell) -> Harness:
    return shell.at


async def reconcile(at: Harness, *words: str) -> Result:
    runner = CliRunner(env=ENVIRONMENT | {"STACKD_URL": at.url, "STACKD_API_KEY": KEY})
    return await asyncio.to_thread(runner.invoke, stackd, ["reconcile", *words])


async def test_where_nothing_is_to_be_done_it_says_so(at: Harness) -> None:
    result = await reconcile(at)
    assert (result.exit_code, result.output) == (0, "nothing to do: rows and cluster agree\n")
    result = await reconcile(at, "--confirm")
    assert (result.exit_code, result.output) == (0, "released: 0 stacks\n")


async def test_it_shows_what_is_held_and_releases_it(at: Harness) -> None:
    await vanish(at, await running(at, MANY))
    await until_held(at, MANY)
    assert (await reconcile(at, "--plan")).output.count("(held)") == MANY
    result = await reconcile(at, "--confirm")
    assert (result.exit_code, result.output) == (0, f"released: {MANY} stacks\n")


async def test_a_confirmation_that_cannot_be_used_now_is_a_failure_with_the_reason(at: Harness) -> None:
    await vanish(at, await running(at, MANY))
    await until_held(at, MANY)
    await doubt(at)
    shown = await reconcile(at, "--plan")
    assert shown.output.startswith("reconciliation is stopped: stackd is still checking that this is its own cluster")
    assert f"{MANY} held back" in shown.output
    result = await reconcile(at, "--confirm")
    assert result.exit_code == 1
    assert f"the {MANY} stacks held back cannot be released now: stackd is still checking that this is" in result.stderr
