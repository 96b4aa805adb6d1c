"""Rehearsals against a whole stackd and its embedded cluster, in this process or as a command."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stackd.client import AsyncClient
from stackd.client.attempts import NO_RETRIES
from stackd.embedded import EmbeddedCluster
from stackd.rehearse import run as running
from stackd.rehearse.connection import Connection
from stackd.rehearse.outcome import Goal, Outcome
from stackd.rehearse.plan import Plan, Preflight, StackKind, inspect
from stackd.rehearse.player import Rehearsal
from stackd.rehearse.run import run
from tests.harness import KEY, Harness, eventually, fast_cluster, harness, request_for

STACKD = [sys.executable, str(Path(__file__).parents[2] / "stackd.py")]
START_DELAY = 0.3


def kind(image: str = "nginx:stable", weight: float = 1.0, **body: Any) -> StackKind:
    return StackKind(name=image, body=request_for(image) | body, weight=weight)


def plan(stacks: int, **options: Any) -> Plan:
    """A plan that polls often and gives up soon."""
    quick: dict[str, Any] = {"kinds": [kind()], "poll": 0.2, "patience": 10.0}
    return Plan(stacks=stacks, **(quick | options))


@asynccontextmanager
async def connected(at: Harness, connection: type[Connection] = Connection) -> AsyncIterator[Connection]:
    async with AsyncClient(at.url, KEY, retries=NO_RETRIES) as client:
        yield connection(client, 1000)


async def rehearsed(at: Harness, plan: Plan, *goals: Goal, connection: type[Connection] = Connection) -> Outcome:
    """Run a rehearsal from its first create to its last delete."""
    async with connected(at, connection) as wire:
        rehearsal = Rehearsal(plan=plan, connection=wire, ident="test")
        await run(rehearsal)
        return Outcome(rehearsal, goals)


@asynccontextmanager
async def holding(at: Harness, plan: Plan) -> AsyncIterator[Rehearsal]:
    """A rehearsal all of whose stacks run; it is interrupted at the end of this block, and cleans up."""
    async with connected(at) as connection:
        rehearsal = Rehearsal(plan=plan, connection=connection, ident="test")
        under_way = asyncio.create_task(run(rehearsal))
        await eventually(lambda: rehearsal.hold_began is not None)
        yield rehearsal
        rehearsal.stop.set()
        await under_way


async def inspected(at: Harness, stacks: int, *kinds: StackKind) -> Preflight:
    async with connected(at) as connection:
        return await inspect(connection, plan(stacks, kinds=kinds or (kind(),)), "test")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rehearsal in this process asks again after less than a tenth of a second."""
    for name in ("AGAIN_SECONDS", "FOLLOW_AGAIN_SECONDS", "POLL_SECONDS"):
        monkeypatch.setattr(running, name, 0.05)


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    async with (
        EmbeddedCluster(fast_cluster(start_delay=START_DELAY)) as cluster,
        harness(tmp_path, cluster=cluster) as ready,
    ):
        yield ready


Rehearse = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def rehearse(tmp_path: Path) -> Iterator[Rehearse]:
    """Starts ``stackd rehearse … --file POD`` as a process, which is killed at the end of the test."""

    def started(at: Harness, *words: str) -> subprocess.Popen[str]:
        pod = tmp_path / "pod.yaml"
        pod.write_text(request_for("nginx:stable")["pod_spec"])
        environment = os.environ | {"STACKD_URL": at.url, "STACKD_API_KEY": KEY, "COLUMNS": "200"}
        pipe = subprocess.PIPE
        words = (*STACKD, "rehearse", *words, "--file", str(pod))
        process = subprocess.Popen(words, env=environment, stdout=pipe, stderr=pipe, text=True)
        ends.callback(process.wait)
        ends.callback(process.kill)
        return process

    with ExitStack() as ends:
        yield started


async def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """The command's exit code, standard output and standard error."""
    out, err = await asyncio.to_thread(process.communicate, timeout=60)
    return process.returncode, out, err
