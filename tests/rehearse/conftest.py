"""Rehearsals against a whole stackd and its embedded cluster, in this process or as a command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stackd.client import AsyncClient
from stackd.client.attempts import NO_RETRIES
from stackd.embedded import EmbeddedCluster
from stackd.rehearse.connection import Connection
from stackd.rehearse.outcome import Goal, Outcome
from stackd.rehearse.plan import Plan, StackKind
from stackd.rehearse.player import Rehearsal
from stackd.rehearse.run import run
from tests.harness import KEY, Harness, fast_cluster, harness, request_for

ROOT = Path(__file__).parents[2]
STACKD = [sys.executable, str(ROOT / "stackd.py")]
START_DELAY = 0.3


def kind(image: str = "nginx:stable", weight: float = 1.0, **body: Any) -> StackKind:
    """A kind of stack with one container."""
    return StackKind(name=image, body=request_for(image) | body, weight=weight)


def plan(stacks: int, **options: Any) -> Plan:
    """A plan that polls often and gives up soon."""
    quick: dict[str, Any] = {"kinds": [kind()], "poll": 0.2, "patience": 10.0}
    return Plan(stacks=stacks, **(quick | options))


@asynccontextmanager
async def connected(at: Harness, connection: type[Connection] = Connection) -> AsyncIterator[Connection]:
    """A connection to the daemon, closed at the end."""
    async with AsyncClient(at.url, KEY, retries=NO_RETRIES) as client:
        yield connection(client, 1000)


async def rehearsed(at: Harness, plan: Plan, *goals: Goal, connection: type[Connection] = Connection) -> Outcome:
    """Run a rehearsal from its first create to its last delete."""
    async with connected(at, connection) as wire:
        rehearsal = Rehearsal(plan=plan, connection=wire, ident="test")
        await run(rehearsal)
        return Outcome(rehearsal, goals)


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    """A stackd whose pods take some time to start."""
    async with (
        EmbeddedCluster(fast_cluster(start_delay=START_DELAY)) as cluster,
        harness(tmp_path, cluster=cluster) as ready,
    ):
        yield ready


@dataclass(slots=True, kw_only=True)
class Command:
    """``stackd rehearse`` as a process."""

    process: subprocess.Popen[str]

    def interrupt(self, number: int) -> None:
        """Send the command a signal."""
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """The command's exit code, standard output and standard error."""
        said, complained = self.process.communicate(timeout=60)
        return self.process.returncode, said, complained


@dataclass(slots=True, kw_only=True)
class Terminal:
    """Starts commands, and ends those that a test leaves running."""

    folder: Path
    ends: ExitStack = field(default_factory=ExitStack)

    def rehearse(self, at: Harness, *words: str, image: str = "nginx:stable") -> Command:
        """Run ``stackd rehearse … --file POD``."""
        pod = self.folder / "pod.yaml"
        pod.write_text(request_for(image)["pod_spec"])
        environment = os.environ | {"STACKD_URL": at.url, "STACKD_API_KEY": KEY, "COLUMNS": "200"}
        process = subprocess.Popen(
            [*STACKD, "rehearse", *words, "--file", str(pod)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ends.callback(process.wait)
        self.ends.callback(process.kill)
        return Command(process=process)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(folder=tmp_path)
    with made.ends:
        yield made
