"""However a rehearsal ends, none of its stacks is left."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster, Fault
from stackd.rehearse.outcome import Outcome
from stackd.rehearse.plan import LABEL
from stackd.rehearse.player import Rehearsal
from tests.harness import Harness, eventually, fast_cluster, harness
from tests.ports import free_port
from tests.rehearse.conftest import Rehearse, ended, holding, plan, rehearsed

HOLD = ("--burst", "--hold", "1m", "--poll", "300ms")


async def until_running(at: Harness, stacks: int) -> None:
    async def run() -> bool:
        outcome = (await at.call("GET", "/stacks?status=running&fields=labels")).json["stacks"]
        return sum(LABEL in one["labels"] for one in outcome) == stacks

    await eventually(run, deadline=30)


async def test_ctrl_c_and_a_closed_terminal_remove_everything(at: Harness, rehearse: Rehearse) -> None:
    command, closed = (rehearse(at, "--stacks", stacks, *HOLD, "--with-others") for stacks in ("6", "3"))
    await until_running(at, 9)
    for end in (closed.stdout, closed.stderr):
        assert end is not None
        end.close()
    closed.send_signal(signal.SIGHUP)
    command.send_signal(signal.SIGINT)
    code, out, err = await ended(command)
    assert code == 130
    assert ("No verdict: stopped early" in out, "none of its stacks is left" in err) == (True, True)
    assert await asyncio.to_thread(closed.wait, 30) != 0
    assert await at.objects("pods") == {}


async def test_creates_under_way_are_waited_for(at: Harness, rehearse: Rehearse) -> None:
    at.cluster.faults.add(Fault(verb="create", resource="services", action="latency", seconds=0.5))
    command = rehearse(at, "--stacks", "100", "--rate", "4/s", "--hold", "0s")
    await eventually(lambda: at.rows("SELECT COUNT(*) FROM stacks WHERE accepted = 0") >= [(2,)], deadline=30)
    command.send_signal(signal.SIGTERM)
    code, out, _ = await ended(command)
    assert (code, "No verdict: stopped early" in out) == (130, True)
    assert 2 <= at.cluster.counts.requests["create", "pods", 201] < 100
    assert await at.listed() == []
    assert await at.objects("pods") == {}


async def test_what_it_cannot_delete_expires(at: Harness, rehearse: Rehearse) -> None:
    command = rehearse(at, "--stacks", "4", *HOLD, "--ttl", "4s")
    await until_running(at, 4)
    at.cluster.faults.add(Fault(verb="delete", action="latency", seconds=2.0))
    command.send_signal(signal.SIGINT)
    await eventually(lambda: at.rows("SELECT 1 FROM stacks WHERE deleting_since IS NOT NULL"))
    command.send_signal(signal.SIGINT)
    code, _, err = await ended(command)
    assert code == 130
    assert "may remain; they expire within " in err
    at.cluster.faults.clear()
    await eventually(lambda: not at.rows("SELECT 1 FROM stacks"))
    assert await at.objects("pods") == {}


@pytest.mark.parametrize("returns", [True, False])
async def test_a_daemon_that_is_away_at_the_end_is_waited_for(tmp_path: Path, returns: bool) -> None:
    settings = {"STACKD_SERVER__PORT": str(free_port())}
    async with EmbeddedCluster(fast_cluster()) as cluster, AsyncExitStack() as machine:
        first = await machine.enter_async_context(harness(tmp_path, settings, cluster=cluster))
        async with holding(first, plan(3, hold=60.0, ttl=60.0, patience=30.0)) as rehearsal:
            await machine.aclose()
            rehearsal.plan = replace(rehearsal.plan, patience=30.0 if returns else 1.0)
            rehearsal.stop.set()
            await eventually(lambda: any(one.startswith("clean-up: no connection") for one in rehearsal.problems))
            if returns:
                second = await machine.enter_async_context(harness(tmp_path, settings, cluster=cluster))
                await second.until_listed(0)
        outcome = Outcome(rehearsal, ())
        assert (outcome.remaining, outcome.results.failed) == (0 if returns else 3, 0)
        assert returns or 30 < outcome.remaining_seconds <= 60


async def test_an_error_of_its_own_leaves_nothing_behind(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Rehearsal) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Rehearsal, "wake", broken)
    raised = await asyncio.gather(rehearsed(at, plan(3)), return_exceptions=True)
    assert isinstance(raised[0], ExceptionGroup)
    assert at.cluster.counts.requests["create", "pods", 201] == 3
    assert await at.objects("pods") == {}
