"""However a rehearsal ends, none of its stacks is left."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster, Fault
from stackd.rehearse.plan import LABEL
from stackd.rehearse.player import Rehearsal
from tests.harness import Harness, eventually, fast_cluster, harness
from tests.ports import free_port
from tests.rehearse.conftest import START_DELAY, Command, Terminal, plan, rehearsed

HOLD = ("--burst", "--hold", "1m", "--poll", "300ms")


async def until_running(at: Harness, stacks: int) -> None:
    """Return once this many stacks of a rehearsal run."""

    async def run() -> bool:
        found = (await at.call("GET", "/stacks?status=running&fields=labels")).json["stacks"]
        return sum(LABEL in one["labels"] for one in found) == stacks

    await eventually(run, deadline=30)


async def ended(command: Command) -> tuple[int, str, str]:
    """Exit code and output of the command, once it has ended."""
    return await asyncio.to_thread(command.end)


async def test_ctrl_c_removes_everything_and_tells_what_was_measured(at: Harness, terminal: Terminal) -> None:
    command = terminal.rehearse(at, "--stacks", "6", *HOLD)
    await until_running(at, 6)
    command.interrupt(signal.SIGINT)
    code, said, complained = await ended(command)
    assert code == 130
    assert "stopping, and deleting what was made" in complained
    assert "No verdict: stopped early, with 6 of 6 stacks started and 6 running." in said
    assert "none of its stacks is left" in complained
    assert "6 of 6" in said
    assert await at.objects("pods") == {}


async def test_ctrl_c_while_creates_are_under_way_removes_what_comes_of_them(at: Harness, terminal: Terminal) -> None:
    at.cluster.faults.add(Fault(verb="create", resource="services", action="latency", seconds=1.0))
    command = terminal.rehearse(at, "--stacks", "6", *HOLD)
    await eventually(lambda: at.rows("SELECT COUNT(*) FROM stacks WHERE accepted = 0") == [(6,)], deadline=30)
    command.interrupt(signal.SIGINT)
    code, _, _ = await ended(command)
    assert code == 130
    assert at.cluster.counts.requests["create", "pods", 201] == 1 + 6, "the dry run, and all that were under way"
    assert await at.listed() == []
    assert await at.objects("pods") == {}


async def test_players_who_have_not_arrived_do_not_come_any_more(at: Harness, terminal: Terminal) -> None:
    command = terminal.rehearse(at, "--stacks", "100", "--rate", "2/s", "--hold", "0s")
    await until_running(at, 1)
    command.interrupt(signal.SIGTERM)
    code, said, _ = await ended(command)
    assert code == 130
    assert "No verdict: stopped early" in said
    assert at.cluster.counts.requests["create", "pods", 201] < 20
    assert await at.objects("pods") == {}


async def test_a_terminal_that_is_closed_ends_it_as_well(at: Harness, terminal: Terminal) -> None:
    command = terminal.rehearse(at, "--stacks", "3", *HOLD)
    await until_running(at, 3)
    for end in (command.process.stdout, command.process.stderr):
        assert end is not None
        end.close()
    command.interrupt(signal.SIGHUP)
    assert await asyncio.to_thread(command.process.wait, 30) != 0
    assert await at.objects("pods") == {}


async def test_a_second_ctrl_c_ends_it_at_once_and_says_what_is_left(at: Harness, terminal: Terminal) -> None:
    command = terminal.rehearse(at, "--stacks", "4", *HOLD, "--ttl", "6s")
    await until_running(at, 4)
    at.cluster.faults.add(Fault(verb="delete", action="latency", seconds=2.0))
    command.interrupt(signal.SIGINT)
    await eventually(lambda: at.rows("SELECT 1 FROM stacks WHERE deleting_since IS NOT NULL"))
    command.interrupt(signal.SIGINT)
    code, _, complained = await ended(command)
    assert code == 130
    assert "may remain; they expire within " in complained
    assert f"stackd stacks batch-delete --label {LABEL}=" in complained
    at.cluster.faults.clear()
    await eventually(lambda: not at.rows("SELECT 1 FROM stacks"), deadline=30)


async def test_what_a_killed_rehearsal_leaves_ends_with_its_time_to_live(at: Harness, terminal: Terminal) -> None:
    command = terminal.rehearse(at, "--stacks", "4", *HOLD, "--ttl", "4s")
    await until_running(at, 4)
    command.interrupt(signal.SIGKILL)
    await ended(command)
    assert len(await at.listed()) == 4

    async def gone() -> bool:
        return not at.rows("SELECT 1 FROM stacks") and not await at.objects("pods")

    await eventually(gone, deadline=30)


@pytest.fixture
async def cluster() -> AsyncIterator[EmbeddedCluster]:
    """A cluster that outlives its daemon."""
    async with EmbeddedCluster(fast_cluster(start_delay=START_DELAY)) as alone:
        yield alone


async def test_a_daemon_that_is_away_for_a_moment_is_waited_for(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """While stacks are held, the daemon stops and starts again: the rehearsal reconnects and cleans up."""
    settings = {"STACKD_SERVER__PORT": str(free_port())}
    async with harness(tmp_path, settings, cluster=cluster) as first:
        rehearsing = asyncio.create_task(rehearsed(first, plan(4, hold=3.0)))
        await until_running(first, 4)
    assert not rehearsing.done()
    async with harness(tmp_path, settings, cluster=cluster) as second:
        found = await rehearsing
        assert found.left == 0
        assert await second.listed() == []
    assert found.results.failed == 0
    assert found.results.stages["running"].count == 4


async def test_a_daemon_that_stays_away_leaves_no_doubt_about_what_is_left(
    cluster: EmbeddedCluster, tmp_path: Path
) -> None:
    async with harness(tmp_path, {"STACKD_SERVER__PORT": str(free_port())}, cluster=cluster) as first:
        rehearsing = asyncio.create_task(rehearsed(first, plan(3, hold=0.5, patience=1.0, ttl=60.0)))
        await until_running(first, 3)
    found = await rehearsing
    assert found.left == 3
    assert found.left_sentence == "3 of its stacks may remain"
    assert 30 < found.left_seconds <= 60
    assert any(trouble.startswith("clean-up: no connection") for trouble in found.results.troubles)


async def test_an_error_of_the_rehearsal_itself_leaves_nothing_behind(at: Harness) -> None:
    def broken(self: Rehearsal) -> None:
        raise ZeroDivisionError

    wake = Rehearsal.wake
    Rehearsal.wake = broken  # type: ignore[method-assign]
    try:
        raised = await asyncio.gather(rehearsed(at, plan(3)), return_exceptions=True)
    finally:
        Rehearsal.wake = wake  # type: ignore[method-assign]
    assert isinstance(raised[0], ExceptionGroup)
    assert at.cluster.counts.requests["create", "pods", 201] == 3
    assert await at.objects("pods") == {}
